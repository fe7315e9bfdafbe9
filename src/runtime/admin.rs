//! The admin servers' sockets over the life of the process.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpListener, task::JoinHandle, time::timeout};

use crate::{
    admin::{self, Control, Scope},
    config::model,
    net::explain_bind,
};

/// How long a server whose address was taken away goes on: the reload that did so was asked for
/// through it, perhaps, and its answer is still to come.
const FAREWELL: Duration = Duration::from_secs(1);

/// The full server and the one for probes.
pub struct AdminServers {
    control: Option<Arc<dyn Control>>,
    full: Server,
    probes: Server,
}

/// One server: where it was asked to listen, and where it does.
struct Server {
    scope: Scope,
    configured: Option<SocketAddr>,
    actual: Option<SocketAddr>,
    /// Bound, but not started.
    waiting: Option<TcpListener>,
    task: Option<JoinHandle<()>>,
}

/// Sockets for a configuration that is not in force yet.
pub struct Prepared {
    full: Change,
    probes: Change,
}

enum Change {
    None,
    To(Option<(SocketAddr, TcpListener)>),
}

impl AdminServers {
    /// Binds; nothing is answered before [`AdminServers::start`]. Must be called within a runtime.
    pub fn bind(config: &model::Admin) -> Result<Self, String> {
        let mut servers = Self {
            control: None,
            full: Server::new(Scope::Full),
            probes: Server::new(Scope::Probes),
        };
        let prepared = servers.prepare(config)?;
        servers.commit(prepared);
        Ok(servers)
    }

    /// Begins to answer.
    pub fn start(&mut self, control: Arc<dyn Control>) {
        for server in [&mut self.full, &mut self.probes] {
            server.start(&control);
        }
        self.control = Some(control);
    }

    /// The part of a reload that can fail.
    pub fn prepare(&self, config: &model::Admin) -> Result<Prepared, String> {
        Ok(Prepared {
            full: self.full.prepare(config.address)?,
            probes: self.probes.prepare(config.probes)?,
        })
    }

    /// The part that can't.
    pub fn commit(&mut self, prepared: Prepared) {
        for (server, change) in [
            (&mut self.full, prepared.full),
            (&mut self.probes, prepared.probes),
        ] {
            if let Change::To(bound) = change {
                server.change(bound);
            }
            if let Some(control) = &self.control {
                server.start(control);
            }
        }
    }

    /// Where the full server and the one for probes listen, for the log.
    pub fn describe(&self) -> (String, String) {
        let show = |server: &Server| match server.actual {
            Some(address) => address.to_string(),
            None => "off".to_owned(),
        };
        (show(&self.full), show(&self.probes))
    }
}

impl Server {
    const fn new(scope: Scope) -> Self {
        Self {
            scope,
            configured: None,
            actual: None,
            waiting: None,
            task: None,
        }
    }

    fn prepare(&self, wanted: Option<SocketAddr>) -> Result<Change, String> {
        if wanted == self.configured {
            return Ok(Change::None);
        }
        let Some(address) = wanted else {
            return Ok(Change::To(None));
        };
        match admin::bind(address) {
            Ok(listener) => Ok(Change::To(Some((address, listener)))),
            Err(error) => Err(format!(
                "admin server: cannot listen on {address}: {}; the keys are admin.address and admin.probes",
                explain_bind(&error)
            )),
        }
    }

    fn change(&mut self, bound: Option<(SocketAddr, TcpListener)>) {
        if let Some(mut task) = self.task.take() {
            tokio::spawn(async move {
                if timeout(FAREWELL, &mut task).await.is_err() {
                    task.abort();
                }
            });
        }
        self.configured = bound.as_ref().map(|(address, _)| *address);
        self.waiting = bound.map(|(_, listener)| listener);
        self.actual = self
            .waiting
            .as_ref()
            .and_then(|listener| listener.local_addr().ok());
    }

    fn start(&mut self, control: &Arc<dyn Control>) {
        if let Some(listener) = self.waiting.take() {
            let server = admin::serve(listener, Arc::clone(control), self.scope);
            self.task = Some(tokio::spawn(server));
        }
    }
}
