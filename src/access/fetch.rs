//! A key set over HTTP, fetched once: bounded in time and size, no redirect followed.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

use super::keys::MAX_SIZE;
use crate::{
    net::outbound::{Failure, connect},
    tls::{self, Expected},
};

/// For the whole of it: name, connection, handshake, response.
const PATIENCE: Duration = Duration::from_secs(10);

/// The body of a 200.
pub(super) async fn fetch(url: &Uri) -> Result<Bytes, Failure> {
    timeout(PATIENCE, attempt(url))
        .await
        .unwrap_or_else(|_| Err("it took longer than 10s".into()))
}

async fn attempt(url: &Uri) -> Result<Bytes, Failure> {
    let stream = connect(url, None, client_config).await?;
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

/// Trusts what the system trusts, read anew each time, since that may change too. Such a file may also
/// hold the one certificate of the server itself, which is no authority: rustls's own verifier takes
/// that, where ours, made for workloads, does not.
fn client_config(_: Expected) -> Result<ClientConfig, Failure> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}
