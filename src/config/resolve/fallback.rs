//! What answers in place of an upstream that can't.

use super::{Known, Resolver};
use crate::{
    config::{
        decode::At,
        model::{Action, Fallback, Resort},
        raw,
        report::{Fault, quote},
    },
    error::{Origin, Reason},
};

impl Resolver<'_> {
    pub(super) fn resort(
        &mut self,
        raw: &At<raw::Fallback>,
        action: Option<&Action>,
        upstreams: &Known<'_>,
    ) -> Option<Fallback> {
        let fallback = &raw.value;
        if action.is_some_and(|action| !matches!(action, Action::Forward(_))) {
            let fault = Fault::new("a fallback needs requests that are forwarded");
            self.fault(raw.node, fault.hint("a filter of this rule answers them"));
        }
        let to = match (&fallback.backend_ref, &fallback.response) {
            (Some(backend), None) => upstreams.check(&backend.name, self).map(Resort::Backend),
            (None, Some(response)) => self.direct(&response.value).map(Resort::Response),
            _ => {
                let fault = Fault::new("exactly one of `backendRef` and `response` is expected");
                self.fault(raw.node, fault);
                None
            }
        };
        let in_time = fallback.backend_ref.is_some();
        self.not_empty(&fallback.on, "reason", "leave `on` out for the default");
        let (mut reasons, mut statuses) = (Vec::new(), Vec::new());
        for trigger in &fallback.on.value {
            match trigger.value.0.parse() {
                Ok(status @ 400..=599_u16) => statuses.push(status),
                Ok(status) => {
                    let fault = Fault::new(format!("{status} is not the status of a failure"));
                    self.fault(trigger.node, fault.hint("400 to 599"));
                }
                Err(_) => reasons.extend(self.trigger(trigger, in_time)),
            }
        }
        statuses.sort_unstable();
        statuses.dedup();
        Some(Fallback {
            on: reasons.into_iter().collect(),
            on_statuses: statuses,
            to: to?,
        })
    }

    /// `in_time`: something is left to do, and needs time.
    fn trigger(&mut self, written: &At<raw::Trigger>, in_time: bool) -> Option<Reason> {
        let name = written.value.0.as_str();
        let mut known = triggers();
        let Some(reason) = known.find(|reason| reason.name() == name) else {
            let fault = Fault::new(format!("{} is no reason to fall back on", quote(name)));
            let names = triggers().map(Reason::name);
            self.fault(written.node, fault.suggest(name, names));
            return None;
        };
        if in_time && matches!(reason, Reason::RequestTimeout | Reason::TotalTimeout) {
            let fault = Fault::new(format!(
                "after {reason} no time is left for another upstream"
            ));
            let hint = "`attempt_timeout`, with `timeouts.backendRequest`, leaves some";
            self.fault(written.node, fault.hint(hint));
        }
        Some(reason)
    }
}

/// What happens on the upstream's side before there is a response.
fn triggers() -> impl Iterator<Item = Reason> {
    let later = [Reason::ResponseIncomplete, Reason::IdleTimeout];
    let all = Reason::ALL.iter().copied();
    all.filter(move |reason| reason.row().origin == Origin::Upstream && !later.contains(reason))
}
