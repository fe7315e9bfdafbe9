//! Responses of our own making: what rules say in place of an upstream, and what went wrong.

use std::{borrow::Cow, cell::RefCell};

use bytes::Bytes;
use http::StatusCode;

use super::{
    completion::Completion,
    exchange::tell_attempts,
    fields::{Fields, Spelling},
    grpc,
    message::{Body, Request, Response, ResponseHead},
    name,
};
use crate::{
    config::model::{Address, DirectResponse, Redirect},
    error::{Error, LocalReply, Origin, Reason, Result},
    router,
    snapshot::{ListenerPlan, RoutePlan},
};

/// What a rule says in place of an upstream.
pub fn respond(route: &RoutePlan, direct: &DirectResponse) -> Response {
    let mut response = local(
        direct.status,
        Bytes::copy_from_slice(direct.body.as_bytes()),
    );
    if !direct.body.is_empty() {
        let content_type = direct.content_type.as_bytes();
        response
            .head
            .fields
            .append(&name::CONTENT_TYPE, content_type);
    }
    router::edit_headers(&route.filters.response_headers, &mut response.head.fields);
    response
}

/// Where a rule sends the client instead.
///
/// # Errors
/// The request's own target makes no `Location`.
pub fn redirected(
    route: &RoutePlan,
    redirect: &Redirect,
    (plan, scheme): (&ListenerPlan, &str),
    host: &str,
    request: &Request,
    prefix: usize,
) -> Result<Response> {
    let uri = &request.head.uri;
    let target = router::Target {
        scheme,
        host,
        port: match &plan.address {
            Address::Tcp(address) => Some(address.port()),
            Address::Unix(_) => None,
        },
        path: uri.path(),
        prefix,
        query: uri.query(),
    };
    let location = router::location(redirect, &target)
        .map_err(|error| Error::new(Reason::BadRequest, "no Location can be made").source(error))?;
    let mut response = local(redirect.status, Bytes::new());
    let fields = &mut response.head.fields;
    fields.append(&name::LOCATION, location.as_bytes());
    router::edit_headers(&route.filters.response_headers, fields);
    Ok(response)
}

/// The response that tells of `error`: the same reason in the headers as in the log.
pub fn refusal(error: &Error, completion: &Completion, grpc: bool) -> Response {
    let row = error.reason.row();
    let mut response = if grpc {
        let mut response = local(StatusCode::OK, Bytes::new());
        let fields = &mut response.head.fields;
        fields.append(&name::CONTENT_TYPE, b"application/grpc");
        let status = itoa::Buffer::new().format(row.grpc).to_owned();
        fields.append(&name::GRPC_STATUS, status.as_bytes());
        fields.append(
            &name::GRPC_MESSAGE,
            grpc::message(&public(error)).as_bytes(),
        );
        response
    } else {
        let mut response = local(row.status, Bytes::from(format!("{}\n", public(error))));
        let fields = &mut response.head.fields;
        fields.append(&name::CONTENT_TYPE, b"text/plain; charset=utf-8");
        if let Some(challenge) = challenge(error) {
            fields.append(&name::WWW_AUTHENTICATE, challenge.as_bytes());
        }
        if error.reason == Reason::ConnectNotAllowed {
            fields.append(
                &name::ALLOW,
                b"GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH",
            );
        }
        response
    };
    let fields = &mut response.head.fields;
    if let Some(seconds) = error.retry_after {
        let seconds = u64::from(seconds.get());
        let (name, wait) = match grpc {
            true => (&name::GRPC_RETRY_PUSHBACK_MS, seconds * 1000),
            false => (&name::RETRY_AFTER, seconds),
        };
        fields.append(name, itoa::Buffer::new().format(wait).as_bytes());
    }
    tell_reason(error, completion, fields);
    if let Some(id) = completion.request_id() {
        fields.append(&name::X_REQUEST_ID, id.as_bytes());
    }
    tell_attempts(completion, fields);
    response
}

