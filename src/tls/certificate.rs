//! What a certificate says, read once and kept for errors, logs, access rules and clocks.

use std::fmt;

use rustls::pki_types::UnixTime;
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    prelude::{ASN1Time, FromDer},
    public_key::PublicKey,
    x509::X509Name,
};

use super::{sha256, spiffe::SpiffeId};
use crate::hex;

/// The smallest RSA key that is believed, in bits: smaller ones have been within reach for years.
const MIN_RSA: usize = 2048;
/// The tag of a URI among alternative names (RFC 5280 section 4.2.1.6).
const URI: u32 = 6;
/// A name is cut here, in bytes of the longest DNS name.
const MAX_NAME: usize = 253;

/// The facts of one certificate: a peer's, our own or an authority's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The workload's name; never that of an authority.
    pub spiffe: Option<SpiffeId>,
    /// Without control characters, each cut after 253: whoever shows a certificate writes them.
    pub dns_names: Box<[Box<str>]>,
    /// On one line, in its own order: `O=example, CN=web`.
    pub subject: Box<str>,
    pub issuer: Box<str>,
    /// Hexadecimal.
    pub serial: Box<str>,
    /// Valid from this second,
    pub not_before: UnixTime,
    /// to this second.
    pub not_after: UnixTime,
    /// SHA-256 of all of it.
    pub fingerprint: [u8; 32],
}

/// Why a certificate is of no use to anybody, whoever has signed it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("is not a certificate: {0}")]
    Encoding(Box<str>),
    /// It claims to be a SPIFFE identity and breaks the rules of one (X509-SVID, section 4 and 5).
    #[error("is no SPIFFE identity: {0}")]
    Identity(Box<str>),
    #[error("has an RSA key of {0} bits; {MIN_RSA} are the least")]
    WeakKey(usize),
    #[error("is an authority's; a workload or a server must not show it")]
    Authority,
}

impl Certificate {
    /// Reads the certificate that a workload or a server shows, with the rules for those.
    pub fn leaf(der: &[u8]) -> Result<Self, Unfit> {
        let parsed = parse(der)?;
        if parsed.is_ca() {
            return Err(Unfit::Authority);
        }
        if let Some(bits) = rsa_bits(&parsed).filter(|&bits| bits < MIN_RSA) {
            return Err(Unfit::WeakKey(bits));
        }
        let spiffe = identity(&parsed)?;
        Ok(Self {
            spiffe,
            ..Self::facts(der, &parsed)?
        })
    }

    /// Reads any other, that of an authority above all.
    pub fn any(der: &[u8]) -> Result<Self, Unfit> {
        Self::facts(der, &parse(der)?)
    }

    /// Whether `now` lies in its window.
    /// The name that a person knows it by: its SPIFFE ID, a DNS name, or its subject.
    pub fn name(&self) -> &str {
        match (&self.spiffe, self.dns_names.first()) {
            (Some(id), _) => id.as_str(),
            (None, Some(name)) => name,
            (None, None) => &self.subject,
        }
    }

    pub fn is_current(&self, now: UnixTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Whether it vouches for itself, as far as its names say.
    pub(super) fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    /// Its window and our clock, for a sentence: `valid from A to B, and our clock says C`.
    pub(super) fn window(&self, now: UnixTime) -> String {
        format!(
            "valid from {} to {}, and our clock says {}",
            Date(self.not_before),
            Date(self.not_after),
            Date(now)
        )
    }

    fn facts(der: &[u8], parsed: &X509Certificate<'_>) -> Result<Self, Unfit> {
        let validity = parsed.validity();
        Ok(Self {
            spiffe: None,
            dns_names: general_names(parsed)?
                .iter()
                .filter_map(|name| match name {
                    GeneralName::DNSName(name) => Some(printable(name).into()),
                    _ => None,
                })
                .collect(),
            subject: text(parsed.subject()),
            issuer: text(parsed.issuer()),
            serial: serial(parsed.raw_serial()),
            not_before: unix(validity.not_before),
            not_after: unix(validity.not_after),
            fingerprint: sha256([der]),
        })
    }
}

/// `certificate spiffe://d/web (subject CN=web, serial 1f)`: the start of a sentence.
impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("certificate ")?;
        match (&self.spiffe, self.dns_names.first()) {
            (Some(id), _) => write!(f, "{id} (subject {}", self.subject)?,
            (None, Some(name)) => write!(f, "{name} (subject {}", self.subject)?,
            (None, None) => write!(f, "({}", self.subject)?,
        }
        write!(f, ", serial {})", self.serial)
    }
}

/// A moment as RFC 3339 writes it: `2026-11-22T07:27:01Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date(pub UnixTime);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let time = i64::try_from(seconds)
            .ok()
            .and_then(|seconds| ASN1Time::from_timestamp(seconds).ok());
        let Some(time) = time else {
            return write!(f, "second {seconds}");
        };
        let date = time.to_datetime();
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
            date.year(),
            u8::from(date.month()),
            date.day(),
            date.hour(),
            date.minute(),
            date.second()
        )
    }
}

/// Identifies the key that signed it, where it says so (RFC 5280 section 4.2.1.1).
pub(super) fn authority_key(der: &[u8]) -> Option<Box<[u8]>> {
    let parsed = parse(der).ok()?;
    parsed
        .iter_extensions()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(key) => Some(key.key_identifier.as_ref()?.0),
            _ => None,
        })
        .map(Box::from)
}

