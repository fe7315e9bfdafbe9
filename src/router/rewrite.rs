//! What filters do to a request: headers, path, redirect.

use http::{
    HeaderValue,
    header::InvalidHeaderValue,
    uri::{InvalidUri, PathAndQuery},
};

use crate::{
    config::model::{HeaderEdits, PathRewrite, Redirect},
    http::fields::Fields,
};

/// Removes, sets and adds, in this order.
pub fn edit_headers(edits: &HeaderEdits, fields: &mut Fields) {
    for name in &edits.remove {
        fields.remove(name);
    }
    for (name, value) in &edits.set {
        fields.insert(name, value.as_bytes());
    }
    for (name, value) in &edits.add {
        fields.append(name, value.as_bytes());
    }
}

/// The new target of a request: `path`, rewritten, with its query.
///
/// `prefix` is how many bytes of `path` the rule's match covered
/// ([`Found::prefix`](super::Found)). Fails if the replacement is no path.
///
/// ```
/// # use pillion::{config::model::PathRewrite, router::rewrite_path};
/// let rewrite = PathRewrite::Prefix("/v2".into());
/// let target = rewrite_path(&rewrite, "/items/7", "/items".len(), Some("q=1")).unwrap();
/// assert_eq!(target, "/v2/7?q=1");
/// ```
pub fn rewrite_path(
    rewrite: &PathRewrite,
    path: &str,
    prefix: usize,
    query: Option<&str>,
) -> Result<PathAndQuery, InvalidUri> {
    let mut target = String::new();
    push_path(&mut target, Some(rewrite), path, prefix, query);
    PathAndQuery::try_from(target)
}

/// What a redirect can take over from the request.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub scheme: &'a str,
    /// Without its port.
    pub host: &'a str,
    /// The listener's; `None` if it has none (a Unix socket).
    pub port: Option<u16>,
    pub path: &'a str,
    /// Bytes of the path that the match covered.
    pub prefix: usize,
    pub query: Option<&'a str>,
}

/// The `Location` of a redirect.
///
/// As Gateway API's `HTTPRequestRedirectFilter` says: what it doesn't name is the request's; the
/// port is the written one, else the well-known one of a written scheme, else the listener's; a
/// well-known port is left out.
pub fn location(
    redirect: &Redirect,
    request: &Target<'_>,
) -> Result<HeaderValue, InvalidHeaderValue> {
    let scheme = redirect.scheme.as_deref().unwrap_or(request.scheme);
    let implied = redirect
        .scheme
        .as_deref()
        .and_then(well_known_port)
        .or(request.port);
    let port = redirect
        .port
        .or(implied)
        .filter(|&port| well_known_port(scheme) != Some(port));

    let mut url = String::with_capacity(64 + request.path.len());
    url.push_str(scheme);
    url.push_str("://");
    url.push_str(redirect.hostname.as_deref().unwrap_or(request.host));
    if let Some(port) = port {
        url.push(':');
        url.push_str(itoa::Buffer::new().format(port));
    }
    push_path(
        &mut url,
        redirect.path.as_ref(),
        request.path,
        request.prefix,
        request.query,
    );
    HeaderValue::try_from(url)
}

fn push_path(
    out: &mut String,
    rewrite: Option<&PathRewrite>,
    path: &str,
    prefix: usize,
    query: Option<&str>,
) {
    let (replacement, rest) = match rewrite {
        None => ("", path),
        Some(PathRewrite::Full(replacement)) => (&**replacement, ""),
        Some(PathRewrite::Prefix(replacement)) => (
            replacement.trim_end_matches('/'),
            path.get(prefix..).unwrap_or_default(),
        ),
    };
    out.push_str(replacement);
    out.push_str(rest);
    if replacement.is_empty() && rest.is_empty() {
        out.push('/');
    }
    if let Some(query) = query {
        out.push('?');
        out.push_str(query);
    }
}

