//! Headers that may be sent to a collector beside those that Pillion sends itself.

use http::HeaderName;

use crate::config::{report::Fault, syntax};

/// What an export is, and what answer it can read.
const OWN: [&str; 5] = [
    "accept",
    "accept-encoding",
    "content-encoding",
    "content-type",
    "user-agent",
];

/// The name of a header for every export.
pub(in crate::config) fn collector_header(text: &str) -> Result<HeaderName, Fault> {
    let name = syntax::header_name(text)?;
    let fault = || Fault::new(format!("header `{name}` can't be sent to a collector"));
    if name == http::header::HOST {
        return Err(fault().hint("it is made of `endpoint`"));
    }
    if OWN.contains(&name.as_str()) || name.as_str().starts_with("grpc-") {
        return Err(fault().hint("exports say that themselves, as their protocol wants it"));
    }
    syntax::edited_header(text)
        .map_err(|_| fault().hint("it frames the message or belongs to one connection"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_an_export_one_is_not_written_twice() {
        assert_eq!(collector_header("X-Tenant").unwrap(), "x-tenant");
        for name in [
            "host",
            "Content-Type",
            "content-length",
            "te",
            "user-agent",
            "grpc-timeout",
            "a b",
        ] {
            let hint = collector_header(name).unwrap_err().hint.unwrap();
            assert!(!hint.contains("urlRewrite"), "{name}: {hint}");
        }
    }
}
