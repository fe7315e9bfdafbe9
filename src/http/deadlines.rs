//! Until when the head of a response has to be there, and until when all of it.

use std::time::Duration;

use tokio::time::Instant;

use super::{fields::Fields, grpc, headers};
use crate::{
    policy::{Bound, Deadline},
    snapshot::RoutePlan,
};

/// Until the head of the response: the route's request timeout or what the request asks for, or the
/// end of the whole exchange if that is sooner.
pub(super) fn head_deadline(
    route: &RoutePlan,
    total: Option<Deadline>,
    fields: &Fields,
    start: Instant,
) -> Option<Deadline> {
    let asked = route.deadline_header.as_ref();
    let asked = asked.and_then(|name| headers::patience(fields.get(name)?));
    let deadlines = [
        total,
        asked.map(|limit| patient(start, limit, Bound::Header)),
        configured(start, route.timeouts.request, Bound::Request),
    ];
    soonest(deadlines)
}

/// Until the end of the response: the route's total, or the caller's own patience.
pub(super) fn total_deadline(
    route: &RoutePlan,
    fields: &Fields,
    start: Instant,
) -> Option<Deadline> {
    let asked = grpc::timeout(fields);
    let deadlines = [
        configured(start, route.timeouts.total, Bound::Total),
        asked.map(|limit| patient(start, limit, Bound::Grpc)),
    ];
    soonest(deadlines)
}

fn soonest<const N: usize>(deadlines: [Option<Deadline>; N]) -> Option<Deadline> {
    deadlines
        .into_iter()
        .flatten()
        .min_by_key(|deadline| deadline.at)
}

/// Zero: none.
fn configured(start: Instant, limit: Duration, bound: Bound) -> Option<Deadline> {
    (!limit.is_zero()).then(|| Deadline::after(start, limit, bound))
}

fn patient(start: Instant, limit: Duration, bound: Bound) -> Deadline {
    Deadline::after(start, limit.min(MAX_PATIENCE), bound)
}

/// Longer than this is no deadline to speak of, and must not overflow a clock.
const MAX_PATIENCE: Duration = Duration::from_secs(365 * 24 * 3600);
