//! `upstreams[].balancer`.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, IntoDeserializer},
};

use super::either::{Shortened, either};
use crate::config::{
    decode::At,
    units::{Count, Duration},
};

/// The name of a balancer, or a mapping for one that goes by a key.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Balancer {
    Named(BalancerName),
    Hashing(Hashing),
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum BalancerName {
    /// The cheaper of two at random, by latency (peak EWMA) times requests in flight.
    #[default]
    PeakEwma,
    /// The one of two at random with fewer requests in flight.
    LeastRequest,
    /// One after the other.
    RoundRobin,
}

/// Requests of one key go to one endpoint, in every process that has the same endpoints. An
/// endpoint that comes or goes moves hardly more keys than its own. Requests without a key are
/// spread as by `leastRequest`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Hashing {
    /// How keys are shared out.
    pub(crate) r#type: HashType,
    /// What the key of a request is.
    pub(crate) key: At<StickyKey>,
    /// An endpoint with so many percent of its part of the requests in flight takes no more; they
    /// go to the next one for their keys. No bound unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bounded_load: Option<Count<101, 10_000>>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum HashType {
    /// Points on a circle: shares are right to some 3 %, less so for small weights, and no key moves without need.
    RingHash,
    /// A table of 65,537 places: shares are right to 1 %, and another hundredth of the keys may
    /// move with those of an endpoint that goes.
    Maglev,
}

/// The address of the client, or what a header or a cookie says.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum StickyKey {
    Source(&'static str),
    Field(StickyField),
}

/// Exactly one of these.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct StickyField {
    /// Name of a request header; its first line counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) header: Option<At<String>>,
    /// A cookie, which a response sets if its request brought none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cookie: Option<At<StickyCookie>>,
}

/// A cookie by which a client keeps to its endpoint: a random value, `HttpOnly`, `SameSite=Lax`,
/// and `Secure` over TLS.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct StickyCookie {
    /// Its name: a token.
    pub(crate) name: At<String>,
    /// The paths that it is sent to.
    #[serde(default = "root")]
    pub(crate) path: At<String>,
    /// How long it is kept. 0s: until the browser is closed.
    #[serde(default)]
    pub(crate) ttl: Duration,
}

fn root() -> At<String> {
    "/".to_owned().into()
}

impl Default for Balancer {
    fn default() -> Self {
        Self::Named(BalancerName::default())
    }
}

impl From<Hashing> for Balancer {
    fn from(hashing: Hashing) -> Self {
        Self::Hashing(hashing)
    }
}

impl From<StickyField> for StickyKey {
    fn from(field: StickyField) -> Self {
        Self::Field(field)
    }
}

impl Shortened for Balancer {
    type Full = Hashing;
    const EXPECTED: &'static str = "the name of a balancer, or a mapping,";

    fn from_text<E: de::Error>(text: &str) -> Result<Self, E> {
        match text {
            "ringHash" | "maglev" => Err(E::custom(format_args!(
                "`{text}` needs a key: {{ type: {text}, key: source }}, for example"
            ))),
            _ => BalancerName::deserialize(text.into_deserializer()).map(Self::Named),
        }
    }
}

impl Shortened for StickyKey {
    type Full = StickyField;
    const EXPECTED: &'static str = "`source`, or a mapping with `header` or `cookie`,";

    fn from_text<E: de::Error>(text: &str) -> Result<Self, E> {
        match text {
            SOURCE => Ok(Self::Source(SOURCE)),
            _ => Err(E::unknown_variant(text, &[SOURCE])),
        }
    }
}

const SOURCE: &str = "source";

impl<'de> Deserialize<'de> for Balancer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        either(deserializer)
    }
}

impl<'de> Deserialize<'de> for StickyKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        either(deserializer)
    }
}

impl JsonSchema for Balancer {
    fn schema_name() -> Cow<'static, str> {
        "Balancer".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let name = generator.subschema_for::<BalancerName>();
        let hashing = generator.subschema_for::<Hashing>();
        json_schema!({ "anyOf": [name, hashing] })
    }
}

impl JsonSchema for StickyKey {
    fn schema_name() -> Cow<'static, str> {
        "StickyKey".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let field = generator.subschema_for::<StickyField>();
        json_schema!({ "anyOf": [{ "type": "string", "const": SOURCE }, field] })
    }
}