/// Identifies its own key, where it says so (RFC 5280 section 4.2.1.2).
pub(super) fn subject_key(der: &[u8]) -> Option<Box<[u8]>> {
    let parsed = parse(der).ok()?;
    parsed
        .iter_extensions()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(key) => Some(key.0),
            _ => None,
        })
        .map(Box::from)
}

/// Whether it may sign others: it is marked as an authority's (RFC 5280 section 4.2.1.9), and its key
/// usage, where it has one, includes signing certificates (section 4.2.1.3).
pub(super) fn is_authority(der: &[u8]) -> bool {
    parse(der).is_ok_and(|parsed| {
        let may_sign = match parsed.key_usage() {
            Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
            Err(_) => false,
        };
        parsed.is_ca() && may_sign
    })
}

pub(super) fn unix(time: ASN1Time) -> UnixTime {
    // What is before 1970 is over in any case.
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
}

/// A distinguished name as one line that is safe in a log.
pub(super) fn text(name: &X509Name<'_>) -> Box<str> {
    let text = name.to_string();
    if text.is_empty() {
        return "without a name".into();
    }
    printable(&text).into()
}

/// Without what could break a line or a terminal, and not too long.
fn printable(text: &str) -> String {
    let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut out: String = text.chars().take(MAX_NAME).map(clean).collect();
    if out.len() < text.len() && text.chars().nth(MAX_NAME).is_some() {
        out.push_str("...");
    }
    out
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Unfit> {
    match X509Certificate::from_der(der) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err(Unfit::Encoding("bytes follow its end".into())),
        Err(error) => Err(Unfit::Encoding(error.to_string().into())),
    }
}

fn rsa_bits(parsed: &X509Certificate<'_>) -> Option<usize> {
    match parsed.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => Some(key.key_size()),
        _ => None,
    }
}

/// The alternative names; with a part that can't be read nothing is known of the others.
fn general_names<'a>(parsed: &'a X509Certificate<'a>) -> Result<&'a [GeneralName<'a>], Unfit> {
    let names = match parsed.subject_alternative_name() {
        Ok(Some(names)) => &names.value.general_names[..],
        Ok(None) => &[],
        Err(error) => {
            return Err(Unfit::Encoding(
                format!("alternative names: {error}").into(),
            ));
        }
    };
    let is_broken_uri =
        |name: &GeneralName<'_>| matches!(name, GeneralName::Invalid(tag, _) if tag.0 == URI);
    if names.iter().any(is_broken_uri) {
        return Err(Unfit::Encoding("a URI among its names is not text".into()));
    }
    Ok(names)
}

/// The SPIFFE ID of a leaf, if it has one. Whoever claims one must keep the rules: exactly one URI,
/// which names a workload and not a trust domain, and no right to sign certificates or lists.
fn identity(parsed: &X509Certificate<'_>) -> Result<Option<SpiffeId>, Unfit> {
    let refuse = |why: String| Err(Unfit::Identity(why.into()));
    let uris: Vec<&str> = general_names(parsed)?
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    let claims = |uri: &str| {
        uri.get(..7)
            .is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:"))
    };
    let Some(claim) = uris.iter().find(|uri| claims(uri)) else {
        return Ok(None);
    };
    if uris.len() > 1 {
        return refuse(format!("it has {} URI names and may have one", uris.len()));
    }
    let id: SpiffeId = match claim.parse() {
        Ok(id) => id,
        Err(error) => return refuse(format!("{:?}: {error}", printable(claim))),
    };
    if id.path().is_empty() {
        return refuse(format!("{id} names a trust domain, not a workload"));
    }
    match parsed.key_usage() {
        Ok(Some(usage)) if usage.value.key_cert_sign() || usage.value.crl_sign() => {
            refuse("its key usage lets it sign certificates or revocation lists".into())
        }
        Ok(_) => Ok(Some(id)),
        Err(error) => refuse(format!("its key usage can't be read: {error}")),
    }
}

fn serial(bytes: &[u8]) -> Box<str> {
    // A leading zero byte is the sign of a positive number, not part of it.
    let bytes = match bytes {
        [0, rest @ ..] if !rest.is_empty() => rest,
        bytes => bytes,
    };
    let mut text = String::with_capacity(2 * bytes.len());
    for &byte in bytes.iter().take(32) {
        text.extend(hex::lower(byte).map(char::from));
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_written_as_logs_have_it() {
        let date = |seconds| {
            Date(UnixTime::since_unix_epoch(std::time::Duration::from_secs(
                seconds,
            )))
            .to_string()
        };
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(1_795_332_421), "2026-11-22T07:27:01Z");
        assert_eq!(date(u64::MAX), "second 18446744073709551615");
    }

    #[test]
    fn a_name_cannot_break_a_log() {
        assert_eq!(printable("a\nb\u{1b}"), "a\u{fffd}b\u{fffd}");
        assert_eq!(printable(&"x".repeat(300)).len(), MAX_NAME + 3);
        assert_eq!(printable(&"x".repeat(MAX_NAME)).len(), MAX_NAME);
    }
}
