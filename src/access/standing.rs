//! What was let in, and is asked about again when the policy changes.
//!
//! A request under a policy keeps what it asked, as it came and not as it is forwarded, until it is
//! over. The task of its connection is woken by every new snapshot; whoever waits for more of an
//! exchange then asks [`Standing::refused`], which is one comparison while there is no other
//! snapshot, and answers with a new verdict only if the listener's policy is another one.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::{SystemTime, UNIX_EPOCH},
};

use http::{Method, Uri};

use super::{
    decision::{Decision, Policy, Verdict},
    jwt::TokenError,
    rule::{Call, Target},
};
use crate::{
    error::{Error, Reason, Result},
    http::{
        fields::Fields,
        message::{Request, Upgrade},
        target,
    },
    worker::{Conn, Worker},
};

/// The verdict on one connection or request, and what it takes to ask again.
pub struct Standing {
    /// Of the snapshot that it was last compared with.
    generation: u64,
    policy: Option<Arc<Policy>>,
    /// `None` for opaque bytes, of which there is nothing to keep, and for a request that came while
    /// there was no policy.
    asked: Option<Box<Kept>>,
}

/// A request as it was judged.
struct Kept {
    /// In seconds since 1970: a token that has expired since was valid.
    at: u64,
    method: Method,
    uri: Uri,
    is_connect: bool,
    target: target::Target,
    fields: Fields,
}

/// What the access log is to say of what was let in.
pub type Note = Option<Box<str>>;

impl Standing {
    /// Of what began under the snapshot of this generation, before anybody has asked about it.
    pub const fn new(generation: u64) -> Self {
        Self {
            generation,
            policy: None,
            asked: None,
        }
    }

    /// Asks about a connection.
    ///
    /// # Errors
    /// It is not let in.
    pub fn admit_connection(
        &mut self,
        policy: &Arc<Policy>,
        conn: &Conn,
        worker: &Worker,
    ) -> Result<Note> {
        let verdict = policy.decide(&conn.caller(), &Target::Unknown, 0);
        let note = settle(policy, &verdict, worker)?;
        self.policy = Some(Arc::clone(policy));
        Ok(note)
    }

    /// Asks about a request whose head is settled and whose fields are sanitized. `host` is the one
    /// of `target`.
    ///
    /// # Errors
    /// It is not let in.
    pub fn admit_request(
        &mut self,
        policy: &Arc<Policy>,
        conn: &Conn,
        worker: &Worker,
        request: &Request,
        target: target::Target,
        host: &str,
    ) -> Result<Note> {
        let head = &request.head;
        // A WebSocket over HTTP/2 is a CONNECT on the wire; the rules that are about it are those
        // about the GET that it is over HTTP/1.1.
        let method = match &request.upgrade {
            Some(Upgrade::Protocol(_)) => &Method::GET,
            _ => &head.method,
        };
        let is_connect = request.upgrade == Some(Upgrade::Connect);
        let call = Call {
            host,
            path: path(&head.uri, is_connect),
            method,
            fields: &head.fields,
        };
        let now = now();
        let verdict = policy.decide(&conn.caller(), &Target::Request(call), now);
        let note = settle(policy, &verdict, worker)?;
        self.policy = Some(Arc::clone(policy));
        self.asked = Some(Box::new(Kept {
            at: now,
            method: method.clone(),
            uri: head.uri.clone(),
            is_connect,
            target,
            fields: head.fields.clone(),
        }));
        Ok(note)
    }

    /// Why it may no longer go on, if the policy has changed so.
    pub fn refused(&mut self, conn: &Conn, worker: &Worker) -> Option<Error> {
        if worker.seen() == self.generation {
            return None;
        }
        self.ask_again(conn, worker)
    }

    #[cold]
    fn ask_again(&mut self, conn: &Conn, worker: &Worker) -> Option<Error> {
        self.generation = worker.seen();
        // Connections of a listener that is gone come to their end in other ways.
        let policy = worker.plan(conn.listener)?.access.clone()?;
        if self
            .policy
            .as_ref()
            .is_some_and(|own| Arc::ptr_eq(own, &policy))
        {
            return None;
        }
        let caller = conn.caller();
        let verdict = match &self.asked {
            None => policy.decide(&caller, &Target::Unknown, 0),
            Some(kept) => {
                let host = kept.target.name(&kept.fields).unwrap_or_default();
                let call = Call {
                    host: &host,
                    path: path(&kept.uri, kept.is_connect),
                    method: &kept.method,
                    fields: &kept.fields,
                };
                policy.decide(&caller, &Target::Request(call), kept.at)
            }
        };
        let verdict = Verdict {
            // What only looks on has had its say.
            audit: None,
            ..verdict
        };
        if verdict.decision.is_allowed() {
            self.policy = Some(policy);
            return None;
        }
        let error = settle(&policy, &verdict, worker).err()?;
        let detail = format!("the policy has changed: {}", error.detail);
        Some(error.detail(detail))
    }
}

/// Polls a future for as long as what it does is let in.
///
/// # Errors
/// Its own, and that it is no longer let in.
pub async fn while_admitted<T>(
    mut future: Pin<&mut impl Future<Output = Result<T>>>,
    mut refused: impl FnMut() -> Option<Error>,
) -> Result<T> {
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(done),
        Poll::Pending => refused().map_or(Poll::Pending, |error| Poll::Ready(Err(error))),
    })
    .await
}

/// As routes see it: a tunnel has no path.
fn path(uri: &Uri, is_connect: bool) -> &str {
    if is_connect { "/" } else { uri.path() }
}

/// Counts a verdict, and turns it into what becomes of the call.
fn settle(policy: &Policy, verdict: &Verdict, worker: &Worker) -> Result<Note> {
    policy.count(worker.id, verdict);
    let note = policy.audit_note(verdict).map(String::into_boxed_str);
    let Decision::Denied { token, .. } = verdict.decision else {
        return Ok(note);
    };
    let (reason, mut detail) = match (policy.name(verdict.decision), token) {
        (Some(rule), _) => (Reason::AccessDenied, format!("rule `{rule}` denies it")),
        (None, Some(TokenError::Missing)) => (Reason::TokenMissing, String::new()),
        (None, Some(TokenError::Invalid(why))) => (Reason::TokenInvalid, why.to_owned()),
        (None, Some(TokenError::NoKey)) => {
            let why = "none of the provider's keys that are here fits it";
            (Reason::TokenInvalid, why.to_owned())
        }
        (None, None) => (Reason::AccessDenied, "no rule allows it".to_owned()),
    };
    if let Some(note) = note {
        let separator = if detail.is_empty() { "" } else { "; " };
        detail = format!("{detail}{separator}{note}");
    }
    Err(Error::new(reason, "").detail(detail))
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
