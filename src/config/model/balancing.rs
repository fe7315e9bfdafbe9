//! How endpoints are chosen.

use std::{sync::Arc, time::Duration};

use http::HeaderName;
use serde::Serialize;

use super::{display, duration};

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Balancer {
    PeakEwma,
    LeastRequest,
    RoundRobin,
    RingHash(Hashing),
    Maglev(Hashing),
}

impl Balancer {
    /// What requests of one endpoint have in common; `None` where that is nothing.
    pub const fn key(&self) -> Option<&StickyKey> {
        match self {
            Self::RingHash(hashing) | Self::Maglev(hashing) => Some(&hashing.key),
            Self::PeakEwma | Self::LeastRequest | Self::RoundRobin => None,
        }
    }
}

/// Balancing by a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Hashing {
    pub key: StickyKey,
    /// In percent of an endpoint's part of what is in flight, more than 100. `None`: no bound.
    pub bounded_load: Option<u32>,
}

/// Where the key of a request is from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum StickyKey {
    Header(#[serde(serialize_with = "display")] HeaderName),
    Cookie(StickyCookie),
    /// The address of the client.
    Source,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StickyCookie {
    pub name: Arc<str>,
    pub path: Arc<str>,
    /// Zero: until the browser is closed.
    #[serde(serialize_with = "duration")]
    pub ttl: Duration,
}
