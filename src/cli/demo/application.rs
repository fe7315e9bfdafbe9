//! The application: endpoints that say who they are, and that can be stopped and started.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header::HeaderName};
use http_body::{Body, Frame};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::Notify,
    task::{JoinHandle, JoinSet},
    time::{Interval, interval},
};

/// Which endpoint answered.
pub(super) const SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// An answer at once.
pub(super) const HELLO: &str = "/hello";
/// An answer of [`PIECES`] lines, one each [`PACE`].
pub(super) const SLOW: &str = "/slow";
pub(super) const PIECES: usize = 6;
const PACE: Duration = Duration::from_millis(100);

/// One endpoint. Its address stays its own while it is stopped: connections are refused then, and
/// nobody else can have the port.
pub(super) struct Endpoint {
    pub(super) name: &'static str,
    pub(super) address: SocketAddr,
    state: State,
}

enum State {
    /// Bound, not listening.
    Stopped { _reserved: TcpSocket },
    Running {
        stop: Arc<Notify>,
        server: JoinHandle<()>,
    },
}

impl Endpoint {
    /// On a free port of 127.0.0.1.
    pub(super) fn new(name: &'static str) -> io::Result<Self> {
        let socket = socket(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        Ok(Self {
            name,
            address: socket.local_addr()?,
            state: serve(name, socket)?,
        })
    }

    /// Closes its socket and cuts its connections. All is closed when it returns.
    pub(super) async fn stop(&mut self) -> io::Result<()> {
        if let State::Running { stop, server } = &mut self.state {
            stop.notify_one();
            // An error is a panic in there, and no less an end.
            let _ended = server.await;
            self.state = State::Stopped {
                _reserved: socket(self.address)?,
            };
        }
        Ok(())
    }

    /// Serves again after [`Endpoint::stop`].
    pub(super) fn start(&mut self) -> io::Result<()> {
        if let State::Stopped { .. } = self.state {
            // Two sockets may have one address as long as only one of them listens.
            self.state = serve(self.name, socket(self.address)?)?;
        }
        Ok(())
    }
}

/// A socket that has its address, but does not listen: whoever connects is refused.
fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // Connections that were cut a moment ago don't keep the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn serve(name: &'static str, socket: TcpSocket) -> io::Result<State> {
    const BACKLOG: u32 = 128;
    let listener = socket.listen(BACKLOG)?;
    let stop = Arc::new(Notify::new());
    let server = tokio::spawn(accept(name, listener, Arc::clone(&stop)));
    Ok(State::Running { stop, server })
}

async fn accept(name: &'static str, listener: TcpListener, stop: Arc<Notify>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { break };
                let service = service_fn(move |request| answer(name, request));
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                connections.spawn(connection);
            }
            // Those that have ended are not kept.
            Some(_) = connections.join_next() => {}
            () = stop.notified() => break,
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn answer(
    name: &'static str,
    request: Request<Incoming>,
) -> Result<Response<Pieces>, Infallible> {
    let (status, pieces) = match request.uri().path() {
        HELLO => (
            StatusCode::OK,
            Pieces::at_once(format!("hello from {name}\n")),
        ),
        SLOW => (StatusCode::OK, Pieces::slowly(name)),
        _ => (
            StatusCode::NOT_FOUND,
            Pieces::at_once("nothing here\n".to_owned()),
        ),
    };
    let mut response = Response::new(pieces);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(SERVED_BY, http::HeaderValue::from_static(name));
    // The client did not send it: it comes from the ambassador.
    if let Some(id) = request.headers().get(REQUEST_ID) {
        headers.insert(REQUEST_ID, id.clone());
    }
    Ok(response)
}

/// A body of so many equal pieces.
struct Pieces {
    piece: Bytes,
    left: usize,
    pace: Option<Interval>,
}

impl Pieces {
    fn at_once(text: String) -> Self {
        Self {
            piece: text.into(),
            left: 1,
            pace: None,
        }
    }

    fn slowly(name: &str) -> Self {
        Self {
            piece: format!("a piece from {name}\n").into(),
            left: PIECES,
            pace: Some(interval(PACE)),
        }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(None);
        }
        if let Some(pace) = &mut this.pace {
            ready!(pace.poll_tick(cx));
        }
        this.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(this.piece.clone()))))
    }
}
