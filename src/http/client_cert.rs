//! `X-Forwarded-Client-Cert`: who the client has proven to be, for an application that has no
//! certificates of its own.
//!
//! The form is the one that applications know from other proxies: elements joined by commas, each
//! `By=…;Hash=…;Subject="…";URI=…;DNS=…`, of which what is not known is left out. Anybody could
//! write such a line: one is believed only from a client that has shown a certificate itself, and
//! only where the configuration says so.

use std::fmt::Write as _;

use super::{
    fields::Fields,
    headers,
    name::{self, Kind},
};
use crate::{config::model::ForwardedClientCert, hex, tls::Certificate};

/// One element: what `peer` has shown to `own`.
pub(super) fn element(own: Option<&Certificate>, peer: &Certificate) -> String {
    let mut text = String::new();
    if let Some(id) = own.and_then(|own| own.spiffe.as_ref()) {
        let _ = write!(text, "By={id};");
    }
    text.push_str("Hash=");
    for byte in peer.fingerprint {
        text.extend(hex::lower(byte).map(char::from));
    }
    text.push_str(";Subject=\"");
    for char in peer.subject.chars() {
        match char {
            '"' | '\\' => text.extend(['\\', char]),
            // No name that an authority has signed may end the line.
            char if char.is_ascii_control() || !char.is_ascii() => text.push('?'),
            char => text.push(char),
        }
    }
    text.push('"');
    if let Some(id) = &peer.spiffe {
        let _ = write!(text, ";URI={id}");
    }
    for name in &peer.dns_names {
        let _ = write!(text, ";DNS={name}");
    }
    text
}

/// Does with the line what the listener says. `element`: what the client has shown; `None` if
/// nothing.
pub(super) fn apply(fields: &mut Fields, mode: ForwardedClientCert, element: Option<&str>) {
    let believed = element.is_some()
        && matches!(
            mode,
            ForwardedClientCert::Append | ForwardedClientCert::Forward
        );
    if !believed && fields.may_have(Kind::XForwarded.bit()) {
        fields.remove(&name::X_FORWARDED_CLIENT_CERT);
    }
    let told = matches!(mode, ForwardedClientCert::Set | ForwardedClientCert::Append);
    if let Some(element) = element.filter(|_| told) {
        headers::join(fields, name::X_FORWARDED_CLIENT_CERT, element.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::UnixTime;

    use super::*;

    fn peer() -> Certificate {
        Certificate {
            spiffe: Some("spiffe://d/ns/n/sa/a".parse().unwrap()),
            dns_names: ["a.example".into()].into(),
            subject: "CN=a \"b\"\r\nx: y".into(),
            issuer: "CN=ca".into(),
            serial: "1".into(),
            not_before: UnixTime::now(),
            not_after: UnixTime::now(),
            fingerprint: [0xab; 32],
        }
    }

    #[test]
    fn an_element_tells_all_that_is_known_and_ends_no_line() {
        let text = element(Some(&peer()), &peer());
        let hash = "ab".repeat(32);
        assert_eq!(
            text,
            format!(
                "By=spiffe://d/ns/n/sa/a;Hash={hash};Subject=\"CN=a \\\"b\\\"??x: y\";\
                 URI=spiffe://d/ns/n/sa/a;DNS=a.example"
            )
        );
    }

    #[test]
    fn a_line_is_believed_from_the_authenticated_and_by_choice_only() {
        use ForwardedClientCert::{Append, Forward, Sanitize, Set};
        let cases = [
            (Sanitize, Some("own"), None),
            (Sanitize, None, None),
            (Set, Some("own"), Some("own")),
            (Set, None, None),
            (Append, Some("own"), Some("theirs, own")),
            (Append, None, None),
            (Forward, Some("own"), Some("theirs")),
            (Forward, None, None),
        ];
        for (mode, element, expected) in cases {
            let mut fields = Fields::from_iter([("x-forwarded-client-cert", "theirs")]);
            apply(&mut fields, mode, element);
            let found = fields.get(&name::X_FORWARDED_CLIENT_CERT);
            assert_eq!(found, expected.map(str::as_bytes), "{mode:?} {element:?}");
        }
    }
}
