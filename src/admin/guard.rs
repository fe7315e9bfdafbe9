//! Keeps web pages away from the admin server.
//!
//! A page in the operator's browser can send requests to loopback. It can't forge two headers:
//! `Host` names the page's own domain when that was made to resolve to 127.0.0.1 (DNS rebinding),
//! and `Origin` goes with every POST to another site. A program sends an address as `Host` and no
//! `Origin`.

use http::{
    HeaderMap, Method, Uri,
    header::{HOST, ORIGIN},
    uri::Authority,
};

/// What is wrong with the request, if anything. `loopback`: the server listens there only; where
/// it doesn't, names for it are legitimate.
pub(super) fn refusal(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    loopback: bool,
) -> Option<&'static str> {
    let host = match uri.authority() {
        Some(authority) => Some(authority.clone()),
        None => headers
            .get(HOST)
            .and_then(|host| Authority::try_from(host.as_bytes()).ok()),
    };
    let Some(host) = host else {
        return Some("the Host header is missing or no host");
    };
    if loopback && !is_local(host.host()) {
        return Some("on loopback, Host must be an IP address or localhost");
    }
    if method == Method::POST
        && headers
            .get(ORIGIN)
            .is_some_and(|origin| !is_from(origin, &host))
    {
        return Some("requests from web pages of other origins are refused");
    }
    None
}

fn is_local(host: &str) -> bool {
    let address = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    let name = host.strip_suffix('.').unwrap_or(host);
    address.parse::<std::net::IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost")
}

fn is_from(origin: &http::HeaderValue, host: &Authority) -> bool {
    let origin = origin.to_str().unwrap_or_default();
    origin
        .split_once("://")
        .is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host.as_str()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn refused(method: Method, host: Option<&str>, origin: Option<&str>, loopback: bool) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(host) = host {
            headers.insert(HOST, HeaderValue::from_str(host).unwrap());
        }
        if let Some(origin) = origin {
            headers.insert(ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        refusal(&method, &Uri::from_static("/config"), &headers, loopback).is_some()
    }

    #[test]
    fn only_local_names_on_loopback() {
        for host in [
            "127.0.0.1:9901",
            "localhost:9901",
            "LOCALHOST",
            "[::1]:9901",
            "10.0.0.1",
        ] {
            assert!(!refused(Method::GET, Some(host), None, true), "{host}");
        }
        for host in [
            "evil.example:9901",
            "localhost.evil.example",
            "127.0.0.1.nip.io",
            "",
            "a b",
        ] {
            assert!(refused(Method::GET, Some(host), None, true), "{host}");
        }
        assert!(refused(Method::GET, None, None, true));
    }

    #[test]
    fn any_name_elsewhere() {
        assert!(!refused(
            Method::POST,
            Some("sidecar.example:9901"),
            None,
            false
        ));
    }

    #[test]
    fn pages_may_not_post() {
        let host = Some("127.0.0.1:9901");
        assert!(refused(
            Method::POST,
            host,
            Some("https://evil.example"),
            true
        ));
        assert!(refused(Method::POST, host, Some("null"), true));
        assert!(!refused(
            Method::POST,
            host,
            Some("http://127.0.0.1:9901"),
            true
        ));
        assert!(!refused(
            Method::GET,
            host,
            Some("https://evil.example"),
            true
        ));
    }
}
