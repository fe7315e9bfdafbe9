//! One request and its response, from a parsed head to a response that can be written.
//!
//! Nothing in here fails: whatever goes wrong becomes a response with a reason.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::Poll,
};

use http::{HeaderValue, Method, StatusCode, Uri, Version};
use tokio::time::Instant;
use tower::Service;

pub use super::completion::Completion;
use super::{
    Client, copies,
    deadlines::{head_deadline, total_deadline},
    fallback::{self, Note, Resorted},
    faults,
    fields::Fields,
    grpc, headers, http_plan,
    local::{
        finish_headers, leave_out_body, redirected, refusal, respond, tell_local_reply, tell_reason,
    },
    message::{Request, RequestHead, Response, Upgrade},
    name::{self, Kind},
    pace::{Pace, Pacing},
    request_id::RequestId,
    target::{self, Target},
};
use crate::{
    access::Policy,
    config::model::HttpListener,
    error::{Error, LocalReply, Reason, Result},
    policy::{self, Call, Deadline, IdleLimit, Terms},
    router::{self, Lookup},
    snapshot::{Forward, ListenerPlan, PlannedAction, RoutePlan},
    telemetry::{Record, access_log::Protocol, trace::Incoming},
};

/// A response to be written, and what is to be done when it has been.
pub struct Reply {
    pub response: Response,
    pub completion: Completion,
}

/// Serves one request. `begun` is when its first byte came, where its head took a while; `uploaded`
/// tells how much of its body has come, and nothing once that is whole.
pub async fn handle(
    client: Rc<Client>,
    begun: Option<Instant>,
    request: &mut Request,
    uploaded: &dyn Fn() -> Option<u64>,
) -> Reply {
    let now = Instant::now();
    let start = begun.unwrap_or(now);
    let plan = client.plan();
    let mut completion = Completion::new(
        Rc::clone(&client),
        Protocol::from(request.head.version),
        start,
    );
    let grpc = grpc::is_grpc(&request.head.fields);
    completion.record().grpc = grpc;
    describe(&mut completion, &request.head, &client, &plan);
    let is_head = request.head.method == Method::HEAD;
    let nature = Nature {
        now,
        grpc,
        spent: headers::previous_attempts(&request.head.fields),
    };
    let serving = serve(
        &client,
        &plan,
        request,
        nature,
        &mut completion,
        start,
        uploaded,
    );
    let outcome = serving.await;
    let mut response = match outcome {
        Ok(response) => response,
        Err(error) => {
            completion.blame(&error);
            refusal(&error, &completion, grpc)
        }
    };
    if response.tunnel.is_none() {
        finish_headers(&mut response);
        faults::slow(&mut response, &completion);
    }
    if is_head {
        leave_out_body(&mut response);
    }
    completion.answered(&response.head);
    if grpc {
        completion.ended(grpc::status(&response.head.fields));
    }
    Reply {
        response,
        completion,
    }
}

/// The reply to a head that can't be served: `head` as far as it could be read. `begun` is as for
/// [`handle`].
pub fn refused_head(
    client: &Rc<Client>,
    protocol: Protocol,
    begun: Option<Instant>,
    head: Option<&RequestHead>,
    error: &Error,
) -> Reply {
    let start = begun.unwrap_or_else(Instant::now);
    let mut completion = Completion::new(Rc::clone(client), protocol, start);
    match head {
        Some(head) => describe(&mut completion, head, client, &client.plan()),
        None => {
            completion.record().request_id = Some(client.new_request_id());
            // Whatever it has brought of a trace can't be relied on.
            if let Some(tracing) = &client.plan().tracing {
                completion.trace(tracing, &Fields::default());
            }
        }
    }
    completion.blame(error);
    let is_grpc = head.is_some_and(|head| grpc::is_grpc(&head.fields));
    let mut response = refusal(error, &completion, is_grpc);
    finish_headers(&mut response);
    if head.is_some_and(|head| head.method == Method::HEAD) {
        leave_out_body(&mut response);
    }
    if error.reason != Reason::ClientClosed {
        completion.answered(&response.head);
    }
    if is_grpc {
        completion.record().grpc = true;
        completion.ended(grpc::status(&response.head.fields));
    }
    Reply {
        response,
        completion,
    }
}

/// What the access log will say of the request, whatever becomes of it.
fn describe(completion: &mut Completion, head: &RequestHead, client: &Client, plan: &ListenerPlan) {
    let logged = client.worker.access_log.is_enabled();
    match &plan.tracing {
        Some(tracing) => completion.trace(tracing, &head.fields),
        None if logged => {
            let incoming = Incoming::read_any(&head.fields);
            completion.record().trace = incoming.and_then(|incoming| incoming.reference());
        }
        None => {}
    }
    let recorded = completion.trail().is_recorded();
    let record = completion.record();
    record.method = Some(head.method.clone());
    if logged || recorded {
        describe_target(record, head);
    }
    if logged {
        let log = &client.worker.access_log;
        log.take_request_headers(record, &head.fields);
    }
    // Known before anything can go wrong, so that a refusal has one too.
    let brought = RequestId::brought(&head.fields);
    record.request_id = Some(brought.unwrap_or_else(|| client.new_request_id()));
}

