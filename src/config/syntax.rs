//! The small languages inside values: addresses, host names, paths, headers, patterns.
//!
//! Each function turns text into the type that the data plane uses, or says what is wrong with
//! it. None looks at anything but its text.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use http::{HeaderName, HeaderValue, Method, Uri, uri::Authority};
use ipnet::IpNet;

use super::{
    model::{Address, Backslash, EndpointAddress, EscapedSlash, Hostname, PathPolicy, Pattern},
    report::{Fault, quote},
};
use crate::{
    router::{PathError, normalize},
    tls::{PeerMatch, SpiffeId, TrustDomain},
};

/// What a compiled regular expression may take, in bytes.
const MAX_PATTERN_SIZE: usize = 1 << 20;

/// `sun_path` of `sockaddr_un`, without its final NUL.
const MAX_UNIX_PATH: usize = 107;

/// Longest name of a thing in the configuration, in bytes.
const MAX_NAME: usize = 128;

/// Headers that frame a message, belong to one connection or name the host (RFC 9110 section
/// 7.6.1, RFC 9113 section 8.2.2).
const UNTOUCHABLE: [&str; 10] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

type Parsed<T> = Result<T, Fault>;

/// A name of a listener, route, rule or upstream: it has to survive logs and labels unquoted.
pub(super) fn name(text: &str) -> Parsed<Arc<str>> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:[]".contains(&byte);
    if text.is_empty() || text.len() > MAX_NAME || !text.bytes().all(legal) {
        return Err(
            Fault::new(format!("{} is not a name", quote(text))).hint(format!(
                "1 to {MAX_NAME} letters, digits and any of - _ . / :"
            )),
        );
    }
    Ok(text.into())
}

/// `IP:port`.
pub(super) fn socket_address(text: &str) -> Parsed<SocketAddr> {
    text.parse().map_err(|_| {
        let fault = Fault::new(format!("{} is not an IP address and a port", quote(text)));
        if let Some(port) = text.strip_prefix("localhost:") {
            fault.hint(format!("write 127.0.0.1:{port}"))
        } else if text.parse::<IpAddr>().is_ok() {
            fault.hint("the port is missing")
        } else if let Some(port) = port_only(text) {
            fault.hint(format!(
                "write 127.0.0.1:{port}, or 0.0.0.0:{port} for every interface"
            ))
        } else {
            fault.hint("for example 127.0.0.1:8080 or [::1]:8080")
        }
    })
}

/// What a listener is bound to: `IP:port` or `unix:PATH`.
pub(super) fn listen_address(text: &str, directory: &Path) -> Parsed<Address> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path, directory).map(Address::Unix);
    }
    socket_address(text).map(Address::Tcp)
}

/// Where an endpoint is.
pub(super) fn endpoint_address(text: &str, directory: &Path) -> Parsed<EndpointAddress> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path, directory).map(EndpointAddress::Unix);
    }
    if let Some(name) = text.strip_prefix("srv:") {
        return dns_name(name).map(|name| EndpointAddress::Srv { name });
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address.port() {
            0 => Err(Fault::new("an endpoint's port can't be 0")),
            _ => Ok(EndpointAddress::Ip(address)),
        };
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        return Err(
            Fault::new(format!("{} is a URL, not an address", quote(text)))
                .hint(without_scheme(scheme, rest)),
        );
    }
    let form = "IP:port, [IPv6]:port, HOST:port, unix:PATH or srv:NAME";
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(Fault::new(format!("the port is missing in {}", quote(text))).hint(form));
    };
    if host.contains(':') {
        return Err(Fault::new(format!("{} is not an address", quote(text)))
            .hint("an IPv6 address needs brackets: [::1]:8080"));
    }
    let port = match port.parse::<u16>() {
        Ok(port) if port != 0 => port,
        _ => return Err(Fault::new(format!("{} is not a port", quote(port))).hint("1 to 65535")),
    };
    if host
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        return Err(Fault::new(format!("{} is not an IP address", quote(host))));
    }
    dns_name(host).map(|host| EndpointAddress::Dns { host, port })
}

