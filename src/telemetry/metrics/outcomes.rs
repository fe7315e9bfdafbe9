//! Durations by how something went: by method, status, protocol and reason at once.
//!
//! Few of the combinations ever come up, so each worker has a list of those that did, in the order
//! of their first time. Only the worker appends to it; what is in it stays, so that a scrape may
//! follow it at any time. There is no lock but at the first time of an outcome.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use http::Method;

use super::{
    cells::{Count, PerWorker},
    common::{Common, Settings, Timed},
    histogram::{Histogram, Summary},
    room::Share,
};
use crate::{
    error::Reason,
    http::grpc,
    telemetry::{access_log::Protocol, method},
};

/// How something went, in one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Outcome(u64);

/// In the place of a method that is not known; a client can't make more of them.
const OTHER: u64 = method::NAMES.len() as u64;

// 0: nobody asks, as for attempts.
const HTTP: u64 = 1;
const HTTPS: u64 = 2;

const VERSIONS: [&str; 4] = ["", "1.0", "1.1", "2"];

impl Outcome {
    /// All that there was no room for.
    pub(super) const REST: Self = Self(u64::MAX);

    /// `status` is 0 where there was no response.
    pub(super) fn new(
        method: &Method,
        status: u16,
        protocol: Option<Protocol>,
        reason: Option<Reason>,
    ) -> Self {
        let version = match protocol {
            None | Some(Protocol::Tcp) => 0,
            Some(Protocol::Http10) => 1,
            Some(Protocol::Http11) => 2,
            Some(Protocol::Http2) => 3,
        };
        let reason = reason.map_or(0, |reason| reason.index() as u64 + 1);
        let method = method::index(method).map_or(OTHER, |index| index as u64);
        Self(method | version << 8 | u64::from(status) << 16 | reason << 32)
    }

    /// The same of a call of gRPC that ended with this status, if that is the server's failure.
    pub(super) fn of_call(self, status: Option<u8>) -> Self {
        match status.filter(|&status| grpc::is_failure(status)) {
            Some(status) => Self(self.0 | u64::from(status) << 40),
            None => self,
        }
    }

    /// The same of a request that came over a connection with TLS, or without.
    pub(super) const fn on_connection(self, secured: bool) -> Self {
        let scheme = if secured { HTTPS } else { HTTP };
        Self(self.0 | scheme << 48)
    }

    /// Upper-case and known, `_OTHER`, or `_overflow` for the rest.
    pub(super) fn method(self) -> &'static str {
        let index = self.0 & 0xff;
        match method::NAMES.get(index as usize) {
            Some(name) => name,
            None if index == OTHER => "_OTHER",
            None => "_overflow",
        }
    }

    pub(super) fn is_rest(self) -> bool {
        self == Self::REST
    }

    /// `None`: there was no response.
    pub(super) fn status(self) -> Option<u16> {
        let status = (self.0 >> 16) as u16;
        Some(status).filter(|&status| status != 0 && !self.is_rest())
    }

    pub(super) fn version(self) -> Option<&'static str> {
        let version = VERSIONS.get(usize::from((self.0 >> 8) as u8));
        version.copied().filter(|version| !version.is_empty())
    }

    /// Of requests: what the client's connection makes of it.
    pub(super) const fn scheme(self) -> Option<&'static str> {
        match self.0 >> 48 {
            HTTP => Some("http"),
            HTTPS => Some("https"),
            _ => None,
        }
    }

    /// What went wrong (`error.type`): the reason, the gRPC status, or a status that is an error: for
    /// who serves that is 5xx, for who asks 4xx too. Of the rest nobody knows, and most of it went
    /// well.
    pub(super) fn error(self, of: Timed) -> Option<Cow<'static, str>> {
        if self.is_rest() {
            return None;
        }
        let call = || match (self.0 >> 40) as u8 {
            0 => None,
            status => Some(grpc::name(status).into()),
        };
        let least = match of {
            Timed::Requests => 500,
            Timed::Attempts => 400,
        };
        let status = || self.status().filter(|&status| status >= least);
        let reason = self.reason().map(|reason| reason.name().into());
        reason
            .or_else(call)
            .or_else(|| status().map(|status| status.to_string().into()))
    }

    pub(super) fn reason(self) -> Option<Reason> {
        let index = usize::from((self.0 >> 32) as u8).checked_sub(1)?;
        Reason::ALL.get(index).copied()
    }
}

/// Histograms by outcome.
#[derive(Debug)]
pub(super) struct Outcomes {
    common: Arc<Common>,
    settings: Arc<Settings>,
    lists: PerWorker<List>,
    of: Timed,
    admitted: Mutex<Admitted>,
}

#[derive(Debug)]
struct Admitted {
    outcomes: BTreeSet<Outcome>,
    /// Those that were told as refused.
    refused: BTreeSet<Outcome>,
    share: Share,
}

