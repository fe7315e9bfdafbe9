//! What is wrong with a configuration: all of it at once, each problem with its place, the line
//! it stands on and, where there is one, a way out.

use std::fmt::{self, Write as _};

use serde::Serialize;

use strsim::damerau_levenshtein as distance;

use super::tree::{Mark, NodeId, Tree};

/// More problems than this are not listed: by then one cause has many effects.
pub(super) const MAX_PROBLEMS: usize = 100;

/// Longest piece of a line that is shown, in characters.
const SNIPPET_WIDTH: usize = 120;

/// Longest piece of what was written that a message repeats, in characters.
const QUOTE_WIDTH: usize = 60;

/// Longer texts are no misspelt names, and comparing them costs the product of their lengths.
const MAX_COMPARED: usize = 64;

/// Every problem of a configuration, in the order of the files.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub problems: Vec<Problem>,
    /// Whether there are more than the hundred that are listed.
    pub truncated: bool,
}

/// One problem. Shown as `FILE:LINE:COLUMN: message`, the line with a caret below, and the hint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub file: String,
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The offending line, cut to what fits; empty if there may be a secret on it.
    pub snippet: String,
    /// What the caret underlines: characters of the snippet before it, and its length. `None`: the
    /// line is not shown.
    #[serde(skip)]
    caret: Option<(usize, usize)>,
}

/// What is wrong with one value, before anybody knows where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// Collects problems while a configuration is read.
#[derive(Debug, Default)]
pub(super) struct Problems {
    found: Vec<(Mark, Fault)>,
}

impl Problems {
    /// Notes a fault at a place in the text.
    pub(super) fn add(&mut self, mark: Mark, fault: Fault) {
        if self.found.len() <= MAX_PROBLEMS {
            self.found.push((mark, fault));
        }
    }

    /// Notes a fault of a node, unless the node is only a stand-in for one that was refused, or
    /// a mapping that lost a key that nobody knows: what is missed there is most likely what that
    /// key was meant to be. One mistake is told once.
    pub(super) fn node(&mut self, tree: &Tree, node: NodeId, fault: Fault) {
        if !tree.is_hole(node) && !tree.has_lost_key(node) {
            self.add(tree.mark(node), fault);
        }
    }

    /// True once there is no point in looking for more.
    pub(super) fn is_full(&self) -> bool {
        self.found.len() > MAX_PROBLEMS
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.found.len()
    }

    /// Turns places into file names and lines.
    pub(super) fn into_report(mut self, tree: &Tree) -> Report {
        self.found
            .sort_by_key(|(mark, _)| (mark.file, mark.line, mark.column));
        self.found.dedup();
        let truncated = self.found.len() > MAX_PROBLEMS;
        self.found.truncate(MAX_PROBLEMS);
        let problems = self
            .found
            .into_iter()
            .map(|(mark, fault)| Problem::new(tree, mark, fault))
            .collect();
        Report {
            problems,
            truncated,
        }
    }
}

impl Fault {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
        }
    }

    /// The opposite of [`Fault`]'s `Display`.
    pub(super) fn from_text(text: &str) -> Self {
        match text.split_once('\n') {
            Some((message, hint)) => Self::new(message).hint(hint),
            None => Self::new(text),
        }
    }

    /// Adds a way out.
    #[must_use]
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds `did you mean` if one of `known` is close to what was written (at most a third of it
    /// differs), else the whole list if it is short.
    #[must_use]
    pub(super) fn suggest<'a>(
        self,
        written: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        match closest(written, known.iter().copied()) {
            Some(name) => self.hint(format!("did you mean `{name}`?")),
            None if known.is_empty() => self,
            None if known.len() <= 12 => self.hint(format!("known here: {}", known.join(", "))),
            None => self,
        }
    }
}

/// The message, and the hint on a line of its own: the form in which a fault passes through
/// serde's errors, see [`Fault::from_text`].
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n{hint}"),
            None => Ok(()),
        }
    }
}

/// What of `known` was meant by what was written, if it is close: at most a third of it differs.
pub(super) fn closest<'a>(
    written: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let folded = written.to_ascii_lowercase();
    let (_, name) = known
        .into_iter()
        .filter(|name| folded.len().max(name.len()) <= MAX_COMPARED)
        .map(|name| (distance(&folded, &name.to_ascii_lowercase()), name))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, name)| *distance <= (name.chars().count() / 3).max(1))?;
    Some(name)
}

/// What was written, for a message: in backticks and not too long.
pub(super) fn quote(text: &str) -> String {
    if text.is_empty() {
        return "an empty text".to_owned();
    }
    let mut quoted = String::from("`");
    let mut characters = text.chars();
    quoted.extend(
        characters
            .by_ref()
            .take(QUOTE_WIDTH)
            .map(|c| if c.is_control() { ' ' } else { c }),
    );
    quoted.push_str(if characters.next().is_some() {
        "...`"
    } else {
        "`"
    });
    quoted
}

