//! `accessLog`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::decode::At;

/// The access log.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct AccessLog {
    /// Whether requests are logged.
    pub(crate) enabled: bool,
    /// One JSON object a line, or a line of text.
    pub(crate) format: LogFormat,
    /// `stdout`, `stderr` or the path of a file to append to.
    pub(crate) output: At<String>,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self {
            enabled: true,
            format: LogFormat::Json,
            output: "stdout".to_owned().into(),
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum LogFormat {
    /// One JSON object a line.
    Json,
    /// One line of text in the order that Envoy's users know.
    Text,
}