#[derive(Debug, Default)]
struct List {
    first: OnceLock<Box<Node>>,
    length: Count,
    /// The room as it was when something was refused a place: until it changes there is none.
    refused: Count,
}

#[derive(Debug)]
struct Node {
    outcome: Outcome,
    histogram: Histogram,
    next: OnceLock<Box<Self>>,
}

/// A list is walked from its begin. An upstream that answers with ever other statuses shall not
/// make that slow.
const MAX_NODES: u64 = 96;

impl Outcomes {
    pub(super) fn new(common: &Arc<Common>, settings: Arc<Settings>, of: Timed) -> Self {
        Self {
            lists: PerWorker::new(common.workers),
            admitted: Mutex::new(Admitted {
                outcomes: BTreeSet::new(),
                refused: BTreeSet::new(),
                share: Share::empty(&common.room),
            }),
            common: Arc::clone(common),
            settings,
            of,
        }
    }

    /// Made for these settings.
    pub(super) const fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Something has gone like this on a worker; with the ids of its trace, where it has one.
    pub(super) fn observe(
        &self,
        worker: usize,
        outcome: Outcome,
        took: Duration,
        trace: Option<(u128, u64)>,
    ) {
        let list = self.lists.of(worker);
        let histogram = match list.find(outcome) {
            Ok(node) => &node.histogram,
            Err(end) => self.meet(worker, end, outcome),
        };
        histogram.observe(took, self.common.told(trace));
    }

    /// The first time of an outcome, or one that has no place.
    #[cold]
    fn meet<'a>(
        &'a self,
        worker: usize,
        end: &'a OnceLock<Box<Node>>,
        outcome: Outcome,
    ) -> &'a Histogram {
        let list = self.lists.of(worker);
        if !self.admit(list, outcome) {
            return self.settings.rest(self.of, worker);
        }
        list.length.increment();
        let node = end.get_or_init(|| {
            Box::new(Node {
                outcome,
                histogram: Histogram::new(&self.settings.bounds),
                next: OnceLock::new(),
            })
        });
        &node.histogram
    }

    fn admit(&self, list: &List, outcome: Outcome) -> bool {
        let changes = self.common.room.changes();
        if list.refused.get() == changes {
            return false;
        }
        let is_full = list.length.get() >= MAX_NODES;
        // Each change to it is one call, so that a panic elsewhere leaves it whole.
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_full && admitted.outcomes.contains(&outcome) {
            return true;
        }
        let places = self.places();
        if !is_full && admitted.share.grow(places) {
            return admitted.outcomes.insert(outcome);
        }
        list.refused.set(changes);
        let told = &mut admitted.refused;
        if (told.len() as u64) < MAX_NODES && told.insert(outcome) {
            self.common.room.refuse(places);
        }
        false
    }

    /// Series of an outcome: beside the histogram, a request counts by method and class of status.
    fn places(&self) -> usize {
        let beside = match self.of {
            Timed::Requests => 1,
            Timed::Attempts => 0,
        };
        self.settings.histogram() + beside
    }

    /// Every outcome that has a place, over all workers.
    pub(super) fn summaries(&self) -> BTreeMap<Outcome, Summary> {
        let mut summaries = BTreeMap::new();
        for node in self.nodes() {
            let summary = || Summary::new(&self.settings.bounds);
            let summary = summaries.entry(node.outcome).or_insert_with(summary);
            summary.add(&node.histogram);
        }
        summaries
    }

    fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.lists.iter().flat_map(List::nodes)
    }
}

impl List {
    /// Where the outcome stands, or the end of the list.
    fn find(&self, outcome: Outcome) -> Result<&Node, &OnceLock<Box<Node>>> {
        let mut at = &self.first;
        while let Some(node) = at.get() {
            if node.outcome == outcome {
                return Ok(node);
            }
            at = &node.next;
        }
        Err(at)
    }

