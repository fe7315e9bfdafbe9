//! `pillion run`.

use std::{path::PathBuf, process::ExitCode};

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use super::wants_colors;
use crate::{
    config::LoadError,
    runtime::{self, StartError},
    telemetry::logging,
};

/// Runs until drained: 0 then, 1 if it can't start, 2 if the configuration can't be read.
pub(super) fn run(config: PathBuf, parent: Option<i32>) -> ExitCode {
    if let Some(parent) = parent
        && !ends_with(parent)
    {
        return ExitCode::FAILURE;
    }
    let log_level = logging::init();
    let Err(error) = runtime::run(config, log_level) else {
        return ExitCode::SUCCESS;
    };
    match &error {
        // As `check` prints it: each line that names a place begins with it.
        StartError::Configuration(LoadError::Invalid(report)) => {
            if wants_colors(&std::io::stderr()) {
                eprintln!("{}", report.colored());
            } else {
                eprintln!("{report}");
            }
            eprintln!("pillion: not started");
        }
        other => eprintln!("pillion: {other}"),
    }
    match error {
        StartError::Configuration(LoadError::Unreadable { .. }) => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}

/// From now on SIGTERM comes when the parent ends. False if it has ended already.
fn ends_with(parent: i32) -> bool {
    set_parent_process_death_signal(Some(Signal::TERM)).is_ok()
        && getppid().map(Pid::as_raw_pid) == Some(parent)
}
