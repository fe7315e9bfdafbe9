//! How long nothing may move, and what is told where that has passed.

use std::time::Duration;

use crate::{
    config::model::Timeouts,
    error::{Error, Reason},
};

/// How long nothing may move, by its name.
#[derive(Clone, Copy, Debug)]
pub struct IdleLimit {
    /// Zero: for ever.
    pub limit: Duration,
    /// What it is called in the configuration.
    pub key: &'static str,
}

impl IdleLimit {
    /// What a rule allows.
    pub const fn of(timeouts: &Timeouts) -> Self {
        Self {
            limit: timeouts.idle,
            key: "timeouts.idle",
        }
    }

    /// What is told where it has passed.
    pub fn error(self) -> Error {
        let Self { limit, key } = self;
        let detail = format!("no byte moved within {limit:?} ({key})");
        Error::new(Reason::IdleTimeout, "").detail(detail)
    }
}