/// `*.example.com` or `www.example.com`, in lower case.
pub(super) fn hostname(text: &str) -> Parsed<Hostname> {
    if let Some(rest) = text.strip_prefix("*.") {
        return precise_hostname(rest).map(Hostname::Wildcard);
    }
    if text.contains('*') {
        return Err(Fault::new(format!("{} is not a host name", quote(text))).hint(
            "`*` stands only for the labels in front: *.example.com; leave `hostnames` out for any",
        ));
    }
    precise_hostname(text).map(Hostname::Exact)
}

/// A host name without wildcard or port, in lower case.
pub(super) fn precise_hostname(text: &str) -> Parsed<Arc<str>> {
    if let Some((host, port)) = text.rsplit_once(':')
        && port.bytes().all(|byte| byte.is_ascii_digit())
    {
        return Err(Fault::new(format!("{} has a port", quote(text)))
            .hint(format!("a host name alone: {host}")));
    }
    let text = text.strip_suffix('.').unwrap_or(text);
    if !is_dns_name(text) {
        return Err(Fault::new(format!("{} is not a host name", quote(text)))
            .hint("labels of letters, digits, - and _, joined by dots"));
    }
    Ok(text.to_ascii_lowercase().into())
}

/// A path to match or to send, spelled as requests are (see [`normalize`]).
pub(super) fn path(text: &str) -> Parsed<String> {
    const AS_WRITTEN: PathPolicy = PathPolicy {
        escaped_slash: EscapedSlash::Keep,
        backslash: Backslash::Reject,
        merge_slashes: false,
    };
    let fault = |what: &str| Fault::new(format!("{} is no path: {what}", quote(text)));
    if text.contains(['?', '#']) {
        return Err(fault("it has a query or a fragment")
            .hint("only the path is matched; `queryParams` match the query"));
    }
    match normalize(text, AS_WRITTEN) {
        Ok(normal) if normal.starts_with('/') && !text.is_empty() => Ok(normal.into_owned()),
        Err(PathError::InvalidEscape) => {
            Err(fault("a `%` without two hexadecimal digits").hint("`%` itself is `%25`"))
        }
        Err(PathError::Backslash) => Err(fault("it has a backslash").hint("`\\` is `%5C`")),
        Err(PathError::Forbidden) => {
            Err(fault("it has a space or a control character").hint("a space is `%20`"))
        }
        _ => Err(fault("it does not begin with `/`").hint(format!("write /{text}"))),
    }
}

/// What a request that Pillion makes by itself asks for: a path, and a query if it needs one.
pub(super) fn path_and_query(text: &str) -> Parsed<Arc<str>> {
    let (alone, query) = match text.split_once('?') {
        Some((alone, query)) => (alone, Some(query)),
        None => (text, None),
    };
    let path = path(alone)?;
    let Some(query) = query else {
        return Ok(path.into());
    };
    if !query
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'#')
    {
        return Err(Fault::new(format!("{} has no valid query", quote(text)))
            .hint("printable ASCII; anything else as `%` and two hexadecimal digits"));
    }
    Ok(format!("{path}?{query}").into())
}

/// A host to ask for, with or without a port.
pub(super) fn authority(text: &str) -> Parsed<Arc<str>> {
    let fault = || Fault::new(format!("{} is not a host", quote(text)));
    let authority = Authority::from_str(text).map_err(|_| fault())?;
    if text.contains('@') {
        return Err(fault().hint("a name or an address, with a port if it needs one"));
    }
    Ok(authority.as_str().into())
}

/// A path without the slash at its end, unless that is all there is.
pub(super) fn prefix(text: &str) -> Parsed<Arc<str>> {
    path(text).map(|path| match path.trim_end_matches('/') {
        "" => "/".into(),
        prefix => prefix.into(),
    })
}

