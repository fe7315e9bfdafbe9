//! Where telemetry is sent: the file's word, and before it the environment's.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use http::{HeaderName, HeaderValue, Uri};

use super::Resolver;
use crate::{
    config::{
        decode::At,
        model::{Config, Export, KeyPair, Otlp, OtlpBatch, OtlpProtocol, OtlpTls},
        otel::{Of, collector_header, collector_url, no_collector},
        raw,
        report::Fault,
        syntax,
        units::Size,
    },
    telemetry::otlp::{Signal, destination},
};

/// The bounds of `batch.maxBytes`: below, an export is mostly its frame; above, servers of gRPC
/// refuse it, whose limit is 4 MiB.
const MAX_BYTES: std::ops::RangeInclusive<u64> = 16 << 10..=3 << 20;
/// The most that may wait.
const MAX_QUEUE: u64 = 1 << 30;

/// What the file says, for all signals.
struct Written {
    endpoint: Option<Uri>,
    protocol: OtlpProtocol,
    headers: Vec<(HeaderName, HeaderValue)>,
    gzip: bool,
    timeout: Duration,
    tls: OtlpTls,
    batch: OtlpBatch,
}

impl Resolver<'_> {
    pub(super) fn otlp(&mut self, raw: &raw::Otlp) -> Otlp {
        let written = Written {
            endpoint: raw
                .endpoint
                .as_ref()
                .and_then(|endpoint| self.parse(endpoint, endpoint_url)),
            protocol: match raw.protocol {
                raw::OtlpProtocol::Grpc => OtlpProtocol::Grpc,
                raw::OtlpProtocol::HttpProtobuf => OtlpProtocol::HttpProtobuf,
            },
            headers: self.otlp_headers(&raw.headers.value),
            gzip: match raw.compression {
                raw::OtlpCompression::None => false,
                raw::OtlpCompression::Gzip => true,
            },
            timeout: self.positive(&raw.timeout),
            tls: self.otlp_tls(&raw.tls),
            batch: self.otlp_batch(&raw.batch),
        };
        let mut resource = self.otel.place.clone();
        for (name, value) in &raw.resource.value {
            resource.insert(name.as_str().into(), value.value.as_str().into());
        }
        resource.extend(self.otel.resource.clone());
        Otlp {
            resource,
            traces: written.of(Signal::Traces, self.otel.of(Signal::Traces)),
            metrics: written.of(Signal::Metrics, self.otel.of(Signal::Metrics)),
            logs: written.of(Signal::Logs, self.otel.of(Signal::Logs)),
        }
    }

    fn otlp_headers(
        &mut self,
        raw: &BTreeMap<String, At<String>>,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let read = |(name, value): (&String, &At<String>)| {
            let name = match collector_header(name) {
                Ok(name) => name,
                Err(fault) => {
                    self.fault(value.node, fault);
                    return None;
                }
            };
            // The usual fault would show the secret.
            let secret = |text: &str| {
                let mut value = syntax::header_value(text)
                    .map_err(|_| Fault::new("this can't be a header's value"))?;
                value.set_sensitive(true);
                Ok(value)
            };
            Some((name, self.parse(value, secret)?))
        };
        raw.iter().filter_map(read).collect()
    }

    fn otlp_tls(&mut self, written: &At<raw::OtlpTls>) -> OtlpTls {
        let raw = &written.value;
        let identity = match (&raw.certificate, &raw.key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => self
                .file(certificate)
                .zip(self.file(key))
                .map(|(certificate, key)| KeyPair { certificate, key }),
            _ => {
                let fault = Fault::new("a client's certificate is `certificate` with its `key`");
                self.fault(written.node, fault.hint("write both, or neither"));
                None
            }
        };
        OtlpTls {
            authorities: self.files(&raw.authorities),
            identity,
            server_name: raw
                .server_name
                .as_ref()
                .and_then(|name| self.parse(name, super::tls::server_name)),
        }
    }

    fn otlp_batch(&mut self, raw: &raw::OtlpBatch) -> OtlpBatch {
        let max_bytes = raw.max_bytes.value;
        if !MAX_BYTES.contains(&max_bytes.0) {
            let (least, most) = (Size(*MAX_BYTES.start()), Size(*MAX_BYTES.end()));
            let fault = Fault::new(format!("{max_bytes} is not a size for a batch"));
            self.fault(raw.max_bytes.node, fault.hint(format!("{least} to {most}")));
        }
        let queue = raw.queue.value;
        // Of a size that is wrong itself nothing more follows.
        let least = max_bytes.0 * u64::from(MAX_BYTES.contains(&max_bytes.0));
        if !(least..=MAX_QUEUE).contains(&queue.0) {
            let fault = Fault::new(format!("{queue} is not a size for this queue"));
            let hint = format!("from `maxBytes` ({max_bytes}) to {}", Size(MAX_QUEUE));
            self.fault(raw.queue.node.or(raw.max_bytes.node), fault.hint(hint));
        }
        OtlpBatch {
            delay: self.positive(&raw.delay),
            max_bytes: max_bytes.get(),
            max_items: None,
            queue_bytes: queue.get(),
            queue_items: None,
        }
    }
}

/// Of what is exported: where collectors commonly speak another protocol than the one that was
/// chosen.
pub(super) fn doubts(config: &Config) -> Vec<String> {
    let exports = Signal::ALL
        .iter()
        .filter_map(|&signal| destination(config, signal));
    let mut doubts = Vec::new();
    for doubt in exports.filter_map(doubt) {
        if !doubts.contains(&doubt) {
            doubts.push(doubt);
        }
    }
    doubts
}

