//! Configuration text as a tree in which every key and value knows where it was written.
//!
//! Nodes live in one arena and are named by number, so that later stages can hold a place
//! without borrowing it, and an alias is the same node as its anchor. A value that was refused
//! becomes a *hole*: it keeps its place, reads as an empty value of whatever type is asked for,
//! and nothing more is said about it. That is how one mistake hides no other.

use std::path::{Path, PathBuf};

/// Names a node of one [`Tree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NodeId(pub(super) u32);

/// A stretch of one line of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// Index into the tree's sources.
    pub(super) file: u32,
    /// From 1.
    pub(super) line: u32,
    /// In characters, from 1.
    pub(super) column: u32,
    /// In characters; 0 where the value has no text of its own.
    pub(super) width: u32,
}

/// One file as it was read.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// As the user named it; what reports show.
    pub(super) path: PathBuf,
    pub(super) text: String,
    /// Offset of the first byte that is not UTF-8; `text` has a stand-in from there on.
    not_text: Option<usize>,
}

impl Source {
    pub(super) fn new(path: PathBuf, bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => Self {
                path,
                text,
                not_text: None,
            },
            Err(error) => Self {
                path,
                not_text: Some(error.utf8_error().valid_up_to()),
                text: String::from_utf8_lossy(error.as_bytes()).into_owned(),
            },
        }
    }

    /// Where the text stops being UTF-8, if it does.
    pub(super) fn broken_at(&self, file: u32) -> Option<Mark> {
        let valid = &self.text[..self.not_text?];
        let line = valid.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = valid
            .rsplit('\n')
            .next()
            .unwrap_or_default()
            .chars()
            .count()
            + 1;
        let cut = |number| u32::try_from(number).unwrap_or(u32::MAX);
        Some(Mark {
            file,
            line: cut(line),
            column: cut(column),
            width: 1,
        })
    }
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// A key without a value, or `null` or `~`.
    Nothing,
    Scalar(Scalar),
    List(Vec<NodeId>),
    Mapping(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(super) struct Scalar {
    pub(super) text: String,
    /// May be read as a number or a boolean: it was not quoted, or came out of `${NAME}`.
    pub(super) plain: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_mark: Mark,
    pub(super) value: NodeId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Whole,
    Hole,
    /// As if it had never been written.
    Gone,
}

#[derive(Clone, Debug)]
struct Node {
    mark: Mark,
    kind: Kind,
    state: State,
    /// A mapping that had a key that nobody knows.
    lost_key: bool,
    /// Its text is not to be shown.
    secret: bool,
}

/// All files of a configuration.
#[derive(Debug, Default)]
pub(super) struct Tree {
    sources: Vec<Source>,
    nodes: Vec<Node>,
}

impl Tree {
    pub(super) fn new(sources: Vec<Source>) -> Self {
        Self {
            sources,
            nodes: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, mark: Mark, kind: Kind) -> NodeId {
        let id = u32::try_from(self.nodes.len()).expect("a file of 16 MiB has fewer nodes");
        self.nodes.push(Node {
            mark,
            kind,
            state: State::Whole,
            lost_key: false,
            secret: false,
        });
        NodeId(id)
    }

    /// Adds a node that only stands in for one that can't be read.
    pub(super) fn add_hole(&mut self, mark: Mark) -> NodeId {
        let id = self.add(mark, Kind::Nothing);
        self.node_mut(id).state = State::Hole;
        id
    }

    pub(super) fn kind(&self, id: NodeId) -> &Kind {
        &self.node(id).kind
    }

    /// Fills in a collection that was opened earlier.
    pub(super) fn set_kind(&mut self, id: NodeId, kind: Kind) {
        self.node_mut(id).kind = kind;
    }

    pub(super) fn mark(&self, id: NodeId) -> Mark {
        self.node(id).mark
    }

    pub(super) fn is_hole(&self, id: NodeId) -> bool {
        self.node(id).state != State::Whole
    }

    pub(super) fn is_gone(&self, id: NodeId) -> bool {
        self.node(id).state == State::Gone
    }

    /// A node that was refused becomes a hole; a hole that no reader can make sense of goes.
    pub(super) fn degrade(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        node.kind = Kind::Nothing;
        node.state = if node.state == State::Whole {
            State::Hole
        } else {
            State::Gone
        };
    }

    /// The value of a mapping's key.
    pub(super) fn get(&self, mapping: NodeId, key: &str) -> Option<NodeId> {
        let Kind::Mapping(entries) = self.kind(mapping) else {
            return None;
        };
        let entry = entries.iter().find(|entry| entry.key == key)?;
        Some(entry.value)
    }

    /// Nothing of this node, and of those in it, is to be shown to anybody.
    pub(super) fn hide(&mut self, id: NodeId) {
        self.node_mut(id).secret = true;
        let within: Vec<NodeId> = match self.kind(id) {
            Kind::Nothing | Kind::Scalar(_) => Vec::new(),
            Kind::List(items) => items.clone(),
            Kind::Mapping(entries) => entries.iter().map(|entry| entry.value).collect(),
        };
        for id in within {
            self.hide(id);
        }
    }

    pub(super) fn is_secret(&self, id: NodeId) -> bool {
        self.node(id).secret
    }

    /// Whether something that is not to be shown begins on the line of this mark.
    pub(super) fn has_secret_line(&self, mark: Mark) -> bool {
        let secrets = self.nodes.iter().filter(|node| node.secret);
        secrets
            .map(|node| node.mark)
            .any(|secret| (secret.file, secret.line) == (mark.file, mark.line))
    }

    /// Whether a part of this list or mapping was refused: that it is too little is no news then.
    pub(super) fn has_refused_part(&self, id: NodeId) -> bool {
        match self.kind(id) {
            Kind::List(items) => items.iter().any(|item| self.is_hole(*item)),
            Kind::Mapping(entries) => entries.iter().any(|entry| self.is_hole(entry.value)),
            Kind::Nothing | Kind::Scalar(_) => false,
        }
    }

    pub(super) fn has_lost_key(&self, id: NodeId) -> bool {
        self.node(id).lost_key
    }

    /// Takes an entry whose key nobody knows out of a mapping.
    pub(super) fn remove_entry(&mut self, mapping: NodeId, key: &str) {
        let node = self.node_mut(mapping);
        node.lost_key = true;
        if let Kind::Mapping(entries) = &mut node.kind {
            entries.retain(|entry| entry.key != key);
        }
    }

    /// Puts a hole where a required key is missing. False if even that was tried before.
    pub(super) fn stand_in(&mut self, mapping: NodeId, key: &'static str) -> bool {
        let mark = self.mark(mapping);
        let hole = self.add_hole(mark);
        if matches!(self.kind(mapping), Kind::Nothing) {
            self.set_kind(mapping, Kind::Mapping(Vec::new()));
        }
        match &mut self.node_mut(mapping).kind {
            Kind::Mapping(entries) if entries.iter().all(|entry| entry.key != key) => {
                entries.push(Entry {
                    key: key.to_owned(),
                    key_mark: mark,
                    value: hole,
                });
                true
            }
            _ => false,
        }
    }

    /// Where the key of an entry stands, or the mapping itself.
    pub(super) fn key_mark(&self, mapping: NodeId, key: &str) -> Mark {
        let Kind::Mapping(entries) = self.kind(mapping) else {
            return self.mark(mapping);
        };
        entries
            .iter()
            .find(|entry| entry.key == key)
            .map_or_else(|| self.mark(mapping), |entry| entry.key_mark)
    }

    pub(super) fn sources(&self) -> &[Source] {
        &self.sources
    }

    pub(super) fn file_name(&self, file: u32) -> String {
        self.source(file)
            .map(|source| source.path.display().to_string())
            .unwrap_or_default()
    }

    /// What relative paths written in a node's file are relative to.
    pub(super) fn directory(&self, id: Option<NodeId>) -> &Path {
        let path = id
            .and_then(|id| self.source(self.mark(id).file))
            .and_then(|source| source.path.parent());
        path.unwrap_or_else(|| Path::new(""))
    }

    /// `FILE:LINE:COLUMN`.
    pub(super) fn place(&self, mark: Mark) -> String {
        format!(
            "{}:{}:{}",
            self.file_name(mark.file),
            mark.line,
            mark.column
        )
    }

    /// The line a mark stands on.
    pub(super) fn line(&self, mark: Mark) -> &str {
        let line = (mark.line as usize).saturating_sub(1);
        self.source(mark.file)
            .and_then(|source| source.text.lines().nth(line))
            .unwrap_or_default()
    }

    fn source(&self, file: u32) -> Option<&Source> {
        self.sources.get(file as usize)
    }

    fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }
}
