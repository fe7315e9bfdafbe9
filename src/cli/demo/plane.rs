//! A data plane: `pillion run` in a process of its own, seen through its log and its signals.

use std::{
    ffi::OsStr,
    io,
    net::SocketAddr,
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::{Result, Trouble, folder::save, lines::Lines};

/// A drain takes half a second here; more than this is a failure.
const PATIENCE: Duration = Duration::from_secs(10);

/// `pillion run` in a process of its own.
pub(super) struct Plane {
    pub(super) name: &'static str,
    /// Its configuration.
    pub(super) file: PathBuf,
    /// Where its one listener is.
    pub(super) address: SocketAddr,
    pub(super) admin: SocketAddr,
    process: Process,
    log: Lines,
    access_log: Lines,
}

impl Plane {
    /// Starts one on a configuration, and waits until it is ready.
    pub(super) async fn start(name: &'static str, file: PathBuf, text: &str) -> Result<Self> {
        save(&file, text)?;
        let mut process = Process::spawn(&file)
            .map_err(|error| Trouble::Step(format!("cannot start the {name}: {error}")))?;
        let access_log = process.lines(|child| child.stdout.take().map(OwnedFd::from))?;
        let mut log = process.lines(|child| child.stderr.take().map(OwnedFd::from))?;
        let Some(ready) = log.find(|line| line["message"] == "ready").await else {
            return Err(trouble(name, "did not start", &mut log));
        };
        let address = |text: &str| text.rsplit('=').next().and_then(|text| text.parse().ok());
        let (Some(address), Some(admin)) = (
            ready["listeners"].as_str().and_then(address),
            ready["admin"].as_str().and_then(address),
        ) else {
            return Err(trouble(name, "does not tell where it listens", &mut log));
        };
        Ok(Self {
            name,
            file,
            address,
            admin,
            process,
            log,
            access_log,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Saves another configuration, and waits for the line that says what became of it; with how
    /// long that took.
    pub(super) async fn save(&mut self, text: &str) -> Result<(Value, Duration)> {
        let start = Instant::now();
        save(&self.file, text)?;
        let told = |line: &Value| {
            line["message"] == "configuration accepted"
                || line["message"] == "configuration rejected"
        };
        match self.log.find(told).await {
            Some(line) => Ok((line, start.elapsed())),
            None => Err(self.trouble("says nothing about its new configuration")),
        }
    }

    /// Waits until other certificates are in use; says whose.
    pub(super) async fn rotated(&mut self) -> Result<String> {
        let told = |line: &Value| line["message"] == "identity and trust were taken into use";
        match self.log.find(told).await {
            Some(line) => Ok(line["identity"].as_str().unwrap_or_default().to_owned()),
            None => Err(self.trouble("does not take its new certificate")),
        }
    }

    /// The access-log line of a request.
    pub(super) async fn access(&mut self, request_id: &str) -> Result<Value> {
        match self
            .access_log
            .find(|line| line["request_id"] == request_id)
            .await
        {
            Some(line) => Ok(line),
            None => Err(self.trouble("has no access-log line of the request")),
        }
    }

    /// Sends SIGTERM, and waits until the drain has begun.
    pub(super) async fn terminate(&mut self) -> Result<()> {
        self.process.signal(Signal::TERM);
        match self.log.find(|line| line["message"] == "draining").await {
            Some(_) => Ok(()),
            None => Err(self.trouble("does not drain")),
        }
    }

    /// Waits until it has ended by itself, with 0.
    pub(super) async fn ended(mut self) -> Result<()> {
        // Its end of the pipe closes with it.
        if timeout(PATIENCE, self.log.end()).await.is_err() {
            return Err(self.trouble("does not end"));
        }
        match self.process.0.wait()? {
            status if status.success() => Ok(()),
            status => Err(self.trouble(&format!("ended with {status}"))),
        }
    }

    fn trouble(&mut self, what: &str) -> Trouble {
        trouble(self.name, what, &mut self.log)
    }
}

fn trouble(name: &str, what: &str, log: &mut Lines) -> Trouble {
    Trouble::Step(format!("the {name} {what}\n{}", log.tail()))
}

/// A process that ends with its owner.
struct Process(Child);

impl Process {
    fn spawn(configuration: &Path) -> io::Result<Self> {
        // This program, whatever has become of the file that it was started from.
        Command::new("/proc/self/exe")
            .arg0("pillion")
            .args(["run", "--end-with-parent"])
            .arg(process::id().to_string())
            .arg("--config")
            .arg(configuration)
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| !is_setting(name)))
            .env("PILLION_LOG_FORMAT", "json")
            .env("PILLION_WORKERS", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C reaches only the demo, which then ends the others.
            .process_group(0)
            .spawn()
            .map(Self)
    }

    fn lines(&mut self, stream: impl Fn(&mut Child) -> Option<OwnedFd>) -> io::Result<Lines> {
        Lines::read(stream(&mut self.0).ok_or(io::ErrorKind::BrokenPipe)?)
    }

    fn signal(&self, signal: Signal) {
        // It may have ended; its number is its own until it is waited for.
        let _gone = kill_process(Pid::from_child(&self.0), signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let _gone = self.0.kill();
            let _gone = self.0.wait();
        }
    }
}

/// Settings meant for the demo itself would change what the data planes do and say.
fn is_setting(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b"PILLION_") || name.starts_with(b"OTEL_") || name == b"RUST_LOG"
}
