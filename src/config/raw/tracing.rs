//! `tracing` and `routes[].rules[].tracing`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::config::{
    decode::At,
    units::{Count, Duration},
};

/// Traces of requests, as OpenTelemetry defines them, sent to where `otlp` says.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Tracing {
    /// Whether requests are traced. `false` leaves the headers of traces as they come.
    pub(crate) enabled: bool,
    /// Which requests are recorded: a share such as `1%` or `0.1%` of the traces that begin here,
    /// while of others the sender's decision holds; or `always` or `never`, whatever the sender
    /// says.
    pub(crate) sampling: Sampling,
    /// Which headers a trace is read from, the first that is there, and in which it is told on, all
    /// of them.
    pub(crate) propagators: At<Vec<Propagator>>,
    /// What is recorded of requests that were not sampled, once it is known how they went. The
    /// next hop doesn't know of it: what it did is not recorded.
    pub(crate) keep: Keep,
}

impl Default for Tracing {
    fn default() -> Self {
        Self {
            enabled: true,
            sampling: Sampling::Share(SHARE_OF_ALL),
            propagators: vec![Propagator::TraceContext, Propagator::Baggage].into(),
            keep: Keep::default(),
        }
    }
}

/// The tail decision of one process.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Keep {
    /// Requests that Pillion answered by itself or ended early, and those with a status of 5xx or
    /// a gRPC status that is a server's failure.
    pub(crate) errors: bool,
    /// Requests that took longer. `0s`: none.
    pub(crate) slower_than: Duration,
}

/// What a rule says of tracing in place of the top-level `tracing`.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct RuleTracing {
    /// Which requests of the rule are recorded. As `tracing.sampling` says unless
    /// written; tracing has to be on, by a top-level `tracing` or by the environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sampling: Option<At<Sampling>>,
}

/// Headers by which a trace is told on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Propagator {
    /// `traceparent` and `tracestate` (W3C Trace Context).
    TraceContext,
    /// `baggage` (W3C Baggage). It is passed on whether this is written or not.
    Baggage,
    /// Zipkin's single header, `b3`.
    B3,
    /// Zipkin's `X-B3-*` headers.
    B3Multi,
}

/// `always`, `never`, or a percentage in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sampling {
    Always,
    Never,
    Share(Count<0, 1_000_000>),
}

/// In millionths.
const SHARE_OF_ALL: Count<0, 1_000_000> = Count(1_000_000);

impl Sampling {
    fn read(text: &str) -> Option<Self> {
        match text {
            "always" => Some(Self::Always),
            "never" => Some(Self::Never),
            _ => {
                let percent = text.strip_suffix('%')?;
                let plain = percent.bytes().all(|b| b.is_ascii_digit() || b == b'.');
                let percent: f64 = percent.parse().ok().filter(|_| plain)?;
                (percent <= 100.0).then(|| Self::Share(Count((percent * 10_000.0).round() as u64)))
            }
        }
    }
}

impl Serialize for Sampling {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Always => serializer.serialize_str("always"),
            Self::Never => serializer.serialize_str("never"),
            Self::Share(share) => {
                serializer.collect_str(&format_args!("{}%", share.0 as f64 / 10_000.0))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Sampling {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::read(&text).ok_or_else(|| {
            de::Error::custom(format!(
                "`{text}` is neither always nor never nor a percentage from 0% to 100%, such as 1% or 0.1%"
            ))
        })
    }
}

impl JsonSchema for Sampling {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Sampling".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "`always`, `never`, or a share with `%`: `1%`, `0.1%`.",
            "pattern": r"^(always|never|(100|\d?\d)(\.\d*)?%)$|\$\{",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read() {
        for (text, share) in [
            ("0%", 0),
            ("0.1%", 1000),
            ("1%", 10_000),
            ("100%", 1_000_000),
        ] {
            assert_eq!(
                Sampling::read(text),
                Some(Sampling::Share(Count(share))),
                "{text}"
            );
        }
        for wrong in [
            "", "%", "1", "-1%", "101%", "1e1%", "inf%", "NaN%", "Always",
        ] {
            assert_eq!(Sampling::read(wrong), None, "{wrong}");
        }
    }
}
