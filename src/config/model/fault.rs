//! Faults that are injected.

use std::{num::NonZeroU32, time::Duration};

use http::StatusCode;
use serde::Serialize;

use super::{display, duration};

/// What requests of a rule meet while it is switched on. Shares are of a hundred.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// From the start.
    pub enabled: bool,
    pub delay: Option<FaultDelay>,
    pub abort: Option<FaultAbort>,
    /// The share that is not answered.
    pub reset: Option<u8>,
    pub slow_body: Option<FaultSlowBody>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FaultDelay {
    pub percent: u8,
    /// Never zero.
    #[serde(serialize_with = "duration")]
    pub duration: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FaultAbort {
    pub percent: u8,
    #[serde(flatten)]
    pub with: AbortWith,
}

/// What a request is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum AbortWith {
    #[serde(serialize_with = "display")]
    StatusCode(StatusCode),
    /// gRPC calls alone are.
    GrpcStatus(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultSlowBody {
    pub percent: u8,
    pub bytes_per_second: NonZeroU32,
}
