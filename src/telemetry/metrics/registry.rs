//! Where handles are found by name, and where a scrape finds them all.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::{
    AccessMetrics, Format, ListenerMetrics, OtlpMetrics, ProcessMetrics, RouteMetrics, TlsMetrics,
    UpstreamMetrics, exposition,
    scrape::{Families, Scraped},
};

/// Objects of one kind that get series of their own; whatever comes beyond shares one handle.
const MAX_OBJECTS: usize = 1000;

/// The name of the shared handle.
const OVERFLOW: &str = "_overflow";

/// All metrics of the process. The control world asks it for handles while it compiles a snapshot;
/// workers only ever see the handles.
#[derive(Debug)]
pub struct Registry {
    process: Arc<ProcessMetrics>,
    tls: Arc<TlsMetrics>,
    otlp: Arc<OtlpMetrics>,
    listeners: Arc<Group<ListenerMetrics>>,
    routes: Arc<Group<RouteMetrics>>,
    upstreams: Arc<Group<UpstreamMetrics>>,
    access: Arc<Group<AccessMetrics>>,
    encoders: prometheus_client::registry::Registry,
}

impl Registry {
    /// For workers numbered from 0 up to, without, `workers`.
    pub fn new(workers: usize) -> Arc<Self> {
        let process = Arc::new(ProcessMetrics::new(workers));
        let tls = Arc::new(TlsMetrics::new(workers));
        let otlp = Arc::new(OtlpMetrics::default());
        let listeners = Arc::new(Group::new(workers));
        let routes = Arc::new(Group::new(workers));
        let upstreams = Arc::new(Group::new(workers));
        let access = Arc::new(Group::new(workers));

        let mut encoders = prometheus_client::registry::Registry::default();
        encoders.register_collector(Box::new(Arc::clone(&process)));
        encoders.register_collector(Box::new(Arc::clone(&tls)));
        encoders.register_collector(Box::new(Arc::clone(&otlp)));
        encoders.register_collector(Box::new(Arc::clone(&listeners)));
        encoders.register_collector(Box::new(Arc::clone(&routes)));
        encoders.register_collector(Box::new(Arc::clone(&upstreams)));
        encoders.register_collector(Box::new(Arc::clone(&access)));
        Arc::new(Self {
            process,
            tls,
            otlp,
            listeners,
            routes,
            upstreams,
            access,
            encoders,
        })
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
        exposition::encode(&self.encoders, format)
    }
}

/// The objects of one kind, by name.
#[derive(Debug)]
struct Group<T> {
    workers: usize,
    /// Weak, so that a removed object takes its series along.
    objects: Mutex<BTreeMap<Arc<str>, Weak<T>>>,
    overflow: OnceLock<Arc<T>>,
}

impl<T: Scraped> Group<T> {
    fn new(workers: usize) -> Self {
        Self {
            workers,
            objects: Mutex::default(),
            overflow: OnceLock::new(),
        }
    }

    fn get(&self, name: &str) -> Arc<T> {
        let mut objects = self.lock();
        if let Some(object) = objects.get(name).and_then(Weak::upgrade) {
            return object;
        }
        objects.retain(|_, object| object.strong_count() > 0);
        if objects.len() < MAX_OBJECTS && name != OVERFLOW {
            let object = Arc::new(T::new(self.workers));
            objects.insert(name.into(), Arc::downgrade(&object));
            return object;
        }
        let overflow = self.overflow.get_or_init(|| Arc::new(T::new(self.workers)));
        objects.insert(OVERFLOW.into(), Arc::downgrade(overflow));
        Arc::clone(overflow)
    }

    fn live(&self) -> Vec<(Arc<str>, Arc<T>)> {
        let mut live = Vec::new();
        self.lock().retain(|name, object| {
            let object = object.upgrade();
            live.extend(object.clone().map(|object| (Arc::clone(name), object)));
            object.is_some()
        });
        live
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Weak<T>>> {
        // Each change is one call on the map, so a panic elsewhere leaves it whole.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Scraped> Collector for Group<T> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        T::encode(&mut Families {
            encoder: &mut encoder,
            objects: &self.live(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn what_is_too_much_shares_a_handle() {
        let registry = Registry::new(1);
        let handles: Vec<_> = (0..MAX_OBJECTS + 10)
            .map(|n| registry.listener(&n.to_string()))
            .collect();
        for handle in &handles {
            handle.accepted(0);
        }
        let overflow = registry.listener(OVERFLOW);
        assert!(Arc::ptr_eq(&overflow, &handles[MAX_OBJECTS]));
        let text = scrape(&registry);
        let name = "pillion_listener_connections_total{";
        assert_eq!(
            text.lines().filter(|line| line.starts_with(name)).count(),
            MAX_OBJECTS + 1
        );
        assert!(text.contains(r#"pillion_listener_connections_total{listener="_overflow"} 10"#));
    }

    #[test]
    fn room_that_removed_objects_leave_is_used_again() {
        let registry = Registry::new(1);
        let mut handles: Vec<_> = (0..MAX_OBJECTS)
            .map(|n| registry.route(&n.to_string()))
            .collect();
        handles.pop();
        let fresh = registry.route("fresh");
        assert!(!Arc::ptr_eq(&fresh, &registry.route(OVERFLOW)));
    }

    #[test]
    fn hostile_names_stay_inside_their_label() {
        let registry = Registry::new(1);
        let _handle = registry.route("a\"b\\c\nd");
        assert!(scrape(&registry).contains(r#"{route="a\"b\\c\nd"}"#));
    }
}
