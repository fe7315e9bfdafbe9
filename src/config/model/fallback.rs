//! What answers in place of an upstream that can't.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::DirectResponse;
use crate::error::Reason;

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fallback {
    pub on: Reasons,
    /// Statuses of responses, sorted.
    pub on_statuses: Vec<u16>,
    pub to: Resort,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Resort {
    /// Another upstream.
    Backend(Arc<str>),
    Response(DirectResponse),
}

/// A set of reasons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reasons(u64);

const _: () = assert!(Reason::COUNT <= 64);

impl Reasons {
    pub const fn contains(self, reason: Reason) -> bool {
        self.0 & 1 << reason.index() != 0
    }
}

impl FromIterator<Reason> for Reasons {
    fn from_iter<I: IntoIterator<Item = Reason>>(reasons: I) -> Self {
        let add = |set, reason: Reason| set | 1 << reason.index();
        Self(reasons.into_iter().fold(0, add))
    }
}

impl Serialize for Reasons {
    /// As names, in the order of the table.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let all = Reason::ALL.iter().filter(|&&reason| self.contains(reason));
        serializer.collect_seq(all.map(|reason| reason.name()))
    }
}
