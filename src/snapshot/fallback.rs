//! What was decided for requests whose upstream can't answer.

use std::sync::Arc;

use crate::{
    config::model::{DirectResponse, Reasons},
    error::Result,
    policy::Answer,
    upstream::Upstream,
};

/// What answers when none of the backends can.
pub struct PlannedFallback {
    pub(super) on: Reasons,
    pub(super) on_statuses: Vec<u16>,
    pub to: PlannedResort,
}

pub enum PlannedResort {
    Upstream(Arc<Upstream>),
    Respond(DirectResponse),
}

impl PlannedFallback {
    /// Whether it is for requests with this outcome.
    pub fn takes(&self, outcome: &Result<Answer>) -> bool {
        match outcome {
            Ok(answer) => {
                let status = answer.response.head.status.as_u16();
                status >= 400 && self.on_statuses.binary_search(&status).is_ok()
            }
            Err(error) => self.on.contains(error.reason),
        }
    }
}
