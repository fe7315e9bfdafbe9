//! The thread that writes the access log, and how the control world steers it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use rustix::fs::OFlags;

use super::AccessLog;
use crate::{
    config::model::{self, LogOutput},
    telemetry::metrics::ProcessMetrics,
};

/// Batches in the queue, of all workers together: 4 MiB of lines at most.
const QUEUE: usize = 256;

/// How long the reader of a pipe that is full is left alone.
const PIPE_WAIT: Duration = Duration::from_millis(20);

/// Lines on their way to the output.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) lines: u64,
}

/// What workers, the writing thread and the control world have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Arc<ArcSwap<model::AccessLog>>,
    /// What `config` says of that, at the price of a plain load: it is asked several times a request.
    enabled: AtomicBool,
    /// The writing thread's next output; looked at before each batch, which no worker waits for.
    next_output: Mutex<Option<File>>,
    metrics: Arc<ProcessMetrics>,
}

impl Shared {
    fn new(config: model::AccessLog, metrics: Arc<ProcessMetrics>) -> Arc<Self> {
        Arc::new(Self {
            enabled: AtomicBool::new(config.enabled),
            config: Arc::new(ArcSwap::from_pointee(config)),
            next_output: Mutex::new(None),
            metrics,
        })
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.enabled.load(Relaxed)
    }

    fn set_config(&self, config: model::AccessLog) {
        self.enabled.store(config.enabled, Relaxed);
        self.config.store(Arc::new(config));
    }

    pub(super) fn dropped(&self, lines: u64) {
        self.metrics.access_log_dropped(lines);
    }

    pub(super) fn filtered(&self, lines: u64) {
        self.metrics.access_log_filtered(lines);
    }

    fn set_output(&self, output: File) {
        *self
            .next_output
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(output);
    }

