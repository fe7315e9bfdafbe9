//! From YAML's events to the tree.
//!
//! Only the part of YAML that a configuration needs: one document a file, keys are text and
//! appear once, no merge keys, no tags of one's own. Anchors and aliases work; what they expand
//! to is bounded before anything walks it.

use std::{borrow::Cow, collections::HashMap};

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::{
    env::{self, Environment},
    report::{Fault, Problems, quote},
    tree::{Entry, Kind, Mark, NodeId, Scalar, Tree},
};

/// Values in a configuration with every alias counted as often as it is used.
const MAX_VALUES: u64 = 1_000_000;

/// Lists and mappings inside one another; the deepest key there is takes a third of this.
const MAX_DEPTH: usize = 48;

/// Reads one file into the tree. `None`: its YAML is broken (noted in `problems`), or it is
/// empty.
pub(super) fn read(
    tree: &mut Tree,
    file: u32,
    problems: &mut Problems,
    env: Environment<'_>,
) -> Option<NodeId> {
    let text = tree.sources().get(file as usize)?.text.clone();
    let mut reader = Reader {
        tree,
        problems,
        env,
        file,
        open: Vec::new(),
        anchors: HashMap::new(),
        root: None,
        documents: 0,
    };
    match reader.run(&text) {
        Ok(()) => reader.root,
        Err((mark, fault)) => {
            problems.add(mark, fault);
            None
        }
    }
}

struct Reader<'t> {
    tree: &'t mut Tree,
    problems: &'t mut Problems,
    env: Environment<'t>,
    file: u32,
    /// Collections that have begun and not ended.
    open: Vec<Open>,
    anchors: HashMap<usize, Value>,
    root: Option<NodeId>,
    documents: usize,
}

struct Open {
    node: NodeId,
    anchor: usize,
    /// Values so far, itself included.
    size: u64,
    content: Content,
}

enum Content {
    List(Vec<NodeId>),
    Mapping {
        entries: Vec<Entry>,
        seen: HashMap<String, Mark>,
        key: Option<Key>,
    },
}

/// A key that waits for its value; `text` is `None` if the entry is to be dropped.
struct Key {
    text: Option<String>,
    mark: Mark,
}

/// A finished node and how many values it stands for.
#[derive(Clone, Copy)]
struct Value {
    node: NodeId,
    size: u64,
}

/// What ends the reading of a file.
type Fatal = (Mark, Fault);

