//! HTTP/1.1 and HTTP/2, towards clients and towards upstreams.
//!
//! A connection begins in [`serve`], which tells the protocols apart by their first bytes. Both
//! servers ([`h1::server`], [`h2::server`]) hand every request to [`exchange::handle`], which
//! returns a response whatever happens. Towards upstreams an exchange is polled where it is
//! waited for: no channel lies between the two connections.

mod buffers;
mod client_cert;
pub mod completion;
mod copies;
mod deadlines;
pub mod exchange;
#[cfg(test)]
mod exchanges;
pub mod fallback;
mod farewell;
mod faults;
pub mod fields;
pub mod grpc;
pub mod h1;
pub mod h2;
pub mod headers;
pub mod input;
pub mod local;
pub mod message;
pub mod mirror;
pub mod name;
pub mod outbox;
pub mod pace;
pub mod replay;
pub mod request_id;
mod slow;
pub mod target;
pub mod trailers;
pub mod upgrade;

use std::{
    borrow::Cow,
    cell::{OnceCell, RefCell},
    future::poll_fn,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use http::Version;
use tokio::time::{Instant, timeout};

use self::{fields::Fields, input::Input, request_id::RequestId};
use crate::{
    config::model::{Address, ForwardedClientCert, HttpListener},
    error::{Error, Reason},
    net::Stream,
    snapshot::{HttpPlan, ListenerPlan, PlanKind},
    telemetry::{access_log::Protocol, attributes::Block, metrics::PeerMetrics},
    tls::{alpn::Spoken, handshake::HANDSHAKE},
    upstream::{Sticky, Upstream},
    worker::{Conn, Worker},
};

/// How an HTTP/2 connection with prior knowledge begins (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The preface and the header of the frame that follows it.
const OPENING: usize = PREFACE.len() + 9;
/// A connection whose certificates are replaced, and that says nothing, is closed after so long.
const PARTING: Duration = Duration::from_secs(1);
/// A connection that was accepted as the drain began may have its first request on the way.
const FIRST_REQUEST_GRACE: Duration = Duration::from_millis(100);

/// Serves one connection to its end.
pub async fn serve(stream: Stream, input: Input, conn: Conn, worker: Rc<Worker>) {
    let client = Client::new(conn, worker);
    let mut stream = stream;
    let mut input = input;
    let (start, limit) = (Instant::now(), client.limits().head_timeout);
    let detected = tokio::select! {
        biased;
        detected = timeout(limit, detect(&mut stream, &mut input)) => detected,
        () = async {
            client.ended().await;
            tokio::time::sleep(FIRST_REQUEST_GRACE).await;
        } => return stream.take_leave(),
    };
    match detected {
        Ok(Some(_)) if input.first() == Some(&HANDSHAKE) => {
            Box::pin(h1::server::refuse_tls(stream, input, client)).await;
        }
        // Boxed apart: a connection has the size of its own protocol only.
        Ok(Some(Version::HTTP_2)) => Box::pin(h2::server::serve(stream, input, client)).await,
        Ok(Some(_)) => Box::pin(h1::server::serve(stream, input, client)).await,
        // Whoever says nothing is not answered; whoever began a head is told.
        Ok(None) => stream.take_leave(),
        Err(_) if input.is_empty() => stream.take_leave(),
        Err(_) => {
            // Only the beginning of a preface keeps one in doubt for so long.
            let error = head_timeout(limit);
            let reply = exchange::refused_head(&client, Protocol::Http2, Some(start), None, &error);
            reply.completion.done();
        }
    }
}

/// A head that was begun is not whole after so long.
fn head_timeout(limit: Duration) -> Error {
    Error::new(Reason::HeadTimeout, "")
        .detail(format!("no whole head within {limit:?} (http.headTimeout)"))
}

/// Reads until the protocol is certain: one byte is enough for nearly every HTTP/1.1 request.
async fn detect(stream: &mut Stream, input: &mut Input) -> Option<Version> {
    loop {
        if input.len() < OPENING && PREFACE.starts_with(&input[..input.len().min(PREFACE.len())]) {
            let read = poll_fn(|cx| input.poll_fill(cx, stream)).await;
            read.ok().filter(|&read| read > 0)?;
        }
        let seen = input.len().min(PREFACE.len());
        if input[..seen] != PREFACE[..seen] {
            return Some(Version::HTTP_11);
        }
        if input.len() >= OPENING {
            return Some(Version::HTTP_2);
        }
    }
}

/// A client connection, as everything that serves its requests sees it.
pub struct Client {
    pub worker: Rc<Worker>,
    pub conn: Conn,
    plan: RefCell<Arc<ListenerPlan>>,
    /// Who connects, without the port; `None` over a Unix socket.
    pub address: Option<IpAddr>,
    /// `address` as text.
    pub address_text: Box<str>,
    /// Our name in `Via`: unique to this process and listener.
    pub pseudonym: Box<str>,
    /// What is appended to `Via` for a request over HTTP/1.1.
    via: Box<str>,
    /// What its certificate says in `X-Forwarded-Client-Cert`, once that was asked for.
    certificate: OnceCell<Box<str>>,
    /// Counts its requests, where it has shown a certificate.
    peer: Option<Arc<PeerMetrics>>,
    /// What spans of its requests have in common.
    pub(crate) told: OnceCell<Block>,
}

impl Client {
    fn new(conn: Conn, worker: Rc<Worker>) -> Rc<Self> {
        let address = match conn.source() {
            Address::Tcp(address) => Some(address.ip().to_canonical()),
            Address::Unix(_) => None,
        };
        let address_text = address.map_or_else(|| "unknown".into(), |ip| ip.to_string().into());
        let pseudonym = format!(
            "pillion-{:012x}-{}",
            worker.shared.process_id >> 16,
            conn.listener.0
        );
        let via = via_of("1.1", &pseudonym);
        let plan = RefCell::new(Arc::clone(&conn.plan));
        let identity = conn.identity();
        let peer = identity.and_then(|identity| conn.plan.metrics.peer(identity.name()));
        Rc::new(Self {
            worker,
            conn,
            plan,
            address,
            address_text,
            pseudonym: pseudonym.into(),
            via: via.into(),
            certificate: OnceCell::new(),
            peer,
            told: OnceCell::new(),
        })
    }

    /// For a request that brought none.
    pub fn new_request_id(&self) -> RequestId {
        let mut rng = self.worker.rng.borrow_mut();
        RequestId::new(rng.u64(..), rng.u64(..))
    }

    /// `Host` of a request that names none.
    pub fn local_host(&self) -> String {
        match &self.conn.local {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(_) => "localhost".to_owned(),
        }
    }

    /// What is appended to `Via` for a request by this version (RFC 9110 section 7.6.3).
    pub fn via(&self, version: Version) -> Cow<'_, str> {
        match version {
            Version::HTTP_10 => via_of("1.0", &self.pseudonym).into(),
            Version::HTTP_2 => via_of("2", &self.pseudonym).into(),
            _ => Cow::Borrowed(&*self.via),
        }
    }

    /// The listener's newest plan: a kept-alive connection gets it with its next request.
    pub fn plan(&self) -> Arc<ListenerPlan> {
        let mut plan = self.plan.borrow_mut();
        if plan.generation != self.worker.generation()
            && let Some(newest) = self.worker.plan(self.conn.listener)
            && matches!(newest.kind, PlanKind::Http(_))
        {
            *plan = newest;
        }
        Arc::clone(&plan)
    }

    /// What the listener allows its clients.
    pub fn limits(&self) -> HttpListener {
        http_plan(&self.plan()).http.clone()
    }

    /// What keeps a request with these fields to one endpoint.
    pub fn sticky(&self, upstream: &Upstream, fields: &Fields) -> Sticky {
        let random = || self.worker.rng.borrow_mut().u128(..);
        upstream.sticky(fields, self.address, self.is_secured(), random)
    }

    /// Writes or drops `X-Forwarded-Client-Cert`, as the listener says. Where it has no TLS to speak
    /// of, the line is as good as the other forwarding headers: what `trusted` proxies have written.
    fn tell_certificate(&self, fields: &mut Fields, trusted: bool) {
        let plan = self.plan.borrow();
        let mode = match &plan.config.tls {
            Some(tls) => tls.forwarded_client_cert,
            None if trusted => return,
            None => ForwardedClientCert::Sanitize,
        };
        let peer = self
            .conn
            .secured
            .as_ref()
            .and_then(|secured| secured.peer.as_ref());
        let element = peer
            .filter(|_| mode != ForwardedClientCert::Sanitize)
            .map(|peer| {
                self.certificate.get_or_init(|| {
                    let materials = self.worker.shared.materials.load();
                    let own = materials.identity.as_ref().map(|own| own.leaf());
                    client_cert::element(own, peer).into()
                })
            });
        client_cert::apply(fields, mode, element.map(|text| &**text));
    }

    /// Whether its connection has TLS.
    pub fn is_secured(&self) -> bool {
        self.conn.secured.is_some()
    }

    /// In which its requests come.
    pub fn scheme(&self) -> &'static str {
        match self.is_secured() {
            true => "https",
            false => "http",
        }
    }

    /// Whether it is another Pillion, and has shown who it is.
    pub fn is_link(&self) -> bool {
        let secured = self.conn.secured.as_ref();
        secured
            .is_some_and(|secured| secured.spoken == Some(Spoken::Link) && secured.peer.is_some())
    }

    /// Its certificates, or the trust in it, have come to their end, and so has its time.
    pub fn is_cut(&self) -> bool {
        let secured = self.conn.secured.as_ref();
        secured.is_some_and(|secured| secured.leash.is_cut())
    }

    /// Its trust is over, and it has little time left.
    fn is_refused(&self) -> bool {
        let secured = self.conn.secured.as_ref();
        secured.is_some_and(|secured| secured.leash.is_refused())
    }

    /// No new request on this connection.
    pub fn should_close(&self) -> bool {
        self.worker.should_close(&self.conn)
            || self
                .conn
                .secured
                .as_ref()
                .is_some_and(|secured| secured.leash.is_retired())
    }

    /// Resolves when the connection has to end while it is idle.
    pub async fn ended(&self) {
        loop {
            let event = self.worker.events.notified();
            tokio::pin!(event);
            event.as_mut().enable();
            if self.worker.should_close(&self.conn) || self.is_refused() {
                return;
            }
            if self.should_close() {
                // The next request may be on its way; the answer to it says that it is the last.
                let parting = Box::pin(tokio::time::sleep(PARTING));
                tokio::select! {
                    () = event => continue,
                    () = parting => return,
                }
            }
            event.await;
        }
    }
}

fn via_of(version: &str, pseudonym: &str) -> String {
    format!("{version} {pseudonym}")
}

/// The HTTP half of a plan. Only HTTP listeners' connections come here, and a reload that makes
/// one a TCP listener leaves its connections their last plan.
pub fn http_plan(plan: &ListenerPlan) -> &HttpPlan {
    match &plan.kind {
        PlanKind::Http(http) => http,
        PlanKind::Tcp(_) => unreachable!("an HTTP connection keeps to HTTP plans"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// What an idle connection weighs before its socket is counted. A future that grows past
    /// this has taken in something that belongs in a box, since only a busy one needs it.
    #[test]
    fn idle_connections_are_small() {
        let connection =
            size_of_future(|stream, conn, worker| serve(stream, Input::default(), conn, worker));
        assert!(connection <= 1024, "{connection}");
        let (h1, h2) = (
            size_of_future(h1::server::serve),
            size_of_future(h2::server::serve),
        );
        assert!(h1 <= 1536, "{h1}");
        assert!(h2 <= 3072, "{h2}");
    }
}