impl Problem {
    fn new(tree: &Tree, mark: Mark, fault: Fault) -> Self {
        let (snippet, caret) = match tree.has_secret_line(mark) {
            true => (String::new(), None),
            false => {
                let (snippet, caret) = snippet(tree.line(mark), mark);
                (snippet, Some(caret))
            }
        };
        Self {
            file: printable(&tree.file_name(mark.file)),
            line: mark.line,
            column: mark.column,
            message: printable(&fault.message),
            hint: fault.hint.as_deref().map(printable),
            snippet,
            caret,
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, style: &Style) -> fmt::Result {
        let Style {
            bold,
            red,
            dim,
            off,
        } = style;
        writeln!(
            f,
            "{bold}{}:{}:{}:{off} {red}{}{off}",
            self.file, self.line, self.column, self.message
        )?;
        if let Some((before, width)) = self.caret {
            let gutter = self.line.to_string();
            let pad = " ".repeat(gutter.len());
            writeln!(f, "  {dim}{gutter} |{off} {}", self.snippet)?;
            writeln!(
                f,
                "  {dim}{pad} |{off} {}{red}{}{off}",
                " ".repeat(before),
                "^".repeat(width.max(1))
            )?;
        }
        match &self.hint {
            Some(hint) => writeln!(f, "  {bold}hint:{off} {hint}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, &Style::PLAIN)
    }
}

impl Report {
    /// The report with terminal colours.
    pub fn colored(&self) -> impl fmt::Display + '_ {
        struct Colored<'a>(&'a Report);
        impl fmt::Display for Colored<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.write(f, &Style::COLORED)
            }
        }
        Colored(self)
    }

    /// How many there are, in words.
    pub fn summary(&self) -> String {
        match (self.problems.len(), self.truncated) {
            (1, _) => "1 problem".to_owned(),
            (count, false) => format!("{count} problems"),
            (count, true) => format!("more than {count} problems"),
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, style: &Style) -> fmt::Result {
        for problem in &self.problems {
            problem.write(f, style)?;
        }
        f.write_str(&self.summary())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, &Style::PLAIN)
    }
}

impl std::error::Error for Report {}

struct Style {
    bold: &'static str,
    red: &'static str,
    dim: &'static str,
    off: &'static str,
}

impl Style {
    const PLAIN: Self = Self {
        bold: "",
        red: "",
        dim: "",
        off: "",
    };
    const COLORED: Self = Self {
        bold: "\x1b[1m",
        red: "\x1b[31m",
        dim: "\x1b[2m",
        off: "\x1b[0m",
    };
}

/// The part of a line around a mark, with what the caret needs.
fn snippet(line: &str, mark: Mark) -> (String, (usize, usize)) {
    let line = printable(line);
    let length = line.chars().count();
    let column = (mark.column as usize).saturating_sub(1).min(length);
    let start = if length <= SNIPPET_WIDTH {
        0
    } else {
        column.saturating_sub(SNIPPET_WIDTH / 3)
    };
    let shown: String = line.chars().skip(start).take(SNIPPET_WIDTH).collect();
    let before = column - start;
    let width = (mark.width as usize).min(shown.chars().count().saturating_sub(before));
    (shown, (before, width))
}

/// Control characters never reach a terminal or a log from here.
fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\t' => clean.push(' '),
            control if control.is_control() => {
                let _ = write!(clean, "{}", char::REPLACEMENT_CHARACTER);
            }
            other => clean.push(other),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suggestion_is_close_or_the_list_is_short() {
        let known = ["listeners", "routes", "upstreams"];
        let hint = |written| Fault::new("").suggest(written, known).hint;
        assert_eq!(
            hint("upstream").as_deref(),
            Some("did you mean `upstreams`?")
        );
        assert_eq!(hint("Routes").as_deref(), Some("did you mean `routes`?"));
        assert_eq!(
            hint("clusters").as_deref(),
            Some("known here: listeners, routes, upstreams")
        );
        assert_eq!(Fault::new("").suggest("x", []).hint, None);
    }

    #[test]
    fn a_long_line_is_cut_around_the_caret() {
        let line = format!("{}here{}", "x".repeat(500), "y".repeat(500));
        let mark = Mark {
            file: 0,
            line: 1,
            column: 501,
            width: 4,
        };
        let (shown, (before, width)) = snippet(&line, mark);
        assert_eq!(shown.chars().count(), SNIPPET_WIDTH);
        let underlined: String = shown.chars().skip(before).take(width).collect();
        assert_eq!(underlined, "here");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[31mb\tc"), "a\u{fffd}[31mb c");
    }
}
