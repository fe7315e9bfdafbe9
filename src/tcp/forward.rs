//! One opaque connection: an endpoint found, bytes carried, one line logged.

use std::{borrow::Cow, io, pin::pin, rc::Rc, sync::Arc};

use tokio::time::Instant;

use super::{
    copy::{Carried, End, Leftovers, Side, copy_counted},
    patience::Patience,
};
use crate::{
    access::{
        Standing,
        standing::{Note, while_admitted},
    },
    config::model::Address,
    error::{Error, Reason, Replay, Result},
    http::input::Input,
    net::{Loss, Stream},
    policy::IdleLimit,
    snapshot::{PlanKind, TcpPlan},
    telemetry::{
        UpstreamMetrics,
        access_log::{Protocol, Record},
    },
    tls::alpn::Offer,
    upstream::{self, ConnectionPermit, InFlight, Opened, Upstream, Verdict, Wish},
    worker::{Conn, Worker},
};

/// Endpoints tried until the client is given up. Nothing was sent before one is connected, so that
/// trying another one is always safe.
const ATTEMPTS: usize = 3;

/// Carries one connection to its listener's upstream and back.
pub async fn serve(mut client: Stream, input: Input, conn: Conn, worker: Rc<Worker>) {
    let PlanKind::Tcp(plan) = &conn.plan.kind else {
        return;
    };
    let mut line = Line::new(&conn, &worker, &plan.upstream.config.name);
    let mut standing = Standing::new(conn.plan.generation);
    let admitted = match &conn.plan.access {
        Some(policy) => standing.admit_connection(policy, &conn, &worker),
        None => Ok(None),
    };
    let result = match admitted {
        Ok(note) => {
            line.note = note;
            let carried = pin!(serve_admitted(
                (&mut client, input),
                plan,
                &conn,
                &worker,
                &mut line
            ));
            while_admitted(carried, || standing.refused(&conn, &worker)).await
        }
        Err(error) => Err(error),
    };
    line.ended(result);
}

async fn serve_admitted(
    (client, input): (&mut Stream, Input),
    plan: &TcpPlan,
    conn: &Conn,
    worker: &Worker,
    line: &mut Line<'_>,
) -> Result<()> {
    let mut connected = connect(plan, conn, worker).await?;
    line.connected(&connected.in_flight);
    let leftovers = Leftovers {
        from_a: input.into_bytes(),
        ..Leftovers::default()
    };
    let streams = (client, &mut connected.stream);
    carry(streams, leftovers, plan, &line.carried).await
}

/// The connection's line in the access log, written however it ends.
struct Line<'a> {
    record: Record,
    carried: Carried,
    /// What is to be said of a connection that ends well.
    note: Note,
    conn: &'a Conn,
    worker: &'a Worker,
}

impl<'a> Line<'a> {
    fn new(conn: &'a Conn, worker: &'a Worker, upstream: &Arc<str>) -> Self {
        let listener = Arc::clone(&conn.plan.config.name);
        let mut record = Record::new(listener, Protocol::Tcp, Instant::now());
        record.upstream = Some(Arc::clone(upstream));
        // Unless it comes to an end by itself.
        record.reason = Some(Reason::Draining);
        record.detail = "cut: the drain or its listener came to an end".into();
        Self {
            record,
            carried: Carried::default(),
            note: None,
            conn,
            worker,
        }
    }

    fn connected(&mut self, to: &InFlight) {
        self.record.endpoint = Some(Arc::clone(&to.endpoint().label));
        self.record.upstream_duration = Some(self.record.start.elapsed());
    }

    fn ended(mut self, result: Result<()>) {
        let error = result.err();
        self.record.reason = error.as_ref().map(|error| error.reason);
        self.record.detail = match (error, self.note.take()) {
            (Some(error), _) => error.to_string().into(),
            (None, Some(note)) => String::from(note).into(),
            (None, None) => Cow::default(),
        };
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        let record = &mut self.record;
        record.duration = record.start.elapsed();
        record.bytes_received = self.carried.a_to_b.get();
        record.bytes_sent = self.carried.b_to_a.get();
        let metrics = &self.conn.plan.metrics;
        metrics.bytes(self.worker.id, record.bytes_received, record.bytes_sent);
        if let Some(reason) = record.reason {
            metrics.failed(self.worker.id, reason);
        }
        if self.worker.access_log.is_enabled() {
            record.peer = Some(self.conn.source());
            record.identity = self.conn.identity();
            self.worker.access_log.write(record);
        }
    }
}

