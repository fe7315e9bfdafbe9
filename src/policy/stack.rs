//! The one composition.

use tower::{Service, ServiceBuilder, layer::layer_fn, service_fn};

use super::{Answer, Call, attempts, deadline::DeadlineService, limit::Limit};
use crate::error::Error;

/// What a matched request passes, outermost first. The stack has no state: it is made for every
/// request, at no cost, from layers that read all they need from the [`Call`].
pub fn stack<'a>() -> impl Service<Call<'a>, Response = Answer, Error = Error> {
    ServiceBuilder::new()
        // Outermost, so that a request that waits for anything below holds its place: what waits
        // is load too.
        .layer(layer_fn(Limit))
        // Above the attempts, which share the one deadline.
        .layer(layer_fn(DeadlineService))
        .service(service_fn(attempts::run))
}
