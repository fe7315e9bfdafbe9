//! One signal's way out: gathers what comes, sends it, and tries again while that makes sense.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::{
    Signal,
    client::{Client, Partial, Refusal, Request, same_place},
    envelope::Resource,
    queue::{Batch, Inlet},
    retry::{self, Verdict},
    throttle::Throttle,
};
use crate::{
    config::model::{Export, OtlpBatch},
    telemetry::metrics::{DropCause, ExportResult},
};

/// A connection with nothing to send is closed after this.
const IDLE: Duration = Duration::from_secs(5 * 60);
/// What a collector says about what it took in part is told this often at most.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// What a sender works by; replaced by a reload.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    /// `None` until the signal is switched on.
    pub(super) way: Option<Way>,
    /// The process ends: what is there is sent at once, and nothing is tried twice.
    pub(super) ending: bool,
}

/// Where to, and who sends.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Way {
    pub(super) export: Arc<Export>,
    pub(super) resource: Resource,
}

/// The task of a signal.
pub(super) struct Sender {
    signal: Signal,
    inlet: Arc<Inlet>,
    batches: mpsc::UnboundedReceiver<Batch>,
    plan: watch::Receiver<Plan>,
    /// Not before: a collector said so.
    throttle: Throttle,
    /// Came too late for the export that was gathered.
    carried: Option<Batch>,
    /// What is being sent.
    in_hand: Sum,
    /// And where it leads.
    client: Option<(Client, Arc<Export>)>,
    /// What was told of the tries that fail; `None` while they go well.
    trouble: Option<Trouble>,
    told_partial: Option<Instant>,
    rng: fastrand::Rng,
}

/// Whether more should be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Done,
    /// The process ends, and the collector is not there.
    Hopeless,
}

impl Sender {
    pub(super) fn new(
        signal: Signal,
        inlet: Arc<Inlet>,
        batches: mpsc::UnboundedReceiver<Batch>,
        plan: watch::Receiver<Plan>,
    ) -> Self {
        Self {
            signal,
            inlet,
            batches,
            plan,
            throttle: Throttle::default(),
            carried: None,
            in_hand: Sum::default(),
            client: None,
            trouble: None,
            told_partial: None,
            rng: fastrand::Rng::new(),
        }
    }

    /// Sends until the process ends and nothing is left.
    pub(super) async fn run(mut self) {
        while let Some(first) = self.next().await {
            let batches = self.gather(first).await;
            self.in_hand = Sum::of(&batches);
            let fate = match self.way() {
                Some(way) => self.export(way, &batches).await,
                None => Fate::Hopeless,
            };
            if fate == Fate::Hopeless {
                break;
            }
        }
    }

    fn way(&mut self) -> Option<Way> {
        self.plan.borrow_and_update().way.clone()
    }

    fn is_ending(&self) -> bool {
        self.plan.borrow().ending || self.plan.has_changed().is_err()
    }

    /// Until when the collector wants to be left alone. An end leaves no time for that.
    fn rests(&self) -> Option<Instant> {
        let plan = self.plan.borrow();
        self.throttle
            .until(&plan.way.as_ref()?.export, Instant::now())
    }

    /// The next batch; `None` when the process ends and there is none. The connection is kept alive
    /// meanwhile, for a while. Where a collector is to be left alone batches stay where the queue's
    /// bounds are.
    async fn next(&mut self) -> Option<Batch> {
        let idle = sleep(IDLE);
        tokio::pin!(idle);
        loop {
            let ending = self.is_ending();
            let rests = self.rests().filter(|_| !ending);
            if rests.is_none()
                && let Some(batch) = self.carried.take()
            {
                return Some(batch);
            }
            if ending {
                return self.batches.try_recv().ok();
            }
            let client = &mut self.client;
            let (holds, rest) = (client.is_some(), async {
                match client {
                    Some((client, _)) => client.rest().await,
                    None => std::future::pending().await,
                }
            });
            let over = tokio::select! {
                batch = self.batches.recv(), if rests.is_none() => return batch,
                changed = self.plan.changed() => {
                    drop(changed);
                    false
                }
                () = sleep_until(rests.unwrap_or_else(Instant::now)), if rests.is_some() => false,
                () = rest => true,
                () = &mut idle, if holds => true,
            };
            if over {
                self.client = None;
            }
        }
    }

