//! Questions to the name service, the way this machine is set up for them: `/etc/hosts` first, then
//! the servers, search list and `ndots` of `/etc/resolv.conf`. Both files are read again when they
//! have changed.

use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use hickory_resolver::{
    Hosts, TokioResolver,
    config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, NoRecords, runtime::TokioRuntimeProvider},
    proto::{
        op::{Query, ResponseCode},
        rr::{Name, RData, RecordType},
    },
    system_conf::read_system_conf,
};
use tracing::warn;

use crate::upstream::resolution::LookupFailure;

/// The environment variable that names the one server to ask, as `IP:PORT`.
pub const SERVER_VARIABLE: &str = "PILLION_DNS";

const HOSTS_FILE: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// An answer from the hosts file has no TTL; it is looked at again after this long.
const HOSTS_TTL: Duration = Duration::from_secs(5);

/// Asks the name service. Caches nothing: what it answers is kept by those who asked.
pub struct Resolver {
    server: Option<SocketAddr>,
    settings: ArcSwap<Settings>,
}

/// The addresses of a host.
pub(super) struct Addresses {
    pub(super) ips: Vec<IpAddr>,
    /// The shortest of the records'.
    pub(super) ttl: Duration,
}

impl Resolver {
    /// The machine's name service, or the server that `PILLION_DNS` names.
    pub fn from_env() -> Self {
        let server = env::var(SERVER_VARIABLE).ok().and_then(|text| {
            text.parse()
                .inspect_err(|_| warn!("{SERVER_VARIABLE}={text} is not IP:PORT, and is not used"))
                .ok()
        });
        Self::new(server)
    }

    /// Asks one server instead of those of `/etc/resolv.conf`, and has no search list.
    pub fn with_server(server: SocketAddr) -> Self {
        Self::new(Some(server))
    }

    fn new(server: Option<SocketAddr>) -> Self {
        Self {
            server,
            settings: ArcSwap::from_pointee(Settings::read(server)),
        }
    }

    fn settings(&self) -> Arc<Settings> {
        if self.settings.load().modified != modified() {
            self.settings.store(Arc::new(Settings::read(self.server)));
        }
        self.settings.load_full()
    }

    /// Every address of a host, of both families. If one family can't be asked about, its share of
    /// `known` stands in for it.
    pub(super) async fn host(
        &self,
        host: &str,
        known: &[IpAddr],
    ) -> Result<Addresses, LookupFailure> {
        let settings = self.settings();
        let names = settings.candidates(host)?;
        if let Some(ips) = names.iter().find_map(|name| settings.in_hosts_file(name)) {
            return Ok(Addresses {
                ips,
                ttl: HOSTS_TTL,
            });
        }
        let mut failure = None;
        for name in names {
            let (v4, v6) = tokio::join!(
                settings.ask(name.clone(), RecordType::A, RData::ip_addr),
                settings.ask(name, RecordType::AAAA, RData::ip_addr),
            );
            let (ttl, mut ips, lost) = match (v4, v6) {
                (Ok((ttl4, mut ips)), Ok((ttl6, more))) => {
                    ips.extend(more);
                    return Ok(Addresses {
                        ips,
                        ttl: ttl4.min(ttl6),
                    });
                }
                (Ok((ttl, ips)), Err(error)) => (ttl, ips, (!error.absent).then_some(6)),
                (Err(error), Ok((ttl, ips))) => (ttl, ips, (!error.absent).then_some(4)),
                // The name is not there: the next of the search list may be.
                (Err(a), Err(b)) if a.absent && b.absent => {
                    failure.get_or_insert(a);
                    continue;
                }
                (Err(a), Err(b)) => return Err(if a.absent { b } else { a }),
            };
            match lost {
                Some(6) => ips.extend(known.iter().filter(|ip| ip.is_ipv6())),
                Some(_) => ips.extend(known.iter().filter(|ip| ip.is_ipv4())),
                None => {}
            }
            return Ok(Addresses { ips, ttl });
        }
        Err(failure.unwrap_or_else(|| absent("no such name")))
    }

    /// The records of a name, and the shortest of their TTLs; never empty.
    pub(super) async fn lookup<T>(
        &self,
        name: &str,
        kind: RecordType,
        data: impl Fn(&RData) -> Option<T>,
    ) -> Result<(Duration, Vec<T>), LookupFailure> {
        let settings = self.settings();
        let mut failure = None;
        for name in settings.candidates(name)? {
            match settings.ask(name, kind, &data).await {
                Err(error) if error.absent => {
                    failure.get_or_insert(error);
                }
                outcome => return outcome,
            }
        }
        Err(failure.unwrap_or_else(|| absent("no such name")))
    }
}

