//! The accept loop of one listening socket.
//!
//! Each socket is owned by one worker, which accepts for all and hands every connection to the
//! worker that has the fewest. The other ways were weighed: `SO_REUSEPORT` deals connections by
//! hash, so four long-lived ones may all land on one worker, and closing such a socket loses its
//! queue; a socket polled by all workers wakes all of them for each connection; a thread of its own
//! for accepting costs every connection a second wake-up, also with a single worker. This way one
//! worker pays nothing for it, and with more the count is exact: connections are counted when they
//! are handed over, before the worker has even seen them.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    rc::Rc,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{SocketAddrAny, SocketFlags, acceptfrom_with},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::oneshot,
    time::Instant,
};

use super::bind::Listening;
use crate::{
    config::model::Address,
    snapshot::{ListenerId, ListenerPlan},
    worker::{Command, Permit, Worker},
};

/// How long a listener rests when the process has no file descriptor left and none to spare.
const REST: Duration = Duration::from_millis(50);
/// How long none must have been missing until that counts as over.
const CALM: Duration = Duration::from_secs(5);

/// A listening socket on its way to the worker that will accept on it.
pub struct Acceptor {
    pub id: ListenerId,
    pub socket: Listening,
    /// What it serves until the first look at a snapshot; and after it has left the snapshot.
    pub plan: Arc<ListenerPlan>,
    /// Its open connections, over all workers.
    pub connections: Arc<AtomicUsize>,
    /// When its sender is dropped: empty the accept queue, close the socket.
    pub stop: oneshot::Receiver<()>,
    /// Dropped when the socket is closed.
    pub closed: oneshot::Sender<()>,
}

/// A connection on its way to the worker that will serve it.
pub struct Accepted {
    pub socket: OwnedFd,
    pub peer: Address,
    pub plan: Arc<ListenerPlan>,
    pub permit: Permit,
}

/// Accepts until told to stop.
pub async fn run(mut acceptor: Acceptor, worker: Rc<Worker>) -> io::Result<()> {
    #[expect(
        deprecated,
        reason = "the new form is unsafe; `Listening` keeps its descriptor for life"
    )]
    let socket = AsyncFd::with_interest(acceptor.socket, Interest::READABLE)?;
    let mut door = Door {
        id: acceptor.id,
        plan: acceptor.plan,
        connections: acceptor.connections,
        turn: worker.id,
        spare: spare(),
        starved: None,
        worker,
    };
    loop {
        let mut ready = tokio::select! {
            biased;
            _ = &mut acceptor.stop => break,
            ready = socket.readable() => ready?,
        };
        if door.accept(socket.get_ref()).await == Next::Wait {
            ready.clear_ready();
        }
    }
    // What the kernel has already shaken hands with is served.
    while door.accept(socket.get_ref()).await == Next::More {}
    drop(socket);
    drop(acceptor.closed);
    Ok(())
}

/// The state of one accept loop.
struct Door {
    id: ListenerId,
    plan: Arc<ListenerPlan>,
    connections: Arc<AtomicUsize>,
    /// Where the search for the emptiest worker begins.
    turn: usize,
    /// A file descriptor kept for the day when there is no other.
    spare: Option<File>,
    /// When the last file descriptor was missing, once that was said in the log.
    starved: Option<Instant>,
    worker: Rc<Worker>,
}

#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// There may be more in the queue.
    More,
    /// The queue is empty.
    Wait,
}

impl Door {
    /// Accepts one connection and hands it over.
    async fn accept(&mut self, socket: &Listening) -> Next {
        match acceptfrom_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok((connection, peer)) => {
                self.recover();
                self.hand_over(connection, address(peer)).await;
                Next::More
            }
            Err(Errno::AGAIN) => Next::Wait,
            Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                self.starve(socket).await
            }
            // The connection was gone before it was accepted: accept(2) names all of these.
            Err(
                Errno::INTR
                | Errno::CONNABORTED
                | Errno::PERM
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::NONET
                | Errno::OPNOTSUPP,
            ) => Next::More,
            Err(error) => {
                self.worker.shared.registry.process().accept_error();
                tracing::error!(listener = %self.plan.config.name, %error, "accept failed");
                tokio::time::sleep(REST).await;
                Next::Wait
            }
        }
    }

    async fn hand_over(&mut self, socket: OwnedFd, peer: Address) {
        if let Some(plan) = self.worker.plan(self.id) {
            self.plan = plan;
        }
        let shared = &self.worker.shared;
        let target = shared.emptiest(self.turn);
        self.turn = target + 1;
        let limit = self.plan.config.max_connections;
        let Some(permit) = Permit::take(shared, target, &self.connections, limit) else {
            self.plan.metrics.refused(self.worker.id);
            return;
        };
        let accepted = Accepted {
            socket,
            peer,
            plan: Arc::clone(&self.plan),
            permit,
        };
        if target == self.worker.id {
            super::serve(accepted, &self.worker);
        } else {
            // A full mailbox makes the others wait in the kernel's queue, where they belong.
            shared.send(target, Command::Serve(accepted)).await;
        }
    }

    /// No file descriptor is left. Who waits in the queue would wait for nothing, perhaps long: the
    /// spare one is given up to accept one connection and close it, so that its client learns now.
    async fn starve(&mut self, socket: &Listening) -> Next {
        if self.starved.is_none() {
            tracing::warn!(
                listener = %self.plan.config.name,
                "no file descriptor left: new connections are closed"
            );
        }
        self.starved = Some(Instant::now());
        self.worker.shared.registry.process().accept_error();
        if self.spare.take().is_none() {
            tokio::time::sleep(REST).await;
            self.spare = spare();
            return Next::More;
        }
        // Linux reserves the descriptor before it looks into the queue: only now is it known
        // whether anybody waits there.
        let shed = acceptfrom_with(socket, SocketFlags::CLOEXEC).map(drop);
        self.spare = spare();
        match shed {
            Err(Errno::AGAIN) => Next::Wait,
            _ => Next::More,
        }
    }

    /// Says once that it is over, when it has been for a while: at the limit, good and bad moments
    /// follow each other by the millisecond.
    fn recover(&mut self) {
        if self.starved.is_some_and(|since| since.elapsed() > CALM) {
            self.starved = None;
            tracing::info!(listener = %self.plan.config.name, "file descriptors are free again");
        }
    }
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

fn address(peer: Option<SocketAddrAny>) -> Address {
    peer.and_then(|peer| peer.try_into().ok())
        .map_or_else(|| Address::Unix(std::path::PathBuf::new()), Address::Tcp)
}
