//! What a match asks of a request beyond its path.

use std::{cmp::Reverse, sync::Arc};

use http::{Method, header::COOKIE};

use super::{query, table::Lookup};
use crate::{
    config::model::{HeaderMatch, Match, QueryMatch, ValueMatch},
    http::fields::Fields,
};

/// One match of one rule, filed under its hostname and path.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) plan: usize,
    condition: Option<Arc<Condition>>,
}

#[derive(Debug)]
struct Condition {
    method: Option<Method>,
    headers: Box<[HeaderMatch]>,
    query: Box<[QueryMatch]>,
}

impl Candidate {
    pub(super) fn new(plan: usize, wanted: &Match) -> Self {
        let condition = Condition {
            method: wanted.method.clone(),
            headers: first_of_each(&wanted.headers, |header| &header.name),
            query: first_of_each(&wanted.query, |parameter| &parameter.name),
        };
        Self {
            plan,
            condition: (condition.rank() != UNCONDITIONAL).then(|| Arc::new(condition)),
        }
    }

    pub(super) fn accepts(&self, request: &Lookup<'_>) -> bool {
        self.condition
            .as_deref()
            .is_none_or(|condition| condition.accepts(request))
    }

    /// Orders candidates of the same hostname and path, the one to try first lowest; equal ones
    /// keep the order of the file.
    pub(super) fn order(&self) -> impl Ord + use<> {
        Reverse(
            self.condition
                .as_deref()
                .map_or(UNCONDITIONAL, Condition::rank),
        )
    }
}

/// Puts candidates of the same hostname and path in order, and drops those that come after one
/// that takes everything.
pub(super) fn settle(candidates: &mut Vec<Candidate>) {
    candidates.sort_by_key(Candidate::order);
    if let Some(last) = candidates
        .iter()
        .position(|candidate| candidate.condition.is_none())
    {
        candidates.truncate(last + 1);
    }
    candidates.shrink_to_fit();
}

type Rank = (bool, usize, usize);

const UNCONDITIONAL: Rank = (false, 0, 0);

impl Condition {
    fn rank(&self) -> Rank {
        (self.method.is_some(), self.headers.len(), self.query.len())
    }

    fn accepts(&self, request: &Lookup<'_>) -> bool {
        self.method
            .as_ref()
            .is_none_or(|method| method == request.method)
            && self
                .headers
                .iter()
                .all(|wanted| header_matches(wanted, request.fields))
            && self
                .query
                .iter()
                .all(|wanted| query_matches(wanted, request.query))
    }
}

/// Lines of the same header count as one, combined as RFC 9110 section 5.3 says (and `Cookie` as
/// RFC 9113 section 8.2.3 does). Only a regular expression over several lines allocates.
pub(crate) fn header_matches(wanted: &HeaderMatch, fields: &Fields) -> bool {
    let separator: &[u8] = if wanted.name == COOKIE { b"; " } else { b", " };
    let mut lines = fields.get_all(&wanted.name);
    let Some(first) = lines.next() else {
        return false;
    };
    match &wanted.value {
        ValueMatch::Exact(text) => {
            let rest = lines.fold(text.as_bytes().strip_prefix(first), |rest, line| {
                rest?.strip_prefix(separator)?.strip_prefix(line)
            });
            rest.is_some_and(<[u8]>::is_empty)
        }
        ValueMatch::Regex(pattern) => {
            let mut second = lines.peekable();
            if second.peek().is_none() {
                return str::from_utf8(first).is_ok_and(|text| pattern.0.is_match(text));
            }
            let combined = second.fold(first.to_vec(), |mut all, line| {
                all.extend_from_slice(separator);
                all.extend_from_slice(line);
                all
            });
            str::from_utf8(&combined).is_ok_and(|text| pattern.0.is_match(text))
        }
    }
}

fn query_matches(wanted: &QueryMatch, query: Option<&str>) -> bool {
    let Some(spelled) = query.and_then(|query| query::first(query, &wanted.name)) else {
        return false;
    };
    match &wanted.value {
        ValueMatch::Exact(text) => query::decoded_eq(spelled, text),
        ValueMatch::Regex(pattern) => pattern.0.is_match(&query::decode(spelled)),
    }
}

fn first_of_each<T: Clone, N: PartialEq>(all: &[T], name: impl Fn(&T) -> &N) -> Box<[T]> {
    let is_first = |index: usize| {
        all[..index]
            .iter()
            .all(|earlier| name(earlier) != name(&all[index]))
    };
    (0..all.len())
        .filter(|&index| is_first(index))
        .map(|index| all[index].clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;
    use crate::config::model::Pattern;

    fn header(name: &'static str, value: ValueMatch) -> HeaderMatch {
        HeaderMatch {
            name: name.parse().unwrap(),
            value,
        }
    }

    fn exact(text: &str) -> ValueMatch {
        ValueMatch::Exact(text.into())
    }

    fn regex(text: &str) -> ValueMatch {
        ValueMatch::Regex(Pattern(Regex::new(text).unwrap()))
    }

    #[test]
    fn repeated_headers_are_one_combined_value() {
        let lines = [("x", "a"), ("Cookie", "a"), ("X", "b"), ("cookie", "b")];
        let fields = lines.into_iter().collect();
        for (wanted, matches) in [
            (header("x", exact("a, b")), true),
            (header("x", exact("a")), false),
            (header("x", exact("a, b, c")), false),
            (header("cookie", exact("a; b")), true),
            (header("x", regex("^a, .$")), true),
            (header("cookie", regex("^a; b$")), true),
            (header("y", exact("")), false),
            (header("y", regex("")), false),
        ] {
            assert_eq!(header_matches(&wanted, &fields), matches, "{wanted:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_match_no_expression() {
        let fields = [("x", b"\xff")].into_iter().collect();
        assert!(!header_matches(&header("x", regex("")), &fields));
    }

    #[test]
    fn the_first_of_equal_conditions_counts() {
        let all = [
            header("x", exact("1")),
            header("y", exact("2")),
            header("x", exact("3")),
        ];
        assert_eq!(*first_of_each(&all, |header| &header.name), all[..2]);
    }
}
