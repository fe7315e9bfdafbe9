//! `routes[].rules[].retry` and `upstreams[].retryBudget`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::config::{
    decode::At,
    units::{Count, Duration, Size},
};

/// When a failed attempt is followed by another. An attempt of which nothing was sent, or which
/// the upstream said it has not processed, may always be; every other failure only with a request
/// that is idempotent. All within the upstream's `retryBudget`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Retry {
    /// Attempts in all, the first included; 1: no retry. What other Pillions on the way have spent
    /// on the request already is taken off.
    pub(crate) attempts: Count<1, 10>,
    /// Statuses of a response that count as a failed attempt.
    pub(crate) codes: Vec<Count<400, 599>>,
    /// The same for gRPC, whether the status comes in the head or in trailers right behind it.
    pub(crate) grpc_codes: Vec<GrpcCode>,
    /// Which requests may be sent twice although the first may have had an effect.
    pub(crate) idempotent: Idempotent,
    /// The first wait before a retry is between half of this and all of it, by chance; it doubles
    /// with each further one. No wait where nothing was sent to the endpoint and there is another.
    pub(crate) backoff: Duration,
    /// Longest of these waits. Not shorter than `backoff`.
    pub(crate) max_backoff: At<Duration>,
    /// `Retry-After` and gRPC's push-back are waited for up to this long; a longer one ends the
    /// retries, and the response is passed on.
    pub(crate) max_retry_after: Duration,
    /// How much of a request's body is kept, so that it can be sent again. A body that grows past
    /// it is sent once.
    pub(crate) max_buffered_bytes: Size,
    /// A second attempt before the first has failed. None unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hedge: Option<Hedge>,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: Count(3),
            codes: vec![Count(502), Count(503), Count(504)],
            grpc_codes: vec![GrpcCode::Unavailable],
            idempotent: Idempotent::ByMethod,
            backoff: Duration::millis(25),
            max_backoff: Duration::millis(250).into(),
            max_retry_after: Duration::secs(1),
            max_buffered_bytes: Size(64 * 1024),
            hedge: None,
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Idempotent {
    /// GET, HEAD, OPTIONS, TRACE, PUT and DELETE (RFC 9110 section 9.2.2), and what carries an
    /// `Idempotency-Key`. No gRPC call.
    ByMethod,
    /// All of the rule: its application bears to see a request twice.
    Always,
    /// None.
    Never,
}

/// Codes that a gRPC call may fail with.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum GrpcCode {
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

/// Idempotent requests are sent again, to another endpoint, while the first attempt goes on; the
/// first good response is taken, the other attempt is cancelled. Hedges count as retries: for
/// `attempts` and for the budget.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Hedge {
    /// How long the attempts before it are waited for: more than 0s, or `p95`, the time within
    /// which 95 of 100 responses of the upstream came lately.
    pub(crate) delay: At<HedgeDelay>,
}

/// A duration, or `p95`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HedgeDelay {
    After(Duration),
    P95,
}

impl Serialize for HedgeDelay {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::After(delay) => delay.serialize(serializer),
            Self::P95 => serializer.serialize_str("p95"),
        }
    }
}

impl<'de> Deserialize<'de> for HedgeDelay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "p95" => Ok(Self::P95),
            other => other.parse().map(Self::After).map_err(de::Error::custom),
        }
    }
}

impl JsonSchema for HedgeDelay {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HedgeDelay".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let duration = generator.subschema_for::<Duration>();
        json_schema!({ "anyOf": [duration, { "const": "p95" }] })
    }
}

/// How many retries and hedges an upstream may be sent: over any ten seconds, a share of its
/// requests and a floor, over all workers and routes together.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct RetryBudget {
    /// Retries for a hundred requests.
    pub(crate) percent: Count<0, 100>,
    /// And so many a second, so that an upstream with few requests has some too.
    pub(crate) min_per_second: Count<0, 1000>,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            percent: Count(20),
            min_per_second: Count(3),
        }
    }
}
