//! Active health checks: every endpoint is asked over and over how it is, and the
//! [board](super::health) is told.
//!
//! All on the control thread, a task for each check of each endpoint, so that a check never overlaps
//! itself. Each is made over a connection of its own, which is closed after it: whether an endpoint
//! still takes connections is part of the question. These connections count against no limit, and
//! stand in no access log. What was found lies on the board and outlives reloads.

mod dial;
mod grpc;
mod http1;
mod http2;
mod question;
mod schedule;

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
    sync::Arc,
};

use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use self::question::{Answer, Asker};
use super::{
    Endpoint, Upstream,
    health::{CheckResult, Finding},
};
use crate::tls::handshake;

/// Checks under way at once. Where more are due they wait: 250 endpoints that are all silent for a
/// second can still be asked every five.
const AT_ONCE: usize = 256;

/// The checks under way for the upstreams of the live configuration.
pub struct Checks {
    means: Rc<Means>,
    running: HashMap<Arc<str>, Running>,
}

/// What all checks share.
struct Means {
    room: Semaphore,
    /// As on a worker: handshakes must not keep everything else on the thread waiting.
    handshakes: Semaphore,
}

/// The checks of one upstream. Dropping it ends them.
struct Running {
    upstream: Arc<Upstream>,
    _task: JoinSet<()>,
}

impl Checks {
    /// Follows a new configuration: checks of upstreams that are gone end, those of new ones and of
    /// successors begin, the others go on undisturbed. To be called within a local runtime.
    pub fn reconcile(&mut self, upstreams: &[Arc<Upstream>]) {
        let mut before = std::mem::take(&mut self.running);
        for upstream in upstreams {
            let name = &upstream.config.name;
            if upstream.config.health_checks.is_empty() {
                continue;
            }
            let unchanged = before
                .remove(name)
                .filter(|running| Arc::ptr_eq(&running.upstream, upstream));
            let running = unchanged.unwrap_or_else(|| self.start(upstream));
            self.running.insert(Arc::clone(name), running);
        }
    }

    fn start(&self, upstream: &Arc<Upstream>) -> Running {
        let mut task = JoinSet::new();
        task.spawn_local(follow(Arc::clone(upstream), Rc::clone(&self.means)));
        Running {
            upstream: Arc::clone(upstream),
            _task: task,
        }
    }
}

impl Default for Checks {
    fn default() -> Self {
        let means = Means {
            room: Semaphore::new(AT_ONCE),
            handshakes: Semaphore::new(handshake::STEPS),
        };
        Self {
            means: Rc::new(means),
            running: HashMap::new(),
        }
    }
}

/// Asks the endpoints that there are, whichever these come to be.
async fn follow(upstream: Arc<Upstream>, means: Rc<Means>) {
    let mut asked = HashMap::new();
    loop {
        // Told of before it is seen here, by this thread alone: no change is missed.
        let endpoints: Vec<Arc<Endpoint>> = upstream
            .endpoints()
            .weighted()
            .filter(|&(_, weight)| weight > 0)
            .map(|(endpoint, _)| Arc::clone(endpoint))
            .collect();
        let ids: HashSet<_> = endpoints.iter().map(|endpoint| endpoint.id).collect();
        asked.retain(|id, _: &mut JoinSet<()>| ids.contains(id));
        for endpoint in endpoints {
            asked.entry(endpoint.id).or_insert_with(|| {
                let mut tasks = JoinSet::new();
                for index in 0..upstream.config.health_checks.len() {
                    let (upstream, endpoint) = (Arc::clone(&upstream), Arc::clone(&endpoint));
                    tasks.spawn_local(ask(upstream, endpoint, index, Rc::clone(&means)));
                }
                tasks
            });
        }
        upstream.health.changed().await;
    }
}

/// Asks one endpoint one thing, for ever.
async fn ask(upstream: Arc<Upstream>, endpoint: Arc<Endpoint>, index: usize, means: Rc<Means>) {
    let check = &upstream.config.health_checks[index];
    let asker = Asker::new(&upstream, &endpoint, check, &means.handshakes);
    let mut rng = fastrand::Rng::new();
    let mut last = upstream.health.last_checked(endpoint.id, check);
    loop {
        let due = schedule::next(check.interval, last, rng.u32(..), Instant::now());
        sleep_until(due).await;
        let Ok(room) = means.room.acquire().await else {
            return;
        };
        let began = Instant::now();
        last = Some(began);
        let answer = timeout(check.timeout, asker.ask()).await;
        let (result, error, rest) = match answer {
            Ok(Answer::Heard(Ok(()), rest)) => (CheckResult::Success, None, rest),
            Ok(Answer::Heard(Err(error), rest)) => (CheckResult::Failure, Some(error), rest),
            Ok(Answer::NotReached(result, error)) => (result, Some(error), None),
            Ok(Answer::NotAsked(why)) => {
                tracing::debug!(upstream = %upstream.config.name, endpoint = %endpoint.label, why,
                    "a health check could not be made");
                continue;
            }
            Err(_) => {
                let after = format!("no answer within {:?}", check.timeout);
                (CheckResult::Timeout, Some(after.into()), None)
            }
        };
        let now = Instant::now();
        let finding = Finding {
            result,
            error,
            began,
            took: now.saturating_duration_since(began),
        };
        upstream.health.checked(endpoint.id, check, finding, now);
        drop(room);
        if let Some(rest) = rest {
            rest.take_leave().await;
        }
    }
}
