//! Where telemetry is sent.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Uri};
use serde::{Serialize, Serializer};

use super::{KeyPair, display, duration};

/// For each signal where it goes, if it is exported at all: that is said where the signal is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Otlp {
    /// What is known of this process. That it is Pillion, and which one, is added.
    pub resource: BTreeMap<Arc<str>, Arc<str>>,
    pub traces: Export,
    pub metrics: Export,
    pub logs: Export,
}

/// How one signal is sent. The file says the same for all, the environment may not.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Export {
    /// With a scheme and a host. Over HTTP the whole URL; over gRPC the path means nothing.
    #[serde(serialize_with = "display")]
    pub endpoint: Uri,
    pub protocol: OtlpProtocol,
    #[serde(serialize_with = "names")]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub gzip: bool,
    /// Of one export, retries included.
    #[serde(serialize_with = "duration")]
    pub timeout: Duration,
    pub tls: OtlpTls,
    pub batch: OtlpBatch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum OtlpProtocol {
    #[serde(rename = "grpc")]
    Grpc,
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
}

impl OtlpProtocol {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::HttpProtobuf => "http/protobuf",
        }
    }
}

/// Towards `https`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OtlpTls {
    /// PEM files. Empty: what the operating system believes.
    pub authorities: Vec<PathBuf>,
    pub identity: Option<KeyPair>,
    /// `None`: the endpoint's host.
    pub server_name: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OtlpBatch {
    /// From when something is there to its export.
    #[serde(serialize_with = "duration")]
    pub delay: Duration,
    /// Of one export, before compression.
    pub max_bytes: usize,
    /// Spans, records or metrics of one export.
    pub max_items: Option<usize>,
    /// Bytes that wait or are being sent.
    pub queue_bytes: usize,
    /// The same in spans, records or metrics.
    pub queue_items: Option<usize>,
}

/// Values are secrets.
fn names<S: Serializer>(
    headers: &[(HeaderName, HeaderValue)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(headers.iter().map(|(name, _)| name.as_str()))
}
