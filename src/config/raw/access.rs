//! `access` and `jwtProviders`: who may call what.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{HeaderMatch, PathMatch};
use crate::config::{
    decode::At,
    model::JwtAlgorithm,
    units::{Count, Duration},
};

/// A rule about who may call what. Everything that is written in it has to hold; in each list, any
/// one. A rule that denies wins over all that allow; once a listener has a rule that allows,
/// whatever none of them takes is denied.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct AccessRule {
    /// What logs and metrics call it. `access-N` (from 0) unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<At<String>>,
    /// What becomes of those it matches.
    #[serde(default)]
    pub(crate) action: AccessAction,
    /// Decides nothing: only counts and logs what it would have decided.
    #[serde(default)]
    pub(crate) audit: bool,
    /// Names of the listeners it is for. All of them unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listeners: Option<At<Vec<At<String>>>>,
    /// Ports of the listeners it is for. Any unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ports: Option<At<Vec<At<Count<1, 65535>>>>>,
    /// Who calls. Anybody unless written.
    #[serde(default)]
    pub(crate) from: At<AccessFrom>,
    /// What is called, on HTTP listeners. Anything unless written.
    #[serde(default)]
    pub(crate) to: At<AccessTo>,
    /// The request has to carry a valid token as well. HTTP listeners only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) jwt: Option<At<AccessToken>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum AccessAction {
    /// They may.
    #[default]
    Allow,
    /// They may not, whatever other rules say.
    Deny,
}

/// Who calls. Every key that is written has to hold.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct AccessFrom {
    /// SPIFFE identities that the caller has proved by its certificate: one
    /// (`spiffe://prod.example/ns/shop/sa/cart`), a pattern (`*` for one whole segment, `**` at the
    /// end for one or more) or a trust domain (`spiffe://prod.example`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) identities: Option<At<Vec<At<String>>>>,
    /// NAME of identities in the form `spiffe://DOMAIN/ns/NAME/sa/ACCOUNT`, in any trust domain
    /// that the listener admits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) namespaces: Option<At<Vec<At<String>>>>,
    /// IP addresses and networks (`10.0.0.0/8`) that the connection comes from; from the PROXY
    /// header where the listener demands one. `X-Forwarded-For` doesn't count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) addresses: Option<At<Vec<At<String>>>>,
}

/// What is called. Every key that is written has to hold.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct AccessTo {
    /// Host names without a port; `*.example.com` stands for one or more labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hostnames: Option<At<Vec<At<String>>>>,
    /// Methods, in upper case. A WebSocket is a GET, over HTTP/2 as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) methods: Option<At<Vec<At<String>>>>,
    /// Paths, in the one form in which routes see them too, before anything is rewritten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) paths: Option<At<Vec<At<PathMatch>>>>,
    /// Request headers, each name once; all of these have to match.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) headers: Vec<At<HeaderMatch>>,
}

/// A valid token of a provider, with certain claims.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct AccessToken {
    /// Name of one of `jwtProviders`.
    pub(crate) provider: At<String>,
    /// All of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) claims: Vec<At<ClaimMatch>>,
}

/// What a claim has to be.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ClaimMatch {
    /// The claim, at the top of the token.
    pub(crate) name: At<String>,
    /// Its value as text; of a list, and of the words of `scope`, any one.
    pub(crate) value: String,
}

/// Who issues tokens, and how they are checked (RFC 7519, RFC 8725).
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct JwtProvider {
    /// What rules call it.
    pub(crate) name: At<String>,
    /// What `iss` has to be, byte by byte.
    pub(crate) issuer: At<String>,
    /// `aud` has to name one of these. At least one.
    pub(crate) audiences: At<Vec<At<String>>>,
    /// Where its public keys are.
    pub(crate) jwks: At<Jwks>,
    /// Signatures that are taken. None with a shared secret is on offer.
    #[serde(default = "algorithms")]
    pub(crate) algorithms: At<Vec<At<JwtAlgorithm>>>,
    /// How far the issuer's clock may be off. At most 5m.
    #[serde(default = "leeway")]
    pub(crate) leeway: At<Duration>,
    /// The header that carries the token: `authorization` as `Bearer TOKEN`, any other with or
    /// without that word.
    #[serde(default = "token_header")]
    pub(crate) header: At<String>,
    /// Whether the token travels on. If not, listeners with rules that name the provider take it
    /// away.
    #[serde(default = "yes")]
    pub(crate) forward: bool,
}

fn algorithms() -> At<Vec<At<JwtAlgorithm>>> {
    use JwtAlgorithm::{EdDSA, Es256, Rs256};
    [Rs256, Es256, EdDSA].map(At::from).to_vec().into()
}

fn leeway() -> At<Duration> {
    Duration::secs(30).into()
}

fn token_header() -> At<String> {
    "authorization".to_owned().into()
}

fn yes() -> bool {
    true
}

/// A JSON Web Key Set (RFC 7517): exactly one of `file` and `url`. At most 256 KiB and 64 keys.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Jwks {
    /// A file, which is watched: a change that can't be read leaves the keys as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<At<String>>,
    /// `https://`, or `http://` on loopback. Fetched in the background, again and again; kept while
    /// the source fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<At<String>>,
    /// How often `url` is fetched. At least 1s.
    pub(crate) refresh: At<Duration>,
}

impl Default for Jwks {
    fn default() -> Self {
        Self {
            file: None,
            url: None,
            refresh: Duration::secs(300).into(),
        }
    }
}
