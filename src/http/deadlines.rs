//! Until when the head of a response has to be there, and until when all of it.

use std::time::Duration;

use tokio::time::Instant;

use super::{fields::Fields, grpc, headers};
use crate::{error::Reason, policy::Deadline, snapshot::RoutePlan};

fn soonest(start: Instant, limits: impl IntoIterator<Item = Duration>) -> Option<Instant> {
    limits
        .into_iter()
        .filter(|limit| !limit.is_zero())
        .min()
        .map(|limit| start + limit)
}

/// Until the head of the response: the route's request timeout, or the end of the whole exchange
/// if that is sooner.
pub(super) fn head_deadline(
    route: &RoutePlan,
    total: Option<Instant>,
    fields: &Fields,
    start: Instant,
) -> Option<Deadline> {
    let total = total.map(|at| Deadline {
        at,
        reason: Reason::TotalTimeout,
    });
    let asked = route.deadline_header.as_ref().and_then(|name| {
        let limit = headers::patience(fields.get(name)?)?;
        Some(start + limit.min(MAX_PATIENCE))
    });
    let configured = soonest(start, [route.timeouts.request]);
    let request = asked
        .into_iter()
        .chain(configured)
        .min()
        .map(|at| Deadline {
            at,
            reason: Reason::RequestTimeout,
        });
    total
        .into_iter()
        .chain(request)
        .min_by_key(|deadline| deadline.at)
}

/// Until the end of the response: the route's total, or the caller's own patience.
pub(super) fn total_deadline(
    route: &RoutePlan,
    fields: &Fields,
    start: Instant,
) -> Option<Instant> {
    let configured = soonest(start, [route.timeouts.total]);
    let asked = grpc::timeout(fields).map(|limit| start + limit.min(MAX_PATIENCE));
    configured.into_iter().chain(asked).min()
}

/// Longer than this is no deadline to speak of, and must not overflow a clock.
const MAX_PATIENCE: Duration = Duration::from_secs(365 * 24 * 3600);
