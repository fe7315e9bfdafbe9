//! Headers that a line shows, because the configuration names them.

use http::HeaderName;

use super::escape::MAX_VALUE;
use crate::{http::fields::Fields, telemetry::Redaction};

/// What was found of them. Nothing is allocated where none is asked for.
#[derive(Clone, Debug, Default)]
pub struct Headers(Option<Box<Found>>);

#[derive(Clone, Debug, Default)]
struct Found {
    request: Vec<(HeaderName, Box<[u8]>)>,
    response: Vec<(HeaderName, Box<[u8]>)>,
}

impl Headers {
    /// The value of a request's header; several lines of a name are joined with `, `.
    pub(super) fn request(&self, name: &HeaderName) -> Option<&[u8]> {
        find(&self.0.as_ref()?.request, name)
    }

    /// The same of the response.
    pub(super) fn response(&self, name: &HeaderName) -> Option<&[u8]> {
        find(&self.0.as_ref()?.response, name)
    }

    pub(super) fn take_request(
        &mut self,
        wanted: &[HeaderName],
        of: &Fields,
        redaction: &Redaction,
    ) {
        if !wanted.is_empty() {
            self.0.get_or_insert_default().request = take(wanted, of, redaction);
        }
    }

    pub(super) fn take_response(
        &mut self,
        wanted: &[HeaderName],
        of: &Fields,
        redaction: &Redaction,
    ) {
        if !wanted.is_empty() {
            self.0.get_or_insert_default().response = take(wanted, of, redaction);
        }
    }
}

fn find<'a>(found: &'a [(HeaderName, Box<[u8]>)], name: &HeaderName) -> Option<&'a [u8]> {
    let (_, value) = found.iter().find(|(found, _)| found == name)?;
    Some(value)
}

/// Copies what is there, without what must not be shown.
fn take(wanted: &[HeaderName], of: &Fields, redaction: &Redaction) -> Vec<(HeaderName, Box<[u8]>)> {
    let value = |name: &HeaderName| {
        let mut values = of.get_all(name);
        let mut value = redaction.header(name.as_str(), values.next()?);
        for another in values {
            // Beyond it nothing is shown.
            if value.len() > MAX_VALUE {
                break;
            }
            let joined = value.to_mut();
            joined.extend_from_slice(b", ");
            joined.extend_from_slice(&redaction.header(name.as_str(), another));
        }
        // One more, so that it shows that it was cut.
        let shown = value.get(..=MAX_VALUE).unwrap_or(&value);
        Some((name.clone(), shown.into()))
    };
    wanted.iter().filter_map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_found_and_joined() {
        let names = ["x-tenant", "accept", "cookie", "x-none", "referer"];
        let names = names.map(HeaderName::from_static);
        let fields = Fields::from_iter([
            ("X-Tenant", "blue"),
            ("accept", "a"),
            ("Accept", "b"),
            ("cookie", "s=1"),
            ("other", "x"),
            ("referer", "http://x/?token=1&a=2"),
        ]);
        let redaction = Redaction::new(["cookie"], ["token"]);
        let mut headers = Headers::default();
        headers.take_request(&[], &fields, &redaction);
        assert!(headers.0.is_none());
        headers.take_request(&names, &fields, &redaction);
        let [tenant, accept, cookie, none, referer] = &names;
        assert_eq!(headers.request(tenant), Some(&b"blue"[..]));
        assert_eq!(headers.request(accept), Some(&b"a, b"[..]));
        assert_eq!(headers.request(cookie), Some(&b"REDACTED"[..]));
        assert_eq!(headers.request(none), None);
        assert_eq!(
            headers.request(referer),
            Some(&b"http://x/?token=REDACTED&a=2"[..])
        );
        assert_eq!(headers.response(tenant), None);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let name = HeaderName::from_static("x-long");
        let long = "v".repeat(MAX_VALUE);
        let fields = Fields::from_iter([("x-long", &*long), ("x-long", &*long), ("x-long", "w")]);
        let mut headers = Headers::default();
        headers.take_response(std::slice::from_ref(&name), &fields, &Redaction::default());
        assert_eq!(headers.response(&name).unwrap().len(), MAX_VALUE + 1);
    }
}
