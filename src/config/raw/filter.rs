//! What a rule changes, or answers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Fault, RateLimit};
use crate::config::{
    decode::At,
    units::{Count, Size},
};

/// A change or an answer. The key that is named like the type holds what it needs, and no other.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Filter {
    /// What it does.
    pub(crate) r#type: At<FilterType>,
    /// For type `RequestHeaderModifier`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request_header_modifier: Option<At<HeaderModifier>>,
    /// For type `ResponseHeaderModifier`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) response_header_modifier: Option<At<HeaderModifier>>,
    /// For type `RequestRedirect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request_redirect: Option<At<RequestRedirect>>,
    /// For type `URLRewrite`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url_rewrite: Option<At<UrlRewrite>>,
    /// For type `RequestMirror`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request_mirror: Option<At<RequestMirror>>,
    /// For type `DirectResponse`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) direct_response: Option<At<DirectResponse>>,
    /// For type `RateLimit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rate_limit: Option<At<RateLimit>>,
    /// For type `Fault`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fault: Option<At<Fault>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
pub(crate) enum FilterType {
    /// Changes headers of the request.
    RequestHeaderModifier,
    /// Changes headers of the response.
    ResponseHeaderModifier,
    /// Answers with a redirect.
    RequestRedirect,
    /// Changes the host or the path that the upstream sees.
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    /// Sends a copy of the request elsewhere and ignores its answer.
    RequestMirror,
    /// Answers with a fixed response.
    DirectResponse,
    /// Refuses what comes too often.
    RateLimit,
    /// Injects faults.
    Fault,
}

/// Changes to headers, in the order `remove`, `set`, `add`. The headers that frame a message or
/// belong to one connection can't be changed, nor `host`: `urlRewrite.hostname` does that.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct HeaderModifier {
    /// Replaced, or added where they are missing. Each name once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) set: Vec<At<Header>>,
    /// Added beside those of the same name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) add: Vec<At<Header>>,
    /// Names of headers that are dropped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) remove: Vec<At<String>>,
}

/// A header.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Header {
    /// In any case.
    pub(crate) name: At<String>,
    /// As it is sent.
    pub(crate) value: At<String>,
}

/// A redirect. What isn't written stays as in the request; something has to be.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct RequestRedirect {
    /// The scheme of the location.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scheme: Option<Scheme>,
    /// The host of the location.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hostname: Option<At<String>>,
    /// The port of the location. With `scheme` and no port: the port that the scheme implies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<Count<1, 65_535>>,
    /// The path of the location.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<At<PathModifier>>,
    /// 301, 302, 303, 307 or 308.
    pub(crate) status_code: At<Count<300, 399>>,
}

impl Default for RequestRedirect {
    fn default() -> Self {
        Self {
            scheme: None,
            hostname: None,
            port: None,
            path: None,
            status_code: Count(302).into(),
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Scheme {
    /// Port 80 unless written.
    Http,
    /// Port 443 unless written.
    Https,
}

/// Changes to what the upstream sees as the host and the path.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct UrlRewrite {
    /// Replaces the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hostname: Option<At<String>>,
    /// Replaces the path or its matched prefix; the query stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<At<PathModifier>>,
}

/// A new path. The key that is named like the type holds it.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PathModifier {
    /// What is replaced.
    pub(crate) r#type: At<PathModifierType>,
    /// The new path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) replace_full_path: Option<At<String>>,
    /// What replaces the matched prefix; only in a rule all of whose matches are of type
    /// `PathPrefix`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) replace_prefix_match: Option<At<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(crate) enum PathModifierType {
    /// The whole path.
    ReplaceFullPath,
    /// What a `PathPrefix` matched.
    ReplacePrefixMatch,
}

/// A copy of a share of the requests. Its answer, its failures and its slowness change nothing.
/// All requests are copied unless `percent` or `fraction` is written.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RequestMirror {
    /// Where the copy goes.
    pub(crate) backend_ref: MirrorRef,
    /// How many of a hundred requests are copied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) percent: Option<At<Count<0, 100>>>,
    /// The same as a fraction, for less than one in a hundred.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fraction: Option<At<Fraction>>,
    /// How much of a body may wait for a slow copy; beyond it the copy is given up. At most
    /// 16MiB.
    #[serde(default = "max_buffered_bytes")]
    pub(crate) max_buffered_bytes: At<Size>,
    /// How many copies may be under way, over all workers; beyond it requests are not copied.
    #[serde(default = "max_in_flight")]
    pub(crate) max_in_flight: At<Count<1, 100_000>>,
}

fn max_in_flight() -> At<Count<1, 100_000>> {
    Count(256).into()
}

fn max_buffered_bytes() -> At<Size> {
    Size(64 << 10).into()
}

/// An upstream by its name.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct MirrorRef {
    /// Name of an upstream.
    pub(crate) name: At<String>,
}

/// A part of the whole.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Fraction {
    /// Not more than `denominator`.
    pub(crate) numerator: Count<0, 1_000_000>,
    /// Of how many.
    #[serde(default = "denominator")]
    pub(crate) denominator: Count<1, 1_000_000>,
}

fn denominator() -> Count<1, 1_000_000> {
    Count(100)
}

/// A fixed response.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct DirectResponse {
    /// The status.
    pub(crate) status_code: At<Count<200, 599>>,
    /// Text; none for 204 and 304.
    pub(crate) body: At<String>,
    /// The `Content-Type` of a body.
    pub(crate) content_type: At<String>,
}

impl Default for DirectResponse {
    fn default() -> Self {
        Self {
            status_code: Count(200).into(),
            body: String::new().into(),
            content_type: "text/plain; charset=utf-8".to_owned().into(),
        }
    }
}
