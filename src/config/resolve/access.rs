//! Rules about who may call what, and whose tokens they ask for.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{Known, Resolver, listeners::Placed};
use crate::config::{
    decode::At,
    model::{
        AccessAction, AccessFrom, AccessRule, AccessTo, AccessToken, Address, ClaimMatch,
        ClientCertificates, Jwks, JwtProvider, Listener, ListenerKind,
    },
    raw,
    report::{Fault, quote},
    syntax,
    tree::NodeId,
};

/// Every listener may have every rule, so their product is memory; and each is asked in turn.
const MAX_RULES: usize = 1000;
/// A clock that is further off is broken.
const MAX_LEEWAY: Duration = Duration::from_secs(300);
/// Asking more often would be a burden to the issuer.
const MIN_REFRESH: Duration = Duration::from_secs(1);

impl Resolver<'_> {
    pub(super) fn access(&mut self, raw: &raw::Config, listeners: &[Placed]) -> Vec<AccessRule> {
        let count = raw.access.value.len();
        if count > MAX_RULES {
            let fault = Fault::new(format!("{count} access rules are more than {MAX_RULES}"));
            self.fault(raw.access.node, fault);
            return Vec::new();
        }
        let known = Known::new("listener", &raw.listeners, self.tree, |listener| {
            listener.name.as_ref().unwrap_or(&listener.address)
        });
        let providers = Known::new("JWT provider", &raw.jwt_providers, self.tree, |provider| {
            &provider.name
        });
        let mut names = HashMap::new();
        let mut rules = Vec::with_capacity(count);
        for (index, placed) in raw.access.value.iter().enumerate() {
            let rule = &placed.value;
            let (name, node) = match &rule.name {
                Some(name) => (
                    self.parse(name, syntax::name).unwrap_or_default(),
                    name.node,
                ),
                None => (format!("access-{index}").into(), placed.node),
            };
            self.unique(&mut names, Arc::clone(&name), node, || {
                format!("access rule `{name}`")
            });
            rules.push(self.access_rule(name, placed, listeners, &known, &providers));
        }
        rules
    }

    fn access_rule(
        &mut self,
        name: Arc<str>,
        placed: &At<raw::AccessRule>,
        listeners: &[Placed],
        known: &Known<'_>,
        providers: &Known<'_>,
    ) -> AccessRule {
        let raw = &placed.value;
        let on = self.access_listeners(raw, listeners, known);
        let ports = self.access_ports(raw, &on);
        let from = self.access_from(&raw.from.value);
        let to = self.access_to(&raw.to.value);
        let jwt = raw
            .jwt
            .as_ref()
            .map(|jwt| self.access_token(&jwt.value, providers));
        let concerned: Vec<_> = on
            .iter()
            .copied()
            .filter(|listener| may_have_port(listener, &ports))
            .collect();
        if !to.is_empty() {
            self.needs_http(raw.to.node, "to", &concerned);
        }
        if let Some(jwt) = &raw.jwt {
            self.needs_http(jwt.node, "jwt", &concerned);
        }
        for (list, key) in [
            (&raw.from.value.identities, "identities"),
            (&raw.from.value.namespaces, "namespaces"),
        ] {
            if let Some(list) = list {
                self.needs_identity(list.node, key, &concerned);
            }
        }
        AccessRule {
            name,
            action: match raw.action {
                raw::AccessAction::Allow => AccessAction::Allow,
                raw::AccessAction::Deny => AccessAction::Deny,
            },
            audit: raw.audit,
            listeners: on
                .iter()
                .map(|listener| Arc::clone(&listener.name))
                .collect(),
            ports,
            from,
            to,
            jwt,
        }
    }

    fn access_listeners<'l>(
        &mut self,
        raw: &raw::AccessRule,
        listeners: &'l [Placed],
        known: &Known<'_>,
    ) -> Vec<&'l Listener> {
        let Some(wanted) = &raw.listeners else {
            return listeners.iter().map(|(_, listener)| listener).collect();
        };
        self.not_empty(wanted, "listener", "leave `listeners` out for all of them");
        let mut seen = HashMap::new();
        let mut found = Vec::with_capacity(wanted.value.len());
        for name in &wanted.value {
            self.unique(&mut seen, &name.value, name.node, || {
                format!("listener {}", quote(&name.value))
            });
            let Some(checked) = known.check(name, self) else {
                continue;
            };
            let listener = listeners
                .iter()
                .find(|(_, listener)| listener.name == checked);
            found.extend(listener.map(|(_, listener)| listener));
        }
        found
    }

    /// A port that no listener has would make the rule one that never holds: whoever wrote an
    /// `allow` so would believe that the rest is denied.
    fn access_ports(&mut self, raw: &raw::AccessRule, on: &[&Listener]) -> Vec<u16> {
        let Some(wanted) = &raw.ports else {
            return Vec::new();
        };
        self.not_empty(wanted, "port", "leave `ports` out for any");
        let mut seen = HashMap::new();
        let mut ports = Vec::with_capacity(wanted.value.len());
        for written in &wanted.value {
            let port: u16 = written.value.get();
            self.unique(&mut seen, port, written.node, || format!("port {port}"));
            if !on.iter().any(|listener| may_have_port(listener, &[port])) {
                let fault = Fault::new(format!("no listener of this rule has port {port}"));
                self.fault(written.node, fault.hint("the rule would never hold"));
            }
            ports.push(port);
        }
        ports
    }

    fn needs_http(&mut self, node: Option<NodeId>, key: &str, on: &[&Listener]) {
        let is_tcp = |listener: &&&Listener| matches!(listener.kind, ListenerKind::Tcp(_));
        if let Some(listener) = on.iter().find(is_tcp) {
            let name = &listener.name;
            let fault = Fault::new(format!(
                "`{key}` asks for what listener `{name}` can't know: it is a tcp listener"
            ));
            let hint = "name the http listeners in `listeners`, and write a rule of its own for \
                        this one";
            self.fault(node, fault.hint(hint));
        }
    }

    fn needs_identity(&mut self, node: Option<NodeId>, key: &str, on: &[&Listener]) {
        if let Some(listener) = on.iter().find(|listener| !proves_identities(listener)) {
            let name = &listener.name;
            let fault = Fault::new(format!(
                "`{key}` can never hold on listener `{name}`: it asks for no client certificates"
            ));
            let hint = "name only listeners with `tls` in `listeners`, or use `addresses`";
            self.fault(node, fault.hint(hint));
        }
    }

    fn access_from(&mut self, raw: &raw::AccessFrom) -> AccessFrom {
        AccessFrom {
            identities: self.any_of(&raw.identities, "identity", syntax::peer),
            namespaces: self.any_of(&raw.namespaces, "namespace", syntax::namespace),
            addresses: self.any_of(&raw.addresses, "address", syntax::network),
        }
    }

    fn access_to(&mut self, raw: &raw::AccessTo) -> AccessTo {
        let paths = raw.paths.as_ref().map(|paths| {
            self.not_empty(paths, "path", "leave `paths` out for any");
            paths
                .value
                .iter()
                .filter_map(|path| self.path_match(&path.value))
                .collect()
        });
        AccessTo {
            hostnames: self.any_of(&raw.hostnames, "host name", syntax::hostname),
            methods: self.any_of(&raw.methods, "method", syntax::method),
            paths: paths.unwrap_or_default(),
            headers: self.header_matches(&raw.headers),
        }
    }

    /// A list of which any one has to hold, each given once.
    fn any_of<T>(
        &mut self,
        list: &Option<At<Vec<At<String>>>>,
        what: &str,
        read: impl Fn(&str) -> Result<T, Fault>,
    ) -> Vec<T> {
        let Some(list) = list else {
            return Vec::new();
        };
        self.not_empty(list, what, "leave the key out for any");
        let mut seen = HashMap::new();
        let mut all = Vec::with_capacity(list.value.len());
        for written in &list.value {
            let text = written.value.as_str();
            self.once(&mut seen, text.to_owned(), written.node, what);
            all.extend(self.parse(written, &read));
        }
        all
    }

    fn access_token(&mut self, raw: &raw::AccessToken, providers: &Known<'_>) -> AccessToken {
        let mut seen = HashMap::new();
        let mut claims = Vec::with_capacity(raw.claims.len());
        for At { value: claim, .. } in &raw.claims {
            let name = claim.name.value.as_str();
            if name.is_empty() {
                self.fault(claim.name.node, Fault::new("a claim needs a name"));
            }
            let both = format!("{name}: {}", claim.value);
            self.once(&mut seen, both, claim.name.node, "claim");
            claims.push(ClaimMatch {
                name: name.into(),
                value: claim.value.as_str().into(),
            });
        }
        AccessToken {
            provider: providers.check(&raw.provider, self).unwrap_or_default(),
            claims,
        }
    }

    pub(super) fn jwt_providers(&mut self, raw: &[At<raw::JwtProvider>]) -> Vec<JwtProvider> {
        let mut names = HashMap::new();
        let mut providers = Vec::with_capacity(raw.len());
        for At { value: raw, .. } in raw {
            let name = self.parse(&raw.name, syntax::name).unwrap_or_default();
            self.unique(&mut names, Arc::clone(&name), raw.name.node, || {
                format!("JWT provider `{name}`")
            });
            providers.extend(self.jwt_provider(name, raw));
        }
        providers
    }

    fn jwt_provider(&mut self, name: Arc<str>, raw: &raw::JwtProvider) -> Option<JwtProvider> {
        if raw.issuer.value.is_empty() {
            let fault = Fault::new("an issuer is not empty");
            self.fault(raw.issuer.node, fault.hint("what the tokens say in `iss`"));
        }
        self.not_empty(
            &raw.audiences,
            "audience",
            "what the tokens say in `aud`: without it, a token for anybody would do",
        );
        self.not_empty(&raw.algorithms, "algorithm", "leave it out for the default");
        if raw.leeway.value.0 > MAX_LEEWAY {
            let fault = Fault::new("a leeway is at most 5m");
            self.fault(raw.leeway.node, fault.hint("set the clocks instead"));
        }
        let header = self.parse(&raw.header, syntax::matched_header);
        let jwks = self.jwks(&raw.jwks);
        let audiences = raw.audiences.value.iter();
        Some(JwtProvider {
            name,
            issuer: raw.issuer.value.as_str().into(),
            audiences: audiences
                .map(|audience| audience.value.as_str().into())
                .collect(),
            jwks: jwks?,
            algorithms: raw
                .algorithms
                .value
                .iter()
                .map(|algorithm| algorithm.value)
                .collect(),
            leeway: raw.leeway.value.0,
            header: header?,
            forward: raw.forward,
        })
    }

    fn jwks(&mut self, placed: &At<raw::Jwks>) -> Option<Jwks> {
        let raw = &placed.value;
        match (&raw.file, &raw.url) {
            (Some(file), None) => {
                if let Some(node) = raw.refresh.node {
                    let fault = Fault::new("a file is not fetched again and again");
                    self.fault(Some(node), fault.hint("it is watched; leave `refresh` out"));
                }
                let directory = self.tree.directory(file.node);
                self.parse(file, |text| syntax::file_path(text, directory))
                    .map(Jwks::File)
            }
            (None, Some(url)) => {
                if raw.refresh.value.0 < MIN_REFRESH {
                    self.fault(raw.refresh.node, Fault::new("`refresh` is at least 1s"));
                }
                let refresh = raw.refresh.value.0;
                self.parse(url, syntax::keys_url)
                    .map(|url| Jwks::Url { url, refresh })
            }
            _ => {
                let fault = Fault::new("exactly one of `file` and `url` is expected");
                self.fault(placed.node, fault);
                None
            }
        }
    }
}

/// Whether a listener is on one of these ports, or will be: port 0 becomes any. None: whatever it
/// is on.
fn may_have_port(listener: &Listener, ports: &[u16]) -> bool {
    match &listener.address {
        _ if ports.is_empty() => true,
        Address::Tcp(address) => address.port() == 0 || ports.contains(&address.port()),
        Address::Unix(_) => false,
    }
}

/// Whether callers of this listener may have an identity.
fn proves_identities(listener: &Listener) -> bool {
    listener
        .tls
        .as_ref()
        .is_some_and(|tls| tls.client_certificates != ClientCertificates::Off)
}
