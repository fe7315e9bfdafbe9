//! Faults that are injected on purpose: which request meets which, and the switch.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use serde_json::{Value, json};

use crate::config::model::{AbortWith, Fault};

/// The faults of one rule, and whether they are on.
#[derive(Debug)]
pub struct Faults {
    config: Fault,
    enabled: AtomicBool,
}

/// What one request meets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    pub delay: Option<Duration>,
    pub end: Option<End>,
    /// Bytes of the response's body a second.
    pub slow: Option<NonZeroU32>,
}

/// How a request ends without having gone anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Abort(AbortWith),
    Reset,
}

/// Kinds of faults, as metrics tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Delay,
    Abort,
    Reset,
    SlowBody,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Delay, Self::Abort, Self::Reset, Self::SlowBody];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Delay => "delay",
            Self::Abort => "abort",
            Self::Reset => "reset",
            Self::SlowBody => "slow_body",
        }
    }
}

impl Faults {
    pub fn new(config: Fault) -> Self {
        Self {
            enabled: AtomicBool::new(config.enabled),
            config,
        }
    }

    pub fn is_for(&self, config: &Fault) -> bool {
        self.config == *config
    }

    pub fn switch(&self, enabled: bool) {
        self.enabled.store(enabled, Relaxed);
    }

    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Relaxed)
    }

    /// What the next request meets, by `rng` alone.
    pub fn fate(&self, rng: &mut fastrand::Rng, grpc: bool) -> Fate {
        if self.is_enabled() {
            draw(&self.config, rng, grpc)
        } else {
            Fate::default()
        }
    }

    /// For `GET /faults`.
    pub fn describe(&self, route: &str, rule: &str) -> Value {
        json!({
            "route": route,
            "rule": rule,
            "enabled": self.is_enabled(),
            "fault": self.config,
        })
    }
}

/// Always draws as often, so that one fault's share says nothing about another's.
fn draw(config: &Fault, rng: &mut fastrand::Rng, grpc: bool) -> Fate {
    let mut hit = |percent: u8| rng.u8(..100) < percent;
    let delay = config.delay.filter(|delay| hit(delay.percent));
    let abort = config.abort.filter(|abort| hit(abort.percent));
    let reset = config.reset.is_some_and(&mut hit);
    let slow = config.slow_body.filter(|slow| hit(slow.percent));
    let abort = abort
        .map(|abort| abort.with)
        .filter(|with| grpc || matches!(with, AbortWith::StatusCode(_)));
    Fate {
        delay: delay.map(|delay| delay.duration),
        end: match abort {
            Some(with) => Some(End::Abort(with)),
            None => reset.then_some(End::Reset),
        },
        slow: slow.map(|slow| slow.bytes_per_second),
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::config::model::{FaultAbort, FaultDelay, FaultSlowBody};

    fn fault(delay: u8, abort: u8, reset: u8, slow: u8) -> Fault {
        let with = AbortWith::StatusCode(StatusCode::IM_A_TEAPOT);
        Fault {
            enabled: true,
            delay: Some(FaultDelay {
                percent: delay,
                duration: Duration::from_millis(7),
            }),
            abort: Some(FaultAbort {
                percent: abort,
                with,
            }),
            reset: Some(reset),
            slow_body: Some(FaultSlowBody {
                percent: slow,
                bytes_per_second: NonZeroU32::MIN,
            }),
        }
    }

    #[test]
    fn shares_are_kept() {
        let faults = Faults::new(fault(30, 20, 50, 100));
        let fates: Vec<_> = {
            let mut rng = fastrand::Rng::with_seed(1);
            let fates = (0..10_000).map(|_| faults.fate(&mut rng, false));
            fates.collect()
        };
        let share = |hit: &dyn Fn(&Fate) -> bool| fates.iter().filter(|&fate| hit(fate)).count();
        let near = |count: usize, expected: usize| count.abs_diff(expected) < 300;
        assert!(near(share(&|fate| fate.delay.is_some()), 3000));
        assert!(near(
            share(&|fate| matches!(fate.end, Some(End::Abort(_)))),
            2000
        ));
        // Of those that are not aborted.
        assert!(near(share(&|fate| fate.end == Some(End::Reset)), 4000));
        assert_eq!(share(&|fate| fate.slow.is_some()), 10_000);
    }

    #[test]
    fn a_seed_repeats_itself() {
        let draw_all = || {
            let mut rng = fastrand::Rng::with_seed(3);
            let fates = (0..100).map(|_| draw(&fault(50, 50, 50, 50), &mut rng, false));
            fates.collect::<Vec<_>>()
        };
        assert_eq!(draw_all(), draw_all());
    }

    #[test]
    fn nothing_and_everything_are_certain() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..1000 {
            assert_eq!(draw(&fault(0, 0, 0, 0), &mut rng, true), Fate::default());
            assert_eq!(
                draw(&fault(0, 0, 100, 0), &mut rng, true).end,
                Some(End::Reset)
            );
        }
    }

    #[test]
    fn a_grpc_status_is_for_grpc_calls() {
        let mut config = fault(0, 0, 0, 0);
        config.abort = Some(FaultAbort {
            percent: 100,
            with: AbortWith::GrpcStatus(14),
        });
        let mut rng = fastrand::Rng::with_seed(1);
        assert_eq!(draw(&config, &mut rng, false).end, None);
        let end = draw(&config, &mut rng, true).end;
        assert_eq!(end, Some(End::Abort(AbortWith::GrpcStatus(14))));
    }

    #[test]
    fn what_is_switched_off_does_nothing() {
        let faults = Faults::new(fault(100, 100, 100, 100));
        faults.switch(false);
        let mut rng = fastrand::Rng::with_seed(1);
        assert_eq!(faults.fate(&mut rng, false), Fate::default());
        faults.switch(true);
        assert_ne!(faults.fate(&mut rng, false), Fate::default());
    }
}
