//! One worker with one listener and one upstream, as the program makes them, and scripts around it.

use std::{
    fs,
    os::{fd::OwnedFd, unix::net::UnixStream as StdStream},
    path::{Path, PathBuf},
    process,
    rc::Rc,
    sync::Arc,
};

use pillion::{
    config::{self, model::Address},
    listener::{self, accept::Accepted},
    snapshot::{Bound, ListenerId, Snapshot},
    telemetry::{LogWriter, Registry},
    tls::keeper::Keeper,
    worker::{Permit, Shared, Worker},
};
use rustls::pki_types::UnixTime;
use tokio::net::{UnixListener, UnixStream};

use crate::{
    h1, h2, pki,
    scenario::{Back, Client, Exchange, Front, Setting},
    tcp,
};

const NEAR: ListenerId = ListenerId(0);
/// A rule that takes everything.
const RULE: &str = "
routes:
  - rules:
      - backendRefs: [{ name: app }]";
/// And lets it pass unguarded.
const OFF: &str = "
        retry: { attempts: 1 }
        timeouts: { request: 0s, idle: 0s }";

/// The far end of a pair, by the order of the configuration.
const FAR: ListenerId = ListenerId(1);

pub(crate) struct World {
    worker: Rc<Worker>,
    directory: PathBuf,
    _log: LogWriter,
}

impl World {
    pub(crate) fn start(exchange: &Exchange) -> Rc<Self> {
        let directory = std::env::temp_dir().join(format!("pillion-counts-{}", process::id()));
        fs::create_dir(&directory).expect("a folder of our own");
        let socket = directory.join("upstream");
        answer(
            UnixListener::bind(&socket).expect("a socket"),
            exchange.upstream,
        );

        let front = match exchange.listener {
            Front::Tcp => "tcp",
            Front::Http1 { .. } | Front::Http2 { .. } => "http",
        };
        let back = match exchange.upstream {
            Back::Http2(_) => "http2",
            Back::Http1 { .. } | Back::Tcp => "http1",
        };
        let mut text = format!(
            "accessLog: {{ enabled: false }}
listeners: [{{ name: web, address: \"unix:web\", protocol: {front}, upstream: app }}]
upstreams: [{{ name: app, endpoints: [\"unix:{}\"], protocol: {back} }}]",
            socket.display()
        );
        match exchange.setting {
            Setting::Guarded => text.push_str(RULE),
            Setting::Bare => {
                let end = text.len() - "}]".len();
                text.insert_str(end, ", breaker: off, ejection: off ");
                text.push_str(RULE);
                text.push_str(OFF);
            }
            Setting::Untold => text.push_str("\nmetrics: { enabled: false }"),
            Setting::Traced(sampling) => {
                text.push_str(&format!("\ntracing: {{ sampling: {sampling} }}"));
            }
            Setting::Plain | Setting::Paired => {}
        }
        let link = (exchange.setting == Setting::Paired).then(|| directory.join("link"));
        if let Some(link) = &link {
            pki::make(&directory);
            text = paired(&directory, link, &socket);
        }
        let config = match config::parse("counted.yaml", &text, &|_| None) {
            Ok(loaded) => loaded.config,
            Err(error) => panic!("{error}"),
        };
        let registry = Registry::new(1);
        let log = LogWriter::start(&config.access_log, Arc::clone(registry.process()))
            .expect("a log that is off");
        // Never listened on: connections are handed over as if they had been accepted.
        let bound = |(name, id): (&str, _)| {
            let address = Address::Unix(name.into());
            (name.into(), Bound { id, address })
        };
        let sockets = [("web", NEAR), ("far", FAR)].map(bound).into();
        let materials = Keeper::default().load(&config, UnixTime::now()).materials;
        let snapshot = Snapshot::compile(Arc::new(config), &sockets, None, &registry, &materials);
        let (shared, _) = Shared::new(snapshot, materials, registry, 1);
        // Where spans are exported that is another thread's work, which is not counted.
        shared.otlp.apply(&shared.snapshot.load().config);
        let worker = Worker::new(0, shared, log.worker());
        worker.rng.borrow_mut().seed(7);
        // The worker's own task, which sweeps its pools every second, is left out: the clock has no
        // say in what is counted.
        let world = Rc::new(Self {
            worker,
            directory,
            _log: log,
        });
        if let Some(link) = link {
            let listener = UnixListener::bind(link).expect("a socket");
            let far = Rc::clone(&world.worker);
            tokio::task::spawn_local(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let socket = stream.into_std().expect("a socket of this runtime");
                    serve(&far, FAR, socket.into());
                }
            });
        }
        world
    }

    /// A client's end of a connection that is being served.
    pub(crate) fn connect(&self) -> UnixStream {
        let (client, served) = StdStream::pair().expect("a pair of sockets");
        for end in [&client, &served] {
            end.set_nonblocking(true)
                .expect("a socket that waits for nobody");
        }
        serve(&self.worker, NEAR, served.into());
        UnixStream::from_std(client).expect("a socket of this runtime")
    }

    pub(crate) async fn clients(self: &Rc<Self>, exchange: &Exchange) -> Vec<Client> {
        let mut clients = Vec::new();
        for _ in 0..exchange.clients {
            clients.push(match exchange.listener {
                Front::Http1 { sends, gets } => {
                    Client::Http1(h1::Client::new(self.connect(), sends, gets))
                }
                Front::Http2 { streams, script } => {
                    let client = h2::Client::connect(self.connect(), streams, script).await;
                    Client::Http2(Box::new(client))
                }
                Front::Tcp => Client::Tcp(tcp::Client(Rc::clone(self))),
            });
        }
        clients
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // What is left in the folder for temporary files harms nobody.
        drop(fs::remove_dir_all(&self.directory));
    }
}

/// As if the listener had accepted it.
fn serve(worker: &Rc<Worker>, listener: ListenerId, socket: OwnedFd) {
    let accepted = Accepted {
        socket,
        peer: Address::Tcp(([192, 0, 2, 1], 4242).into()),
        plan: worker.plan(listener).expect("a listener"),
        permit: Permit::take(&worker.shared, 0, &Arc::default(), 1).expect("a place"),
    };
    listener::serve(accepted, worker);
}

/// `config/bench/pair-client.yaml` and `pair-server.yaml` in one.
fn paired(pki: &Path, link: &Path, origin: &Path) -> String {
    let (pki, link, origin) = (pki.display(), link.display(), origin.display());
    format!(
        "accessLog: {{ enabled: false }}
identity: {{ certificate: \"{pki}/server.crt\", key: \"{pki}/server.key\" }}
trust: [{{ authorities: [\"{pki}/ca.crt\"] }}]
listeners:
  - {{ name: web, address: \"unix:web\", upstream: link }}
  - {{ name: far, address: \"unix:far\", upstream: app, tls: {{}} }}
upstreams:
  - {{ name: link, endpoints: [\"unix:{link}\"], tls: {{ peers: [\"{}\"] }} }}
  - {{ name: app, endpoints: [\"unix:{origin}\"] }}",
        pki::IDENTITY
    )
}

/// Answers every connection by the script.
fn answer(listener: UnixListener, script: Back) {
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            match script {
                Back::Http1 { gets, sends } => {
                    tokio::task::spawn_local(h1::answer(stream, gets, sends));
                }
                Back::Http2(script) => {
                    tokio::task::spawn_local(h2::answer(stream, script, h2::Table::Used));
                }
                Back::Tcp => {
                    tokio::task::spawn_local(tcp::answer(stream));
                }
            }
        }
    });
}
