//! `pillion schema`.

use std::{io::Write, process::ExitCode};

use crate::config;

/// Prints the JSON Schema of the configuration.
pub fn schema() -> ExitCode {
    // A reader that went away (`| head`) has seen what it wanted.
    let _ = writeln!(std::io::stdout(), "{:#}", config::schema());
    ExitCode::SUCCESS
}
