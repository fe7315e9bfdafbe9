//! The control thread: signals, the watched files and the admin server's wishes, one at a time.

use std::{
    path::PathBuf,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::pki_types::UnixTime;
use serde_json::Value;
use tokio::{
    runtime::LocalOptions,
    sync::{Notify, mpsc, oneshot},
    time::Instant,
};

use super::{
    drain::{Ended, drain},
    ebb, examine,
    export::Export,
    limits,
    live::{Live, StartError, not_opened},
    pressure,
    security::Told,
    signals::{Asked, Signals},
    watch::watch,
    workers::Threads,
};
use crate::{
    admin::{BoxFuture, Condition, Control, Readiness, ReloadRefused},
    config::model::Config,
    telemetry::{Expiring, logging::LogLevel, metrics::Format},
    worker::{Command, Lifecycle, Shared},
};

/// How long workers have to drop what they hold.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the access log has to be written.
const LOG_TIMEOUT: Duration = Duration::from_secs(2);
/// How long telemetry has to be sent, if the drain leaves so much; and how long in any case, as
/// whoever waits for the end gives some time beyond the drain.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);
const LEAST_EXPORT_TIMEOUT: Duration = Duration::from_millis(500);

/// Runs the proxy until it has drained. The calling thread becomes the control thread.
pub fn run(path: PathBuf, log_level: LogLevel) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .map_err(|error| StartError::System {
            what: "start the control thread",
            error,
        })?;
    let result = runtime.block_on(control(path, log_level));
    // A lookup or a read may hang; the process does not wait for it.
    runtime.shutdown_background();
    result
}

async fn control(path: PathBuf, log_level: LogLevel) -> Result<(), StartError> {
    let mut signals = Signals::new().map_err(|error| StartError::System {
        what: "listen to signals",
        error,
    })?;
    let workers = limits::workers().map_err(StartError::Refused)?;
    if let Err(error) = limits::raise_open_files() {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    // Before the first read: a change right after it must not go unnoticed.
    let mut changes = watch(vec![path.clone()]);
    let (mut live, threads) = Live::start(path.clone(), workers).await?;
    let (handle, mut asked) = Handle::new(&live, log_level);
    live.admin.start(Arc::clone(&handle) as Arc<dyn Control>);
    tokio::spawn(ebb::watch(Arc::clone(&live.shared)));
    tokio::spawn(examine::watch(Arc::clone(&live.shared)));
    tokio::spawn(pressure::watch(Arc::clone(&live.shared)));
    let export = Rc::new(Export::new(&live.shared));
    tokio::task::spawn_local({
        let export = Rc::clone(&export);
        async move { export.run().await }
    });
    let (admin, probes) = live.admin.describe();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        generation = live.shared.snapshot.load().generation,
        workers,
        config = %path.display(),
        admin,
        probes,
        listeners = live.sockets.describe(),
        "ready"
    );

    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Asked::End => break,
                Asked::Reload => {
                    if let Err(error) = live.log.reopen() {
                        let snapshot = live.shared.snapshot.load();
                        tracing::error!("{}", not_opened(&snapshot.config, &error));
                    }
                    // What became of it is in the log.
                    drop(live.reload().await);
                }
            },
            () = handle.drain.notified() => break,
            Some(reply) = asked.recv() => {
                // Whoever asked may be gone; the reload is not undone for that.
                drop(reply.send(live.reload().await));
            }
            Some(()) = changes.recv() => live.reload_if_changed().await,
            () = live.security.changed() => live.rotate(),
        }
    }
    // From here on a reload is refused, as nobody is there to do it.
    drop(asked);

    let shared = Arc::clone(&live.shared);
    let limits = shared.snapshot.load().config.drain;
    let began = Instant::now();
    let ended = drain(limits, &shared, &mut live.sockets, &mut signals).await;
    match ended {
        Ended::Empty => tracing::info!("drained"),
        Ended::Deadline(connections) => {
            shared.registry.process().drain_cut(connections as u64);
            tracing::warn!(connections, "drain deadline reached: connections are cut");
        }
        Ended::Forced(connections) => {
            shared.registry.process().drain_cut(connections as u64);
            tracing::warn!(connections, "second signal: connections are cut");
        }
    }
    stop(&shared, threads).await;
    export.send();
    let left = limits.deadline.saturating_sub(began.elapsed());
    shared
        .otlp
        .finish(left.clamp(LEAST_EXPORT_TIMEOUT, EXPORT_TIMEOUT));
    live.log.finish(LOG_TIMEOUT);
    Ok(())
}

/// Ends the workers, and with them every connection that is still open.
async fn stop(shared: &Arc<Shared>, threads: Threads) {
    shared.advance(Lifecycle::Forced);
    let stopping = async {
        for worker in 0..shared.workers() {
            shared.send(worker, Command::Stop).await;
        }
        tokio::task::spawn_blocking(|| threads.join()).await
    };
    if tokio::time::timeout(STOP_TIMEOUT, stopping).await.is_err() {
        tracing::warn!("a worker does not end; leaving without it");
    }
}

/// What the admin server holds of the process.
struct Handle {
    shared: Arc<Shared>,
    refused: Arc<Mutex<Option<String>>>,
    workload: Told,
    log_level: LogLevel,
    drain: Notify,
    reload: mpsc::Sender<oneshot::Sender<Result<u64, ReloadRefused>>>,
}

