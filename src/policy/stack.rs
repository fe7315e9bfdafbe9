//! The one composition.

use tower::{Service, ServiceBuilder, service_fn};

use super::{Answer, Call, attempt, deadline::DeadlineLayer, limit::LimitLayer};
use crate::error::Error;

/// What a matched request passes, outermost first. The stack has no state: it is made for every
/// request, at no cost, from layers that read all they need from the [`Call`].
pub fn stack<'a>() -> impl Service<Call<'a>, Response = Answer, Error = Error> {
    ServiceBuilder::new()
        // Outermost, so that a request that waits for anything below holds its place: what waits
        // is load too.
        .layer(LimitLayer)
        // Above the attempts, which share the one deadline.
        .layer(DeadlineLayer)
        .service(service_fn(attempt::run))
}
