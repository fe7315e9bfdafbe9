//! Sockets that take connections: opening them, accepting, and telling who really connects.

pub mod accept;
pub mod bind;
pub mod proxy_protocol;
mod secure;
pub mod sockets;

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use socket2::Socket;
use tokio::{
    net::{TcpStream, UnixStream},
    task::spawn_local,
};

use self::accept::Accepted;
use crate::{
    config::model::Address,
    http::{self, input::Input},
    net::Stream,
    snapshot::PlanKind,
    tcp,
    worker::{Conn, Worker},
};

/// How long a connection of a TCP listener may take for its PROXY header. HTTP listeners have
/// their `headTimeout` for it.
const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts to serve an accepted connection on this worker.
pub fn serve(accepted: Accepted, worker: &Rc<Worker>) {
    let (stream, conn) = match open(accepted) {
        Ok(opened) => opened,
        Err(error) => {
            tracing::debug!(%error, "connection was gone before it was served");
            return;
        }
    };
    let proxied = conn.plan.config.proxy_protocol;
    let prepared = proxied || conn.plan.tls.is_some();
    // One future each, so that a connection costs only what its own kind needs. Boxed: the runtime
    // moves what it is given six times.
    let worker = Rc::clone(worker);
    let input = Input::default();
    match (&conn.plan.kind, prepared) {
        (PlanKind::Http(_), false) => {
            spawn_local(Box::pin(last(http::serve, stream, input, conn, worker)))
        }
        (PlanKind::Tcp(_), false) => {
            spawn_local(Box::pin(last(tcp::serve, stream, input, conn, worker)))
        }
        (_, true) => spawn_local(Box::pin(prepare(stream, input, conn, worker))),
    };
}

/// What comes before the first byte that the listener's protocol is about: a PROXY header, a TLS
/// handshake. All of it is bounded in time.
async fn prepare(stream: Stream, input: Input, conn: Conn, worker: Rc<Worker>) {
    // Boxed, so that what is over after the first moments takes no space for the rest.
    let prepared = Box::pin(prologue(stream, input, conn, &worker)).await;
    let Some((stream, input, conn)) = prepared else {
        return;
    };
    match conn.plan.kind {
        PlanKind::Http(_) => Box::pin(last(http::serve, stream, input, conn, worker)).await,
        PlanKind::Tcp(_) => Box::pin(last(tcp::serve, stream, input, conn, worker)).await,
    }
}

/// Serves, at the longest until the listener has not taken such connections for too long.
fn last<F: Future<Output = ()>>(
    serve: impl FnOnce(Stream, Input, Conn, Rc<Worker>) -> F,
    stream: Stream,
    input: Input,
    conn: Conn,
    worker: Rc<Worker>,
) -> impl Future<Output = ()> {
    let (listener, manner) = (conn.listener, conn.manner());
    // No `async fn`, whose arguments have their space twice. Nor a future that is handed in: it is
    // made where it stays.
    async move {
        let mut connection = pin!(serve(stream, input, conn, Rc::clone(&worker)));
        let mut overdue = pin!(worker.overdue(listener, manner));
        let mut seen = None;
        poll_fn(|cx| {
            let now = Some(worker.generation());
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            // As long as nothing was reloaded there is nothing to learn from another poll, and the
            // listener is there.
            if seen == now {
                return Poll::Pending;
            }
            if worker.takes(listener, manner) {
                seen = now;
            }
            overdue.as_mut().poll(cx)
        })
        .await;
    }
}

async fn prologue(
    mut stream: Stream,
    input: Input,
    mut conn: Conn,
    worker: &Worker,
) -> Option<(Stream, Input, Conn)> {
    if conn.plan.config.proxy_protocol {
        let limit = match &conn.plan.kind {
            PlanKind::Http(plan) => plan.http.head_timeout,
            PlanKind::Tcp(_) => PROXY_HEADER_TIMEOUT,
        };
        let header = tokio::time::timeout(limit, proxy_protocol::read(&mut stream)).await;
        match header.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(proxied) => conn.proxied = proxied,
            Err(error) => {
                let listener = &conn.plan.config.name;
                conn.plan.metrics.refused(worker.id);
                tracing::debug!(%listener, peer = %conn.peer, %error, "connection refused");
                return None;
            }
        }
    }
    let Some(tls) = conn.plan.tls.clone() else {
        return Some((stream, input, conn));
    };
    match secure::secure(stream, input, &tls, &conn, &worker.tls).await {
        Ok((stream, input, secured)) => {
            if secured.is_some() {
                conn.plan.metrics.handshake(worker.id);
            }
            conn.secured = secured;
            Some((stream, input, conn))
        }
        Err(fault) => {
            conn.plan.metrics.handshake_failed(worker.id, fault.kind());
            worker
                .tls
                .tell(&conn.plan.config.name, &conn.source(), &fault);
            None
        }
    }
}

/// Registers the socket with this worker's runtime.
fn open(accepted: Accepted) -> io::Result<(Stream, Conn)> {
    let Accepted {
        socket,
        peer,
        plan,
        mut permit,
    } = accepted;
    permit.serve(&plan.metrics);
    let listening = &plan.address;
    let (stream, local) = match listening {
        Address::Tcp(address) => {
            let stream = TcpStream::from_std(Socket::from(socket).into())?;
            // Only a wildcard needs to be asked which address it was.
            let wildcard = address.ip().is_unspecified();
            let local = if wildcard {
                stream.local_addr()?
            } else {
                *address
            };
            (Stream::Tcp(stream), Address::Tcp(local))
        }
        Address::Unix(_) => {
            let stream = UnixStream::from_std(Socket::from(socket).into())?;
            (Stream::Unix(stream), listening.clone())
        }
    };
    let listener = plan.id;
    Ok((
        stream,
        Conn {
            listener,
            plan,
            peer,
            local,
            proxied: None,
            secured: None,
            permit,
        },
    ))
}
