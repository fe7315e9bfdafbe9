//! The connection of one check: as the upstream's own, but for whom it is made.

use tokio::{io::AsyncWriteExt, sync::Semaphore, time::Instant};

use crate::{
    error::{Error, Reason, Result},
    listener::proxy_protocol,
    tls::{
        alpn::{Offer, Spoken},
        handshake::connect_briefly,
    },
    upstream::{Endpoint, Opened, Upstream, connect::connect},
};

/// Opens a connection to an endpoint within the connect timeout. Nobody is counted.
pub(super) async fn dial(
    upstream: &Upstream,
    endpoint: &Endpoint,
    handshakes: &Semaphore,
    offer: Offer,
) -> Result<Opened> {
    let start = Instant::now();
    let mut stream = connect(endpoint, &upstream.config).await?;
    if let Some(version) = upstream.config.proxy_protocol {
        let written = stream.write_all(proxy_protocol::own(version)).await;
        written.map_err(|error| {
            Error::new(Reason::ConnectFailed, "the PROXY header was not taken").source(error)
        })?;
    }
    let Some(tls) = &upstream.tls else {
        let spoken = None;
        return Ok(Opened { stream, spoken });
    };
    let side = tls.now()?;
    let offered = offer.protocols(side.shown().is_some());
    let left = upstream
        .config
        .connect_timeout
        .saturating_sub(start.elapsed());
    let dialled = tls.dialled(endpoint);
    let shaken = connect_briefly(handshakes, stream, &side, offered, dialled, left).await;
    let (stream, spoken) = shaken.map_err(|fault| Error::from(fault.at(&endpoint.label)))?;
    if offer == Offer::Http2 && !matches!(spoken, Some(Spoken::Http2 | Spoken::Link)) {
        return Err(Error::new(
            Reason::UpstreamTls,
            "it does not speak HTTP/2 over TLS (ALPN)",
        ));
    }
    Ok(Opened { stream, spoken })
}
