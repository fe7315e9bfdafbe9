//! Answers to what is asked.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
};
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited};
use serde_json::{Value, json};

use super::{
    Control, Readiness, Scope, guard,
    negotiate::negotiate,
    page::{self, Page},
};
use crate::{hex, telemetry::metrics::Format};

/// A filter of the log is short.
const MAX_BODY: usize = 4 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

type Reply = Response<Full<Bytes>>;

/// Where a server stands, which decides what it answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Site {
    pub(super) scope: Scope,
    /// It can be reached from this machine only.
    pub(super) loopback: bool,
}

/// Answers one request. For HEAD the connection leaves the body out.
pub(super) async fn answer<B>(control: &dyn Control, site: Site, request: Request<B>) -> Reply
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let Some(page) = Page::served(site.scope).find(|page| page.path() == path) else {
        let hint = page::hint(path, site.scope);
        return text(StatusCode::NOT_FOUND, format!("not found; {hint}\n"));
    };
    if !page.allows(&head.method) {
        let message = format!("{path} takes {}\n", page.methods());
        let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, message);
        reply
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static(page.methods()));
        return reply;
    }
    if !page.is_probe() {
        let refusal = guard::refusal(&head.method, &head.uri, &head.headers, site.loopback);
        if let Some(refusal) = refusal {
            return text(StatusCode::FORBIDDEN, format!("{refusal}\n"));
        }
    }
    let query = head.uri.query().unwrap_or_default();
    match page {
        Page::Index => text(StatusCode::OK, page::index(site.scope)),
        Page::Livez => text(StatusCode::OK, "alive\n"),
        Page::Readyz => readyz(&control.readiness(), parameter(query, "verbose").is_some()),
        Page::Metrics => metrics(control, &head.headers),
        Page::Config => json(StatusCode::OK, &control.config()),
        Page::Upstreams => json(StatusCode::OK, &control.upstreams()),
        Page::Faults if head.method == Method::POST => switch_faults(control, query),
        Page::Faults => json(StatusCode::OK, &control.faults()),
        Page::Drain => {
            control.drain();
            text(StatusCode::OK, "draining\n")
        }
        Page::Reload => reload(control, &head.headers).await,
        Page::LogLevel if head.method == Method::POST => match parameter(query, "level") {
            Some(level) => set_log_level(control, &level),
            None => match read(body).await {
                Ok(level) => set_log_level(control, &level),
                Err(reply) => reply,
            },
        },
        Page::LogLevel => text(StatusCode::OK, control.log_level() + "\n"),
    }
}

fn readyz(readiness: &Readiness, verbose: bool) -> Reply {
    let ready = readiness.is_ready();
    let mut body = String::new();
    if verbose {
        for condition in &readiness.conditions {
            let (mark, word) = if condition.ok {
                ("[+]", "ok")
            } else {
                ("[-]", "not ok")
            };
            body.extend([mark, condition.name, " ", word]);
            if !condition.detail.is_empty() {
                body.extend([": ", &condition.detail]);
            }
            body.push('\n');
        }
        if let Some(refused) = &readiness.refused_reload {
            body.push_str("last reload refused, the configuration before it is live:\n");
            for line in refused.lines() {
                body.extend(["  ", line, "\n"]);
            }
        }
    }
    body.push_str(if ready { "ready\n" } else { "not ready\n" });
    text(
        if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        },
        body,
    )
}

fn metrics(control: &dyn Control, headers: &HeaderMap) -> Reply {
    let format = match negotiate(headers, &["text/plain", "application/openmetrics-text"]) {
        0 => Format::Prometheus,
        _ => Format::OpenMetrics,
    };
    reply(
        StatusCode::OK,
        format.content_type(),
        control.metrics(format),
    )
}

async fn reload(control: &dyn Control, headers: &HeaderMap) -> Reply {
    match control.reload().await {
        Ok(generation) => json(StatusCode::OK, &json!({ "generation": generation })),
        Err(refused) if negotiate(headers, &[JSON, "text/plain"]) == 0 => json(
            StatusCode::UNPROCESSABLE_ENTITY,
            &json!({ "problems": refused.problems }),
        ),
        Err(refused) => text(StatusCode::UNPROCESSABLE_ENTITY, refused.text),
    }
}

/// Switches the faults of a rule, of a route's rules, or of all.
fn switch_faults(control: &dyn Control, query: &str) -> Reply {
    let enabled = match parameter(query, "enabled").as_deref() {
        Some("true") => true,
        Some("false") => false,
        _ => return text(StatusCode::BAD_REQUEST, "?enabled=true or ?enabled=false\n"),
    };
    match control.switch_faults(enabled, parameter(query, "route").as_deref()) {
        0 => text(StatusCode::NOT_FOUND, "no such rule has a fault\n"),
        _ => json(StatusCode::OK, &control.faults()),
    }
}

