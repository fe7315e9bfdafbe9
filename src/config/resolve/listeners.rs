//! Listeners, and whether anything answers on them.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{Known, Resolver, tls::Security};
use crate::config::{
    decode::At,
    model::{
        Backslash, EscapedSlash, ForwardedHeaders, HttpListener, Listener, ListenerKind,
        PathPolicy, Route, TcpListener,
    },
    raw,
    report::Fault,
    syntax,
    tree::NodeId,
    units::Size,
};

/// Every route may be on every listener, so their product is memory.
const MAX_LISTENERS: usize = 256;

/// A request line and a few headers have to fit; hyper's buffer begins there.
const MIN_HEAD: Size = Size(8 << 10);

/// A head is kept in memory whole.
const MAX_HEAD: Size = Size(1 << 20);

/// A listener and where it was written.
pub(super) type Placed = (Option<NodeId>, Listener);

impl Resolver<'_> {
    pub(super) fn listeners(
        &mut self,
        raw: &At<Vec<At<raw::Listener>>>,
        upstreams: &Known<'_>,
        security: Security,
    ) -> Vec<Placed> {
        if raw.value.is_empty() {
            let fault = Fault::new("there is no listener");
            self.fault(raw.node, fault.hint("at least one is needed"));
        }
        if raw.value.len() > MAX_LISTENERS {
            let count = raw.value.len();
            let fault = Fault::new(format!("{count} listeners are more than {MAX_LISTENERS}"));
            self.fault(raw.node, fault);
            return Vec::new();
        }
        let mut names = HashMap::new();
        let listeners = raw.value.iter();
        listeners
            .filter_map(|listener| self.listener(listener, upstreams, security, &mut names))
            .collect()
    }

    fn listener(
        &mut self,
        placed: &At<raw::Listener>,
        upstreams: &Known<'_>,
        security: Security,
        names: &mut HashMap<Arc<str>, Option<NodeId>>,
    ) -> Option<Placed> {
        let raw = &placed.value;
        let directory = self.tree.directory(raw.address.node);
        let address = self.parse(&raw.address, |text| syntax::listen_address(text, directory));
        let (name, name_node) = match &raw.name {
            Some(name) => (self.parse(name, syntax::name), name.node),
            None if address.is_none() => (None, None),
            None => (self.default_name(&raw.address), raw.address.node),
        };
        if let Some(address) = &address {
            self.bound(address, raw.address.node);
        }
        if let Some(name) = &name {
            self.unique(names, name.clone(), name_node, || {
                format!("listener `{name}`")
            });
        }
        let upstream = raw
            .upstream
            .as_ref()
            .and_then(|name| upstreams.check(name, self));
        let tls = raw
            .tls
            .as_ref()
            .and_then(|tls| self.listener_tls(tls, security));
        let kind = match raw.protocol {
            raw::ListenerProtocol::Http => {
                self.stray(raw.tcp.as_ref().and_then(|tcp| tcp.node), "tcp", "http");
                ListenerKind::Http(Box::new(self.http(raw, upstream)))
            }
            raw::ListenerProtocol::Tcp => {
                self.stray(raw.http.as_ref().and_then(|http| http.node), "http", "tcp");
                if raw.upstream.is_none() {
                    let fault = Fault::new("key `upstream` is missing");
                    self.fault(
                        placed.node,
                        fault.hint("a tcp listener forwards to one upstream"),
                    );
                }
                ListenerKind::Tcp(self.tcp(raw, upstream.unwrap_or_default()))
            }
        };
        let listener = Listener {
            name: name?,
            address: address?,
            max_connections: raw.max_connections.get(),
            proxy_protocol: raw.proxy_protocol,
            tls,
            kind,
        };
        Some((placed.node, listener))
    }

    /// The address as text; most of them can serve as a name.
    fn default_name(&mut self, address: &At<String>) -> Option<Arc<str>> {
        self.parse(address, |text| {
            syntax::name(text).map_err(|_| {
                Fault::new("this address can't serve as a name").hint("write a `name` as well")
            })
        })
    }

    /// Settings of a protocol that the listener doesn't speak.
    fn stray(&mut self, node: Option<NodeId>, key: &str, protocol: &str) {
        let fault = Fault::new(format!("`{key}` does not belong to protocol {protocol}"));
        self.fault(
            node,
            fault.hint(format!("write `protocol: {key}`, or leave it out")),
        );
    }

    fn http(&mut self, raw: &raw::Listener, upstream: Option<Arc<str>>) -> HttpListener {
        let default = raw::HttpOptions::default();
        let http = raw.http.as_ref().map_or(&default, |http| &http.value);
        let head = http.max_head_size.value;
        if !(MIN_HEAD..=MAX_HEAD).contains(&head) {
            let fault = Fault::new(format!("{head} is not between {MIN_HEAD} and {MAX_HEAD}"));
            self.fault(http.max_head_size.node, fault);
        }
        HttpListener {
            max_head_size: head.get(),
            head_timeout: self.positive(&http.head_timeout),
            keep_alive_timeout: self.positive(&http.keep_alive_timeout),
            http2_idle_timeout: self.positive(&http.http2_idle_timeout),
            max_concurrent_streams: http.max_concurrent_streams.get(),
            allow_connect: http.allow_connect,
            trusted_hops: http.trusted_hops.get(),
            forwarded: match http.forwarded {
                raw::ForwardedHeaders::XForwarded => ForwardedHeaders::XForwarded,
                raw::ForwardedHeaders::Forwarded => ForwardedHeaders::Forwarded,
                raw::ForwardedHeaders::Both => ForwardedHeaders::Both,
                raw::ForwardedHeaders::Off => ForwardedHeaders::Off,
            },
            via: http.via,
            path: PathPolicy {
                escaped_slash: match http.path.escaped_slash {
                    raw::EscapedSlash::Keep => EscapedSlash::Keep,
                    raw::EscapedSlash::Decode => EscapedSlash::Decode,
                    raw::EscapedSlash::Reject => EscapedSlash::Reject,
                },
                backslash: match http.path.backslash {
                    raw::Backslash::Keep => Backslash::Keep,
                    raw::Backslash::Slash => Backslash::Slash,
                    raw::Backslash::Reject => Backslash::Reject,
                },
                merge_slashes: http.path.merge_slashes,
            },
            upstream,
        }
    }

    fn tcp(&mut self, raw: &raw::Listener, upstream: Arc<str>) -> TcpListener {
        let default = raw::TcpOptions::default();
        let tcp = raw.tcp.as_ref().map_or(&default, |tcp| &tcp.value);
        TcpListener {
            upstream,
            idle_timeout: self.positive(&tcp.idle_timeout),
            half_close_timeout: self.positive(&tcp.half_close_timeout),
        }
    }

    /// Notes HTTP listeners that could answer nothing but 404.
    pub(super) fn served(
        &mut self,
        raw: &[At<raw::Listener>],
        listeners: &[Placed],
        routes: &[Route],
    ) {
        let served: HashSet<&Arc<str>> = routes.iter().flat_map(|route| &route.listeners).collect();
        for (node, listener) in listeners {
            // As written: an upstream that is named wrongly has been blamed already.
            let falls_back = raw
                .iter()
                .any(|raw| raw.node == *node && raw.value.upstream.is_some());
            if matches!(listener.kind, ListenerKind::Http(_))
                && !falls_back
                && !served.contains(&listener.name)
            {
                let fault = Fault::new(format!("listener `{}` serves nothing", listener.name));
                self.fault(
                    *node,
                    fault.hint("give it an `upstream`, or name it in a route"),
                );
            }
        }
    }
}