/// What the two files say.
struct Settings {
    modified: [Option<SystemTime>; 2],
    hosts: Hosts,
    search: Vec<Name>,
    ndots: usize,
    /// The error is why there is none.
    client: Result<TokioResolver, String>,
}

impl Settings {
    fn read(server: Option<SocketAddr>) -> Self {
        let modified = modified();
        let (config, mut options) = match server {
            Some(server) => (one_server(server), ResolverOpts::default()),
            // As libc does when there is no usable file.
            None => read_system_conf().unwrap_or_else(|_| {
                let local = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53);
                (one_server(local), ResolverOpts::default())
            }),
        };
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        let search = config.search().to_vec();
        let ndots = options.ndots;
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        Self {
            modified,
            hosts: Hosts::from_system().unwrap_or_default(),
            search,
            ndots,
            client: builder.build().map_err(|error| error.to_string()),
        }
    }

    /// The absolute names that a written one may stand for, in the order to be tried: as resolver(5)
    /// says.
    fn candidates(&self, written: &str) -> Result<Vec<Name>, LookupFailure> {
        let name = Name::from_str_relaxed(written).map_err(|error| LookupFailure {
            message: error.to_string(),
            absent: false,
        })?;
        if name.is_fqdn() {
            return Ok(vec![name]);
        }
        let searched = self
            .search
            .iter()
            .filter_map(|domain| name.clone().append_domain(domain).ok());
        let mut names: Vec<Name> = searched.collect();
        let as_written = if written.matches('.').count() >= self.ndots {
            0
        } else {
            names.len()
        };
        names.insert(as_written, name);
        for name in &mut names {
            name.set_fqdn(true);
        }
        Ok(names)
    }

    fn in_hosts_file(&self, name: &Name) -> Option<Vec<IpAddr>> {
        let mut ips = Vec::new();
        for kind in [RecordType::A, RecordType::AAAA] {
            let lookup = self
                .hosts
                .lookup_static_host(&Query::query(name.clone(), kind));
            ips.extend(
                lookup
                    .iter()
                    .flat_map(|l| l.answers())
                    .filter_map(|r| r.data.ip_addr()),
            );
        }
        (!ips.is_empty()).then_some(ips)
    }

    async fn ask<T>(
        &self,
        name: Name,
        kind: RecordType,
        data: impl Fn(&RData) -> Option<T>,
    ) -> Result<(Duration, Vec<T>), LookupFailure> {
        let client = self.client.as_ref().map_err(|error| LookupFailure {
            message: error.clone(),
            absent: false,
        })?;
        let answer = client
            .lookup(name, kind)
            .await
            .map_err(|error| explain(&error, kind))?;
        let records = answer.answers();
        let found: Vec<T> = records
            .iter()
            .filter_map(|record| data(&record.data))
            .collect();
        // Aliases on the way count too: they may change sooner than what they lead to.
        match records.iter().map(|record| record.ttl).min() {
            Some(ttl) if !found.is_empty() => Ok((Duration::from_secs(ttl.into()), found)),
            _ => Err(absent(format!("has no {kind} record"))),
        }
    }
}

fn one_server(server: SocketAddr) -> ResolverConfig {
    let mut config = NameServerConfig::udp_and_tcp(server.ip());
    for connection in &mut config.connections {
        connection.port = server.port();
    }
    ResolverConfig::from_name_servers(vec![config])
}

fn modified() -> [Option<SystemTime>; 2] {
    [HOSTS_FILE, RESOLV_CONF].map(|path| fs::metadata(path).and_then(|meta| meta.modified()).ok())
}

fn absent(message: impl Into<String>) -> LookupFailure {
    LookupFailure {
        message: message.into(),
        absent: true,
    }
}

fn explain(error: &NetError, kind: RecordType) -> LookupFailure {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code, .. })) => {
            match *response_code {
                ResponseCode::NXDomain => absent("does not exist (NXDOMAIN)"),
                _ => absent(format!("has no {kind} record")),
            }
        }
        NetError::Dns(DnsError::ResponseCode(code)) => LookupFailure {
            message: format!("the name server answered {code}"),
            absent: false,
        },
        other => LookupFailure {
            message: other.to_string(),
            absent: false,
        },
    }
}
