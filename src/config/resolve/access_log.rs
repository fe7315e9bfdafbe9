//! `accessLog`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use http::HeaderName;

use super::Resolver;
use crate::{
    config::{
        decode::At,
        model::{AccessLog, LogFilter, LogFormat, LogOutput},
        raw,
        report::{Fault, closest, quote},
        syntax,
    },
    telemetry::{
        Redaction,
        access_log::{Malformed, Template},
        otlp::Signal,
    },
};

/// Headers of one side that a line can show.
const MAX_HEADERS: usize = 32;

/// What is no file.
const OUTPUTS: [&str; 3] = ["stdout", "stderr", "otlp"];

impl Resolver<'_> {
    pub(super) fn access_log(
        &mut self,
        raw: &raw::AccessLog,
        redaction: &Arc<Redaction>,
    ) -> AccessLog {
        let output = match raw.output.value.as_str() {
            "stdout" => LogOutput::Stdout,
            "stderr" => LogOutput::Stderr,
            "otlp" => LogOutput::Otlp,
            _ => self
                .parse(&raw.output, |text| {
                    log_path(text, self.tree.directory(raw.output.node))
                })
                .map_or(LogOutput::Stdout, LogOutput::File),
        };
        let template = raw.template.as_ref();
        let template = template.and_then(|template| {
            if let raw::LogFormat::Json = raw.format {
                let fault = Fault::new("a template is for text");
                self.fault(template.node, fault.hint("write `format: text` beside it"));
            }
            self.parse(template, read_template)
        });
        let mut request_headers = self.shown_headers(&raw.request_headers);
        let mut response_headers = self.shown_headers(&raw.response_headers);
        let format = match raw.format {
            raw::LogFormat::Json => LogFormat::Json,
            raw::LogFormat::Text => {
                let template = template.unwrap_or_else(|| Template::standard().clone());
                let node = raw.template.as_ref().and_then(|template| template.node);
                for (list, names) in [
                    (&mut request_headers, template.request_headers().collect()),
                    (
                        &mut response_headers,
                        template.response_headers().collect::<Vec<_>>(),
                    ),
                ] {
                    names.into_iter().cloned().for_each(|name| add(list, name));
                    if list.len() > MAX_HEADERS {
                        let fault = Fault::new(format!("{} headers are too many", list.len()));
                        self.fault(node, fault.hint(format!("at most {MAX_HEADERS}")));
                    }
                }
                LogFormat::Text(template)
            }
        };
        // `OTEL_LOGS_EXPORTER` goes before the file.
        let (output, exported) = match (self.otel.exports(Signal::Logs), output) {
            (Some(true), _) => (LogOutput::Otlp, true),
            (exports, LogOutput::Otlp) => (LogOutput::Otlp, exports.is_none()),
            (_, output) => (output, true),
        };
        if raw.enabled && !exported {
            self.overruled(Signal::Logs);
        }
        AccessLog {
            enabled: raw.enabled && exported,
            format,
            output,
            filter: raw.filter.as_ref().map(|filter| self.log_filter(filter)),
            request_headers,
            response_headers,
            value_length: self.otel.value_length(Signal::Logs),
            redaction: Arc::clone(redaction),
        }
    }

    fn shown_headers(&mut self, written: &At<Vec<At<String>>>) -> Vec<HeaderName> {
        self.bounded(written, MAX_HEADERS);
        let mut names = Vec::new();
        for name in &written.value {
            if let Some(name) = self.parse(name, syntax::header_name) {
                add(&mut names, name);
            }
        }
        names
    }

    fn log_filter(&mut self, written: &At<raw::LogFilter>) -> LogFilter {
        let raw = &written.value;
        let filter = LogFilter {
            errors: raw.errors,
            slower_than: raw.slower_than.as_ref().map(|limit| self.positive(limit)),
            percent: raw.percent.get(),
        };
        let refused = written
            .node
            .is_some_and(|node| self.tree.has_refused_part(node));
        let takes = filter.errors || filter.slower_than.is_some() || filter.percent > 0;
        if !takes && !refused {
            let fault = Fault::new("this filter takes no request");
            let hint = "write `errors`, `slowerThan` or `percent`; `enabled: false` logs nothing";
            self.fault(written.node, fault.hint(hint));
        }
        filter
    }
}

