//! What protects the things behind a rule, and what tries those that depend on it: how often it
//! may be asked, and which faults are injected.
//!
//! It is decided before a request goes anywhere. What a [`Guard`] has counted outlives reloads.

mod bucket;
mod fault;
mod keyed;
mod pressure;
mod throttle;

use std::{net::IpAddr, sync::Arc};

use tokio::time::Instant;

pub use self::{
    fault::{End, Fate, Faults, Kind as FaultKind},
    pressure::{Level, Load, Pressure},
    throttle::Throttle,
};
use crate::{
    config::model::Rule,
    error::Result,
    http::{Client, fields::Fields},
};

/// What a rule asks of requests beyond that they match. Rules without one have none.
#[derive(Debug)]
pub struct Guard {
    pub throttle: Option<Arc<Throttle>>,
    pub faults: Option<Arc<Faults>>,
}

impl Guard {
    /// That of a rule; what `before` has and the rule leaves as it was is carried over.
    pub fn of(rule: &Rule, before: Option<&Self>, now: Instant) -> Option<Arc<Self>> {
        let filters = &rule.filters;
        let throttle = filters.rate_limit.as_ref().map(|config| {
            let before = before.and_then(|before| before.throttle.as_ref());
            match before.filter(|before| before.is_for(config)) {
                Some(same) => Arc::clone(same),
                None => Arc::new(Throttle::new(config.clone(), now)),
            }
        });
        let faults = filters.fault.as_ref().map(|config| {
            let before = before.and_then(|before| before.faults.as_ref());
            match before.filter(|before| before.is_for(config)) {
                Some(same) => Arc::clone(same),
                None => Arc::new(Faults::new(config.clone())),
            }
        });
        let any = throttle.is_some() || faults.is_some();
        any.then(|| Arc::new(Self { throttle, faults }))
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
        match &self.throttle {
            Some(throttle) => throttle.admit(client, source, fields, now),
            None => Ok(()),
        }
    }
}