type Reloads = mpsc::Receiver<oneshot::Sender<Result<u64, ReloadRefused>>>;

impl Handle {
    fn new(live: &Live, log_level: LogLevel) -> (Arc<Self>, Reloads) {
        let (reload, asked) = mpsc::channel(1);
        let handle = Self {
            shared: Arc::clone(&live.shared),
            refused: live.refused(),
            workload: live.security.told(),
            log_level,
            drain: Notify::new(),
            reload,
        };
        (Arc::new(handle), asked)
    }
}

impl Handle {
    /// Whether the identity is there that the configuration asks for, and how long everything
    /// lasts that is in use.
    fn identity(&self, config: &Config) -> Vec<Condition> {
        let materials = self.shared.materials.load();
        let now = UnixTime::now();
        let mut conditions = Vec::new();
        if config.identity.is_some() {
            let identity = materials.identity.as_ref();
            conditions.push(Condition {
                name: "identity",
                ok: identity.is_some_and(|own| own.not_after() > now),
                detail: identity.map_or_else(
                    || "not there yet; the log says what is missing".to_owned(),
                    |own| own.leaf().to_string(),
                ),
            });
        }
        let workload = self.workload.lock();
        if let Some(state) = &*workload.unwrap_or_else(PoisonError::into_inner) {
            conditions.push(Condition {
                name: "workload-api",
                // What it has given is good for as long as it lasts.
                ok: true,
                detail: state.borrow().describe(Instant::now()),
            });
        }
        conditions.extend(self.shared.registry.tls().expiring().into_iter().map(
            |Expiring { kind, name, at }| Condition {
                name: "expiry",
                // Only the identity makes readiness.
                ok: true,
                detail: match at.checked_sub(now.as_secs()) {
                    Some(left) => format!("{kind} {name}: {left} s left"),
                    None => format!("{kind} {name}: EXPIRED"),
                },
            },
        ));
        conditions
    }
}

impl Control for Handle {
    fn readiness(&self) -> Readiness {
        let snapshot = self.shared.snapshot.load();
        let lifecycle = self.shared.lifecycle();
        let condition = |name, ok, detail| Condition { name, ok, detail };
        let identity = self.identity(&snapshot.config);
        Readiness {
            // The admin server answers only once the first two are true.
            conditions: vec![
                condition(
                    "listeners",
                    true,
                    format!("{} bound", snapshot.listeners.len()),
                ),
                condition(
                    "configuration",
                    true,
                    format!("generation {}", snapshot.generation),
                ),
                condition(
                    "serving",
                    lifecycle == Lifecycle::Running,
                    drain_detail(lifecycle),
                ),
            ]
            .into_iter()
            .chain(identity)
            .collect(),
            refused_reload: self
                .refused
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }

    fn config(&self) -> Value {
        serde_json::to_value(&*self.shared.snapshot.load().config).unwrap_or_default()
    }

    fn upstreams(&self) -> Value {
        let snapshot = self.shared.snapshot.load();
        let upstreams = &snapshot.config.upstreams;
        upstreams
            .iter()
            .map(|config| snapshot.upstreams[&config.name].describe())
            .collect()
    }

    fn faults(&self) -> Value {
        let snapshot = self.shared.snapshot.load();
        // In the order of the file.
        let rules = snapshot.rule_names();
        rules
            .filter_map(|name| {
                let faults = snapshot.guards.get(&name)?.faults.as_ref()?;
                Some(faults.describe(&name.0, &name.1))
            })
            .collect()
    }

    fn switch_faults(&self, enabled: bool, route: Option<&str>) -> usize {
        let snapshot = self.shared.snapshot.load();
        let mut switched = 0;
        for ((of, rule), guard) in &snapshot.guards {
            let meant = route.is_none_or(|route| route == &**of || route == &**rule);
            if let Some(faults) = guard.faults.as_ref().filter(|_| meant) {
                faults.switch(enabled);
                tracing::warn!(route = %of, %rule, enabled, "faults switched");
                switched += 1;
            }
        }
        switched
    }

    fn drain(&self) {
        self.drain.notify_one();
    }

    fn reload(&self) -> BoxFuture<Result<u64, ReloadRefused>> {
        let reload = self.reload.clone();
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            // Either fails when the control thread has gone on to drain.
            if reload.send(reply).await.is_ok()
                && let Ok(result) = answer.await
            {
                return result;
            }
            let text = "the process is draining".to_owned();
            Err(ReloadRefused {
                problems: serde_json::json!([{ "message": text }]),
                text,
            })
        })
    }

    fn metrics(&self, format: Format) -> String {
        self.shared.registry.encode(format)
    }

    fn log_level(&self) -> String {
        self.log_level.current()
    }

    fn set_log_level(&self, filter: &str) -> Result<(), String> {
        self.log_level.set(filter)
    }
}

fn drain_detail(lifecycle: Lifecycle) -> String {
    match lifecycle {
        Lifecycle::Running => "",
        Lifecycle::Announced => "announced, still accepting",
        Lifecycle::Draining | Lifecycle::Forced => "accepting nothing more",
    }
    .to_owned()
}
