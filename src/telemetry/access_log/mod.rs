//! One line for each request and each TCP connection, also for those that fail.
//!
//! A worker formats its lines into a buffer of its own and hands full ones to the one thread that
//! writes ([`LogWriter`]). The queue between them is bounded: when the output is behind, lines are
//! dropped and counted; a request never waits for its line.

mod escape;
mod evidence;
mod filter;
mod headers;
mod json;
mod otlp;
mod record;
mod template;
mod timestamp;
mod writer;

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    fmt,
    sync::{
        Arc,
        mpsc::{SyncSender, TrySendError},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

pub use headers::Headers;
pub use record::{Protocol, Record};
pub use template::{Malformed, Template};
pub use writer::{LogWriter, Prepared};

use self::{
    timestamp::Timestamp,
    writer::{Batch, Shared},
};
use crate::{
    config::model::{AccessLog as Config, LogFormat, LogOutput},
    http::fields::Fields,
    telemetry::{Redaction, clock::Clock, otlp::Outlet},
};

/// A buffer of this many bytes goes to the writer at once.
const BATCH_BYTES: usize = 16 * 1024;

/// A smaller one goes this long after its first line.
const FLUSH_AFTER: Duration = Duration::from_millis(50);

/// A record on its way into a line.
struct Line<'a> {
    record: &'a Record,
    start: Timestamp,
    redaction: &'a Redaction,
}

impl Line<'_> {
    /// Path and query as they may be shown.
    fn path(&self) -> Option<Cow<'_, [u8]>> {
        let path = self.record.path()?;
        Some(self.redaction.target(path))
    }
}

/// One worker's end. Made by [`LogWriter::worker`] and moved to the worker, which spawns
/// [`AccessLog::flush_when_idle`].
pub struct AccessLog {
    shared: Arc<Shared>,
    config: RefCell<Newest>,
    queue: SyncSender<Batch>,
    pending: RefCell<Batch>,
    /// Where records go in place of lines.
    outlet: Option<Outlet>,
    /// Requests without a line that are not counted yet.
    filtered: Cell<u64>,
    /// There is something to hand over.
    begun: Notify,
    clock: Cell<Clock>,
    rng: RefCell<fastrand::Rng>,
}

/// Keeps the configuration that was newest at the last look.
type Newest = arc_swap::Cache<Arc<ArcSwap<Config>>, Arc<Config>>;

impl AccessLog {
    fn new(shared: Arc<Shared>, queue: SyncSender<Batch>) -> Self {
        Self {
            config: RefCell::new(arc_swap::Cache::new(Arc::clone(&shared.config))),
            shared,
            queue,
            pending: RefCell::default(),
            outlet: None,
            filtered: Cell::new(0),
            begun: Notify::new(),
            clock: Cell::new(Clock::now()),
            rng: RefCell::new(fastrand::Rng::new()),
        }
    }

    /// With a way to a collector, where the configuration wants that.
    #[must_use]
    pub fn exporting(mut self, outlet: Outlet) -> Self {
        self.outlet = Some(outlet);
        self
    }

    /// Whether lines are written at all: ask before a record is made. A reload may change it.
    pub fn is_enabled(&self) -> bool {
        self.shared.is_enabled()
    }

    /// Keeps the headers of a request that are to be shown, as they came.
    pub fn take_request_headers(&self, record: &mut Record, fields: &Fields) {
        if self.is_enabled() {
            let mut config = self.config.borrow_mut();
            let config = config.load();
            let (wanted, headers) = (&config.request_headers, &mut record.headers);
            headers.take_request(wanted, fields, &config.redaction);
        }
    }

    /// Keeps the headers of a response that are to be shown, as they are sent.
    pub fn take_response_headers(&self, record: &mut Record, fields: &Fields) {
        if self.is_enabled() {
            let mut config = self.config.borrow_mut();
            let config = config.load();
            let (wanted, headers) = (&config.response_headers, &mut record.headers);
            headers.take_response(wanted, fields, &config.redaction);
        }
    }

    /// Writes the line, or drops and counts it.
    pub fn write(&self, record: &Record) {
        let mut config = self.config.borrow_mut();
        let config = config.load();
        if !config.enabled {
            return;
        }
        if let Some(filter) = &config.filter
            && !filter.takes(record, || self.rng.borrow_mut().u64(..))
        {
            self.filtered.set(self.filtered.get() + 1);
            self.begun.notify_one();
            return;
        }
        if let LogOutput::Otlp = config.output {
            return self.export(record, config);
        }
        let mut pending = self.pending.borrow_mut();
        if pending.lines == 0 {
            // Room for the line that goes beyond.
            pending.bytes.reserve(BATCH_BYTES + BATCH_BYTES / 4);
            self.clock.set(Clock::now());
            self.begun.notify_one();
        }
        let line = Line {
            record,
            start: Timestamp::new(self.clock.get().date(record.start)),
            redaction: &config.redaction,
        };
        match &config.format {
            LogFormat::Json => json::write(&mut pending.bytes, &line, config),
            LogFormat::Text(template) => template.write(&mut pending.bytes, &line),
        }
        pending.lines += 1;
        if pending.bytes.len() >= BATCH_BYTES {
            drop(pending);
            self.flush();
        }
    }

