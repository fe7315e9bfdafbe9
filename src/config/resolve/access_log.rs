//! `accessLog`.

use super::Resolver;
use crate::config::{
    model::{AccessLog, LogFormat, LogOutput},
    raw, syntax,
};

impl Resolver<'_> {
    pub(super) fn access_log(&mut self, raw: &raw::AccessLog) -> AccessLog {
        let output = match raw.output.value.as_str() {
            "stdout" => LogOutput::Stdout,
            "stderr" => LogOutput::Stderr,
            _ => self
                .parse(&raw.output, |text| {
                    syntax::file_path(text, self.tree.directory(raw.output.node))
                })
                .map_or(LogOutput::Stdout, LogOutput::File),
        };
        let format = match raw.format {
            raw::LogFormat::Json => LogFormat::Json,
            raw::LogFormat::Text => LogFormat::Text,
        };
        AccessLog {
            enabled: raw.enabled,
            format,
            output,
        }
    }
}
