//! Where handles are found by name, and where a scrape finds them all.

use std::sync::{Arc, Mutex, PoisonError};

use super::{
    AccessMetrics, Format, ListenerMetrics, OtlpMetrics, ProcessMetrics, RouteMetrics, TlsMetrics,
    UpstreamMetrics,
    common::Common,
    exemplar::now,
    family::{Value, Visitor},
    group::Group,
    points::Points,
    room::Share,
    scrape::{Scrape, Scraped},
    text::Text,
};
use crate::{config::model, telemetry::otlp::Outlet};

/// All metrics of the process. The control world asks it for handles while it compiles a snapshot;
/// workers only ever see the handles.
#[derive(Debug)]
pub struct Registry {
    common: Arc<Common>,
    process: Arc<ProcessMetrics>,
    tls: Arc<TlsMetrics>,
    otlp: Arc<OtlpMetrics>,
    listeners: Group<ListenerMetrics>,
    routes: Group<RouteMetrics>,
    upstreams: Group<UpstreamMetrics>,
    access: Group<AccessMetrics>,
    /// Places of what there is one of, and of all that is named `_overflow`.
    kept: Mutex<Share>,
    since: u64,
}

/// Series that the registry has of itself.
const OWN: usize = 3;

/// Families whose series begin with their first event, and some more.
const EVENTS: usize = 20;

/// Series of what there is one of in a process, before they were counted.
const PROCESS: usize = 100;

impl Registry {
    /// For workers numbered from 0 up to, without, `workers`.
    pub fn new(workers: usize) -> Arc<Self> {
        let common = Common::new(workers);
        let registry = Arc::new(Self {
            process: Arc::new(ProcessMetrics::new(workers)),
            tls: Arc::new(TlsMetrics::new(workers)),
            otlp: Arc::default(),
            listeners: Group::new(&common),
            routes: Group::new(&common),
            upstreams: Group::new(&common),
            access: Group::new(&common),
            kept: Mutex::new(Share::empty(&common.room)),
            since: now(),
            common,
        });
        registry.keep(PROCESS);
        registry
    }

    /// Takes other settings, for a configuration that then asks for every handle it has. Handles
    /// that are asked for from now on are made for these: where their buckets are others, they begin
    /// anew.
    pub fn configure(&self, config: &model::Metrics) {
        self.common.configure(config);
        self.keep(PROCESS);
    }

    /// Takes the places of what is never left out, before anything else asks for them. `process`:
    /// series of what there is one of, [`PROCESS`] until the first scrape has counted them: the
    /// kernel is not asked at a start.
    fn keep(&self, process: usize) {
        let settings = self.common.settings();
        let overflow = ListenerMetrics::places(&settings)
            + RouteMetrics::places(&settings)
            + UpstreamMetrics::places(&settings)
            + AccessMetrics::places(&settings)
            + 2 * settings.histogram()
            + EVENTS;
        // A number is set whole, so a panic elsewhere leaves it so.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.insist(process + OWN + overflow);
    }

    fn describe_process(&self, scrape: &mut Scrape<'_>) {
        self.process.describe(scrape, &self.connections());
        self.tls.describe(scrape);
        self.otlp.describe(scrape);
    }

    /// What there is one of in a process.
    pub fn process(&self) -> &Arc<ProcessMetrics> {
        &self.process
    }

    /// TLS connections, and the certificates behind them.
    pub fn tls(&self) -> &Arc<TlsMetrics> {
        &self.tls
    }

    /// Telemetry that is sent.
    pub fn otlp(&self) -> &OtlpMetrics {
        &self.otlp
    }

