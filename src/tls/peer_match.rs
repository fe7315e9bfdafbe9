//! Which workloads are meant: one, those of a pattern, or a whole trust domain.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::spiffe::{self, BadSpiffeId, SpiffeId, TrustDomain};

/// Names of workloads, written as one text:
///
/// - `spiffe://prod.example/ns/shop/sa/web`: this one;
/// - `spiffe://prod.example/ns/*/sa/web`: `*` stands for one whole segment;
/// - `spiffe://prod.example/ns/shop/**`: `**`, at the end only, for one or more;
/// - `spiffe://prod.example`: any of the trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMatch {
    Exact(SpiffeId),
    Pattern(Pattern),
    TrustDomain(TrustDomain),
}

/// A name with places left open. Only a [`PeerMatch`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    domain: TrustDomain,
    /// `None`: any one segment.
    segments: Box<[Option<Box<str>>]>,
    /// Whether one or more may follow.
    open: bool,
}

/// Why a text matches no workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPeerMatch {
    #[error(transparent)]
    Name(#[from] BadSpiffeId),
    #[error("'*' stands for a whole path segment, as in spiffe://DOMAIN/ns/*/sa/web")]
    PartOfSegment,
    #[error("'**' may only be the last path segment, as in spiffe://DOMAIN/ns/prod/**")]
    NotLast,
}

impl PeerMatch {
    /// Whether `id` is one of those that are meant.
    pub fn matches(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Exact(exact) => exact == id,
            Self::Pattern(pattern) => pattern.matches(id),
            Self::TrustDomain(domain) => domain.contains(id),
        }
    }
}

impl Pattern {
    fn matches(&self, id: &SpiffeId) -> bool {
        if !self.domain.contains(id) {
            return false;
        }
        let mut path = id.segments();
        for expected in &self.segments {
            match (path.next(), expected) {
                (Some(_), None) => {}
                (Some(segment), Some(expected)) if *segment == **expected => {}
                _ => return false,
            }
        }
        path.next().is_some() == self.open
    }
}

impl FromStr for PeerMatch {
    type Err = BadPeerMatch;

    fn from_str(text: &str) -> Result<Self, BadPeerMatch> {
        if !text.contains('*') {
            let id: SpiffeId = text.parse()?;
            return Ok(if id.path().is_empty() {
                Self::TrustDomain(id.trust_domain())
            } else {
                Self::Exact(id)
            });
        }
        let rest = text
            .strip_prefix(spiffe::SCHEME)
            .ok_or(BadSpiffeId::Scheme)?;
        let (domain, path) = rest.split_once('/').unwrap_or((rest, ""));
        let domain = domain.parse()?;
        let mut path: Vec<&str> = path.split('/').collect();
        let open = path.pop_if(|last| *last == "**").is_some();
        let segments = path.into_iter().map(segment).collect::<Result<_, _>>()?;
        Ok(Self::Pattern(Pattern {
            domain,
            segments,
            open,
        }))
    }
}

fn segment(text: &str) -> Result<Option<Box<str>>, BadPeerMatch> {
    match text {
        "*" => Ok(None),
        "**" => Err(BadPeerMatch::NotLast),
        text if text.contains('*') => Err(BadPeerMatch::PartOfSegment),
        text => {
            spiffe::check_segment(text)?;
            Ok(Some(text.into()))
        }
    }
}

impl fmt::Display for PeerMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(id) => id.fmt(f),
            Self::TrustDomain(domain) => write!(f, "{}{domain}", spiffe::SCHEME),
            Self::Pattern(pattern) => {
                write!(f, "{}{}", spiffe::SCHEME, pattern.domain)?;
                for segment in &pattern.segments {
                    write!(f, "/{}", segment.as_deref().unwrap_or("*"))?;
                }
                f.write_str(if pattern.open { "/**" } else { "" })
            }
        }
    }
}

