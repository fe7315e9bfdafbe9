//! `redact`.

use super::Resolver;
use crate::{
    config::{
        decode::At,
        raw,
        report::{Fault, quote},
        syntax,
    },
    telemetry::Redaction,
};

/// Names that may be in one of the lists.
const MAX_NAMES: usize = 256;

/// Longest name of a query parameter, in bytes.
const MAX_PARAMETER: usize = 128;

impl Resolver<'_> {
    pub(super) fn redact(&mut self, raw: &raw::Redact) -> Redaction {
        self.bounded(&raw.headers, MAX_NAMES);
        self.bounded(&raw.query_parameters, MAX_NAMES);
        for name in &raw.headers.value {
            self.parse(name, syntax::header_name);
        }
        for name in &raw.query_parameters.value {
            self.parse(name, parameter);
        }
        fn texts(list: &At<Vec<At<String>>>) -> impl Iterator<Item = &str> {
            list.value.iter().map(|name| name.value.as_str())
        }
        Redaction::new(texts(&raw.headers), texts(&raw.query_parameters))
    }

    /// Notes a list that is longer than it may be.
    pub(super) fn bounded<T>(&mut self, list: &At<Vec<T>>, limit: usize) {
        if list.value.len() > limit {
            let fault = Fault::new(format!("{} are too many", list.value.len()));
            self.fault(list.node, fault.hint(format!("at most {limit}")));
        }
    }
}

/// The name of a query parameter, as an application reads it.
fn parameter(text: &str) -> Result<(), Fault> {
    let fault = Fault::new(format!("{} is not a parameter's name", quote(text)));
    if text.is_empty() || text.len() > MAX_PARAMETER {
        return Err(fault.hint(format!("1 to {MAX_PARAMETER} bytes")));
    }
    match text.contains(['&', '=', '%', ';', '?', '#']) {
        true => Err(fault.hint("write it decoded and without a value: it can't hold & = % ; ? #")),
        false => Ok(()),
    }
}
