//! The command line. Exit codes, for every command: 0 done, 1 it failed, 2 wrong usage or an
//! unreadable file.

pub mod check;
mod run;
pub mod schema;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// What `--version` tells behind the name.
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("PILLION_COMMIT"),
    ")\ntls: none in this version\nfeatures: http1 http2 grpc upgrade tcp proxy-protocol"
);

/// Reads the arguments, does what they ask for, and says how it went.
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run { config } => run::run(config),
        Command::Check { file } => check::check(&file),
        Command::Schema => schema::schema(),
    }
}

/// Carries every request into and out of an application: HTTP/1.1, HTTP/2, gRPC, upgrades and TCP.
///
/// The shortest useful configuration:
///
///     listeners: [{ address: 127.0.0.1:8080, upstream: app }]
///     upstreams: [{ name: app, endpoints: [127.0.0.1:9000] }]
#[derive(Debug, Parser)]
#[command(name = "pillion", version = VERSION, verbatim_doc_comment)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy until it is told to stop.
    ///
    /// SIGTERM or SIGINT drain it: not ready any more, the last requests served, exit 0; a second
    /// one ends it at once. SIGHUP, a change of the file and `POST /reload` put the changed
    /// configuration in force; one with a mistake changes nothing.
    ///
    /// Logs go to standard error, access-log lines to standard output.
    #[command(after_help = RUN_ENVIRONMENT)]
    Run {
        /// A YAML file, or a folder of them that are merged.
        #[arg(long, short, value_name = "FILE", env = "PILLION_CONFIG")]
        config: PathBuf,
    },
    /// Check a configuration and print every problem in it.
    ///
    /// Each as FILE:LINE:COLUMN with the offending line and a hint. Exits with 0 when there is
    /// none, with 1 when there are some, with 2 when the file can't be read.
    Check {
        /// A YAML file, or a folder of them that are merged.
        file: PathBuf,
    },
    /// Print the JSON Schema of the configuration.
    ///
    /// For editors: every key with its meaning and its default.
    Schema,
}

const RUN_ENVIRONMENT: &str = "\
Environment:
  PILLION_WORKERS     data-plane threads [default: the container's CPU limit, rounded up]
  PILLION_LOG_FORMAT  json: log one JSON object a line
  PILLION_DNS         IP:PORT of the one name server to ask [default: /etc/resolv.conf]
  RUST_LOG            what to log: error, warn, info, debug, trace or TARGET=LEVEL [default: info]";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_holds() {
        Arguments::command().debug_assert();
    }
}
