//! Filters that protect what is behind a rule, and that try what depends on it.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::{
    GrpcCode,
    either::{Shortened, either},
};
use crate::config::{
    decode::At,
    units::{Count, Duration},
};

/// How often the rule may be asked. What comes beyond it is refused with 429 and `Retry-After`.
/// Counted by this process alone, over all its workers.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RateLimit {
    /// How many requests in each `per`.
    pub(crate) requests: Count<1, 1_000_000>,
    /// More than 0s. The requests come back one by one, evenly over it.
    #[serde(default = "second")]
    pub(crate) per: At<Duration>,
    /// How many may come at once after a rest. As many as `requests` unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) burst: Option<Count<1, 1_000_000>>,
    /// What has a limit of its own: `none`: all requests of the rule share one; `source`: each
    /// address of a client; `identity`: each SPIFFE ID of a client; or `{ header: NAME }`: each
    /// value of a header. Requests without a key share one.
    #[serde(default)]
    pub(crate) key: At<RateKey>,
    /// How many keys are counted apart at once. Those that can't be share one limit.
    #[serde(default = "max_keys")]
    pub(crate) max_keys: Count<1, 1_000_000>,
}

fn second() -> At<Duration> {
    Duration::secs(1).into()
}

fn max_keys() -> Count<1, 1_000_000> {
    Count(10_000)
}

/// Which requests are refused first when memory or processor time runs out.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Importance {
    /// First.
    Low,
    /// When memory is nearly gone.
    #[default]
    Normal,
    /// Never.
    High,
}

/// The name of a key, or a mapping for a header.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum RateKey {
    Named(RateKeyName),
    Field(RateKeyField),
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum RateKeyName {
    #[default]
    None,
    Source,
    Identity,
}

/// A header of the request; its first line counts.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RateKeyField {
    /// Its name.
    pub(crate) header: At<String>,
}

impl Default for RateKey {
    fn default() -> Self {
        Self::Named(RateKeyName::default())
    }
}

impl From<RateKeyField> for RateKey {
    fn from(field: RateKeyField) -> Self {
        Self::Field(field)
    }
}

impl Shortened for RateKey {
    type Full = RateKeyField;
    const EXPECTED: &'static str = "`none`, `source`, `identity`, or a mapping with `header`,";

    fn from_text<E: de::Error>(text: &str) -> Result<Self, E> {
        use serde::de::IntoDeserializer;
        RateKeyName::deserialize(text.into_deserializer()).map(Self::Named)
    }
}

impl<'de> Deserialize<'de> for RateKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        either(deserializer)
    }
}

impl JsonSchema for RateKey {
    fn schema_name() -> Cow<'static, str> {
        "RateKey".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let name = generator.subschema_for::<RateKeyName>();
        let field = generator.subschema_for::<RateKeyField>();
        json_schema!({ "anyOf": [name, field] })
    }
}

/// Faults that requests of the rule meet, to try what depends on it. Each is drawn apart, all before
/// the request goes anywhere. `POST /faults` of the admin server switches them.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Fault {
    /// Whether they are on from the start.
    #[serde(default = "yes")]
    pub(crate) enabled: bool,
    /// Requests that wait first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) delay: Option<FaultDelay>,
    /// Requests that are answered with an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) abort: Option<At<FaultAbort>>,
    /// Requests that are not answered: over HTTP/1.1 the connection is reset, over HTTP/2 the stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reset: Option<FaultReset>,
    /// Requests whose response comes slowly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) slow_body: Option<FaultSlowBody>,
}

fn yes() -> bool {
    true
}

fn all() -> Count<0, 100> {
    Count(100)
}

/// A wait, which counts against the deadline of the request.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct FaultDelay {
    /// How many of a hundred requests.
    #[serde(default = "all")]
    pub(crate) percent: Count<0, 100>,
    /// How long. More than 0s.
    pub(crate) duration: At<Duration>,
}

/// An error with either a `statusCode` or a `grpcStatus`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct FaultAbort {
    /// How many of a hundred requests.
    #[serde(default = "all")]
    pub(crate) percent: Count<0, 100>,
    /// What all of them are answered with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status_code: Option<At<Count<400, 599>>>,
    /// What gRPC calls are answered with; other requests are not aborted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) grpc_status: Option<GrpcCode>,
}

/// An end without an answer.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct FaultReset {
    /// How many of a hundred requests.
    #[serde(default = "all")]
    pub(crate) percent: Count<0, 100>,
}

/// A response of which so much comes in a second.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct FaultSlowBody {
    /// How many of a hundred requests.
    #[serde(default = "all")]
    pub(crate) percent: Count<0, 100>,
    /// Bytes of the response's body.
    pub(crate) bytes_per_second: Count<1, 1_000_000_000>,
}
