//! Path prefixes, whole segments at a time.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::{
    condition::{Candidate, settle},
    table::Lookup,
};

/// A tree of segments. A lookup goes down once along the path, hashing each segment once, and
/// comes back up over the nodes that hold rules: longest prefix first, in time that depends on
/// the depth of what is configured and not on how much of it there is.
#[derive(Debug)]
pub(super) struct Tree {
    /// The root first; every node after its parent.
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    children: HashMap<Box<str>, usize, FixedState>,
    candidates: Vec<Candidate>,
    parent: usize,
    /// The nearest node above that holds candidates.
    above: Option<usize>,
    /// Bytes of a path that this prefix covers.
    covers: usize,
}

impl Default for Tree {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
        }
    }
}

impl Tree {
    /// Files a candidate under a prefix; a trailing slash means nothing.
    pub(super) fn insert(&mut self, prefix: &str, candidate: Candidate) {
        let mut node = 0;
        let mut rest = prefix.trim_end_matches('/');
        while let Some((segment, after)) = split_segment(rest) {
            node = match self.nodes[node].children.get(segment) {
                Some(&child) => child,
                None => self.add_child(node, segment),
            };
            rest = after;
        }
        self.nodes[node].candidates.push(candidate);
    }

    /// Orders what was inserted.
    pub(super) fn settle(&mut self) {
        for index in 0..self.nodes.len() {
            settle(&mut self.nodes[index].candidates);
            let parent = self.nodes[index].parent;
            if index != parent {
                let has_rules = !self.nodes[parent].candidates.is_empty();
                self.nodes[index].above = if has_rules {
                    Some(parent)
                } else {
                    self.nodes[parent].above
                };
            }
        }
        self.nodes.shrink_to_fit();
    }

    /// The plan of the longest prefix with a candidate that accepts, and the bytes it covers.
    pub(super) fn find(&self, request: &Lookup<'_>) -> Option<(usize, usize)> {
        let mut node = self.deepest(request.path);
        loop {
            if let Some(hit) = node.candidates.iter().find(|hit| hit.accepts(request)) {
                return Some((hit.plan, node.covers));
            }
            node = &self.nodes[node.above?];
        }
    }

    fn deepest(&self, path: &str) -> &Node {
        let mut node = &self.nodes[0];
        let mut rest = path;
        while !node.children.is_empty()
            && let Some((segment, after)) = split_segment(rest)
            && let Some(&child) = node.children.get(segment)
        {
            node = &self.nodes[child];
            rest = after;
        }
        node
    }

    fn add_child(&mut self, parent: usize, segment: &str) -> usize {
        let child = self.nodes.len();
        self.nodes.push(Node {
            parent,
            covers: self.nodes[parent].covers + 1 + segment.len(),
            ..Node::default()
        });
        self.nodes[parent].children.insert(segment.into(), child);
        child
    }
}

/// `/a/b` is the segment `a` and then `/b`.
fn split_segment(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix('/')?;
    Some(rest.split_at(rest.find('/').unwrap_or(rest.len())))
}
