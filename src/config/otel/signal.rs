//! What is said of one signal.

use http::{HeaderName, HeaderValue};

use super::{
    Endpoint, Exporter, Of, collector_header, collector_url, no_collector,
    variables::{Reader, pairs},
};
use crate::{
    config::{
        model::{KeyPair, OtlpProtocol},
        report::quote,
    },
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
        let insecure = self.either(&own("INSECURE"), &shared("INSECURE"), Self::flag);
        let own_endpoint = own("ENDPOINT");
        let endpoint = self.either(&own_endpoint, &shared("ENDPOINT"), |reader, name| {
            reader.endpoint(name, insecure, name == own_endpoint)
        });
        let batched = signal != Signal::Metrics;
        let queue_items = batched
            .then(|| self.positive(&format!("{batch}_MAX_QUEUE_SIZE")))
            .flatten();
        let batch_items = batched
            .then(|| self.batch_items(batch, queue_items))
            .flatten();
        Of {
            exporter: self.exporter(&exporter_variable(signal), signal),
            endpoint,
            protocol: self.either(&own("PROTOCOL"), &shared("PROTOCOL"), Self::protocol),
            headers: self.either(&own("HEADERS"), &shared("HEADERS"), Self::headers),
            timeout: self.either(&own("TIMEOUT"), &shared("TIMEOUT"), Self::limit),
            gzip: self.either(&own("COMPRESSION"), &shared("COMPRESSION"), Self::gzip),
            certificate: self.either(&own("CERTIFICATE"), &shared("CERTIFICATE"), Self::path),
            identity: self.identity(own, shared),
            delay: batched
                .then(|| self.millis(&format!("{batch}_SCHEDULE_DELAY")))
                .flatten(),
            queue_items,
            batch_items,
            export_timeout: self.limit(&format!("{batch}_EXPORT_TIMEOUT")),
            value_length: self.value_length(signal),
        }
    }

    /// No more than may wait, as the specification has it.
    fn batch_items(&mut self, batch: &str, queue: Option<usize>) -> Option<usize> {
        let name = format!("{batch}_MAX_EXPORT_BATCH_SIZE");
        let items = self.positive(&name)?;
        if let Some(queue) = queue.filter(|queue| *queue < items) {
            // While one half is sent there is room for the other.
            let half = queue.div_ceil(2);
            let why = format!(
                "{items} is more than {batch}_MAX_QUEUE_SIZE; half of that is sent at once, {half}"
            );
            self.warn(format!("{name}: {why}"));
        }
        Some(queue.map_or(items, |queue| items.min(queue)))
    }

    /// Metrics know no such limit.
    fn value_length(&mut self, signal: Signal) -> Option<usize> {
        let own = match signal {
            Signal::Traces => "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
            Signal::Logs => "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT",
            Signal::Metrics => return None,
        };
        self.either(own, "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", Self::positive)
    }

    fn exporter(&mut self, name: &str, signal: Signal) -> Option<Exporter> {
        let text = self.text(name)?;
        let mut exporter = None;
        let mut unknown = Vec::new();
        for word in text.split(',').map(str::trim) {
            match word.to_ascii_lowercase().as_str() {
                "otlp" => exporter = Some(Exporter::Otlp),
                "none" => exporter = exporter.or(Some(Exporter::None)),
                "prometheus" if signal == Signal::Metrics => {
                    exporter = exporter.or(Some(Exporter::None));
                }
                _ => unknown.push(quote(word)),
            }
        }
        if !unknown.is_empty() {
            let ignored = match exporter {
                Some(_) => unknown.join(" and ") + " in " + name,
                None => name.to_owned(),
            };
            let why = "otlp and none are the exporters that there are";
            return self.ignore(&ignored, why).or(exporter);
        }
        exporter
    }

    fn endpoint(&mut self, name: &str, insecure: Option<bool>, exact: bool) -> Option<Endpoint> {
        let text = self.text(name)?;
        let Some(uri) = collector_url(&text) else {
            return self.ignore(name, no_collector(&text));
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

    /// Both files of it, or none.
    fn identity(
        &mut self,
        own: impl Fn(&str) -> String,
        shared: impl Fn(&str) -> String,
    ) -> Option<KeyPair> {
        const PARTS: [&str; 2] = ["CLIENT_CERTIFICATE", "CLIENT_KEY"];
        let parts = PARTS.map(|part| self.either(&own(part), &shared(part), Self::path));
        let (there, missing) = match parts {
            [Some(certificate), Some(key)] => return Some(KeyPair { certificate, key }),
            [None, None] => return None,
            [Some(_), None] => (PARTS[0], PARTS[1]),
            [None, Some(_)] => (PARTS[1], PARTS[0]),
        };
        let (name, other) = match self.text(&own(there)) {
            Some(_) => (own(there), own(missing)),
            None => (shared(there), shared(missing)),
        };
        self.ignore(&name, format!("{other} is not set"))
    }

    fn protocol(&mut self, name: &str) -> Option<OtlpProtocol> {
        let text = self.word(name)?;
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
        let text = self.word(name)?;
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
        for (index, pair) in pairs(&text).enumerate() {
            // Not shown: it holds a secret, which a slip may have put where the name belongs.
            let read = pair
                .ok_or("it is not name=value")
                .and_then(|(name, value)| {
                    let name = collector_header(name).map_err(|_| "no such header can be sent")?;
                    let mut value = HeaderValue::from_str(&value)
                        .map_err(|_| "its value can't be that of a header")?;
                    value.set_sensitive(true);
                    Ok((name, value))
                });
            match read {
                Ok(header) => headers.push(header),
                Err(why) => drop(self.ignore::<()>(&format!("pair {} in {name}", index + 1), why)),
            }
        }
        Some(headers)
    }
}

/// `OTEL_*_EXPORTER`.
pub(super) fn exporter_variable(signal: Signal) -> String {
    format!("OTEL_{}_EXPORTER", signal.name().to_uppercase())
}
