//! A key set over HTTP, fetched once: bounded in time and size, no redirect followed.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::keys::MAX_SIZE;
use crate::tls;

/// For the whole of it: name, connection, handshake, response.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why nothing was fetched, for a person.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The body of a 200.
pub(super) async fn fetch(url: &Uri) -> Result<Bytes, Failure> {
    timeout(PATIENCE, attempt(url))
        .await
        .unwrap_or_else(|_| Err("it took longer than 10s".into()))
}

async fn attempt(url: &Uri) -> Result<Bytes, Failure> {
    let host = url.host().ok_or("the URL has no host")?;
    let host = host.trim_matches(['[', ']']);
    let secure = url.scheme_str() == Some("https");
    let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let stream = TcpStream::connect((host, port)).await?;
    if !secure {
        return exchange(stream, url).await;
    }
    let name = ServerName::try_from(host.to_owned())?;
    let tls = TlsConnector::from(Arc::new(client_config()?));
    exchange(tls.connect(name, stream).await?, url).await
}

/// Trusts what the system trusts, read anew each time, since that may change too.
fn client_config() -> Result<ClientConfig, Failure> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    url: &Uri,
) -> Result<Bytes, Failure> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(url.path_and_query().map_or("/", |path| path.as_str()))
        .header(
            header::HOST,
            url.authority().map_or("", |host| host.as_str()),
        )
        .header(header::ACCEPT, "application/jwk-set+json, application/json")
        .header(header::USER_AGENT, "pillion")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let get = async {
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(format!("the answer is {}", response.status()).into());
        }
        let body = Limited::new(response.into_body(), MAX_SIZE);
        Ok(body.collect().await?.to_bytes())
    };
    let mut get = std::pin::pin!(get);
    // The connection is driven here, so that nothing of it is left when this is over.
    tokio::select! {
        body = &mut get => body,
        ended = connection => {
            ended?;
            get.await
        }
    }
}
