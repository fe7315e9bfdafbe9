//! How endpoints are chosen.

use http::HeaderName;

use super::Resolver;
use crate::config::{
    decode::At,
    model::{Balancer, Hashing, StickyCookie, StickyKey},
    raw::{self, BalancerName, HashType},
    report::Fault,
    syntax,
};

impl Resolver<'_> {
    pub(super) fn balancer(&mut self, raw: &raw::Balancer) -> Balancer {
        let hashing = match raw {
            raw::Balancer::Named(BalancerName::PeakEwma) => return Balancer::PeakEwma,
            raw::Balancer::Named(BalancerName::LeastRequest) => return Balancer::LeastRequest,
            raw::Balancer::Named(BalancerName::RoundRobin) => return Balancer::RoundRobin,
            raw::Balancer::Hashing(hashing) => hashing,
        };
        let resolved = Hashing {
            key: self.sticky_key(&hashing.key).unwrap_or(StickyKey::Source),
            bounded_load: hashing.bounded_load.map(|percent| percent.get()),
        };
        match hashing.r#type {
            HashType::RingHash => Balancer::RingHash(resolved),
            HashType::Maglev => Balancer::Maglev(resolved),
        }
    }

    fn sticky_key(&mut self, raw: &At<raw::StickyKey>) -> Option<StickyKey> {
        let field = match &raw.value {
            raw::StickyKey::Source(_) => return Some(StickyKey::Source),
            raw::StickyKey::Field(field) => field,
        };
        match (&field.header, &field.cookie) {
            (Some(header), None) => self
                .parse(header, syntax::matched_header)
                .map(StickyKey::Header),
            (None, Some(cookie)) => self.sticky_cookie(&cookie.value).map(StickyKey::Cookie),
            _ => {
                let fault = Fault::new("exactly one of `header` and `cookie` is expected");
                self.fault(raw.node, fault.hint("or `source` instead of the mapping"));
                None
            }
        }
    }

    fn sticky_cookie(&mut self, raw: &raw::StickyCookie) -> Option<StickyCookie> {
        let name = self.parse(&raw.name, |text| {
            // A cookie's name is a token as that of a header is (RFC 6265 section 4.1.1).
            HeaderName::try_from(text)
                .map(|_| text.into())
                .map_err(|_| Fault::new("this is not the name of a cookie"))
        });
        let path = self.parse(&raw.path, |text| match text.starts_with('/') {
            true if text
                .bytes()
                .all(|byte| matches!(byte, b'!'..=b'~') && byte != b';') =>
            {
                Ok(text.into())
            }
            _ => Err(Fault::new("this is not the path of a cookie").hint("for example `/shop`")),
        });
        Some(StickyCookie {
            name: name?,
            path: path?,
            ttl: raw.ttl.0,
        })
    }
}
