//! Upstreams and their endpoints.

use std::{collections::HashMap, sync::Arc};

use super::{Resolver, retry::retry_budget, tls::Security};
use crate::config::{
    decode::At,
    model::{
        Backoff, Breaker, DnsPolicy, Ejection, EndpointConfig, Limits, ProxyVersion, Upstream,
        UpstreamProtocol,
    },
    raw,
    report::{Fault, quote},
    syntax,
    units::Duration,
};

impl Resolver<'_> {
    pub(super) fn upstreams(
        &mut self,
        raw: &At<Vec<At<raw::Upstream>>>,
        security: Security,
        zone: Option<&Arc<str>>,
    ) -> Vec<Upstream> {
        let mut names = HashMap::new();
        let mut upstreams = Vec::with_capacity(raw.value.len());
        for At { value: raw, .. } in &raw.value {
            let name = self.parse(&raw.name, syntax::name);
            if let Some(name) = &name {
                self.unique(&mut names, name.clone(), raw.name.node, || {
                    format!("upstream `{name}`")
                });
            }
            let upstream = Upstream {
                name: name.unwrap_or_default(),
                endpoints: self.endpoints(&raw.endpoints),
                protocol: match (raw.protocol, &raw.tls) {
                    (Some(raw::UpstreamProtocol::Http1), _) | (None, None) => {
                        UpstreamProtocol::Http1
                    }
                    (Some(raw::UpstreamProtocol::Http2), _) => UpstreamProtocol::Http2,
                    (Some(raw::UpstreamProtocol::Auto), _) | (None, Some(_)) => {
                        UpstreamProtocol::Auto
                    }
                },
                tls: raw.tls.as_ref().map(|tls| self.upstream_tls(tls, security)),
                balancer: self.balancer(&raw.balancer),
                slow_start: raw.slow_start.0,
                zone: zone.cloned(),
                connect_timeout: self.positive(&raw.timeouts.connect),
                idle_timeout: self.positive(&raw.timeouts.idle),
                max_connection_age: raw.max_connection_age.0,
                limits: Limits {
                    connections: raw.limits.connections.get(),
                    pending: raw.limits.pending.get(),
                    requests: raw.limits.requests.get(),
                    retries: raw.limits.retries.get(),
                    adaptive: raw.limits.adaptive,
                },
                retry_budget: retry_budget(&raw.retry_budget),
                breaker: self.breaker(&raw.breaker),
                ejection: self.ejection(&raw.ejection),
                health_checks: self.health_checks(&raw.health_checks),
                proxy_protocol: raw.proxy_protocol.map(|version| match version {
                    raw::ProxyVersion::V1 => ProxyVersion::V1,
                    raw::ProxyVersion::V2 => ProxyVersion::V2,
                }),
                dns: self.dns(&raw.dns),
            };
            upstreams.push(upstream);
        }
        upstreams
    }

    fn endpoints(&mut self, raw: &At<Vec<At<raw::Endpoint>>>) -> Vec<EndpointConfig> {
        if raw.value.is_empty() {
            let fault = Fault::new("there is no endpoint");
            self.fault(raw.node, fault.hint("at least one is needed"));
        }
        let mut seen = HashMap::new();
        let mut endpoints = Vec::with_capacity(raw.value.len());
        for endpoint in &raw.value {
            let (text, node, full) = match &endpoint.value {
                raw::Endpoint::Address(address) => (address, endpoint.node, None),
                raw::Endpoint::Weighted(full) => {
                    (&full.address.value, full.address.node, Some(full))
                }
            };
            let zone = full.and_then(|full| full.zone.as_ref());
            let zone = zone.and_then(|zone| self.zone(zone));
            match syntax::endpoint_address(text, self.tree.directory(node)) {
                Ok(address) => {
                    self.unique(&mut seen, address.clone(), node, || {
                        format!("endpoint {}", quote(text))
                    });
                    endpoints.push(EndpointConfig {
                        address,
                        weight: full.map_or(1, |full| full.weight.get()),
                        priority: full.map_or(0, |full| full.priority.get()),
                        zone,
                    });
                }
                Err(fault) => self.fault(node, fault),
            }
        }
        endpoints
    }

    fn breaker(&mut self, raw: &raw::OrOff<raw::Breaker>) -> Option<Breaker> {
        let raw::OrOff::On(raw) = raw else {
            return None;
        };
        Some(Breaker {
            consecutive_failures: raw.consecutive_failures.get(),
            connect_failures: raw.connect_failures.get(),
            backoff: self.backoff(&raw.backoff, &raw.max_backoff),
        })
    }

    fn ejection(&mut self, raw: &raw::OrOff<raw::Ejection>) -> Option<Ejection> {
        let raw::OrOff::On(raw) = raw else {
            return None;
        };
        Some(Ejection {
            success_rate: raw.success_rate,
            latency: raw.latency,
            max_ejected: raw.max_ejected.0,
            window: self.positive(&raw.window),
            tolerance: raw.tolerance.0,
            backoff: self.backoff(&raw.backoff, &raw.max_backoff),
            dry_run: raw.dry_run,
            panic_threshold: raw.panic_threshold.0,
        })
    }

    fn backoff(&mut self, base: &At<Duration>, max: &At<Duration>) -> Backoff {
        if base.value > max.value {
            let fault = Fault::new(format!(
                "backoff ({}) is longer than maxBackoff ({})",
                base.value, max.value
            ));
            self.fault(base.node.or(max.node), fault);
        }
        Backoff {
            base: self.positive(base),
            max: max.value.0,
        }
    }

    /// `None` if it is empty, as it is where `${ZONE:-}` is not set.
    pub(super) fn zone(&mut self, raw: &At<String>) -> Option<Arc<str>> {
        if raw.value.is_empty() {
            return None;
        }
        self.parse(raw, syntax::name)
    }

    fn dns(&mut self, raw: &At<raw::Dns>) -> DnsPolicy {
        let (min_ttl, max_ttl) = (self.positive(&raw.value.min_ttl), raw.value.max_ttl.value.0);
        if min_ttl > max_ttl {
            let fault = Fault::new(format!(
                "minTtl ({}) is longer than maxTtl ({})",
                raw.value.min_ttl.value, raw.value.max_ttl.value
            ));
            self.fault(raw.value.min_ttl.node.or(raw.value.max_ttl.node), fault);
        }
        DnsPolicy { min_ttl, max_ttl }
    }
}
