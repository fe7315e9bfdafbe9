//! The access log.

use std::path::PathBuf;

use serde::Serialize;

/// One line a request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AccessLog {
    pub enabled: bool,
    pub format: LogFormat,
    pub output: LogOutput,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum LogFormat {
    Json,
    Text,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum LogOutput {
    Stdout,
    Stderr,
    File(PathBuf),
}
