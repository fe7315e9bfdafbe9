//! Full TLS 1.3 handshakes in a closed loop: each connection is shaken hands on, asked one small
//! request and closed. Nothing is resumed, and all use AES-128-GCM.
//!
//! Arguments: address, the authority's certificate, X25519 or X25519MLKEM768, connections at a time,
//! seconds, most connections in all. Prints JSON.

use std::{
    env,
    io::{self, Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    client::Resumption,
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, cipher_suite::TLS13_AES_128_GCM_SHA256, kx_group},
    },
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::time::Instant;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const ANSWER: (&[u8], &[u8]) = (b"HTTP/1.1 200 ", b"\r\n\r\nok");
/// A server that says nothing for so long is broken.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> io::Result<()> {
    println!("{}", run()?);
    Ok(())
}

fn run() -> io::Result<serde_json::Value> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [address, authority, group, connections, seconds, most] = &arguments[..] else {
        return Err(io::Error::other(
            "usage: handshakes ADDRESS AUTHORITY GROUP CONNECTIONS SECONDS MOST",
        ));
    };
    let connections: usize = connections.parse().map_err(io::Error::other)?;
    let seconds: f64 = seconds.parse().map_err(io::Error::other)?;
    let most: usize = most.parse().map_err(io::Error::other)?;
    let config = Arc::new(config(authority, group)?);
    let (started, start) = (AtomicUsize::new(0), Instant::now());
    let end = start + Duration::from_secs_f64(seconds);
    let client = || -> io::Result<usize> {
        let mut done = 0;
        while Instant::now() < end && started.fetch_add(1, Ordering::Relaxed) < most {
            connection(address, Arc::clone(&config))?;
            done += 1;
        }
        Ok(done)
    };
    let done = thread::scope(|scope| {
        let clients: Vec<_> = (0..connections).map(|_| scope.spawn(client)).collect();
        clients
            .into_iter()
            .map(|client| client.join().expect("no client panics"))
            .sum::<io::Result<usize>>()
    })?;
    Ok(serde_json::json!({ "connections": done, "seconds": start.elapsed().as_secs_f64() }))
}

fn config(authority: &str, group: &str) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(authority).map_err(io::Error::other)?)
        .map_err(io::Error::other)?;
    let provider = CryptoProvider {
        kx_groups: match group {
            "X25519" => vec![kx_group::X25519],
            "X25519MLKEM768" => vec![kx_group::X25519MLKEM768],
            _ => return Err(io::Error::other("X25519 or X25519MLKEM768")),
        },
        cipher_suites: vec![TLS13_AES_128_GCM_SHA256],
        ..aws_lc_rs::default_provider()
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn connection(address: &str, config: Arc<ClientConfig>) -> io::Result<()> {
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let session = ClientConnection::new(config, name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(session, socket);
    stream.write_all(REQUEST)?;
    let (mut answer, mut room) = (Vec::new(), [0; 1024]);
    while !answer.ends_with(ANSWER.1) {
        match stream.read(&mut room)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => answer.extend_from_slice(&room[..read]),
        }
    }
    if !answer.starts_with(ANSWER.0) {
        return Err(io::Error::other("another answer than 200"));
    }
    stream.conn.send_close_notify();
    stream.flush()
}
