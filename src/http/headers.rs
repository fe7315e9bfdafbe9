//! Headers that a proxy takes away, adds or watches.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{
    fields::{Fields, Place},
    name::{self, Kind},
};
use crate::config::model::ForwardedHeaders;

/// How often one `Via` pseudonym may stand in a request: a pod may pass its own sidecar once on
/// the way out and once on the way in, and three times is a loop.
const LOOP: usize = 3;
/// What speaks for the client, or says it does.
const FORWARDING: u32 = Kind::Forwarded.bit() | Kind::XForwarded.bit();
/// Hop-by-hop by themselves (RFC 9110 section 7.6.1).
const HOP_BY_HOP: u32 = Kind::HopByHop.bit()
    | Kind::TransferEncoding.bit()
    | Kind::Upgrade.bit()
    | Kind::Connection.bit();

/// The members of a list: what commas separate, without blanks and empty ones.
pub fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&byte| byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}

/// Drops what concerns one connection only (RFC 9110 section 7.6.1): the names that every line of
/// `Connection` lists, and those that are hop-by-hop by themselves. `TE: trailers` is written
/// again, since it is true of this hop too; gRPC insists on it.
///
/// `Connection` can't remove what says where a message goes or ends.
pub fn strip_hop_by_hop(fields: &mut Fields) {
    if fields.may_have(Kind::Connection.bit()) {
        strip_listed(fields);
    }
    if fields.may_have(Kind::Te.bit()) {
        let trailers = fields.get_all(&name::TE).flat_map(members).any(|coding| {
            let name = coding.split(|&byte| byte == b';').next();
            name.unwrap_or_default()
                .trim_ascii()
                .eq_ignore_ascii_case(b"trailers")
        });
        fields.remove(&name::TE);
        if trailers {
            fields.append(&name::TE, b"trailers");
        }
    }
    if fields.may_have(HOP_BY_HOP) {
        fields.remove_if(|_, kind| kind.bit() & HOP_BY_HOP != 0);
    }
}

fn strip_listed(fields: &mut Fields) {
    const KEPT: u32 = Kind::Host.bit()
        | Kind::ContentLength.bit()
        | Kind::TransferEncoding.bit()
        | Kind::Upgrade.bit()
        | Kind::Te.bit()
        | Kind::Trailer.bit()
        | Kind::Via.bit();
    let usual = |option: &[u8]| {
        option.eq_ignore_ascii_case(b"keep-alive") || option.eq_ignore_ascii_case(b"close")
    };
    // Nearly always there is none.
    let listed: Vec<Box<[u8]>> = fields
        .get_all(&name::CONNECTION)
        .flat_map(members)
        .filter(|option| !usual(option) && Kind::of(option).bit() & KEPT == 0)
        .map(Box::from)
        .collect();
    if !listed.is_empty() {
        fields.remove_if(|name, _| listed.iter().any(|gone| name.eq_ignore_ascii_case(gone)));
    }
}

/// Drops `x-pillion-*`: only a trusted peer may speak in our name.
pub fn strip_ours(fields: &mut Fields) {
    if fields.may_have(Kind::XPillion.bit()) {
        fields.remove_if(|_, kind| kind == Kind::XPillion);
    }
}

/// Attempts that proxies in front have spent on the request.
pub fn previous_attempts(fields: &Fields) -> u8 {
    if !fields.may_have(Kind::XPillion.bit()) {
        return 0;
    }
    attempts(fields.get(&name::X_PILLION_PREVIOUS_ATTEMPTS))
}

