//! The client: one keep-alive connection, which is opened anew only after it has broken.

use std::{fmt, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use super::application::{REQUEST_ID, SERVED_BY};

/// Nothing on loopback takes this long.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Client {
    address: SocketAddr,
    connection: Option<SendRequest<Empty<Bytes>>>,
    /// Connections opened so far.
    pub(super) connections: usize,
}

/// A request that was answered with 200 by the application.
pub(super) struct Answer {
    /// The endpoint.
    pub(super) served_by: String,
    pub(super) request_id: String,
    pub(super) body: String,
}

/// A response whose body is still to come.
pub(super) struct Begun {
    head: HeaderMap,
    body: Incoming,
}

/// Why a request failed, for a person.
#[derive(Debug)]
pub(super) struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Client {
    pub(super) const fn new(address: SocketAddr) -> Self {
        Self {
            address,
            connection: None,
            connections: 0,
        }
    }

    /// A whole exchange.
    pub(super) async fn get(&mut self, path: &str) -> Result<Answer, Failure> {
        self.begin(path).await?.finish().await
    }

    /// Up to the head of the response, which must be a 200.
    pub(super) async fn begin(&mut self, path: &str) -> Result<Begun, Failure> {
        let response = self.send(path).await?;
        let status = response.status();
        let (head, body) = response.into_parts();
        let begun = Begun {
            head: head.headers,
            body,
        };
        if status == StatusCode::OK {
            return Ok(begun);
        }
        // Where Pillion answers itself, it says why.
        let reason = match begun.text("proxy-status") {
            Some(reason) => reason,
            None => begun.finish().await?.body,
        };
        Err(Failure(format!("{status}; {reason}")))
    }

    /// The status, whatever it is.
    pub(super) async fn status(&mut self, path: &str) -> Result<StatusCode, Failure> {
        Ok(self.send(path).await?.status())
    }

    async fn send(&mut self, path: &str) -> Result<http::Response<Incoming>, Failure> {
        let mut connection = match self.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => self.connect().await?,
        };
        let request = Request::get(path)
            .header(header::HOST, self.address.to_string())
            .body(Empty::new())
            .map_err(|error| Failure(error.to_string()))?;
        let exchange = async {
            connection.ready().await?;
            connection.send_request(request).await
        };
        let response = within(exchange).await?;
        self.connection = Some(connection);
        Ok(response)
    }

    async fn connect(&mut self) -> Result<SendRequest<Empty<Bytes>>, Failure> {
        let stream = within(TcpStream::connect(self.address)).await?;
        let (sender, connection) = within(http1::handshake(TokioIo::new(stream))).await?;
        // What breaks it is told to the request that is on it.
        tokio::spawn(connection);
        self.connections += 1;
        Ok(sender)
    }
}

impl Begun {
    /// The rest.
    pub(super) async fn finish(self) -> Result<Answer, Failure> {
        let served_by = self.text(SERVED_BY.as_str()).unwrap_or_default();
        let request_id = self.text(REQUEST_ID.as_str()).unwrap_or_default();
        let body = within(self.body.collect()).await?.to_bytes();
        Ok(Answer {
            served_by,
            request_id,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }

    fn text(&self, name: &str) -> Option<String> {
        let name = HeaderName::try_from(name).ok()?;
        Some(self.head.get(name)?.to_str().ok()?.to_owned())
    }
}

async fn within<T, E: fmt::Display>(
    exchange: impl Future<Output = Result<T, E>>,
) -> Result<T, Failure> {
    match timeout(PATIENCE, exchange).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(Failure(error.to_string())),
        Err(_) => Err(Failure(format!("no answer within {PATIENCE:?}"))),
    }
}
