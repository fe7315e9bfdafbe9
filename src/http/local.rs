//! Responses of our own making: what rules say in place of an upstream, and what went wrong.

use std::{borrow::Cow, cell::Cell};

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};

use super::{
    completion::Completion,
    grpc, headers,
    message::{Body, Request, Response},
    spelling::Spelling,
};
use crate::{
    config::model::{Address, DirectResponse, Redirect},
    error::{Error, Origin, Reason, Result},
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
        response
            .head
            .headers
            .insert(header::CONTENT_TYPE, direct.content_type.clone());
    }
    // A full map is an impossibility here: it holds three.
    let _ = router::edit_headers(&route.filters.response_headers, &mut response.head.headers);
    response
}

/// Where a rule sends the client instead.
///
/// # Errors
/// The request's own target makes no `Location`.
pub fn redirected(
    route: &RoutePlan,
    redirect: &Redirect,
    plan: &ListenerPlan,
    host: &str,
    request: &Request,
    prefix: usize,
) -> Result<Response> {
    let uri = &request.head.uri;
    let target = router::Target {
        scheme: "http",
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
    response.head.headers.insert(header::LOCATION, location);
    let _ = router::edit_headers(&route.filters.response_headers, &mut response.head.headers);
    Ok(response)
}

/// The response that tells of `error`: the same reason in the headers as in the log.
pub fn refusal(error: &Error, completion: &Completion, grpc: bool) -> Response {
    let row = error.reason.row();
    let mut response = if grpc {
        let mut response = local(StatusCode::OK, Bytes::new());
        let map = &mut response.head.headers;
        map.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        );
        map.insert(grpc::STATUS, HeaderValue::from(u16::from(row.grpc)));
        map.insert(grpc::MESSAGE, grpc::message(&public(error)));
        response
    } else {
        let mut response = local(row.status, Bytes::from(format!("{}\n", public(error))));
        let map = &mut response.head.headers;
        map.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        if error.reason == Reason::ConnectNotAllowed {
            map.insert(
                header::ALLOW,
                HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH"),
            );
        }
        response
    };
    let map = &mut response.head.headers;
    map.insert(
        headers::X_PILLION_REASON,
        HeaderValue::from_static(row.name),
    );
    if let Ok(status) = HeaderValue::try_from(proxy_status(error, completion)) {
        map.insert(headers::PROXY_STATUS, status);
    }
    if let Some(id) = completion.request_id() {
        map.insert(headers::X_REQUEST_ID, id.clone());
    }
    response
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
/// about an upstream: that stays in the log, under the id that the response carries.
fn public(error: &Error) -> String {
    let inside =
        error.reason.row().origin == Origin::Upstream && matches!(error.detail, Cow::Owned(_));
    match &*error.detail {
        "" => error.reason.name().to_owned(),
        _ if inside => format!("{}: the access log says more", error.reason),
        detail => format!("{}: {detail}", error.reason),
    }
}

/// A response of our own making.
fn local(status: StatusCode, body: Bytes) -> Response {
    let (mut head, ()) = http::Response::new(()).into_parts();
    head.status = status;
    head.headers
        .insert(header::SERVER, HeaderValue::from_static("pillion"));
    let body = if body.is_empty() {
        Body::Empty
    } else {
        Body::Full(body)
    };
    Response {
        head,
        spelling: Spelling::default(),
        body,
        tunnel: None,
    }
}

/// A response of our own to HEAD tells the length that one to GET would have.
pub fn leave_out_body(response: &mut Response) {
    if let Body::Full(body) = &response.body {
        let length = HeaderValue::from(body.len());
        response.head.headers.insert(header::CONTENT_LENGTH, length);
        response.body = Body::Empty;
    }
}

/// RFC 9110 section 6.6.1: a message without a date gets one from the first who has a clock.
pub fn finish_headers(response: &mut Response) {
    if !response.head.headers.contains_key(header::DATE) {
        response.head.headers.insert(header::DATE, date());
    }
}

/// The date of this second, as text; made once a second and worker.
fn date() -> HeaderValue {
    thread_local! {
        static DATE: Cell<Option<(u64, HeaderValue)>> = const { Cell::new(None) };
    }
    let now = std::time::SystemTime::now();
    let second = now
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let cached = DATE.take().filter(|(of, _)| *of == second);
    let (_, value) = cached.unwrap_or_else(|| {
        let text = httpdate::fmt_http_date(now);
        (
            second,
            HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("")),
        )
    });
    DATE.set(Some((second, value.clone())));
    value
}