fn doubt(export: &Export) -> Option<String> {
    let other = match export.protocol {
        OtlpProtocol::Grpc => OtlpProtocol::HttpProtobuf,
        OtlpProtocol::HttpProtobuf => OtlpProtocol::Grpc,
    };
    let authority = export.endpoint.authority()?;
    let suspect = authority.port_u16()? == default_endpoint(other).port_u16()?;
    suspect.then(|| {
        let (chosen, other) = (export.protocol.name(), other.name());
        format!(
            "telemetry goes to {authority} by {chosen}, but that is the port of {other}: is `otlp.protocol` right?"
        )
    })
}

impl Written {
    /// For one signal, with what the environment says of it.
    fn of(&self, signal: Signal, env: &Of) -> Export {
        let protocol = env.protocol.unwrap_or(self.protocol);
        let whole = |base: &Uri| match protocol {
            OtlpProtocol::Grpc => base.clone(),
            OtlpProtocol::HttpProtobuf => below(base, signal),
        };
        let endpoint = match &env.endpoint {
            Some(url) if url.exact => url.uri.clone(),
            Some(url) => whole(&url.uri),
            None => self
                .endpoint
                .as_ref()
                .map_or_else(|| whole(&default_endpoint(protocol)), whole),
        };
        let timeout = env.timeout.unwrap_or(self.timeout);
        let batch = &self.batch;
        Export {
            endpoint,
            protocol,
            headers: env.headers.clone().unwrap_or_else(|| self.headers.clone()),
            gzip: env.gzip.unwrap_or(self.gzip),
            timeout: env.export_timeout.map_or(timeout, |most| timeout.min(most)),
            tls: OtlpTls {
                authorities: env.certificate.as_ref().map_or_else(
                    || self.tls.authorities.clone(),
                    |file| vec![PathBuf::clone(file)],
                ),
                identity: env.identity.clone().or_else(|| self.tls.identity.clone()),
                server_name: self.tls.server_name.clone(),
            },
            batch: OtlpBatch {
                delay: env.delay.unwrap_or(batch.delay),
                max_items: env.batch_items,
                queue_items: env.queue_items,
                ..*batch
            },
        }
    }
}

fn endpoint_url(text: &str) -> Result<Uri, Fault> {
    let uri = collector_url(text).filter(|uri| uri.scheme().is_some());
    uri.ok_or_else(|| {
        Fault::new(no_collector(text))
            .hint("for example http://127.0.0.1:4317; credentials are written as `headers`")
    })
}

/// Where collectors listen.
fn default_endpoint(protocol: OtlpProtocol) -> Uri {
    match protocol {
        OtlpProtocol::Grpc => Uri::from_static("http://127.0.0.1:4317"),
        OtlpProtocol::HttpProtobuf => Uri::from_static("http://127.0.0.1:4318"),
    }
}

/// The path of a signal below a base.
fn below(base: &Uri, signal: Signal) -> Uri {
    let path = format!("{}/v1/{}", base.path().trim_end_matches('/'), signal.name());
    let mut parts = base.clone().into_parts();
    parts.path_and_query = path.parse().ok();
    // A path was added to a scheme and an authority.
    Uri::from_parts(parts).unwrap_or_else(|_| base.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn signals_have_paths_of_their_own_below_a_base() {
        let below = |base| below(&Uri::from_static(base), Signal::Logs).to_string();
        assert_eq!(below("http://a:1"), "http://a:1/v1/logs");
        assert_eq!(below("https://a:1/otlp/"), "https://a:1/otlp/v1/logs");
    }

    #[test]
    fn the_port_of_the_other_protocol_is_doubted() {
        let doubts = |otlp: &str, on: &str| {
            let text = format!(
                "otlp: {{ {otlp} }}\n{on}\nlisteners: [{{ address: 127.0.0.1:1, upstream: a }}]\n\
                 upstreams: [{{ name: a, endpoints: [127.0.0.1:2] }}]"
            );
            let loaded = config::parse("test.yaml", &text, &|_| None).unwrap();
            loaded.notes.doubts
        };
        const BOTH: &str = "tracing: {}\nmetrics: { otlp: {} }";
        let swapped = "endpoint: \"http://a:4318\"";
        assert_eq!(
            doubts(swapped, BOTH),
            [
                "telemetry goes to a:4318 by grpc, but that is the port of http/protobuf: is `otlp.protocol` right?"
            ]
        );
        assert_eq!(doubts(swapped, "").len(), 0);
        let swapped = "endpoint: \"http://a:4317\", protocol: http/protobuf";
        assert_eq!(doubts(swapped, BOTH).len(), 1);
        for good in ["", "protocol: http/protobuf", "endpoint: \"https://a\""] {
            assert_eq!(doubts(good, BOTH).len(), 0);
        }
    }

    #[test]
    fn urls_have_a_scheme_and_a_host() {
        assert!(endpoint_url("http://127.0.0.1:4317").is_ok());
        assert!(endpoint_url("https://[::1]").is_ok());
        for bad in [
            "127.0.0.1:4317",
            "ftp://a",
            "http://",
            "/a",
            "",
            "http://u:p@a",
            "http://127.0.0.1:99999",
            "http://[::1]:0",
            "http://a:",
        ] {
            assert!(endpoint_url(bad).is_err(), "{bad}");
        }
    }
}
