//! From what was written to what it means.
//!
//! Names become checked references, text becomes addresses, patterns and header values, defaults
//! are already in place. Nothing stops at a mistake: what can't be resolved is left out, and the
//! result only counts if nothing was noted.

mod access;
mod access_log;
mod balancing;
mod checks;
mod fallback;
mod filters;
mod listeners;
mod metrics;
mod otlp;
mod protect;
mod redact;
mod retry;
mod routes;
mod tls;
mod tracing;
mod upstreams;

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    net::SocketAddr,
    sync::Arc,
    time,
};

use self::tls::Security;
use super::{
    decode::At,
    model::{self, Address},
    notes::{Notes, Overruled},
    otel::Otel,
    raw,
    report::{Fault, Problems, quote},
    syntax,
    tree::{NodeId, Tree},
    units::Duration,
};
use crate::telemetry::otlp::Signal;

/// Resolves a whole configuration, noting everything that is wrong with it.
pub(super) fn resolve(
    root: &At<raw::Config>,
    tree: &Tree,
    otel: &Otel,
    problems: &mut Problems,
) -> (model::Config, Notes) {
    let raw = &root.value;
    let mut resolver = Resolver {
        tree,
        otel,
        problems,
        sockets: HashMap::new(),
        notes: Notes::default(),
        untraced: raw.tracing.is_none()
            && otel.exports(Signal::Traces).is_none()
            // What is ignored of the environment may have been meant to switch it on, and keeps no
            // process from starting.
            && otel.warnings.is_empty()
            && !root.node.is_some_and(|root| tree.has_lost_key(root)),
    };
    let admin = resolver.admin(&raw.admin);
    let redact = Arc::new(resolver.redact(&raw.redact.value));
    let access_log = resolver.access_log(&raw.access_log.value, &redact);
    let metrics = resolver.metrics(&raw.metrics.value);
    let otlp = resolver.otlp(&raw.otlp.value);
    let tracing = resolver.tracing(raw.tracing.as_ref());
    let drain = resolver.drain(&raw.drain.value);
    let security = Security::of(raw);
    let identity = raw
        .identity
        .as_ref()
        .and_then(|identity| resolver.identity(identity));
    let trust = resolver.trust(&raw.trust);
    let zone = resolver.zone(&raw.zone);
    let upstreams = resolver.upstreams(&raw.upstreams, security, zone.as_ref());
    let mut known = Known::new("upstream", &raw.upstreams, tree, |upstream| &upstream.name);
    // A misspelt `upstreams` is told once, not at every mention of what it would have defined.
    known.complete &=
        raw.upstreams.node.is_some() || !root.node.is_some_and(|root| tree.has_lost_key(root));
    let listeners = resolver.listeners(&raw.listeners, &known, security);
    let routes = resolver.routes(raw, &listeners, &known);
    let access = resolver.access(raw, &listeners);
    let jwt_providers = resolver.jwt_providers(&raw.jwt_providers.value);
    resolver.served(&raw.listeners.value, &listeners, &routes);
    let mut notes = std::mem::take(&mut resolver.notes);
    let config = model::Config {
        admin,
        access_log,
        metrics,
        redact,
        otlp,
        tracing: tracing.map(Arc::new),
        drain,
        zone,
        identity,
        trust,
        listeners: listeners
            .into_iter()
            .map(|(_, listener)| Arc::new(listener))
            .collect(),
        routes: routes.into_iter().map(Arc::new).collect(),
        access: access.into_iter().map(Arc::new).collect(),
        jwt_providers: jwt_providers.into_iter().map(Arc::new).collect(),
        upstreams: upstreams.into_iter().map(Arc::new).collect(),
    };
    notes.doubts.extend(otlp::doubts(&config));
    (config, notes)
}

struct Resolver<'a> {
    tree: &'a Tree,
    /// What the environment says of telemetry, which goes before the files.
    otel: &'a Otel,
    problems: &'a mut Problems,
    /// What is bound already, and where that was written.
    sockets: HashMap<Address, Option<NodeId>>,
    notes: Notes,
    /// Nobody has said a word of tracing but rules.
    untraced: bool,
}

