//! The lines that another process writes, as they come.

use std::{collections::VecDeque, io, os::fd::OwnedFd, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::unix::pipe,
    sync::broadcast::{self, error::RecvError},
    time::{Instant, timeout_at},
};

/// What is waited for takes milliseconds; more than this is a failure.
const PATIENCE: Duration = Duration::from_secs(10);
/// Lines that wait to be looked at; older ones are forgotten, for the writer must not wait.
const MAX_WAITING: usize = 1024;
/// Lines looked at that are remembered, to explain a failure.
const MAX_TAIL: usize = 8;

/// One stream of lines, looked at from the first to the last.
pub(super) struct Lines {
    waiting: broadcast::Receiver<String>,
    tail: VecDeque<String>,
}

impl Lines {
    /// Reads the other end of a pipe from now on.
    pub(super) fn read(pipe: OwnedFd) -> io::Result<Self> {
        let (sender, waiting) = broadcast::channel(MAX_WAITING);
        let mut lines = BufReader::new(pipe::Receiver::from_owned_fd(pipe)?).lines();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                // Nobody may be looking any more; the writer is served all the same.
                let _unseen = sender.send(line);
            }
        });
        Ok(Self {
            waiting,
            tail: VecDeque::with_capacity(MAX_TAIL),
        })
    }

    /// The next JSON line that satisfies `wanted`. `None`: the writer has ended, or it takes too
    /// long.
    pub(super) async fn find(&mut self, wanted: impl Fn(&Value) -> bool) -> Option<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let line = timeout_at(deadline, self.next()).await.ok()??;
            let value = serde_json::from_str(&line).unwrap_or_default();
            self.remember(line);
            if wanted(&value) {
                return Some(value);
            }
        }
    }

    /// Waits until the writer has closed its end, which it does at its own end at the latest.
    pub(super) async fn end(&mut self) {
        while let Some(line) = self.next().await {
            self.remember(line);
        }
    }

    /// The last lines that were looked at.
    pub(super) fn tail(&mut self) -> String {
        self.tail.make_contiguous().join("\n")
    }

    async fn next(&mut self) -> Option<String> {
        loop {
            match self.waiting.recv().await {
                Ok(line) => return Some(line),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }

    fn remember(&mut self, line: String) {
        if self.tail.len() == MAX_TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }
}
