//! What is said of one signal.

use http::{HeaderName, HeaderValue};

use super::{
    Endpoint, Exporter, Of, collector_url,
    variables::{Reader, pairs},
};
use crate::{
    config::{model::OtlpProtocol, report::quote, syntax},
    telemetry::otlp::Signal,
};

impl Reader<'_> {
    pub(super) fn signal(&mut self, signal: Signal) -> Of {
        let kind = signal.name().to_uppercase();
        // Batches are those of the span processor and of the record processor; metrics come all at
        // once.
        let batch = match signal {
            Signal::Traces => "OTEL_BSP",
            Signal::Logs => "OTEL_BLRP",
            Signal::Metrics => "OTEL_METRIC",
        };
        let own = |what: &str| format!("OTEL_EXPORTER_OTLP_{kind}_{what}");
        let shared = |what: &str| format!("OTEL_EXPORTER_OTLP_{what}");
        let insecure = self
            .flag(&own("INSECURE"))
            .or_else(|| self.flag(&shared("INSECURE")));
        let endpoint = self
            .endpoint(&own("ENDPOINT"), insecure, true)
            .or_else(|| self.endpoint(&shared("ENDPOINT"), insecure, false));
        let batched = signal != Signal::Metrics;
        Of {
            exporter: self.exporter(&format!("OTEL_{kind}_EXPORTER"), signal),
            endpoint,
            protocol: self.either(&own("PROTOCOL"), &shared("PROTOCOL"), Self::protocol),
            headers: self.either(&own("HEADERS"), &shared("HEADERS"), Self::headers),
            timeout: self.either(&own("TIMEOUT"), &shared("TIMEOUT"), Self::millis),
            gzip: self.either(&own("COMPRESSION"), &shared("COMPRESSION"), Self::gzip),
            certificate: self.either(&own("CERTIFICATE"), &shared("CERTIFICATE"), Self::path),
            client_certificate: self.either(
                &own("CLIENT_CERTIFICATE"),
                &shared("CLIENT_CERTIFICATE"),
                Self::path,
            ),
            client_key: self.either(&own("CLIENT_KEY"), &shared("CLIENT_KEY"), Self::path),
            delay: batched
                .then(|| self.millis(&format!("{batch}_SCHEDULE_DELAY")))
                .flatten(),
            queue_items: batched
                .then(|| self.positive(&format!("{batch}_MAX_QUEUE_SIZE")))
                .flatten(),
            batch_items: batched
                .then(|| self.positive(&format!("{batch}_MAX_EXPORT_BATCH_SIZE")))
                .flatten(),
            export_timeout: self.millis(&format!("{batch}_EXPORT_TIMEOUT")),
        }
    }

    fn exporter(&mut self, name: &str, signal: Signal) -> Option<Exporter> {
        let text = self.text(name)?;
        let mut exporter = None;
        for word in text.split(',').map(str::trim) {
            match word {
                "otlp" => exporter = Some(Exporter::Otlp),
                "none" => exporter = exporter.or(Some(Exporter::None)),
                "prometheus" if signal == Signal::Metrics => {
                    exporter = exporter.or(Some(Exporter::None));
                }
                _ => drop(self.ignore::<()>(
                    name,
                    format!("there is no exporter {}, only otlp and none", quote(word)),
                )),
            }
        }
        exporter
    }

    fn endpoint(&mut self, name: &str, insecure: Option<bool>, exact: bool) -> Option<Endpoint> {
        let text = self.text(name)?;
        let Some(uri) = collector_url(&text) else {
            return self.ignore(
                name,
                format!("{} is not the URL of a collector", quote(&text)),
            );
        };
        // Only `host:port` leaves it open whether it is TLS.
        let uri = match uri.scheme() {
            Some(_) => uri,
            None => {
                let scheme = match insecure {
                    Some(true) => "http",
                    _ => "https",
                };
                format!("{scheme}://{text}").parse().ok()?
            }
        };
        Some(Endpoint { uri, exact })
    }

    fn protocol(&mut self, name: &str) -> Option<OtlpProtocol> {
        let text = self.text(name)?;
        match text.as_str() {
            "grpc" => Some(OtlpProtocol::Grpc),
            "http/protobuf" => Some(OtlpProtocol::HttpProtobuf),
            "http/json" => {
                let why = "http/json is not spoken; http/protobuf is used";
                self.warn(format!("{name}: {why}"));
                Some(OtlpProtocol::HttpProtobuf)
            }
            _ => self.ignore(
                name,
                format!("{} is neither grpc nor http/protobuf", quote(&text)),
            ),
        }
    }

    fn gzip(&mut self, name: &str) -> Option<bool> {
        let text = self.text(name)?;
        match text.as_str() {
            "gzip" => Some(true),
            "none" => Some(false),
            _ => self.ignore(name, format!("{} is neither gzip nor none", quote(&text))),
        }
    }

    /// `name=value,name=value`, values percent-encoded.
    fn headers(&mut self, name: &str) -> Option<Vec<(HeaderName, HeaderValue)>> {
        let text = self.text(name)?;
        let mut headers = Vec::new();
        for pair in pairs(&text) {
            // Not shown: it holds a secret.
            let read = pair.and_then(|(name, value)| {
                let mut value = HeaderValue::from_str(&value).ok()?;
                value.set_sensitive(true);
                Some((syntax::edited_header(name).ok()?, value))
            });
            match read {
                Some(header) => headers.push(header),
                None => drop(self.ignore::<()>(name, "a pair in it is not name=value")),
            }
        }
        Some(headers)
    }
}
