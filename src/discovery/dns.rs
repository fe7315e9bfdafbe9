//! Names followed through DNS: asked again as their TTL ends, kept when the asking fails.

use std::{
    cmp::Reverse,
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use hickory_resolver::proto::rr::{RData, RecordType, rdata::SRV};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tracing::{debug, info, warn};

use super::{
    pairing::pair,
    resolver::{Addresses, Resolver},
};
use crate::{
    config::model::{DnsPolicy, EndpointAddress},
    upstream::{
        Upstream,
        resolution::LookupFailure,
        set::{Priority, Wanted},
    },
};

/// After a failure: this, doubled with each further one up to the limit, less up to a quarter at
/// random.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Most endpoints taken from one name, and most targets of an SRV name; what is beyond is left out.
const MAX_ENDPOINTS: usize = 1024;
const MAX_TARGETS: usize = 256;

/// SRV targets that are asked about at a time.
const TARGETS_AT_ONCE: usize = 16;

/// Publishes what is behind the name at `index` of the upstream's endpoints for as long as the
/// upstream lives.
pub(super) async fn follow(resolver: Arc<Resolver>, upstream: Weak<Upstream>, index: usize) {
    let mut follower = Follower::new(resolver);
    let mut failures = 0_u32;
    loop {
        // Held only between two waits, so that a removed upstream can go.
        let Some((address, dns, before)) = upstream.upgrade().and_then(|upstream| {
            let address = upstream.config.endpoints.get(index)?.address.clone();
            Some((address, upstream.config.dns, upstream.found(index)))
        }) else {
            return;
        };
        let outcome = follower.ask(&address, &before).await;
        let Some(upstream) = upstream.upgrade() else {
            return;
        };
        let name = &upstream.config.name;
        let pause = match &outcome {
            Ok(answer) => {
                let found = answer.found.len();
                if failures > 0 {
                    info!(upstream = %name, ?address, found, "name resolves again");
                } else if answer.found != before {
                    info!(upstream = %name, ?address, found, "name resolved");
                }
                failures = 0;
                refresh(answer.ttl, dns, fastrand::f64())
            }
            Err(failure) => {
                if failures == 0 {
                    warn!(upstream = %name, ?address, error = %failure, "name doesn't resolve");
                } else {
                    debug!(upstream = %name, ?address, error = %failure, "name doesn't resolve");
                }
                failures = failures.saturating_add(1);
                retry(failures, fastrand::f64())
            }
        };
        upstream.publish(index, outcome.map(|answer| answer.found), Instant::now());
        drop(upstream);
        sleep(pause).await;
    }
}

/// When an answer is asked for again: its TTL within the bounds, and up to a tenth more so that
/// many proxies don't ask at once.
fn refresh(ttl: Duration, dns: DnsPolicy, chance: f64) -> Duration {
    // Not `clamp`, which panics should the bounds be the wrong way round.
    ttl.max(dns.min_ttl)
        .min(dns.max_ttl.max(dns.min_ttl))
        .mul_f64(1.0 + 0.1 * chance)
}

/// When to ask again after so many failures in a row.
fn retry(failures: u32, chance: f64) -> Duration {
    let doubled = FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(10));
    doubled.min(LAST_RETRY).mul_f64(1.0 - 0.25 * chance)
}

pub(super) struct Answer {
    pub(super) found: Vec<Wanted>,
    pub(super) ttl: Duration,
}

/// One name being followed.
pub(super) struct Follower {
    resolver: Arc<Resolver>,
    /// The last addresses of each host, for when only some of the questions are answered.
    known: HashMap<String, Vec<IpAddr>>,
}

impl Follower {
    pub(super) fn new(resolver: Arc<Resolver>) -> Self {
        Self {
            resolver,
            known: HashMap::new(),
        }
    }

    pub(super) async fn ask(
        &mut self,
        address: &EndpointAddress,
        before: &[Wanted],
    ) -> Result<Answer, LookupFailure> {
        let mut answer = match address {
            EndpointAddress::Dns { host, port } => self.ask_host(host, *port, before).await?,
            EndpointAddress::Srv { name } => self.ask_srv(name, before).await?,
            EndpointAddress::Ip(_) | EndpointAddress::Unix(_) => {
                return Err(LookupFailure {
                    message: "not a name".into(),
                    absent: false,
                });
            }
        };
        if answer.found.len() > MAX_ENDPOINTS {
            warn!(
                ?address,
                found = answer.found.len(),
                "only the first {MAX_ENDPOINTS} are used"
            );
            answer.found.truncate(MAX_ENDPOINTS);
        }
        Ok(answer)
    }

