//! What becomes of a request that meets a fault which was injected.

use std::time::Duration;

use http::StatusCode;
use tokio::time::{Instant, sleep_until};

use super::{completion::Completion, local::refusal, message::Response, name, slow::Slow};
use crate::{
    config::model::AbortWith,
    error::{Error, Reason, Replay, Result},
    policy::Deadline,
    protect::{End, Fate, FaultKind},
};

/// Makes a request wait, or ends it: `None` where it may go on. Nothing of it has gone anywhere, so
/// that no endpoint is blamed.
pub(super) async fn inject(
    fate: Fate,
    completion: &mut Completion,
    deadline: Option<Deadline>,
    grpc: bool,
) -> Result<Option<Response>> {
    if let Some(rate) = fate.slow {
        completion.injected(FaultKind::SlowBody);
        completion.slow_down(rate);
    }
    if let Some(delay) = fate.delay {
        completion.injected(FaultKind::Delay);
        wait(delay, deadline).await?;
    }
    let Some(end) = fate.end else { return Ok(None) };
    let error = |what| Error::new(Reason::FaultInjected, what).replay(Replay::NeverSent);
    match end {
        End::Reset => {
            completion.injected(FaultKind::Reset);
            completion.cut();
            Err(error("reset"))
        }
        End::Abort(with) => {
            completion.injected(FaultKind::Abort);
            let error = error("abort");
            completion.blame(&error);
            let mut response = refusal(&error, completion, grpc);
            match with {
                AbortWith::StatusCode(status) => response.head.status = status,
                AbortWith::GrpcStatus(code) => {
                    response.head.status = StatusCode::OK;
                    let mut text = itoa::Buffer::new();
                    let fields = &mut response.head.fields;
                    fields.insert(&name::GRPC_STATUS, text.format(code).as_bytes());
                }
            }
            Ok(Some(response))
        }
    }
}

/// For so long, or until nobody waits any more.
async fn wait(delay: Duration, deadline: Option<Deadline>) -> Result<()> {
    let end = Instant::now() + delay;
    match deadline.filter(|deadline| deadline.at <= end) {
        Some(deadline) => {
            sleep_until(deadline.at).await;
            Err(deadline.missed().replay(Replay::NeverSent))
        }
        None => {
            sleep_until(end).await;
            Ok(())
        }
    }
}

/// Slows a response down, where that was drawn for it.
pub(super) fn slow(response: &mut Response, completion: &Completion) {
    if let Some(rate) = completion.slowness()
        && !response.body.is_empty()
    {
        let body = std::mem::take(&mut response.body);
        response.body = Slow::body(body, rate);
    }
}
