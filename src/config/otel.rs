//! What the `OTEL_*` variables say, in one place: read once, typed, asked by everything that
//! resolves a piece of telemetry. The environment goes before the files.
//!
//! The rules are those of OpenTelemetry's "Environment Variable Specification": an
//! empty variable is unset; of a number, a name or a URL that can't be read it is told, and it is
//! ignored. None of them ever keeps the process from starting.

use std::{
    collections::BTreeMap, fmt::Display, path::PathBuf, str::FromStr, sync::Arc, time::Duration,
};

use http::{HeaderName, HeaderValue, Uri, uri::Scheme};

use opentelemetry_semantic_conventions::resource::{
    K8S_NAMESPACE_NAME, K8S_NODE_NAME, K8S_POD_NAME,
};

use super::{
    env::Environment,
    model::{KeyPair, OtlpProtocol},
    report::quote,
    syntax,
};
use crate::telemetry::otlp::Signal;

/// Everything that was said.
#[derive(Debug, Default)]
pub(super) struct Otel {
    /// `OTEL_SDK_DISABLED`: no span, no export, whatever else is written.
    pub(super) disabled: bool,
    pub(super) sampler: Option<Sampler>,
    /// `OTEL_PROPAGATORS`; empty for `none`.
    pub(super) propagators: Option<Vec<Propagator>>,
    /// `OTEL_METRIC_EXPORT_INTERVAL`.
    pub(super) metric_interval: Option<Duration>,
    /// `OTEL_RESOURCE_ATTRIBUTES`, and `OTEL_SERVICE_NAME`, which goes before them.
    pub(super) resource: BTreeMap<Arc<str>, Arc<str>>,
    /// Where in a Kubernetes cluster the process runs, by the names that its pods commonly have for
    /// it. Goes behind everything that was written.
    pub(super) place: BTreeMap<Arc<str>, Arc<str>>,
    /// What was ignored, for a person.
    pub(super) warnings: Vec<String>,
    traces: Of,
    metrics: Of,
    logs: Of,
}

/// What concerns one signal. Where there is a variable for this signal and one for all, this is
/// what comes of both.
#[derive(Debug, Default)]
pub(super) struct Of {
    /// `OTEL_*_EXPORTER`.
    exporter: Option<Exporter>,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) protocol: Option<OtlpProtocol>,
    pub(super) headers: Option<Vec<(HeaderName, HeaderValue)>>,
    pub(super) timeout: Option<Duration>,
    pub(super) gzip: Option<bool>,
    pub(super) certificate: Option<PathBuf>,
    client_certificate: Option<PathBuf>,
    client_key: Option<PathBuf>,
    /// `SCHEDULE_DELAY` of batches.
    pub(super) delay: Option<Duration>,
    pub(super) queue_items: Option<usize>,
    pub(super) batch_items: Option<usize>,
    pub(super) export_timeout: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exporter {
    Otlp,
    /// `none`; and of metrics `prometheus`, since `/metrics` is always there.
    None,
}

/// Where a signal goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// With a scheme.
    pub(super) uri: Uri,
    /// It was given for this signal: over HTTP nothing is added to its path.
    pub(super) exact: bool,
}

/// `OTEL_TRACES_SAMPLER` with its argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sampler {
    /// What a parent decided holds; the ratio is for traces that begin here.
    pub(super) parent_based: bool,
    /// From 0 to 1.
    pub(super) ratio: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Propagator {
    TraceContext,
    Baggage,
    B3,
    B3Multi,
}

impl Otel {
    pub(super) fn read(env: Environment<'_>) -> Self {
        let mut reader = Reader {
            env,
            warnings: Vec::new(),
        };
        let mut otel = Self {
            disabled: reader.flag("OTEL_SDK_DISABLED").unwrap_or(false),
            sampler: reader.sampler(),
            propagators: reader.propagators(),
            metric_interval: reader.millis("OTEL_METRIC_EXPORT_INTERVAL"),
            resource: reader.resource(),
            place: reader.place(),
            traces: reader.signal(Signal::Traces),
            metrics: reader.signal(Signal::Metrics),
            logs: reader.signal(Signal::Logs),
            warnings: Vec::new(),
        };
        otel.warnings = reader.warnings;
        otel
    }

    pub(super) const fn of(&self, signal: Signal) -> &Of {
        match signal {
            Signal::Traces => &self.traces,
            Signal::Metrics => &self.metrics,
            Signal::Logs => &self.logs,
        }
    }

