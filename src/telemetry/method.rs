//! Methods as they are told: those that standards know, so that a client can't make up more.

use http::Method;

/// What OpenTelemetry's conventions know by default (RFC 9110 section 9, RFC 5789, and QUERY).
pub const NAMES: [&str; 10] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY",
];

/// The name of a method that is known.
pub fn known(method: &Method) -> Option<&'static str> {
    index(method).map(|index| NAMES[index])
}

/// Where a known method stands in [`NAMES`].
pub fn index(method: &Method) -> Option<usize> {
    Some(match *method {
        Method::GET => 0,
        Method::HEAD => 1,
        Method::POST => 2,
        Method::PUT => 3,
        Method::DELETE => 4,
        Method::CONNECT => 5,
        Method::OPTIONS => 6,
        Method::TRACE => 7,
        Method::PATCH => 8,
        _ if method.as_str() == "QUERY" => 9,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_methods_have_their_names() {
        for name in NAMES {
            let method = Method::from_bytes(name.as_bytes()).unwrap();
            assert_eq!(known(&method), Some(name));
        }
        for name in ["BREW", "get", "query"] {
            let method = Method::from_bytes(name.as_bytes()).unwrap();
            assert_eq!(known(&method), None);
        }
    }
}
