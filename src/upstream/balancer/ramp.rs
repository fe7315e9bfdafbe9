//! Slow start: a new endpoint, or one that is back, gets its load little by little.
//!
//! Caches, compilers and connection pools of a server that has just begun are cold; its whole share
//! at once would make it slow or take it down again.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

/// What an endpoint begins with. Not less: it has to see requests in order to warm up.
const FIRST: f64 = 0.1;

/// When one endpoint began.
#[derive(Debug)]
pub(in crate::upstream) struct Ramp {
    /// What the stamp counts from.
    born: Instant,
    /// In nanoseconds; 0: it is as warm as it gets.
    began: AtomicU64,
}

impl Ramp {
    pub(in crate::upstream) const fn new(now: Instant) -> Self {
        Self {
            born: now,
            began: AtomicU64::new(0),
        }
    }

    pub(in crate::upstream) fn begin(&self, now: Instant) {
        self.began.store(self.stamp(now).max(1), Relaxed);
    }

    /// The part of its weight that it has at a moment: a tenth at first, all of it after `window`,
    /// and a straight line between.
    pub(in crate::upstream) fn share(&self, window: Duration, now: Instant) -> f64 {
        let began = self.began.load(Relaxed);
        let window = window.as_nanos() as u64;
        let passed = self.stamp(now).saturating_sub(began);
        if began == 0 || passed >= window {
            return 1.0;
        }
        FIRST + (1.0 - FIRST) * (passed as f64 / window as f64)
    }

    fn stamp(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.born).as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        config::model::{self, EndpointAddress},
        telemetry::Registry,
        tls::Materials,
        upstream::{Target, Upstream, set::Wanted},
    };

    #[test]
    fn a_tenth_then_a_straight_line() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let window = Duration::from_secs(30);
        let ramp = Ramp::new(now);
        assert_eq!(ramp.share(window, at(0)), 1.0);
        ramp.begin(at(100));
        for (second, share) in [(100, 0.1), (110, 0.4), (120, 0.7), (130, 1.0), (999, 1.0)] {
            assert!((ramp.share(window, at(second)) - share).abs() < 1e-6);
        }
        assert_eq!(ramp.share(Duration::ZERO, at(100)), 1.0);
        // A clock of another worker that is a little behind.
        assert!((ramp.share(window, at(99)) - 0.1).abs() < 1e-6);
    }

    #[tokio::test]
    async fn only_who_joins_others_starts_slowly() {
        let ip = |last| EndpointAddress::Ip(([127, 0, 0, last], 80).into());
        let name = |host: &str| EndpointAddress::Dns {
            host: host.into(),
            port: 80,
        };
        let config = |endpoints: Vec<EndpointAddress>| {
            let mut config = model::Upstream::plain("app", endpoints);
            config.slow_start = Duration::from_secs(3600);
            Arc::new(config)
        };
        let found = |upstream: &Upstream, index, lasts: &[u8]| {
            let wanted = lasts.iter().map(|&last| {
                let address = ([127, 0, 0, last], 80).into();
                Wanted::plain(Target::tcp(address), 1)
            });
            upstream.publish(index, Ok(wanted.collect()), Instant::now());
        };
        let slow = |upstream: &Upstream| -> Vec<String> {
            let set = upstream.endpoints();
            let slow = set
                .endpoints()
                .iter()
                .filter(|endpoint| set.share(endpoint, Instant::now()) < 1.0)
                .map(|endpoint| endpoint.label.to_string());
            slow.collect()
        };
        let metrics = Registry::new(1).upstream("app");
        let first = config(vec![ip(1), name("a")]);
        let upstream = Upstream::new(first, metrics, &Materials::default());
        // The first answer is part of the start.
        found(&upstream, 1, &[2]);
        assert!(slow(&upstream).is_empty());
        found(&upstream, 1, &[2, 3]);
        assert_eq!(slow(&upstream), ["127.0.0.3:80"]);
        let second = config(vec![ip(1), name("a"), ip(4), name("b")]);
        let upstream = upstream.successor(second, &Materials::default());
        found(&upstream, 3, &[5]);
        let late = ["127.0.0.3:80", "127.0.0.4:80", "127.0.0.5:80"];
        assert_eq!(slow(&upstream), late);
    }
}