impl Resolver<'_> {
    /// Notes a fault at a node; at a default there can't be one.
    fn fault(&mut self, node: Option<NodeId>, fault: Fault) {
        if let Some(node) = node {
            self.problems.node(self.tree, node, fault);
        }
    }

    /// Notes a signal that the files want exported, if the environment forbids it.
    fn overruled(&mut self, signal: Signal) {
        let by = self.otel.forbidden_by(signal);
        let overruled = by.map(|by| Overruled { signal, by });
        self.notes.overruled.extend(overruled);
    }

    /// Reads a value by a function of its text.
    fn parse<T>(
        &mut self,
        written: &At<String>,
        read: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<T> {
        read(&written.value)
            .map_err(|fault| self.fault(written.node, fault))
            .ok()
    }

    /// A duration that must not be zero.
    fn positive(&mut self, written: &At<Duration>) -> time::Duration {
        if written.value.0.is_zero() {
            let fault = Fault::new("0s is not allowed here");
            self.fault(written.node, fault.hint("this limit can't be switched off"));
        }
        written.value.0
    }

    /// Notes a name that was given before.
    fn unique<K: std::hash::Hash + Eq>(
        &mut self,
        seen: &mut HashMap<K, Option<NodeId>>,
        key: K,
        node: Option<NodeId>,
        what: impl FnOnce() -> String,
    ) {
        match seen.entry(key) {
            Entry::Vacant(vacant) => {
                vacant.insert(node);
            }
            Entry::Occupied(first) => {
                let mut fault = Fault::new(format!("{} is given twice", what()));
                if let Some(first) = *first.get() {
                    let place = self.tree.place(self.tree.mark(first));
                    fault = fault.hint(format!("the first one is at {place}"));
                }
                self.fault(node, fault);
            }
        }
    }

    /// Notes an address that something else is bound to.
    fn bound(&mut self, address: &Address, node: Option<NodeId>) {
        if matches!(address, Address::Tcp(address) if address.port() == 0) {
            return;
        }
        let mut sockets = std::mem::take(&mut self.sockets);
        self.unique(&mut sockets, address.clone(), node, || {
            format!("address {}", quote(&address.to_string()))
        });
        self.sockets = sockets;
    }

    fn admin(&mut self, written: &At<raw::Admin>) -> model::Admin {
        let admin = &written.value;
        let address = match admin.address.value.as_str() {
            "off" => None,
            _ => self.control_address(&admin.address),
        };
        let probes = admin
            .probes
            .as_ref()
            .and_then(|probes| self.control_address(probes));
        model::Admin { address, probes }
    }

    fn control_address(&mut self, written: &At<String>) -> Option<SocketAddr> {
        let address = self.parse(written, syntax::socket_address)?;
        self.bound(&Address::Tcp(address), written.node);
        Some(address)
    }

    fn drain(&mut self, raw: &raw::Drain) -> model::Drain {
        let (delay, deadline) = (raw.delay.value.0, raw.deadline.value.0);
        if delay > deadline {
            let fault = Fault::new(format!(
                "delay ({}) is longer than deadline ({})",
                raw.delay.value, raw.deadline.value
            ));
            self.fault(
                raw.delay.node.or(raw.deadline.node),
                fault.hint("the deadline counts from the same moment"),
            );
        }
        model::Drain { delay, deadline }
    }
}

/// Names that may be referred to.
struct Known<'a> {
    what: &'static str,
    names: BTreeSet<&'a str>,
    /// Whether all are known; not if a definition was refused that would have given one.
    complete: bool,
}

impl<'a> Known<'a> {
    fn new<T>(
        what: &'static str,
        definitions: &'a At<Vec<At<T>>>,
        tree: &Tree,
        name: impl Fn(&'a T) -> &'a At<String>,
    ) -> Self {
        let hole = |node: Option<NodeId>| node.is_some_and(|node| tree.is_hole(node));
        let written = || definitions.value.iter().map(|item| name(&item.value));
        Self {
            what,
            names: written().map(|name| name.value.as_str()).collect(),
            complete: !hole(definitions.node) && !written().any(|name| hole(name.node)),
        }
    }

    /// The name, if something has it.
    fn check(&self, written: &At<String>, resolver: &mut Resolver<'_>) -> Option<Arc<str>> {
        if self.names.contains(written.value.as_str()) {
            return Some(written.value.as_str().into());
        }
        if self.complete {
            let fault = Fault::new(format!(
                "there is no {} {}",
                self.what,
                quote(&written.value)
            ));
            resolver.fault(
                written.node,
                match self.names.is_empty() {
                    true => fault.hint(format!("no {} is defined", self.what)),
                    false => fault.suggest(&written.value, self.names.iter().copied()),
                },
            );
        }
        None
    }
}
