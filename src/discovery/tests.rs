//! Discovery against a name server of its own, which knows what the test tells it.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    task::AbortHandle,
    time::{Instant, sleep, timeout},
};

use super::{Discovery, dns::Follower, resolver::Resolver};
use crate::{
    config::model::EndpointAddress,
    error::Reason,
    telemetry::Registry,
    tls::Materials,
    upstream::{
        Upstream, Wish,
        resolution::{ABSENT_GRACE, LookupFailure},
        set::Wanted,
        tests::upstream_config,
    },
};

const A: u16 = 1;
const AAAA: u16 = 28;
const SRV: u16 = 33;

const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;

#[derive(Clone)]
enum Reply {
    Records(Vec<(u32, Vec<u8>)>),
    Code(u8),
}

type Zone = Arc<Mutex<HashMap<(String, u16), Reply>>>;

/// Answers from its zone over UDP; what is not there is NXDOMAIN.
struct NameServer {
    address: SocketAddr,
    zone: Zone,
    task: AbortHandle,
}

impl NameServer {
    async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let zone = Zone::default();
        let answers = zone.clone();
        let task = tokio::spawn(async move {
            let mut query = [0; 1500];
            while let Ok((len, peer)) = socket.recv_from(&mut query).await {
                let reply = respond(&query[..len], &answers);
                let _ = socket.send_to(&reply, peer).await;
            }
        });
        Self {
            address,
            zone,
            task: task.abort_handle(),
        }
    }

    fn set(&self, name: &str, kind: u16, reply: Reply) {
        self.zone.lock().unwrap().insert((name.into(), kind), reply);
    }

    fn set_ips(&self, name: &str, ttl: u32, ips: &[&str]) {
        let ips: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = ips.into_iter().partition(IpAddr::is_ipv4);
        for (kind, ips) in [(A, v4), (AAAA, v6)] {
            let records = ips.iter().map(|ip| match ip {
                IpAddr::V4(ip) => (ttl, ip.octets().to_vec()),
                IpAddr::V6(ip) => (ttl, ip.octets().to_vec()),
            });
            self.set(name, kind, Reply::Records(records.collect()));
        }
    }

    fn set_both(&self, name: &str, code: u8) {
        self.set(name, A, Reply::Code(code));
        self.set(name, AAAA, Reply::Code(code));
    }

    fn resolver(&self) -> Resolver {
        Resolver::with_server(self.address)
    }

    fn follower(&self) -> Follower {
        Follower::new(Arc::new(self.resolver()))
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn respond(query: &[u8], zone: &Zone) -> Vec<u8> {
    let mut name = String::new();
    let mut at = 12;
    while query[at] != 0 {
        let len = usize::from(query[at]);
        name.push_str(std::str::from_utf8(&query[at + 1..=at + len]).unwrap());
        name.push('.');
        at += 1 + len;
    }
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    let question = &query[12..at + 5];
    let reply = zone.lock().unwrap().get(&(name, kind)).cloned();
    let (code, records) = match reply {
        Some(Reply::Records(records)) => (0, records),
        Some(Reply::Code(code)) => (code, vec![]),
        None => (NXDOMAIN, vec![]),
    };
    let mut response = query[..2].to_vec();
    response.extend([0x81, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    response.extend(question);
    for (ttl, data) in records {
        response.extend([0xc0, 12]);
        response.extend(kind.to_be_bytes());
        response.extend([0, 1]);
        response.extend(ttl.to_be_bytes());
        response.extend((data.len() as u16).to_be_bytes());
        response.extend(data);
    }
    response
}

fn service(priority: u16, weight: u16, port: u16, target: &str) -> (u32, Vec<u8>) {
    let mut data = Vec::new();
    for number in [priority, weight, port] {
        data.extend(number.to_be_bytes());
    }
    for label in target.split_terminator('.') {
        data.push(label.len() as u8);
        data.extend(label.as_bytes());
    }
    data.push(0);
    (30, data)
}

fn host(name: &str) -> EndpointAddress {
    EndpointAddress::Dns {
        host: name.into(),
        port: 80,
    }
}

fn shown(found: &[Wanted]) -> Vec<String> {
    found
        .iter()
        .map(|wanted| format!("{} {}", wanted.target, wanted.weight))
        .collect()
}

fn addresses(upstream: &Upstream) -> Vec<String> {
    upstream
        .endpoints()
        .endpoints()
        .iter()
        .map(|e| e.label.to_string())
        .collect()
}

async fn until(what: impl Fn() -> bool) {
    let wait = async {
        while !what() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(30), wait)
        .await
        .expect("it never came");
}

#[tokio::test]
async fn both_families_and_the_shortest_ttl() {
    let server = NameServer::start().await;
    server.set_ips("app.test.", 30, &["127.0.0.2", "127.0.0.1", "::1"]);
    server.set("app.test.", AAAA, Reply::Records(vec![(7, vec![0xfd; 16])]));
    let answer = server.follower().ask(&host("app.test"), &[]).await.unwrap();
    assert_eq!(answer.ttl, Duration::from_secs(7));
    assert_eq!(
        shown(&answer.found),
        [
            "[fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd]:80 1",
            "127.0.0.2:80 1"
        ]
    );
}

#[tokio::test]
async fn a_family_that_fails_keeps_its_last_addresses() {
    let server = NameServer::start().await;
    let mut follower = server.follower();
    server.set_ips("app.test.", 30, &["127.0.0.1", "fd00::1"]);
    let before = follower.ask(&host("app.test"), &[]).await.unwrap().found;
    server.set("app.test.", AAAA, Reply::Code(SERVFAIL));
    let after = follower
        .ask(&host("app.test"), &before)
        .await
        .unwrap()
        .found;
    assert_eq!(after, before);
    // That there are none any more is an answer.
    server.set("app.test.", AAAA, Reply::Records(vec![]));
    let after = follower
        .ask(&host("app.test"), &before)
        .await
        .unwrap()
        .found;
    assert_eq!(shown(&after), ["127.0.0.1:80 1"]);
}

#[tokio::test]
async fn failure_and_absence_are_told_apart() {
    let server = NameServer::start().await;
    let mut follower = server.follower();
    let mut ask = async |name| follower.ask(&host(name), &[]).await.err().unwrap();
    let LookupFailure { message, absent } = ask("nobody.test").await;
    assert!(absent && message.contains("NXDOMAIN"), "{message}");
    server.set_ips("empty.test.", 30, &[]);
    assert!(ask("empty.test").await.absent);
    server.set_both("broken.test.", SERVFAIL);
    let LookupFailure { message, absent } = ask("broken.test").await;
    assert!(!absent && message.contains("Server Failure"), "{message}");
    // Only half of it is known to be absent.
    server.set("half.test.", A, Reply::Code(SERVFAIL));
    assert!(!ask("half.test").await.absent);
    assert!(!ask("no..name").await.absent);
}

#[tokio::test]
async fn srv_brings_weights_and_priorities() {
    let server = NameServer::start().await;
    let mut follower = server.follower();
    let name = EndpointAddress::Srv {
        name: "_http._tcp.app.test".into(),
    };
    server.set(
        "_http._tcp.app.test.",
        SRV,
        Reply::Records(vec![
            service(20, 9, 1, "spare.test"),
            service(10, 5, 8080, "one.test"),
            service(10, 0, 8081, "one.test"),
            service(10, 3, 8080, "two.test"),
            service(10, 3, 8080, "gone.test"),
        ]),
    );
    server.set_ips("one.test.", 30, &["127.0.0.1"]);
    server.set_ips("two.test.", 2, &["127.0.0.2"]);
    let answer = follower.ask(&name, &[]).await.unwrap();
    assert_eq!(answer.ttl, Duration::from_secs(2));
    let all = ["127.0.0.1:8080 5", "127.0.0.2:8080 3", "127.0.0.1:8081 1"];
    assert_eq!(shown(&answer.found), all);

    // A target that can't be asked about keeps its addresses, one that is gone doesn't.
    server.set_both("one.test.", SERVFAIL);
    server.set_both("two.test.", NXDOMAIN);
    let answer = follower.ask(&name, &answer.found).await.unwrap();
    assert_eq!(shown(&answer.found), [all[0], all[2]]);

    server.set_ips("spare.test.", 30, &["127.0.0.9"]);
    let answer = follower.ask(&name, &answer.found).await.unwrap();
    assert_eq!(shown(&answer.found), [all[0], all[2], "127.0.0.9:1 9"]);
    let priorities: Vec<u16> = answer
        .found
        .iter()
        .map(|wanted| wanted.priority.srv)
        .collect();
    assert_eq!(priorities, [10, 10, 20]);

    server.set(
        "_http._tcp.app.test.",
        SRV,
        Reply::Records(vec![service(0, 0, 0, "")]),
    );
    assert!(
        follower
            .ask(&name, &answer.found)
            .await
            .err()
            .unwrap()
            .absent
    );
}

#[tokio::test]
async fn the_hosts_file_is_asked_first() {
    let server = NameServer::start().await;
    server.set_both("localhost.", SERVFAIL);
    let answer = server
        .follower()
        .ask(&host("localhost"), &[])
        .await
        .unwrap();
    assert!(!answer.found.is_empty());
}

#[tokio::test]
async fn absence_ends_endpoints_and_failure_does_not() {
    let server = NameServer::start().await;
    let mut follower = server.follower();
    let config = Arc::new(upstream_config(&[host("app.test")]));
    let upstream = Upstream::new(
        config,
        Registry::new(1).upstream("app"),
        &Materials::default(),
    );
    let mut ask = async || {
        let outcome = follower.ask(&host("app.test"), &upstream.found(0)).await;
        upstream.publish(0, outcome.map(|answer| answer.found), Instant::now());
        addresses(&upstream)
    };
    server.set_ips("app.test.", 30, &["127.0.0.1"]);
    assert_eq!(ask().await, ["127.0.0.1:80"]);
    server.set_both("app.test.", SERVFAIL);
    for _ in 0..2 * ABSENT_GRACE {
        assert_eq!(ask().await, ["127.0.0.1:80"]);
    }
    server.set_both("app.test.", NXDOMAIN);
    for _ in 1..ABSENT_GRACE {
        assert_eq!(ask().await, ["127.0.0.1:80"]);
    }
    assert!(ask().await.is_empty());
    let picked = upstream.pick(Instant::now(), &mut fastrand::Rng::new(), Wish::default());
    let error = picked.err().unwrap();
    assert_eq!(error.reason, Reason::DnsUnresolved);
    assert!(
        error.detail.contains("app.test:80: does not exist"),
        "{error}"
    );
}

#[tokio::test]
async fn names_are_followed_from_reload_to_reload() {
    let server = NameServer::start().await;
    server.set_ips("app.test.", 0, &["127.0.0.1"]);
    let mut config = upstream_config(&[host("app.test")]);
    // What counts is the bound, not the TTL.
    config.dns.min_ttl = Duration::from_millis(1);
    let metrics = Registry::new(1).upstream("app");
    let first = Upstream::new(Arc::new(config.clone()), metrics, &Materials::default());
    let mut discovery = Discovery::with_resolver(server.resolver());
    discovery.reconcile(std::slice::from_ref(&first));
    until(|| addresses(&first) == ["127.0.0.1:80"]).await;

    server.set_ips("app.test.", 0, &["127.0.0.2", "127.0.0.1"]);
    let kept = first.endpoints().endpoints()[0].id;
    until(|| addresses(&first).len() == 2).await;
    assert!(first.endpoints().contains(kept));

    // A reload that leaves it alone leaves it followed; one that changes it follows the successor.
    discovery.reconcile(std::slice::from_ref(&first));
    server.set_ips("app.test.", 0, &["127.0.0.3"]);
    until(|| addresses(&first) == ["127.0.0.3:80"]).await;
    config.dns.min_ttl = Duration::from_millis(2);
    let second = first.successor(Arc::new(config), &Materials::default());
    assert_eq!(addresses(&second), addresses(&first));
    discovery.reconcile(std::slice::from_ref(&second));
    server.set_ips("app.test.", 0, &["127.0.0.4"]);
    until(|| addresses(&second) == ["127.0.0.4:80"]).await;
    assert_eq!(addresses(&first), ["127.0.0.3:80"]);

    // Nothing holds on to what is gone.
    let gone = Arc::downgrade(&second);
    discovery.reconcile(&[]);
    drop(second);
    until(|| gone.upgrade().is_none()).await;
}
