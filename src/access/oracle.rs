//! The meaning of rules read out plainly, to compare the compiled [`Policy`] with.

use std::{
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use http::{HeaderName, Method};
use proptest::{prelude::*, sample::select};

use super::{
    Call, Caller, Decision, Policy, Provider, Target,
    jwt::{
        TokenError,
        testing::{NOW, Signer, provider, sign},
    },
};
use crate::{
    config::model::{
        AccessAction, AccessFrom, AccessRule, AccessTo, AccessToken, ClaimMatch, HeaderMatch,
        Hostname, PathMatch, ValueMatch,
    },
    http::fields::Fields,
    telemetry::Registry,
    tls::SpiffeId,
};

/// What is asked, as text.
#[derive(Clone, Debug)]
struct Asked {
    identity: Option<&'static str>,
    address: Option<&'static str>,
    /// `None`: unknown.
    request: Option<Requested>,
}

#[derive(Clone, Debug)]
struct Requested {
    host: &'static str,
    path: &'static str,
    method: Method,
    header: Option<&'static str>,
    token: Token,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Token {
    None,
    Broken,
    Expired,
    /// With the claim `scope`.
    Good(&'static str),
}

/// Goes through the rules once for each question.
fn oracle(rules: &[AccessRule], with_audits: bool, asked: &Asked) -> Decision {
    let counted = || {
        let rules = rules.iter().enumerate();
        rules.filter(|(_, rule)| with_audits || !rule.audit)
    };
    let first = |action: AccessAction| {
        let mut found =
            counted().filter(|(_, rule)| rule.action == action && holds(rule, asked, true));
        found.next().map(|(index, _)| index)
    };
    if let Some(index) = first(AccessAction::Deny) {
        return Decision::Denied {
            rule: Some(index),
            token: None,
        };
    }
    if let Some(index) = first(AccessAction::Allow) {
        return Decision::Allowed { rule: Some(index) };
    }
    let mut allowing = counted().filter(|(_, rule)| rule.action == AccessAction::Allow);
    if allowing.next().is_none() {
        return Decision::Allowed { rule: None };
    }
    let misses_only_a_token = counted().any(|(_, rule)| {
        rule.action == AccessAction::Allow && rule.jwt.is_some() && holds(rule, asked, false)
    });
    let token = match asked.request.as_ref().map(|request| request.token) {
        Some(Token::None) => Some(TokenError::Missing),
        Some(Token::Broken) => Some(TokenError::Invalid("it is no signed JWT")),
        Some(Token::Expired) => Some(TokenError::Invalid("it has expired")),
        Some(Token::Good(_)) | None => None,
    };
    Decision::Denied {
        rule: None,
        token: token.filter(|_| misses_only_a_token),
    }
}

fn holds(rule: &AccessRule, asked: &Asked, with_token: bool) -> bool {
    if !comes_from(&rule.from, asked) {
        return false;
    }
    let Some(request) = &asked.request else {
        let asks = rule.to != AccessTo::default() || rule.jwt.is_some();
        return !asks || rule.action == AccessAction::Deny;
    };
    let to = &rule.to;
    let host = to.hostnames.iter().any(|name| match name {
        Hostname::Exact(name) => **name == *request.host,
        Hostname::Wildcard(name) => {
            let dotted = format!(".{name}");
            request.host.len() > dotted.len() && request.host.ends_with(&dotted)
        }
    });
    let path = to.paths.iter().any(|path| match path {
        PathMatch::Exact(exact) => **exact == *request.path,
        PathMatch::Prefix(prefix) => {
            let wanted: Vec<&str> = prefix.split('/').filter(|part| !part.is_empty()).collect();
            let parts: Vec<&str> = request.path.split('/').skip(1).collect();
            parts.starts_with(&wanted)
        }
        PathMatch::Regex(pattern) => pattern.0.is_match(request.path),
    });
    let header = to.headers.iter().all(|wanted| match &wanted.value {
        ValueMatch::Exact(value) => request.header == Some(&**value),
        ValueMatch::Regex(_) => unreachable!("none is made here"),
    });
    let token = match &rule.jwt {
        Some(jwt) if with_token => match request.token {
            Token::Good(scope) => {
                let words: Vec<&str> = scope.split(' ').collect();
                jwt.claims
                    .iter()
                    .all(|claim| words.contains(&&*claim.value))
            }
            _ => false,
        },
        _ => true,
    };
    (to.hostnames.is_empty() || host)
        && (to.methods.is_empty() || to.methods.contains(&request.method))
        && (to.paths.is_empty() || path)
        && header
        && token
}

fn comes_from(from: &AccessFrom, asked: &Asked) -> bool {
    let address = from.addresses.iter().any(|network| {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(v4) => format!("4{:032b}", u32::from(v4)),
            IpAddr::V6(v6) => format!("6{:0128b}", u128::from(v6)),
        };
        let prefix = &bits(network.addr())[..=usize::from(network.prefix_len())];
        asked
            .address
            .is_some_and(|address| bits(address.parse().unwrap()).starts_with(prefix))
    });
    let parts: Vec<&str> = asked.identity.unwrap_or_default().split('/').collect();
    let namespace = from.namespaces.iter().any(|wanted| match parts[..] {
        [_, _, _, "ns", namespace, "sa", _] => *namespace == **wanted,
        _ => false,
    });
    let identity = from.identities.iter().any(|wanted| {
        let wanted = wanted.to_string();
        let wanted: Vec<&str> = wanted.split('/').collect();
        let alike = wanted
            .iter()
            .zip(&parts)
            .all(|(wanted, part)| *wanted == "*" || wanted == part);
        let same_length = wanted.len() == parts.len();
        asked.identity.is_some() && alike && (same_length || wanted.len() == 3)
    });
    (from.addresses.is_empty() || address)
        && (from.namespaces.is_empty() || namespace)
        && (from.identities.is_empty() || identity)
}

fn some<T: Clone + std::fmt::Debug + 'static>(of: Vec<T>) -> impl Strategy<Value = Vec<T>> {
    let most = of.len().min(2);
    prop_oneof![3 => Just(Vec::new()), 2 => prop::sample::subsequence(of, 1..=most)]
}

fn from() -> impl Strategy<Value = AccessFrom> {
    let identities = [
        "spiffe://d/ns/shop/sa/web",
        "spiffe://d/ns/*/sa/web",
        "spiffe://d",
    ];
    let networks = [
        "10.0.0.0/8",
        "10.1.0.0/16",
        "192.0.2.7/32",
        "2001:db8::/32",
        "0.0.0.0/0",
    ];
    (
        some(identities.map(|text| text.parse().unwrap()).to_vec()),
        some(["shop", "pay"].map(Arc::from).to_vec()),
        some(networks.map(|text| text.parse().unwrap()).to_vec()),
    )
        .prop_map(|(identities, namespaces, addresses)| AccessFrom {
            identities,
            namespaces,
            addresses,
        })
}

fn to() -> impl Strategy<Value = AccessTo> {
    let hostnames = vec![
        Hostname::Exact("a.example".into()),
        Hostname::Wildcard("example".into()),
    ];
    let expression = regex::Regex::new("^(?:/a/.*)$").unwrap();
    let paths = vec![
        PathMatch::Exact("/a".into()),
        PathMatch::Prefix("/a".into()),
        PathMatch::Prefix("/".into()),
        PathMatch::Regex(crate::config::model::Pattern(expression)),
    ];
    let headers = vec![HeaderMatch {
        name: HeaderName::from_static("x-tenant"),
        value: ValueMatch::Exact("a".into()),
    }];
    (
        some(hostnames),
        some(vec![Method::GET, Method::POST]),
        some(paths),
        some(headers),
    )
        .prop_map(|(hostnames, methods, paths, headers)| AccessTo {
            hostnames,
            methods,
            paths,
            headers,
        })
}

fn rule() -> impl Strategy<Value = AccessRule> {
    let action = select(vec![
        AccessAction::Allow,
        AccessAction::Allow,
        AccessAction::Deny,
    ]);
    let jwt = prop::option::weighted(0.3, some(vec!["read", "write"]));
    (action, prop::bool::weighted(0.2), from(), to(), jwt).prop_map(
        |(action, audit, from, to, jwt)| AccessRule {
            name: "rule".into(),
            action,
            audit,
            listeners: Vec::new(),
            ports: Vec::new(),
            from,
            to,
            jwt: jwt.map(|scopes| AccessToken {
                provider: "corp".into(),
                claims: scopes
                    .into_iter()
                    .map(|scope| ClaimMatch {
                        name: "scope".into(),
                        value: scope.into(),
                    })
                    .collect(),
            }),
        },
    )
}

fn asked() -> impl Strategy<Value = Asked> {
    let identity = prop::option::weighted(
        0.8,
        select(vec![
            "spiffe://d/ns/shop/sa/web",
            "spiffe://d/ns/pay/sa/web",
            "spiffe://d/ns/pay/sa/other",
            "spiffe://d/job",
            "spiffe://e/ns/shop/sa/web",
        ]),
    );
    let address = prop::option::weighted(
        0.9,
        select(vec![
            "10.1.2.3",
            "10.2.0.0",
            "192.0.2.7",
            "192.0.2.8",
            "2001:db8::1",
            "::1",
        ]),
    );
    let request = (
        select(vec!["", "a.example", "b.a.example", "example", "aexample"]),
        select(vec!["/", "/a", "/a/", "/a/b", "/ab", "/b"]),
        select(vec![Method::GET, Method::POST, Method::PUT]),
        prop::option::of(select(vec!["a", "b"])),
        select(vec![
            Token::None,
            Token::Broken,
            Token::Expired,
            Token::Good("read"),
            Token::Good("read write"),
            Token::Good("readwrite"),
        ]),
    );
    let request = request.prop_map(|(host, path, method, header, token)| Requested {
        host,
        path,
        method,
        header,
        token,
    });
    (identity, address, prop::option::weighted(0.9, request)).prop_map(
        |(identity, address, request)| Asked {
            identity,
            address,
            request,
        },
    )
}

static PROVIDER: LazyLock<(Arc<Provider>, Signer)> = LazyLock::new(provider);

fn fields(request: &Requested) -> Fields {
    let signed = |expires: u64, scope: &str| {
        let claims = format!(
            r#"{{"iss":"https://id.example","aud":"shop","exp":{expires},"scope":"{scope}"}}"#
        );
        format!("Bearer {}", sign(&PROVIDER.1, &claims))
    };
    let token = match request.token {
        Token::None => None,
        Token::Broken => Some("Bearer broken".to_owned()),
        Token::Expired => Some(signed(NOW - 1000, "read")),
        Token::Good(scope) => Some(signed(NOW + 1000, scope)),
    };
    let token = token.map(|token| ("authorization".to_owned(), token));
    let header = request
        .header
        .map(|value| ("x-tenant".to_owned(), value.to_owned()));
    token.into_iter().chain(header).collect()
}

/// Back from places in the policy to those in the file.
fn in_file(decision: Decision, rules: &[AccessRule]) -> Decision {
    let mut order: Vec<usize> = (0..rules.len()).collect();
    order.sort_by_key(|&index| rules[index].action);
    match decision {
        Decision::Allowed { rule } => Decision::Allowed {
            rule: rule.map(|rule| order[rule]),
        },
        Decision::Denied { rule, token } => Decision::Denied {
            rule: rule.map(|rule| order[rule]),
            token,
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn the_policy_agrees(
        rules in prop::collection::vec(rule(), 1..6),
        all in prop::collection::vec(asked(), 1..6),
    ) {
        let registry = Registry::new(1);
        let policy = Policy::new(
            rules.iter().map(|rule| (Arc::new(rule.clone()), registry.access("web", "rule"))),
            |_| Arc::clone(&PROVIDER.0),
            || registry.access("web", ""),
        ).unwrap();
        for asked in &all {
            let identity: Option<SpiffeId> = asked.identity.map(|id| id.parse().unwrap());
            let caller = Caller {
                identity: identity.as_ref(),
                address: asked.address.map(|address| address.parse().unwrap()),
            };
            let fields = asked.request.as_ref().map(fields).unwrap_or_default();
            let target = asked.request.as_ref().map_or(Target::Unknown, |request| {
                Target::Request(Call {
                    host: request.host,
                    path: request.path,
                    method: &request.method,
                    fields: &fields,
                })
            });
            let verdict = policy.decide(&caller, &target, NOW);
            let decision = in_file(verdict.decision, &rules);
            prop_assert_eq!(decision, oracle(&rules, false, asked), "{:?} {:?}", asked, rules);
            let audit = verdict.audit.map(|audit| in_file(audit, &rules));
            let audits = rules.iter().any(|rule| rule.audit);
            let expected = audits.then(|| oracle(&rules, true, asked));
            prop_assert_eq!(audit, expected, "{:?} {:?}", asked, rules);
        }
    }
}
