//! The key by which a request keeps to its endpoint, where the balancer goes by one.

use std::{fmt::Write as _, net::IpAddr};

use super::{Upstream, balancer::hash};
use crate::{
    config::model::{StickyCookie, StickyKey},
    http::{fields::Fields, name},
};

/// What keeps a request to its endpoint.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sticky {
    /// `None`: it goes anywhere.
    pub key: Option<u64>,
    /// A `Set-Cookie` for the response, so that the client's next requests have the same key.
    pub cookie: Option<String>,
}

impl Sticky {
    fn keyed(key: Option<&[u8]>) -> Self {
        Self {
            key: key.map(hash),
            cookie: None,
        }
    }
}

impl Upstream {
    /// The key of a request of a client at `source`; `random` makes the value of a new cookie.
    pub fn sticky(
        &self,
        fields: &Fields,
        source: Option<IpAddr>,
        secure: bool,
        random: impl FnOnce() -> u128,
    ) -> Sticky {
        match self.config.balancer.key() {
            None => Sticky::default(),
            Some(StickyKey::Header(name)) => Sticky::keyed(fields.get(name)),
            Some(StickyKey::Source) => Sticky {
                key: self.source_key(source),
                cookie: None,
            },
            Some(StickyKey::Cookie(cookie)) => match brought(fields, &cookie.name) {
                Some(value) => Sticky::keyed(Some(value)),
                None => {
                    let value = format!("{:032x}", random());
                    Sticky {
                        key: Some(hash(value.as_bytes())),
                        cookie: Some(written(cookie, &value, secure)),
                    }
                }
            },
        }
    }

    /// The key of a connection that is not looked into.
    pub fn source_key(&self, source: Option<IpAddr>) -> Option<u64> {
        match (self.config.balancer.key()?, source?.to_canonical()) {
            (StickyKey::Source, IpAddr::V4(ip)) => Some(hash(&ip.octets())),
            (StickyKey::Source, IpAddr::V6(ip)) => Some(hash(&ip.octets())),
            _ => None,
        }
    }
}

/// The value of a cookie that the request has (RFC 6265 section 4.2.1; in HTTP/2 each pair may be a
/// line). An empty one is none.
fn brought<'f>(fields: &'f Fields, name: &str) -> Option<&'f [u8]> {
    fields
        .get_all(&name::COOKIE)
        .flat_map(|line| line.split(|&byte| byte == b';'))
        .find_map(|pair| {
            let value = pair.trim_ascii().strip_prefix(name.as_bytes())?;
            value.strip_prefix(b"=").filter(|value| !value.is_empty())
        })
}

fn written(cookie: &StickyCookie, value: &str, secure: bool) -> String {
    let StickyCookie { name, path, ttl } = cookie;
    let mut text = format!("{name}={value}; Path={path}");
    if !ttl.is_zero() {
        // Writing to a string never fails.
        let _ = write!(text, "; Max-Age={}", ttl.as_secs().max(1));
    }
    text.push_str("; HttpOnly; SameSite=Lax");
    if secure {
        text.push_str("; Secure");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        config::model::{self, Balancer, Hashing},
        telemetry::Registry,
        tls::Materials,
    };

    fn upstream(key: StickyKey) -> Arc<Upstream> {
        let mut config = model::Upstream::plain("app", []);
        config.balancer = Balancer::Maglev(Hashing {
            key,
            bounded_load: None,
        });
        let metrics = Registry::new(1).upstream("app");
        Upstream::new(Arc::new(config), metrics, &Materials::default())
    }

    fn fields(lines: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in lines {
            fields.push(name.as_bytes(), value.as_bytes());
        }
        fields
    }

    fn cookie(ttl: u64) -> StickyKey {
        StickyKey::Cookie(StickyCookie {
            name: "cart".into(),
            path: "/shop".into(),
            ttl: Duration::from_secs(ttl),
        })
    }

    #[test]
    fn a_header_decides_and_its_absence_does_not() {
        let upstream = upstream(StickyKey::Header(http::HeaderName::from_static("x-key")));
        let key = |lines: &[_]| upstream.sticky(&fields(lines), None, false, || 0);
        assert_eq!(key(&[("x-other", "a")]), Sticky::default());
        let a = key(&[("X-Key", "a")]);
        assert_eq!(a.key, Some(hash(b"a")));
        assert_eq!(a.cookie, None);
        assert_ne!(key(&[("x-key", "b")]).key, a.key);
    }

    #[test]
    fn a_cookie_is_set_once_and_kept() {
        let upstream = upstream(cookie(0));
        let key = |lines: &[_]| upstream.sticky(&fields(lines), None, false, || 0xab);
        let none = key(&[("cookie", "other=1; xcart=2; cart=; cartx=3")]);
        let value = format!("{:032x}", 0xab);
        assert_eq!(
            none.cookie.unwrap(),
            format!("cart={value}; Path=/shop; HttpOnly; SameSite=Lax")
        );
        let set = format!("a=b;cart={value}");
        for lines in [
            &[("cookie", &*set)][..],
            &[("cookie", "a=b"), ("cookie", &*format!("cart={value}"))],
        ] {
            let kept = key(lines);
            assert_eq!((kept.key, kept.cookie), (none.key, None));
        }
    }

    #[test]
    fn a_cookie_says_how_long_and_where() {
        let made = upstream(cookie(3600)).sticky(&fields(&[]), None, true, || 1);
        let made = made.cookie.unwrap();
        assert!(made.ends_with("; Path=/shop; Max-Age=3600; HttpOnly; SameSite=Lax; Secure"));
    }

    #[test]
    fn an_address_is_the_same_in_both_notations() {
        let upstream = upstream(StickyKey::Source);
        let key = |ip: &str| upstream.source_key(Some(ip.parse().unwrap()));
        assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_eq!(upstream.source_key(None), None);
        let other = upstream_of_header();
        assert_eq!(other.source_key(Some("192.0.2.1".parse().unwrap())), None);
    }

    fn upstream_of_header() -> Arc<Upstream> {
        upstream(StickyKey::Header(http::HeaderName::from_static("x-key")))
    }
}
