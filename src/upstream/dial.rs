//! A connection that is ready for its first byte: the endpoint reached, and what the upstream wants
//! to come first.

use std::sync::Arc;

use tokio::{io::AsyncWriteExt, time::Instant};

use super::{Upstream, connect::connect, endpoint::Endpoint};
use crate::{
    error::{Error, Reason, Replay, Result},
    listener::proxy_protocol,
    net::Stream,
    tls::{
        Desk,
        alpn::{Offer, Spoken},
    },
    worker::Conn,
};

/// A connection that is ready for its first byte.
#[derive(Debug)]
pub struct Opened {
    pub stream: Stream,
    /// What a TLS handshake agreed to speak, if that was a subject of it.
    pub spoken: Option<Spoken>,
}

impl Opened {
    /// Whether the endpoint chose HTTP/1.1, or had no say in it, where it was offered a choice.
    pub fn is_http1(&self, offer: Offer) -> bool {
        offer == Offer::Best && !matches!(self.spoken, Some(Spoken::Http2 | Spoken::Link))
    }
}

/// Opens a connection on behalf of `client`: to the endpoint, then what the upstream wants first, a
/// PROXY header and TLS. All of it within the connect timeout.
///
/// # Errors
/// Nothing of a request has been sent in any of them.
pub async fn dial(
    upstream: &Upstream,
    endpoint: &Endpoint,
    client: &Conn,
    desk: &Desk,
    offer: Offer,
) -> Result<Opened> {
    let start = Instant::now();
    let mut stream = connect(endpoint, &upstream.config).await?;
    if let Some(version) = upstream.config.proxy_protocol {
        let header = proxy_protocol::encode(version, &client.source(), &client.destination());
        stream.write_all(&header).await.map_err(|error| {
            Error::new(Reason::ConnectFailed, "the PROXY header was not taken")
                .source(error)
                .replay(Replay::NeverSent)
        })?;
    }
    let Some(tls) = &upstream.tls else {
        return Ok(Opened {
            stream,
            spoken: None,
        });
    };
    let side = tls.now()?;
    let offered = offer.protocols(side.shown().is_some());
    let name = Arc::clone(&upstream.config.name);
    let dialled = tls.dialled(endpoint);
    let left = upstream
        .config
        .connect_timeout
        .saturating_sub(start.elapsed());
    // Boxed: a handshake is rare, and most of a connection's cost.
    let shaken = Box::pin(desk.connect(stream, side, offered, (name, dialled), left)).await;
    let (stream, secured) = shaken.map_err(|fault| {
        upstream.metrics.handshake_failed(desk.worker, fault.kind());
        Error::from(fault.at(&endpoint.label))
    })?;
    upstream.metrics.handshake(desk.worker);
    if offer == Offer::Http2 && !matches!(secured.spoken, Some(Spoken::Http2 | Spoken::Link)) {
        let detail = format!(
            "{}: it does not speak HTTP/2 over TLS (ALPN)",
            endpoint.label
        );
        return Err(Error::new(Reason::UpstreamTls, "")
            .detail(detail)
            .replay(Replay::NeverSent));
    }
    Ok(Opened {
        stream,
        spoken: secured.spoken,
    })
}
