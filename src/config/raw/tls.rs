//! `identity`, `trust`, and the `tls` of listeners and upstreams.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{decode::At, units::Duration};

/// Who this process is. Either `certificate` and `key`, or `workloadApi`. Shown to clients of TLS
/// listeners and to upstreams; files are watched, and a pair that doesn't fit together is refused
/// and the old one kept. Ready only when it is there.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Identity {
    /// PEM file with the certificate, followed by those that lead from it to an authority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) certificate: Option<At<String>>,
    /// PEM file with the private key of the certificate: PKCS#8, PKCS#1 or SEC1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<At<String>>,
    /// Where the SPIFFE Workload API listens, in place of files: `unix:PATH`, or what
    /// `SPIFFE_ENDPOINT_SOCKET` says: `${SPIFFE_ENDPOINT_SOCKET}`. Its trust bundles are believed
    /// beside those of `trust`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) workload_api: Option<At<String>>,
    /// Which of the identities to take where the Workload API has several. The first one unless
    /// written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) spiffe_id: Option<At<String>>,
}

/// Authorities whose certificates are believed. Several entries, or several files in one, let
/// authorities overlap while they are replaced.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Trust {
    /// PEM files with certificates of authorities. At least one; watched.
    pub(crate) authorities: At<Vec<At<String>>>,
    /// The only SPIFFE trust domain that these authorities may speak for. Any name unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) trust_domain: Option<At<String>>,
    /// Files with certificate revocation lists of these authorities, PEM or DER; watched.
    #[serde(default)]
    pub(crate) crls: Vec<At<String>>,
}

/// A certificate and its key.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct KeyPair {
    /// PEM file with the certificate, followed by those that lead from it to an authority.
    pub(crate) certificate: At<String>,
    /// PEM file with its private key: PKCS#8, PKCS#1 or SEC1.
    pub(crate) key: At<String>,
}

/// TLS towards clients.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct ListenerTls {
    /// Who may connect.
    pub(crate) mode: TlsMode,
    /// Whether clients have to show a certificate that `trust` believes.
    pub(crate) client_certificates: At<ClientCertificates>,
    /// Certificates for the server names in them, chosen by SNI. A client that names none of
    /// these, or no name, gets the identity, or the first one where there is no identity.
    pub(crate) certificates: Vec<KeyPair>,
    /// Oldest version of TLS that is spoken.
    pub(crate) min_version: TlsVersion,
    /// From accept to the end of the handshake. More than 0s.
    pub(crate) handshake_timeout: At<Duration>,
    /// What becomes of `X-Forwarded-Client-Cert`.
    pub(crate) forwarded_client_cert: ForwardedClientCert,
}

impl Default for ListenerTls {
    fn default() -> Self {
        Self {
            mode: TlsMode::Required,
            client_certificates: ClientCertificates::Required.into(),
            certificates: Vec::new(),
            min_version: TlsVersion::V1_3,
            handshake_timeout: Duration::secs(5).into(),
            forwarded_client_cert: ForwardedClientCert::Sanitize,
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum TlsMode {
    /// Plaintext only, as if `tls` were not written.
    Off,
    /// TLS and plaintext, told apart by the first byte.
    Permissive,
    /// TLS only.
    Required,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ClientCertificates {
    /// They are not asked for: ordinary TLS.
    Off,
    /// One that is shown has to be good; clients without one are served too.
    Optional,
    /// Mutual TLS.
    Required,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
pub(crate) enum TlsVersion {
    /// TLS 1.2 and newer.
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3.
    #[default]
    #[serde(rename = "1.3")]
    V1_3,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ForwardedClientCert {
    /// The client's is dropped, and none is written.
    Sanitize,
    /// The client's is replaced by what its own certificate says.
    Set,
    /// What the client's certificate says is appended to what an authenticated client sent.
    Append,
    /// An authenticated client's is passed on as it is.
    Forward,
}

/// TLS towards the endpoints of an upstream.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct UpstreamTls {
    /// Who the endpoints have to be, any of these: a SPIFFE ID
    /// (`spiffe://prod.example/ns/shop/sa/cart`), a pattern (`*` for one segment, `/**` at the end
    /// for all that follow) or a trust domain (`spiffe://prod.example`). Without any, the
    /// certificate has to be for `serverName`.
    pub(crate) peers: Vec<At<String>>,
    /// The name in SNI, and in the certificate unless `peers` are written. The endpoint's host
    /// name unless written, or else its IP address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_name: Option<At<String>>,
    /// Whose certificates are believed.
    pub(crate) trust: At<UpstreamTrust>,
    /// Whether the identity is shown to endpoints that ask for it. Unless written, it is if there
    /// is one and `trust` is `configured`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) present_identity: Option<At<bool>>,
    /// Oldest version of TLS that is spoken.
    pub(crate) min_version: TlsVersion,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum UpstreamTrust {
    /// Those that `trust` and the Workload API name.
    #[default]
    Configured,
    /// Those that the operating system believes, as browsers do.
    System,
}
