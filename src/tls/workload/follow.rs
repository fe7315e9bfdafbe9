//! The watch itself: call, take messages, call again.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::pki_types::UnixTime;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};

use super::{
    backoff::{Backoff, Pace},
    call::{Call, CallError},
    state::State,
    update::{self, Update},
};
use crate::{
    http::grpc::call::Message,
    tls::{Date, SpiffeId, sha256},
};

/// An agent answers at once, if only to say that it knows nothing of us.
const ANSWER: Duration = Duration::from_secs(30);

/// Asks one agent for ever.
pub(super) struct Follower {
    socket: PathBuf,
    wanted: Option<SpiffeId>,
    inbox: Inbox,
    state: watch::Sender<State>,
    backoff: Backoff,
    rng: fastrand::Rng,
    /// SHA-256 of the message that was handed out last.
    last: Option<[u8; 32]>,
}

/// Holds one update, the newest, for one reader.
#[derive(Clone, Debug, Default)]
pub(super) struct Inbox(Arc<(Mutex<Option<Update>>, Notify)>);

impl Inbox {
    pub(super) async fn next(&self) -> Update {
        let (slot, news) = &*self.0;
        loop {
            let update = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            match update {
                Some(update) => return update,
                // A word that comes in between is kept for us.
                None => news.notified().await,
            }
        }
    }

    fn put(&self, update: Update) {
        let (slot, news) = &*self.0;
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(update);
        news.notify_one();
    }
}

impl Follower {
    pub(super) fn new(
        socket: PathBuf,
        wanted: Option<SpiffeId>,
    ) -> (Self, Inbox, watch::Receiver<State>) {
        let inbox = Inbox::default();
        let (state, states) = watch::channel(State::new(Instant::now()));
        let follower = Self {
            socket,
            wanted,
            inbox: inbox.clone(),
            state,
            backoff: Backoff::default(),
            rng: fastrand::Rng::new(),
            last: None,
        };
        (follower, inbox, states)
    }

    pub(super) async fn run(mut self) {
        loop {
            let wait = match self.call().await {
                Ok(()) => continue,
                Err(error) => {
                    let wait = self.backoff.next(error.pace(), &mut self.rng);
                    self.failed(&error, wait);
                    wait
                }
            };
            sleep(wait).await;
        }
    }

    /// One call, until its end, or until it is time for another: a message that was refused is
    /// asked for again, since the agent sends only what has changed.
    async fn call(&mut self) -> Result<(), CallError> {
        let mut call = timeout(ANSWER, Call::open(&self.socket))
            .await
            .unwrap_or(Err(CallError::Timeout(ANSWER)))?;
        let mut message = timeout(ANSWER, call.message())
            .await
            .unwrap_or(Err(CallError::Timeout(ANSWER)))?;
        loop {
            let next = call.message();
            message = match self.take(message) {
                None => next.await?,
                Some(wait) => match timeout(wait, next).await {
                    Ok(next) => next?,
                    Err(_) => return Ok(()),
                },
            };
        }
    }

    /// Hands out what the message says; or tells how long to wait for a better one.
    fn take(&mut self, message: Message) -> Option<Duration> {
        let now = UnixTime::now();
        match update::read(&message, self.wanted.as_ref(), now) {
            Ok((update, warnings)) => {
                // An agent that was restarted says what it said before.
                let print = Some(sha256([&*message]));
                if std::mem::replace(&mut self.last, print) != print {
                    self.log(&update);
                    for warning in warnings {
                        tracing::warn!("Workload API: {warning}");
                    }
                    self.inbox.put(update);
                }
                self.backoff.reset();
                self.state
                    .send_modify(|state| state.updated(Instant::now()));
                None
            }
            Err(refused) => {
                let wait = self.backoff.next(Pace::Slow, &mut self.rng);
                self.failed(&refused, wait);
                Some(wait)
            }
        }
    }

    fn log(&self, update: &Update) {
        let leaf = update.credential.leaf();
        let lists: usize = update
            .bundles
            .iter()
            .map(|bundle| bundle.revocation_lists().count())
            .sum();
        tracing::info!(
            socket = %self.socket.display(),
            certificate = %leaf,
            expires = %Date(update.credential.not_after()),
            bundles = update.bundles.len(),
            revocation_lists = lists,
            "identity received from the Workload API"
        );
    }

    /// What we have stays as it is. Said once, not every time that it happens again.
    fn failed(&self, error: &dyn std::error::Error, wait: Duration) {
        let text = error.to_string();
        let mut news = false;
        self.state.send_modify(|state| {
            news = state.failed(text.as_str().into(), Instant::now());
        });
        let (socket, again_in) = (self.socket.display(), wait);
        if news {
            tracing::warn!(%socket, error = text, ?again_in, "no update from the Workload API");
        } else {
            tracing::debug!(%socket, error = text, ?again_in, "no update from the Workload API");
        }
    }
}