/// A count of attempts as another Pillion writes it; 0 where there is none.
pub fn attempts(value: Option<&[u8]>) -> u8 {
    let text = value.and_then(|value| str::from_utf8(value).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// How long the peer says that it keeps an idle connection: `Keep-Alive: timeout=5, max=100`, in
/// seconds (RFC 2068 section 19.7.1.1; servers write it still).
pub fn keep_alive(fields: &Fields) -> Option<Duration> {
    let value = fields.get(&name::KEEP_ALIVE)?;
    members(value).find_map(|member| {
        let (key, seconds) = str::from_utf8(member).ok()?.split_once('=')?;
        let seconds: u32 = seconds.trim().trim_matches('"').parse().ok()?;
        let is_timeout = key.trim().eq_ignore_ascii_case("timeout");
        is_timeout.then(|| Duration::from_secs(seconds.into()))
    })
}

/// How long a client says it will wait: milliseconds, or a number with a unit.
pub fn patience(value: &[u8]) -> Option<Duration> {
    let text = str::from_utf8(value.trim_ascii()).ok()?;
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let number: u32 = digits.parse().ok()?;
    Some(match unit {
        "" | "ms" => Duration::from_millis(number.into()),
        "s" => Duration::from_secs(number.into()),
        "m" => Duration::from_secs(u64::from(number) * 60),
        _ => return None,
    })
}

/// Whether the request has been here so often that it must be going round.
pub fn is_loop(fields: &Fields, pseudonym: &str) -> bool {
    let lines = fields.get_all(&name::VIA);
    let entries = lines
        .filter_map(|line| str::from_utf8(line).ok())
        .flat_map(|line| line.split(','));
    // `received-protocol received-by [comment]` (RFC 9110 section 7.6.3)
    entries
        .filter(|entry| entry.split_ascii_whitespace().nth(1) == Some(pseudonym))
        .count()
        >= LOOP
}

/// Who the request comes from where `hops` proxies in front are trusted: each of them appended whom
/// it had it from, so it is that many from the right of `X-Forwarded-For`. What stands before that
/// anybody may have written. `None` if there are fewer, or no address in that place.
pub fn client(fields: &Fields, hops: u8) -> Option<IpAddr> {
    let mut lines: Vec<&[u8]> = fields.get_all(&name::X_FORWARDED_FOR).collect();
    lines.reverse();
    let mut entries = lines
        .into_iter()
        .flat_map(|line| line.rsplit(|&byte| byte == b','));
    let entry = entries.nth(usize::from(hops.checked_sub(1)?))?;
    let entry = str::from_utf8(entry.trim_ascii()).ok()?;
    let with_port = || Some(entry.parse::<SocketAddr>().ok()?.ip());
    entry.parse().ok().or_else(with_port)
}

/// What is told of the client to the upstream.
#[derive(Debug)]
pub struct Forwarding<'a> {
    pub style: ForwardedHeaders,
    /// Whether the peer may have told it already.
    pub trusted: bool,
    /// `None` for a Unix socket.
    pub client: Option<IpAddr>,
    /// `client` as text, made once a connection.
    pub client_text: &'a str,
    /// Where it stands in the fields.
    pub host: Option<Place>,
    /// In which it came here.
    pub scheme: &'a str,
}

/// Writes `X-Forwarded-*` and `Forwarded` (RFC 7239). Lines of a peer that is not trusted are
/// dropped first, whichever style is written.
pub fn forward(fields: &mut Fields, forwarding: &Forwarding<'_>) {
    if fields.may_have(FORWARDING) && !forwarding.trusted {
        for name in [
            name::X_FORWARDED_FOR,
            name::X_FORWARDED_PROTO,
            name::X_FORWARDED_HOST,
            name::FORWARDED,
        ] {
            fields.remove(&name);
        }
    }
    let (x_forwarded, forwarded) = match forwarding.style {
        ForwardedHeaders::XForwarded => (true, false),
        ForwardedHeaders::Forwarded => (false, true),
        ForwardedHeaders::Both => (true, true),
        ForwardedHeaders::Off => (false, false),
    };
    if x_forwarded {
        if forwarding.client.is_some() {
            join(
                fields,
                name::X_FORWARDED_FOR,
                forwarding.client_text.as_bytes(),
            );
        }
        if !fields.contains(&name::X_FORWARDED_PROTO) {
            fields.append(&name::X_FORWARDED_PROTO, forwarding.scheme.as_bytes());
        }
        if let Some(host) = forwarding.host
            && !fields.contains(&name::X_FORWARDED_HOST)
        {
            fields.append_copy(&name::X_FORWARDED_HOST, host);
        }
    }
    if forwarded {
        let element = element(fields, forwarding);
        join(fields, name::FORWARDED, element.as_bytes());
    }
}

fn element(fields: &Fields, forwarding: &Forwarding<'_>) -> String {
    let scheme = forwarding.scheme;
    let node = match forwarding.client {
        Some(IpAddr::V4(ip)) => ip.to_string(),
        Some(IpAddr::V6(ip)) => format!("\"[{ip}]\""),
        None => "unknown".to_owned(),
    };
    match forwarding
        .host
        .and_then(|host| str::from_utf8(fields.at(host)).ok())
    {
        Some(host) => format!("for={node};host=\"{host}\";proto={scheme}"),
        None => format!("for={node};proto={scheme}"),
    }
}

/// Adds `value` at the end of a list, all in one line: some applications read only the first.
pub fn join(fields: &mut Fields, name: name::Name, value: &[u8]) {
    if !fields.contains(&name) {
        return fields.append(&name, value);
    }
    let mut joined = Vec::new();
    for line in fields.get_all(&name) {
        joined.extend_from_slice(line);
        joined.extend_from_slice(b", ");
    }
    joined.extend_from_slice(value);
    fields.insert(&name, &joined);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(fields: &Fields) -> Vec<String> {
        let mut names: Vec<String> = fields
            .iter()
            .map(|(name, _)| String::from_utf8_lossy(name).to_ascii_lowercase())
            .collect();
        names.sort_unstable();
        names
    }

    fn value(fields: &Fields, name: &name::Name) -> String {
        String::from_utf8_lossy(fields.get(name).unwrap()).into_owned()
    }

    #[test]
    fn every_connection_line_counts() {
        let mut headers = Fields::from_iter([
            ("connection", "close, x-a"),
            ("connection", "X-B"),
            ("x-a", "1"),
            ("x-b", "2"),
            ("x-c", "3"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "h2c"),
            ("te", "gzip, Trailers;q=0.5"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(names(&headers), ["te", "x-c"]);
        assert_eq!(value(&headers, &name::TE), "trailers");
    }

    #[test]
    fn connection_cannot_remove_host_or_framing() {
        let mut headers = Fields::from_iter([
            ("connection", "host, content-length, via"),
            ("host", "a"),
            ("content-length", "3"),
            ("via", "1.1 x"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(names(&headers), ["content-length", "host", "via"]);
    }

    #[test]
    fn how_long_a_connection_is_kept() {
        let kept = |value| {
            let kept = keep_alive(&Fields::from_iter([("Keep-Alive", value)]));
            kept.map(|kept| kept.as_secs())
        };
        assert_eq!(kept("timeout=5"), Some(5));
        assert_eq!(kept("max=100, Timeout = \"15\""), Some(15));
        for none in ["", "timeout", "timeout=-1", "timeout=soon", "max=7"] {
            assert_eq!(kept(none), None, "{none}");
        }
        assert_eq!(keep_alive(&Fields::default()), None);
    }

    #[test]
    fn the_third_time_is_a_loop() {
        let twice = Fields::from_iter([("via", "1.1 p, 1.1 other, 2 p (x)")]);
        assert!(!is_loop(&twice, "p"));
        let thrice = Fields::from_iter([("via", "1.1 p, 1.1 p"), ("via", "1.1 p")]);
        assert!(is_loop(&thrice, "p"));
        assert!(!is_loop(&thrice, "other"));
    }

    #[test]
    fn an_untrusted_peer_is_not_believed() {
        let mut headers = Fields::from_iter([
            ("host", "h:80"),
            ("x-forwarded-for", "6.6.6.6"),
            ("forwarded", "for=6.6.6.6"),
        ]);
        let forwarding = Forwarding {
            style: ForwardedHeaders::Both,
            trusted: false,
            client: Some([127, 0, 0, 1].into()),
            client_text: "127.0.0.1",
            host: headers.place(&name::HOST),
            scheme: "http",
        };
        forward(&mut headers, &forwarding);
        assert_eq!(value(&headers, &name::X_FORWARDED_FOR), "127.0.0.1");
        assert_eq!(value(&headers, &name::X_FORWARDED_HOST), "h:80");
        assert_eq!(
            value(&headers, &name::FORWARDED),
            "for=127.0.0.1;host=\"h:80\";proto=http"
        );
        forward(
            &mut headers,
            &Forwarding {
                trusted: true,
                ..forwarding
            },
        );
        assert_eq!(
            value(&headers, &name::X_FORWARDED_FOR),
            "127.0.0.1, 127.0.0.1"
        );
    }

    #[test]
    fn the_client_is_as_many_from_the_right_as_proxies_are_trusted() {
        let headers = Fields::from_iter([
            ("x-forwarded-for", "6.6.6.6, 10.0.0.1"),
            ("x-forwarded-for", "[2001:db8::1]:443,10.0.0.3"),
        ]);
        let client = |hops| client(&headers, hops).map(|ip| ip.to_string());
        assert_eq!(client(0), None);
        assert_eq!(client(1).as_deref(), Some("10.0.0.3"));
        assert_eq!(client(2).as_deref(), Some("2001:db8::1"));
        assert_eq!(client(3).as_deref(), Some("10.0.0.1"));
        assert_eq!(client(5), None, "fewer than are trusted");
        let odd = Fields::from_iter([("x-forwarded-for", "unknown")]);
        assert_eq!(super::client(&odd, 1), None);
    }
}
