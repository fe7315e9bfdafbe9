//! Names of workloads, as the SPIFFE ID standard writes them: `spiffe://TRUST-DOMAIN/PATH`.
//!
//! Nothing is normalised: a name that is not in its one right form is refused, so that two names
//! are the same if and only if their bytes are.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub(super) const SCHEME: &str = "spiffe://";
/// The longest trust domain, in bytes (SPIFFE ID, section 2.1).
const MAX_DOMAIN: usize = 255;
/// The longest name with its scheme, in bytes (SPIFFE ID, section 2.3).
const MAX_ID: usize = 2048;

/// The name of a workload. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the path begins in `text`; its length if there is none.
    path: usize,
}

/// The part of a name that says whose authorities vouch for it. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

/// Why a text names no workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSpiffeId {
    #[error("a SPIFFE ID begins with spiffe://")]
    Scheme,
    #[error("a trust domain is not empty")]
    NoDomain,
    #[error("a trust domain has lower-case letters, digits, '.', '-' and '_' only")]
    DomainCharacter,
    #[error("a trust domain has at most {MAX_DOMAIN} bytes")]
    DomainLength,
    #[error("a SPIFFE ID has at most {MAX_ID} bytes")]
    Length,
    #[error("a SPIFFE ID has no empty path segment and no '/' at its end")]
    EmptySegment,
    #[error("a SPIFFE ID has no path segment '.' or '..'")]
    DotSegment,
    #[error("a path segment has letters, digits, '.', '-' and '_' only")]
    PathCharacter,
}

impl SpiffeId {
    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain's text, without making a [`TrustDomain`] of it.
    pub fn domain(&self) -> &str {
        &self.text[SCHEME.len()..self.path]
    }

    /// The path with its leading `/`, or nothing: then this is the name of the domain itself.
    pub fn path(&self) -> &str {
        &self.text[self.path..]
    }

    /// The segments of the path.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.path().split('/').skip(1)
    }

    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(self.domain().into())
    }

    /// NAME of a name in the form that Kubernetes' meshes use, `/ns/NAME/sa/ACCOUNT`.
    pub fn namespace(&self) -> Option<&str> {
        Some(self.kubernetes()?.0)
    }

    /// ACCOUNT of the same form.
    pub fn service_account(&self) -> Option<&str> {
        Some(self.kubernetes()?.1)
    }

    fn kubernetes(&self) -> Option<(&str, &str)> {
        let (namespace, account) = self.path().strip_prefix("/ns/")?.split_once("/sa/")?;
        (!namespace.contains('/') && !account.contains('/')).then_some((namespace, account))
    }
}

impl TrustDomain {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is this one's to vouch for `id`.
    pub fn contains(&self, id: &SpiffeId) -> bool {
        *self.0 == *id.domain()
    }
}

impl FromStr for SpiffeId {
    type Err = BadSpiffeId;

    fn from_str(text: &str) -> Result<Self, BadSpiffeId> {
        let rest = text.strip_prefix(SCHEME).ok_or(BadSpiffeId::Scheme)?;
        if text.len() > MAX_ID {
            return Err(BadSpiffeId::Length);
        }
        let domain = rest.find('/').unwrap_or(rest.len());
        check_domain(&rest[..domain])?;
        for segment in rest[domain..].split('/').skip(1) {
            check_segment(segment)?;
        }
        Ok(Self {
            text: text.into(),
            path: SCHEME.len() + domain,
        })
    }
}

impl FromStr for TrustDomain {
    type Err = BadSpiffeId;

    /// Takes the bare domain, `prod.example`, and the name of the domain, `spiffe://prod.example`.
    fn from_str(text: &str) -> Result<Self, BadSpiffeId> {
        let domain = text.strip_prefix(SCHEME).unwrap_or(text);
        check_domain(domain)?;
        Ok(Self(domain.into()))
    }
}