/// A connection to an endpoint, and its places in the counts.
struct Connected<'a> {
    stream: Stream,
    in_flight: InFlight,
    _permit: ConnectionPermit,
    metrics: &'a UpstreamMetrics,
    worker: usize,
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.metrics.connection_closed(self.worker);
    }
}

async fn connect<'a>(plan: &'a TcpPlan, conn: &Conn, worker: &Worker) -> Result<Connected<'a>> {
    let upstream = &plan.upstream;
    let metrics = &upstream.metrics;
    let permit = permit(upstream)
        .await
        .inspect_err(|error| metrics.limit_refused(worker.id, error.reason))?;
    let mut tried = Vec::new();
    let key = upstream.source_key(match conn.source() {
        Address::Tcp(address) => Some(address.ip()),
        Address::Unix(_) => None,
    });
    let mut failed = None;
    loop {
        let start = Instant::now();
        let wish = Wish {
            tried: &tried,
            key,
            ..Wish::default()
        };
        let in_flight = match upstream.pick(start, &mut worker.rng.borrow_mut(), wish) {
            Ok(in_flight) => in_flight,
            // That others are not to be tried says less than why this one failed.
            Err(error) => return Err(failed.unwrap_or(error)),
        };
        if let Some(crosses) = in_flight.crosses_zones() {
            metrics.zone_chosen(worker.id, crosses);
        }
        let endpoint = in_flight.endpoint();
        let opened = upstream::dial(upstream, endpoint, conn, &worker.tls, Offer::Opaque);
        match opened.await {
            Ok(Opened { stream, .. }) => {
                let now = Instant::now();
                in_flight.observe(now - start, now);
                in_flight.settle(Verdict::Success, now);
                metrics.connection_opened(worker.id);
                upstream.durations.connected(worker.id, now - start);
                return Ok(Connected {
                    stream,
                    in_flight,
                    _permit: permit,
                    metrics,
                    worker: worker.id,
                });
            }
            Err(error) => {
                // A shortage on this side says nothing of it.
                if error.reason != Reason::Overloaded {
                    in_flight.settle(Verdict::Unreachable, Instant::now());
                }
                metrics.connection_failed(worker.id, error.reason);
                tracing::debug!(endpoint = %endpoint.label, %error, "could not connect");
                tried.push(endpoint.id);
                if tried.len() == ATTEMPTS {
                    return Err(error);
                }
                failed = Some(error);
            }
        }
    }
}

/// A place among the upstream's connections; a full upstream is waited for as long as a connect may
/// take.
async fn permit(upstream: &Upstream) -> Result<ConnectionPermit> {
    let limit = upstream.config.connect_timeout;
    tokio::time::timeout(limit, upstream.limits.connection())
        .await
        .unwrap_or_else(|_| {
            let detail = format!("no connection became free within {limit:?} (timeouts.connect)");
            Err(Error::new(Reason::ConnectionLimit, "")
                .detail(detail)
                .replay(Replay::NeverSent))
        })
}

async fn carry(
    (client, server): (&mut Stream, &mut Stream),
    leftovers: Leftovers,
    plan: &TcpPlan,
    carried: &Carried,
) -> Result<()> {
    let patience = Patience {
        idle: plan.tcp.idle_timeout,
        half_closed: plan.tcp.half_close_timeout,
    };
    match copy_counted(client, server, leftovers, patience, carried).await {
        End::Closed => Ok(()),
        End::Idle { half_closed } => Err(given_up(patience, half_closed)),
        End::Failed(Side::A, error) => {
            server.reset_on_close(true);
            Err(client_closed(error))
        }
        End::Refused(Side::A, error) => Err(client_closed(error)),
        End::Failed(Side::B, error) => {
            client.reset_on_close(true);
            Err(upstream_reset(error))
        }
        End::Refused(Side::B, error) => Err(upstream_reset(error)),
    }
}

fn given_up(patience: Patience, half_closed: bool) -> Error {
    let (limit, key) = match half_closed {
        true => (patience.half_closed, "tcp.halfCloseTimeout"),
        false => (patience.idle, "tcp.idleTimeout"),
    };
    IdleLimit { limit, key }.error()
}

fn client_closed(source: io::Error) -> Error {
    let reason = match Loss::of(&source) {
        Loss::Rotated => Reason::IdentityRotated,
        _ => Reason::ClientClosed,
    };
    Error::new(reason, "").source(source)
}

fn upstream_reset(source: io::Error) -> Error {
    let loss = Loss::of(&source);
    let reason = loss.reason().unwrap_or(Reason::UpstreamReset);
    Error::new(reason, "").source(loss.tell(source))
}