/// A regular expression that has to match the whole value.
pub(super) fn pattern(text: &str) -> Parsed<Pattern> {
    // Alone first, so that `a)(b` can't pass by what is put around it.
    let compile = |text: &str| {
        regex::RegexBuilder::new(text)
            .size_limit(MAX_PATTERN_SIZE)
            .dfa_size_limit(MAX_PATTERN_SIZE)
            .build()
    };
    compile(text)
        .and_then(|_| compile(&format!("^(?:{text})$")))
        .map(Pattern)
        .map_err(|error| {
            let fault = Fault::new(format!("{} is not a regular expression", quote(text)));
            match error {
                regex::Error::CompiledTooBig(_) => {
                    Fault::new(format!("regular expression {} is too big", quote(text)))
                        .hint("repetitions such as {1000} are what makes one big")
                }
                // Its last line says what is wrong; the others draw it.
                regex::Error::Syntax(error) => {
                    let line = error.lines().last().unwrap_or_default();
                    fault.hint(line.trim_start_matches("error: ").to_owned())
                }
                _ => fault,
            }
        })
}

/// A header's name.
pub(super) fn header_name(text: &str) -> Parsed<HeaderName> {
    HeaderName::try_from(text).map_err(|_| {
        let fault = Fault::new(format!("{} is not a header name", quote(text)));
        match text.strip_prefix(':') {
            Some("authority") => fault.hint("`hostnames` match the host"),
            Some("path" | "method") => fault.hint("`path` and `method` are keys of a match"),
            _ => fault.hint("letters, digits and -"),
        }
    })
}

/// A header that a match may look at.
pub(super) fn matched_header(text: &str) -> Parsed<HeaderName> {
    let name = header_name(text)?;
    if name == http::header::HOST {
        return Err(Fault::new("`host` can't be matched as a header")
            .hint("HTTP/2 has none; use `hostnames`"));
    }
    Ok(name)
}

/// A header that a filter may change.
pub(super) fn edited_header(text: &str) -> Parsed<HeaderName> {
    let name = header_name(text)?;
    if UNTOUCHABLE.contains(&name.as_str()) {
        let fault = Fault::new(format!("header `{name}` can't be changed"));
        return Err(match name.as_str() {
            "host" => fault.hint("`urlRewrite.hostname` changes the host"),
            _ => fault.hint("it frames the message or belongs to one connection"),
        });
    }
    Ok(name)
}

/// A header's value.
pub(super) fn header_value(text: &str) -> Parsed<HeaderValue> {
    let fault = || Fault::new(format!("{} can't be a header's value", quote(text)));
    if text != text.trim_matches([' ', '\t']) {
        return Err(fault().hint("it begins or ends with a space"));
    }
    HeaderValue::from_str(text)
        .map_err(|_| fault().hint("line ends and control characters are not allowed"))
}

/// A method, which is in upper case by custom and always compared as written.
pub(super) fn method(text: &str) -> Parsed<Method> {
    let fault = || Fault::new(format!("{} is not a method", quote(text)));
    let method = Method::from_bytes(text.as_bytes()).map_err(|_| fault())?;
    if text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err(fault().hint(format!(
            "methods are upper case: {}",
            text.to_ascii_uppercase()
        )));
    }
    Ok(method)
}

/// A namespace: a segment of an identity's path.
pub(super) fn namespace(text: &str) -> Parsed<Arc<str>> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if text.is_empty() || !text.bytes().all(legal) {
        return Err(Fault::new(format!("{} is not a namespace", quote(text)))
            .hint("letters, digits, - _ and . only; patterns belong into `identities`"));
    }
    Ok(text.into())
}

/// An IP address, or a network with its length: `10.0.0.0/8`.
pub(super) fn network(text: &str) -> Parsed<IpNet> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_canonical().into());
    }
    let Ok(network) = text.parse::<IpNet>() else {
        return Err(
            Fault::new(format!("{} is not an IP address or a network", quote(text)))
                .hint("for example 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32"),
        );
    };
    if network.trunc() != network {
        return Err(
            Fault::new(format!("{} has bits behind its length", quote(text))).hint(format!(
                "write {}, or {} for the one address",
                network.trunc(),
                network.addr()
            )),
        );
    }
    Ok(network)
}