impl Reader<'_> {
    fn run(&mut self, text: &str) -> Result<(), Fatal> {
        let options = granit_parser::options! {
            emit_comments: false,
            emit_unresolved_aliases: true,
            flow_nesting_limit: MAX_DEPTH,
            block_nesting_limit: MAX_DEPTH,
        };
        for next in Parser::new_from_str_with_options(text, options) {
            let (event, span) = next.map_err(|error| self.broken(&error))?;
            self.event(event, self.mark(span))?;
        }
        Ok(())
    }

    fn event(&mut self, event: Event<'_>, mark: Mark) -> Result<(), Fatal> {
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err((
                        mark,
                        Fault::new("a second document begins here")
                            .hint("one document a file; a folder may hold many files"),
                    ));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.scalar(text, style, anchor, tag, mark)?
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.open(mark, anchor, tag.as_deref(), Content::List(Vec::new()))?;
            }
            Event::MappingStart(_, anchor, tag) => {
                let content = Content::Mapping {
                    entries: Vec::new(),
                    seen: HashMap::new(),
                    key: None,
                };
                self.open(mark, anchor, tag.as_deref(), content)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(mark)?,
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some(value) => self.value(*value, mark)?,
                None => return Err((mark, Fault::new("this alias contains itself"))),
            },
            Event::UnresolvedAlias(name) => {
                let known = format!("there is no anchor {} above", quote(&format!("&{name}")));
                self.problems
                    .add(mark, Fault::new(known).hint("quote it if text is meant"));
                let node = self.tree.add_hole(mark);
                self.value(Value { node, size: 1 }, mark)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<Cow<'_, Tag>>,
        mark: Mark,
    ) -> Result<(), Fatal> {
        self.check_tag(tag.as_deref(), mark);
        if self.expects_key() {
            return self.key(text.into_owned(), mark);
        }
        let forced = tag.is_some_and(|tag| tag.is_yaml_core_schema_tag("str"));
        let plain = style == ScalarStyle::Plain && !forced;
        let node = match env::expand(&text, self.env) {
            Err(faults) => {
                for fault in faults {
                    self.problems.add(mark, fault);
                }
                self.tree.add_hole(mark)
            }
            Ok(_) if plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL") => {
                self.tree.add(mark, Kind::Nothing)
            }
            Ok(expanded) => {
                let plain = plain || matches!(expanded, Cow::Owned(_)) && !forced;
                let text = expanded.into_owned();
                self.tree.add(mark, Kind::Scalar(Scalar { text, plain }))
            }
        };
        self.finish(Value { node, size: 1 }, anchor, mark)
    }

    fn key(&mut self, text: String, mark: Mark) -> Result<(), Fatal> {
        let place = |mark| self.tree.place(mark);
        let Some(Open {
            content: Content::Mapping { seen, key, .. },
            ..
        }) = self.open.last_mut()
        else {
            return Ok(());
        };
        let fault = if text == "<<" {
            Some(
                Fault::new("merge keys are not supported")
                    .hint("write the keys out, or use an alias for a whole value"),
            )
        } else {
            seen.get(&text).map(|first| {
                Fault::new(format!("key {} appears twice", quote(&text)))
                    .hint(format!("the first one is at {}", place(*first)))
            })
        };
        match fault {
            Some(fault) => {
                self.problems.add(mark, fault);
                *key = Some(Key { text: None, mark });
            }
            None => {
                seen.insert(text.clone(), mark);
                *key = Some(Key {
                    text: Some(text),
                    mark,
                });
            }
        }
        Ok(())
    }

    fn open(
        &mut self,
        mark: Mark,
        anchor: usize,
        tag: Option<&Tag>,
        content: Content,
    ) -> Result<(), Fatal> {
        self.check_tag(tag, mark);
        if self.expects_key() {
            return Err((
                mark,
                Fault::new("a key is text, not a list or a mapping").hint(
                    "text that begins with `{`, `[` or `*` needs quotes, `\"${NAME}\"` as well",
                ),
            ));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err((mark, Fault::new("lists and mappings are nested too deeply")));
        }
        let node = self.tree.add(mark, Kind::Nothing);
        self.open.push(Open {
            node,
            anchor,
            size: 1,
            content,
        });
        Ok(())
    }

    fn close(&mut self, mark: Mark) -> Result<(), Fatal> {
        let Some(Open {
            node,
            anchor,
            size,
            content,
        }) = self.open.pop()
        else {
            return Ok(());
        };
        self.tree.set_kind(
            node,
            match content {
                Content::List(items) => Kind::List(items),
                Content::Mapping { entries, .. } => Kind::Mapping(entries),
            },
        );
        self.finish(Value { node, size }, anchor, mark)
    }

    fn finish(&mut self, value: Value, anchor: usize, mark: Mark) -> Result<(), Fatal> {
        if anchor != 0 {
            self.anchors.insert(anchor, value);
        }
        self.value(value, mark)
    }

    /// Hands a finished value to the collection it is in.
    fn value(&mut self, value: Value, mark: Mark) -> Result<(), Fatal> {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(value.node);
            return Ok(());
        };
        open.size = open.size.saturating_add(value.size);
        if open.size > MAX_VALUES {
            return Err((mark, Fault::new(format!("more than {MAX_VALUES} values"))));
        }
        match &mut open.content {
            Content::List(items) => items.push(value.node),
            Content::Mapping { entries, key, .. } => match key.take() {
                Some(Key {
                    text: Some(key),
                    mark: key_mark,
                }) => {
                    entries.push(Entry {
                        key,
                        key_mark,
                        value: value.node,
                    });
                }
                Some(Key { text: None, .. }) => {}
                None => return Err((mark, Fault::new("a key can't be an alias"))),
            },
        }
        Ok(())
    }

    fn expects_key(&self) -> bool {
        matches!(
            self.open.last(),
            Some(Open {
                content: Content::Mapping { key: None, .. },
                ..
            })
        )
    }

    fn check_tag(&mut self, tag: Option<&Tag>, mark: Mark) {
        if let Some(tag) = tag.filter(|tag| tag.is_custom()) {
            let fault = Fault::new(format!("tag {} means nothing here", quote(&tag.original())));
            self.problems.add(
                mark,
                fault.hint("leave it out; quote text that begins with `!`"),
            );
        }
    }

    fn broken(&self, error: &granit_parser::ScanError) -> Fatal {
        let at = error.marker();
        let mark = self.mark(Span::empty(*at));
        let fault = Fault::new(format!("this is not YAML: {}", error.info()));
        let line = self.tree.line(mark);
        if line.contains("${") {
            (
                mark,
                fault.hint("within [ ] and { } a value with ${NAME} needs quotes"),
            )
        } else if line.starts_with([' ', '\t']) && line.trim_start_matches(' ').starts_with('\t') {
            (mark, fault.hint("YAML is indented by spaces, not tabs"))
        } else {
            (mark, fault)
        }
    }

    fn mark(&self, span: Span) -> Mark {
        let cut = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Mark {
            file: self.file,
            line: cut(span.start.line().max(1)),
            column: cut(span.start.col() + 1),
            width: cut(span.len()),
        }
    }
}
