//! Filters of rules and backends, and the question what answers a request.

use std::{collections::HashMap, sync::Arc};

use http::StatusCode;

use super::{Known, Resolver};
use crate::config::{
    decode::At,
    model::{
        Action, Backend, BackendFilters, DirectResponse, Filters, HeaderEdits, Mirror, PathRewrite,
        Redirect, Rewrite,
    },
    raw::{self, FilterType},
    report::Fault,
    syntax,
    tree::NodeId,
    units::Size,
};

/// A mirror's share of everything.
const ALL: u64 = 1_000_000;

/// What waits for a slow mirror is memory.
const MAX_BUFFERED: Size = Size(16 << 20);

/// An answer that a filter gives, and where that filter is. `None` inside if it is wrong.
pub(super) type Answer = (Option<NodeId>, Option<Action>);

impl Resolver<'_> {
    /// The filters of a rule, and those of them that answer.
    pub(super) fn filters(
        &mut self,
        raw: &[At<raw::Filter>],
        by_prefix: bool,
        upstreams: &Known<'_>,
    ) -> (Filters, Vec<Answer>) {
        let mut filters = Filters::default();
        let mut answers = Vec::new();
        let mut seen = HashMap::new();
        for At {
            value: filter,
            node,
        } in raw
        {
            if !self.is_whole(filter, *node) {
                continue;
            }
            let r#type = filter.r#type.value;
            if r#type != FilterType::RequestMirror {
                self.unique(&mut seen, r#type, *node, || {
                    format!("a filter of type {}", r#type.name())
                });
            }
            if let Some(modifier) = &filter.request_header_modifier {
                filters.request_headers = self.header_edits(&modifier.value);
            }
            if let Some(modifier) = &filter.response_header_modifier {
                filters.response_headers = self.header_edits(&modifier.value);
            }
            if let Some(rewrite) = &filter.url_rewrite {
                filters.rewrite = self.rewrite(rewrite, by_prefix);
            }
            if let Some(mirror) = &filter.request_mirror {
                filters
                    .mirrors
                    .extend(self.mirror(&mirror.value, upstreams));
            }
            if let Some(limit) = &filter.rate_limit {
                filters.rate_limit = self.rate_limit(&limit.value);
            }
            if let Some(fault) = &filter.fault {
                filters.fault = self.injected(fault);
            }
            if let Some(redirect) = &filter.request_redirect {
                answers.push((
                    *node,
                    self.redirect(redirect, by_prefix).map(Action::Redirect),
                ));
            }
            if let Some(response) = &filter.direct_response {
                answers.push((*node, self.direct(&response.value).map(Action::Respond)));
            }
        }
        if !answers.is_empty() {
            self.forwarding_only(raw);
        }
        (filters, answers)
    }

    /// The one thing that answers the requests of a rule.
    pub(super) fn action(
        &mut self,
        rule: &At<raw::Rule>,
        backends: Option<Vec<Backend>>,
        answers: Vec<Answer>,
    ) -> Option<Action> {
        let refused = rule.value.filters.iter().any(|filter| {
            let node = filter.value.r#type.node.or(filter.node);
            node.is_some_and(|node| self.tree.is_hole(node))
        });
        let mut answers = answers.into_iter();
        match (backends, answers.next()) {
            (Some(backends), None) => Some(Action::Forward(backends)),
            (None, Some((_, action))) => {
                for (node, _) in answers {
                    self.fault(
                        node,
                        Fault::new("a rule has one answer, this is a second one"),
                    );
                }
                action
            }
            (Some(_), Some((node, _))) => {
                let fault = Fault::new("a rule has either `backendRefs` or a filter that answers");
                self.fault(
                    node,
                    fault.hint("this filter answers: leave `backendRefs` out"),
                );
                None
            }
            (None, None) => {
                if !refused {
                    let fault = Fault::new("nothing answers the requests of this rule");
                    self.fault(
                        rule.node,
                        fault.hint(
                            "give it `backendRefs`, or a RequestRedirect or DirectResponse filter",
                        ),
                    );
                }
                None
            }
        }
    }

    /// Header modifiers; nothing else makes sense for one backend of many.
    pub(super) fn backend_filters(&mut self, raw: &[At<raw::Filter>]) -> BackendFilters {
        let mut filters = BackendFilters::default();
        let mut seen = HashMap::new();
        for At {
            value: filter,
            node,
        } in raw
        {
            if !self.is_whole(filter, *node) {
                continue;
            }
            let r#type = filter.r#type.value;
            self.unique(&mut seen, r#type, *node, || {
                format!("a filter of type {}", r#type.name())
            });
            if let Some(modifier) = &filter.request_header_modifier {
                filters.request_headers = self.header_edits(&modifier.value);
            } else if let Some(modifier) = &filter.response_header_modifier {
                filters.response_headers = self.header_edits(&modifier.value);
            } else {
                let fault = Fault::new(format!("{} is not for a backend", r#type.name()));
                self.fault(
                    filter.r#type.node,
                    fault.hint("it belongs to the filters of the rule"),
                );
            }
        }
        filters
    }

    /// Whether a filter has the key of its type and no other one.
    fn is_whole(&mut self, filter: &raw::Filter, node: Option<NodeId>) -> bool {
        if filter
            .r#type
            .node
            .is_some_and(|node| self.tree.is_hole(node))
        {
            return false;
        }
        let wanted = filter.r#type.value;
        let mut found = false;
        let mut strays = false;
        for (r#type, payload) in payloads(filter) {
            if r#type == wanted {
                found = payload.is_some();
            } else if payload.is_some() {
                strays = true;
                let fault = Fault::new(format!(
                    "`{}` does not belong to {}",
                    r#type.key(),
                    wanted.name()
                ));
                self.fault(
                    payload.flatten(),
                    fault.hint(format!("its type is {}", r#type.name())),
                );
            }
        }
        if !found && !strays {
            let fault = Fault::new(format!("key `{}` is missing", wanted.key()));
            self.fault(node, fault.hint(format!("{} needs it", wanted.name())));
        }
        found && !strays
    }

    /// Notes filters that do nothing where Pillion answers by itself.
    fn forwarding_only(&mut self, raw: &[At<raw::Filter>]) {
        for At { value: filter, .. } in raw {
            let r#type = filter.r#type.value;
            if matches!(r#type, FilterType::UrlRewrite | FilterType::RequestMirror) {
                let fault = Fault::new(format!(
                    "{} needs a request that is forwarded",
                    r#type.name()
                ));
                self.fault(
                    filter.r#type.node,
                    fault.hint("another filter of this rule answers it"),
                );
            }
        }
    }

    fn header_edits(&mut self, raw: &raw::HeaderModifier) -> HeaderEdits {
        let mut edits = HeaderEdits::default();
        let mut seen = HashMap::new();
        for At { value: header, .. } in &raw.set {
            if let Some((name, value)) = self.header(header) {
                self.once(
                    &mut seen,
                    name.as_str().to_owned(),
                    header.name.node,
                    "header",
                );
                edits.set.push((name, value));
            }
        }
        for At { value: header, .. } in &raw.add {
            edits.add.extend(self.header(header));
        }
        for name in &raw.remove {
            edits.remove.extend(self.parse(name, syntax::edited_header));
        }
        edits
    }

    fn header(&mut self, raw: &raw::Header) -> Option<(http::HeaderName, http::HeaderValue)> {
        let name = self.parse(&raw.name, syntax::edited_header);
        let value = self.parse(&raw.value, syntax::header_value);
        name.zip(value)
    }

    fn rewrite(&mut self, raw: &At<raw::UrlRewrite>, by_prefix: bool) -> Rewrite {
        if raw.value.hostname.is_none() && raw.value.path.is_none() {
            self.fault(
                raw.node,
                Fault::new("nothing is rewritten").hint("`hostname` or `path`"),
            );
        }
        Rewrite {
            hostname: self.host(raw.value.hostname.as_ref()),
            path: raw
                .value
                .path
                .as_ref()
                .and_then(|path| self.path_rewrite(path, by_prefix)),
        }
    }

    fn redirect(&mut self, raw: &At<raw::RequestRedirect>, by_prefix: bool) -> Option<Redirect> {
        let redirect = &raw.value;
        if redirect.scheme.is_none()
            && redirect.hostname.is_none()
            && redirect.port.is_none()
            && redirect.path.is_none()
        {
            let fault = Fault::new("this redirect leads back to where it came from");
            self.fault(
                raw.node,
                fault.hint("`scheme`, `hostname`, `port` or `path`"),
            );
        }
        let status = redirect.status_code.value.get();
        if !matches!(status, 301 | 302 | 303 | 307 | 308) {
            let fault = Fault::new(format!("{status} is not the status of a redirect"));
            self.fault(
                redirect.status_code.node,
                fault.hint("301, 302, 303, 307 or 308"),
            );
        }
        Some(Redirect {
            scheme: redirect.scheme.map(|scheme| match scheme {
                raw::Scheme::Http => "http".into(),
                raw::Scheme::Https => "https".into(),
            }),
            hostname: self.host(redirect.hostname.as_ref()),
            port: redirect.port.map(|port| port.get()),
            path: redirect
                .path
                .as_ref()
                .and_then(|path| self.path_rewrite(path, by_prefix)),
            status: StatusCode::from_u16(status).ok()?,
        })
    }

    pub(super) fn direct(&mut self, raw: &raw::DirectResponse) -> Option<DirectResponse> {
        let status = StatusCode::from_u16(raw.status_code.value.get()).ok()?;
        let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if bodiless && !raw.body.value.is_empty() {
            let fault = Fault::new(format!(
                "a response with status {} has no body",
                status.as_u16()
            ));
            self.fault(raw.body.node, fault);
        }
        Some(DirectResponse {
            status,
            body: raw.body.value.as_str().into(),
            content_type: self.parse(&raw.content_type, syntax::header_value)?,
        })
    }

    fn mirror(&mut self, raw: &raw::RequestMirror, upstreams: &Known<'_>) -> Option<Mirror> {
        let share = match (&raw.percent, &raw.fraction) {
            (Some(_), Some(fraction)) => {
                let fault = Fault::new("`percent` and `fraction` say the same thing");
                self.fault(fraction.node, fault.hint("leave one of them out"));
                ALL
            }
            (Some(percent), None) => percent.value.0 * (ALL / 100),
            (None, Some(fraction)) => {
                let (part, whole) = (fraction.value.numerator.0, fraction.value.denominator.0);
                if part > whole {
                    let fault = Fault::new(format!("{part} of {whole} is more than everything"));
                    self.fault(fraction.node, fault);
                }
                (part * ALL / whole).min(ALL)
            }
            (None, None) => ALL,
        };
        let buffered = raw.max_buffered_bytes.value;
        if buffered > MAX_BUFFERED {
            let fault = Fault::new(format!("{buffered} is more than {MAX_BUFFERED}"));
            self.fault(
                raw.max_buffered_bytes.node,
                fault.hint("all of it may be in memory"),
            );
        }
        Some(Mirror {
            upstream: upstreams.check(&raw.backend_ref.name, self)?,
            share: u32::try_from(share).ok()?,
            max_buffered_bytes: buffered.get(),
            max_in_flight: usize::try_from(raw.max_in_flight.value.0).ok()?,
        })
    }

    fn host(&mut self, raw: Option<&At<String>>) -> Option<Arc<str>> {
        raw.and_then(|hostname| self.parse(hostname, syntax::precise_hostname))
    }

    fn path_rewrite(
        &mut self,
        raw: &At<raw::PathModifier>,
        by_prefix: bool,
    ) -> Option<PathRewrite> {
        let path = &raw.value;
        if path.r#type.node.is_some_and(|node| self.tree.is_hole(node)) {
            return None;
        }
        let full = path.r#type.value == raw::PathModifierType::ReplaceFullPath;
        let (wanted, key, stray) = if full {
            (
                &path.replace_full_path,
                "replaceFullPath",
                &path.replace_prefix_match,
            )
        } else {
            (
                &path.replace_prefix_match,
                "replacePrefixMatch",
                &path.replace_full_path,
            )
        };
        if let Some(stray) = stray {
            let fault = Fault::new("this does not belong to the type of the path");
            self.fault(stray.node, fault.hint(format!("its key is `{key}`")));
        } else if wanted.is_none() {
            self.fault(raw.node, Fault::new(format!("key `{key}` is missing")));
        }
        if !full && !by_prefix {
            let fault = Fault::new("ReplacePrefixMatch needs a prefix to replace");
            let hint = "every match of the rule has to be of type PathPrefix";
            self.fault(path.r#type.node, fault.hint(hint));
        }
        let wanted = wanted.as_ref()?;
        if full {
            self.parse(wanted, syntax::path)
                .map(|path| PathRewrite::Full(path.into()))
        } else if wanted.value.is_empty() {
            Some(PathRewrite::Prefix("".into()))
        } else {
            self.parse(wanted, syntax::prefix).map(PathRewrite::Prefix)
        }
    }
}

impl FilterType {
    fn name(self) -> &'static str {
        match self {
            Self::RequestHeaderModifier => "RequestHeaderModifier",
            Self::ResponseHeaderModifier => "ResponseHeaderModifier",
            Self::RequestRedirect => "RequestRedirect",
            Self::UrlRewrite => "URLRewrite",
            Self::RequestMirror => "RequestMirror",
            Self::DirectResponse => "DirectResponse",
            Self::RateLimit => "RateLimit",
            Self::Fault => "Fault",
        }
    }

    /// The key that holds what a filter of this type needs.
    fn key(self) -> &'static str {
        match self {
            Self::RequestHeaderModifier => "requestHeaderModifier",
            Self::ResponseHeaderModifier => "responseHeaderModifier",
            Self::RequestRedirect => "requestRedirect",
            Self::UrlRewrite => "urlRewrite",
            Self::RequestMirror => "requestMirror",
            Self::DirectResponse => "directResponse",
            Self::RateLimit => "rateLimit",
            Self::Fault => "fault",
        }
    }
}

/// Every key that holds what some type needs: whether it was written, and where.
fn payloads(filter: &raw::Filter) -> [(FilterType, Option<Option<NodeId>>); 8] {
    fn written<T>(payload: &Option<At<T>>) -> Option<Option<NodeId>> {
        payload.as_ref().map(|payload| payload.node)
    }
    use FilterType as Type;
    [
        (
            Type::RequestHeaderModifier,
            written(&filter.request_header_modifier),
        ),
        (
            Type::ResponseHeaderModifier,
            written(&filter.response_header_modifier),
        ),
        (Type::RequestRedirect, written(&filter.request_redirect)),
        (Type::UrlRewrite, written(&filter.url_rewrite)),
        (Type::RequestMirror, written(&filter.request_mirror)),
        (Type::DirectResponse, written(&filter.direct_response)),
        (Type::RateLimit, written(&filter.rate_limit)),
        (Type::Fault, written(&filter.fault)),
    ]
}
