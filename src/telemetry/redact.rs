//! What must not be shown: credentials in headers, in queries and before hosts, left out of the access log and
//! of spans.
//!
//! Names are compared as an application would read them: without regard to case, and decoded where
//! they are percent-encoded. Where servers differ on where a value ends, the longer reading holds:
//! too much is left out rather than too little.

use std::borrow::Cow;

use memchr::{memchr, memchr_iter, memchr2, memchr3, memmem, memrchr};
use serde::Serialize;

use crate::hex;

/// Stands in the place of a value.
pub const REDACTED: &[u8] = b"REDACTED";

/// The names whose values are not shown; made when a configuration is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Redaction {
    /// In lower case, as `query_parameters`.
    headers: Vec<Box<str>>,
    /// The shorter ones first.
    query_parameters: Vec<Box<str>>,
    /// Bit n: a parameter's name has n bytes, or 63 and more.
    #[serde(skip)]
    lengths: u64,
}

impl Redaction {
    /// Of these names; their case means nothing.
    pub fn new<'a>(
        headers: impl IntoIterator<Item = &'a str>,
        query_parameters: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        fn set<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<Box<str>> {
            let lower = |name: &str| name.to_ascii_lowercase().into_boxed_str();
            let mut names: Vec<_> = names.into_iter().map(lower).collect();
            names.sort_unstable_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
            names.dedup();
            names
        }
        let query_parameters = set(query_parameters);
        let lengths = query_parameters.iter().map(|name| length_bit(name.len()));
        Self {
            headers: set(headers),
            lengths: lengths.fold(0, |bits, bit| bits | bit),
            query_parameters,
        }
    }

    /// A query, without the `?` before it, as it may be shown: `a=1&token=x` as
    /// `a=1&token=REDACTED`. Borrowed where there is nothing to hide.
    pub fn query<'a>(&self, query: &'a [u8]) -> Cow<'a, [u8]> {
        self.shown(query, 0)
    }

    /// The same for a path with a query, or a whole URI; its fragment is looked at too.
    pub fn target<'a>(&self, target: &'a [u8]) -> Cow<'a, [u8]> {
        match memchr2(b'?', b'#', target) {
            Some(at) => self.shown(target, at + 1),
            None => anonymous(target, target.len()),
        }
    }

    /// The value of a header as it may be shown. Of those that may be, what looks like a query in
    /// them is looked at: `Referer` and `Location` are URIs.
    pub fn header<'a>(&self, name: &str, value: &'a [u8]) -> Cow<'a, [u8]> {
        let hidden = self.headers.iter();
        if hidden
            .into_iter()
            .any(|hidden| hidden.eq_ignore_ascii_case(name))
        {
            return Cow::Borrowed(REDACTED);
        }
        self.target(value)
    }

    /// `text`, whose query begins at `start`. That comes first: what it hides may hold a user.
    fn shown<'a>(&self, text: &'a [u8], start: usize) -> Cow<'a, [u8]> {
        match self.rest(text, start) {
            Cow::Borrowed(text) => anonymous(text, start),
            Cow::Owned(text) => Cow::Owned(anonymous(&text, start).into_owned()),
        }
    }

    /// `text` with what is hidden from `start` on replaced.
    fn rest<'a>(&self, text: &'a [u8], start: usize) -> Cow<'a, [u8]> {
        let mut shown: Option<Vec<u8>> = None;
        // Up to where `shown` has it all.
        let mut copied = 0;
        let mut at = start;
        while at <= text.len() {
            let end = memchr(b'&', &text[at..]).map_or(text.len(), |length| at + length);
            if let Some(value) = self.hidden_value(&text[at..end]) {
                let shown = shown.get_or_insert_with(|| Vec::with_capacity(text.len()));
                shown.extend_from_slice(&text[copied..at + value]);
                shown.extend_from_slice(REDACTED);
                copied = end;
            }
            at = end + 1;
        }
        match shown {
            Some(mut shown) => {
                shown.extend_from_slice(&text[copied..]);
                Cow::Owned(shown)
            }
            None => Cow::Borrowed(text),
        }
    }

    /// Where in what stands between two `&` a value begins that is not to be shown.
    fn hidden_value(&self, piece: &[u8]) -> Option<usize> {
        let mut at = 0;
        loop {
            let rest = &piece[at..];
            let end = soft_end(rest);
            let part = &rest[..end.unwrap_or(rest.len())];
            if let Some(name) = memchr(b'=', part)
                && self.hides(&part[..name])
            {
                return Some(at + name + 1);
            }
            if let Some(value) = self.encoded_value(part) {
                return Some(at + value);
            }
            at += end? + 1;
        }
    }

    /// The same in a URI that is a value, and encoded: `next=%2Fa%3Ftoken%3Dx`.
    fn encoded_value(&self, part: &[u8]) -> Option<usize> {
        let mut start = 0;
        for at in memchr_iter(b'%', part) {
            let Some([high, low]) = part.get(at + 1..at + 3) else {
                break;
            };
            match [*high, low.to_ascii_uppercase()] {
                [b'3', b'D'] => {
                    let name = &part[start..at];
                    let name = memrchr(b'=', name).map_or(name, |equals| &name[equals + 1..]);
                    if self.hides(name) {
                        return Some(at + 3);
                    }
                    start = at + 3;
                }
                // `?`, `;`, `#` and `&`.
                [b'3', b'F' | b'B'] | [b'2', b'3' | b'6'] => start = at + 3,
                _ => {}
            }
        }
        None
    }

    /// Whether this is the name of a parameter that is not to be shown, or of a place in a list or
    /// map: `token[]`, `user[token]`.
    fn hides(&self, name: &[u8]) -> bool {
        if memchr3(b'%', b'+', b'[', name).is_none() {
            return self.has(name);
        }
        let name = decoded(name);
        let mut parts = name.split(|byte| matches!(byte, b'[' | b']'));
        self.has(&name) || parts.any(|part| self.has(part))
    }

    fn has(&self, name: &[u8]) -> bool {
        if self.lengths & length_bit(name.len()) == 0 {
            return false;
        }
        let hidden = &self.query_parameters;
        let first = hidden.partition_point(|hidden| hidden.len() < name.len());
        let mut alike = hidden[first..]
            .iter()
            .take_while(|hidden| hidden.len() == name.len());
        alike.any(|hidden| hidden.as_bytes().eq_ignore_ascii_case(name))
    }
}