fn add(names: &mut Vec<HeaderName>, name: HeaderName) {
    if !names.contains(&name) {
        names.push(name);
    }
}

/// The path of a file, which is no slip in one of the names that mean something else.
fn log_path(text: &str, directory: &Path) -> Result<PathBuf, Fault> {
    let bare = !text.contains(['/', '.']);
    match closest(text, OUTPUTS).filter(|_| bare) {
        Some(name) => Err(
            Fault::new(format!("{} is not an output", quote(text))).hint(format!(
                "did you mean `{name}`? A file of this name is ./{text}"
            )),
        ),
        None => syntax::file_path(text, directory),
    }
}

fn read_template(text: &str) -> Result<Template, Fault> {
    Template::new(text).map_err(|malformed| {
        let fault = Fault::new(malformed.to_string());
        match &malformed {
            Malformed::Unknown { name, .. } => fault.suggest(name, Template::placeholders()),
            Malformed::Open(_) => fault.hint("write `{{` for a brace"),
            Malformed::Header { .. } => fault.hint("for example `{request_header:x-tenant}`"),
            _ => fault,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn loaded(log: &str, exporter: &str) -> config::Loaded {
        let text = format!(
            "accessLog: {log}\nlisteners: [{{ address: \"127.0.0.1:80\", upstream: app }}]\n\
             upstreams: [{{ name: app, endpoints: [\"127.0.0.1:81\"] }}]\n"
        );
        let env = |name: &str| (name == "OTEL_LOGS_EXPORTER").then(|| exporter.to_owned());
        config::parse("test.yaml", &text, &env).unwrap()
    }

    fn read(log: &str, exporter: &str) -> AccessLog {
        loaded(log, exporter).config.access_log
    }

    #[test]
    fn records_that_the_environment_keeps_from_being_exported_are_told_of() {
        let overruled = |log, exporter| loaded(log, exporter).notes.overruled;
        let told = overruled("{ output: otlp }", "none");
        assert_eq!((told.len(), &*told[0].by), (1, "OTEL_LOGS_EXPORTER"));
        assert_eq!(overruled("{ output: otlp }", ""), []);
        assert_eq!(overruled("{ output: otlp, enabled: false }", "none"), []);
        assert_eq!(overruled("{}", "none"), []);
    }

    #[test]
    fn files_may_be_called_anything_that_is_no_slip() {
        for (text, file) in [
            ("./stdou", true),
            ("otlp.log", true),
            ("requests", true),
            ("STDERR", false),
            ("oltp", false),
        ] {
            assert_eq!(log_path(text, Path::new("")).is_ok(), file, "{text}");
        }
    }

    #[test]
    fn the_environment_says_first_whether_records_are_exported() {
        let output = |log, exporter| {
            let log = read(log, exporter);
            (log.output, log.enabled)
        };
        assert_eq!(output("{}", ""), (LogOutput::Stdout, true));
        assert_eq!(output("{}", "otlp"), (LogOutput::Otlp, true));
        assert_eq!(output("{}", "none"), (LogOutput::Stdout, true));
        assert_eq!(
            output("{ enabled: false }", "otlp"),
            (LogOutput::Otlp, false)
        );
        assert_eq!(output("{ output: otlp }", ""), (LogOutput::Otlp, true));
        assert_eq!(output("{ output: otlp }", "none"), (LogOutput::Otlp, false));
    }

    #[test]
    fn headers_of_a_template_are_taken_once() {
        let log = read(
            "{ format: text, template: \"{request_header:x-b} {request_header:X-A} {response_header:c}\", \
             requestHeaders: [x-a] }",
            "",
        );
        assert_eq!(log.request_headers, ["x-a", "x-b"]);
        assert_eq!(log.response_headers, ["c"]);
    }
}
