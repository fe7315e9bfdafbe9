//! One opaque connection: an endpoint found, bytes carried, one line logged.

use std::{io, rc::Rc, sync::Arc, time::Duration};

use socket2::SockRef;
use tokio::{io::AsyncWriteExt, time::Instant};

use super::copy::{End, Leftovers, Outcome, Patience, Side, copy_bidirectional};
use crate::{
    config::model::Address,
    error::{Error, Reason, Replay, Result},
    listener::proxy_protocol,
    net::Stream,
    snapshot::{PlanKind, TcpPlan},
    telemetry::{
        UpstreamMetrics,
        access_log::{Protocol, Record},
    },
    upstream::{self, ConnectionPermit, InFlight, Upstream},
    worker::{Conn, Worker},
};

/// Endpoints tried until the client is given up. Nothing was sent before one is connected, so that
/// trying another one is always safe.
const ATTEMPTS: usize = 3;

/// Carries one connection to its listener's upstream and back.
pub async fn serve(mut client: Stream, conn: Conn, worker: Rc<Worker>) {
    let PlanKind::Tcp(plan) = &conn.plan.kind else {
        return;
    };
    let start = Instant::now();
    let mut record = Record::new(Arc::clone(&conn.plan.config.name), Protocol::Tcp, start);
    record.upstream = Some(Arc::clone(&plan.upstream.config.name));
    let result = match connect(plan, &conn, &worker).await {
        Ok(mut connected) => {
            record.endpoint = Some(Arc::clone(&connected.in_flight.endpoint().label));
            record.upstream_duration = Some(start.elapsed());
            carry(&mut client, &mut connected.stream, plan, &mut record).await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        conn.plan.metrics.failed(worker.id, error.reason);
        record.reason = Some(error.reason);
        record.detail = error.to_string().into();
    }
    record.duration = start.elapsed();
    conn.plan
        .metrics
        .bytes(worker.id, record.bytes_received, record.bytes_sent);
    if worker.access_log.is_enabled() {
        record.peer = Some(conn.source());
        worker.access_log.write(&record);
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
    loop {
        let start = Instant::now();
        let in_flight = upstream.pick(start, &mut worker.rng.borrow_mut(), &tried)?;
        let endpoint = in_flight.endpoint();
        match open(upstream, &in_flight, conn).await {
            Ok(stream) => {
                let now = Instant::now();
                in_flight.observe(now - start, now);
                metrics.connection_opened(worker.id, now - start);
                return Ok(Connected {
                    stream,
                    in_flight,
                    _permit: permit,
                    metrics,
                    worker: worker.id,
                });
            }
            Err(error) => {
                in_flight.failed(Instant::now());
                metrics.connection_failed(worker.id, error.reason);
                tracing::debug!(endpoint = %endpoint.label, %error, "could not connect");
                tried.push(endpoint.id);
                if tried.len() == ATTEMPTS {
                    return Err(error);
                }
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
            Err(
                Error::new(Reason::ConnectionLimit, "no connection became free in time")
                    .replay(Replay::NeverSent),
            )
        })
}

async fn open(upstream: &Upstream, in_flight: &InFlight, conn: &Conn) -> Result<Stream> {
    let mut stream = upstream::connect(in_flight.endpoint(), &upstream.config).await?;
    if let Some(version) = upstream.config.proxy_protocol {
        let destination = conn.proxied.map_or_else(
            || conn.local.clone(),
            |proxied| Address::Tcp(proxied.destination),
        );
        let header = proxy_protocol::encode(version, &conn.source(), &destination);
        stream.write_all(&header).await.map_err(|source| {
            Error::new(Reason::ConnectFailed, "the PROXY header was not taken")
                .replay(Replay::NeverSent)
                .source(source)
        })?;
    }
    Ok(stream)
}

async fn carry(
    client: &mut Stream,
    server: &mut Stream,
    plan: &TcpPlan,
    record: &mut Record,
) -> Result<()> {
    let patience = Patience {
        idle: plan.tcp.idle_timeout,
        half_closed: plan.tcp.half_close_timeout,
    };
    let outcome = copy_bidirectional(client, server, Leftovers::default(), patience);
    let Outcome {
        a_to_b,
        b_to_a,
        end,
    } = outcome.await;
    record.bytes_received = a_to_b;
    record.bytes_sent = b_to_a;
    match end {
        End::Closed => Ok(()),
        End::Idle => Err(Error::new(Reason::IdleTimeout, "no byte for too long")),
        End::Failed(Side::A, error) => {
            reset(server);
            Err(client_closed(error))
        }
        End::Refused(Side::A, error) => Err(client_closed(error)),
        End::Failed(Side::B, error) => {
            reset(client);
            Err(upstream_reset(error))
        }
        End::Refused(Side::B, error) => Err(upstream_reset(error)),
    }
}

fn client_closed(source: io::Error) -> Error {
    Error::new(Reason::ClientClosed, "").source(source)
}

fn upstream_reset(source: io::Error) -> Error {
    Error::new(Reason::UpstreamReset, "").source(source)
}

/// Makes the close that follows a reset: a peer must not take a stream that was cut for one that
/// has ended.
fn reset(stream: &Stream) {
    if let Stream::Tcp(stream) = stream {
        // When it can't be set the close is an ordinary one.
        drop(SockRef::from(stream).set_linger(Some(Duration::ZERO)));
    }
}