fn describe_target(record: &mut Record, head: &RequestHead) {
    record.uri = Some(head.uri.clone());
    record.host = head.fields.get(&name::HOST).map(Box::from);
    record.user_agent = head.fields.get(&name::USER_AGENT).map(Box::from);
}

/// What is to be known of a request before its head is changed.
#[derive(Clone, Copy)]
struct Nature {
    /// When its head was whole.
    now: Instant,
    grpc: bool,
    /// Attempts that others on the way have spent on it. Believed from anybody: it can only take
    /// retries away.
    spent: u8,
}

async fn serve(
    client: &Rc<Client>,
    plan: &ListenerPlan,
    request: &mut Request,
    nature: Nature,
    completion: &mut Completion,
    start: Instant,
    uploaded: &dyn Fn() -> Option<u64>,
) -> Result<Response> {
    let http = http_plan(plan);
    let settings = &http.http;
    let upgrade = request.upgrade.as_ref();
    let target = target::settle(&mut request.head, settings.path, upgrade)?;
    if upgrade == Some(&Upgrade::Connect) && !settings.allow_connect {
        return Err(Error::new(
            Reason::ConnectNotAllowed,
            "CONNECT is not allowed here",
        ));
    }
    if headers::is_loop(&request.head.fields, &client.pseudonym) {
        return Err(Error::new(
            Reason::LoopDetected,
            "the request has passed here three times",
        ));
    }
    sanitize(client, settings, request, &target, completion);

    let host = target.name(&request.head.fields)?;
    let (route, prefix) =
        find(http, request, &host).ok_or_else(|| no_route(&host, &request.head.uri))?;
    let route = Arc::clone(route);
    let total = total_deadline(&route, &request.head.fields, start);
    completion.matched(&route, total);
    if let (Some(tracing), Some(sampling)) = (&plan.tracing, route.sampling) {
        completion.resample(tracing, sampling, &request.head.fields);
        let recorded = completion.trail().is_recorded();
        let record = completion.record();
        if recorded && record.uri.is_none() {
            describe_target(record, &request.head);
        }
    }
    // Before anything that costs time, such as looking at tokens.
    client.worker.shared.pressure.admit(route.importance)?;
    if let Some(policy) = &plan.access {
        admit(client, policy, request, target, &host, completion)?;
    }
    if let Some(guard) = &route.guard {
        let source = completion.record().client;
        guard.admit(client, source, &request.head.fields, start)?;
        if let Some(faults) = &guard.faults {
            let fate = faults.fate(&mut client.worker.rng.borrow_mut(), nature.grpc);
            let deadline = head_deadline(&route, total, &request.head.fields, start);
            let injected = faults::inject(fate, completion, deadline, nature.grpc);
            // Boxed: nearly no request has use for it.
            if let Some(response) = Box::pin(injected).await? {
                return Ok(response);
            }
        }
    }
    match &route.action {
        PlannedAction::Respond(direct) => {
            let mut response = respond(&route, direct);
            tell_local_reply(
                LocalReply::DirectResponse,
                completion,
                &mut response.head.fields,
            );
            Ok(response)
        }
        PlannedAction::Redirect(redirect) => {
            let from = (plan, client.scheme());
            let mut response = redirected(&route, redirect, from, &host, request, prefix)?;
            tell_local_reply(LocalReply::Redirect, completion, &mut response.head.fields);
            Ok(response)
        }
        PlannedAction::Forward(forward) => {
            let fields = &request.head.fields;
            let deadline = head_deadline(&route, total, fields, start);
            drop(host);
            if let Some(policy) = &plan.access {
                policy.take_tokens(&mut request.head.fields);
            }
            let mut standing = completion.take_standing();
            let answer = {
                // Pinned where it is made: a future that is handed on has its space twice.
                let forwarded = pin!(forwarded(
                    (client, plan),
                    &route,
                    forward,
                    request,
                    (prefix, nature),
                    completion,
                    deadline,
                ));
                let refused = || standing.refused(&client.conn, &client.worker);
                while_it_moves(forwarded, IdleLimit::of(&route.timeouts), uploaded, refused).await
            };
            completion.stand(standing);
            answer
        }
    }
}

