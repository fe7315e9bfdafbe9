//! What answers a request whose upstream can't, after its retries.

use super::{
    completion::Completion,
    local::respond,
    message::{Request, RequestHead, Response},
};
use crate::{
    config::model::HeaderEdits,
    error::{Error, Result},
    policy::{Answer, Call, Spare, Terms},
    snapshot::{PlannedBackend, PlannedFallback, PlannedResort, RoutePlan},
};

/// What came of it, and what the access log says of that.
pub(super) enum Resorted {
    /// The answer that there was.
    Own(Answer),
    /// That of another upstream.
    Other(Answer, Note),
    Here(Response, Note),
}

/// What was resorted from.
pub(super) enum Note {
    /// Another answer was taken.
    Instead(String),
    /// Pillion answers for this failure.
    For(Error),
}

/// Kinds of fallbacks, as metrics tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FallbackKind {
    /// Another upstream has answered.
    Upstream,
    /// Another upstream has failed as well.
    Failed,
    /// The fixed response was sent.
    Response,
    /// There was none: the request must not be sent again, no time was left, or a fixed response is
    /// not for a gRPC call.
    Withheld,
}

impl FallbackKind {
    pub const ALL: [Self; 4] = [Self::Upstream, Self::Failed, Self::Response, Self::Withheld];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Failed => "failed",
            Self::Response => "response",
            Self::Withheld => "withheld",
        }
    }
}

impl PlannedFallback {
    /// The head as it is before the edits for one backend, if another upstream may need that.
    pub(super) fn head(&self, backend: &PlannedBackend, request: &Request) -> Option<RequestHead> {
        let is_edited = backend.filters.request_headers != HeaderEdits::default();
        (is_edited && matches!(self.to, PlannedResort::Upstream(_))).then(|| request.head.clone())
    }

    /// What has to be kept of the request; nothing for a fixed response.
    pub(super) fn spare(
        &self,
        terms: &Terms<'_>,
        request: &mut Request,
        head: Option<RequestHead>,
    ) -> Option<Box<Spare>> {
        let is_sent = matches!(self.to, PlannedResort::Upstream(_));
        is_sent.then(|| Box::new(Spare::keep(terms, request, head)))
    }
}

/// Answers in the place of an outcome that [calls for it](PlannedFallback::takes).
pub(super) async fn resort(
    route: &RoutePlan,
    fallback: &PlannedFallback,
    spare: Option<Box<Spare>>,
    call: Call<'_>,
    outcome: Result<Answer>,
) -> Result<Resorted> {
    let worker = call.terms.client.worker.id;
    let count = |kind| route.metrics.fell_back(worker, kind);
    let what = match &outcome {
        Ok(answer) => format!("answered {}", answer.response.head.status.as_u16()),
        Err(error) => error.to_string(),
    };
    let what = format!("fallback: {} {what}", call.terms.upstream.config.name);
    match (&fallback.to, spare) {
        (PlannedResort::Respond(direct), _) if !call.terms.grpc => {
            count(FallbackKind::Response);
            let response = respond(route, direct);
            let note = match outcome {
                Ok(answer) => {
                    Answer::let_go(Some(answer));
                    Note::Instead(what)
                }
                Err(error) => Note::For(Error::new(error.reason, "").detail(what)),
            };
            return Ok(Resorted::Here(response, note));
        }
        (PlannedResort::Upstream(upstream), Some(spare)) => {
            match spare.send(upstream, call, &outcome).await {
                Some(Ok(answer)) => {
                    count(FallbackKind::Upstream);
                    Answer::let_go(outcome.ok());
                    return Ok(Resorted::Other(answer, Note::Instead(what)));
                }
                Some(Err(error)) => {
                    count(FallbackKind::Failed);
                    let detail = format!("{} ({what})", error.detail);
                    // A real answer is worth more than that there is no other.
                    let own = outcome.map_err(|_| error.detail(detail))?;
                    return Ok(Resorted::Own(own));
                }
                None => count(FallbackKind::Withheld),
            }
        }
        _ => count(FallbackKind::Withheld),
    }
    outcome.map(Resorted::Own)
}

impl Note {
    pub(super) fn tell(self, completion: &mut Completion) {
        match self {
            Self::Instead(what) => completion.record().detail = what.into(),
            Self::For(error) => completion.blame(&error),
        }
    }
}
