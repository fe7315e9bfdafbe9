//! `routes`: rules, and what they match.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Fallback, Filter, Importance, Retry, RuleTracing};
use crate::config::{
    decode::At,
    units::{Count, Duration},
};

/// Rules for the requests to some host names, with the meaning of a Gateway API HTTPRoute (v1).
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Route {
    /// What logs and metrics call it. `route-N` (from 0) unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<At<String>>,
    /// Names of the HTTP listeners that serve it. All of them unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listeners: Option<At<Vec<At<String>>>>,
    /// Host names without a port; `*.example.com` stands for one or more labels. Any host unless
    /// written. The most specific name wins, whatever the order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hostnames: Option<At<Vec<At<String>>>>,
    /// At least one. The most specific match wins, then the earlier rule.
    pub(crate) rules: At<Vec<At<Rule>>>,
}

/// What is done with the requests that match. Exactly one of `backendRefs`, a `RequestRedirect`
/// and a `DirectResponse` answers them.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Rule {
    /// What logs and metrics call it. `ROUTE/N` (from 0) unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<At<String>>,
    /// One of these has to match. Everything does unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) matches: Option<At<Vec<At<Match>>>>,
    /// What is changed on the way, or answered here. Every type once, `RequestMirror` excepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) filters: Vec<At<Filter>>,
    /// The upstreams that share the requests by weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) backend_refs: Option<At<Vec<At<BackendRef>>>>,
    /// How long things may take.
    #[serde(default)]
    pub(crate) timeouts: Timeouts,
    /// When a failed attempt is followed by another.
    #[serde(default)]
    pub(crate) retry: Retry,
    /// Which requests are refused first when Pillion itself is overloaded.
    #[serde(default)]
    pub(crate) priority: Importance,
    /// What is said of tracing for this rule alone.
    #[serde(default)]
    pub(crate) tracing: RuleTracing,
    /// What answers when the upstream can't. None unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fallback: Option<At<Fallback>>,
}

/// Everything in it has to match.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Match {
    /// The path, without the query.
    pub(crate) path: At<PathMatch>,
    /// Request headers, each name once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) headers: Vec<At<HeaderMatch>>,
    /// Query parameters, each name once; of a repeated one in a request the first counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) query_params: Vec<At<QueryParamMatch>>,
    /// The method, in upper case. Any unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) method: Option<At<String>>,
}

/// How a path is matched.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct PathMatch {
    /// How `value` is read.
    pub(crate) r#type: PathMatchType,
    /// Begins with `/` and has neither `?` nor `#`; it is brought into the form that requests are
    /// brought into before they are matched. For `RegularExpression` the syntax of the Rust crate
    /// `regex`; it has to match the whole path in that form.
    pub(crate) value: At<String>,
}

impl Default for PathMatch {
    fn default() -> Self {
        Self {
            r#type: PathMatchType::PathPrefix,
            value: "/".to_owned().into(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(crate) enum PathMatchType {
    /// The whole path, byte by byte.
    Exact,
    /// Whole segments: `/a` matches `/a`, `/a/` and `/a/b`, not `/ab`.
    PathPrefix,
    /// The whole path by a regular expression.
    RegularExpression,
}

/// How a header is matched.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct HeaderMatch {
    /// How `value` is read.
    #[serde(default)]
    pub(crate) r#type: ValueMatchType,
    /// The header, in any case. Not `host`: that is what `hostnames` are for.
    pub(crate) name: At<String>,
    /// What its value has to be.
    pub(crate) value: At<String>,
}

/// How a query parameter is matched.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct QueryParamMatch {
    /// How `value` is read.
    #[serde(default)]
    pub(crate) r#type: ValueMatchType,
    /// The parameter, byte by byte after percent-decoding.
    pub(crate) name: At<String>,
    /// What its value has to be, after percent-decoding.
    pub(crate) value: At<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(crate) enum ValueMatchType {
    /// The whole value, byte by byte.
    #[default]
    Exact,
    /// The whole value by a regular expression.
    RegularExpression,
}

/// An upstream and its share.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct BackendRef {
    /// Name of an upstream.
    pub(crate) name: At<String>,
    /// Its share of the sum of all weights; 0 for none. Not all of a rule may be 0.
    #[serde(default = "weight")]
    pub(crate) weight: Count<0, 1_000_000>,
    /// Header modifiers for the requests that go there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) filters: Vec<At<Filter>>,
}

fn weight() -> Count<0, 1_000_000> {
    Count(1)
}

/// How long a request may take. 0s: no limit.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Timeouts {
    /// From the first byte of the request to the head of the response.
    pub(crate) request: Duration,
    /// No part of a body in either direction for this long ends the exchange.
    pub(crate) idle: Duration,
    /// From the first byte of the request to the end of the response.
    pub(crate) total: Duration,
    /// From the beginning of one attempt to the head of its response; what is left may be spent on
    /// further ones.
    pub(crate) backend_request: Duration,
    /// A request header by which a client says how long it will wait for the head of the response:
    /// milliseconds (`250`), or with a unit (`2s`). It can only shorten `request`, and is passed
    /// on with what is left. None unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) header: Option<At<String>>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            request: Duration::secs(15),
            idle: Duration::secs(300),
            total: Duration::secs(0),
            backend_request: Duration::secs(0),
            header: None,
        }
    }
}