/// Asks the listener's policy.
fn admit(
    client: &Client,
    policy: &Arc<Policy>,
    request: &Request,
    target: Target,
    host: &str,
    completion: &mut Completion,
) -> Result<()> {
    let Client { conn, worker, .. } = client;
    let note = completion
        .standing()
        .admit_request(policy, conn, worker, request, target, host)?;
    if let Some(note) = note {
        completion.record().detail = String::from(note).into();
    }
    Ok(())
}

fn find<'p>(
    http: &'p crate::snapshot::HttpPlan,
    request: &Request,
    host: &str,
) -> Option<(&'p Arc<RoutePlan>, usize)> {
    let head = &request.head;
    let path = if request.upgrade == Some(Upgrade::Connect) {
        "/"
    } else {
        head.uri.path()
    };
    let lookup = Lookup {
        host,
        path,
        query: head.uri.query(),
        method: &head.method,
        fields: &head.fields,
    };
    match http.router.find(&lookup) {
        Some(found) => Some((found.plan, found.prefix)),
        None => http.fallback.as_ref().map(|route| (route, 0)),
    }
}

fn no_route(host: &str, uri: &Uri) -> Error {
    Error::new(Reason::NoRoute, "")
        .detail(format!("no rule for host {host:?}, path {:?}", uri.path()))
}

/// Takes away what concerned the connection it came by, and adds what a proxy has to say.
fn sanitize(
    client: &Client,
    settings: &HttpListener,
    request: &mut Request,
    target: &Target,
    completion: &mut Completion,
) {
    let version = request.head.version;
    if request.head.fields.may_have(Kind::XPillion.bit()) {
        restore_protocol(client, &mut request.head);
    }
    let fields = &mut request.head.fields;
    headers::strip_hop_by_hop(fields);
    let trusted = settings.trusted_hops > 0;
    if trusted {
        completion.record().client = headers::client(fields, settings.trusted_hops);
    } else {
        headers::strip_ours(fields);
    }
    client.tell_certificate(fields, trusted);
    if !request.expects_continue {
        // Nobody waits for it; passed on, it would only cost a round trip.
        fields.remove(&name::EXPECT);
    }
    headers::forward(
        fields,
        &headers::Forwarding {
            style: settings.forwarded,
            trusted,
            client: client.address,
            client_text: &client.address_text,
            host: target.host,
            scheme: client.scheme(),
        },
    );
    if settings.via {
        headers::join(fields, name::VIA, client.via(version).as_bytes());
    }
    if target.host.is_none() {
        // HTTP/1.0 may leave it out, HTTP/1.1 may not: then it asked for what it connected to.
        fields.insert(&name::HOST, client.local_host().as_bytes());
    }
    if let Some(id) = completion.request_id()
        && id.is_new()
    {
        fields.insert(&name::X_REQUEST_ID, id.as_bytes());
    }
}

/// What the first Pillion on the way says of its client: believed from an authenticated one, and
/// only for this hop.
fn restore_protocol(client: &Client, head: &mut RequestHead) {
    if client.is_link() {
        head.spoken = match head.fields.get(&name::X_PILLION_PROTOCOL) {
            Some(b"HTTP/1.1") => Version::HTTP_11,
            Some(b"HTTP/1.0") => Version::HTTP_10,
            _ => head.version,
        };
    }
    head.fields.remove(&name::X_PILLION_PROTOCOL);
}

