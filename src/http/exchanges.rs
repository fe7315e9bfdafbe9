//! Whole exchanges inside one process: a client on a memory stream, an upstream on loopback.

use std::{cell::Cell, collections::HashMap, future::Future, net::SocketAddr, rc::Rc, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::TcpListener,
    runtime::{Builder, LocalOptions},
};

use super::input::Input;
use crate::{
    config::{self, model::Address},
    net::Stream,
    snapshot::{Bound, ListenerId, Snapshot},
    telemetry::{LogWriter, Registry},
    worker::{Conn, Permit, Shared, Worker},
};

/// One worker with one listener, everything of which goes to `upstream`.
struct World {
    worker: Rc<Worker>,
    shared: Arc<Shared>,
}

impl World {
    fn new(upstream: SocketAddr, more: &str) -> Self {
        let text = format!(
            "accessLog: {{ enabled: false }}
listeners: [{{ name: web, address: 127.0.0.1:0, upstream: app }}]
upstreams: [{{ name: app, endpoints: [\"{upstream}\"]{more} }}]"
        );
        let config = config::parse("test.yaml", &text, &|_| None).unwrap().config;
        let bound = Bound {
            id: ListenerId(0),
            address: Address::Tcp(([127, 0, 0, 1], 80).into()),
        };
        let registry = Registry::new(1);
        let log = LogWriter::start(&config.access_log, Arc::clone(registry.process())).unwrap();
        let sockets = HashMap::from([("web".into(), bound)]);
        let snapshot = Snapshot::compile(
            Arc::new(config),
            &sockets,
            None,
            &registry,
            &crate::tls::Materials::default(),
        );
        let (shared, _mailboxes) =
            Shared::new(snapshot, crate::tls::Materials::default(), registry, 1);
        let worker = Worker::new(0, Arc::clone(&shared), log.worker());
        Self { worker, shared }
    }

    /// A client's end of a connection that is being served; `room` bytes lie between the ends.
    fn connect(&self, room: usize) -> DuplexStream {
        let (client, served) = tokio::io::duplex(room);
        let plan = self.worker.plan(ListenerId(0)).unwrap();
        let conn = Conn {
            listener: plan.id,
            peer: Address::Tcp(([192, 0, 2, 1], 4242).into()),
            local: plan.address.clone(),
            plan,
            proxied: None,
            secured: None,
            permit: Permit::take(&self.shared, 0, &Arc::default(), 100).unwrap(),
        };
        let served = super::serve(
            Stream::Memory(served),
            Input::default(),
            conn,
            Rc::clone(&self.worker),
        );
        tokio::task::spawn_local(served);
        client
    }
}

fn run(test: impl Future<Output = ()>) {
    Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .unwrap()
        .block_on(test);
}

async fn upstream() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Reads until the text has come.
async fn read_until(stream: &mut (impl AsyncReadExt + Unpin), end: &str) -> String {
    let mut got = Vec::new();
    while !got.ends_with(end.as_bytes()) {
        got.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(got).unwrap()
}

async fn read_chunked(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let line = read_until(stream, "\r\n").await;
        let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
        let start = body.len();
        body.resize(start + size + 2, 0);
        stream.read_exact(&mut body[start..]).await.unwrap();
        assert_eq!(body.split_off(start + size), b"\r\n");
        if size == 0 {
            return body;
        }
    }
}

/// More than the kernel's buffers hold, and no piece like another.
fn large() -> Vec<u8> {
    (0u32..4_000_000).flat_map(u32::to_le_bytes).collect()
}

#[test]
fn an_upload_that_goes_on_beside_its_response_arrives_whole() {
    run(async {
        let (listener, address) = upstream().await;
        let world = World::new(address, "");
        let (mut from_client, mut to_client) = tokio::io::split(world.connect(64 * 1024));
        let body = large();
        let sent = Cell::new(0);
        let upload = async {
            let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
            to_client.write_all(head).await.unwrap();
            for piece in body.chunks(5000) {
                let size = format!("{:x}\r\n", piece.len());
                let chunk = [size.as_bytes(), piece, b"\r\n"].concat();
                to_client.write_all(&chunk).await.unwrap();
                sent.set(sent.get() + 1);
            }
            to_client.write_all(b"0\r\n\r\n").await.unwrap();
        };
        let download = async { read_until(&mut from_client, "0\r\n\r\n").await };
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_until(&mut stream, "\r\n\r\n").await;
            // Until every buffer on the way is full, the proxy's too.
            let mut before = 0;
            while sent.get() == 0 || sent.get() != before {
                before = sent.get();
                for _ in 0..1000 {
                    tokio::task::yield_now().await;
                }
            }
            let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n";
            stream.write_all(head).await.unwrap();
            let got = read_chunked(&mut stream).await;
            stream.write_all(b"0\r\n\r\n").await.unwrap();
            assert!(got == body, "the upload has a hole");
        };
        let ((), got, ()) = tokio::join!(upload, download, serve);
        assert!(got.contains("early"), "{got}");
    });
}

#[test]
fn an_upload_goes_on_while_the_client_takes_no_response() {
    run(async {
        let (listener, address) = upstream().await;
        let world = World::new(address, "");
        let (mut from_client, mut to_client) = tokio::io::split(world.connect(16 * 1024));
        let body = large();
        let exchange = async {
            let head = format!(
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            to_client.write_all(head.as_bytes()).await.unwrap();
            to_client.write_all(&body).await.unwrap();
            read_until(&mut from_client, "0\r\n\r\n").await
        };
        let serve = async {
            let (stream, _) = listener.accept().await.unwrap();
            let (mut from_proxy, mut to_proxy) = stream.into_split();
            read_until(&mut from_proxy, "\r\n\r\n").await;
            let answer = async {
                let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                to_proxy.write_all(head).await.unwrap();
                for _ in 0..1000 {
                    let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
                    to_proxy.write_all(chunk.as_bytes()).await.unwrap();
                }
                to_proxy.write_all(b"0\r\n\r\n").await.unwrap();
            };
            let mut got = vec![0; body.len()];
            let take = async { from_proxy.read_exact(&mut got).await.unwrap() };
            tokio::join!(answer, take);
            assert!(got == body, "the upload has a hole");
        };
        tokio::join!(exchange, serve);
    });
}

#[test]
fn waiters_at_the_connection_limit_get_what_others_give_back() {
    run(async {
        let (listener, address) = upstream().await;
        let world = World::new(address, ", limits: { connections: 1 }");
        tokio::task::spawn_local(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::task::spawn_local(async move {
                    loop {
                        read_until(&mut stream, "\r\n\r\n").await;
                        let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
                        stream.write_all(answer).await.unwrap();
                    }
                });
            }
        });
        let ask = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut clients: Vec<_> = (0..30).map(|_| world.connect(4096)).collect();
        for client in &mut clients {
            client.write_all(ask).await.unwrap();
        }
        // Some leave while they wait, some as their connection arrives.
        let mut left = 0;
        clients.retain(|_| {
            left += 1;
            left % 3 != 0
        });
        for client in &mut clients {
            let got = read_until(client, "\r\n\r\n").await;
            assert!(got.starts_with("HTTP/1.1 204"), "{got}");
        }
        let limits = world
            .worker
            .with_snapshot(|snapshot| Arc::clone(&snapshot.upstreams["app"].limits));
        assert_eq!((limits.pending_requests(), limits.requests()), (0, 0));
        assert!(limits.connections() <= 1);
    });
}
