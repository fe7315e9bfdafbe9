//! The listening sockets that are open, and how a reload changes them: all or nothing.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::sync::oneshot;

use super::{
    accept::Acceptor,
    bind::{Listening, bind},
};
use crate::{
    config::model::{Address, Listener},
    net::explain_bind,
    snapshot::{Bound, ListenerId, Snapshot},
    worker::{Command, Shared},
};

const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A listener's address can't be had.
#[derive(Debug, Error)]
#[error("listener {listener}: cannot listen on {address}: {}", explain_bind(.source))]
pub struct BindError {
    pub listener: Arc<str>,
    pub address: Address,
    pub source: io::Error,
}

/// The sockets that are open. Belongs to the control thread.
#[derive(Default)]
pub struct Sockets {
    open: Vec<Open>,
    next: u32,
}

/// A listening socket seen from the control thread; the socket itself is with its worker.
struct Open {
    bound: Bound,
    name: Arc<str>,
    /// As written: the same configured port 0 keeps its number.
    configured: Address,
    /// Dropped, it ends the accept loop.
    stop: oneshot::Sender<()>,
    closed: oneshot::Receiver<()>,
}

/// Sockets for the listeners of a configuration that is not in force yet. Dropped, it has changed
/// nothing: what was bound for it is closed.
pub struct Prepared {
    /// By the listener's name.
    pub bound: HashMap<Arc<str>, Bound>,
    new: Vec<(Arc<Listener>, ListenerId, Listening)>,
}

impl Sockets {
    /// Finds or binds a socket for every listener. A listener keeps the socket of its address, also
    /// under a new name.
    pub fn prepare(&mut self, listeners: &[Arc<Listener>]) -> Result<Prepared, Vec<BindError>> {
        let mut prepared = Prepared {
            bound: HashMap::new(),
            new: Vec::new(),
        };
        let mut free: Vec<&Open> = self.open.iter().collect();
        // Two may ask for the same address with port 0: the one that had it before goes first.
        for same_name in [true, false] {
            for listener in listeners {
                if prepared.bound.contains_key(&listener.name) {
                    continue;
                }
                let fits = |open: &&Open| {
                    open.configured == listener.address
                        && (!same_name || open.name == listener.name)
                };
                if let Some(index) = free.iter().position(fits) {
                    let bound = free.swap_remove(index).bound.clone();
                    prepared.bound.insert(Arc::clone(&listener.name), bound);
                }
            }
        }
        let mut errors = Vec::new();
        for listener in listeners {
            if prepared.bound.contains_key(&listener.name) {
                continue;
            }
            match bind(&listener.address) {
                Ok(socket) => {
                    let id = ListenerId(self.next);
                    self.next += 1;
                    let bound = Bound {
                        id,
                        address: socket.address().clone(),
                    };
                    prepared.bound.insert(Arc::clone(&listener.name), bound);
                    prepared.new.push((Arc::clone(listener), id, socket));
                }
                Err(source) => errors.push(BindError {
                    listener: Arc::clone(&listener.name),
                    address: listener.address.clone(),
                    source,
                }),
            }
        }
        if errors.is_empty() {
            Ok(prepared)
        } else {
            Err(errors)
        }
    }

    /// Puts a prepared change in force: call it when `snapshot`, compiled with its sockets, is
    /// live. New sockets begin to accept; those without a listener empty their queue and close.
    pub async fn commit(&mut self, prepared: Prepared, snapshot: &Snapshot, shared: &Shared) {
        let names: HashMap<ListenerId, &Arc<str>> = prepared
            .bound
            .iter()
            .map(|(name, bound)| (bound.id, name))
            .collect();
        let (kept, removed) = std::mem::take(&mut self.open)
            .into_iter()
            .partition::<Vec<_>, _>(|open| names.contains_key(&open.bound.id));
        self.open = kept;
        for open in &mut self.open {
            open.name = Arc::clone(names[&open.bound.id]);
        }
        for (listener, id, socket) in prepared.new {
            let plan = Arc::clone(&snapshot.listeners[&id]);
            let (stop, stopped) = oneshot::channel();
            let (closing, closed) = oneshot::channel();
            self.open.push(Open {
                bound: prepared.bound[&listener.name].clone(),
                name: Arc::clone(&listener.name),
                configured: listener.address.clone(),
                stop,
                closed,
            });
            let acceptor = Acceptor {
                id,
                socket,
                plan,
                connections: Arc::default(),
                stop: stopped,
                closed: closing,
            };
            let owner = id.0 as usize % shared.workers();
            shared
                .send(owner, Command::Listen(Box::new(acceptor)))
                .await;
        }
        close(removed).await;
    }

