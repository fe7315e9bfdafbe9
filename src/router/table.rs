//! Hostnames and paths, compiled.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use foldhash::fast::FixedState;
use http::Method;

use super::{
    condition::{Candidate, settle},
    path::normalize,
    pattern::Patterns,
    tree::Tree,
};
use crate::{
    config::model::{Backslash, EscapedSlash, Hostname, PathMatch, PathPolicy, Route},
    http::fields::Fields,
};

/// Every rule a listener serves, each with what the caller keeps for it.
///
/// Finding one costs a few hashes of parts of the request, however many there are, and allocates
/// nothing, unless a query parameter with escapes or a repeated header meets a regular expression.
#[derive(Debug)]
pub struct Router<T> {
    plans: Vec<T>,
    exact: HashMap<Box<str>, Paths, FixedState>,
    /// By what follows `*.`.
    wildcards: HashMap<Box<str>, Paths, FixedState>,
    longest_wildcard: usize,
    any: Paths,
}

/// The parts of a request that rules look at.
#[derive(Clone, Copy, Debug)]
pub struct Lookup<'a> {
    /// In lower case, without a port ([`Authority::host`](super::Authority)). Empty: none, which
    /// only rules without hostnames match.
    pub host: &'a str,
    /// As [`normalize`] leaves it.
    pub path: &'a str,
    /// Without its `?`.
    pub query: Option<&'a str>,
    pub method: &'a Method,
    pub fields: &'a Fields,
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
            exact: HashMap::default(),
            wildcards: HashMap::default(),
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
    /// # use std::sync::Arc;
    /// # use pillion::{config::model::*, router::{Lookup, Router}};
    /// # let rule = |path| {
    /// #     let matched = Match { path, headers: vec![], query: vec![], method: None };
    /// #     Rule::plain("r", vec![matched], Action::Forward(vec![]))
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
    ///     fields: &pillion::http::fields::Fields::default(),
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
    exact: HashMap<Box<str>, Vec<Candidate>, FixedState>,
    patterns: Patterns,
    prefixes: Tree,
}