    /// Whether the environment wants a signal exported. `None`: it leaves that to the files. Naming
    /// a collector is wish enough for spans, which go nowhere else; metrics and logs have to be
    /// asked for by name.
    pub(super) fn exports(&self, signal: Signal) -> Option<bool> {
        let of = self.of(signal);
        match of.exporter {
            _ if self.disabled => Some(false),
            Some(exporter) => Some(exporter == Exporter::Otlp),
            None => (signal == Signal::Traces && of.endpoint.is_some()).then_some(true),
        }
    }
}

impl Of {
    /// What the collector is shown.
    pub(super) fn identity(&self) -> Option<KeyPair> {
        let (certificate, key) = (self.client_certificate.clone()?, self.client_key.clone()?);
        Some(KeyPair { certificate, key })
    }
}

/// An absolute URL, or `host:port`, without a user and with nothing behind its path.
pub(super) fn collector_url(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let scheme = uri
        .scheme()
        .is_none_or(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
    let authority = uri.authority()?;
    let plain = !authority.host().is_empty() && !authority.as_str().contains('@');
    (scheme && plain && uri.query().is_none()).then_some(uri)
}

struct Reader<'a> {
    env: Environment<'a>,
    warnings: Vec<String>,
}

impl Reader<'_> {
    fn signal(&mut self, signal: Signal) -> Of {
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

    /// The value; `None` where it is unset or empty.
    fn text(&self, name: &str) -> Option<String> {
        let value = (self.env)(name)?;
        let value = value.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }

    fn ignore<T>(&mut self, name: &str, why: impl Display) -> Option<T> {
        self.warnings.push(format!("{name} is ignored: {why}"));
        None
    }

    fn either<T>(
        &mut self,
        own: &str,
        shared: &str,
        read: impl Fn(&mut Self, &str) -> Option<T>,
    ) -> Option<T> {
        read(self, own).or_else(|| read(self, shared))
    }

    /// Anything but `true` is false.
    fn flag(&mut self, name: &str) -> Option<bool> {
        let text = self.text(name)?;
        let flag = text.eq_ignore_ascii_case("true");
        if !flag && !text.eq_ignore_ascii_case("false") {
            let why = format!(
                "{} is neither true nor false, and taken for false",
                quote(&text)
            );
            self.warnings.push(format!("{name}: {why}"));
        }
        Some(flag)
    }

    fn number<T: FromStr>(&mut self, name: &str) -> Option<T> {
        let text = self.text(name)?;
        let number = text.parse().ok();
        number.or_else(|| self.ignore(name, format!("{} is not such a number", quote(&text))))
    }

    fn positive(&mut self, name: &str) -> Option<usize> {
        match self.number(name)? {
            0 => self.ignore(name, "0 is too few"),
            number => Some(number),
        }
    }

    /// A number of milliseconds, up to a day.
    fn millis(&mut self, name: &str) -> Option<Duration> {
        match self.number::<u64>(name)? {
            0 => self.ignore(name, "0 would leave no time"),
            millis => Some(Duration::from_millis(millis.min(24 * 60 * 60 * 1000))),
        }
    }

    fn path(&mut self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
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
                self.warnings.push(format!("{name}: {why}"));
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

    fn resource(&mut self) -> BTreeMap<Arc<str>, Arc<str>> {
        const NAME: &str = "OTEL_RESOURCE_ATTRIBUTES";
        let text = self.text(NAME).unwrap_or_default();
        let attributes: Option<BTreeMap<Arc<str>, Arc<str>>> = pairs(&text)
            .map(|pair| pair.map(|(name, value)| (name.into(), value.into())))
            .collect();
        // All or nothing, as the specification has it.
        let attributes = attributes.or_else(|| self.ignore(NAME, "a pair in it is not name=value"));
        let mut attributes = attributes.unwrap_or_default();
        if let Some(name) = self.text("OTEL_SERVICE_NAME") {
            attributes.insert("service.name".into(), name.into());
        }
        attributes
    }

    fn place(&self) -> BTreeMap<Arc<str>, Arc<str>> {
        let known = [
            ("POD_NAME", K8S_POD_NAME),
            ("POD_NAMESPACE", K8S_NAMESPACE_NAME),
            ("NODE_NAME", K8S_NODE_NAME),
        ];
        let told = known.map(|(name, attribute)| Some((attribute.into(), self.text(name)?.into())));
        told.into_iter().flatten().collect()
    }

    fn sampler(&mut self) -> Option<Sampler> {
        const NAME: &str = "OTEL_TRACES_SAMPLER";
        let text = self.text(NAME)?;
        let (parent_based, root) = match text.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, text.as_str()),
        };
        let ratio = match root {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => self.ratio().unwrap_or(1.0),
            _ => return self.ignore(NAME, format!("there is no sampler {}", quote(&text))),
        };
        Some(Sampler {
            parent_based,
            ratio,
        })
    }

    fn ratio(&mut self) -> Option<f64> {
        const NAME: &str = "OTEL_TRACES_SAMPLER_ARG";
        let ratio = self.number::<f64>(NAME)?;
        match (0.0..=1.0).contains(&ratio) {
            true => Some(ratio),
            false => self.ignore(NAME, format!("{ratio} is not from 0 to 1")),
        }
    }

    fn propagators(&mut self) -> Option<Vec<Propagator>> {
        const NAME: &str = "OTEL_PROPAGATORS";
        let text = self.text(NAME)?;
        let mut propagators = Vec::new();
        for word in text.split(',').map(str::trim) {
            let propagator = match word {
                "none" | "" => continue,
                "tracecontext" => Propagator::TraceContext,
                "baggage" => Propagator::Baggage,
                "b3" => Propagator::B3,
                "b3multi" => Propagator::B3Multi,
                _ => {
                    let why = format!("{} is not spoken", quote(word));
                    self.warnings.push(format!("{NAME}: {why}"));
                    continue;
                }
            };
            if !propagators.contains(&propagator) {
                propagators.push(propagator);
            }
        }
        // Nothing that is known: as if it were unset.
        let none = text == "none";
        (none || !propagators.is_empty()).then_some(propagators)
    }
}

