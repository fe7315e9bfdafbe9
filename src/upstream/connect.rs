//! A new connection to an endpoint.

use std::{io, net::SocketAddr, path::Path, pin::pin, sync::atomic::Ordering, time::Duration};

use rustix::io::Errno;
use socket2::{Domain, Socket, Type};
use tokio::{
    io::Interest,
    net::{TcpStream, UnixStream},
    time::{sleep, timeout},
};

use super::endpoint::{Endpoint, Target};
use crate::{
    config::model,
    error::{Error, Reason, Replay, Result},
    net::Stream,
};

/// How long the first address has for itself (RFC 8305 section 8, "Connection Attempt Delay").
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Between two attempts while a Unix socket's accept queue is full.
const UNIX_RETRY: Duration = Duration::from_millis(5);

/// Connects within `config.connect_timeout`, with `TCP_NODELAY` on. If the connection stays, the
/// caller has a silent peer probed, too.
pub(super) async fn connect(endpoint: &Endpoint, config: &model::Upstream) -> Result<Stream> {
    let attempt = async {
        match &endpoint.target {
            Target::Tcp {
                address,
                alternative: None,
            } => tcp(*address).await,
            Target::Tcp {
                address,
                alternative: Some(other),
            } => either(endpoint, *address, *other).await,
            Target::Unix(path) => unix(path).await,
        }
    };
    timeout(config.connect_timeout, attempt)
        .await
        .unwrap_or_else(|_| {
            let after = config.connect_timeout;
            Err(Error::new(Reason::ConnectTimeout, "")
                .detail(format!(
                    "{}: no connection within {after:?} (timeouts.connect)",
                    endpoint.label
                ))
                .replay(Replay::NeverSent))
        })
}

/// Whichever of an endpoint's addresses answers, the one that did last time first.
async fn either(endpoint: &Endpoint, address: SocketAddr, other: SocketAddr) -> Result<Stream> {
    let swapped = endpoint.alternative_first.load(Ordering::Relaxed);
    let (first, second) = if swapped {
        (other, address)
    } else {
        (address, other)
    };
    let (stream, second_won) = race(first, second).await?;
    if second_won {
        endpoint
            .alternative_first
            .store(!swapped, Ordering::Relaxed);
    }
    Ok(stream)
}

/// Two addresses: the second starts when the first has failed or takes long, and
/// the first to connect wins (RFC 8305 section 5).
/// Also says whether that was the second.
async fn race(first: SocketAddr, second: SocketAddr) -> Result<(Stream, bool)> {
    let (mut first, mut second) = (pin!(tcp(first)), pin!(tcp(second)));
    let head_start = timeout(ATTEMPT_DELAY, &mut first).await;
    let first_error = match head_start {
        Ok(Ok(stream)) => return Ok((stream, false)),
        Ok(Err(error)) => error,
        Err(_) => tokio::select! {
            outcome = &mut first => match outcome {
                Ok(stream) => return Ok((stream, false)),
                Err(error) => error,
            },
            outcome = &mut second => match outcome {
                Ok(stream) => return Ok((stream, true)),
                Err(error) => {
                    let stream = first.await.map_err(|first| both(&first, error))?;
                    return Ok((stream, false));
                }
            },
        },
    };
    let stream = second.await.map_err(|second| both(&first_error, second))?;
    Ok((stream, true))
}

fn both(first: &Error, second: Error) -> Error {
    let detail = format!("{}; {}", first.detail, second.detail);
    second.detail(detail)
}

async fn tcp(address: SocketAddr) -> Result<Stream> {
    let stream = open(address).await;
    let stream = stream.map_err(|error| failed(&address, &error))?;
    Ok(Stream::Tcp(stream))
}

/// As `TcpStream::connect`, which asks every socket for an error: here one is asked that has one.
async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => {
            return Err(error);
        }
        _ => {}
    }
    let stream = TcpStream::from_std(socket.into())?;
    let ready = stream.ready(Interest::WRITABLE | Interest::ERROR).await?;
    if ready.is_error()
        && let Some(error) = stream.take_error()?
    {
        return Err(error);
    }
    Ok(stream)
}

async fn unix(path: &Path) -> Result<Stream> {
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => return Ok(Stream::Unix(stream)),
            // The accept queue is full. TCP would try again by itself; here it is on us, until the
            // connect timeout.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(UNIX_RETRY).await,
            Err(error) => return Err(failed(&format_args!("unix:{}", path.display()), &error)),
        }
    }
}

