//! What protects the things behind a rule.

use std::time::Duration;

use http::HeaderName;
use serde::{Serialize, Serializer};

use super::duration;

/// How often a rule may be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// In each `per`.
    pub requests: u32,
    /// Never zero.
    #[serde(serialize_with = "duration")]
    pub per: Duration,
    /// At once, after a rest.
    pub burst: u32,
    pub key: RateKey,
    /// Counted apart at once.
    pub max_keys: usize,
}

/// Which requests are refused first where there is too much of everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Importance {
    Low,
    #[default]
    Normal,
    /// Never refused for that.
    High,
}

/// What has a limit of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RateKey {
    /// The rule as a whole.
    None,
    /// The address of a client.
    Source,
    /// The SPIFFE ID of a client.
    Identity,
    /// What the first line of a header says.
    Header(HeaderName),
}

impl Serialize for RateKey {
    /// As it is written.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_str("none"),
            Self::Source => serializer.serialize_str("source"),
            Self::Identity => serializer.serialize_str("identity"),
            Self::Header(name) => serializer.collect_map([("header", name.as_str())]),
        }
    }
}
