//! `pillion check` and `pillion schema`: what is written, and what may be.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use crate::config::{self, LoadError};

/// Prints every problem of a configuration.
pub(super) fn check(path: &Path) -> ExitCode {
    match config::load(path) {
        Ok(loaded) => {
            let config = &loaded.config;
            print(format_args!(
                "{}: good ({} listeners, {} routes, {} upstreams)\n",
                path.display(),
                config.listeners.len(),
                config.routes.len(),
                config.upstreams.len()
            ))
        }
        Err(LoadError::Invalid(report)) => {
            print(format_args!("{report}\n"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("pillion: {error}");
            ExitCode::from(2)
        }
    }
}

/// Prints the JSON Schema of the configuration.
pub(super) fn schema() -> ExitCode {
    print(format_args!("{:#}\n", config::schema()))
}

/// Unlike `println!` no panic when the reader has gone (`pillion schema | head`).
fn print(text: std::fmt::Arguments<'_>) -> ExitCode {
    match io::stdout().lock().write_fmt(text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pillion: {error}");
            ExitCode::FAILURE
        }
    }
}
