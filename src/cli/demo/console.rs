//! What the demo says, on standard output.

use std::{
    fmt::Display,
    io::{self, Write},
};

use crate::cli::wants_colors;

/// Writes the story. A reader that went away (`| head`) doesn't stop it: what was started has still
/// to be stopped.
pub(super) struct Console {
    style: Style,
    steps: u32,
}

struct Style {
    bold: &'static str,
    green: &'static str,
    red: &'static str,
    dim: &'static str,
    off: &'static str,
}

impl Console {
    /// With colours only on a terminal, and not where `NO_COLOR` is set.
    pub(super) fn new() -> Self {
        let style = if wants_colors(&io::stdout()) {
            Style {
                bold: "\x1b[1m",
                green: "\x1b[32m",
                red: "\x1b[31m",
                dim: "\x1b[2m",
                off: "\x1b[0m",
            }
        } else {
            Style {
                bold: "",
                green: "",
                red: "",
                dim: "",
                off: "",
            }
        };
        Self { style, steps: 0 }
    }

    /// Begins the next step, under its number.
    pub(super) fn step(&mut self, title: &str) {
        self.steps += 1;
        let Style { bold, off, .. } = self.style;
        self.line(format_args!("\n{bold}{}  {title}{off}", self.steps));
    }

    /// Something came out as it should.
    pub(super) fn ok(&self, what: impl Display) {
        let Style { green, off, .. } = self.style;
        self.line(format_args!("   {green}✓{off} {what}"));
    }

    /// Something did not.
    pub(super) fn failed(&self, what: impl Display) {
        let Style { red, off, .. } = self.style;
        self.line(format_args!("   {red}✗ {what}{off}"));
    }

    /// What is about to happen, or what has been done to the actors.
    pub(super) fn act(&self, what: impl Display) {
        self.line(format_args!("   {what}"));
    }

    /// Lines that show something as it is: of a file, of a log.
    pub(super) fn show(&self, text: impl Display) {
        let Style { dim, off, .. } = self.style;
        for line in text.to_string().lines() {
            self.line(format_args!("       {dim}{line}{off}"));
        }
    }

    /// A title that is no step.
    pub(super) fn title(&self, what: impl Display) {
        let Style { bold, off, .. } = self.style;
        self.line(format_args!("{bold}{what}{off}"));
    }

    pub(super) fn line(&self, line: impl Display) {
        // At once also into a pipe: somebody may be watching.
        let mut out = io::stdout().lock();
        let _gone = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}