/// Where keys are fetched from. Over plain HTTP whoever is on the way could put in their own.
pub(super) fn keys_url(text: &str) -> Parsed<Uri> {
    let fault = |what: &str| Fault::new(format!("{} {what}", quote(text)));
    let uri: Uri = text
        .parse()
        .map_err(|_| fault("is not a URL").hint("for example https://id.example/jwks.json"))?;
    let host = uri.host().unwrap_or_default();
    let loopback = host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return Err(fault("has a user in it"));
    }
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if loopback => Ok(uri),
        Some("http") => Err(fault("would be fetched in the open")
            .hint("keys come over https://, or http:// from loopback")),
        _ => Err(fault("is not a URL").hint("for example https://id.example/jwks.json")),
    }
}

/// A path of the file system, relative ones from the file that names it.
pub(super) fn file_path(text: &str, directory: &Path) -> Parsed<PathBuf> {
    if text.is_empty() || text.contains('\0') {
        return Err(Fault::new(format!("{} is not a path", quote(text))));
    }
    Ok(directory.join(text))
}

/// `unix:PATH` or `unix:///PATH`, as `SPIFFE_ENDPOINT_SOCKET` is written (SPIFFE Workload Endpoint,
/// section 4).
pub(super) fn workload_api(text: &str, directory: &Path) -> Parsed<PathBuf> {
    match text.strip_prefix("unix:") {
        Some(path) => unix_path(path.strip_prefix("//").unwrap_or(path), directory),
        None => Err(Fault::new(format!("{} is not a Unix socket", quote(text)))
            .hint("for example unix:/run/spire/sockets/agent.sock")),
    }
}

/// `spiffe://TRUST-DOMAIN/PATH`.
pub(super) fn spiffe_id(text: &str) -> Parsed<SpiffeId> {
    text.parse().map_err(|error| {
        Fault::new(format!("{} is not a SPIFFE ID: {error}", quote(text)))
            .hint("for example spiffe://prod.example/ns/shop/sa/cart")
    })
}

/// `TRUST-DOMAIN`.
pub(super) fn trust_domain(text: &str) -> Parsed<TrustDomain> {
    text.parse().map_err(|error| {
        Fault::new(format!("{} is not a trust domain: {error}", quote(text)))
            .hint("for example prod.example, without spiffe://")
    })
}

/// Whom a peer has to be.
pub(super) fn peer(text: &str) -> Parsed<PeerMatch> {
    text.parse().map_err(|error| {
        Fault::new(format!("{} names no peer: {error}", quote(text))).hint(
            "for example spiffe://prod.example/ns/shop/sa/cart, spiffe://prod.example/ns/shop/** \
             or spiffe://prod.example",
        )
    })
}

fn unix_path(text: &str, directory: &Path) -> Parsed<PathBuf> {
    let path = file_path(text, directory)?;
    let length = path.as_os_str().len();
    if length > MAX_UNIX_PATH {
        return Err(
            Fault::new(format!("socket path is too long: {length} bytes")).hint(format!(
                "the system allows {MAX_UNIX_PATH}, the directory included"
            )),
        );
    }
    Ok(path)
}

/// A name to resolve. A dot at its end is kept: it keeps search domains away.
fn dns_name(text: &str) -> Parsed<Arc<str>> {
    if !is_dns_name(text.strip_suffix('.').unwrap_or(text)) {
        return Err(Fault::new(format!("{} is not a DNS name", quote(text)))
            .hint("labels of letters, digits, - and _, joined by dots"));
    }
    Ok(text.to_ascii_lowercase().into())
}

fn is_dns_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    text.len() <= 253 && text.split('.').all(label)
}

fn port_only(text: &str) -> Option<u16> {
    text.trim_start_matches(['*', ':']).parse().ok()
}

