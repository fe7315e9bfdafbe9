//! Who we are and whom we trust, from an agent on this machine: the X.509 profile of the SPIFFE
//! Workload API, gRPC over a Unix socket.
//!
//! The agent knows us by our process and answers one call with a stream of messages, each of them
//! all that holds from then on. `call` is that stream, over an HTTP/2 connection of its own; `update`
//! makes of a message an [`Update`] or a reason to refuse it; `follow` asks for ever and hands out
//! what is good.

mod backoff;
mod call;
mod follow;
mod message;
mod state;
#[cfg(test)]
mod tests;
mod update;

use std::path::PathBuf;

use tokio::{sync::watch, task::JoinSet};

pub use state::{LastError, State};
pub use update::Update;

use super::SpiffeId;
use follow::{Follower, Inbox};

/// A watch over the identity that an agent gives us. Dropping it ends the watch.
#[derive(Debug)]
pub struct Workload {
    inbox: Inbox,
    state: watch::Receiver<State>,
    _task: JoinSet<()>,
}

impl Workload {
    /// Begins to ask the agent behind `socket`, and never gives up. `wanted`: which identity to
    /// take, where there are several; `None`: the default one. To be called within a tokio runtime.
    pub fn watch(socket: PathBuf, wanted: Option<SpiffeId>) -> Self {
        let (follower, inbox, state) = Follower::new(socket, wanted);
        let mut task = JoinSet::new();
        task.spawn(follower.run());
        Self {
            inbox,
            state,
            _task: task,
        }
    }

    /// The newest good update that was not yet handed out; those that it has overtaken never are.
    /// Nothing is lost if the future is dropped before it is ready.
    pub async fn next(&mut self) -> Update {
        self.inbox.next().await
    }

    /// How it stands, now and later.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }
}
