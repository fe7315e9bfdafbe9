//! One rule: whether it holds for a call.

use std::{net::IpAddr, sync::Arc};

use http::Method;

use super::jwt::{Claims, TokenError};
use crate::{
    config::model::{
        AccessAction, AccessFrom, AccessRule, AccessTo, ClaimMatch, Hostname, PathMatch,
    },
    http::fields::Fields,
    router::header_matches,
    telemetry::AccessMetrics,
    tls::SpiffeId,
};

/// Who calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller<'a> {
    /// What its certificate proved.
    pub identity: Option<&'a SpiffeId>,
    /// Where its connection comes from; `None` over a Unix socket. Never IPv4 inside IPv6.
    pub address: Option<IpAddr>,
}

/// What is called.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    Request(Call<'a>),
    /// Opaque bytes, or a request of which nothing was kept. Rules that ask about requests hold if
    /// they deny, and don't if they allow.
    Unknown,
}

/// A request, as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// In lower case, without a port. Empty: none, which only rules without host names match.
    pub host: &'a str,
    /// As [`normalize`](crate::router::normalize) leaves it, before it is rewritten.
    pub path: &'a str,
    pub method: &'a Method,
    /// Without what concerned only the connection they came by.
    pub fields: &'a Fields,
}

/// A rule on one listener.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) config: Arc<AccessRule>,
    /// Where in the policy's list of providers the one is that the rule asks for.
    pub(super) provider: Option<usize>,
    pub(super) metrics: Arc<AccessMetrics>,
}

/// Whether a rule holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    Yes,
    No,
    /// All of it but the token.
    WithoutToken(TokenError),
}

impl Rule {
    /// `token` verifies the token of a provider, given by its place. The dearest is asked last.
    pub(super) fn holds<'c>(
        &self,
        caller: &Caller<'_>,
        target: &Target<'_>,
        token: impl FnOnce(usize) -> Result<&'c Claims, TokenError>,
    ) -> Holds {
        let rule = &*self.config;
        if !from_holds(&rule.from, caller) {
            return Holds::No;
        }
        let Some(call) = target.call() else {
            let asks = !rule.to.is_empty() || self.provider.is_some();
            return match asks && rule.action == AccessAction::Allow {
                true => Holds::No,
                false => Holds::Yes,
            };
        };
        if !to_holds(&rule.to, call) {
            return Holds::No;
        }
        let (Some(provider), Some(wanted)) = (self.provider, &rule.jwt) else {
            return Holds::Yes;
        };
        match token(provider) {
            Err(error) => Holds::WithoutToken(error),
            Ok(claims) if wanted.claims.iter().all(|claim| claim_holds(claim, claims)) => {
                Holds::Yes
            }
            Ok(_) => Holds::No,
        }
    }
}

impl<'a> Target<'a> {
    pub(super) const fn call(&self) -> Option<&Call<'a>> {
        match self {
            Self::Request(call) => Some(call),
            Self::Unknown => None,
        }
    }
}

/// An empty list asks for nothing.
fn any<T>(wanted: &[T], matches: impl Fn(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(matches)
}

fn from_holds(from: &AccessFrom, caller: &Caller<'_>) -> bool {
    any(&from.addresses, |network| {
        caller
            .address
            .is_some_and(|address| network.contains(&address))
    }) && any(&from.namespaces, |wanted| {
        caller
            .identity
            .and_then(SpiffeId::namespace)
            .is_some_and(|namespace| *namespace == **wanted)
    }) && any(&from.identities, |wanted| {
        caller.identity.is_some_and(|id| wanted.matches(id))
    })
}

fn to_holds(to: &AccessTo, call: &Call<'_>) -> bool {
    any(&to.methods, |method| method == call.method)
        && any(&to.hostnames, |name| host_matches(name, call.host))
        && any(&to.paths, |path| path_matches(path, call.path))
        && to
            .headers
            .iter()
            .all(|wanted| header_matches(wanted, call.fields))
}

fn host_matches(name: &Hostname, host: &str) -> bool {
    match name {
        Hostname::Exact(name) => **name == *host,
        Hostname::Wildcard(name) => host
            .strip_suffix(&**name)
            .and_then(|labels| labels.strip_suffix('.'))
            .is_some_and(|labels| !labels.is_empty()),
    }
}

fn path_matches(wanted: &PathMatch, path: &str) -> bool {
    match wanted {
        PathMatch::Exact(exact) => **exact == *path,
        PathMatch::Prefix(prefix) if **prefix == *"/" => true,
        PathMatch::Prefix(prefix) => path
            .strip_prefix(&**prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        PathMatch::Regex(pattern) => pattern.0.is_match(path),
    }
}

fn claim_holds(wanted: &ClaimMatch, claims: &Claims) -> bool {
    claims.has(&wanted.name, &wanted.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_takes_whole_segments() {
        let prefix = PathMatch::Prefix("/items".into());
        for (path, matches) in [
            ("/items", true),
            ("/items/", true),
            ("/items/1", true),
            ("/itemsets", false),
            ("/", false),
            ("*", false),
        ] {
            assert_eq!(path_matches(&prefix, path), matches, "{path}");
        }
        assert!(path_matches(&PathMatch::Prefix("/".into()), "*"));
    }

    #[test]
    fn a_wildcard_takes_labels_and_not_the_name_itself() {
        let wildcard = Hostname::Wildcard("shop.example".into());
        for (host, matches) in [
            ("a.shop.example", true),
            ("a.b.shop.example", true),
            ("shop.example", false),
            ("ashop.example", false),
            (".shop.example", false),
            ("", false),
        ] {
            assert_eq!(host_matches(&wildcard, host), matches, "{host}");
        }
    }
}
