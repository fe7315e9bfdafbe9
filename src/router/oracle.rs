//! The specification read out plainly, to compare the compiled [`Router`](super::Router) with.

use std::sync::Arc;

use http::{HeaderName, Method};
use proptest::{prelude::*, sample::select};
use regex::Regex;

use super::{Lookup, Router, decode, pairs};
use crate::{
    config::model::{
        Action, HeaderMatch, Hostname, Match, PathMatch, Pattern, QueryMatch, Route, Rule,
        ValueMatch,
    },
    http::fields::Fields,
};

/// Goes through every match of every rule and keeps the best: the route, the rule, and the bytes
/// of the path that are covered.
fn find(routes: &[Arc<Route>], request: &Lookup<'_>) -> Option<((usize, usize), usize)> {
    let mut best = None;
    for (route_index, route) in routes.iter().enumerate() {
        let Some(host) = host_rank(&route.hostnames, request.host) else {
            continue;
        };
        for (rule_index, rule) in route.rules.iter().enumerate() {
            for wanted in &rule.matches {
                let Some((path, covers)) = path_rank(&wanted.path, request.path) else {
                    continue;
                };
                if !conditions_hold(wanted, request) {
                    continue;
                }
                let rank = (
                    host,
                    path,
                    wanted.method.is_some(),
                    wanted.headers.len(),
                    wanted.query.len(),
                );
                if best.is_none_or(|(best, _, _)| rank > best) {
                    best = Some((rank, (route_index, rule_index), covers));
                }
            }
        }
    }
    best.map(|(_, rule, covers)| (rule, covers))
}

/// Characters in a matching exact hostname, then characters in any matching hostname.
fn host_rank(hostnames: &[Hostname], host: &str) -> Option<(usize, usize)> {
    if hostnames.is_empty() {
        return Some((0, 0));
    }
    let rank = |hostname: &Hostname| match hostname {
        Hostname::Exact(name) => (**name == *host).then_some((name.len(), name.len())),
        Hostname::Wildcard(name) => {
            let labels = host.strip_suffix(&**name)?.strip_suffix('.')?;
            (!labels.is_empty()).then_some((0, name.len() + 2))
        }
    };
    hostnames.iter().filter_map(rank).max()
}

/// Exact over regular expression over the longest prefix; and the bytes covered.
fn path_rank(wanted: &PathMatch, path: &str) -> Option<((u8, usize), usize)> {
    match wanted {
        PathMatch::Exact(exact) => (**exact == *path).then_some(((2, 0), path.len())),
        PathMatch::Regex(pattern) => pattern.0.is_match(path).then_some(((1, 0), path.len())),
        PathMatch::Prefix(prefix) => {
            let prefix = prefix.trim_end_matches('/');
            let rest = path.strip_prefix(prefix)?;
            let whole = prefix.is_empty() || rest.is_empty() || rest.starts_with('/');
            whole.then_some(((0, prefix.len()), prefix.len()))
        }
    }
}

fn conditions_hold(wanted: &Match, request: &Lookup<'_>) -> bool {
    let value_is = |wanted: &ValueMatch, value: &str| match wanted {
        ValueMatch::Exact(text) => **text == *value,
        ValueMatch::Regex(pattern) => pattern.0.is_match(value),
    };
    let header_is = |wanted: &HeaderMatch| {
        let lines: Vec<_> = request
            .fields
            .get_all(&wanted.name)
            .map(|line| str::from_utf8(line).unwrap())
            .collect();
        !lines.is_empty() && value_is(&wanted.value, &lines.join(", "))
    };
    let parameter_is = |wanted: &QueryMatch| {
        let value = pairs(request.query.unwrap_or_default())
            .map(|(name, value)| (decode(name), decode(value)))
            .find(|(name, _)| *name == *wanted.name);
        value.is_some_and(|(_, value)| value_is(&wanted.value, &value))
    };
    wanted
        .method
        .as_ref()
        .is_none_or(|method| method == request.method)
        && wanted.headers.iter().all(header_is)
        && wanted.query.iter().all(parameter_is)
}

