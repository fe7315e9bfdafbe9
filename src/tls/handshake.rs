//! Handshakes on both sides: in bounded time, and never at the cost of what is established.

use std::{cell::Cell, future::poll_fn, io, rc::Rc, sync::Arc, time::Duration};

use rustls::{
    client::UnbufferedClientConnection,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::UnbufferedServerConnection,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use super::{
    Certificate, Fault, FaultKind, Taken,
    alpn::Spoken,
    client::ClientSide,
    roster::{Bond, Counted, Leash, Party, Proven, Roster},
    server::{self, ServerSide},
    term::Term,
    verify,
};
use crate::{
    config::model::Address,
    http::input::Input,
    net::{
        Stream,
        tls::{Session, TlsStream},
    },
    snapshot::ListenerId,
    telemetry::TlsMetrics,
};

/// The type of the record that a handshake begins with (RFC 8446 section 5.1). No method of HTTP
/// begins with it.
pub const HANDSHAKE: u8 = 22;
/// Steps of handshakes that one thread takes before it looks after everything else: each is a
/// signature or two, some hundred microseconds, and a flood of them must not keep established
/// connections waiting.
pub const STEPS: usize = 2;
/// Failures are told this far apart.
const TELL: Duration = Duration::from_secs(1);

/// What a worker knows of its TLS connections.
pub struct Desk {
    pub worker: usize,
    pub roster: Roster,
    turns: Semaphore,
    told: Cell<Option<Instant>>,
    untold: Cell<u64>,
}

impl Desk {
    pub fn new(worker: usize, metrics: Arc<TlsMetrics>) -> Rc<Self> {
        Rc::new(Self {
            worker,
            roster: Roster::new(Counted { metrics, worker }),
            turns: Semaphore::new(STEPS),
            told: Cell::new(None),
            untold: Cell::new(0),
        })
    }
}

/// What a handshake has settled.
#[derive(Clone, Debug)]
pub struct Secured {
    pub leash: Rc<Leash>,
    /// The peer, if it showed a certificate.
    pub peer: Option<Arc<Certificate>>,
    /// What was agreed to speak; `None` if that was no subject.
    pub spoken: Option<Spoken>,
}

/// What a session of rustls does not tell of its handshake.
#[derive(Default)]
struct Shaken {
    /// The name that a client asked for.
    asked: Option<Box<str>>,
    /// Whom a verifier has admitted.
    peer: Option<Certificate>,
}

/// What our side of a handshake was made with.
struct Own {
    /// Fingerprint of what was shown, and when that ends.
    shown: Option<[u8; 32]>,
    end: UnixTime,
    trust: Option<[u8; 32]>,
    /// Nothing was rotated meanwhile.
    is_current: bool,
}

impl Desk {
    /// Says in the log why a client's handshake came to nothing; once a second, since anybody can make
    /// them fail as often as he likes. All are counted.
    pub fn tell(&self, listener: &str, peer: &Address, fault: &Fault) {
        let now = Instant::now();
        if self.told.get().is_some_and(|at| now - at < TELL) {
            self.untold.set(self.untold.get() + 1);
            return;
        }
        self.told.set(Some(now));
        tracing::info!(
            listener,
            %peer,
            reason = fault.kind().name(),
            detail = %fault,
            untold = self.untold.take(),
            "handshake failed"
        );
    }

    /// The handshake with a client. `input` has what was read of it already.
    pub async fn accept(
        &self,
        socket: Stream,
        input: Input,
        side: Taken<'_, ServerSide>,
        listener: ListenerId,
        limit: Duration,
    ) -> Result<(Stream, Secured), Fault> {
        let session =
            UnbufferedServerConnection::new(side.rustls()).map_err(|error| Fault::of(&error))?;
        let mut stream = TlsStream::new(socket, Session::Server(session), input);
        let Shaken { asked, peer } = shake(&self.turns, &mut stream, limit).await?;
        let own = Own {
            shown: side.shown(asked.as_deref()),
            end: side.credential(asked.as_deref()).leaf().not_after,
            trust: side.trust().map(|trust| *trust.fingerprint()),
            is_current: side.is_current(),
        };
        let party = Party::Client { listener, asked };
        let secured = self.settle(&mut stream, own, party, peer)?;
        Ok((Stream::Tls(Box::new(stream)), secured))
    }

    /// The handshake with an endpoint. `offered`: protocols for ALPN.
    pub async fn connect(
        &self,
        socket: Stream,
        side: Taken<'_, ClientSide>,
        offered: Vec<Vec<u8>>,
        party: (Arc<str>, ServerName<'static>),
        limit: Duration,
    ) -> Result<(Stream, Secured), Fault> {
        let (upstream, dialled) = party;
        let session =
            UnbufferedClientConnection::new_with_alpn(side.rustls(), dialled.clone(), offered)
                .map_err(|error| Fault::of(&error))?;
        let mut stream = TlsStream::new(socket, Session::Client(session), Input::default());
        let Shaken { peer, .. } = shake(&self.turns, &mut stream, limit).await?;
        let end = side.credential().map(|shown| shown.leaf().not_after);
        let own = Own {
            shown: side.shown(),
            end: end.unwrap_or(UnixTime::since_unix_epoch(Duration::MAX)),
            trust: Some(*side.trust().fingerprint()),
            is_current: side.is_current(),
        };
        let party = Party::Endpoint {
            upstream,
            dialled,
            expected: Arc::clone(side.expected()),
        };
        let secured = self.settle(&mut stream, own, party, peer)?;
        Ok((Stream::Tls(Box::new(stream)), secured))
    }

    fn settle(
        &self,
        stream: &mut TlsStream,
        own: Own,
        party: Party,
        peer: Option<Certificate>,
    ) -> Result<Secured, Fault> {
        let state = stream.session().state();
        let chain: Box<[CertificateDer<'static>]> =
            state.peer_certificates().unwrap_or_default().into();
        let spoken = spoken(state.alpn_protocol())?;
        let peer = match (peer, chain.first()) {
            // Of a session that was resumed nothing was verified anew.
            (None, Some(leaf)) => Some(Certificate::leaf(leaf).map_err(|_| {
                Fault::new(FaultKind::BadCertificate, "the certificate can't be read")
            })?),
            (verified, _) => verified,
        }
        .map(Arc::new);
        let end = match &peer {
            Some(peer) => own.end.as_secs().min(peer.not_after.as_secs()),
            None => own.end.as_secs(),
        };
        let left = end.saturating_sub(UnixTime::now().as_secs());
        let bond = Bond {
            party,
            shown: own.shown,
            chain,
            trust: own.trust,
            proven: Proven {
                version: state.protocol_version(),
                peer: peer.clone(),
            },
        };
        let term = Term::new(Instant::now(), Duration::from_secs(left));
        let leash = self.roster.hold(bond, term);
        stream.put_on(Rc::clone(&leash));
        if !own.is_current {
            // Rotated meanwhile: this connection was not there to be looked at.
            self.roster.doubt();
        }
        Ok(Secured {
            leash,
            peer,
            spoken,
        })
    }
}

/// The handshake with an endpoint for a connection that lives a moment: nobody counts or reviews it.
pub async fn connect_briefly(
    turns: &Semaphore,
    socket: Stream,
    side: &ClientSide,
    offered: Vec<Vec<u8>>,
    dialled: ServerName<'static>,
    limit: Duration,
) -> Result<(Stream, Option<Spoken>), Fault> {
    let session = UnbufferedClientConnection::new_with_alpn(side.rustls(), dialled, offered)
        .map_err(|error| Fault::of(&error))?;
    let mut stream = TlsStream::new(socket, Session::Client(session), Input::default());
    shake(turns, &mut stream, limit).await?;
    let spoken = spoken(stream.session().state().alpn_protocol())?;
    Ok((Stream::Tls(Box::new(stream)), spoken))
}

/// One flight after the other, each in its turn.
async fn shake(
    turns: &Semaphore,
    stream: &mut TlsStream,
    limit: Duration,
) -> Result<Shaken, Fault> {
    let mut shaken = Shaken::default();
    let flights = async {
        loop {
            poll_fn(|cx| stream.poll_next_flight(cx))
                .await
                .map_err(of)?;
            let turn = turns.acquire().await;
            let over = stream.take_flight().map_err(of);
            shaken.asked = server::asked().or_else(|| shaken.asked.take());
            shaken.peer = verify::admitted().or_else(|| shaken.peer.take());
            if !matches!(over, Ok(false)) {
                // Also the alert that says what was wrong.
                let said = poll_fn(|cx| stream.poll_drain(cx)).await;
                over?;
                return said.map_err(of);
            }
            // Held until all others had theirs: without that, whoever waits next would go on
            // in this very turn.
            tokio::task::yield_now().await;
            drop(turn);
        }
    };
    timeout(limit, flights)
        .await
        .unwrap_or_else(|_| Err(Fault::timeout()))?;
    Ok(shaken)
}

/// What was agreed to speak.
fn spoken(agreed: Option<&[u8]>) -> Result<Option<Spoken>, Fault> {
    match agreed {
        None => Ok(None),
        agreed => Spoken::agreed(agreed).map(Some).ok_or_else(|| {
            Fault::new(
                FaultKind::NoApplicationProtocol,
                "the peer chose a protocol that it was not offered",
            )
        }),
    }
}

fn of(error: io::Error) -> Fault {
    Fault::of_handshake(&error)
}