async fn forwarded(
    (client, plan): (&Rc<Client>, &ListenerPlan),
    route: &Arc<RoutePlan>,
    forward: &Forward,
    request: &mut Request,
    (prefix, nature): (usize, Nature),
    completion: &mut Completion,
    deadline: Option<Deadline>,
) -> Result<Response> {
    let backend = {
        let random = client.worker.rng.borrow_mut().u32(..);
        forward.pick(random)
    };
    let filters = &route.filters;
    rewrite(filters, request, prefix)?;
    router::edit_headers(&filters.request_headers, &mut request.head.fields);
    let tracing = plan.tracing.as_deref();
    if let (Some(tracing), Some(place)) = (tracing, completion.trail().place()) {
        let copied = !route.mirrors.is_empty();
        place.tell(&mut request.head.fields, &tracing.propagators, copied);
    }
    let resort = route.fallback.as_deref();
    let plain = resort.and_then(|resort| resort.head(backend, request));
    router::edit_headers(&backend.filters.request_headers, &mut request.head.fields);
    copies::send(client, &route.mirrors, request, deadline, nature.now);

    // As it is sent: after the rule's filters.
    let sticky = client.sticky(&backend.upstream, &request.head.fields);
    let terms = Terms {
        client,
        upstream: &backend.upstream,
        start: nature.now,
        deadline,
        total: completion.deadline().map(|deadline| deadline.at),
        attempt_timeout: route.timeouts.attempt,
        deadline_header: route.deadline_header.as_ref(),
        retry: &route.retry,
        spent: nature.spent,
        grpc: nature.grpc,
        key: sticky.key,
        tracing,
        other_host: filters.rewrite.hostname.is_some(),
        trail: completion.trail(),
    };
    let terms = &terms;
    let spare = resort.and_then(|resort| resort.spare(terms, request, plain));
    let call = Call {
        request: &mut *request,
        terms,
    };
    let outcome = policy::stack().call(call).await;
    let mut backend = Some(backend);
    let answer = match resort {
        Some(resort) if resort.takes(&outcome) => {
            let call = Call { request, terms };
            let resorted = fallback::resort(route, resort, spare, call, outcome);
            match Box::pin(resorted).await? {
                Resorted::Own(answer) => answer,
                Resorted::Other(answer, note) => {
                    backend = None;
                    note.tell(completion);
                    answer
                }
                Resorted::Here(mut response, note) => {
                    let fields = &mut response.head.fields;
                    match &note {
                        Note::For(error) => tell_reason(error, completion, fields),
                        Note::Instead(_) => {
                            tell_local_reply(LocalReply::FallbackResponse, completion, fields)
                        }
                    }
                    note.tell(completion);
                    return Ok(response);
                }
            }
        }
        _ => outcome?,
    };
    completion.hold(answer.held);
    let mut response = answer.response;
    let tunnel = response.tunnel.is_some();
    let switched = tunnel
        .then(|| response.head.fields.get(&name::UPGRADE).map(<[u8]>::to_vec))
        .flatten();
    let status = response.head.status;
    let fields = &mut response.head.fields;
    headers::strip_hop_by_hop(fields);
    headers::strip_ours(fields);
    if tunnel || status.is_informational() || status == StatusCode::NO_CONTENT {
        // RFC 9110 section 8.6: a client that took it in earnest would wait for a body.
        fields.remove(&name::CONTENT_LENGTH);
    }
    if let Some(protocol) = switched {
        fields.insert(&name::UPGRADE, &protocol);
    }
    if let Some(cookie) = sticky.cookie.filter(|_| backend.is_some()) {
        fields.append(&name::SET_COOKIE, cookie.as_bytes());
    }
    declare_trailers(&mut response);
    tell_attempts(completion, &mut response.head.fields);
    let fields = &mut response.head.fields;
    if let Some(backend) = backend {
        router::edit_headers(&backend.filters.response_headers, fields);
    }
    router::edit_headers(&filters.response_headers, fields);
    Ok(response)
}

/// Says to whoever might send the request again what was spent on it here.
pub(super) fn tell_attempts(completion: &Completion, fields: &mut Fields) {
    let spent = completion.trail().spent();
    if spent > 1 {
        let mut text = itoa::Buffer::new();
        fields.insert(&name::X_PILLION_ATTEMPTS, text.format(spent).as_bytes());
    }
}

/// Trailers of gRPC are known beforehand; HTTP/1.1 wants them declared (RFC 9110 section 6.6.2).
fn declare_trailers(response: &mut Response) {
    let fields = &mut response.head.fields;
    if response.body.is_http2() && grpc::is_grpc(fields) && !fields.contains(&name::TRAILER) {
        fields.append(&name::TRAILER, grpc::TRAILERS);
    }
}

fn rewrite(
    filters: &crate::config::model::Filters,
    request: &mut Request,
    prefix: usize,
) -> Result<()> {
    if let Some(rewrite) = &filters.rewrite.path {
        let uri = &request.head.uri;
        let target =
            router::rewrite_path(rewrite, uri.path(), prefix, uri.query()).map_err(|error| {
                Error::new(Reason::BadRequest, "the rewritten path is none").source(error)
            })?;
        request.head.uri = Uri::from(target);
    }
    if let Some(hostname) = &filters.rewrite.hostname {
        let host = HeaderValue::from_str(hostname).map_err(|error| {
            Error::new(Reason::Internal, "the rewritten host is none").source(error)
        })?;
        request.head.fields.insert(&name::HOST, host.as_bytes());
    }
    Ok(())
}

/// Ends the wait for a response while the client's upload stands still, and when the policy no
/// longer lets it in. Once the upload is whole
/// the wait is the upstream's, and that has its own deadline.
async fn while_it_moves(
    mut answer: Pin<&mut impl Future<Output = Result<Response>>>,
    idle: IdleLimit,
    uploaded: &dyn Fn() -> Option<u64>,
    mut refused: impl FnMut() -> Option<Error>,
) -> Result<Response> {
    let mut pace = Pace::new(Pacing {
        idle,
        deadline: None,
    });
    poll_fn(|cx| {
        if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
            return Poll::Ready(answer);
        }
        if let Some(error) = refused() {
            return Poll::Ready(Err(error));
        }
        match uploaded() {
            Some(bytes) => pace.poll(cx, bytes).map(Err),
            None => Poll::Pending,
        }
    })
    .await
}