fn hostname() -> impl Strategy<Value = Hostname> {
    prop_oneof![
        select(vec!["a", "b.a", "c.b.a", "x"]).prop_map(|name| Hostname::Exact(name.into())),
        select(vec!["a", "b.a", "c.b.a"]).prop_map(|name| Hostname::Wildcard(name.into())),
    ]
}

fn path() -> impl Strategy<Value = String> {
    "(/[ab]?){0,4}".prop_map(|path| {
        if path.is_empty() {
            "/".to_owned()
        } else {
            path
        }
    })
}

fn pattern(of: &'static [&'static str]) -> impl Strategy<Value = Pattern> {
    let compile = |text| Pattern(Regex::new(&format!("^(?:{text})$")).unwrap());
    select(of.iter().map(compile).collect::<Vec<_>>())
}

fn path_match() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        2 => path().prop_map(|path| PathMatch::Exact(path.into())),
        4 => path().prop_map(|path| PathMatch::Prefix(path.into())),
        3 => pattern(&["/a.*", ".*b", "/[ab]/?", ".*", "/a|/b/a", "(/a)+", "/a/b"])
            .prop_map(PathMatch::Regex),
    ]
}

fn value_match() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![
        2 => select(vec!["1", "2", "1, 2", "a b"]).prop_map(|text| ValueMatch::Exact(text.into())),
        3 => pattern(&[".*", ".*", "1.*", "a .", ".*2"]).prop_map(ValueMatch::Regex),
    ]
}

const HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("x"),
    HeaderName::from_static("y"),
    HeaderName::from_static("z"),
];

fn some_match() -> impl Strategy<Value = Match> {
    let conditions = || prop::collection::btree_map(0_usize..3, value_match(), 0..3);
    let method = prop::option::weighted(0.3, select(vec![Method::GET, Method::POST]));
    (path_match(), conditions(), conditions(), method).prop_map(|(path, headers, query, method)| {
        let header = |(index, value): (usize, _)| HeaderMatch {
            name: HEADERS[index].clone(),
            value,
        };
        let parameter = |(index, value): (usize, _)| QueryMatch {
            name: HEADERS[index].as_str().into(),
            value,
        };
        Match {
            path,
            headers: headers.into_iter().map(header).collect(),
            query: query.into_iter().map(parameter).collect(),
            method,
        }
    })
}

fn route() -> impl Strategy<Value = Arc<Route>> {
    let rules = prop::collection::vec(prop::collection::vec(some_match(), 1..3), 1..4);
    (prop::collection::vec(hostname(), 0..3), rules).prop_map(|(hostnames, rules)| {
        let rule = |matches| Rule::plain("rule", matches, Action::Forward(Vec::new()));
        Arc::new(Route {
            name: "route".into(),
            listeners: Vec::new(),
            hostnames,
            rules: rules.into_iter().map(rule).collect(),
        })
    })
}

fn fields() -> impl Strategy<Value = Fields> {
    let line = (0_usize..3, select(vec!["1", "2", "a b"]));
    prop::collection::vec(line, 0..8).prop_map(|lines| {
        let line = |(index, value): (usize, _)| (["x", "y", "z"][index], value);
        lines.into_iter().map(line).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn the_router_agrees(
        routes in prop::collection::vec(route(), 0..8),
        requests in prop::collection::vec(
            (
                select(vec!["", "a", "b.a", "c.b.a", "d.c.b.a", "x", "y", ".a"]),
                prop_oneof![9 => path(), 1 => Just("*".to_owned())],
                prop::option::of("([xyz]|%7[89])(=(1|2|a(\\+|%20)b))?(&[xyz]=[12]){0,4}"),
                select(vec![Method::GET, Method::POST, Method::HEAD]),
                fields(),
            ),
            1..12,
        ),
    ) {
        let entries = routes.iter().enumerate().flat_map(|(index, route)| {
            (0..route.rules.len()).map(move |rule| (route.clone(), rule, (index, rule)))
        });
        let router = Router::new(entries);
        for (host, path, query, method, fields) in &requests {
            let request = Lookup { host, path, query: query.as_deref(), method, fields };
            let found = router.find(&request).map(|found| (*found.plan, found.prefix));
            prop_assert_eq!(found, find(&routes, &request), "{:?}", request);
        }
    }
}