    fn nodes(&self) -> impl Iterator<Item = &Node> {
        let first = self.first.get();
        std::iter::successors(first, |node| node.next.get()).map(Box::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model;

    const MOMENT: Duration = Duration::from_millis(1);

    fn outcomes(max_series: usize) -> Outcomes {
        let common = Common::new(2);
        common.configure(&model::Metrics {
            max_series,
            ..model::Metrics::default()
        });
        let settings = common.settings();
        Outcomes::new(&common, settings, Timed::Attempts)
    }

    fn status(status: u16) -> Outcome {
        Outcome::new(&Method::GET, status, None, None)
    }

    #[test]
    fn an_outcome_tells_what_it_was_made_of() {
        let brew = Method::from_bytes(b"BREW").unwrap();
        for reason in [None, Some(Reason::ALL[0]), Reason::ALL.last().copied()] {
            for code in [0, 200, 999] {
                let outcome = Outcome::new(&brew, code, Some(Protocol::Http2), reason);
                assert_eq!(outcome.method(), "_OTHER");
                assert_eq!(outcome.status(), (code > 0).then_some(code));
                assert_eq!(outcome.version(), Some("2"));
                assert_eq!(outcome.reason(), reason);
                assert_eq!(outcome.scheme(), None);
                for (secured, scheme) in [(false, "http"), (true, "https")] {
                    let over = outcome.on_connection(secured).of_call(Some(13));
                    assert_eq!(over.scheme(), Some(scheme));
                    assert_eq!((over.status(), over.reason()), (outcome.status(), reason));
                }
            }
        }
        for name in &method::NAMES {
            let method = Method::from_bytes(name.as_bytes()).unwrap();
            assert_eq!(Outcome::new(&method, 200, None, None).method(), *name);
        }
        let rest = Outcome::REST;
        assert_eq!(rest.method(), "_overflow");
        assert_eq!(
            (rest.status(), rest.version(), rest.reason()),
            (None, None, None)
        );
        assert_eq!(rest.scheme(), None);
    }

    #[test]
    fn a_status_of_4xx_is_an_error_for_who_asked() {
        let error = |outcome: Outcome| {
            let of = |of| {
                outcome
                    .error(of)
                    .map_or_else(|| "-".into(), Cow::into_owned)
            };
            [of(Timed::Requests), of(Timed::Attempts)]
        };
        assert_eq!(error(status(0)), ["-", "-"]);
        assert_eq!(error(status(399)), ["-", "-"]);
        assert_eq!(error(status(404)), ["-", "404"]);
        assert_eq!(error(status(503)), ["503", "503"]);
        assert_eq!(error(status(200).of_call(Some(5))), ["-", "-"]);
        assert_eq!(error(status(200).of_call(Some(14))), ["UNAVAILABLE"; 2]);
        let reason = Some(Reason::RateLimited);
        let refused = Outcome::new(&Method::GET, 429, None, reason);
        assert_eq!(error(refused), ["rate_limited"; 2]);
        assert_eq!(error(Outcome::REST), ["-", "-"]);
    }

    #[test]
    fn workers_add_up_and_take_one_place() {
        let outcomes = outcomes(10_000);
        for worker in [0, 1, 1] {
            outcomes.observe(worker, status(200), MOMENT, Some((7, 8)));
        }
        outcomes.observe(0, status(404), MOMENT, None);
        let summaries = outcomes.summaries();
        let counts: Vec<_> = summaries.values().map(Summary::count).collect();
        assert_eq!(counts, [3, 1]);
        assert_eq!(summaries[&status(200)].exemplar().unwrap().trace_id, 7);
        assert_eq!(summaries[&status(404)].exemplar(), None);
        assert_eq!(outcomes.admitted.lock().unwrap().outcomes.len(), 2);
    }

    #[test]
    fn what_finds_no_place_is_counted_together() {
        let outcomes = outcomes(60);
        let each = outcomes.settings.histogram();
        let places = 54 / each;
        for code in 200..210 {
            for worker in 0..2 {
                outcomes.observe(worker, status(code), MOMENT, None);
            }
        }
        let summaries = outcomes.summaries();
        assert_eq!(summaries.len(), places);
        let rest = outcomes.settings.all_rest(Timed::Attempts).unwrap();
        assert_eq!(rest.count() as usize, 2 * (10 - places));
        assert!(outcomes.settings.all_rest(Timed::Requests).is_none());
        // Then it is known that there is no room.
        let refused = outcomes.common.room.refused() as usize;
        assert_eq!(refused, each);
        outcomes.common.room.set(60);
        outcomes.observe(0, status(200 + places as u16), MOMENT, None);
        assert_eq!(outcomes.common.room.refused() as usize, refused, "not new");

        outcomes.common.room.set(10_000);
        outcomes.observe(0, status(209), MOMENT, None);
        assert_eq!(outcomes.summaries()[&status(209)].count(), 1);
    }

    #[test]
    fn lists_stay_short() {
        let outcomes = outcomes(1_000_000);
        for code in 100..1000 {
            outcomes.observe(0, status(code), MOMENT, None);
        }
        assert_eq!(outcomes.nodes().count() as u64, MAX_NODES);
        let refused = outcomes.common.room.refused() as usize;
        assert_eq!(refused, outcomes.settings.histogram());
        let rest = outcomes.settings.all_rest(Timed::Attempts).unwrap();
        assert!(rest.count() > 700);
    }

    #[test]
    fn traces_are_told_only_where_that_is_wished() {
        let outcomes = outcomes(10_000);
        outcomes.common.configure(&model::Metrics {
            exemplars: false,
            ..model::Metrics::default()
        });
        outcomes.observe(0, status(200), MOMENT, Some((7, 8)));
        assert_eq!(outcomes.summaries()[&status(200)].exemplar(), None);
    }
}
