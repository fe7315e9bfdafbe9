//! When requests are sent again.

use std::time::Duration;

use serde::Serialize;

use super::duration;

/// When a failed attempt is followed by another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// In all, the first included.
    pub attempts: u8,
    /// Statuses that count as a failed attempt, sorted.
    pub codes: Vec<u16>,
    /// The same of gRPC.
    pub grpc_codes: GrpcCodes,
    pub idempotent: Idempotent,
    /// The first wait; it doubles, up to `max_backoff`.
    #[serde(serialize_with = "duration")]
    pub backoff: Duration,
    #[serde(serialize_with = "duration")]
    pub max_backoff: Duration,
    /// Longer waits that an upstream asks for end the retries.
    #[serde(serialize_with = "duration")]
    pub max_retry_after: Duration,
    /// Bodies beyond this many bytes are sent once.
    pub max_buffered_bytes: usize,
    pub hedge: Option<Hedge>,
}

/// A set of gRPC status codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GrpcCodes(u32);

impl GrpcCodes {
    pub const fn contains(self, code: u8) -> bool {
        code < 32 && self.0 & 1 << code != 0
    }
}

impl FromIterator<u8> for GrpcCodes {
    /// Codes are below 32.
    fn from_iter<I: IntoIterator<Item = u8>>(codes: I) -> Self {
        Self(
            codes
                .into_iter()
                .fold(0, |set, code| set | 1 << (code & 31)),
        )
    }
}

/// Which requests may reach an application twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Idempotent {
    /// By RFC 9110 section 9.2.2, or with an `Idempotency-Key`.
    ByMethod,
    Always,
    Never,
}

/// When a further attempt runs beside those that have not failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Hedge {
    #[serde(serialize_with = "duration")]
    After(Duration),
    /// After the time within which 95 of 100 responses of the upstream came lately.
    P95,
}

/// What retries an upstream may be sent over any ten seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryBudget {
    /// Of a hundred requests.
    pub percent: u32,
    pub min_per_second: u32,
}

impl Default for Retry {
    /// That of a route that says nothing.
    fn default() -> Self {
        Self {
            attempts: 3,
            codes: vec![502, 503, 504],
            grpc_codes: GrpcCodes::from_iter([14]),
            idempotent: Idempotent::ByMethod,
            backoff: Duration::from_millis(25),
            max_backoff: Duration::from_millis(250),
            max_retry_after: Duration::from_secs(1),
            max_buffered_bytes: 64 * 1024,
            hedge: None,
        }
    }
}

impl Retry {
    /// One attempt, whatever comes of it.
    pub fn never() -> Self {
        Self {
            attempts: 1,
            ..Self::default()
        }
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            percent: 20,
            min_per_second: 3,
        }
    }
}
