//! Where handles are found by name, and where a scrape finds them all.

use std::sync::Arc;

use super::{
    AccessMetrics, Format, ListenerMetrics, OtlpMetrics, ProcessMetrics, RouteMetrics, TlsMetrics,
    UpstreamMetrics,
    common::Common,
    exemplar::now,
    family::{Value, Visitor},
    group::Group,
    points::Points,
    scrape::Scrape,
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
    since: u64,
}

/// Series that the registry has of itself.
const OWN: usize = 3;

impl Registry {
    /// For workers numbered from 0 up to, without, `workers`.
    pub fn new(workers: usize) -> Arc<Self> {
        let common = Common::new(workers);
        Arc::new(Self {
            process: Arc::new(ProcessMetrics::new(workers)),
            tls: Arc::new(TlsMetrics::new(workers)),
            otlp: Arc::default(),
            listeners: Group::new(&common),
            routes: Group::new(&common),
            upstreams: Group::new(&common),
            access: Group::new(&common),
            since: now(),
            common,
        })
    }

    /// Takes other settings, for a configuration that then asks for every handle it has. Handles that are asked for from now on are made for these: where their
    /// buckets are others, they begin anew.
    pub fn configure(&self, config: &model::Metrics) {
        self.common.configure(config);
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

    /// Everything, what there is one of first: if there is too much to show, it is not that.
    fn show(&self, visitor: &mut dyn Visitor) {
        let room = &self.common.room;
        let limit = room.limit();
        let mut scrape = Scrape::new(visitor, limit.saturating_sub(OWN), self.since);
        let connections = self.connections();
        self.process.describe(&mut scrape, &connections);
        self.tls.describe(&mut scrape);
        self.otlp.describe(&mut scrape);
        if self.common.settings().enabled {
            self.routes.describe(&mut scrape);
            self.upstreams.describe(&mut scrape);
            self.listeners.describe(&mut scrape);
            self.access.describe(&mut scrape);
        }
        let (shown, omitted) = (scrape.shown + OWN, scrape.omitted);
        room.refuse(omitted);
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
    use super::*;
    use crate::telemetry::metrics::{group::OVERFLOW, scrape::Scraped};

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
        let registry = limited(500);
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
        assert!(counts.len() > 20 && counts.len() < 60, "{}", counts.len());
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
            max_series: 500,
            ..model::Metrics::default()
        });
        for n in 0..100 {
            registry.upstream(&n.to_string());
        }
        let text = scrape(&registry);
        assert_eq!(series(&text), told(&text));
        assert!((480..=500).contains(&series(&text)));
        assert!(!text.contains("pillion_metrics_series_overflowed_total 0\n"));
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

    #[test]
    fn room_that_removed_objects_leave_is_used_again() {
        let registry = limited(500);
        let mut handles: Vec<_> = (0..100).map(|n| registry.route(&n.to_string())).collect();
        let overflow = registry.route(OVERFLOW);
        assert!(Arc::ptr_eq(&overflow, &handles[99]));
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
