//! TLS towards the endpoints of one upstream: whom it expects and what it shows, as of now.

use std::{net::Ipv4Addr, sync::Arc};

use rustls::{
    ClientConfig, SignatureScheme,
    client::{ResolvesClientCert, Resumption},
    pki_types::ServerName,
    sign::CertifiedKey,
};

use super::{
    Credential, Current, Expected, Materials, ServerVerifier, Taken, Trust, provider, versions,
};
use crate::{
    config::model::{TlsVersion, UpstreamTls},
    error::{Error, Reason, Replay, Result},
    upstream::{Endpoint, Target},
};

/// Sessions with servers of the internet that are kept for the next connection.
const SESSIONS: usize = 64;

/// TLS of an upstream, for as long as its configuration stays. What it holds is replaced by every
/// rotation.
pub struct ClientTls {
    pub config: UpstreamTls,
    /// The name that every endpoint is asked for; `None`: its own.
    name: Option<ServerName<'static>>,
    now: Current<ClientSide>,
}

/// What new connections to an upstream are made with.
#[derive(Debug)]
pub struct ClientSide {
    rustls: Arc<ClientConfig>,
    expected: Arc<Expected>,
    trust: Trust,
    shown: Option<Arc<Credential>>,
}

impl ClientTls {
    pub fn new(config: UpstreamTls, materials: &Materials) -> Arc<Self> {
        let name = config
            .server_name
            .as_deref()
            .and_then(|name| ServerName::try_from(name.to_owned()).ok());
        let side = ClientSide::new(&config, name.as_ref(), materials);
        Arc::new(Self {
            config,
            name,
            now: Current::new(side),
        })
    }

    /// Takes what there is now. Open connections keep what they were made with.
    pub fn renew(&self, materials: &Materials) {
        let side = ClientSide::new(&self.config, self.name.as_ref(), materials);
        self.now.replace(side);
    }

    /// What to make a connection with.
    ///
    /// # Errors
    /// While an identity or the trust that the upstream needs is not there. Nothing was sent.
    pub fn now(&self) -> Result<Taken<'_, ClientSide>> {
        self.now.take().ok_or_else(|| {
            Error::new(
                Reason::NoIdentity,
                "the identity that this upstream is to be shown is not there yet",
            )
            .replay(Replay::NeverSent)
        })
    }

    /// What holds now, for a connection that is open.
    pub fn holding(&self) -> Option<Arc<ClientSide>> {
        self.now.get()
    }

    /// The name under which an endpoint is reached: the configured one, the host name that led to
    /// it, or its address. A Unix socket has none of its own.
    pub fn dialled(&self, endpoint: &Endpoint) -> ServerName<'static> {
        if let Some(name) = &self.name {
            return name.clone();
        }
        let host = endpoint.host.as_deref().and_then(|host| {
            let host = host.strip_suffix('.').unwrap_or(host);
            ServerName::try_from(host.to_owned()).ok()
        });
        host.unwrap_or_else(|| {
            let address = match endpoint.target {
                Target::Tcp { address, .. } => address.ip(),
                Target::Unix(_) => Ipv4Addr::LOCALHOST.into(),
            };
            ServerName::IpAddress(address.into())
        })
    }
}

impl ClientSide {
    fn new(
        config: &UpstreamTls,
        name: Option<&ServerName<'static>>,
        materials: &Materials,
    ) -> Option<Self> {
        let trust = match config.system_trust {
            true => materials.system.clone()?,
            false => materials.trust.clone(),
        };
        let shown = match config.present_identity {
            true => Some(Arc::clone(materials.identity.as_ref()?)),
            false => None,
        };
        let expected = if !config.peers.is_empty() {
            Expected::Identity(config.peers.clone().into())
        } else if let Some(name) = name {
            Expected::Name(name.clone())
        } else {
            Expected::Dialled
        };
        let mut rustls = rustls_config(
            config.min_version,
            trust.clone(),
            expected.clone(),
            shown.as_deref(),
        );
        // A resumed session shows no certificate again; see the server's side.
        rustls.resumption = match config.system_trust {
            true => Resumption::in_memory_sessions(SESSIONS),
            false => Resumption::disabled(),
        };
        Some(Self {
            rustls: Arc::new(rustls),
            expected: Arc::new(expected),
            trust,
            shown,
        })
    }

    pub fn rustls(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.rustls)
    }

    pub fn expected(&self) -> &Arc<Expected> {
        &self.expected
    }

    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Fingerprint of what is shown to endpoints that ask.
    pub fn shown(&self) -> Option<[u8; 32]> {
        self.shown.as_ref().map(|shown| *shown.fingerprint())
    }

    /// What is shown to endpoints that ask.
    pub fn credential(&self) -> Option<&Arc<Credential>> {
        self.shown.as_ref()
    }
}

/// How rustls is to meet a server: whom it believes, whom it expects and what it shows.
pub(crate) fn rustls_config(
    oldest: TlsVersion,
    trust: Trust,
    expected: Expected,
    shown: Option<&Credential>,
) -> ClientConfig {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions(oldest))
        .expect("the provider has suites for both versions")
        .dangerous()
        .with_custom_certificate_verifier(ServerVerifier::new(trust, expected))
        .with_client_cert_resolver(Arc::new(Presented(
            shown.map(|shown| Arc::clone(shown.certified())),
        )))
}

/// The identity, for whoever asks.
#[derive(Debug)]
struct Presented(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Presented {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        // One of another kind could only fail later, and less clearly.
        let key = self.0.as_ref()?;
        key.key.choose_scheme(schemes)?;
        Some(Arc::clone(key))
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientTls").finish_non_exhaustive()
    }
}