    /// The first batch, with what comes soon after it and fits into one export.
    async fn gather(&mut self, first: Batch) -> Vec<Batch> {
        let limits = self.way().map(|way| way.export.batch);
        let mut room = Room::new(limits.as_ref());
        let mut batches = Vec::new();
        room.take(&first);
        batches.push(first);
        let until = Instant::now() + self.inlet.patience();
        while !room.is_full() {
            let next = match self.is_ending() {
                true => self.batches.try_recv().ok(),
                false => tokio::select! {
                    next = timeout_at(until, self.batches.recv()) => next.ok().flatten(),
                    changed = self.plan.changed() => {
                        drop(changed);
                        continue;
                    }
                },
            };
            match next {
                Some(batch) if room.fits(&batch) => {
                    room.take(&batch);
                    batches.push(batch);
                }
                other => {
                    self.carried = other;
                    break;
                }
            }
        }
        batches
    }

    /// Sends, again and again within the time that there is, or drops.
    async fn export(&mut self, mut way: Way, batches: &[Batch]) -> Fate {
        let mut request = request(&way, batches);
        let deadline = Instant::now() + way.export.timeout;
        let mut failed = 0;
        let cause = 'tries: loop {
            let way_there = &way.export;
            self.client
                .take_if(|(client, to)| !client.is_open() || !same_place(to, way_there));
            let reused = self.client.is_some();
            let left = deadline.saturating_duration_since(Instant::now());
            let limit = match self.is_ending() {
                true => left,
                false => retry::limit(left, reused),
            };
            let refusal = match self.attempt(way_there, &request, limit).await {
                Ok(partial) => {
                    let items = self.leave();
                    self.succeeded(&way.export, items, &partial);
                    return Fate::Done;
                }
                Err(refusal) => refusal,
            };
            let ending = self.is_ending();
            let Verdict::Later(asked) = refusal.verdict else {
                self.failed(&way.export, &refusal);
                break DropCause::Rejected;
            };
            // A connection that has rested may have ended unseen: that says nothing of the collector.
            if reused && failed == 0 && self.client.is_none() && Instant::now() < deadline {
                failed = 1;
                self.inlet.metrics.export(ExportResult::Retried);
                continue;
            }
            failed += 1;
            self.failed(&way.export, &refusal);
            if ending {
                self.inlet.metrics.export(ExportResult::Failed);
                return Fate::Hopeless;
            }
            let now = Instant::now();
            if let Some(rest) = asked {
                self.throttle.ask(&way.export, rest, now);
            }
            let again = now + retry::wait(failed, self.rng.u32(..));
            loop {
                let until = self.rests().map_or(again, |rests| rests.max(again));
                if until >= deadline {
                    break 'tries DropCause::Failed;
                }
                let Ok(Ok(())) = timeout_at(until, self.plan.changed()).await else {
                    break;
                };
                let Some(newer) = self.way() else {
                    break;
                };
                way = newer;
                request = self::request(&way, batches);
                // A reload may lead elsewhere, and an end leaves no time.
                if self.is_ending() || self.rests().is_none() {
                    break;
                }
            }
            self.inlet.metrics.export(ExportResult::Retried);
        };
        self.inlet.metrics.export(ExportResult::Failed);
        let items = self.leave();
        self.inlet.metrics.dropped(cause, items);
        Fate::Done
    }

    /// One try. A connection that was lost, or has not answered in time, is dropped.
    async fn attempt(
        &mut self,
        export: &Arc<Export>,
        request: &Request,
        limit: Duration,
    ) -> Result<Partial, Refusal> {
        let until = Instant::now() + limit;
        let signal = self.signal;
        let attempt = async {
            let (client, _) = match &mut self.client {
                Some(client) => client,
                none => {
                    let client = Client::connect(export).await.map_err(Refusal::lost)?;
                    none.insert((client, Arc::clone(export)))
                }
            };
            let left = until.saturating_duration_since(Instant::now());
            client.send(export, signal, request, left).await
        };
        let answer = timeout_at(until, attempt)
            .await
            .unwrap_or_else(|_| Err(Refusal::lost("it did not answer in time")));
        if matches!(&answer, Err(refusal) if refusal.is_lost()) {
            self.client = None;
        }
        answer
    }

    fn succeeded(&mut self, export: &Export, items: u64, partial: &Partial) {
        let signal = self.signal.name();
        let metrics = &self.inlet.metrics;
        let rejected = partial.rejected.min(items);
        metrics.export(ExportResult::Ok);
        metrics.exported(items - rejected);
        if rejected > 0 {
            metrics.dropped(DropCause::Rejected, rejected);
        }
        if self.trouble.take().is_some() {
            tracing::info!(signal, endpoint = %export.endpoint, "the collector takes telemetry again");
        }
        let now = Instant::now();
        let recently = self
            .told_partial
            .is_some_and(|told| now.saturating_duration_since(told) < TELL_AGAIN);
        if (rejected > 0 || !partial.message.is_empty()) && !recently {
            self.told_partial = Some(now);
            let answer = &*partial.message;
            tracing::warn!(
                signal,
                rejected,
                answer,
                "the collector did not take everything"
            );
        }
    }

    /// Told once, until it goes well again or something else is wrong.
    fn failed(&mut self, export: &Arc<Export>, refusal: &Refusal) {
        let trouble = Trouble {
            export: Arc::clone(export),
            error: refusal.why.to_string(),
            told: Instant::now(),
        };
        let known = self.trouble.as_ref();
        if known.is_some_and(|known| known.covers(&trouble)) {
            return;
        }
        tracing::warn!(
            signal = self.signal.name(),
            endpoint = %export.endpoint,
            error = trouble.error,
            hint = refusal.hint(export.protocol),
            "cannot send telemetry; what the collector does not take is dropped"
        );
        self.trouble = Some(trouble);
    }

    /// What was in hand waits no longer. Returns how many items that was.
    fn leave(&mut self) -> u64 {
        let Sum { bytes, items } = std::mem::take(&mut self.in_hand);
        self.inlet.left(bytes, items);
        items
    }
}