fn set_log_level(control: &dyn Control, level: &str) -> Reply {
    match control.set_log_level(level.trim()) {
        Ok(()) => text(StatusCode::OK, control.log_level() + "\n"),
        Err(problem) => text(StatusCode::BAD_REQUEST, problem + "\n"),
    }
}

async fn read<B>(body: B) -> Result<String, Reply>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let body = Limited::new(body, MAX_BODY).collect();
    match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => String::from_utf8(body.to_bytes().into())
            .map_err(|_| text(StatusCode::BAD_REQUEST, "the body is not UTF-8\n")),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(text(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("at most {MAX_BODY} bytes\n"),
        )),
        Ok(Err(error)) => Err(text(StatusCode::BAD_REQUEST, format!("{error}\n"))),
        Err(_) => Err(text(
            StatusCode::REQUEST_TIMEOUT,
            "the body did not come in time\n",
        )),
    }
}

/// A parameter of the query, its `%XX` decoded; empty where it has no value.
fn parameter(query: &str, name: &str) -> Option<String> {
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|&(key, _)| key == name)
        .map(|(_, value)| decode(value))
}

fn decode(value: &str) -> String {
    String::from_utf8_lossy(&hex::decoded(value.as_bytes())).into_owned()
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    reply(status, TEXT, body)
}

fn json(status: StatusCode, value: &Value) -> Reply {
    reply(status, JSON, format!("{value:#}\n"))
}

fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT, HOST, ORIGIN};

    use super::{super::tests::Fake, *};

    const FULL: Site = Site {
        scope: Scope::Full,
        loopback: true,
    };
    const PROBES: Site = Site {
        scope: Scope::Probes,
        loopback: false,
    };

    fn request(method: &str, target: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, "127.0.0.1:9901")
    }

    async fn ask(fake: &Fake, site: Site, request: Request<String>) -> (Reply, String) {
        let reply = answer(fake, site, request).await;
        let (head, body) = reply.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.into()).unwrap();
        (Response::from_parts(head, Full::default()), body)
    }

    async fn get(fake: &Fake, target: &str) -> (Reply, String) {
        ask(
            fake,
            FULL,
            request("GET", target).body(String::new()).unwrap(),
        )
        .await
    }

    async fn post(fake: &Fake, target: &str, body: &str) -> (Reply, String) {
        ask(
            fake,
            FULL,
            request("POST", target).body(body.into()).unwrap(),
        )
        .await
    }

    #[tokio::test]
    async fn every_page_that_is_listed_is_there() {
        let fake = Fake::default();
        let (_, list) = get(&fake, "/").await;
        for page in Page::ALL {
            assert!(
                list.contains(page.path()) && list.contains(page.help()),
                "{page:?}"
            );
            let method = page.methods().split(", ").next().unwrap();
            let request = request(method, page.path()).body("info".into()).unwrap();
            let (reply, _) = ask(&fake, FULL, request).await;
            assert_eq!(reply.status(), StatusCode::OK, "{page:?}");
        }
    }

    #[tokio::test]
    async fn the_probes_server_has_nothing_else() {
        let fake = Fake::default();
        for page in Page::ALL {
            let method = page.methods().split(", ").next().unwrap();
            let request = Request::builder().method(method).uri(page.path());
            let (reply, _) = ask(&fake, PROBES, request.body(String::new()).unwrap()).await;
            let expected = if page.is_probe() { 200 } else { 404 };
            assert_eq!(reply.status(), expected, "{page:?}");
        }
        assert!(!*fake.draining.lock().unwrap());
    }

    #[tokio::test]
    async fn readiness_is_told_and_explained() {
        let fake = Fake::default();
        let (reply, body) = get(&fake, "/readyz").await;
        assert_eq!((reply.status().as_u16(), body.as_str()), (200, "ready\n"));

        fake.drain();
        *fake.refused.lock().unwrap() = Some("a.yaml:1:1: no\n  hint".into());
        let (reply, body) = get(&fake, "/readyz?verbose").await;
        assert_eq!(reply.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            body,
            "[+]listeners ok: 1 bound\n[-]serving not ok: draining\n\
             last reload refused, the configuration before it is live:\n  \
             a.yaml:1:1: no\n    hint\nnot ready\n"
        );
        let (_, body) = get(&fake, "/readyz").await;
        assert_eq!(body, "not ready\n");
    }

    #[tokio::test]
    async fn metrics_by_accept() {
        let fake = Fake::default();
        let (reply, body) = get(&fake, "/metrics").await;
        assert_eq!(
            reply.headers()[CONTENT_TYPE],
            "text/plain; version=0.0.4; charset=utf-8"
        );
        assert_eq!(body, "Prometheus");
        let request = request("GET", "/metrics").header(ACCEPT, "application/openmetrics-text");
        let (_, body) = ask(&fake, FULL, request.body(String::new()).unwrap()).await;
        assert_eq!(body, "OpenMetrics");
    }

    #[tokio::test]
    async fn a_reload_is_answered_with_its_generation_or_its_problems() {
        let fake = Fake::default();
        let (reply, body) = post(&fake, "/reload", "").await;
        assert_eq!(reply.status(), StatusCode::OK);
        assert_eq!(
            serde_json::from_str::<Value>(&body).unwrap(),
            json!({ "generation": 2 })
        );

        *fake.refused.lock().unwrap() = Some("a.yaml:1:1: no\n".into());
        let (reply, body) = post(&fake, "/reload", "").await;
        assert_eq!(reply.status(), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(reply.headers()[CONTENT_TYPE], JSON);
        let problems = json!({ "problems": [{ "message": "no" }] });
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), problems);

        let request = request("POST", "/reload").header(ACCEPT, "text/plain");
        let (_, body) = ask(&fake, FULL, request.body(String::new()).unwrap()).await;
        assert_eq!(body, "a.yaml:1:1: no\n");
    }

    #[tokio::test]
    async fn the_log_level_by_body_or_by_query() {
        let fake = Fake::default();
        assert_eq!(get(&fake, "/log-level").await.1, "info\n");
        assert_eq!(post(&fake, "/log-level", "debug\n").await.1, "debug\n");
        assert_eq!(
            post(&fake, "/log-level?level=info%2Ch2=off", "").await.1,
            "info,h2=off\n"
        );
        let (reply, body) = post(&fake, "/log-level", "loud").await;
        assert_eq!(
            (reply.status().as_u16(), body.as_str()),
            (400, "no level\n")
        );
        let (reply, _) = post(&fake, "/log-level", &"x".repeat(MAX_BODY + 1)).await;
        assert_eq!(reply.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(fake.log_level(), "info,h2=off");
    }

    #[tokio::test]
    async fn wrong_methods_and_paths_are_told_the_right_ones() {
        let fake = Fake::default();
        let (reply, _) = get(&fake, "/drain").await;
        assert_eq!(reply.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(reply.headers()[ALLOW], "POST");
        let (reply, body) = get(&fake, "/redyz").await;
        assert_eq!(
            (reply.status().as_u16(), body.as_str()),
            (404, "not found; did you mean /readyz?\n")
        );
        let (_, body) = get(&fake, "/stats/prometheus").await;
        assert!(body.contains("/metrics"), "{body}");
        let no_path = Request::builder()
            .method("OPTIONS")
            .uri("*")
            .body(String::new())
            .unwrap();
        assert_eq!(
            ask(&fake, FULL, no_path).await.0.status(),
            StatusCode::NOT_FOUND
        );
    }

    #[tokio::test]
    async fn web_pages_can_neither_read_nor_act() {
        let fake = Fake::default();
        let rebound = Request::builder()
            .uri("/config")
            .header(HOST, "evil.example:9901");
        let (reply, _) = ask(&fake, FULL, rebound.body(String::new()).unwrap()).await;
        assert_eq!(reply.status(), StatusCode::FORBIDDEN);
        let page = request("POST", "/drain").header(ORIGIN, "https://evil.example");
        let (reply, _) = ask(&fake, FULL, page.body(String::new()).unwrap()).await;
        assert_eq!(reply.status(), StatusCode::FORBIDDEN);
        assert!(!*fake.draining.lock().unwrap());
        let probe = Request::builder()
            .uri("/readyz")
            .header(HOST, "pod.example");
        let (reply, _) = ask(&fake, FULL, probe.body(String::new()).unwrap()).await;
        assert_eq!(reply.status(), StatusCode::OK);
    }

    #[test]
    fn escapes_that_are_none_stay() {
        for (value, decoded) in [("%41%2c", "A,"), ("%", "%"), ("%4", "%4"), ("%+1", "%+1")] {
            assert_eq!(decode(value), decoded);
        }
        assert_eq!(decode("%ff"), "\u{fffd}");
    }
}
