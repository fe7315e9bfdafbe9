//! Regular expressions over paths, many tried in one pass.

use regex::Regex;
use regex_automata::{Anchored, Input, meta};

use super::{condition::Candidate, table::Lookup};

/// A set compiles to no more than this many bytes; what is larger becomes several sets.
const MAX_SET_SIZE: usize = 4 << 20;

/// Up to this many expressions, trying each beats keeping a set.
const FEW: usize = 3;

/// Expressions of one hostname in order of precedence.
///
/// They are anchored, so a leftmost-first search over all of them at once reports the first in
/// order that matches. Only if its other conditions refuse the request are the ones after it
/// tried singly.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    all: Vec<(Regex, Candidate)>,
    sets: Vec<Set>,
}

#[derive(Debug)]
struct Set {
    start: usize,
    end: usize,
    /// `None`: try each.
    regex: Option<meta::Regex>,
}

impl Patterns {
    pub(super) fn insert(&mut self, regex: Regex, candidate: Candidate) {
        self.all.push((regex, candidate));
    }

    /// Orders and compiles what was inserted.
    pub(super) fn settle(&mut self) {
        self.all.sort_by_key(|(_, candidate)| candidate.order());
        self.all.shrink_to_fit();
        self.compile(0, self.all.len(), MAX_SET_SIZE);
    }

    /// The plan of the first expression that matches and accepts.
    pub(super) fn find(&self, request: &Lookup<'_>) -> Option<usize> {
        self.sets.iter().find_map(|set| self.find_in(set, request))
    }

    fn find_in(&self, set: &Set, request: &Lookup<'_>) -> Option<usize> {
        let mut members = &self.all[set.start..set.end];
        if let Some(regex) = &set.regex {
            let input = Input::new(request.path).anchored(Anchored::Yes);
            let first = regex.search_half(&input)?.pattern().as_usize();
            let candidate = &members[first].1;
            if candidate.accepts(request) {
                return Some(candidate.plan);
            }
            members = &members[first + 1..];
        }
        members
            .iter()
            .find(|(regex, candidate)| candidate.accepts(request) && regex.is_match(request.path))
            .map(|(_, candidate)| candidate.plan)
    }

    /// One set for all members, or one for each half if that would be too large.
    fn compile(&mut self, start: usize, end: usize, max_size: usize) {
        let members = &self.all[start..end];
        if members.is_empty() {
            return;
        }
        let texts: Vec<_> = members.iter().map(|(regex, _)| regex.as_str()).collect();
        let limits = meta::Config::new().nfa_size_limit(Some(max_size));
        let regex = if members.len() <= FEW {
            None
        } else if let Ok(regex) = meta::Builder::new().configure(limits).build_many(&texts) {
            Some(regex)
        } else {
            let middle = start.midpoint(end);
            self.compile(start, middle, max_size);
            self.compile(middle, end, max_size);
            return;
        };
        self.sets.push(Set { start, end, regex });
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::{
        config::model::{Match, PathMatch},
        http::fields::Fields,
    };

    fn candidate(plan: usize, method: Option<Method>) -> Candidate {
        let path = PathMatch::Exact("".into());
        Candidate::new(
            plan,
            &Match {
                path,
                headers: Vec::new(),
                query: Vec::new(),
                method,
            },
        )
    }

    fn patterns(texts: impl IntoIterator<Item = String>) -> Patterns {
        let mut patterns = Patterns::default();
        for (plan, text) in texts.into_iter().enumerate() {
            patterns.insert(Regex::new(&text).unwrap(), candidate(plan, None));
        }
        patterns
    }

    fn find(patterns: &Patterns, path: &str) -> Option<usize> {
        let (method, fields) = (&Method::GET, &Fields::default());
        patterns.find(&Lookup {
            host: "",
            path,
            query: None,
            method,
            fields,
        })
    }

    #[test]
    fn the_first_in_order_wins_in_one_set_and_in_many() {
        let texts = || (0..40).map(|n| format!("^(?:/{n}[0-9]*)$"));
        let mut one = patterns(texts());
        one.settle();
        let mut many = patterns(texts());
        many.compile(0, 40, 8 << 10);
        assert_eq!(one.sets.len(), 1);
        assert!(many.sets.len() > 1 && many.sets.iter().any(|set| set.regex.is_some()));
        for (path, wanted) in [
            ("/0", Some(0)),
            ("/39", Some(3)),
            ("/7", Some(7)),
            ("/a", None),
            ("/1/", None),
        ] {
            assert_eq!(find(&one, path), wanted, "{path}");
            assert_eq!(find(&many, path), wanted, "{path}");
        }
    }

    #[test]
    fn a_refused_expression_gives_way_to_the_next_that_matches() {
        let mut patterns = patterns(["/b", "/a", "/.", "/a.*"].map(|text| format!("^(?:{text})$")));
        let post = Regex::new("^(?:/a)$").unwrap();
        patterns.insert(post, candidate(9, Some(Method::POST)));
        patterns.settle();
        assert_eq!(find(&patterns, "/a"), Some(1));
    }
}