/// Counts what it has not sent, also when it ends by a panic.
impl Drop for Sender {
    fn drop(&mut self) {
        let cause = match std::thread::panicking() {
            true => DropCause::Failed,
            false => DropCause::Shutdown,
        };
        self.batches.close();
        let mut left = Vec::from_iter(self.carried.take());
        left.extend(std::iter::from_fn(|| self.batches.try_recv().ok()));
        let waiting = Sum::of(&left);
        self.inlet.left(waiting.bytes, waiting.items);
        let items = waiting.items + self.leave();
        self.inlet.metrics.dropped(cause, items);
    }
}

/// Why nothing is taken, as it was told.
struct Trouble {
    export: Arc<Export>,
    error: String,
    told: Instant,
}

impl Trouble {
    /// Whether a later one is no news. Of one collector errors that take turns are not told each
    /// time.
    fn covers(&self, later: &Self) -> bool {
        let recently = later.told.saturating_duration_since(self.told) < TELL_AGAIN;
        same_place(&self.export, &later.export) && (self.error == later.error || recently)
    }
}

/// How much some batches are, as the queue counts them.
#[derive(Debug, Default)]
struct Sum {
    bytes: u64,
    items: u64,
}

impl Sum {
    fn of(batches: &[Batch]) -> Self {
        Self {
            bytes: batches.iter().map(Batch::cost).sum(),
            items: batches.iter().map(|batch| batch.items).sum(),
        }
    }
}

fn request(way: &Way, batches: &[Batch]) -> Request {
    Request::new(&way.export, |out| way.resource.wrap(batches, out))
}

/// What an export has room for still.
struct Room {
    bytes: usize,
    items: u64,
}

impl Room {
    /// At most half of the queue: while one half is sent there is room for the other.
    fn new(limits: Option<&OtlpBatch>) -> Self {
        let Some(limits) = limits else {
            return Self { bytes: 0, items: 0 };
        };
        let half = limits.queue_items.map(|most| most.div_ceil(2));
        let items = [limits.max_items, half].into_iter().flatten().min();
        Self {
            bytes: limits.max_bytes.min(limits.queue_bytes / 2),
            items: items.map_or(u64::MAX, |most| most as u64),
        }
    }

    const fn is_full(&self) -> bool {
        self.bytes == 0 || self.items == 0
    }

    const fn fits(&self, batch: &Batch) -> bool {
        batch.bytes.len() <= self.bytes && batch.items <= self.items
    }

    const fn take(&mut self, batch: &Batch) {
        self.bytes = self.bytes.saturating_sub(batch.bytes.len());
        self.items = self.items.saturating_sub(batch.items);
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{client::tests::export, origin::Origin},
        *,
    };
    use crate::telemetry::{Registry, metrics::Format};

    const BATCH: OtlpBatch = OtlpBatch {
        delay: Duration::from_millis(1),
        max_bytes: 1 << 20,
        max_items: None,
        queue_bytes: 1 << 20,
        queue_items: None,
    };

