//! A request that another upstream may get when the one it was for has failed.
//!
//! Guards an application against seeing a request twice that it must see once, also where the second
//! time it would be another application.

use std::sync::Arc;

use tokio::time::Instant;
use tower::Service;

use super::{Answer, Call, Terms, attempts::Kept, stack};
use crate::{
    error::{Replay, Result},
    http::message::{Request, RequestHead},
    upstream::Upstream,
};

/// What is kept of a request while its own upstream has it.
pub struct Spare {
    /// As it was before the edits that were for that upstream alone, where there were any.
    head: Option<RequestHead>,
    body: Kept,
}

impl Spare {
    /// `head`: as it was before edits for one backend, where there are any.
    pub fn keep(terms: &Terms<'_>, request: &mut Request, head: Option<RequestHead>) -> Self {
        Self {
            head,
            body: Kept::start(terms, request),
        }
    }

    /// Whether the request may go elsewhere after this outcome: none but the upstream's own
    /// application can have seen it, or it bears that.
    fn allows(outcome: &Result<Answer>, idempotent: bool) -> bool {
        let replay = match outcome {
            Ok(_) => Replay::Unsafe,
            Err(error) => error.replay,
        };
        match replay {
            Replay::NeverSent | Replay::Refused => true,
            Replay::Reused | Replay::Unsafe => idempotent,
        }
    }

    /// Gives the request to another upstream, within what is left of the deadline; `None` where that
    /// must not be.
    pub async fn send(
        self,
        upstream: &Arc<Upstream>,
        call: Call<'_>,
        outcome: &Result<Answer>,
    ) -> Option<Result<Answer>> {
        let Call { request, terms } = call;
        let now = Instant::now();
        let in_time = terms.deadline.is_none_or(|deadline| deadline.at > now);
        let allowed = Self::allows(outcome, terms.is_idempotent(request));
        if !in_time || !allowed || !self.body.restore(request) {
            return None;
        }
        if let Some(head) = self.head {
            request.head = head;
        }
        let sticky = terms.client.sticky(upstream, &request.head.fields);
        let terms = Terms {
            upstream,
            start: now,
            // All that was tried counts: a fallback adds one attempt, not as many again.
            spent: terms.spent.saturating_add(terms.trail.attempts()),
            key: sticky.key,
            ..*terms
        };
        let terms = &terms;
        Some(stack().call(Call { request, terms }).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Reason};

    #[test]
    fn only_what_nobody_has_seen_goes_elsewhere_unless_it_is_idempotent() {
        for (replay, unsafe_too) in [
            (Replay::NeverSent, true),
            (Replay::Refused, true),
            (Replay::Reused, false),
            (Replay::Unsafe, false),
        ] {
            let outcome = Err(Error::new(Reason::UpstreamClosed, "").replay(replay));
            assert_eq!(Spare::allows(&outcome, false), unsafe_too, "{replay:?}");
            assert!(Spare::allows(&outcome, true));
        }
    }
}
