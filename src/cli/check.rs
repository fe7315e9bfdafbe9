//! `pillion check FILE`.

use std::{io::Write, path::Path, process::ExitCode};

use super::wants_colors;
use crate::config::{self, LoadError};

/// Reads a configuration and prints every problem: 0 if it holds, 1 if not, 2 if it can't be
/// read.
pub fn check(path: &Path) -> ExitCode {
    let mut out = std::io::stdout().lock();
    let colors = wants_colors(&out);
    let (written, code) = match config::load(path) {
        Ok(loaded) => {
            let config = &loaded.config;
            let line = format!(
                "{}: good (listeners: {}, routes: {}, upstreams: {})",
                path.display(),
                config.listeners.len(),
                config.routes.len(),
                config.upstreams.len()
            );
            (writeln!(out, "{line}"), ExitCode::SUCCESS)
        }
        Err(LoadError::Invalid(report)) if colors => {
            (writeln!(out, "{}", report.colored()), ExitCode::from(1))
        }
        Err(LoadError::Invalid(report)) => (writeln!(out, "{report}"), ExitCode::from(1)),
        Err(error @ LoadError::Unreadable { .. }) => (
            writeln!(std::io::stderr(), "pillion: {error}"),
            ExitCode::from(2),
        ),
    };
    // A reader that went away (`| head`) has seen what it wanted; the answer is the exit code.
    let _ = written;
    code
}
