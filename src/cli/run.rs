//! `pillion run`.

use std::{path::PathBuf, process::ExitCode};

use crate::{
    config::LoadError,
    runtime::{self, StartError},
    telemetry::logging,
};

/// Runs until drained.
pub(super) fn run(config: PathBuf) -> ExitCode {
    let log_level = logging::init();
    match runtime::run(config, log_level) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pillion: {error}");
            match error {
                StartError::Configuration(LoadError::Unreadable { .. }) => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
