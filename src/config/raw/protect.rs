//! Filters that protect what is behind a rule: `rateLimit`.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::either::{Shortened, either};
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