    #[test]
    fn another_collector_or_another_error_is_news() {
        let start = Instant::now();
        let trouble = |port: u16, error: &str, seconds| Trouble {
            export: Arc::new(export(&format!("endpoint: \"http://a:{port}\""))),
            error: error.to_owned(),
            told: start + Duration::from_secs(seconds),
        };
        let told = trouble(1, "refused", 0);
        assert!(told.covers(&trouble(1, "refused", 1000)));
        assert!(told.covers(&trouble(1, "no answer", 59)));
        assert!(!told.covers(&trouble(1, "no answer", 60)));
        assert!(!told.covers(&trouble(2, "refused", 1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_asked_for_it_is_left_alone() {
        let registry = Registry::new(1);
        let (inlet, batches) = Inlet::new(Arc::clone(registry.otlp().of(Signal::Traces)));
        inlet.open(&BATCH);
        let way = |text: &str| Way {
            export: Arc::new(export(text)),
            resource: Origin::new().resource(&Default::default()),
        };
        let (here, elsewhere) = (way("timeout: 1s"), way("endpoint: \"http://b:1\""));
        let plan = |way: &Way, ending| Plan {
            way: Some(way.clone()),
            ending,
        };
        let (plans, plan_seen) = watch::channel(plan(&here, false));
        let mut sender = Sender::new(Signal::Traces, Arc::clone(&inlet), batches, plan_seen);
        let rest = Duration::from_secs(30);
        let hand_over = || {
            let bytes = vec![0; 10];
            inlet.hand_over(Batch { bytes, items: 1 });
        };

        let begun = Instant::now();
        sender.throttle.ask(&here.export, rest, begun);
        hand_over();
        sender.carried = sender.batches.try_recv().ok();
        hand_over();
        assert!(sender.next().await.is_some() && sender.next().await.is_some());
        assert_eq!(begun.elapsed(), rest);

        // Another timeout makes no other collector of it.
        let begun = Instant::now();
        sender.throttle.ask(&here.export, rest, begun);
        hand_over();
        plans.send_replace(plan(&way(""), false));
        assert!(sender.next().await.is_some());
        assert_eq!(begun.elapsed(), rest);

        let begun = Instant::now();
        sender.throttle.ask(&here.export, rest, begun);
        hand_over();
        plans.send_replace(plan(&elsewhere, false));
        assert!(sender.next().await.is_some());
        plans.send_replace(plan(&here, true));
        hand_over();
        assert!(sender.next().await.is_some() && sender.next().await.is_none());
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn no_reload_holds_a_batch_beyond_its_time() {
        let registry = Registry::new(1);
        let (inlet, batches) = Inlet::new(Arc::clone(registry.otlp().of(Signal::Traces)));
        inlet.open(&BATCH);
        // Nobody listens at either.
        let [dead, resting] = [1, 2].map(|port| Way {
            export: Arc::new(export(&format!("endpoint: \"http://127.0.0.1:{port}\""))),
            resource: Origin::new().resource(&Default::default()),
        });
        let plan = |way: &Way| Plan {
            way: Some(way.clone()),
            ending: false,
        };
        let (plans, plan_seen) = watch::channel(plan(&dead));
        let mut sender = Sender::new(Signal::Traces, inlet, batches, plan_seen);
        let begun = Instant::now();
        let hour = Duration::from_secs(60 * 60);
        sender.throttle.ask(&resting.export, hour, begun);
        let batch = [Batch {
            bytes: vec![0; 10],
            items: 1,
        }];
        let timeout = dead.export.timeout;
        let (fate, ()) = tokio::join!(sender.export(dead, &batch), async {
            sleep(Duration::from_millis(1)).await;
            plans.send_replace(plan(&resting));
        });
        assert_eq!(fate, Fate::Done);
        assert!(begun.elapsed() < timeout);
    }

    #[test]
    fn what_a_sender_leaves_behind_is_counted() {
        let registry = Registry::new(1);
        let metrics = Arc::clone(registry.otlp().of(Signal::Traces));
        let (inlet, batches) = Inlet::new(metrics);
        inlet.open(&BATCH);
        let (_plans, plan) = watch::channel(Plan::default());
        let mut sender = Sender::new(Signal::Traces, Arc::clone(&inlet), batches, plan);
        let hand_over = || {
            let bytes = vec![0; 10];
            inlet.hand_over(Batch { bytes, items: 2 });
        };
        let value = |name: &str| {
            let text = registry.encode(Format::Prometheus);
            let mut lines = text.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value.unwrap().to_owned()
        };
        (0..3).for_each(|_| hand_over());
        sender.in_hand = Sum::of(&[sender.batches.try_recv().unwrap()]);
        sender.carried = sender.batches.try_recv().ok();
        let sends = std::panic::AssertUnwindSafe(|| {
            let _sender = sender;
            panic!("the sender has a bug");
        });
        assert!(std::panic::catch_unwind(sends).is_err());
        let failed = r#"pillion_otlp_dropped_total{signal="traces",cause="failed"}"#;
        assert_eq!(value(failed), "6");
        hand_over();
        assert_eq!(value(failed), "8");
        assert_eq!(value(r#"pillion_otlp_queue_bytes{signal="traces"}"#), "0");
    }
}
