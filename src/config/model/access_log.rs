//! The access log.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use http::HeaderName;
use serde::{Serialize, Serializer};

use super::display_all;
use crate::telemetry::{Redaction, access_log::Template, attributes::LONGEST};

/// One line a request.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessLog {
    pub enabled: bool,
    pub format: LogFormat,
    pub output: LogOutput,
    /// `None`: every request has a line.
    pub filter: Option<LogFilter>,
    /// Headers whose values are shown, those of the template included.
    #[serde(serialize_with = "display_all")]
    pub request_headers: Vec<HeaderName>,
    #[serde(serialize_with = "display_all")]
    pub response_headers: Vec<HeaderName>,
    /// Characters of a log record's attribute; longer ones are cut.
    /// The environment alone says so: no key to show.
    #[serde(skip)]
    pub value_length: usize,
    /// That of the whole configuration, where it is shown as well.
    #[serde(skip)]
    pub redaction: Arc<Redaction>,
}

impl Default for AccessLog {
    /// Every request as JSON on standard output.
    fn default() -> Self {
        Self {
            enabled: true,
            format: LogFormat::Json,
            output: LogOutput::Stdout,
            filter: None,
            request_headers: Vec::new(),
            response_headers: Vec::new(),
            value_length: LONGEST,
            redaction: Arc::default(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum LogFormat {
    Json,
    Text(Template),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum LogOutput {
    Stdout,
    Stderr,
    File(PathBuf),
    /// As log records to a collector; the format means nothing then.
    Otlp,
}

impl fmt::Display for LogOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::Stderr => f.write_str("stderr"),
            Self::File(path) => path.display().fmt(f),
            Self::Otlp => f.write_str("otlp"),
        }
    }
}

/// Which requests have a line: those that one of these takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogFilter {
    /// Those that failed, through no fault of the request.
    pub errors: bool,
    /// Those that took longer.
    #[serde(serialize_with = "duration")]
    pub slower_than: Option<Duration>,
    /// So many of a hundred, whatever became of them.
    pub percent: u8,
}

fn duration<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => super::duration(value, serializer),
        None => serializer.serialize_none(),
    }
}
