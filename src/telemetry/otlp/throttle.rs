//! The rest that a collector asked for (OTLP 1.x, "Throttling"). Time is an argument.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::client::same_place;
use crate::config::model::Export;

/// The longest rest that a collector may ask for: beyond, a clock could not be added to.
const MOST_ASKED: Duration = Duration::from_secs(60 * 60);

/// Until when nothing is sent, whichever batch it was that was refused. What comes meanwhile waits
/// in the queue. Another collector has asked for nothing.
///
/// One is remembered, the last: a signal goes to one collector at a time, and only a reload leads to
/// another. If that one asks for a rest too and a reload leads back, the first is asked again early,
/// once: if it wants its rest still, it says so.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    asked: Option<(Arc<Export>, Instant)>,
}

impl Throttle {
    /// A collector wants to be left alone for so long.
    pub(super) fn ask(&mut self, collector: &Arc<Export>, rest: Duration, now: Instant) {
        let until = now + rest.min(MOST_ASKED);
        self.asked = Some((Arc::clone(collector), until));
    }

    /// When something may be sent to this collector, if not now.
    pub(super) fn until(&self, collector: &Export, now: Instant) -> Option<Instant> {
        let (by, until) = self.asked.as_ref()?;
        (*until > now && same_place(by, collector)).then_some(*until)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::client::tests::export, *};

    #[tokio::test(start_paused = true)]
    async fn a_rest_is_that_of_one_collector_and_ends() {
        let second = Duration::from_secs(1);
        let collector = Arc::new(export("endpoint: \"http://a:1\""));
        let other = export("endpoint: \"http://a:2\"");
        let same = export("endpoint: \"http://a:1\", timeout: 1s");
        let mut throttle = Throttle::default();
        let now = Instant::now();
        assert_eq!(throttle.until(&collector, now), None);
        throttle.ask(&collector, 30 * second, now);
        assert_eq!(throttle.until(&same, now), Some(now + 30 * second));
        assert_eq!(throttle.until(&other, now), None);
        tokio::time::advance(29 * second).await;
        assert!(throttle.until(&collector, Instant::now()).is_some());
        tokio::time::advance(second).await;
        assert_eq!(throttle.until(&collector, Instant::now()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_rests_for_ever() {
        let collector = Arc::new(export(""));
        let now = Instant::now();
        let mut throttle = Throttle::default();
        throttle.ask(&collector, Duration::MAX, now);
        assert_eq!(throttle.until(&collector, now), Some(now + MOST_ASKED));
    }
}