    fn has_output(&self) -> bool {
        let next = self.next_output.lock();
        next.unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn take_output(&self) -> Option<File> {
        self.next_output
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// The control world's end of the access log: one a process.
#[derive(Debug)]
pub struct LogWriter {
    shared: Arc<Shared>,
    queue: SyncSender<Batch>,
    /// Hung up by the writing thread as it ends.
    ended: Mutex<Receiver<()>>,
}

/// A configuration of the access log whose output is open already, so that taking it can't fail.
#[derive(Debug)]
pub struct Prepared {
    config: model::AccessLog,
    /// `None`: the one that is open.
    file: Option<File>,
}

impl LogWriter {
    /// Opens the output and starts the thread. Lines that must be dropped are counted in `metrics`.
    pub fn start(config: &model::AccessLog, metrics: Arc<ProcessMetrics>) -> io::Result<Self> {
        let output = open(&config.output)?;
        let shared = Shared::new(config.clone(), metrics);
        let (queue, batches) = mpsc::sync_channel(QUEUE);
        let (hold, ended) = mpsc::channel();
        let of_thread = Arc::clone(&shared);
        thread::Builder::new()
            .name("access-log".into())
            .stack_size(128 * 1024)
            .spawn(move || {
                write_batches(&batches, output, &of_thread);
                drop::<mpsc::Sender<()>>(hold);
            })?;
        Ok(Self {
            shared,
            queue,
            ended: Mutex::new(ended),
        })
    }

    /// What one worker writes to.
    pub fn worker(&self) -> AccessLog {
        AccessLog::new(Arc::clone(&self.shared), self.queue.clone())
    }

    /// The part of a reload that can fail: opens the output, if it is another one.
    pub fn prepare(&self, config: &model::AccessLog) -> io::Result<Prepared> {
        let same = self.shared.config.load().output == config.output;
        let file = if same { None } else { open(&config.output)? };
        Ok(Prepared {
            config: config.clone(),
            file,
        })
    }

    /// The other part: lines from now on have the new format. Those that are queued already keep
    /// theirs, and go to the new output.
    pub fn apply(&self, prepared: Prepared) {
        if let Some(file) = prepared.file {
            self.shared.set_output(file);
        }
        self.shared.set_config(prepared.config);
    }

    /// Opens a file anew under its name, after it was moved away (log rotation). Nothing is done
    /// for the standard streams.
    pub fn reopen(&self) -> io::Result<()> {
        let config = self.shared.config.load();
        if let LogOutput::File(_) = config.output
            && let Some(file) = open(&config.output)?
        {
            self.shared.set_output(file);
        }
        Ok(())
    }

    /// Waits until everything is written, at most for `limit`. To be called when the workers have
    /// ended, as it waits for their ends of the queue as well.
    pub fn finish(self, limit: Duration) {
        drop(self.queue);
        let ended = self
            .ended
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        // Ended or not, there is nothing more to do.
        let _ = ended.recv_timeout(limit);
    }
}

/// Every output is a file, so that no line is buffered a second time. `None`: there are no lines.
fn open(output: &LogOutput) -> io::Result<Option<File>> {
    let file = match output {
        LogOutput::Stdout => io::stdout().as_fd().try_clone_to_owned()?.into(),
        LogOutput::Stderr => io::stderr().as_fd().try_clone_to_owned()?.into(),
        LogOutput::File(path) => {
            let mut options = OpenOptions::new();
            // Lines hold addresses and paths of users: not for everybody to read.
            options.append(true).create(true).mode(0o640);
            if fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo()) {
                // Whoever opens a pipe for writing alone waits for a reader, and who writes to one
                // that nobody reads waits as well: neither must hold up the control world.
                let wait_for_nobody = OFlags::NONBLOCK.bits().cast_signed();
                options.read(true).custom_flags(wait_for_nobody);
            }
            options.open(path)?
        }
        LogOutput::Otlp => return Ok(None),
    };
    Ok(Some(file))
}

/// Writes all of it, unless another output is to be taken meanwhile.
fn put(output: &mut File, mut bytes: &[u8], shared: &Shared) -> io::Result<()> {
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !shared.has_output() => {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "a thread of its own, for this alone"
                )]
                thread::sleep(PIPE_WAIT);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn write_batches(batches: &Receiver<Batch>, mut output: Option<File>, shared: &Shared) {
    let mut failing = false;
    while let Ok(batch) = batches.recv() {
        if let Some(next) = shared.take_output() {
            output = Some(next);
        }
        // Lines that are left from another configuration go where those before them went.
        let Some(output) = &mut output else {
            shared.dropped(batch.lines);
            continue;
        };
        match put(output, &batch.bytes, shared) {
            Ok(()) => failing = false,
            Err(error) => {
                shared.dropped(batch.lines);
                if !failing {
                    tracing::warn!(%error, "access log can't be written; lines are dropped");
                }
                failing = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;
    use crate::{
        config::model::LogFormat,
        telemetry::{
            Registry,
            access_log::{
                Template,
                tests::{full, minimal},
            },
            metrics::Format,
        },
    };

    const LIMIT: Duration = Duration::from_secs(30);

    /// A path of our own, removed at the end.
    struct Path(PathBuf);

    impl Path {
        fn new(name: &str) -> Self {
            let name = format!("pillion-access-log-{}-{name}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn lines(&self) -> Vec<String> {
            fs::read_to_string(&self.0)
                .unwrap()
                .lines()
                .map(str::to_owned)
                .collect()
        }
    }

    impl Drop for Path {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    fn config(path: &Path, format: LogFormat) -> model::AccessLog {
        model::AccessLog {
            format,
            output: LogOutput::File(path.0.clone()),
            ..model::AccessLog::default()
        }
    }

    fn text() -> LogFormat {
        LogFormat::Text(Template::standard().clone())
    }

    fn dropped(registry: &Registry) -> u64 {
        let text = registry.encode(Format::Prometheus);
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("pillion_access_log_dropped_total "));
        line.unwrap().parse().unwrap()
    }

    #[test]
    fn lines_of_all_workers_are_written_before_the_end() {
        let path = Path::new("workers");
        let registry = Registry::new(4);
        let writer = LogWriter::start(
            &config(&path, LogFormat::Json),
            Arc::clone(registry.process()),
        )
        .unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                let log = writer.worker();
                scope.spawn(move || (0..1000).for_each(|_| log.write(&full())));
            }
        });
        writer.finish(LIMIT);
        let lines = path.lines();
        assert_eq!(lines.len() as u64 + dropped(&registry), 4000);
        for line in lines {
            serde_json::from_str::<serde_json::Value>(&line).unwrap();
        }
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let registry = Registry::new(1);
        let shared = Shared::new(model::AccessLog::default(), Arc::clone(registry.process()));
        let (queue, batches) = mpsc::sync_channel(1);
        let log = AccessLog::new(shared, queue);
        for _ in 0..3 {
            log.write(&minimal());
            log.flush();
        }
        assert_eq!(dropped(&registry), 2);
        drop(batches);
        log.write(&minimal());
        drop(log);
        assert_eq!(
            dropped(&registry),
            3,
            "the same when nobody writes any more"
        );
    }

    #[test]
    fn an_output_that_fails_drops_and_counts() {
        let registry = Registry::new(1);
        let full_disk = model::AccessLog {
            output: LogOutput::File("/dev/full".into()),
            ..model::AccessLog::default()
        };
        let writer = LogWriter::start(&full_disk, Arc::clone(registry.process())).unwrap();
        writer.worker().write(&minimal());
        writer.finish(LIMIT);
        assert_eq!(dropped(&registry), 1);
    }

    #[test]
    fn a_reload_changes_format_output_and_whether() {
        let (first, second) = (Path::new("first"), Path::new("second"));
        let registry = Registry::new(1);
        let writer = LogWriter::start(
            &config(&first, LogFormat::Json),
            Arc::clone(registry.process()),
        )
        .unwrap();
        let log = writer.worker();
        assert!(log.is_enabled());

        let off = model::AccessLog {
            enabled: false,
            ..config(&second, text())
        };
        writer.apply(writer.prepare(&off).unwrap());
        assert!(!log.is_enabled());
        log.write(&minimal());

        writer.apply(writer.prepare(&config(&second, text())).unwrap());
        log.write(&minimal());
        drop(log);
        writer.finish(LIMIT);
        assert!(first.lines().is_empty());
        let lines = second.lines();
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with('['));
    }

    #[test]
    fn an_output_that_can_not_be_opened_changes_nothing() {
        let path = Path::new("kept");
        let writer = LogWriter::start(
            &config(&path, LogFormat::Json),
            Arc::clone(Registry::new(1).process()),
        )
        .unwrap();
        let nowhere = Path(path.0.join("is-no-folder"));
        assert!(writer.prepare(&config(&nowhere, text())).is_err());
        let log = writer.worker();
        log.write(&minimal());
        drop(log);
        writer.finish(LIMIT);
        assert!(path.lines()[0].starts_with('{'));
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_anew() {
        let (path, moved) = (Path::new("rotated"), Path::new("rotated.1"));
        let writer = LogWriter::start(
            &config(&path, LogFormat::Json),
            Arc::clone(Registry::new(1).process()),
        )
        .unwrap();
        fs::rename(&path.0, &moved.0).unwrap();
        writer.reopen().unwrap();
        let log = writer.worker();
        log.write(&minimal());
        drop(log);
        writer.finish(LIMIT);
        assert!(moved.lines().is_empty());
        assert_eq!(path.lines().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_worker_s_line_goes_out() {
        let path = Path::new("idle");
        let writer = LogWriter::start(
            &config(&path, LogFormat::Json),
            Arc::clone(Registry::new(1).process()),
        )
        .unwrap();
        let log = writer.worker();
        log.write(&minimal());
        let flushed = async {
            while log.pending.borrow().lines > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = log.flush_when_idle() => unreachable!("it never ends"),
            () = flushed => {}
        }
        drop(log);
        writer.finish(LIMIT);
        assert_eq!(path.lines().len(), 1);
    }
}