    /// Empties all accept queues and closes all sockets.
    pub async fn close(&mut self) {
        close(std::mem::take(&mut self.open)).await;
    }

    /// `name=address` of each open socket, for the log.
    pub fn describe(&self) -> String {
        let mut sockets: Vec<_> = self
            .open
            .iter()
            .map(|open| format!("{}={}", open.name, open.bound.address))
            .collect();
        sockets.sort_unstable();
        sockets.join(",")
    }
}

/// Closes sockets and waits for it, so that the next reload may bind their addresses again. A
/// worker that does not get to it within a second does it later.
async fn close(sockets: Vec<Open>) {
    let closing: Vec<_> = sockets
        .into_iter()
        .map(|Open { stop, closed, .. }| {
            drop(stop);
            closed
        })
        .collect();
    let all = async {
        for closed in closing {
            // It never gets a message: its sender goes when the socket does.
            let _gone = closed.await;
        }
    };
    if tokio::time::timeout(CLOSE_TIMEOUT, all).await.is_err() {
        tracing::warn!("a listening socket is slow to close");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, telemetry::Registry};

    fn listeners(text: &str) -> Vec<Arc<Listener>> {
        let text =
            format!("upstreams: [{{ name: a, endpoints: [127.0.0.1:9] }}]\nlisteners:\n{text}");
        config::parse("test.yaml", &text, &|_| None)
            .unwrap()
            .config
            .listeners
    }

    fn listener(name: &str, address: &str) -> String {
        format!("  - {{ name: {name}, address: {address}, upstream: a }}\n")
    }

    /// As a reload does it, with workers that never look into their mailbox.
    async fn apply(sockets: &mut Sockets, text: &str) -> HashMap<Arc<str>, Bound> {
        let prepared = sockets.prepare(&listeners(text)).unwrap();
        let bound = prepared.bound.clone();
        let text =
            format!("upstreams: [{{ name: a, endpoints: [127.0.0.1:9] }}]\nlisteners:\n{text}");
        let config = config::parse("test.yaml", &text, &|_| None).unwrap().config;
        let registry = Registry::new(1);
        let snapshot = Snapshot::compile(
            Arc::new(config),
            &bound,
            None,
            &registry,
            &crate::tls::Materials::default(),
        );
        let (shared, mailboxes) =
            Shared::new(snapshot, crate::tls::Materials::default(), registry, 1);
        drop(mailboxes);
        let snapshot = shared.snapshot.load_full();
        sockets.commit(prepared, &snapshot, &shared).await;
        bound
    }

    #[tokio::test]
    async fn a_socket_stays_with_its_address_and_goes_by_its_name_first() {
        let mut sockets = Sockets::default();
        let (one, two) = (
            listener("one", "127.0.0.1:0"),
            listener("two", "127.0.0.1:0"),
        );
        let before = apply(&mut sockets, &format!("{one}{two}")).await;
        // The order changes nothing, nor does a new name for one of them.
        let renamed = listener("three", "127.0.0.1:0");
        let after = apply(&mut sockets, &format!("{renamed}{one}")).await;
        assert_eq!(after["one"].id, before["one"].id);
        assert_eq!(after["three"].id, before["two"].id);
        assert_eq!(after["three"].address, before["two"].address);
        let last = apply(&mut sockets, &listener("one", "127.0.0.1:0")).await;
        assert_eq!(last["one"].id, before["one"].id);
        assert_eq!(sockets.describe(), format!("one={}", before["one"].address));
    }

    #[tokio::test]
    async fn what_can_t_be_bound_is_told_and_changes_nothing() {
        let taken = bind(&Address::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let mut sockets = Sockets::default();
        apply(&mut sockets, &listener("one", "127.0.0.1:0")).await;
        let before = sockets.describe();
        let bad = listener("bad", &taken.address().to_string());
        let wanted = listeners(&format!("{}{bad}", listener("new", "127.0.0.1:0")));
        let Err(errors) = sockets.prepare(&wanted) else {
            panic!("bound")
        };
        assert_eq!(errors.len(), 1);
        assert!(
            errors[0]
                .to_string()
                .starts_with("listener bad: cannot listen on 127.0.0.1:")
        );
        assert_eq!(sockets.describe(), before);
    }
}