    fn export(&self, record: &Record, config: &Config) {
        let Some(outlet) = &self.outlet else { return };
        let end = record.start + record.duration;
        let clock = self.clock.get().refreshed(end);
        self.clock.set(clock);
        let line = Line {
            record,
            start: Timestamp::new(clock.date(record.start)),
            redaction: &config.redaction,
        };
        outlet.push(|out| otlp::write(out, &line, clock.unix_nanos(end), config));
    }

    /// Hands over what there is.
    pub fn flush(&self) {
        match self.filtered.take() {
            0 => {}
            lines => self.shared.filtered(lines),
        }
        let batch = self.pending.take();
        if batch.lines == 0 {
            return;
        }
        match self.queue.try_send(batch) {
            Ok(()) => {}
            Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) => {
                self.shared.dropped(batch.lines);
            }
        }
    }

    /// Hands over what a worker with too little to do for a full buffer has written. Never ends:
    /// each worker runs one as a task.
    pub async fn flush_when_idle(&self) {
        let lines = async {
            loop {
                self.begun.notified().await;
                tokio::time::sleep(FLUSH_AFTER).await;
                self.flush();
            }
        };
        match &self.outlet {
            Some(outlet) => {
                tokio::join!(lines, outlet.flush_when_idle());
            }
            None => lines.await,
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use http::{HeaderName, Method, StatusCode, Uri};
    use tokio::time::Instant;

    use super::*;
    use crate::{
        config::model::Address,
        error::Reason,
        http::request_id::RequestId,
        policy::{Line as Connection, Note, Outcome},
        telemetry::TraceRef,
    };

    /// A record with every field set.
    pub(super) fn full() -> Record {
        Record {
            duration: Duration::from_micros(12_345),
            route: Some("shop/0".into()),
            upstream: Some("app".into()),
            endpoint: Some("127.0.0.1:9000".into()),
            method: Some(Method::GET),
            uri: Some(Uri::from_static("/items?id=1")),
            host: Some(b"shop.example"[..].into()),
            status: Some(StatusCode::BAD_GATEWAY),
            reason: Some(Reason::UpstreamClosed),
            detail: "closed before a response".into(),
            bytes_received: 5,
            bytes_sent: 7,
            upstream_duration: Some(Duration::from_millis(2)),
            attempts: 1,
            evidence: vec![note(Outcome::Failed(Reason::UpstreamClosed))],
            peer: Some(Address::Tcp(([10, 0, 0, 1], 4242).into())),
            request_id: Some(RequestId::Brought(b"abc"[..].into())),
            user_agent: Some(b"curl/8"[..].into()),
            headers: {
                let mut headers = Headers::default();
                let redaction = Redaction::default();
                let tenant = [HeaderName::from_static("x-tenant")];
                let fields = Fields::from_iter([("x-tenant", "blue")]);
                headers.take_request(&tenant, &fields, &redaction);
                let server = [HeaderName::from_static("server")];
                let fields = Fields::from_iter([("server", "app\"/1")]);
                headers.take_response(&server, &fields, &redaction);
                headers
            },
            trace: Some(TraceRef {
                trace_id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
                span_id: 0xb7ad_6b71_6920_3331,
                sampled: true,
            }),
            ..minimal()
        }
    }

    /// A first attempt that took two milliseconds.
    pub(super) fn note(outcome: Outcome) -> Note {
        let start = Instant::now();
        Note {
            number: 1,
            span_id: None,
            upstream: "app".into(),
            endpoint: None,
            start,
            end: Some(start + Duration::from_millis(2)),
            outcome,
            broke: None,
            sent: None,
            line: Connection {
                reused: Some(true),
                ..Connection::default()
            },
            endpoint_takes: true,
            left: Some(Duration::from_millis(900)),
            then: None,
        }
    }

    /// A record of a head that was refused before there was a request.
    pub(super) fn minimal() -> Record {
        Record::new("web".into(), Protocol::Http11, Instant::now())
    }

    /// One whose request began in 1970.
    pub(super) fn line<'a>(record: &'a Record, redaction: &'a Redaction) -> Line<'a> {
        Line {
            record,
            start: Timestamp::new(SystemTime::UNIX_EPOCH),
            redaction,
        }
    }
}
