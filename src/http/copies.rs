//! Copies of requests on their way to mirrors.
//!
//! Guards a request against its copies: each runs in a task of its own, which nobody waits for;
//! there are only so many of them, each for a bounded time and with bounded memory. Where one more
//! would be too many there is none.

use std::{
    future::poll_fn,
    rc::Rc,
    sync::{Arc, LazyLock},
    time::Duration,
};

use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout_at},
};
use tower::Service;

use super::{
    Client,
    message::{Body, Frame, Request},
    mirror::tee,
};
use crate::{
    config::model::Retry,
    policy::{self, Bound, Call, Deadline, Terms},
    snapshot::PlannedMirror,
    telemetry::metrics::CopyFate,
    upstream::Upstream,
};

/// A copy that fails is not worth another attempt.
static NEVER: LazyLock<Retry> = LazyLock::new(Retry::never);

/// A copy of a request that may take for ever may take this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// So much of a copy's answer is read for its connection's sake.
const READ: usize = 1 << 20;

/// Sends copies of `request` on their way.
pub(super) fn send(
    client: &Rc<Client>,
    mirrors: &[PlannedMirror],
    request: &mut Request,
    deadline: Option<Deadline>,
    now: Instant,
) {
    let deadline = deadline.unwrap_or_else(|| Deadline::after(now, PATIENCE, Bound::Copy));
    for mirror in mirrors {
        let worker = &client.worker;
        if worker.rng.borrow_mut().u32(..1_000_000) >= mirror.share || request.upgrade.is_some() {
            continue;
        }
        let Ok(place) = Arc::clone(&mirror.places).try_acquire_owned() else {
            let metrics = &mirror.upstream.metrics;
            metrics.copied(worker.id, CopyFate::Skipped);
            continue;
        };
        let copy = copy(request, mirror.max_buffered_bytes);
        let (client, mirror) = (Rc::clone(client), Arc::clone(&mirror.upstream));
        tokio::task::spawn_local(async move {
            let fate = run(&client, &mirror, copy, deadline, place).await;
            mirror.metrics.copied(client.worker.id, fate);
        });
    }
}

fn copy(request: &mut Request, limit: usize) -> Request {
    let body = if request.body.is_empty() {
        Body::Empty
    } else {
        let (body, copy) = tee(std::mem::take(&mut request.body), limit);
        request.body = body;
        copy
    };
    Request {
        head: request.head.clone(),
        body,
        expects_continue: false,
        upgrade: None,
    }
}

async fn run(
    client: &Rc<Client>,
    upstream: &Arc<Upstream>,
    mut copy: Request,
    deadline: Deadline,
    _place: OwnedSemaphorePermit,
) -> CopyFate {
    let trail = policy::Trail::default();
    let terms = Terms {
        client,
        upstream,
        start: Instant::now(),
        deadline: Some(deadline),
        total: None,
        attempt_timeout: Duration::ZERO,
        deadline_header: None,
        retry: &NEVER,
        spent: 0,
        grpc: false,
        key: None,
        tracing: None,
        other_host: false,
        trail: &trail,
    };
    let (request, terms) = (&mut copy, &terms);
    let answer = match policy::stack().call(Call { request, terms }).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(%error, upstream = %upstream.config.name, "a mirror's copy failed");
            return CopyFate::Failed;
        }
    };
    // What it leaves unread when its time is over costs it its connection, and nobody else.
    let mut body = answer.response.body;
    let _ = timeout_at(deadline.at, discard(&mut body)).await;
    CopyFate::Answered
}

/// Reads an answer to its end, if that is near, so that its connection can be used again.
async fn discard(body: &mut Body) {
    let mut read = 0;
    while read < READ
        && let Some(Ok(frame)) = poll_fn(|cx| body.poll_frame(cx)).await
    {
        if let Frame::Data(data) = frame {
            read += data.len();
        }
    }
}