impl Paths {
    fn insert(&mut self, path: &PathMatch, candidate: Candidate) {
        match path {
            PathMatch::Exact(path) => {
                self.exact
                    .entry(canonical(path).into())
                    .or_default()
                    .push(candidate);
            }
            PathMatch::Regex(pattern) => self.patterns.insert(pattern.0.clone(), candidate),
            PathMatch::Prefix(prefix) => self.prefixes.insert(&canonical(prefix), candidate),
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

/// A rule's path as requests spell it, whatever the listeners' policies: what they disagree about
/// stays. A path that has no such form matches nothing.
fn canonical(path: &str) -> Cow<'_, str> {
    const AS_WRITTEN: PathPolicy = PathPolicy {
        escaped_slash: EscapedSlash::Keep,
        backslash: Backslash::Keep,
        merge_slashes: false,
    };
    normalize(path, AS_WRITTEN).unwrap_or(Cow::Borrowed(path))
}

#[cfg(test)]
mod tests {

    use regex::Regex;

    use super::*;
    use crate::config::model::{Action, HeaderMatch, Match, Pattern, QueryMatch, Rule, ValueMatch};

    fn prefix(path: &str) -> Match {
        of(PathMatch::Prefix(path.into()))
    }

    fn exact(path: &str) -> Match {
        of(PathMatch::Exact(path.into()))
    }

    fn regex(text: &str) -> Match {
        of(PathMatch::Regex(Pattern(
            Regex::new(&format!("^(?:{text})$")).unwrap(),
        )))
    }

    fn of(path: PathMatch) -> Match {
        Match {
            path,
            headers: Vec::new(),
            query: Vec::new(),
            method: None,
        }
    }

    fn header(name: &str) -> HeaderMatch {
        HeaderMatch {
            name: name.parse().unwrap(),
            value: ValueMatch::Exact("1".into()),
        }
    }

    fn parameter(name: &str) -> QueryMatch {
        QueryMatch {
            name: name.into(),
            value: ValueMatch::Exact("1".into()),
        }
    }

    /// One route a line, one rule each; a hostname is written as in a configuration.
    fn router<const N: usize>(routes: [(&'static str, Match); N]) -> Router<usize> {
        let entry = |(index, (hostname, wanted)): (usize, (&str, Match))| {
            let hostname = match hostname.strip_prefix("*.") {
                Some(suffix) => Hostname::Wildcard(suffix.into()),
                None => Hostname::Exact(hostname.into()),
            };
            let any = hostname == Hostname::Exact("".into());
            let route = Route {
                name: "route".into(),
                listeners: Vec::new(),
                hostnames: if any { Vec::new() } else { vec![hostname] },
                rules: vec![Rule::plain(
                    "rule",
                    vec![wanted],
                    Action::Forward(Vec::new()),
                )],
            };
            (Arc::new(route), 0, index)
        };
        Router::new(routes.into_iter().enumerate().map(entry))
    }

    /// Finds the route for `GET` of a target with the headers `h: 1` and `i: 1`.
    fn find(router: &Router<usize>, host: &str, target: &str) -> Option<(usize, usize)> {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        let request = Lookup {
            host,
            path,
            query,
            method: &Method::GET,
            fields: &[("h", "1"), ("i", "1")].into_iter().collect(),
        };
        router
            .find(&request)
            .map(|found| (*found.plan, found.prefix))
    }

    #[test]
    fn the_most_specific_hostname_wins() {
        let router = router([
            ("", prefix("/")),
            ("*.example", prefix("/")),
            ("*.shop.example", prefix("/")),
            ("a.shop.example", prefix("/")),
        ]);
        for (host, wanted) in [
            ("a.shop.example", 3),
            ("b.shop.example", 2),
            ("c.b.shop.example", 2),
            ("shop.example", 1),
            ("example", 0),
            (".example", 0),
            ("aexample", 0),
            ("[::1]", 0),
            ("", 0),
        ] {
            assert_eq!(find(&router, host, "/"), Some((wanted, 0)), "{host}");
        }
    }

    #[test]
    fn a_hostname_comes_before_a_path_but_claims_nothing() {
        let router = router([
            ("", exact("/a/b")),
            ("*.example", exact("/a")),
            ("a.example", prefix("/a")),
        ]);
        assert_eq!(find(&router, "a.example", "/a/b"), Some((2, 2)));
        assert_eq!(find(&router, "b.example", "/a"), Some((1, 2)));
        assert_eq!(find(&router, "b.example", "/a/b"), Some((0, 4)));
        assert_eq!(find(&router, "a.example", "/"), None);
    }

    #[test]
    fn paths_rank_exact_then_expression_then_longest_prefix() {
        let router = router([
            ("", prefix("/")),
            ("", prefix("/a")),
            ("", prefix("/a/b/")),
            ("", regex("/a/[a-z]/x")),
            ("", exact("/a/b/x")),
        ]);
        for (path, wanted) in [
            ("/a/b/x", (4, 6)),
            ("/a/c/x", (3, 6)),
            ("/a/b/y", (2, 4)),
            ("/a/b", (2, 4)),
            ("/a/bb", (1, 2)),
            ("/a", (1, 2)),
            ("/ab", (0, 0)),
            ("*", (0, 0)),
        ] {
            assert_eq!(find(&router, "", path), Some(wanted), "{path}");
        }
    }

    #[test]
    fn conditions_rank_method_then_headers_then_parameters_then_order() {
        let plain = || prefix("/");
        let get = Match {
            method: Some(Method::GET),
            ..plain()
        };
        let two = Match {
            headers: vec![header("h"), header("i")],
            ..plain()
        };
        let one = Match {
            headers: vec![header("h")],
            query: vec![parameter("p")],
            ..plain()
        };
        let none = Match {
            query: vec![parameter("p"), parameter("q")],
            ..plain()
        };
        let ranked = [get, two, one, none, plain()];
        for (best, wanted) in ranked.iter().enumerate() {
            for other in &ranked[best + 1..] {
                let router = router([
                    ("", plain()),
                    ("", other.clone()),
                    ("", wanted.clone()),
                    ("", wanted.clone()),
                ]);
                let first = if best == ranked.len() - 1 { 0 } else { 2 };
                assert_eq!(
                    find(&router, "", "/?p=1&q=1"),
                    Some((first, 0)),
                    "{wanted:?}"
                );
            }
        }
    }

    #[test]
    fn a_refused_match_gives_way_to_the_next() {
        let post = |wanted: Match| Match {
            method: Some(Method::POST),
            ..wanted
        };
        let router = router([
            ("", prefix("/a")),
            ("", post(prefix("/a/b"))),
            ("", regex("/a/b/x.*")),
            ("", post(regex("/a/b/.*"))),
            ("", post(exact("/a/b/x"))),
        ]);
        assert_eq!(find(&router, "", "/a/b/x"), Some((2, 6)));
        assert_eq!(find(&router, "", "/a/b/y"), Some((0, 2)));
    }

    #[test]
    fn rules_may_spell_a_path_in_any_way() {
        let router = router([("", exact("/caf\u{e9}")), ("", prefix("/%7euser/"))]);
        assert_eq!(find(&router, "", "/caf%C3%A9"), Some((0, 10)));
        assert_eq!(find(&router, "", "/~user/x"), Some((1, 6)));
    }

    #[test]
    fn without_rules_nothing_is_found() {
        assert_eq!(find(&router([]), "a", "/"), None);
    }
}
