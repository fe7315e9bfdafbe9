//! The live configuration, and the one transaction that replaces it.
//!
//! Everything that can fail is done first and beside what is live: read, resolve, open the log,
//! bind the addresses. Then comes what can't: compile, swap one pointer, tell the workers.

use std::{
    fmt::Display,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::json;

use super::{admin::AdminServers, security::Security, watch::fingerprint, workers};
use crate::{
    access::{self, Keeper},
    admin::ReloadRefused,
    config::{self, LoadError, Loaded, model::Config},
    discovery::Discovery,
    listener::sockets::Sockets,
    snapshot::Snapshot,
    telemetry::{LogWriter, Registry},
    tls::Materials,
    upstream::{Upstream, checks::Checks},
    worker::Shared,
};

/// Why the process could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Configuration(#[from] LoadError),
    #[error("{0}")]
    Refused(String),
    #[error("cannot {what}: {error}")]
    System {
        what: &'static str,
        error: std::io::Error,
    },
}

/// What is live, seen from the control thread.
pub struct Live {
    pub shared: Arc<Shared>,
    pub sockets: Sockets,
    pub admin: AdminServers,
    pub log: LogWriter,
    path: PathBuf,
    discovery: Discovery,
    checks: Checks,
    pub security: Security,
    keeper: Keeper,
    /// What the files held when they were last read, whether that was accepted or not.
    read: Option<u64>,
    /// Why the last reload was refused; `None` when it was not.
    refused: Arc<Mutex<Option<String>>>,
}

impl Live {
    /// Reads the configuration, binds everything and starts the workers; traffic flows when it
    /// returns. The admin servers are bound, but not started.
    pub async fn start(
        path: PathBuf,
        workers: usize,
    ) -> Result<(Self, workers::Threads), StartError> {
        let read = fingerprint(&path);
        let Loaded {
            config,
            warnings,
            notes,
            ..
        } = config::load(&path)?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        notes.tell();
        let registry = Registry::new(workers);
        let log = LogWriter::start(&config.access_log, Arc::clone(registry.process()))
            .map_err(|error| StartError::Refused(not_opened(&config, &error)))?;
        let keys = access::keeper::read_files(&config.jwt_providers)
            .map_err(|errors| StartError::Refused(lines(&errors)))?;
        let admin = AdminServers::bind(&config.admin).map_err(StartError::Refused)?;
        let mut sockets = Sockets::default();
        let prepared = sockets
            .prepare(&config.listeners)
            .map_err(|errors| StartError::Refused(lines(&errors)))?;
        let (security, materials) = Security::start(&config);
        let first = Snapshot::compile(
            Arc::new(config),
            &prepared.bound,
            None,
            &registry,
            &materials,
        );
        access::keeper::install(keys, &first.jwt_providers);
        let generation = first.generation;
        let (shared, mailboxes) = Shared::new(first, materials, registry, workers);
        let threads =
            workers::spawn(&shared, mailboxes, &log).map_err(|error| StartError::System {
                what: "start a worker",
                error,
            })?;
        let snapshot = shared.snapshot.load_full();
        shared.otlp.apply(&snapshot.config);
        let mut discovery = Discovery::new();
        discovery.reconcile(&upstreams(&snapshot));
        let mut checks = Checks::default();
        checks.reconcile(&upstreams(&snapshot));
        let mut keeper = Keeper::default();
        keeper.reconcile(&snapshot.jwt_providers);
        sockets.commit(prepared, &snapshot, &shared).await;
        shared.registry.process().started(generation);
        let tls = shared.registry.tls();
        tls.set_expiring(shared.materials.load().expiring());
        let refused = Arc::default();
        let live = Self {
            shared,
            sockets,
            admin,
            log,
            path,
            discovery,
            checks,
            security,
            keeper,
            read,
            refused,
        };
        Ok((live, threads))
    }

    /// Why the last reload was refused, for whoever asks.
    pub fn refused(&self) -> Arc<Mutex<Option<String>>> {
        Arc::clone(&self.refused)
    }

    /// Reloads if the files hold something else than when they were last read.
    pub async fn reload_if_changed(&mut self) {
        if fingerprint(&self.path) != self.read {
            // What became of it is in the log.
            drop(self.reload().await);
        }
    }