/// Says why a response is one of our own.
pub(super) fn tell_reason(error: &Error, completion: &Completion, fields: &mut Fields) {
    fields.append(&name::X_PILLION_REASON, error.reason.name().as_bytes());
    fields.append(
        &name::PROXY_STATUS,
        proxy_status(error, completion).as_bytes(),
    );
}

/// The same of one that a rule wants.
pub(super) fn tell_local_reply(
    reply: LocalReply,
    completion: &mut Completion,
    fields: &mut Fields,
) {
    fields.append(&name::X_PILLION_REASON, reply.name().as_bytes());
    fields.append(&name::PROXY_STATUS, reply.proxy_status().as_bytes());
    completion.replied(reply);
}

/// What a client without a valid token is asked for (RFC 6750 section 3).
const fn challenge(error: &Error) -> Option<&'static str> {
    match error.reason {
        Reason::TokenMissing => Some("Bearer"),
        Reason::TokenInvalid => Some("Bearer error=\"invalid_token\""),
        _ => None,
    }
}

/// RFC 9209.
fn proxy_status(error: &Error, completion: &Completion) -> String {
    let mut text = format!("pillion; error={}", error.reason.row().proxy_status);
    if completion.trail().endpoint().is_some() {
        text.push_str("; next-hop=upstream");
    }
    let details: String = public(error)
        .chars()
        .filter(|c| (' '..='~').contains(c))
        .flat_map(|c| {
            matches!(c, '"' | '\\')
                .then_some('\\')
                .into_iter()
                .chain([c])
        })
        .collect();
    text.push_str("; details=\"");
    text.push_str(&details);
    text.push('"');
    text
}

/// What a client may know. A detail that was made for the occasion names endpoints where it is
/// about an upstream, and rules where it is about access: that stays in the log, under the id that
/// the response carries. A time that has run out names neither, and whoever waited can measure it.
fn public(error: &Error) -> String {
    let about_us = match error.reason {
        Reason::AccessDenied | Reason::TokenMissing | Reason::TokenInvalid => true,
        Reason::AttemptTimeout
        | Reason::RequestTimeout
        | Reason::TotalTimeout
        | Reason::IdleTimeout => false,
        reason => reason.row().origin == Origin::Upstream,
    };
    let inside = about_us && matches!(error.detail, Cow::Owned(_));
    match &*error.detail {
        "" => error.reason.name().to_owned(),
        _ if inside => format!("{}: the access log says more", error.reason),
        detail => format!("{}: {detail}", error.reason),
    }
}

/// A response of our own making.
fn local(status: StatusCode, body: Bytes) -> Response {
    let mut fields = Fields::new(Spelling::Canonical);
    fields.append(&name::SERVER, b"pillion");
    let body = if body.is_empty() {
        Body::Empty
    } else {
        Body::Full(body)
    };
    Response {
        head: ResponseHead { status, fields },
        body,
        tunnel: None,
    }
}

/// A response of our own to HEAD tells the length that one to GET would have.
pub fn leave_out_body(response: &mut Response) {
    if let Body::Full(body) = &response.body {
        let length = itoa::Buffer::new().format(body.len()).to_owned();
        response
            .head
            .fields
            .insert(&name::CONTENT_LENGTH, length.as_bytes());
        response.body = Body::Empty;
    }
}

/// RFC 9110 section 6.6.1: a message without a date gets one from the first who has a clock.
pub fn finish_headers(response: &mut Response) {
    let fields = &mut response.head.fields;
    if !fields.contains(&name::DATE) {
        with_date(|date| fields.append(&name::DATE, date));
    }
}

/// Hands on the date of this second as text, which is made once a second and worker.
fn with_date(take: impl FnOnce(&[u8])) {
    thread_local! {
        static DATE: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let now = std::time::SystemTime::now();
    let second = now
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    DATE.with_borrow_mut(|(of, text)| {
        if *of != second || text.is_empty() {
            (*of, *text) = (second, httpdate::fmt_http_date(now));
        }
        take(text.as_bytes());
    });
}
