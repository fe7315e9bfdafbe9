//! `upstreams[].healthChecks`.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::config::{
    decode::At,
    units::{Count, Duration},
};

/// A question that Pillion itself asks every endpoint, over a connection of its own: with the TLS,
/// the identity and the PROXY header of the upstream. An endpoint takes requests while none of its
/// checks says otherwise.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct HealthCheck {
    /// What is asked.
    pub(crate) r#type: At<CheckType>,
    /// For type `http`: the path, with a query if it needs one. `/healthz` unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<At<String>>,
    /// For type `http`: the method, in upper case. `GET` unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) method: Option<At<String>>,
    /// For types `http` and `grpc`: the host that is asked for. Unless written, the one that
    /// the endpoint was found under, or its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) host: Option<At<String>>,
    /// For type `http`: statuses of a healthy endpoint, such as `[200-299, 404]`. `[200-299]`
    /// unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expected_statuses: Option<At<Vec<At<StatusRange>>>>,
    /// For type `grpc`: the service that is asked for. Empty, the server as a whole, unless
    /// written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<At<String>>,
    /// Another port of the same address. The endpoint's own unless written; a Unix socket has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<Count<1, 65_535>>,
    /// From the begin of one to that of the next, up to a tenth more or less by chance. The first
    /// one comes at any point of this time. More than 0s.
    #[serde(default = "interval")]
    pub(crate) interval: At<Duration>,
    /// For all of it, connecting included. More than 0s, not longer than `interval`.
    #[serde(default = "timeout")]
    pub(crate) timeout: At<Duration>,
    /// So many failures in a row take a healthy endpoint out. Of one that no check has found healthy
    /// yet, one is enough.
    #[serde(default = "unhealthy_threshold")]
    pub(crate) unhealthy_threshold: Count<1, 1000>,
    /// So many successes in a row bring it back. The first time, one is enough.
    #[serde(default = "healthy_threshold")]
    pub(crate) healthy_threshold: Count<1, 1000>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum CheckType {
    /// A request, in the protocol of the upstream; the status answers.
    Http,
    /// A connection, with the TLS handshake where there is one.
    Tcp,
    /// `grpc.health.v1.Health/Check` over HTTP/2; SERVING is healthy.
    Grpc,
}

impl CheckType {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Grpc => "grpc",
        }
    }
}

fn interval() -> At<Duration> {
    Duration::secs(5).into()
}

fn timeout() -> At<Duration> {
    Duration::secs(1).into()
}

fn unhealthy_threshold() -> Count<1, 1000> {
    Count(3)
}

fn healthy_threshold() -> Count<1, 1000> {
    Count(2)
}

/// A status, or `FIRST-LAST`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StatusRange {
    pub(crate) first: u16,
    pub(crate) last: u16,
}

impl StatusRange {
    fn new(first: u64, last: u64) -> Option<Self> {
        // Interim ones answer nothing.
        let valid = 200..=599;
        let one = |number| {
            let number = u16::try_from(number).ok()?;
            valid.contains(&number).then_some(number)
        };
        let range = Self {
            first: one(first)?,
            last: one(last)?,
        };
        (range.first <= range.last).then_some(range)
    }

    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let digits = |text: &str| text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(first) || !digits(last) {
            return None;
        }
        Self::new(first.parse().ok()?, last.parse().ok()?)
    }
}

impl Serialize for StatusRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.first == self.last {
            self.first.serialize(serializer)
        } else {
            serializer.collect_str(&format_args!("{}-{}", self.first, self.last))
        }
    }
}

impl<'de> Deserialize<'de> for StatusRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Range;

        impl de::Visitor<'_> for Range {
            type Value = StatusRange;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a status from 200 to 599, or a range such as 200-299")
            }

            fn visit_u64<E: de::Error>(self, status: u64) -> Result<StatusRange, E> {
                StatusRange::new(status, status)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(status), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<StatusRange, E> {
                StatusRange::parse(text)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(Range)
    }
}

impl JsonSchema for StatusRange {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "StatusRange".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["integer", "string"],
            "minimum": 200,
            "maximum": 599,
            "pattern": r"^[2-5]\d\d(-[2-5]\d\d)?$|\$\{",
        })
    }
}
