//! The control world's end, and the thread that sends.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self as sync_mpsc, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use opentelemetry::TraceId;
use tokio::{
    runtime::{Builder, LocalOptions},
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{
    Outlet, Signal, destination,
    origin::Origin,
    queue::{Batch, Inlet},
    sender::{Plan, Sender, Way},
};
use crate::{config::model::Config, telemetry::metrics::OtlpMetrics};

const SIGNALS: usize = Signal::ALL.len();

/// Steers what is exported, and where to: one a process.
#[derive(Debug)]
pub struct Exporter {
    origin: Origin,
    inlets: [Arc<Inlet>; SIGNALS],
    plans: [watch::Sender<Plan>; SIGNALS],
    thread: Mutex<Thread>,
}

#[derive(Debug)]
enum Thread {
    /// Nothing was exported yet. The other ends of the queues wait for it.
    Unborn(Box<[mpsc::UnboundedReceiver<Batch>; SIGNALS]>),
    /// Hung up as it ends.
    Running(sync_mpsc::Receiver<()>),
    /// It could not be started, or has ended.
    Gone,
}

impl Exporter {
    /// Nothing is exported yet, and no thread runs.
    pub fn new(metrics: &OtlpMetrics) -> Self {
        let queues = Signal::ALL.map(|signal| Inlet::new(Arc::clone(metrics.of(signal))));
        let inlets = queues.each_ref().map(|(inlet, _)| Arc::clone(inlet));
        Self {
            origin: Origin::new(),
            inlets,
            plans: Signal::ALL.map(|_| watch::Sender::new(Plan::default())),
            thread: Mutex::new(Thread::Unborn(Box::new(queues.map(|(_, batches)| batches)))),
        }
    }

    /// What one worker writes to.
    pub fn outlet(&self, signal: Signal) -> Outlet {
        Outlet::new(Arc::clone(&self.inlets[signal as usize]))
    }

    /// The trace that the exports are in: if they come by here on their way to the collector, they
    /// are known by it.
    pub fn trace(&self) -> TraceId {
        self.origin.trace()
    }

    /// Does as this configuration says from now on. What waits of a signal that is switched off is
    /// sent to where it went before.
    pub fn apply(&self, config: &Config) {
        for signal in Signal::ALL {
            let inlet = &self.inlets[signal as usize];
            let Some(export) = destination(config, signal) else {
                inlet.close();
                continue;
            };
            if let Err(error) = self.start() {
                tracing::error!(%error, "cannot start the exporter: telemetry is not sent");
                return;
            }
            let mut sent = export.clone();
            sent.headers.extend(self.origin.unsampled());
            let way = Some(Way {
                export: Arc::new(sent),
                resource: self.origin.resource(&config.otlp.resource),
            });
            self.plans[signal as usize].send_if_modified(|plan| {
                let differs = plan.way != way;
                plan.way = way;
                differs
            });
            inlet.open(&export.batch);
        }
    }

    /// Sends what there is, at most for so long. To be called when the workers have ended; blocks.
    pub fn finish(&self, limit: Duration) {
        for plan in &self.plans {
            plan.send_modify(|plan| plan.ending = true);
        }
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Thread::Running(ended) = &*thread
            && ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout)
        {
            tracing::warn!("leaving with telemetry that no collector has taken");
        }
        *thread = Thread::Gone;
    }

    fn start(&self) -> io::Result<()> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let batches = match std::mem::replace(&mut *thread, Thread::Gone) {
            Thread::Unborn(batches) => batches,
            running @ Thread::Running(_) => {
                *thread = running;
                return Ok(());
            }
            Thread::Gone => return Err(io::Error::other("it has ended")),
        };
        let mut senders = Vec::new();
        for (signal, batches) in Signal::ALL.into_iter().zip(*batches) {
            let inlet = Arc::clone(&self.inlets[signal as usize]);
            let plan = self.plans[signal as usize].subscribe();
            senders.push(Sender::new(signal, inlet, batches, plan));
        }
        let (hold, ended) = sync_mpsc::channel::<()>();
        thread::Builder::new()
            .name("pillion-export".into())
            .spawn(move || {
                if let Err(error) = run(senders) {
                    tracing::error!(%error, "the exporter could not start: telemetry is not sent");
                }
                drop(hold);
            })?;
        *thread = Thread::Running(ended);
        Ok(())
    }
}

/// A runtime of its own, until every sender has come to its end.
fn run(senders: Vec<Sender>) -> io::Result<()> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for sender in senders {
            tasks.spawn_local(sender.run());
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                // What it held is counted, and so is what comes from now on: see `Sender::drop`.
                tracing::error!(%error, "telemetry of a kind is not sent any more: please report this");
            }
        }
    });
    // A lookup of a name may hang; nobody waits for it.
    runtime.shutdown_background();
    Ok(())
}
