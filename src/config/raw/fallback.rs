//! `routes[].rules[].fallback`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{DirectResponse, MirrorRef};
use crate::config::decode::At;

/// What answers in place of an upstream that can't, after the retries: exactly one of `backendRef`
/// and `response`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Fallback {
    /// Reasons of the upstream's side, and statuses of its responses, for which it does.
    #[serde(default = "on")]
    pub(crate) on: At<Vec<At<Trigger>>>,
    /// Another upstream. It gets the request, within what is left of the deadline, if the request may
    /// be sent again: no application can have seen it, or it is idempotent, and its body is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) backend_ref: Option<MirrorRef>,
    /// A fixed response. A gRPC call gets none: it is told its own status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) response: Option<At<DirectResponse>>,
}

/// The name of a reason, or a status.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(transparent)]
pub(crate) struct Trigger(pub(crate) String);

fn on() -> At<Vec<At<Trigger>>> {
    let reasons = [
        "no_endpoints",
        "breaker_open",
        "no_healthy_endpoints",
        "dns_unresolved",
        "connect_failed",
        "connect_timeout",
        "connection_limit",
        "pending_limit",
        "request_limit",
        "concurrency_limit",
    ];
    let triggers = reasons.map(|name| Trigger(name.to_owned()).into());
    Vec::from(triggers).into()
}

impl JsonSchema for Trigger {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Trigger".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [{ "type": "string" }, { "type": "integer", "minimum": 400, "maximum": 599 }],
            "description": "The name of a reason, or a status from 400 to 599."
        })
    }
}