fn failed(address: &dyn std::fmt::Display, error: &io::Error) -> Error {
    // What this side lacks is no fault of the endpoint: a breaker or a check that took it for one
    // would take out every endpoint there is.
    let shortage = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE) => Some(" (this process has no file descriptor left)"),
        Some(Errno::NFILE) => Some(" (this machine has no file descriptor left)"),
        Some(Errno::ADDRNOTAVAIL) => Some(" (no local port left towards it)"),
        _ => None,
    };
    let reason = match error.kind() {
        _ if shortage.is_some() => Reason::Overloaded,
        io::ErrorKind::TimedOut => Reason::ConnectTimeout,
        _ => Reason::ConnectFailed,
    };
    let hint = shortage.unwrap_or_default();
    Error::new(reason, "")
        .detail(format!("{address}: {error}{hint}"))
        .replay(Replay::NeverSent)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::{
        net::{TcpListener, TcpSocket, UnixListener},
        time::Instant,
    };

    use super::*;
    use crate::upstream::tests::upstream_config;

    async fn attempt(target: Target) -> (Arc<Endpoint>, Result<Stream>) {
        let endpoint = Endpoint::new(target, Instant::now());
        let outcome = connect(&endpoint, &upstream_config(&[])).await;
        (endpoint, outcome)
    }

    async fn listener(address: &str) -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// An address that refuses: bound, but nobody listens, so that no other takes it meanwhile.
    fn refusing(address: &str) -> (TcpSocket, SocketAddr) {
        let address: SocketAddr = address.parse().unwrap();
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        };
        let socket = socket.unwrap();
        socket.bind(address).unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    #[tokio::test]
    async fn connections_have_no_delay() {
        let (_listener, address) = listener("127.0.0.1:0").await;
        let (_, stream) = attempt(Target::tcp(address)).await;
        let Ok(Stream::Tcp(stream)) = stream else {
            panic!("{stream:?}")
        };
        assert!(stream.nodelay().unwrap());
    }

    #[tokio::test]
    async fn a_refusal_names_the_address_and_was_never_sent() {
        let (_socket, address) = refusing("127.0.0.1:0");
        let error = attempt(Target::tcp(address)).await.1.unwrap_err();
        assert_eq!(
            (error.reason, error.replay),
            (Reason::ConnectFailed, Replay::NeverSent)
        );
        assert!(error.detail.contains(&address.to_string()), "{error}");
        assert!(error.detail.contains("refused"), "{error}");
    }

    #[tokio::test]
    async fn the_alternative_takes_over_and_is_first_the_next_time() {
        let (_socket, address) = refusing("127.0.0.2:0");
        let (_listener, other) = listener("127.0.0.1:0").await;
        let target = Target::Tcp {
            address,
            alternative: Some(other),
        };
        let (endpoint, stream) = attempt(target).await;
        stream.unwrap();
        assert!(endpoint.alternative_first.load(Ordering::Relaxed));
        connect(&endpoint, &upstream_config(&[])).await.unwrap();
        assert!(endpoint.alternative_first.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn when_both_fail_both_are_named() {
        let ((_a, address), (_b, other)) = (refusing("127.0.0.1:0"), refusing("127.0.0.2:0"));
        let target = Target::Tcp {
            address,
            alternative: Some(other),
        };
        let error = attempt(target).await.1.unwrap_err();
        assert_eq!(error.reason, Reason::ConnectFailed);
        assert!(error.detail.contains(&address.to_string()), "{error}");
        assert!(error.detail.contains(&other.to_string()), "{error}");
    }

    /// A listener whose accept queue is full lets nobody in, and says nothing about it.
    async fn silent() -> (Vec<TcpStream>, TcpListener, SocketAddr) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        // Linux queues one more than it was told.
        let mut queued = Vec::new();
        for _ in 0..2 {
            queued.push(TcpStream::connect(address).await.unwrap());
        }
        (queued, listener, address)
    }

    #[tokio::test]
    async fn a_silent_address_ends_with_the_connect_timeout() {
        let (_queued, _listener, address) = silent().await;
        let mut config = upstream_config(&[]);
        config.connect_timeout = Duration::from_millis(20);
        let endpoint = Endpoint::new(Target::tcp(address), Instant::now());
        let error = connect(&endpoint, &config).await.unwrap_err();
        assert_eq!(
            (error.reason, error.replay),
            (Reason::ConnectTimeout, Replay::NeverSent)
        );
        assert_eq!(
            error.detail,
            format!("{address}: no connection within 20ms (timeouts.connect)")
        );
    }

    #[tokio::test]
    async fn a_silent_address_is_raced() {
        let (_queued, _listener, address) = silent().await;
        let (_other_listener, other) = listener("127.0.0.1:0").await;
        let (endpoint, stream) = attempt(Target::Tcp {
            address,
            alternative: Some(other),
        })
        .await;
        stream.unwrap();
        assert!(endpoint.alternative_first.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn unix_sockets_work_or_say_which_does_not() {
        let folder = std::env::temp_dir().join(format!("pillion-connect-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("app.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (_, stream) = attempt(Target::Unix(path.clone())).await;
        assert!(matches!(stream, Ok(Stream::Unix(_))));
        drop(listener);
        let error = attempt(Target::Unix(path)).await.1.unwrap_err();
        assert_eq!(error.reason, Reason::ConnectFailed);
        assert!(error.detail.contains("app.sock"), "{error}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