fn without_scheme(scheme: &str, rest: &str) -> String {
    let authority = rest.split('/').next().unwrap_or_default();
    match (authority.contains(':'), scheme) {
        (false, "http") => format!("write {authority}:80"),
        _ => format!("write {authority}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Result<EndpointAddress, String> {
        endpoint_address(text, Path::new("conf")).map_err(|fault| fault.message)
    }

    #[test]
    fn endpoints_of_every_kind() {
        let dns = |host: &str, port| {
            Ok(EndpointAddress::Dns {
                host: host.into(),
                port,
            })
        };
        assert_eq!(
            endpoint("10.0.0.1:80"),
            Ok(EndpointAddress::Ip(([10, 0, 0, 1], 80).into()))
        );
        assert!(matches!(endpoint("[::1]:80"), Ok(EndpointAddress::Ip(_))));
        assert_eq!(endpoint("App.internal:80"), dns("app.internal", 80));
        assert_eq!(endpoint("app:80"), dns("app", 80));
        assert_eq!(endpoint("app.internal.:80"), dns("app.internal.", 80));
        assert_eq!(
            endpoint("unix:a.sock"),
            Ok(EndpointAddress::Unix("conf/a.sock".into()))
        );
        assert_eq!(
            endpoint("unix:/a.sock"),
            Ok(EndpointAddress::Unix("/a.sock".into()))
        );
        assert_eq!(
            endpoint("srv:_http._tcp.app"),
            Ok(EndpointAddress::Srv {
                name: "_http._tcp.app".into()
            })
        );
    }

    #[test]
    fn endpoints_that_are_none() {
        for text in [
            "",
            "app",
            ":80",
            "10.0.0.1",
            "10.0.0.1:0",
            "10.0.0.1:99999",
            "10.0.0:80",
            "::1:80",
            "http://app:80/",
            "a b:80",
            "-a:80",
            "srv:",
            "unix:",
            "app:http",
            "a..b:80",
        ] {
            assert!(endpoint(text).is_err(), "{text}");
        }
        assert!(endpoint(&format!("unix:/{}", "x".repeat(107))).is_err());
    }

    #[test]
    fn hostnames_are_folded_and_wildcards_lead() {
        assert_eq!(
            hostname("Shop.Example"),
            Ok(Hostname::Exact("shop.example".into()))
        );
        assert_eq!(
            hostname("*.example.com"),
            Ok(Hostname::Wildcard("example.com".into()))
        );
        for text in [
            "*", "a.*.b", "*a.b", "a:80", "", "a b", "*.", "exa mple", "-a", "é",
        ] {
            assert!(hostname(text).is_err(), "{text}");
        }
    }

    #[test]
    fn paths_take_their_normal_form() {
        for (text, normal) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/%7euser/%2f", "/~user/%2F"),
            ("/a//b", "/a//b"),
            ("/a/../b", "/b"),
            ("/é", "/%C3%A9"),
        ] {
            assert_eq!(path(text).as_deref(), Ok(normal));
        }
        for text in [
            "", "a", "*", "/a?b", "/a#b", "/%", "/%4", "/%zz", "/a b", "/a\\b", "/\n",
        ] {
            assert!(path(text).is_err(), "{text}");
        }
        assert_eq!(prefix("/items/").as_deref(), Ok("/items"));
        assert_eq!(prefix("/").as_deref(), Ok("/"));
    }

    #[test]
    fn patterns_are_anchored_and_bounded() {
        let ab = pattern("a|b").unwrap();
        assert!(ab.0.is_match("a") && !ab.0.is_match("ab") && !ab.0.is_match("xa"));
        assert!(pattern("a)(b").is_err());
        assert_eq!(
            pattern("(").unwrap_err().hint.as_deref(),
            Some("unclosed group")
        );
        let big = pattern("(a{1000}){1000}").unwrap_err();
        assert!(big.message.contains("too big"), "{}", big.message);
    }

    #[test]
    fn headers_that_frame_a_message_stay() {
        for name in [
            "Host",
            "connection",
            "Content-Length",
            "transfer-encoding",
            "",
            "a b",
            ":path",
        ] {
            assert!(edited_header(name).is_err(), "{name}");
        }
        assert!(edited_header("X-Any").is_ok());
        assert!(header_value("a\r\nb").is_err());
        assert!(header_value(" a").is_err());
        assert!(matched_header("HOST").is_err());
    }

    #[test]
    fn methods_are_upper_case() {
        assert_eq!(method("GET"), Ok(Method::GET));
        assert!(method("PURGE").is_ok());
        assert!(method("get").is_err() && method("").is_err() && method("A B").is_err());
    }
}