impl Serialize for PeerMatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PeerMatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_form_means_what_it_says() {
        for (text, admitted, refused) in [
            (
                "spiffe://d/ns/a/sa/web",
                &["spiffe://d/ns/a/sa/web"][..],
                &[
                    "spiffe://e/ns/a/sa/web",
                    "spiffe://d/ns/a/sa/web2",
                    "spiffe://d/ns/a/sa",
                ][..],
            ),
            (
                "spiffe://d/ns/*/sa/web",
                &["spiffe://d/ns/a/sa/web", "spiffe://d/ns/b/sa/web"],
                &[
                    "spiffe://d/ns/a/b/sa/web",
                    "spiffe://d/ns/sa/web",
                    "spiffe://e/ns/a/sa/web",
                ],
            ),
            (
                "spiffe://d/ns/prod/**",
                &["spiffe://d/ns/prod/sa/web", "spiffe://d/ns/prod/x"],
                &[
                    "spiffe://d/ns/prod",
                    "spiffe://d/ns/production/sa/web",
                    "spiffe://d",
                ],
            ),
            (
                "spiffe://d/**",
                &["spiffe://d/a", "spiffe://d/a/b"],
                &["spiffe://d", "spiffe://e/a"],
            ),
            (
                "spiffe://d/*",
                &["spiffe://d/a"],
                &["spiffe://d", "spiffe://d/a/b"],
            ),
            (
                "spiffe://d",
                &["spiffe://d", "spiffe://d/a/b"],
                &["spiffe://dd/a", "spiffe://d.e/a"],
            ),
        ] {
            let parsed: PeerMatch = text.parse().unwrap();
            assert_eq!(parsed.to_string(), text);
            for id in admitted {
                assert!(parsed.matches(&id.parse().unwrap()), "{text} {id}");
            }
            for id in refused {
                assert!(!parsed.matches(&id.parse().unwrap()), "{text} {id}");
            }
        }
    }

    #[test]
    fn what_is_half_a_pattern_is_refused() {
        use BadPeerMatch::*;
        for (text, why) in [
            ("*", Name(BadSpiffeId::Scheme)),
            ("spiffe://*", Name(BadSpiffeId::DomainCharacter)),
            ("spiffe://*.d/a", Name(BadSpiffeId::DomainCharacter)),
            ("spiffe://d/", Name(BadSpiffeId::EmptySegment)),
            ("spiffe://d/*/", Name(BadSpiffeId::EmptySegment)),
            ("spiffe://d//**", Name(BadSpiffeId::EmptySegment)),
            ("spiffe://d/web-*", PartOfSegment),
            ("spiffe://d/web**", PartOfSegment),
            ("spiffe://d/***", PartOfSegment),
            ("spiffe://d/**/web", NotLast),
            ("spiffe://d/**/**", NotLast),
            ("spiffe://d/../*", Name(BadSpiffeId::DotSegment)),
        ] {
            assert_eq!(text.parse::<PeerMatch>(), Err(why), "{text}");
        }
    }

    /// The same by a regular expression.
    fn oracle(pattern: &str, id: &str) -> bool {
        let expression = regex::escape(pattern)
            .replace(r"/\*\*", "/.+")
            .replace(r"\*", "[^/]+");
        let domain_only = if pattern.matches('/').count() == 2 {
            "(/.*)?"
        } else {
            ""
        };
        regex::Regex::new(&format!("^{expression}{domain_only}$"))
            .unwrap()
            .is_match(id)
    }

    proptest! {
        #[test]
        fn matches_as_the_oracle_does(
            pattern in r"spiffe://[de](/(a|b|\*)){0,3}(/\*\*)?",
            id in r"spiffe://[de](/[ab]){0,5}",
        ) {
            let parsed: PeerMatch = pattern.parse().unwrap();
            prop_assert_eq!(parsed.matches(&id.parse().unwrap()), oracle(&pattern, &id));
        }

        #[test]
        fn no_text_is_too_odd(text in r"(spiffe://)?[a*/.]{0,12}") {
            if let Ok(parsed) = text.parse::<PeerMatch>() {
                prop_assert_eq!(parsed.to_string(), text);
            }
        }
    }
}
