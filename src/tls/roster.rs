//! A worker's TLS connections, and how each of them is held.
//!
//! A connection is made with one identity and one trust. When either changes, and before a
//! certificate ends, it has to go: first it is *retired* (it takes no new request, so that a new
//! connection takes its place), and what can't be replaced, opaque TCP or an endless stream, is
//! *cut* after a grace. The [`Roster`] decides that in one place for all connections of a worker;
//! a connection only looks at its [`Leash`].

use std::{
    cell::{Cell, RefCell},
    fmt,
    rc::{Rc, Weak},
    sync::Arc,
    task::Waker,
};

use rustls::{
    ProtocolVersion,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{sync::Notify, time::Instant};

use super::{
    Admission, Expected, Fault, Trust,
    client::ClientSide,
    server::ServerSide,
    still_admits,
    term::{Stage, Term},
};
use crate::{snapshot::ListenerId, telemetry::TlsMetrics, tls::Certificate};

/// With whom a connection was made, and what has to hold for it to last.
pub struct Bond {
    pub party: Party,
    /// Fingerprint of the credential that was shown to the peer.
    pub shown: Option<[u8; 32]>,
    /// What the peer showed; empty if nothing.
    pub chain: Box<[CertificateDer<'static>]>,
    /// The trust by which it was admitted.
    pub trust: Option<[u8; 32]>,
    pub proven: Proven,
}

/// What a handshake has shown, for whoever asks later.
#[derive(Clone, Debug)]
pub struct Proven {
    /// Of TLS.
    pub version: Option<ProtocolVersion>,
    /// The peer, if it showed a certificate.
    pub peer: Option<Arc<Certificate>>,
}

/// The other side, what was asked of it, and where to look up what holds for it now.
#[derive(Clone)]
pub enum Party {
    /// A client, and the name that it asked for.
    Client {
        listener: ListenerId,
        asked: Option<Box<str>>,
    },
    /// An endpoint, by the name under which it was reached, and who it had to be.
    Endpoint {
        upstream: Arc<str>,
        dialled: ServerName<'static>,
        expected: Arc<Expected>,
    },
}

/// What holds for a party now.
pub enum Holding {
    /// Connections of the kind, a client's or an upstream's, have no TLS any more, or are gone:
    /// somebody else sees to that.
    Nothing,
    Client(Arc<ServerSide>),
    Endpoint(Arc<ClientSide>),
}

/// How a connection is held. Whoever serves it looks here before the next request.
pub struct Leash {
    counted: Counted,
    bond: Bond,
    term: Cell<Term>,
    stage: Cell<Stage>,
    refused: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Leash {
    fn new(bond: Bond, term: Term, counted: Counted) -> Rc<Self> {
        counted.metrics.opened(counted.worker);
        Rc::new(Self {
            counted,
            bond,
            term: Cell::new(term),
            stage: Cell::new(Stage::Serving),
            refused: Cell::new(false),
            waker: RefCell::new(None),
        })
    }

    /// What its handshake has shown.
    pub fn proven(&self) -> &Proven {
        &self.bond.proven
    }

    /// Takes no new request.
    pub fn is_retired(&self) -> bool {
        self.stage.get() >= Stage::Retired
    }

    /// Is retired because the peer is no longer trusted: the sooner it ends, the better.
    pub fn is_refused(&self) -> bool {
        self.refused.get() && self.is_retired()
    }

    /// Ends now.
    pub fn is_cut(&self) -> bool {
        self.stage.get() == Stage::Cut
    }

    /// The task that has to learn of a cut.
    pub fn heed(&self, waker: &Waker) {
        match &mut *self.waker.borrow_mut() {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Judges the connection by what holds now.
    fn judge(&self, holding: &Holding, now: Instant, clock: UnixTime, random: u32) {
        let bond = &self.bond;
        let (trust, shown, same) = match (holding, &bond.party) {
            (Holding::Client(side), Party::Client { asked, .. }) => {
                (side.trust(), side.shown(asked.as_deref()), true)
            }
            (Holding::Endpoint(side), Party::Endpoint { expected, .. }) => (
                Some(side.trust()),
                side.shown(),
                side.expected() == expected,
            ),
            _ => return,
        };
        let mut term = self.term.get();
        if shown != bond.shown {
            term = term.rotated(now, random);
        }
        let same = same && trust.map(Trust::fingerprint) == bond.trust.as_ref();
        // Whoever was refused is not asked about again: no later rotation brings him back.
        if !same
            && !self.refused.get()
            && let Err(fault) = self.admit(holding, trust, clock)
        {
            tracing::info!(reason = fault.kind().name(), detail = %fault, "peer is no longer admitted");
            term = term.refused(now);
            self.refused.set(true);
        }
        self.term.set(term);
    }

    fn admit(
        &self,
        holding: &Holding,
        trust: Option<&Trust>,
        clock: UnixTime,
    ) -> Result<(), Fault> {
        let Bond { party, chain, .. } = &self.bond;
        let Some(trust) = trust.filter(|_| !chain.is_empty()) else {
            return Ok(());
        };
        let admission = match (holding, party) {
            (Holding::Endpoint(side), Party::Endpoint { dialled, .. }) => {
                side.expected().admission(dialled)
            }
            _ => Admission::Client(&[]),
        };
        still_admits(trust, admission, chain, clock)
    }

    /// Moves on to the stage of this moment; whether that is another one.
    fn advance(&self, now: Instant) -> bool {
        let stage = self.term.get().stage(now).max(self.stage.get());
        let before = self.stage.replace(stage);
        if before == Stage::Serving && stage != before {
            self.counted.metrics.retired(self.counted.worker);
        }
        if stage == Stage::Cut
            && let Some(waker) = self.waker.borrow_mut().take()
        {
            waker.wake();
        }
        stage != before
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        self.counted
            .metrics
            .closed(self.counted.worker, self.is_retired());
    }
}

/// Where connections are counted.
#[derive(Clone)]
pub struct Counted {
    pub metrics: Arc<TlsMetrics>,
    pub worker: usize,
}

impl fmt::Debug for Leash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leash")
            .field("term", &self.term)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

/// Finds what holds for a party now.
pub type LookUp<'a> = &'a dyn Fn(&Party) -> Holding;

/// All TLS connections of a worker.
pub struct Roster {
    counted: Counted,
    held: RefCell<Vec<Weak<Leash>>>,
    /// When the first of them has to be looked at.
    due: Cell<Option<Instant>>,
    /// Notified when that has become earlier, or one of them is in doubt.
    sooner: Notify,
    /// Something was rotated while a handshake was on its way.
    doubt: Cell<bool>,
}

impl Roster {
    pub fn new(counted: Counted) -> Self {
        Self {
            counted,
            held: RefCell::default(),
            due: Cell::new(None),
            sooner: Notify::new(),
            doubt: Cell::new(false),
        }
    }

    /// Holds one more connection.
    pub fn hold(&self, bond: Bond, term: Term) -> Rc<Leash> {
        let leash = Leash::new(bond, term, self.counted.clone());
        let mut held = self.held.borrow_mut();
        // Those that are gone are looked for only before the list would grow.
        if held.len() == held.capacity() {
            held.retain(|leash| leash.strong_count() > 0);
        }
        held.push(Rc::downgrade(&leash));
        let due = earlier(self.due.get(), term.next(Stage::Serving));
        if self.due.replace(due) != due {
            self.sooner.notify_one();
        }
        leash
    }

    /// What a connection was made with has been replaced meanwhile: all are judged once more.
    pub fn doubt(&self) {
        self.doubt.set(true);
        self.sooner.notify_one();
    }

    pub(super) fn take_doubt(&self) -> bool {
        self.doubt.take()
    }

    /// Resolves when a review is due earlier than it was.
    pub(super) async fn sooner(&self) {
        self.sooner.notified().await;
    }

    /// When [`Self::review`] has something to do at the latest.
    pub fn due(&self) -> Option<Instant> {
        self.due.get()
    }

    /// Looks at every connection; at what holds for it only where that may have `changed`.
    /// Whether any has moved on.
    pub fn review(
        &self,
        now: Instant,
        clock: UnixTime,
        changed: Option<LookUp<'_>>,
        rng: &mut fastrand::Rng,
    ) -> bool {
        let mut moved = false;
        let mut due = None;
        let mut held = self.held.borrow_mut();
        held.retain(|leash| {
            let Some(leash) = leash.upgrade() else {
                return false;
            };
            if let Some(holding) = changed {
                leash.judge(&holding(&leash.bond.party), now, clock, rng.u32(..));
            }
            moved |= leash.advance(now);
            due = earlier(due, leash.term.get().next(leash.stage.get()));
            true
        });
        self.due.set(due);
        moved
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}