    /// Makes the files' configuration live, or leaves everything as it is. Says in log, metrics and
    /// readiness what became of it.
    pub async fn reload(&mut self) -> Result<u64, ReloadRefused> {
        let result = self.replace().await;
        let process = self.shared.registry.process();
        let refused = match &result {
            Ok(generation) => {
                process.reload_accepted(*generation);
                tracing::info!(
                    generation,
                    listeners = self.sockets.describe(),
                    "configuration accepted"
                );
                None
            }
            Err(refused) => {
                process.reload_rejected();
                let generation = self.shared.snapshot.load().generation;
                tracing::error!(
                    generation,
                    problems = refused.text,
                    "configuration rejected"
                );
                Some(refused.text.clone())
            }
        };
        // Every change to it is whole, so that a panic elsewhere leaves nothing half done.
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
        result
    }

    /// Takes identities and trust as they are now. Says in the log what has changed.
    pub fn rotate(&mut self) {
        let shared = &self.shared;
        let snapshot = shared.snapshot.load_full();
        let materials = self.security.load(&snapshot.config);
        if publish(&snapshot, materials, shared) {
            shared.wake();
        }
    }

    async fn replace(&mut self) -> Result<u64, ReloadRefused> {
        // First the fingerprint: what changes while the files are read is another change.
        self.read = fingerprint(&self.path);
        let Loaded { config, notes, .. } = config::load(&self.path).map_err(not_loaded)?;
        let log = self
            .log
            .prepare(&config.access_log)
            .map_err(|error| refuse([not_opened(&config, &error)]))?;
        let keys = access::keeper::read_files(&config.jwt_providers).map_err(refuse)?;
        let admin = self
            .admin
            .prepare(&config.admin)
            .map_err(|problem| refuse([problem]))?;
        let prepared = self.sockets.prepare(&config.listeners).map_err(refuse)?;
        let materials = self.security.replace(&config).map_err(refuse)?;

        let shared = &self.shared;
        let snapshot = Arc::new(Snapshot::compile(
            Arc::new(config),
            &prepared.bound,
            Some(&shared.snapshot.load()),
            &shared.registry,
            &materials,
        ));
        publish(&snapshot, materials, shared);
        access::keeper::install(keys, &snapshot.jwt_providers);
        shared.snapshot.store(Arc::clone(&snapshot));
        self.discovery.reconcile(&upstreams(&snapshot));
        self.checks.reconcile(&upstreams(&snapshot));
        self.keeper.reconcile(&snapshot.jwt_providers);
        self.log.apply(log);
        shared.otlp.apply(&snapshot.config);
        self.admin.commit(admin);
        shared.wake();
        self.sockets.commit(prepared, &snapshot, shared).await;
        notes.tell();
        Ok(snapshot.generation)
    }
}

/// Gives everything that is carried over what was loaded, if that is something new; whether it is.
fn publish(snapshot: &Snapshot, mut materials: Materials, shared: &Shared) -> bool {
    let before = shared.materials.load();
    if materials.same_as(&before) {
        return false;
    }
    materials.generation = before.generation + 1;
    for tls in snapshot
        .listeners
        .values()
        .filter_map(|plan| plan.tls.as_ref())
    {
        tls.renew(&materials);
    }
    for tls in snapshot
        .upstreams
        .values()
        .filter_map(|upstream| upstream.tls.as_ref())
    {
        tls.renew(&materials);
    }
    let tls = shared.registry.tls();
    tls.set_expiring(materials.expiring());
    tls.rotated();
    tracing::info!(
        identity = materials
            .identity
            .as_ref()
            .map(|own| own.leaf().to_string()),
        "identity and trust were taken into use"
    );
    shared.materials.store(Arc::new(materials));
    true
}

fn upstreams(snapshot: &Snapshot) -> Vec<Arc<Upstream>> {
    snapshot.upstreams.values().cloned().collect()
}

/// Why the access log can't be written, with its place.
pub(super) fn not_opened(config: &Config, error: &io::Error) -> String {
    let output = &config.access_log.output;
    format!("cannot open the access log {output}: {error}")
}

fn not_loaded(error: LoadError) -> ReloadRefused {
    match error {
        LoadError::Invalid(report) => ReloadRefused {
            problems: json!(report.problems),
            text: report.to_string(),
        },
        LoadError::Unreadable { .. } => refuse([error]),
    }
}

fn refuse<T: Display>(problems: impl IntoIterator<Item = T>) -> ReloadRefused {
    let problems: Vec<_> = problems
        .into_iter()
        .map(|problem| problem.to_string())
        .collect();
    ReloadRefused {
        text: lines(&problems),
        problems: problems
            .into_iter()
            .map(|message| json!({ "message": message }))
            .collect(),
    }
}

fn lines<T: Display>(problems: &[T]) -> String {
    problems
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}
