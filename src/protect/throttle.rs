//! How often a rule may be asked.

use std::{net::IpAddr, num::NonZeroU32};

use tokio::time::Instant;

use super::{
    bucket::{Bucket, Empty, Rate},
    keyed::Keyed,
};
use crate::{
    config::model::{RateKey, RateLimit},
    error::{Error, Reason, Replay, Result},
    http::{Client, fields::Fields},
};

/// The rate limit of one rule, for all workers.
#[derive(Debug)]
pub struct Throttle {
    config: RateLimit,
    rate: Rate,
    /// Times are counted from here.
    start: Instant,
    all: Bucket,
    keyed: Option<Keyed>,
}

impl Throttle {
    pub fn new(config: RateLimit, now: Instant) -> Self {
        let keyed = config.key != RateKey::None;
        Self {
            rate: Rate::new(config.requests, config.per, config.burst),
            start: now,
            all: Bucket::default(),
            keyed: keyed.then(|| Keyed::new(config.max_keys)),
            config,
        }
    }

    pub fn is_for(&self, config: &RateLimit) -> bool {
        self.config == *config
    }

    /// Lets a request in, or refuses it. `source`: who is behind trusted proxies, where there is
    /// one.
    pub fn admit(
        &self,
        client: &Client,
        source: Option<IpAddr>,
        fields: &Fields,
        now: Instant,
    ) -> Result<()> {
        let now = now.saturating_duration_since(self.start).as_nanos();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        let Some(keyed) = &self.keyed else {
            return self.all.take(self.rate, now).map_err(refused);
        };
        match &self.config.key {
            RateKey::None => Ok(()),
            RateKey::Source => keyed.take(source.or(client.address).map(network), self.rate, now),
            RateKey::Identity => keyed.take(client.conn.caller().identity, self.rate, now),
            RateKey::Header(name) => keyed.take(fields.get(name), self.rate, now),
        }
        .map_err(refused)
    }
}

/// What one client has of addresses: of IPv6 a whole /64.
fn network(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => u64::from(u32::from(address)),
        // No such network begins with as many zeros as an IPv4 address would.
        IpAddr::V6(address) => ((u128::from(address)) >> 64) as u64,
    }
}

fn refused(Empty(wait): Empty) -> Error {
    let seconds = u32::try_from(wait.div_ceil(1_000_000_000)).unwrap_or(u32::MAX);
    Error::new(Reason::RateLimited, "the rule is asked too often")
        .replay(Replay::NeverSent)
        .retry_after(NonZeroU32::new(seconds).unwrap_or(NonZeroU32::MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_told_in_whole_seconds_rounded_up() {
        let told = |wait| refused(Empty(wait)).retry_after.map(NonZeroU32::get);
        assert_eq!(told(1), Some(1));
        assert_eq!(told(1_000_000_000), Some(1));
        assert_eq!(told(1_000_000_001), Some(2));
        assert_eq!(told(u64::MAX), Some(u32::MAX));
    }

    #[test]
    fn a_client_is_an_address_or_a_network() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    }
}