    /// The listener's handle: the one that is in use under this name, or a new one. Its series end
    /// with its last holder.
    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        self.listeners.get(name)
    }

    /// The same for a rule of a route, by the rule's name.
    pub fn route(&self, name: &str) -> Arc<RouteMetrics> {
        self.routes.get(name)
    }

    /// The same for an upstream.
    pub fn upstream(&self, name: &str) -> Arc<UpstreamMetrics> {
        self.upstreams.get(name)
    }

    /// The same for a rule of `access` on a listener; no rule counts what none decides.
    pub fn access(&self, listener: &str, rule: &str) -> Arc<AccessMetrics> {
        self.access.get(&format!("{listener} {rule}"))
    }

    /// Everything, as `/metrics` answers it.
    pub fn encode(&self, format: Format) -> String {
        let mut text = Text::new(format);
        self.show(&mut text);
        text.finish()
    }

    /// Everything, for a collector: as messages of OTLP.
    pub fn export(&self, outlet: &Outlet) {
        let mut points = Points::new(now(), |count, message: &[u8]| {
            outlet.push_counted(count, |out| out.extend_from_slice(message));
        });
        self.show(&mut points);
        points.flush();
    }

    /// Client connections of each worker.
    fn connections(&self) -> Vec<u64> {
        let mut connections = vec![0; self.common.workers];
        for listener in self.listeners.live() {
            for (worker, count) in connections.iter_mut().enumerate() {
                *count += listener.metrics.active_at(worker);
            }
        }
        connections
    }

    /// Everything that has a place. Where the limit was lowered, there may be more than fits: of
    /// what there is most of, rules, the end is left out then.
    fn show(&self, visitor: &mut dyn Visitor) {
        let room = &self.common.room;
        let limit = room.limit();
        let mut scrape = Scrape::new(visitor, limit.saturating_sub(OWN), self.since);
        self.describe_process(&mut scrape);
        // Certificates come and go.
        self.keep(scrape.shown);
        if self.common.settings().enabled {
            self.listeners.describe(&mut scrape);
            self.access.describe(&mut scrape);
            self.upstreams.describe(&mut scrape);
            self.routes.describe(&mut scrape);
        }
        let shown = scrape.shown + OWN;
        let mut own = Scrape::new(visitor, OWN, self.since);
        own.gauge(
            "pillion_metrics_series",
            "Series in this scrape.",
            Value::level(shown as u64),
        );
        own.gauge(
            "pillion_metrics_series_limit",
            "Series that there may be at most: `metrics.maxSeries`.",
            Value::level(limit as u64),
        );
        own.counter(
            "pillion_metrics_series_overflowed",
            "Series that there was no place for: what they would have told is in series named \
             `_overflow`.",
            room.refused(),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        error::Reason,
        telemetry::{
            access_log::Protocol,
            metrics::{Attempted, Done, group::OVERFLOW},
        },
    };

    fn scrape(registry: &Registry) -> String {
        registry.encode(Format::Prometheus)
    }

    #[test]
    fn a_name_in_use_keeps_its_handle() {
        let registry = Registry::new(1);
        let first = registry.listener("web");
        assert!(Arc::ptr_eq(&first, &registry.listener("web")));
        assert!(!Arc::ptr_eq(&first, &registry.listener("other")));
    }

    #[test]
    fn series_end_with_the_last_holder() {
        let registry = Registry::new(1);
        let handle = registry.upstream("app");
        assert!(scrape(&registry).contains(r#"pillion_upstream_requests_total{upstream="app"} 0"#));
        drop(handle);
        assert!(!scrape(&registry).contains(r#"upstream="app""#));
    }

    fn limited(max_series: usize) -> Arc<Registry> {
        let registry = Registry::new(1);
        registry.configure(&model::Metrics {
            max_series,
            ..model::Metrics::default()
        });
        registry
    }

    fn series(scrape: &str) -> usize {
        scrape.lines().filter(|line| !line.starts_with('#')).count()
    }

    #[test]
    fn what_is_too_much_shares_a_handle() {
        let registry = limited(1000);
        let handles: Vec<_> = (0..100)
            .map(|n| registry.listener(&n.to_string()))
            .collect();
        for handle in &handles {
            handle.accepted(0);
        }
        let overflow = registry.listener(OVERFLOW);
        assert!(Arc::ptr_eq(&overflow, &handles[99]));
        let text = scrape(&registry);
        let counts: Vec<u64> = text
            .lines()
            .filter_map(|line| line.strip_prefix("pillion_listener_connections_total{"))
            .filter_map(|rest| rest.split_once("} ")?.1.parse().ok())
            .collect();
        assert!(counts.len() > 40 && counts.len() < 80, "{}", counts.len());
        assert_eq!(counts.iter().sum::<u64>(), 100);
        assert!(text.contains(r#"pillion_listener_connections_total{listener="_overflow"}"#));
        assert!(!text.contains("pillion_metrics_series_overflowed_total 0\n"));
    }

    #[test]
    fn a_scrape_never_tells_more_than_it_may() {
        let registry = limited(10_000);
        let handles: Vec<_> = (0..100)
            .map(|n| registry.upstream(&n.to_string()))
            .collect();
        let told = |text: &str| -> usize {
            let line = text
                .lines()
                .find(|line| line.starts_with("pillion_metrics_series "));
            line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
        };
        let text = scrape(&registry);
        assert_eq!(series(&text), told(&text));
        assert!(text.contains("pillion_metrics_series_overflowed_total 0\n"));
        registry.configure(&model::Metrics {
            max_series: 1000,
            ..model::Metrics::default()
        });
        for n in 0..100 {
            registry.upstream(&n.to_string());
        }
        let text = scrape(&registry);
        assert_eq!(series(&text), told(&text));
        assert!((950..=1000).contains(&series(&text)));
        drop(handles);
    }

    #[test]
    fn every_object_has_places_for_what_it_always_shows() {
        let registry = Registry::new(1);
        let settings = Common::new(1).settings();
        let mut before = series(&scrape(&registry));
        let mut more = |places: usize| {
            let now = series(&scrape(&registry));
            let shown = now - std::mem::replace(&mut before, now);
            assert!(shown <= places, "{shown} of {places}");
        };
        let _listener = registry.listener("a");
        more(ListenerMetrics::places(&settings));
        let _route = registry.route("a");
        more(RouteMetrics::places(&settings));
        let _upstream = registry.upstream("a");
        more(UpstreamMetrics::places(&settings));
    }

    /// Sum, and how many series there are, of a family.
    fn sum(text: &str, name: &str) -> (u64, usize) {
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let value = rest
                .starts_with(['{', ' '])
                .then(|| rest.rsplit(' ').next())?;
            value?.parse::<u64>().ok()
        });
        values.fold((0, 0), |(sum, count), value| (sum + value, count + 1))
    }

    /// Rules that each are asked once, in a process with a listener and an upstream.
    fn asked(max_series: usize, rules: usize) -> (Arc<Registry>, Vec<Arc<RouteMetrics>>, String) {
        let registry = limited(max_series);
        let (_listener, upstream) = (registry.listener("web"), registry.upstream("app"));
        let durations = upstream.durations();
        let rules: Vec<_> = (0..rules)
            .map(|n| registry.route(&format!("r{n}")))
            .collect();
        for (n, rule) in rules.iter().enumerate() {
            rule.request_started(0);
            rule.request_done(
                0,
                &Done {
                    method: &http::Method::GET,
                    status: 200,
                    grpc_status: None,
                    reason: Reason::ALL.get(n % Reason::COUNT).copied(),
                    protocol: Protocol::Http11,
                    secured: false,
                    duration: Duration::ZERO,
                    bytes_in: 0,
                    bytes_out: 0,
                    trace: None,
                },
            );
            durations.attempted(
                0,
                &Attempted {
                    method: &http::Method::GET,
                    result: Err(Reason::ALL[n % Reason::COUNT]),
                    took: Duration::ZERO,
                    trace: None,
                },
            );
        }
        let text = scrape(&registry);
        (registry, rules, text)
    }

    #[test]
    fn at_the_limit_every_request_is_counted_once_and_no_family_is_gone() {
        for max_series in [1000, 2000, 10_000] {
            for rules in [30, 60, 100, 250, 400, 440, 500, 2000] {
                let (registry, handles, text) = asked(max_series, rules);
                let told = format!("{rules} rules, {max_series} series");
                for name in [
                    "http_server_request_duration_seconds_count",
                    "pillion_http_requests_total",
                    "pillion_http_requests_failed_total",
                    "http_client_request_duration_seconds_count",
                ] {
                    assert_eq!(sum(&text, name).0, rules as u64, "{name}: {told}");
                }
                assert!(series(&text) <= max_series, "{}: {told}", series(&text));
                for line in [
                    "pillion_listener_connections_total{listener=\"web\"} 0",
                    "pillion_upstream_requests_total{upstream=\"app\"} 0",
                ] {
                    assert!(text.contains(line), "{line}: {told}");
                }
                let counted = text.matches("seconds_count{route=\"_overflow\"").count();
                assert!(counted <= 1, "{counted}: {told}");
                let blamed = text
                    .lines()
                    .find(|line| line.contains("_overflow") && line.contains("error_type"));
                assert_eq!(blamed, None, "{told}");
                let refused = sum(&text, "pillion_metrics_series_overflowed_total");
                let again = scrape(&registry);
                assert_eq!(
                    sum(&again, "pillion_metrics_series_overflowed_total"),
                    refused
                );
                assert_eq!(
                    sum(&again, "pillion_http_requests_failed_total").0,
                    rules as u64
                );
                drop(handles);
            }
        }
    }

    #[test]
    fn below_the_limit_nothing_is_refused() {
        let (_registry, _rules, text) = asked(10_000, 200);
        assert_eq!(sum(&text, "pillion_metrics_series_overflowed_total").0, 0);
        assert!(!text.contains("_overflow\""));
    }

    #[test]
    fn traffic_leaves_room_for_what_a_configuration_adds() {
        let (registry, _rules, _) = asked(2000, 300);
        let upstream = registry.upstream("later");
        let text = scrape(&registry);
        assert!(text.contains("pillion_upstream_requests_total{upstream=\"later\"} 0"));
        assert!(series(&text) <= 2000);
        drop(upstream);
    }

    #[test]
    fn room_that_removed_objects_leave_is_used_again() {
        let registry = limited(1000);
        let mut handles: Vec<_> = (0..400).map(|n| registry.route(&n.to_string())).collect();
        let overflow = registry.route(OVERFLOW);
        assert!(Arc::ptr_eq(&overflow, &handles[399]));
        drop(handles.drain(..10));
        assert!(!Arc::ptr_eq(&overflow, &registry.route("fresh")));
    }

    #[test]
    fn other_buckets_begin_anew_and_the_same_go_on() {
        let registry = Registry::new(1);
        let (route, upstream) = (registry.route("a"), registry.upstream("a"));
        let durations = upstream.durations();
        registry.configure(&model::Metrics {
            max_series: 5000,
            exemplars: false,
            ..model::Metrics::default()
        });
        assert!(Arc::ptr_eq(&route, &registry.route("a")));
        assert!(Arc::ptr_eq(&durations, &upstream.durations()));
        registry.configure(&model::Metrics {
            buckets: [std::time::Duration::from_secs(1)].into(),
            ..model::Metrics::default()
        });
        assert!(!Arc::ptr_eq(&route, &registry.route("a")));
        assert!(!durations.is_current());
        assert!(upstream.durations().is_current());
        registry.upstream("a");
        let text = scrape(&registry);
        assert!(
            text.contains(r#"_seconds_bucket{upstream="a",le="1.0"} 0"#),
            "{text}"
        );
        assert!(!text.contains(r#"le="0.5""#));
    }

    #[test]
    fn what_a_configuration_does_not_ask_for_was_removed() {
        let registry = Registry::new(1);
        let (_stays, _goes) = (registry.route("stays"), registry.route("goes"));
        registry.configure(&model::Metrics::default());
        registry.route("stays");
        let text = scrape(&registry);
        assert!(text.contains(r#"route="stays""#) && !text.contains(r#"route="goes""#));
    }

    #[test]
    fn what_is_off_is_not_shown() {
        let registry = Registry::new(1);
        registry.configure(&model::Metrics {
            enabled: false,
            ..model::Metrics::default()
        });
        let (_route, _upstream) = (registry.route("a"), registry.upstream("a"));
        let text = scrape(&registry);
        assert!(!text.contains("http_"));
        assert!(text.contains("process_open_fds"));
    }

    #[test]
    fn hostile_names_stay_inside_their_label() {
        let registry = Registry::new(1);
        let _handle = registry.route("a\"b\\c\nd");
        assert!(scrape(&registry).contains(r#"{route="a\"b\\c\nd"}"#));
    }
}
