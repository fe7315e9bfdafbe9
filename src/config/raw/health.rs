//! `upstreams[].breaker` and `upstreams[].ejection`.

use std::{borrow::Cow, fmt, marker::PhantomData};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::config::{
    decode::At,
    units::{Count, Duration, Percent},
};

/// When an endpoint is broken, so that it is sent nothing but a probe from time to time.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Breaker {
    /// So many requests in a row that failed: reset, timed out, 500, 502 to 504, gRPC UNAVAILABLE,
    /// INTERNAL, UNKNOWN and DATA_LOSS.
    pub(crate) consecutive_failures: Count<1, 1000>,
    /// So many attempts in a row to connect that failed.
    pub(crate) connect_failures: Count<1, 1000>,
    /// Until the first probe. Each one that fails doubles it, and up to a quarter is taken off by
    /// chance. More than 0s.
    pub(crate) backoff: At<Duration>,
    /// Longest time between probes. Not shorter than `backoff`.
    pub(crate) max_backoff: At<Duration>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            consecutive_failures: Count(5),
            connect_failures: Count(3),
            backoff: Duration::millis(250).into(),
            max_backoff: Duration::secs(30).into(),
        }
    }
}

/// When an endpoint is so much worse than the others that these take its requests. Compared by
/// Wilson bounds at 99.9 %, once a second.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Ejection {
    /// Compare how many requests succeed.
    pub(crate) success_rate: bool,
    /// Compare how many answers take more than three times the usual. `balancer: peakEwma` moves
    /// load away from slow endpoints without this.
    pub(crate) latency: bool,
    /// At most so many of the endpoints, rounded down; those that the breaker opened count as well.
    pub(crate) max_ejected: Percent,
    /// How far back is looked. More than 0s.
    pub(crate) window: At<Duration>,
    /// Differences up to this are borne.
    pub(crate) tolerance: Percent,
    /// Until the first probe, as that of `breaker`. More than 0s.
    pub(crate) backoff: At<Duration>,
    /// Longest time between probes. Not shorter than `backoff`.
    pub(crate) max_backoff: At<Duration>,
    /// Count and log what would be ejected, and eject nothing.
    pub(crate) dry_run: bool,
    /// While fewer endpoints than this are available, by whatever cause, requests go to all of them.
    /// 0%: never.
    pub(crate) panic_threshold: Percent,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            success_rate: true,
            latency: false,
            max_ejected: Percent(50),
            window: Duration::secs(30).into(),
            tolerance: Percent(1),
            backoff: Duration::secs(1).into(),
            max_backoff: Duration::secs(30).into(),
            dry_run: false,
            panic_threshold: Percent(0),
        }
    }
}

/// A mapping, or `off`.
#[derive(Debug)]
pub(crate) enum OrOff<T> {
    On(T),
    Off,
}

impl<T: Default> Default for OrOff<T> {
    fn default() -> Self {
        Self::On(T::default())
    }
}

impl<T: Serialize> Serialize for OrOff<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::On(on) => on.serialize(serializer),
            Self::Off => serializer.serialize_str("off"),
        }
    }
}

/// serde's untagged enums forget why each variant was refused.
impl<'de, T: Deserialize<'de>> Deserialize<'de> for OrOff<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Either<T> {
            type Value = OrOff<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping, or `off`,")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OrOff<T>, E> {
                match text {
                    "off" => Ok(OrOff::Off),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<OrOff<T>, A::Error> {
                let map = de::value::MapAccessDeserializer::new(map);
                T::deserialize(map).map(OrOff::On)
            }
        }

        deserializer.deserialize_any(Either(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for OrOff<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("{}OrOff", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mapping = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [{ "type": "string", "const": "off" }, mapping] })
    }
}