    async fn ask_host(
        &mut self,
        host: &str,
        port: u16,
        before: &[Wanted],
    ) -> Result<Answer, LookupFailure> {
        let known = self.known.entry(host.into()).or_default();
        let Addresses { ips, ttl } = self.resolver.host(host, known).await?;
        let found = pair(&ips, port, 1, before);
        *known = ips;
        Ok(Answer { found, ttl })
    }

    /// Priorities are those of the records (RFC 2782); a weight of 0 counts as 1. A
    /// target that can't be asked about keeps its last addresses; one that has none is left out.
    async fn ask_srv(&mut self, name: &str, before: &[Wanted]) -> Result<Answer, LookupFailure> {
        let (mut ttl, records) = self.resolver.lookup(name, RecordType::SRV, service).await?;
        let mut records: Vec<SRV> = records
            .into_iter()
            // A target of "." says that the service is not there.
            .filter(|record| !record.target.is_root())
            .collect();
        records.sort_by_cached_key(|record| {
            (
                record.priority,
                Reverse(record.weight),
                record.target.to_string(),
                record.port,
            )
        });
        if records.len() > MAX_TARGETS {
            warn!(
                name,
                targets = records.len(),
                "only the first {MAX_TARGETS} are used"
            );
            records.truncate(MAX_TARGETS);
        }

        let mut before_hosts = std::mem::take(&mut self.known);
        let mut failure = LookupFailure {
            message: "no target".into(),
            absent: true,
        };
        for chunk in records.chunks(TARGETS_AT_ONCE) {
            let mut lookups = JoinSet::new();
            for record in chunk {
                let host = record.target.to_string();
                let known = before_hosts.remove(&host).unwrap_or_default();
                let resolver = self.resolver.clone();
                lookups.spawn(async move {
                    let outcome = resolver.host(&host, &known).await;
                    (host, known, outcome)
                });
            }
            while let Some(Ok((host, known, outcome))) = lookups.join_next().await {
                let ips = match outcome {
                    Ok(addresses) => {
                        ttl = ttl.min(addresses.ttl);
                        addresses.ips
                    }
                    Err(error) => {
                        let kept = if error.absent { Vec::new() } else { known };
                        failure = LookupFailure {
                            message: format!("{host} {error}"),
                            absent: failure.absent && error.absent,
                        };
                        kept
                    }
                };
                // Two records may have one target, under two ports.
                let all: &mut Vec<IpAddr> = self.known.entry(host).or_default();
                all.extend(ips);
            }
        }

        let mut found = Vec::new();
        for record in records {
            if let Some(ips) = self.known.get(&record.target.to_string()) {
                let weight = u32::from(record.weight).max(1);
                let srv = record.priority;
                let targets = pair(ips, record.port, weight, before).into_iter();
                found.extend(targets.map(|wanted| Wanted {
                    priority: Priority {
                        srv,
                        ..wanted.priority
                    },
                    ..wanted
                }));
            }
        }
        if found.is_empty() {
            Err(failure)
        } else {
            Ok(Answer { found, ttl })
        }
    }
}

fn service(data: &RData) -> Option<SRV> {
    match data {
        RData::SRV(record) => Some(record.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_asked_for_again_within_the_bounds() {
        let seconds = Duration::from_secs;
        let dns = DnsPolicy {
            min_ttl: seconds(5),
            max_ttl: seconds(60),
        };
        for (ttl, expected) in [(0, 5), (5, 5), (30, 30), (60, 60), (86_400, 60)] {
            assert_eq!(refresh(seconds(ttl), dns, 0.0), seconds(expected));
            assert!(refresh(seconds(ttl), dns, 0.999) < seconds(expected).mul_f64(1.1));
        }
        let upside_down = DnsPolicy {
            min_ttl: seconds(60),
            max_ttl: seconds(5),
        };
        assert_eq!(refresh(seconds(30), upside_down, 0.0), seconds(60));
    }

    #[test]
    fn retries_back_off() {
        let pauses: Vec<u64> = (1..=7)
            .map(|failures| retry(failures, 0.0).as_secs())
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(retry(u32::MAX, 0.0), LAST_RETRY);
        assert!(retry(1, 1.0) >= FIRST_RETRY.mul_f64(0.75));
    }
}
