//! Routes, their rules and matches.

use std::{collections::HashMap, sync::Arc};

use super::{Known, Resolver, listeners::Placed, protect::importance};
use crate::config::{
    decode::At,
    model::{
        self, Backend, HeaderMatch, Hostname, ListenerKind, Match, PathMatch, QueryMatch, Route,
        Rule, ValueMatch,
    },
    raw,
    report::{Fault, quote},
    syntax,
    tree::NodeId,
};

impl Resolver<'_> {
    pub(super) fn routes(
        &mut self,
        raw: &raw::Config,
        listeners: &[Placed],
        upstreams: &Known<'_>,
    ) -> Vec<Route> {
        let known = Known::new("listener", &raw.listeners, self.tree, |listener| {
            listener.name.as_ref().unwrap_or(&listener.address)
        });
        let mut names = HashMap::new();
        let mut routes = Vec::with_capacity(raw.routes.value.len());
        for (index, placed) in raw.routes.value.iter().enumerate() {
            let route = &placed.value;
            let (name, node) = match &route.name {
                Some(name) => (
                    self.parse(name, syntax::name).unwrap_or_default(),
                    name.node,
                ),
                None => (format!("route-{index}").into(), placed.node),
            };
            self.unique(&mut names, name.clone(), node, || format!("route `{name}`"));
            let listeners = self.route_listeners(placed, &raw.listeners, listeners, &known);
            let hostnames = route.hostnames.as_ref().map(|names| self.hostnames(names));
            let rules = self.rules(&name, &route.rules, upstreams);
            routes.push(Route {
                name,
                listeners,
                hostnames: hostnames.unwrap_or_default(),
                rules,
            });
        }
        routes
    }

    fn route_listeners(
        &mut self,
        route: &At<raw::Route>,
        written: &At<Vec<At<raw::Listener>>>,
        listeners: &[Placed],
        known: &Known<'_>,
    ) -> Vec<Arc<str>> {
        let is_http = |kind: &ListenerKind| matches!(kind, ListenerKind::Http(_));
        let Some(wanted) = &route.value.listeners else {
            let http = listeners
                .iter()
                .filter(|(_, listener)| is_http(&listener.kind));
            let http: Vec<_> = http.map(|(_, listener)| listener.name.clone()).collect();
            let any = |raw: &At<raw::Listener>| raw.value.protocol == raw::ListenerProtocol::Http;
            if !written.value.is_empty() && !written.value.iter().any(any) {
                let fault = Fault::new("no listener can serve this route");
                self.fault(
                    route.node,
                    fault.hint("routes need a listener of protocol http"),
                );
            }
            return http;
        };
        self.not_empty(wanted, "listener", "leave `listeners` out for all of them");
        let mut seen = HashMap::new();
        let mut names = Vec::with_capacity(wanted.value.len());
        for name in &wanted.value {
            self.unique(&mut seen, &name.value, name.node, || {
                format!("listener {}", quote(&name.value))
            });
            let Some(checked) = known.check(name, self) else {
                continue;
            };
            let kind = listeners
                .iter()
                .find(|(_, listener)| listener.name == checked);
            if kind.is_some_and(|(_, listener)| !is_http(&listener.kind)) {
                let fault = Fault::new(format!("listener `{checked}` does not speak HTTP"));
                self.fault(name.node, fault.hint("a tcp listener has no routes"));
            }
            names.push(checked);
        }
        names
    }

    fn hostnames(&mut self, raw: &At<Vec<At<String>>>) -> Vec<Hostname> {
        self.not_empty(raw, "host name", "leave `hostnames` out for any host");
        let mut seen = HashMap::new();
        let mut hostnames = Vec::with_capacity(raw.value.len());
        for written in &raw.value {
            if let Some(hostname) = self.parse(written, syntax::hostname) {
                self.unique(&mut seen, hostname.clone(), written.node, || {
                    format!("host name {}", quote(&written.value))
                });
                hostnames.push(hostname);
            }
        }
        hostnames
    }

    fn rules(
        &mut self,
        route: &str,
        raw: &At<Vec<At<raw::Rule>>>,
        upstreams: &Known<'_>,
    ) -> Vec<Rule> {
        self.not_empty(raw, "rule", "at least one is needed");
        let mut names = HashMap::new();
        let mut rules = Vec::with_capacity(raw.value.len());
        for (index, placed) in raw.value.iter().enumerate() {
            let rule = &placed.value;
            let (name, node) = match &rule.name {
                Some(name) => (
                    self.parse(name, syntax::name).unwrap_or_default(),
                    name.node,
                ),
                None => (format!("{route}/{index}").into(), placed.node),
            };
            self.unique(&mut names, name.clone(), node, || format!("rule `{name}`"));
            rules.extend(self.rule(name, placed, upstreams));
        }
        rules
    }

    fn rule(
        &mut self,
        name: Arc<str>,
        placed: &At<raw::Rule>,
        upstreams: &Known<'_>,
    ) -> Option<Rule> {
        let raw = &placed.value;
        let matches = match &raw.matches {
            None => Some(vec![Self::any()]),
            Some(written) => {
                self.not_empty(written, "match", "leave `matches` out to match everything");
                // Collected before the question, so that every match is looked at.
                let matches: Vec<_> = written
                    .value
                    .iter()
                    .map(|written| self.r#match(&written.value))
                    .collect();
                matches.into_iter().collect()
            }
        };
        let by_prefix = raw.matches.as_ref().is_none_or(|matches| {
            matches
                .value
                .iter()
                .all(|m| m.value.path.value.r#type == raw::PathMatchType::PathPrefix)
        });
        let backends = raw
            .backend_refs
            .as_ref()
            .map(|refs| self.backends(refs, upstreams));
        let (filters, answer) = self.filters(&raw.filters, by_prefix, upstreams);
        let action = self.action(placed, backends, answer);
        let deadline_header = raw
            .timeouts
            .header
            .as_ref()
            .and_then(|name| self.parse(name, syntax::edited_header));
        let retry = self.retry(&raw.retry);
        let fallback = raw
            .fallback
            .as_ref()
            .and_then(|fallback| self.resort(fallback, action.as_ref(), upstreams));
        Some(Rule {
            name,
            matches: matches?,
            filters,
            action: action?,
            timeouts: model::Timeouts {
                request: raw.timeouts.request.0,
                idle: raw.timeouts.idle.0,
                total: raw.timeouts.total.0,
                attempt: raw.timeouts.backend_request.0,
            },
            deadline_header,
            retry,
            importance: importance(raw.priority),
            sampling: self.rule_sampling(&raw.tracing),
            fallback,
        })
    }

    fn backends(
        &mut self,
        raw: &At<Vec<At<raw::BackendRef>>>,
        upstreams: &Known<'_>,
    ) -> Vec<Backend> {
        self.not_empty(raw, "backend", "name at least one upstream");
        let mut backends = Vec::with_capacity(raw.value.len());
        let mut sum: u32 = 0;
        for At { value: raw, node } in &raw.value {
            let weight = raw.weight.get();
            let Some(total) = sum.checked_add(weight) else {
                self.fault(
                    *node,
                    Fault::new("the sum of the weights is over 4294967295"),
                );
                break;
            };
            sum = total;
            let upstream = upstreams.check(&raw.name, self).unwrap_or_default();
            backends.push(Backend {
                upstream,
                weight,
                filters: self.backend_filters(&raw.filters),
            });
        }
        if sum == 0 && !raw.value.is_empty() {
            let fault = Fault::new("every weight is 0");
            self.fault(raw.node, fault.hint("requests have to go somewhere"));
        }
        backends
    }

    /// What matches every request.
    fn any() -> Match {
        Match {
            path: PathMatch::Prefix("/".into()),
            headers: Vec::new(),
            query: Vec::new(),
            method: None,
        }
    }

    fn r#match(&mut self, raw: &raw::Match) -> Option<Match> {
        let path = self.path_match(&raw.path.value);
        let headers = self.header_matches(&raw.headers);
        let query = self.query_matches(&raw.query_params);
        let method = raw
            .method
            .as_ref()
            .map(|method| self.parse(method, syntax::method));
        Some(Match {
            path: path?,
            headers,
            query,
            method: method.flatten(),
        })
    }

    pub(super) fn path_match(&mut self, raw: &raw::PathMatch) -> Option<PathMatch> {
        let value = &raw.value;
        match raw.r#type {
            raw::PathMatchType::Exact => self
                .parse(value, syntax::path)
                .map(|path| PathMatch::Exact(path.into())),
            raw::PathMatchType::PathPrefix => {
                self.parse(value, syntax::prefix).map(PathMatch::Prefix)
            }
            raw::PathMatchType::RegularExpression => {
                self.parse(value, syntax::pattern).map(PathMatch::Regex)
            }
        }
    }

    pub(super) fn header_matches(&mut self, raw: &[At<raw::HeaderMatch>]) -> Vec<HeaderMatch> {
        let mut seen = HashMap::new();
        let mut matches = Vec::with_capacity(raw.len());
        for At { value: raw, .. } in raw {
            let name = self.parse(&raw.name, syntax::matched_header);
            let value = self.value_match(raw.r#type, &raw.value);
            if let (Some(name), Some(value)) = (name, value) {
                self.once(&mut seen, name.as_str().to_owned(), raw.name.node, "header");
                matches.push(HeaderMatch { name, value });
            }
        }
        matches
    }

    fn query_matches(&mut self, raw: &[At<raw::QueryParamMatch>]) -> Vec<QueryMatch> {
        let mut seen = HashMap::new();
        let mut matches = Vec::with_capacity(raw.len());
        for At { value: raw, .. } in raw {
            if raw.name.value.is_empty() {
                self.fault(raw.name.node, Fault::new("a query parameter needs a name"));
            }
            if let Some(value) = self.value_match(raw.r#type, &raw.value) {
                let name = raw.name.value.as_str();
                self.once(&mut seen, name.to_owned(), raw.name.node, "query parameter");
                matches.push(QueryMatch {
                    name: name.into(),
                    value,
                });
            }
        }
        matches
    }

    fn value_match(&mut self, r#type: raw::ValueMatchType, raw: &At<String>) -> Option<ValueMatch> {
        match r#type {
            raw::ValueMatchType::Exact => Some(ValueMatch::Exact(raw.value.as_str().into())),
            raw::ValueMatchType::RegularExpression => {
                self.parse(raw, syntax::pattern).map(ValueMatch::Regex)
            }
        }
    }

    /// Notes a name that is matched or set twice.
    pub(super) fn once(
        &mut self,
        seen: &mut HashMap<String, Option<NodeId>>,
        name: String,
        node: Option<NodeId>,
        what: &str,
    ) {
        let message = format!("{what} {}", quote(&name));
        self.unique(seen, name, node, || message);
    }

    /// Notes a list that was written and has nothing in it: it would mean nothing, where leaving
    /// it out would mean everything.
    pub(super) fn not_empty<T>(&mut self, list: &At<Vec<T>>, what: &str, hint: &str) {
        if list.value.is_empty() {
            self.fault(
                list.node,
                Fault::new(format!("there is no {what} in it")).hint(hint),
            );
        }
    }
}
