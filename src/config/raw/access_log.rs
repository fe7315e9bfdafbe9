//! `accessLog`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{
    decode::At,
    units::{Count, Duration},
};

/// The access log.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct AccessLog {
    /// Whether requests are logged.
    pub(crate) enabled: bool,
    /// One JSON object a line, or a line of text.
    pub(crate) format: LogFormat,
    /// The line of the format `text`: a key of the JSON form in braces stands for its value, such as
    /// `{status}`, and so do `{request_header:NAME}` and `{response_header:NAME}`; `{{` is a brace.
    /// What is not known is `-`. A line in the order of Envoy's unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) template: Option<At<String>>,
    /// `stdout`, `stderr`, the path of a file to append to, or `otlp`: log records for the collector
    /// of `otlp`, to which the format means nothing.
    pub(crate) output: At<String>,
    /// Which requests have a line: those that one of its keys takes. All of them unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) filter: Option<At<LogFilter>>,
    /// Headers of requests whose values are shown, as they came; those that `redact` names as
    /// `REDACTED`. At most 32.
    pub(crate) request_headers: At<Vec<At<String>>>,
    /// Headers of responses whose values are shown, as they are sent. At most 32.
    pub(crate) response_headers: At<Vec<At<String>>>,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self {
            enabled: true,
            format: LogFormat::Json,
            template: None,
            output: "stdout".to_owned().into(),
            filter: None,
            request_headers: At::default(),
            response_headers: At::default(),
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum LogFormat {
    /// One JSON object a line.
    Json,
    /// One line of text, as `template` has it.
    Text,
}

/// Which requests have a line. What it leaves out is counted.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct LogFilter {
    /// Those with a reason, with a status from 500 on, or with a gRPC status that tells of a failure
    /// of the server.
    pub(crate) errors: bool,
    /// Those that took longer than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) slower_than: Option<At<Duration>>,
    /// So many of a hundred: chosen by their trace where they have one, so that every hop shows the
    /// same, else by chance.
    pub(crate) percent: Count<0, 100>,
}

impl Default for LogFilter {
    fn default() -> Self {
        Self {
            errors: false,
            slower_than: None,
            percent: Count(0),
        }
    }
}
