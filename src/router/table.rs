//! Hostnames and paths, compiled.

use std::{collections::HashMap, sync::Arc};

use http::{HeaderMap, Method};

use super::{
    condition::{Candidate, settle},
    pattern::Patterns,
    tree::Tree,
};
use crate::config::model::{Hostname, PathMatch, Route};

/// Every rule a listener serves, each with what the caller keeps for it.
///
/// Finding one costs a few hashes of parts of the request, however many there are, and allocates
/// nothing, unless a query parameter with escapes or a repeated header meets a regular expression.
#[derive(Debug)]
pub struct Router<T> {
    plans: Vec<T>,
    exact: HashMap<Box<str>, Paths>,
    /// By what follows `*.`.
    wildcards: HashMap<Box<str>, Paths>,
    longest_wildcard: usize,
    any: Paths,
}

/// The parts of a request that rules look at.
#[derive(Clone, Copy, Debug)]
pub struct Lookup<'a> {
    /// In lower case, without a port ([`Authority::host`](super::Authority)). Empty: none, which
    /// only rules without hostnames match.
    pub host: &'a str,
    /// As [`normalize`](super::normalize) leaves it.
    pub path: &'a str,
    /// Without its `?`.
    pub query: Option<&'a str>,
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
}

/// What a request matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'r, T> {
    pub plan: &'r T,
    /// Bytes of the path that the match covers: what a prefix rewrite replaces. For a prefix, its
    /// length without a trailing slash; otherwise the whole path.
    pub prefix: usize,
}

impl<T> Router<T> {
    /// Compiles rules, given in the order of the file as a route and an index into its rules.
    ///
    /// # Panics
    ///
    /// If an index is out of range.
    pub fn new(entries: impl IntoIterator<Item = (Arc<Route>, usize, T)>) -> Self {
        let mut router = Self {
            plans: Vec::new(),
            exact: HashMap::new(),
            wildcards: HashMap::new(),
            longest_wildcard: 0,
            any: Paths::default(),
        };
        for (route, rule, value) in entries {
            for wanted in &route.rules[rule].matches {
                let candidate = Candidate::new(router.plans.len(), wanted);
                router.insert(&route.hostnames, &wanted.path, &candidate);
            }
            router.plans.push(value);
        }
        router.any.settle();
        router
            .exact
            .values_mut()
            .chain(router.wildcards.values_mut())
            .for_each(Paths::settle);
        router
    }

    /// The plan for a request, by the precedence that the [module](super) describes.
    ///
    /// ```
    /// # use std::{sync::Arc, time::Duration};
    /// # use pillion::{config::model::*, router::{Lookup, Router}};
    /// # let timeouts = Timeouts {
    /// #     request: Duration::ZERO, idle: Duration::ZERO, total: Duration::ZERO,
    /// # };
    /// # let rule = |path| Rule {
    /// #     name: "r".into(),
    /// #     matches: vec![Match { path, headers: vec![], query: vec![], method: None }],
    /// #     filters: Filters::default(),
    /// #     action: Action::Forward(vec![]),
    /// #     timeouts,
    /// # };
    /// let route = Arc::new(Route {
    ///     name: "shop".into(),
    ///     listeners: vec!["web".into()],
    ///     hostnames: vec![Hostname::Wildcard("example".into())],
    ///     rules: vec![rule(PathMatch::Prefix("/".into())), rule(PathMatch::Prefix("/items".into()))],
    /// });
    /// let router = Router::new([(route.clone(), 0, "site"), (route, 1, "items")]);
    /// let found = router.find(&Lookup {
    ///     host: "shop.example",
    ///     path: "/items/7",
    ///     query: None,
    ///     method: &http::Method::GET,
    ///     headers: &http::HeaderMap::new(),
    /// });
    /// assert_eq!(found.map(|found| (*found.plan, found.prefix)), Some(("items", 6)));
    /// ```
    pub fn find(&self, request: &Lookup<'_>) -> Option<Found<'_, T>> {
        let (plan, prefix) = self
            .exact
            .get(request.host)
            .and_then(|paths| paths.find(request))
            .or_else(|| {
                self.wildcards(request.host)
                    .find_map(|paths| paths.find(request))
            })
            .or_else(|| self.any.find(request))?;
        Some(Found {
            plan: &self.plans[plan],
            prefix,
        })
    }

    /// Those that cover `host`, longest first. Suffixes longer than any wildcard are not hashed.
    fn wildcards(&self, host: &str) -> impl Iterator<Item = &Paths> {
        let longest_first = if self.longest_wildcard == 0 { "" } else { host };
        longest_first
            .match_indices('.')
            .filter(|&(dot, _)| dot > 0)
            .map(|(dot, _)| &host[dot + 1..])
            .filter(|suffix| suffix.len() <= self.longest_wildcard)
            .filter_map(|suffix| self.wildcards.get(suffix))
    }

    fn insert(&mut self, hostnames: &[Hostname], path: &PathMatch, candidate: &Candidate) {
        if hostnames.is_empty() {
            self.any.insert(path, candidate.clone());
        }
        for hostname in hostnames {
            let paths = match hostname {
                Hostname::Exact(name) => self.exact.entry(name.as_ref().into()),
                Hostname::Wildcard(name) => {
                    self.longest_wildcard = self.longest_wildcard.max(name.len());
                    self.wildcards.entry(name.as_ref().into())
                }
            };
            paths.or_default().insert(path, candidate.clone());
        }
    }
}

/// The rules of one hostname.
#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<Box<str>, Vec<Candidate>>,
    patterns: Patterns,
    prefixes: Tree,
}

impl Paths {
    fn insert(&mut self, path: &PathMatch, candidate: Candidate) {
        match path {
            PathMatch::Exact(path) => {
                self.exact
                    .entry(path.as_ref().into())
                    .or_default()
                    .push(candidate);
            }
            PathMatch::Regex(pattern) => self.patterns.insert(pattern.0.clone(), candidate),
            PathMatch::Prefix(prefix) => self.prefixes.insert(prefix, candidate),
        }
    }

    fn settle(&mut self) {
        self.exact.values_mut().for_each(settle);
        self.patterns.settle();
        self.prefixes.settle();
    }

    /// The plan, and the bytes of the path that the match covers.
    fn find(&self, request: &Lookup<'_>) -> Option<(usize, usize)> {
        self.exact
            .get(request.path)
            .and_then(|candidates| candidates.iter().find(|hit| hit.accepts(request)))
            .map(|hit| hit.plan)
            .or_else(|| self.patterns.find(request))
            .map(|plan| (plan, request.path.len()))
            .or_else(|| self.prefixes.find(request))
    }
}