fn well_known_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, StatusCode};

    use super::*;

    #[test]
    fn prefixes_are_replaced_as_gateway_api_says() {
        for (path, prefix, replacement, wanted) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/bar", "", "/xyz", "/xyz/bar"),
            ("/", "", "/xyz", "/xyz/"),
        ] {
            let rewrite = PathRewrite::Prefix(replacement.into());
            let target = rewrite_path(&rewrite, path, prefix.len(), None).unwrap();
            assert_eq!(target, wanted, "{path} {prefix} {replacement}");
        }
    }

    #[test]
    fn a_full_rewrite_keeps_the_query() {
        let rewrite = PathRewrite::Full("/one".into());
        assert_eq!(
            rewrite_path(&rewrite, "/a/b", 4, Some("c=d&e")).unwrap(),
            "/one?c=d&e"
        );
        assert_eq!(
            rewrite_path(&rewrite, "/a/b", 4, Some("")).unwrap(),
            "/one?"
        );
        assert!(rewrite_path(&PathRewrite::Full("/a b".into()), "/", 1, None).is_err());
    }

    #[test]
    fn headers_are_removed_then_set_then_added() {
        let name = |text: &str| text.parse::<HeaderName>().unwrap();
        let pair = |key: &str, value| (name(key), HeaderValue::from_static(value));
        let lines = [("A", "1"), ("a", "2"), ("b", "1"), ("c", "1")];
        let mut fields = lines.into_iter().collect();
        let edits = HeaderEdits {
            set: vec![pair("a", "3"), pair("d", "1")],
            add: vec![pair("a", "4"), pair("b", "2")],
            remove: vec![name("b"), name("absent")],
        };
        edit_headers(&edits, &mut fields);
        let values = |key: &str| -> Vec<Vec<u8>> {
            fields.get_all(&name(key)).map(<[u8]>::to_vec).collect()
        };
        assert_eq!(values("a"), [b"3", b"4"]);
        assert_eq!(values("b"), [b"2"]);
        assert_eq!(values("c"), [b"1"]);
        assert_eq!(values("d"), [b"1"]);
    }

    #[test]
    fn locations_follow_the_rules_for_ports() {
        let request = Target {
            scheme: "http",
            host: "a.example",
            port: Some(8080),
            path: "/foo/bar",
            prefix: 4,
            query: Some("q"),
        };
        let as_is = Redirect {
            scheme: None,
            hostname: None,
            port: None,
            path: None,
            status: StatusCode::FOUND,
        };
        let at = |scheme: Option<&str>, port, listener| {
            let redirect = Redirect {
                scheme: scheme.map(Into::into),
                port,
                ..as_is.clone()
            };
            location(
                &redirect,
                &Target {
                    port: listener,
                    ..request
                },
            )
            .unwrap()
        };
        assert_eq!(
            at(None, None, Some(8080)),
            "http://a.example:8080/foo/bar?q"
        );
        assert_eq!(at(None, None, Some(80)), "http://a.example/foo/bar?q");
        assert_eq!(at(None, None, None), "http://a.example/foo/bar?q");
        assert_eq!(
            at(Some("https"), None, Some(8080)),
            "https://a.example/foo/bar?q"
        );
        assert_eq!(
            at(Some("https"), Some(443), Some(8080)),
            "https://a.example/foo/bar?q"
        );
        assert_eq!(
            at(Some("https"), Some(80), Some(8080)),
            "https://a.example:80/foo/bar?q"
        );
        assert_eq!(
            at(None, Some(443), Some(8080)),
            "http://a.example:443/foo/bar?q"
        );

        let elsewhere = Redirect {
            hostname: Some("b.example".into()),
            path: Some(PathRewrite::Prefix("/xyz".into())),
            ..as_is
        };
        assert_eq!(
            location(&elsewhere, &request).unwrap(),
            "http://b.example:8080/xyz/bar?q"
        );
    }
}
