//! The data plane's threads.

use std::{
    io,
    rc::Rc,
    sync::Arc,
    thread::{self, JoinHandle},
};

use tokio::{
    runtime::{Builder, LocalOptions},
    sync::mpsc,
};

use crate::{
    listener::{self, accept},
    sys,
    telemetry::access_log::{AccessLog, LogWriter},
    tls::warden,
    worker::{Command, Shared, Worker},
};

/// The running threads, one for each worker.
pub struct Threads(Vec<JoinHandle<()>>);

/// Starts one thread for each mailbox.
pub fn spawn(
    shared: &Arc<Shared>,
    mailboxes: Vec<mpsc::Receiver<Command>>,
    log: &LogWriter,
) -> io::Result<Threads> {
    let threads = mailboxes.into_iter().enumerate().map(|(id, mailbox)| {
        let shared = Arc::clone(shared);
        let access_log = log.worker();
        thread::Builder::new()
            .name(format!("pillion-w{id}"))
            .spawn(move || {
                if let Err(error) = run(id, shared, access_log, mailbox) {
                    tracing::error!(worker = id, %error, "worker could not start");
                }
            })
    });
    Ok(Threads(threads.collect::<io::Result<_>>()?))
}

impl Threads {
    /// Waits for all of them to end. Blocks; they end at [`Command::Stop`].
    pub fn join(self) {
        for thread in self.0 {
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}

/// The life of a worker: what its mailbox says, until it says stop. Then the runtime is dropped and
/// with it every connection that is still open.
fn run(
    id: usize,
    shared: Arc<Shared>,
    access_log: AccessLog,
    mut mailbox: mpsc::Receiver<Command>,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    shared.registry.process().worker_runs(id, runtime.metrics());
    runtime.block_on(async {
        let worker = Worker::new(id, shared, access_log);
        tokio::task::spawn_local({
            let worker = Rc::clone(&worker);
            async move { worker.access_log.flush_when_idle().await }
        });
        tokio::task::spawn_local({
            let worker = Rc::clone(&worker);
            async move { worker.tracer.outlet.flush_when_idle().await }
        });
        tokio::task::spawn_local(Rc::clone(&worker.pools).run(Rc::clone(&worker)));
        tokio::task::spawn_local(warden::run(Rc::clone(&worker)));
        while let Some(command) = mailbox.recv().await {
            match command {
                Command::Serve(accepted) => listener::serve(accepted, &worker),
                Command::Listen(acceptor) => {
                    tokio::task::spawn_local(accept(*acceptor, Rc::clone(&worker)));
                }
                Command::EmptyCache => sys::empty_cache(),
                Command::Stop => break,
            }
        }
    });
    Ok(())
}

async fn accept(acceptor: accept::Acceptor, worker: Rc<Worker>) {
    let listener = Arc::clone(&acceptor.plan.config.name);
    if let Err(error) = accept::run(acceptor, worker).await {
        tracing::error!(%listener, %error, "listener stopped");
    }
}