/// What some servers take for the end of a parameter as well, and what begins a query or a fragment
/// inside a value that is a URI itself.
fn soft_end(piece: &[u8]) -> Option<usize> {
    memchr3(b';', b'?', b'#', piece)
}

/// `text` without the user information of URIs in it (RFC 3986, section 3.2.1). From `query` on a `&`
/// ends them.
fn anonymous(text: &[u8], query: usize) -> Cow<'_, [u8]> {
    if memchr(b'@', text).is_none() {
        return Cow::Borrowed(text);
    }
    let mut shown = Vec::with_capacity(text.len());
    let mut copied = 0;
    for scheme in memmem::find_iter(text, b"://") {
        let start = scheme + 3;
        let ends = |byte: &u8| match byte {
            b'/' | b'?' | b'#' | b'\\' | b'"' | b'<' | b'>' => true,
            b'&' => start >= query,
            _ => byte.is_ascii_whitespace(),
        };
        let length = text[start..].iter().position(ends);
        let authority = &text[start..length.map_or(text.len(), |length| start + length)];
        if let Some(user) = memrchr(b'@', authority) {
            shown.extend_from_slice(&text[copied..start]);
            shown.extend_from_slice(REDACTED);
            copied = start + user;
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    shown.extend_from_slice(&text[copied..]);
    Cow::Owned(shown)
}

fn length_bit(length: usize) -> u64 {
    1 << length.min(63)
}

/// A name as the application reads it. What is no escape stands for itself.
fn decoded(name: &[u8]) -> Vec<u8> {
    let mut out = hex::decoded(name);
    // Spaces around a name are none of it for some servers.
    let plus_or_space = |byte: &u8| matches!(byte, b'+' | b' ');
    let start = out.iter().take_while(|byte| plus_or_space(byte)).count();
    let end = out
        .iter()
        .rev()
        .take_while(|byte| plus_or_space(byte))
        .count();
    out.truncate(out.len().saturating_sub(end));
    out.drain(..start.min(out.len()));
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn redaction() -> Redaction {
        Redaction::new(
            ["Authorization", "x-api-key"],
            ["token", "Access_Token", "sig"],
        )
    }

    fn shown(query: &str) -> String {
        String::from_utf8(redaction().query(query.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn values_of_named_parameters_are_replaced() {
        for (query, expected) in [
            ("", ""),
            ("a=1&b=2", "a=1&b=2"),
            ("token=x", "token=REDACTED"),
            ("token=", "token=REDACTED"),
            ("token", "token"),
            ("a=1&token=x=y&b=2", "a=1&token=REDACTED&b=2"),
            ("token=x&token=y&", "token=REDACTED&token=REDACTED&"),
            ("&&sig=1&&", "&&sig=REDACTED&&"),
            ("tokens=1&atoken=2&toke=3", "tokens=1&atoken=2&toke=3"),
        ] {
            assert_eq!(shown(query), expected, "{query}");
        }
    }

    #[test]
    fn a_name_is_compared_as_an_application_reads_it() {
        for (query, expected) in [
            ("TOKEN=x", "TOKEN=REDACTED"),
            ("access_token=x", "access_token=REDACTED"),
            ("%74oken=x", "%74oken=REDACTED"),
            ("acc%45ss%5Ftoken=x", "acc%45ss%5Ftoken=REDACTED"),
            ("+token%20=x", "+token%20=REDACTED"),
            ("tok%zzen=x", "tok%zzen=x"),
            ("token%=x&token%7=y", "token%=x&token%7=y"),
            ("%20=x&+=y", "%20=x&+=y"),
        ] {
            assert_eq!(shown(query), expected, "{query}");
        }
    }

    #[test]
    fn lists_maps_and_encoded_uris_are_looked_into() {
        for (query, expected) in [
            ("token[]=x&token[0]=y", "token[]=REDACTED&token[0]=REDACTED"),
            ("token%5B%5D=x&b=1", "token%5B%5D=REDACTED&b=1"),
            (
                "a[token]=x&a%5bsig%5d[]=y",
                "a[token]=REDACTED&a%5bsig%5d[]=REDACTED",
            ),
            ("tokens[]=x&[]=y", "tokens[]=x&[]=y"),
            (
                "next=%2Fx%3Fa%3D1%26token%3dsecret%26b%3D2&c=3",
                "next=%2Fx%3Fa%3D1%26token%3dREDACTED&c=3",
            ),
            ("next=token%3Dx", "next=token%3DREDACTED"),
            ("next=%3Ftoken%5B%5D%3Dx", "next=%3Ftoken%5B%5D%3DREDACTED"),
            ("next=%3Fa%3Dtoken&b=%3", "next=%3Fa%3Dtoken&b=%3"),
        ] {
            assert_eq!(shown(query), expected, "{query}");
        }
    }

    #[test]
    fn users_of_uris_are_not_shown() {
        for (text, expected) in [
            ("https://u:secret@x/", "https://REDACTED@x/"),
            ("https://u:p@q&r@x:1?a=b", "https://REDACTED@x:1?a=b"),
            ("https://x/me@example", "https://x/me@example"),
            ("https://x?to=me@example", "https://x?to=me@example"),
            (
                "/a?next=http://u@x&to=me@example",
                "/a?next=http://REDACTED@x&to=me@example",
            ),
            (
                "/a?next=http://x&to=me@example",
                "/a?next=http://x&to=me@example",
            ),
            ("/a?token=http://u@x&b=1", "/a?token=REDACTED&b=1"),
            (
                "<http://a@x>, <http://b@y>",
                "<http://REDACTED@x>, <http://REDACTED@y>",
            ),
        ] {
            let shown = redaction().target(text.as_bytes()).into_owned();
            assert_eq!(String::from_utf8(shown).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn where_servers_differ_more_is_hidden() {
        for (query, expected) in [
            // A `;` is a separator, or part of the value.
            ("a=1;token=x&b=2", "a=1;token=REDACTED&b=2"),
            ("token=x;y&b=2", "token=REDACTED&b=2"),
            // A URI in a value.
            ("next=/a?token=x&b=2", "next=/a?token=REDACTED&b=2"),
            ("a=b=c;d=e?sig=f#g", "a=b=c;d=e?sig=REDACTED"),
        ] {
            assert_eq!(shown(query), expected, "{query}");
        }
    }

    #[test]
    fn nothing_is_copied_where_nothing_is_hidden() {
        let redaction = redaction();
        assert!(matches!(redaction.query(b"a=1&b"), Cow::Borrowed(_)));
        assert!(matches!(redaction.target(b"/token=x"), Cow::Borrowed(_)));
        assert!(matches!(redaction.target(b"/a?b=1#c"), Cow::Borrowed(_)));
        let none = Redaction::default();
        assert!(matches!(none.query(b"token=x"), Cow::Borrowed(_)));
    }

    #[test]
    fn targets_and_headers() {
        let redaction = redaction();
        let target = |text: &str| redaction.target(text.as_bytes()).into_owned();
        assert_eq!(target("/a&token=b?token=c"), b"/a&token=b?token=REDACTED");
        assert_eq!(
            target("https://x.example/cb#access_token=c&b=1"),
            b"https://x.example/cb#access_token=REDACTED&b=1"
        );
        let header = |name, value: &str| redaction.header(name, value.as_bytes()).into_owned();
        assert_eq!(header("authorization", "Basic abc"), REDACTED);
        assert_eq!(header("X-API-Key", "abc"), REDACTED);
        assert_eq!(header("accept", "text/html"), b"text/html");
        assert_eq!(
            header("referer", "http://a/?sig=1"),
            b"http://a/?sig=REDACTED"
        );
    }

    #[test]
    fn long_names_are_compared_too() {
        let long = "n".repeat(80);
        let redaction = Redaction::new([], [long.as_str()]);
        let query = format!("{long}=1&{long}n=2");
        let expected = format!("{long}=REDACTED&{long}n=2");
        assert_eq!(*redaction.query(query.as_bytes()), *expected.as_bytes());
    }

    proptest! {
        #[test]
        fn no_value_of_a_token_is_left(before in "[a-z=&;?#%+]{0,12}", after in "[a-z=&;?#%+]{0,12}") {
            let query = format!("{before}&ToK%65n=SECRET{after}");
            let text = shown(&query);
            prop_assert!(!text.contains("SECRET"), "{} from {}", text, query);
            prop_assert!(text.starts_with(&before) || shown(&before) != before);
        }

        #[test]
        fn hostile_bytes_do_no_harm(query in prop::collection::vec(any::<u8>(), 0..64)) {
            redaction().target(&query);
            redaction().query(&query);
        }

        #[test]
        fn hiding_twice_hides_the_same(query in "[a-z=&;?#%+]{0,6}(token|sig)[=;&%][a-z=&;?#%+]{0,12}") {
            let once = shown(&query);
            prop_assert_eq!(shown(&once), once);
        }
    }
}
