//! How hard pressed the process is, and who is let in then.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU8, Ordering::Relaxed},
};

use crate::{
    config::model::Importance,
    error::{Error, Reason, Replay, Result},
};

/// From none to hardly bearable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    #[default]
    None = 0,
    /// Requests of low priority are refused.
    Some = 1,
    /// Those of normal priority too.
    High = 2,
}

/// The level of the process: one thread sets it, every request reads it.
#[derive(Debug, Default)]
pub struct Pressure(AtomicU8);

impl Pressure {
    pub fn set(&self, level: Level) {
        self.0.store(level as u8, Relaxed);
    }

    pub fn level(&self) -> Level {
        match self.0.load(Relaxed) {
            0 => Level::None,
            1 => Level::Some,
            _ => Level::High,
        }
    }

    /// Lets a request in, or refuses it.
    pub fn admit(&self, importance: Importance) -> Result<()> {
        let bears = match importance {
            Importance::Low => Level::None,
            Importance::Normal => Level::Some,
            Importance::High => return Ok(()),
        };
        if self.level() <= bears {
            return Ok(());
        }
        Err(Error::new(
            Reason::Overloaded,
            "refused by priority, memory or time is short",
        )
        .replay(Replay::NeverSent)
        .retry_after(NonZeroU32::MIN))
    }
}

/// How much is asked of the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// The share that is used of the memory that its group may have; `None`: nobody limits it.
    pub memory: Option<f64>,
    /// How late came what was due, in seconds.
    pub lag: f64,
}

/// Where a level begins, and where it ends again: well below, so that it does not flutter.
type Step = (f64, f64);

const MEMORY: [(Level, Step); 2] = [(Level::Some, (0.90, 0.85)), (Level::High, (0.95, 0.92))];

/// A processor that others use as well is late at times: that alone refuses no normal request.
const LAG: [(Level, Step); 1] = [(Level::Some, (0.25, 0.10))];

impl Load {
    /// The level, coming from another one.
    pub fn level(self, before: Level) -> Level {
        let reached = |now: f64, steps: &[(Level, Step)]| {
            let reached = |&&(level, (begin, end)): &&(Level, Step)| {
                now >= if before >= level { end } else { begin }
            };
            let levels = steps.iter().filter(reached).map(|&(level, _)| level);
            levels.max().unwrap_or_default()
        };
        let memory = self
            .memory
            .map_or(Level::None, |used| reached(used, &MEMORY));
        memory.max(reached(self.lag, &LAG))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(used: f64) -> Load {
        Load {
            memory: Some(used),
            lag: 0.0,
        }
    }

    #[test]
    fn levels_begin_high_and_end_low() {
        let mut level = Level::None;
        for (used, expected) in [
            (0.5, Level::None),
            (0.89, Level::None),
            (0.90, Level::Some),
            (0.86, Level::Some),
            (0.84, Level::None),
            (0.96, Level::High),
            (0.93, Level::High),
            (0.91, Level::Some),
            (0.5, Level::None),
        ] {
            level = memory(used).level(level);
            assert_eq!(level, expected, "{used}");
        }
    }

    #[test]
    fn lag_counts_where_memory_is_not_limited() {
        let late = |lag| Load { memory: None, lag };
        assert_eq!(late(0.0).level(Level::None), Level::None);
        assert_eq!(late(0.3).level(Level::None), Level::Some);
        assert_eq!(late(9.0).level(Level::None), Level::Some);
        assert_eq!(late(0.2).level(Level::Some), Level::Some);
        assert_eq!(late(0.2).level(Level::None), Level::None);
        assert_eq!(late(0.05).level(Level::Some), Level::None);
    }

    #[test]
    fn the_important_are_let_in_last() {
        let pressure = Pressure::default();
        let admitted = |level| {
            pressure.set(level);
            [Importance::Low, Importance::Normal, Importance::High]
                .map(|importance| pressure.admit(importance).is_ok())
        };
        assert_eq!(admitted(Level::None), [true, true, true]);
        assert_eq!(admitted(Level::Some), [false, true, true]);
        assert_eq!(admitted(Level::High), [false, false, true]);
    }
}
