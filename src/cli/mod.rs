//! The command line. Exit codes, for every command: 0 done, 1 it failed, 2 wrong usage or an
//! unreadable file.

pub mod check;
mod demo;
mod dev_ca;
mod run;
pub mod schema;

use std::{io::IsTerminal, path::PathBuf, process::ExitCode, sync::LazyLock};

use clap::{Parser, Subcommand};

use crate::tls::PROVIDER;

/// What `--version` tells behind the name.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{} (commit {})\ntls: {PROVIDER}\nfeatures: {FEATURES}",
        env!("CARGO_PKG_VERSION"),
        env!("PILLION_COMMIT"),
    )
});

const FEATURES: &str = "http1 http2 grpc upgrade tcp proxy-protocol mtls spiffe access jwt";

/// Reads the arguments, does what they ask for, and says how it went.
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run {
            config,
            end_with_parent,
        } => run::run(config, end_with_parent),
        Command::Check { file } => check::check(&file),
        Command::Schema => schema::schema(),
        Command::Demo { stay } => demo::demo(stay),
        Command::DevCa(order) => dev_ca::dev_ca(&order),
    }
}

/// Whether what is written there may have colours: on a terminal, unless `NO_COLOR` has a value
/// (<https://no-color.org>).
fn wants_colors(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Carries every request into and out of an application: HTTP/1.1, HTTP/2, gRPC, upgrades and TCP,
/// over mutual TLS where it is told to.
#[derive(Debug, Parser)]
#[command(name = "pillion", version = VERSION.as_str(), after_help = FIRST_STEPS)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy until it is told to stop
    ///
    /// SIGTERM and SIGINT (ctrl-C) drain it: it is not ready any more, serves the last requests and
    /// exits with 0. A second one ends it at once.
    ///
    /// A change of the file, SIGHUP and `POST /reload` put the changed configuration in force. One
    /// with a mistake changes nothing, and the log says what the mistake is.
    ///
    /// The log goes to standard error, the access log to standard output. Exits with 1 if it cannot
    /// start, with 2 if the configuration cannot be read.
    #[command(after_help = RUN_ENVIRONMENT, verbatim_doc_comment)]
    Run {
        /// A YAML file, or a folder of them that are merged
        #[arg(
            long,
            short,
            value_name = "FILE",
            env = "PILLION_CONFIG",
            hide_env = true
        )]
        config: PathBuf,
        /// Drain when the parent process, which has this number, ends before
        #[arg(long, value_name = "PID", hide = true)]
        end_with_parent: Option<i32>,
    },
    /// Check a configuration and print every problem in it
    ///
    /// Each as FILE:LINE:COLUMN with the offending line and, where there is one, a hint. Exits with
    /// 0 if the configuration is good, with 1 if it is not, with 2 if it cannot be read.
    #[command(verbatim_doc_comment)]
    Check {
        /// A YAML file, or a folder of them that are merged
        file: PathBuf,
    },
    /// Print the JSON Schema of the configuration
    ///
    /// Every key with its meaning and its default. An editor that has it completes keys and shows
    /// mistakes: begin the file with `# yaml-language-server: $schema=PATH`.
    #[command(verbatim_doc_comment)]
    Schema,
    /// See it work: an application, an ambassador and a sidecar on loopback
    ///
    /// Sends real requests through them, over mutual TLS, while an endpoint fails, configuration
    /// and certificates change, and a process leaves. Takes a few seconds, needs nothing else,
    /// leaves nothing behind. Exits with 1 if a request failed.
    #[command(verbatim_doc_comment)]
    Demo {
        /// Keep everything running before the last step, until ctrl-C
        #[arg(long)]
        stay: bool,
    },
    /// Make a small certificate authority and certificates, for development
    ///
    /// DIR/ca.crt is what both sides trust; DIR/NAME.crt and DIR/NAME.key are what NAME shows, as
    /// client and as server. An authority that is in DIR already is used again, and a certificate
    /// that this command made there is renewed; whatever else is in the way is left alone.
    ///
    /// Not for production: the authority's key, DIR/ca.key, lies beside the certificates.
    ///
    /// Exits with 1 if something is in the way or can't be written.
    #[command(after_help = DEV_CA_EXAMPLE, verbatim_doc_comment)]
    DevCa(dev_ca::Order),
}

const FIRST_STEPS: &str = "\
First steps:
  pillion demo                                   see what it does
  pillion check FILE && pillion run --config FILE

The shortest useful FILE, for an application on port 9000:
  listeners: [{ address: 127.0.0.1:8080, upstream: app }]
  upstreams: [{ name: app, endpoints: [127.0.0.1:9000] }]

Exit codes, of every command: 0 done; 1 it failed; 2 wrong usage or an unreadable file.";

const RUN_ENVIRONMENT: &str = "\
Environment:
  PILLION_CONFIG      what --config says
  PILLION_WORKERS     data-plane threads [default: the container's CPU limit, rounded up]
  PILLION_LOG_FORMAT  json: log one JSON object a line
  PILLION_DNS         IP:PORT of the one name server to ask [default: /etc/resolv.conf]
  OTEL_*              where traces, metrics and log records go: docs/otlp.md
  RUST_LOG            what to log: error, warn, info, debug, trace or TARGET=LEVEL [default: info]
  NO_COLOR            not empty: no colours, also on a terminal";

const DEV_CA_EXAMPLE: &str = "\
Example:
  pillion dev-ca --out pki --trust-domain shop.local web db

writes pki/ca.crt, pki/web.crt and pki/web.key, the latter with the names
spiffe://shop.local/ns/default/sa/web, web, localhost and 127.0.0.1, and the same for db.
Look at one with `openssl x509 -in pki/web.crt -noout -text`.";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_holds() {
        Arguments::command().debug_assert();
    }
}
