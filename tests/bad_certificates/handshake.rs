//! Whole TLS handshakes without a socket, at a moment of choice.

use std::sync::Arc;

use pillion::tls::{self, ClientVerifier, Expected, Fault, PeerMatch, ServerVerifier, Trust};
use rustls::{
    ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection,
    SupportedProtocolVersion,
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{PrivateKeyDer, ServerName, UnixTime},
    sign::{CertifiedKey, SingleCertAndKey},
    time_provider::TimeProvider,
};

use crate::pki::{Shown, now};

#[derive(Debug)]
struct Stopped;

impl TimeProvider for Stopped {
    fn current_time(&self) -> Option<UnixTime> {
        Some(now())
    }
}

/// One side: what it shows, whom it believes, whom it wants, and how it speaks.
#[derive(Clone)]
pub(crate) struct Side {
    pub(crate) shows: Option<Shown>,
    pub(crate) trust: Trust,
    pub(crate) wants: Vec<PeerMatch>,
    /// As a client: the name to dial, where no workload is wanted.
    pub(crate) name: &'static str,
    /// As a server: whether a client must show a certificate.
    pub(crate) required: bool,
    pub(crate) version: &'static SupportedProtocolVersion,
    pub(crate) alpn: Vec<Vec<u8>>,
}

impl Side {
    pub(crate) fn client(&self) -> ClientConfig {
        let expected = match self.wants.is_empty() {
            true => Expected::Dialled,
            false => Expected::Identity(self.wants.clone().into()),
        };
        let builder = ClientConfig::builder_with_details(tls::provider(), Arc::new(Stopped))
            .with_protocol_versions(&[self.version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(ServerVerifier::new(self.trust.clone(), expected));
        let mut config = match self.resolver() {
            Some(resolver) => builder.with_client_cert_resolver(resolver),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.clone();
        config
    }

    pub(crate) fn server(&self) -> ServerConfig {
        let wants = self.wants.clone().into();
        let mut config = ServerConfig::builder_with_details(tls::provider(), Arc::new(Stopped))
            .with_protocol_versions(&[self.version])
            .unwrap()
            .with_client_cert_verifier(ClientVerifier::new(
                self.trust.clone(),
                wants,
                self.required,
            ))
            .with_cert_resolver(self.resolver().unwrap());
        config.alpn_protocols = self.alpn.clone();
        config
    }

    /// Shows whatever there is, matching or not.
    fn resolver(&self) -> Option<Arc<SingleCertAndKey>> {
        let shown = self.shows.as_ref()?;
        let key = any_supported_type(&PrivateKeyDer::Pkcs8(shown.key.clone().into())).unwrap();
        let pair = CertifiedKey::new(shown.chain.clone(), key);
        Some(Arc::new(SingleCertAndKey::from(pair)))
    }
}

/// What each side ended with.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) client: Option<Fault>,
    pub(crate) server: Option<Fault>,
}

pub(crate) fn client(config: ClientConfig, name: &'static str) -> Connection {
    let name = ServerName::try_from(name).unwrap();
    ClientConnection::new(Arc::new(config), name)
        .unwrap()
        .into()
}

pub(crate) fn server(config: ServerConfig) -> Connection {
    ServerConnection::new(Arc::new(config)).unwrap().into()
}

/// Carries records to and fro until both are silent.
pub(crate) fn shake(mut client: Connection, mut server: Connection) -> Outcome {
    let mut outcome = Outcome::default();
    loop {
        let there = carry(&mut client, &mut server, &mut outcome.server);
        let back = carry(&mut server, &mut client, &mut outcome.client);
        if !there && !back {
            break;
        }
    }
    if outcome.client.is_none() && outcome.server.is_none() {
        assert!(!client.is_handshaking() && !server.is_handshaking());
    }
    outcome
}

fn carry(from: &mut Connection, to: &mut Connection, fault: &mut Option<Fault>) -> bool {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    feed(to, &bytes, fault);
    !bytes.is_empty()
}

/// Gives a side bytes; keeps its first fault.
pub(crate) fn feed(to: &mut Connection, mut bytes: &[u8], fault: &mut Option<Fault>) {
    while !bytes.is_empty() && fault.is_none() {
        if to.read_tls(&mut bytes).unwrap() == 0 {
            return;
        }
        if let Err(error) = to.process_new_packets() {
            *fault = Some(Fault::of(&error));
        }
    }
}
