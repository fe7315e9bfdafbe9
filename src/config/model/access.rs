//! Who may call what, resolved.

use std::{path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderName, Method, Uri};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{HeaderMatch, Hostname, PathMatch, display, display_all, duration};
use crate::tls::PeerMatch;

/// One rule about who may call what. An empty list asks for nothing.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessRule {
    pub name: Arc<str>,
    pub action: AccessAction,
    /// Decides nothing, and only tells what it would have decided.
    pub audit: bool,
    /// Resolved, never empty.
    pub listeners: Vec<Arc<str>>,
    /// Of the listeners; those on another port don't have the rule.
    pub ports: Vec<u16>,
    pub from: AccessFrom,
    pub to: AccessTo,
    pub jwt: Option<AccessToken>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum AccessAction {
    // In this order they are asked.
    Deny,
    Allow,
}

/// Who calls.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AccessFrom {
    pub identities: Vec<PeerMatch>,
    pub namespaces: Vec<Arc<str>>,
    /// One address is a network of one.
    pub addresses: Vec<IpNet>,
}

/// What is called.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AccessTo {
    pub hostnames: Vec<Hostname>,
    #[serde(serialize_with = "display_all")]
    pub methods: Vec<Method>,
    pub paths: Vec<PathMatch>,
    /// All of these.
    pub headers: Vec<HeaderMatch>,
}

impl AccessTo {
    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A valid token of a provider, with these claims.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AccessToken {
    pub provider: Arc<str>,
    pub claims: Vec<ClaimMatch>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClaimMatch {
    pub name: Arc<str>,
    pub value: Arc<str>,
}

/// Who issues tokens, and how they are checked.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JwtProvider {
    pub name: Arc<str>,
    pub issuer: Arc<str>,
    /// Never empty.
    pub audiences: Vec<Arc<str>>,
    pub jwks: Jwks,
    /// Never empty.
    pub algorithms: Vec<JwtAlgorithm>,
    #[serde(serialize_with = "duration")]
    pub leeway: Duration,
    #[serde(serialize_with = "display")]
    pub header: HeaderName,
    /// Whether the token travels on.
    pub forward: bool,
}

/// Where a provider's keys are.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Jwks {
    File(PathBuf),
    /// `https`, or `http` on loopback.
    Url {
        #[serde(serialize_with = "display")]
        url: Uri,
        #[serde(serialize_with = "duration")]
        refresh: Duration,
    },
}

/// How a token is signed (RFC 7518 section 3.1, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
pub enum JwtAlgorithm {
    /// RSA, PKCS #1 v1.5, SHA-256. Keys of 2048 bits and more.
    #[serde(rename = "RS256")]
    Rs256,
    /// The same with SHA-384.
    #[serde(rename = "RS384")]
    Rs384,
    /// The same with SHA-512.
    #[serde(rename = "RS512")]
    Rs512,
    /// RSA, PSS, SHA-256.
    #[serde(rename = "PS256")]
    Ps256,
    /// The same with SHA-384.
    #[serde(rename = "PS384")]
    Ps384,
    /// The same with SHA-512.
    #[serde(rename = "PS512")]
    Ps512,
    /// ECDSA, P-256, SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// ECDSA, P-384, SHA-384.
    #[serde(rename = "ES384")]
    Es384,
    /// Ed25519.
    EdDSA,
}

impl JwtAlgorithm {
    pub const ALL: [Self; 9] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::EdDSA,
    ];

    /// As a token's header and a key's `alg` spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDSA => "EdDSA",
        }
    }
}
