//! What protects the things behind a rule.

use super::Resolver;
use crate::config::{
    model::{RateKey, RateLimit},
    raw::{self, RateKeyName},
    syntax,
};

impl Resolver<'_> {
    pub(super) fn rate_limit(&mut self, raw: &raw::RateLimit) -> Option<RateLimit> {
        let requests = raw.requests.get();
        Some(RateLimit {
            requests,
            per: self.positive(&raw.per),
            burst: raw.burst.map_or(requests, |burst| burst.get()),
            key: match &raw.key.value {
                raw::RateKey::Named(RateKeyName::None) => RateKey::None,
                raw::RateKey::Named(RateKeyName::Source) => RateKey::Source,
                raw::RateKey::Named(RateKeyName::Identity) => RateKey::Identity,
                raw::RateKey::Field(field) => {
                    RateKey::Header(self.parse(&field.header, syntax::matched_header)?)
                }
            },
            max_keys: raw.max_keys.get(),
        })
    }
}
