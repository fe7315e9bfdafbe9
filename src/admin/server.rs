//! The sockets of the admin server: bounded in number, patience and size.

use std::{
    collections::VecDeque, convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration,
};

use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

use super::{
    Control,
    routes::{Site, answer},
};

/// Connections at once. With one more the oldest is cut: a probe always gets in, however many
/// silent clients there are.
const MAX_CONNECTIONS: usize = 64;

/// For a request head, and between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection is asked to end after this, and ended after as much again; so one that is never
/// read from is not kept. Scrapers connect anew.
const LIFETIME: Duration = Duration::from_secs(60);

/// The largest request head.
const MAX_HEAD: usize = 16 * 1024;

const BACKLOG: u32 = 128;

/// What a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    Full,
    /// `/livez`, `/readyz` and `/metrics`: may be reachable from anywhere.
    Probes,
}

/// Binds, so that it fails where it can be told. Needs to run inside a runtime.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until it is dropped, and then cuts its connections.
pub async fn serve(listener: TcpListener, control: Arc<dyn Control>, scope: Scope) {
    let loopback = listener
        .local_addr()
        .is_ok_and(|address| address.ip().is_loopback());
    let site = Site { scope, loopback };
    let mut connections = Connections::default();
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                failing = false;
                connections.add(serve_connection(stream, Arc::clone(&control), site))
            }
            Err(error) => {
                // Once, not ten times a second for as long as it lasts.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "admin server can't accept");
                }
                // Out of descriptors, most likely; asking at once again would spin.
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// The running connections, the oldest first.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    by_age: VecDeque<AbortHandle>,
}

impl Connections {
    fn add(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.by_age.retain(|task| !task.is_finished());
        if self.by_age.len() >= MAX_CONNECTIONS
            && let Some(oldest) = self.by_age.pop_front()
        {
            oldest.abort();
        }
        self.by_age.push_back(self.tasks.spawn(connection));
    }
}

async fn serve_connection(stream: TcpStream, control: Arc<dyn Control>, site: Site) {
    // Answers go out whole; without it a delay is all that is lost.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request: Request<Incoming>| {
        let control = Arc::clone(&control);
        async move { Ok::<_, Infallible>(answer(&*control, site, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = match timeout(LIFETIME, connection.as_mut()).await {
        Ok(ended) => ended,
        Err(_) => {
            connection.as_mut().graceful_shutdown();
            timeout(LIFETIME, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "admin connection ended");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::{super::tests::Fake, *};

    /// A server on a free port, for as long as the set lives.
    fn start() -> (SocketAddr, JoinSet<()>) {
        let listener = bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        server.spawn(serve(listener, Arc::new(Fake::default()), Scope::Full));
        (address, server)
    }

    async fn exchange(stream: &mut TcpStream, request: &str) -> String {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        reply
    }

    #[tokio::test]
    async fn head_has_the_length_and_no_body() {
        let (address, _server) = start();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = "HEAD /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let reply = exchange(&mut stream, request).await.to_ascii_lowercase();
        assert!(reply.starts_with("http/1.1 200 ok\r\n"), "{reply}");
        assert!(reply.contains("\r\ncontent-length: 6\r\n"), "{reply}");
        assert!(reply.ends_with("\r\n\r\n"), "{reply}");
    }

    #[tokio::test]
    async fn silent_clients_don_t_keep_a_probe_out() {
        let (address, _server) = start();
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut probe = TcpStream::connect(address).await.unwrap();
        let request = "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        assert!(exchange(&mut probe, request).await.ends_with("alive\n"));
        assert_eq!(
            silent[0].read(&mut [0]).await.unwrap_or(0),
            0,
            "the oldest was cut"
        );
    }

    #[tokio::test]
    async fn an_endless_head_is_refused() {
        let (address, _server) = start();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "GET / HTTP/1.1\r\nHost: localhost\r\nx: {}",
            "x".repeat(MAX_HEAD)
        );
        assert!(
            exchange(&mut stream, &request)
                .await
                .starts_with("HTTP/1.1 431")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_head_is_cut() {
        let (address, _server) = start();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let reply = exchange(&mut stream, "GET / HTTP/1.1\r\n").await;
        assert!(!reply.contains("200"), "{reply}");
    }
}
