//! `otlp`: where telemetry is sent.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{
    decode::At,
    units::{Duration, Size},
};

/// The collector that spans, log records and metrics are sent to, by those that are switched on:
/// `tracing`, `accessLog.output: otlp`, `metrics.otlp`. What an `OTEL_*` variable says goes before
/// what is written here; [otlp.md](otlp.md) has them all.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Otlp {
    /// `http://` or `https://`, a host and a port. With `http/protobuf` a base to which `/v1/traces`,
    /// `/v1/metrics` and `/v1/logs` are added. Unless written port 4317 of `127.0.0.1`, and 4318
    /// with `http/protobuf`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) endpoint: Option<At<String>>,
    /// How it is spoken to.
    pub(crate) protocol: OtlpProtocol,
    /// Sent with every export, such as `authorization: "Bearer ${TOKEN}"`. `GET /config` shows the
    /// names alone.
    pub(crate) headers: At<BTreeMap<String, At<String>>>,
    /// Of what is sent.
    pub(crate) compression: OtlpCompression,
    /// Of one export with all that is tried for it; then what was to be sent is dropped. More than
    /// 0s.
    pub(crate) timeout: At<Duration>,
    /// TLS towards an `https://` endpoint.
    pub(crate) tls: At<OtlpTls>,
    /// Attributes of this process, such as `service.name: shop`. That one is
    /// `unknown_service:pillion` unless written.
    pub(crate) resource: At<BTreeMap<String, At<String>>>,
    /// What is sent at once, and what may wait.
    pub(crate) batch: OtlpBatch,
}

impl Default for Otlp {
    fn default() -> Self {
        Self {
            endpoint: None,
            protocol: OtlpProtocol::default(),
            headers: At::default(),
            compression: OtlpCompression::default(),
            timeout: Duration::secs(10).into(),
            tls: At::default(),
            resource: At::default(),
            batch: OtlpBatch::default(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
pub(crate) enum OtlpProtocol {
    /// gRPC, over HTTP/2.
    #[default]
    #[serde(rename = "grpc")]
    Grpc,
    /// The same messages as bodies of `POST`, over HTTP/1.1.
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum OtlpCompression {
    /// As it is.
    #[default]
    None,
    /// About an eighth of the size, for a good deal of processor time.
    Gzip,
}

/// Whom the collector has to be, and what it is shown. Files are read for each connection.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct OtlpTls {
    /// PEM files with certificates of authorities. Those of the operating system unless written.
    pub(crate) authorities: Vec<At<String>>,
    /// PEM file with the certificate that the collector is shown, followed by those that lead from
    /// it to an authority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) certificate: Option<At<String>>,
    /// PEM file with its private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<At<String>>,
    /// The name in its certificate, and in SNI. The endpoint's host unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_name: Option<At<String>>,
}

/// Batches of one signal: spans, log records or metrics.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct OtlpBatch {
    /// How long something waits for more at most. More than 0s.
    pub(crate) delay: At<Duration>,
    /// How much is sent at once, in bytes before compression: 16KiB to 3MiB, and no more
    /// than half of `queue` in any case. More than a quarter of a mebibyte makes nothing faster, and
    /// most collectors refuse 4 MiB.
    pub(crate) max_bytes: At<Size>,
    /// How much of a signal may wait, over all workers, what is being sent included: at least
    /// `maxBytes`, at most 1GiB. What comes beyond is dropped, and counted.
    pub(crate) queue: At<Size>,
}

impl Default for OtlpBatch {
    fn default() -> Self {
        Self {
            delay: Duration::secs(1).into(),
            max_bytes: Size(256 << 10).into(),
            queue: Size(8 << 20).into(),
        }
    }
}
