//! Identity, trust, and TLS on both sides.

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde::Serialize;

use super::{display_all, duration};
use crate::tls::{PeerMatch, SpiffeId, TrustDomain};

/// Who this process is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Identity {
    Files(KeyPair),
    WorkloadApi(WorkloadApi),
}

/// Where identities and trust bundles come from, and change, by themselves.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadApi {
    pub socket: PathBuf,
    /// Which one to take; `None`: the first.
    #[serde(serialize_with = "super::option_display")]
    pub spiffe_id: Option<SpiffeId>,
}

/// PEM files: a certificate with those that lead to an authority, and its key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyPair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Authorities that are believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Trust {
    /// PEM files; never empty.
    pub authorities: Vec<PathBuf>,
    /// The only trust domain that they may speak for. `None`: any name.
    #[serde(serialize_with = "super::option_display")]
    pub trust_domain: Option<TrustDomain>,
    /// PEM or DER files.
    pub crls: Vec<PathBuf>,
}

/// TLS towards clients. A listener without it, or with the mode `off`, has none of this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerTls {
    /// Clients may speak plaintext too: told apart by the first byte.
    pub permissive: bool,
    pub client_certificates: ClientCertificates,
    /// Chosen by SNI, before the identity.
    pub certificates: Vec<KeyPair>,
    pub min_version: TlsVersion,
    /// From accept to the end of the handshake.
    #[serde(serialize_with = "duration")]
    pub handshake_timeout: Duration,
    pub forwarded_client_cert: ForwardedClientCert,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ClientCertificates {
    /// Not asked for.
    Off,
    /// One that is shown has to be good.
    Optional,
    Required,
}

/// Oldest version that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum TlsVersion {
    #[serde(rename = "1.2")]
    V1_2,
    #[serde(rename = "1.3")]
    V1_3,
}

/// What becomes of `X-Forwarded-Client-Cert`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ForwardedClientCert {
    Sanitize,
    Set,
    Append,
    Forward,
}

/// TLS towards endpoints.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamTls {
    /// Who the endpoints have to be, any of these. Empty: whoever the name belongs to.
    #[serde(serialize_with = "display_all")]
    pub peers: Vec<PeerMatch>,
    /// In SNI and, without `peers`, in the certificate. `None`: the endpoint's host or address.
    pub server_name: Option<Arc<str>>,
    /// The operating system's authorities instead of those of the configuration.
    pub system_trust: bool,
    pub present_identity: bool,
    pub min_version: TlsVersion,
}
