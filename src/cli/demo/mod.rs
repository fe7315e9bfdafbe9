//! `pillion demo`: a client, an ambassador, a sidecar and an application on loopback, and what
//! happens between them when an endpoint fails, a configuration or a certificate changes and a process
//! leaves.
//!
//! Client and application live in this process. The two data planes are this same program, run as
//! `pillion run` in processes of their own: signals, the log and the drain belong to a whole
//! process, and so what is shown is what an operator would see, by the same means. They end with
//! this process, however it ends ([`plane`]). Every port is free when it is asked for; every file is
//! in a private folder that is removed in the end.
//!
//! Exits with 0, also after ctrl-C; with 1 if a request failed or a step did not come out as it
//! should. To see that it can fail: with `PILLION_DEMO_BREAK` set to anything but the empty string,
//! the whole application is stopped where otherwise one endpoint is.

mod application;
mod client;
mod configuration;
mod console;
mod folder;
mod lines;
mod plane;
mod stage;
mod story;

use std::{io, process::ExitCode};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};

use console::Console;

/// Why the story ended before its end.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// Requests failed; the console has told which and why.
    #[error("{failed} of {of} requests failed; the demo ends here")]
    Requests { failed: usize, of: usize },
    /// Something else did not come out as it should.
    #[error("{0}")]
    Step(String),
    /// Ctrl-C, or a signal like it.
    #[error("interrupted")]
    Interrupted,
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Step(error.to_string())
    }
}

type Result<T, E = Trouble> = std::result::Result<T, E>;

/// Tells the story; with `stay` it waits for ctrl-C before the drain.
pub(super) fn demo(stay: bool) -> ExitCode {
    let mut console = Console::new();
    // The data planes end with the thread that starts them, so that must be the main one.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(perform(&mut console, stay)),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Trouble::Interrupted) => {
            console.line("\nInterrupted. Everything is stopped and removed.");
            ExitCode::SUCCESS
        }
        Err(trouble) => {
            console.failed(&trouble);
            ExitCode::FAILURE
        }
    }
}

async fn perform(console: &mut Console, stay: bool) -> Result<()> {
    let start = Instant::now();
    let mut signals = Signals::new()?;
    story::prologue(console);
    let stage = signals.unless(story::begin(console)).await?;
    if stay {
        story::invite(&stage, console);
        signals.next().await;
    }
    let requests = signals.unless(story::leave(stage, console)).await?;
    story::epilogue(console, requests, start);
    Ok(())
}

/// What ends the demo early.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }

    /// The result of `part`, or [`Trouble::Interrupted`] if a signal comes first.
    async fn unless<T>(&mut self, part: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            result = part => result,
            () = self.next() => Err(Trouble::Interrupted),
        }
    }
}
