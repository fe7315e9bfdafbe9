//! `redact`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::decode::At;

/// What the access log and spans do not show. A list that is written replaces the default, an empty
/// one hides nothing.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Redact {
    /// Names of headers whose values are shown as `REDACTED`. At most 256.
    pub(crate) headers: At<Vec<At<String>>>,
    /// Names of query parameters whose values are shown as `REDACTED`, also in headers that hold a
    /// URI. Compared without regard to case, and percent-decoded. At most 256.
    pub(crate) query_parameters: At<Vec<At<String>>>,
}

impl Default for Redact {
    fn default() -> Self {
        fn list(names: &[&str]) -> At<Vec<At<String>>> {
            let names = names.iter().map(|&name| name.to_owned().into());
            names.collect::<Vec<_>>().into()
        }
        Self {
            headers: list(&HEADERS),
            query_parameters: list(&QUERY_PARAMETERS),
        }
    }
}

/// Whoever has one of these can act as somebody else.
const HEADERS: [&str; 25] = [
    "authorization",
    "proxy-authorization",
    "authentication-info",
    "cookie",
    "set-cookie",
    "api-key",
    "x-api-key",
    "x-api-token",
    "x-auth-token",
    "x-auth-key",
    "x-access-token",
    "x-refresh-token",
    "x-session-token",
    "x-csrf-token",
    "x-xsrf-token",
    "x-amz-security-token",
    "x-amzn-oidc-data",
    "x-amzn-oidc-accesstoken",
    "x-goog-api-key",
    "x-goog-iap-jwt-assertion",
    "x-forwarded-access-token",
    "x-ms-token-aad-access-token",
    "x-vault-token",
    "private-token",
    "ocp-apim-subscription-key",
];

/// Tokens, passwords, one-time codes and what signs a link.
const QUERY_PARAMETERS: [&str; 48] = [
    "access_token",
    "accesstoken",
    "access-token",
    "refresh_token",
    "refreshtoken",
    "id_token",
    "idtoken",
    "token",
    "auth",
    "auth_token",
    "authorization",
    "bearer",
    "jwt",
    "assertion",
    "client_assertion",
    "samlresponse",
    "samlart",
    "ticket",
    "code",
    "code_verifier",
    "otp",
    "api_key",
    "api-key",
    "apikey",
    "key",
    "private_key",
    "subscription-key",
    "secret",
    "client_secret",
    "clientsecret",
    "credential",
    "credentials",
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "session",
    "session_id",
    "sessionid",
    "signature",
    "sig",
    "awsaccesskeyid",
    "x-amz-credential",
    "x-amz-signature",
    "x-amz-security-token",
    "x-goog-credential",
    "x-goog-signature",
    "hmac",
];