/// The pairs of a list in the form of W3C Baggage, without its properties; `None` for what is none.
fn pairs(text: &str) -> impl Iterator<Item = Option<(&str, String)>> {
    let written = text
        .split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty());
    written.map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let name = name.trim();
        (!name.is_empty()).then_some((name, decoded(value.trim())?))
    })
}

/// Percent-decoded.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Otel {
        Otel::read(&|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn endpoint(otel: &Otel, signal: Signal) -> Option<(String, bool)> {
        let endpoint = otel.of(signal).endpoint.as_ref()?;
        Some((endpoint.uri.to_string(), endpoint.exact))
    }

    #[test]
    fn nothing_and_emptiness_say_nothing() {
        let otel = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", " "),
            ("OTEL_SDK_DISABLED", ""),
        ]);
        for signal in Signal::ALL {
            assert_eq!(otel.exports(signal), None);
            assert_eq!(endpoint(&otel, signal), None);
        }
        assert!(otel.resource.is_empty() && otel.warnings.is_empty() && !otel.disabled);
    }

    #[test]
    fn a_collector_is_wish_enough_for_spans_alone() {
        let otel = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317")]);
        assert_eq!(otel.exports(Signal::Traces), Some(true));
        assert_eq!(otel.exports(Signal::Metrics), None);
        assert_eq!(otel.exports(Signal::Logs), None);
        let asked = read(&[
            ("OTEL_METRICS_EXPORTER", "otlp"),
            ("OTEL_LOGS_EXPORTER", "otlp"),
        ]);
        assert_eq!(asked.exports(Signal::Metrics), Some(true));
        assert_eq!(asked.exports(Signal::Logs), Some(true));
        assert_eq!(asked.exports(Signal::Traces), None);
    }

    #[test]
    fn exporters_can_be_forbidden() {
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317");
        let off = read(&[base, ("OTEL_TRACES_EXPORTER", "none")]);
        assert_eq!(off.exports(Signal::Traces), Some(false));
        let off = read(&[
            base,
            ("OTEL_SDK_DISABLED", "TRUE"),
            ("OTEL_LOGS_EXPORTER", "otlp"),
        ]);
        assert!(
            Signal::ALL
                .iter()
                .all(|&signal| off.exports(signal) == Some(false))
        );
        let scraped = read(&[("OTEL_METRICS_EXPORTER", "prometheus")]);
        assert_eq!(scraped.exports(Signal::Metrics), Some(false));
        let odd = read(&[base, ("OTEL_TRACES_EXPORTER", "zipkin")]);
        assert_eq!(odd.exports(Signal::Traces), Some(true));
        assert_eq!(odd.warnings.len(), 1);
        let both = read(&[("OTEL_METRICS_EXPORTER", "prometheus, otlp")]);
        assert_eq!(both.exports(Signal::Metrics), Some(true));
    }

    #[test]
    fn what_is_said_of_a_signal_goes_before_what_is_said_of_all() {
        let otel = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318/base"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "https://logs/here"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2000"),
            ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "3000"),
            ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ]);
        let traces = endpoint(&otel, Signal::Traces).unwrap();
        assert_eq!(traces, ("http://all:4318/base".to_owned(), false));
        let logs = endpoint(&otel, Signal::Logs).unwrap();
        assert_eq!(logs, ("https://logs/here".to_owned(), true));
        assert_eq!(otel.logs.timeout, Some(Duration::from_secs(3)));
        assert_eq!(otel.traces.timeout, Some(Duration::from_secs(2)));
        assert_eq!(otel.metrics.protocol, Some(OtlpProtocol::HttpProtobuf));
        assert_eq!(otel.traces.protocol, None);
        assert_eq!(otel.traces.gzip, Some(true));
    }

    #[test]
    fn a_host_without_a_scheme_is_tls_unless_said_otherwise() {
        let host = ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317");
        let secure = endpoint(&read(&[host]), Signal::Traces).unwrap();
        assert_eq!(secure.0, "https://collector:4317/");
        let insecure = read(&[host, ("OTEL_EXPORTER_OTLP_INSECURE", "true")]);
        assert_eq!(
            endpoint(&insecure, Signal::Traces).unwrap().0,
            "http://collector:4317/"
        );
    }

    #[test]
    fn headers_and_resources_are_percent_decoded() {
        let otel = read(&[
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "Authorization=Basic%20YTpi, x-a = 1=2 ,,broken",
            ),
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "service.name=old,team=%C3%BCber%2C%20all",
            ),
            ("OTEL_SERVICE_NAME", "shop"),
        ]);
        let headers = otel.traces.headers.unwrap();
        let shown: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        assert_eq!(shown, [("authorization", "Basic YTpi"), ("x-a", "1=2")]);
        assert!(headers.iter().all(|(_, value)| value.is_sensitive()));
        assert_eq!(&*otel.resource["service.name"], "shop");
        assert_eq!(&*otel.resource["team"], "\u{fc}ber, all");
        // Once for each signal that has no headers of its own.
        assert_eq!(otel.warnings.len(), 3);
        let broken = read(&[("OTEL_RESOURCE_ATTRIBUTES", "a=1,b=%zz")]);
        assert!(broken.resource.is_empty() && broken.warnings.len() == 1);
    }

    #[test]
    fn samplers() {
        let sampler = |name, argument| {
            let otel = read(&[
                ("OTEL_TRACES_SAMPLER", name),
                ("OTEL_TRACES_SAMPLER_ARG", argument),
            ]);
            otel.sampler
                .map(|sampler| (sampler.parent_based, sampler.ratio))
        };
        assert_eq!(sampler("always_on", ""), Some((false, 1.0)));
        assert_eq!(sampler("parentbased_always_off", ""), Some((true, 0.0)));
        assert_eq!(
            sampler("parentbased_traceidratio", "0.25"),
            Some((true, 0.25))
        );
        assert_eq!(sampler("traceidratio", "7"), Some((false, 1.0)));
        assert_eq!(sampler("traceidratio", "NaN"), Some((false, 1.0)));
        assert_eq!(sampler("jaeger_remote", ""), None);
    }

    #[test]
    fn propagators() {
        let propagators = |text| read(&[("OTEL_PROPAGATORS", text)]).propagators;
        use Propagator::*;
        assert_eq!(propagators("b3, baggage,b3"), Some(vec![B3, Baggage]));
        assert_eq!(propagators("tracecontext,xray"), Some(vec![TraceContext]));
        assert_eq!(propagators("none"), Some(vec![]));
        assert_eq!(propagators("xray"), None);
        assert_eq!(propagators("b3multi"), Some(vec![B3Multi]));
    }

    #[test]
    fn numbers_that_can_not_be_are_ignored_and_told() {
        let otel = read(&[
            ("OTEL_BSP_SCHEDULE_DELAY", "250"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "-1"),
            ("OTEL_BLRP_EXPORT_TIMEOUT", "soon"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "5000"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ]);
        assert_eq!(otel.traces.delay, Some(Duration::from_millis(250)));
        assert_eq!(
            (otel.traces.batch_items, otel.traces.queue_items),
            (None, None)
        );
        assert_eq!(otel.logs.export_timeout, None);
        assert_eq!(otel.metric_interval, Some(Duration::from_secs(5)));
        assert_eq!(otel.logs.protocol, Some(OtlpProtocol::HttpProtobuf));
        assert_eq!(otel.warnings.len(), 3 + 3);
    }
}
