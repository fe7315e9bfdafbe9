//! Connections to servers that are named by a URL: of keys, of collectors. No pool, no balancer, no
//! metric: what is fetched or told here is not the traffic that Pillion is for.

use std::{io, sync::Arc};

use http::{Uri, uri::Scheme};
use rustls::{CertificateError, ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::tls::{self, Expected};

/// Why there is no connection, or no answer, for a person.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A connection, with TLS or without.
pub(crate) type Wire = Box<dyn Duplex>;

pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// Connects to the host of a URL. For `https` TLS is made with what `config` gives, which is asked
/// each time, so that files may change, with the name that the server has to have.
pub(crate) async fn connect(
    url: &Uri,
    name: Option<&str>,
    config: impl FnOnce(Expected) -> Result<ClientConfig, Failure>,
) -> Result<Wire, Failure> {
    let host = url.host().ok_or("the URL has no host")?;
    let host = host.trim_matches(['[', ']']);
    let secure = url.scheme() == Some(&Scheme::HTTPS);
    let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let dial = async || {
        let stream = TcpStream::connect((host, port)).await?;
        // What is sent here is small and waited for, or large and sent at once.
        stream.set_nodelay(true)?;
        Ok::<_, Failure>(stream)
    };
    if !secure {
        return Ok(Box::new(dial().await?));
    }
    let name = ServerName::try_from(name.unwrap_or(host).to_owned())?;
    let config = config(Expected::Name(name.clone()))?;
    let connector = TlsConnector::from(Arc::new(config));
    match connector.connect(name, dial().await?).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(why(error)),
    }
}

/// What our own verifier found is told in its words; rustls's are good enough for the rest.
fn why(error: io::Error) -> Failure {
    let found = error.get_ref().and_then(|error| error.downcast_ref());
    match (found, tls::Fault::of_io(&error)) {
        (Some(rustls::Error::InvalidCertificate(CertificateError::Other(_))), Some(fault)) => {
            fault.to_string().into()
        }
        _ => error.into(),
    }
}
