//! TLS towards the clients of one listener: what it shows and whom it believes, as of now.

use std::{cell::Cell, collections::HashMap, sync::Arc};

use rustls::{
    ServerConfig,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};

use super::{
    ClientVerifier, Credential, Current, Fault, FaultKind, Materials, Taken, Trust, alpn, provider,
    versions,
};
use crate::config::model::{ClientCertificates, ListenerTls};

/// TLS of a listener, for as long as its configuration stays. What it holds is replaced by every
/// rotation.
pub struct ServerTls {
    pub config: ListenerTls,
    /// Its connections carry HTTP.
    http: bool,
    now: Current<ServerSide>,
}

/// What new connections of a listener are made with.
#[derive(Debug)]
pub struct ServerSide {
    rustls: Arc<ServerConfig>,
    credentials: Arc<Credentials>,
    /// `None`: clients are not asked for certificates.
    trust: Option<Trust>,
}

impl ServerTls {
    pub fn new(config: ListenerTls, http: bool, materials: &Materials) -> Arc<Self> {
        let side = ServerSide::new(&config, http, materials);
        Arc::new(Self {
            config,
            http,
            now: Current::new(side),
        })
    }

    /// Takes what there is now. Open connections keep what they were made with.
    pub fn renew(&self, materials: &Materials) {
        let side = ServerSide::new(&self.config, self.http, materials);
        self.now.replace(side);
    }

    /// Whether that is what it was made for.
    pub fn is_for(&self, config: &ListenerTls, http: bool) -> bool {
        self.config == *config && self.http == http
    }

    /// What to make a connection with.
    ///
    /// # Errors
    /// While there is nothing to show.
    pub fn now(&self) -> Result<Taken<'_, ServerSide>, Fault> {
        self.now.take().ok_or_else(|| {
            Fault::new(
                FaultKind::NoIdentity,
                "there is no certificate to show yet: the identity is not there",
            )
        })
    }

    /// What holds now, for a connection that is open.
    pub fn holding(&self) -> Option<Arc<ServerSide>> {
        self.now.get()
    }
}

impl ServerSide {
    fn new(config: &ListenerTls, http: bool, materials: &Materials) -> Option<Self> {
        let credentials = Arc::new(Credentials::new(config, materials)?);
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions(config.min_version))
            .expect("the provider has suites for both versions");
        let required = match config.client_certificates {
            ClientCertificates::Off => None,
            ClientCertificates::Optional => Some(false),
            ClientCertificates::Required => Some(true),
        };
        let trust = required.map(|_| materials.trust.clone());
        let builder = match (required, &trust) {
            (Some(required), Some(trust)) => builder.with_client_cert_verifier(
                ClientVerifier::new(trust.clone(), Box::default(), required),
            ),
            _ => builder.with_client_cert_verifier(WebPkiClientVerifier::no_client_auth()),
        };
        let mut rustls =
            builder.with_cert_resolver(Arc::clone(&credentials) as Arc<dyn ResolvesServerCert>);
        // A session that is resumed shows no certificate again, and would outlive the trust that
        // admitted it. Between workloads connections last, and there is little to win.
        rustls.session_storage = Arc::new(NoServerSessionStorage {});
        match required {
            Some(_) => rustls.send_tls13_tickets = 0,
            None => match rustls::crypto::aws_lc_rs::Ticketer::new() {
                // Its keys live as long as this side: until the next rotation.
                Ok(ticketer) => rustls.ticketer = ticketer,
                Err(error) => tracing::warn!(%error, "no session can be resumed"),
            },
        }
        if http {
            rustls.alpn_protocols = alpn::offered_to_clients(required.is_some());
        }
        Some(Self {
            rustls: Arc::new(rustls),
            credentials,
            trust,
        })
    }

    pub fn rustls(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.rustls)
    }

    pub fn trust(&self) -> Option<&Trust> {
        self.trust.as_ref()
    }

    /// Fingerprint of what a client sees that asks for that name.
    pub fn shown(&self, asked: Option<&str>) -> Option<[u8; 32]> {
        Some(*self.credentials.choose(asked).fingerprint())
    }

    /// What a client sees that asks for that name.
    pub fn credential(&self, asked: Option<&str>) -> &Arc<Credential> {
        self.credentials.choose(asked)
    }
}

/// Certificates by the names in them.
#[derive(Debug)]
struct Credentials {
    by_name: HashMap<Box<str>, Arc<Credential>>,
    default: Arc<Credential>,
}

impl Credentials {
    fn new(config: &ListenerTls, materials: &Materials) -> Option<Self> {
        let files: Vec<&Arc<Credential>> = config
            .certificates
            .iter()
            .filter_map(|pair| materials.files.get(pair))
            .collect();
        let default = materials
            .identity
            .as_ref()
            .or_else(|| files.first().copied())?;
        let mut by_name = HashMap::new();
        for credential in &files {
            for name in &credential.leaf().dns_names {
                // Of two for one name the first is taken.
                by_name
                    .entry(name.to_ascii_lowercase().into())
                    .or_insert_with(|| Arc::clone(credential));
            }
        }
        Some(Self {
            by_name,
            default: Arc::clone(default),
        })
    }

    /// The one for the name, or for its parent's wildcard (RFC 6125 section 6.4.3), or the usual
    /// one.
    fn choose(&self, asked: Option<&str>) -> &Arc<Credential> {
        let found = asked
            .filter(|_| !self.by_name.is_empty())
            .and_then(|asked| {
                // rustls gives SNI in lower case.
                self.by_name.get(asked).or_else(|| {
                    let (_, parent) = asked.split_once('.')?;
                    self.by_name.get(format!("*.{parent}").as_str())
                })
            });
        found.unwrap_or(&self.default)
    }
}

thread_local! {
    /// The name that the last client on this thread asked for. A session of rustls does not tell it
    /// where it does no I/O of its own.
    static ASKED: Cell<Option<Box<str>>> = const { Cell::new(None) };
}

/// The name that the client asked for whose handshake was worked on last, where it made a choice.
/// Call it before the thread turns to another one.
pub(super) fn asked() -> Option<Box<str>> {
    ASKED.take()
}

impl ResolvesServerCert for Credentials {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if !self.by_name.is_empty() {
            ASKED.set(hello.server_name().map(Box::from));
        }
        Some(Arc::clone(self.choose(hello.server_name()).certified()))
    }
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}