fn check_domain(domain: &str) -> Result<(), BadSpiffeId> {
    if domain.is_empty() {
        return Err(BadSpiffeId::NoDomain);
    }
    if domain.len() > MAX_DOMAIN {
        return Err(BadSpiffeId::DomainLength);
    }
    let allowed = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_')
    };
    if !domain.bytes().all(allowed) {
        return Err(BadSpiffeId::DomainCharacter);
    }
    Ok(())
}

pub(super) fn check_segment(segment: &str) -> Result<(), BadSpiffeId> {
    if segment.is_empty() {
        return Err(BadSpiffeId::EmptySegment);
    }
    if matches!(segment, "." | "..") {
        return Err(BadSpiffeId::DotSegment);
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if !segment.bytes().all(allowed) {
        return Err(BadSpiffeId::PathCharacter);
    }
    Ok(())
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl Serialize for TrustDomain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for TrustDomain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_its_parts() {
        let id: SpiffeId = "spiffe://prod.example/ns/shop/sa/web".parse().unwrap();
        assert_eq!(id.domain(), "prod.example");
        assert_eq!(id.path(), "/ns/shop/sa/web");
        assert_eq!(
            id.segments().collect::<Vec<_>>(),
            ["ns", "shop", "sa", "web"]
        );
        assert_eq!(id.namespace(), Some("shop"));
        assert_eq!(id.service_account(), Some("web"));
        assert_eq!(id.to_string(), "spiffe://prod.example/ns/shop/sa/web");
        assert!(id.trust_domain().contains(&id));
    }

    #[test]
    fn other_forms_have_no_namespace() {
        for text in [
            "spiffe://d",
            "spiffe://d/ns/shop",
            "spiffe://d/ns/shop/sa/web/x",
            "spiffe://d/ns/a/b/sa/web",
            "spiffe://d/x/ns/shop/sa/web",
        ] {
            assert_eq!(
                text.parse::<SpiffeId>().unwrap().namespace(),
                None,
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_in_its_right_form_is_refused() {
        use BadSpiffeId::*;
        let long = format!("spiffe://d/{}", "a".repeat(MAX_ID));
        let domain = format!("spiffe://{}", "a".repeat(256));
        for (text, why) in [
            ("", Scheme),
            ("https://d/a", Scheme),
            ("SPIFFE://d/a", Scheme),
            ("spiffe:/d/a", Scheme),
            ("spiffe://", NoDomain),
            ("spiffe:///a", NoDomain),
            ("spiffe://D/a", DomainCharacter),
            ("spiffe://d:80/a", DomainCharacter),
            ("spiffe://u@d/a", DomainCharacter),
            ("spiffe://d?q", DomainCharacter),
            ("spiffe://\u{e9}/a", DomainCharacter),
            ("spiffe://d/", EmptySegment),
            ("spiffe://d/a/", EmptySegment),
            ("spiffe://d//a", EmptySegment),
            ("spiffe://d/./a", DotSegment),
            ("spiffe://d/a/..", DotSegment),
            ("spiffe://d/a%20b", PathCharacter),
            ("spiffe://d/a b", PathCharacter),
            ("spiffe://d/a?q", PathCharacter),
            ("spiffe://d/a#f", PathCharacter),
            ("spiffe://d/*", PathCharacter),
            (&long, Length),
            (&domain, DomainLength),
        ] {
            assert_eq!(text.parse::<SpiffeId>(), Err(why), "{text}");
        }
        let longest = format!("spiffe://d/{}", "a".repeat(MAX_ID - 11));
        assert!(longest.parse::<SpiffeId>().is_ok());
        let domain = format!("spiffe://{}/...", "a".repeat(255));
        assert!(domain.parse::<SpiffeId>().is_ok());
    }

    #[test]
    fn a_domain_is_written_in_two_ways() {
        let bare: TrustDomain = "prod.example".parse().unwrap();
        assert_eq!("spiffe://prod.example".parse(), Ok(bare));
        assert_eq!(
            "a/b".parse::<TrustDomain>(),
            Err(BadSpiffeId::DomainCharacter)
        );
    }
}
