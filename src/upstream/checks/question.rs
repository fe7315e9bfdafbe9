//! What one endpoint is asked, and what its answer means.

use std::sync::Arc;

use http::{Method, StatusCode};
use tokio::sync::Semaphore;

use super::{dial::dial, grpc, http1, http2};
use crate::{
    config::model::{HealthCheck, HttpQuestion, Question, UpstreamProtocol},
    error::{Error, Reason},
    net::Stream,
    tls::alpn::{Offer, Spoken},
    upstream::{Endpoint, Opened, Target, Upstream, health::CheckResult},
};

/// By whom endpoints are asked.
pub(super) const AGENT: &str = concat!("pillion-check/", env!("CARGO_PKG_VERSION"));

/// Asks one endpoint one thing.
pub(super) struct Asker<'a> {
    upstream: &'a Upstream,
    check: &'a HealthCheck,
    handshakes: &'a Semaphore,
    /// On the port that is asked.
    endpoint: Arc<Endpoint>,
    /// The host that is asked for.
    host: Arc<str>,
}

/// What has come of it.
pub(super) enum Answer {
    /// It answered, as a healthy endpoint does or not; the rest of that may still come.
    Heard(Verdict, Option<http1::Rest>),
    /// There was nobody to ask.
    NotReached(CheckResult, Box<str>),
    /// For something that is missing here. It says nothing of the endpoint.
    NotAsked(Box<str>),
}

/// What is wrong with an answer, if anything.
type Verdict = Result<(), Box<str>>;

impl<'a> Asker<'a> {
    pub(super) fn new(
        upstream: &'a Upstream,
        endpoint: &Arc<Endpoint>,
        check: &'a HealthCheck,
        handshakes: &'a Semaphore,
    ) -> Self {
        let host = match &check.question {
            Question::Http(HttpQuestion { host, .. }) | Question::Grpc { host, .. } => host.clone(),
            Question::Tcp => None,
        };
        Self {
            host: host.unwrap_or_else(|| authority(endpoint)),
            endpoint: on_port(endpoint, check.port),
            upstream,
            check,
            handshakes,
        }
    }

    /// Asks once. Set a time limit around it.
    pub(super) async fn ask(&self) -> Answer {
        let has_tls = self.upstream.tls.is_some();
        let offer = match (&self.check.question, self.upstream.config.protocol) {
            (Question::Tcp, _) => Offer::Opaque,
            (Question::Grpc { .. }, _) | (_, UpstreamProtocol::Http2) => Offer::Http2,
            (_, UpstreamProtocol::Auto) if has_tls => Offer::Best,
            (_, UpstreamProtocol::Http1 | UpstreamProtocol::Auto) => Offer::Http1,
        };
        let dialled = dial(self.upstream, &self.endpoint, self.handshakes, offer).await;
        let Opened { mut stream, spoken } = match dialled {
            Ok(opened) => opened,
            Err(error) => return not_reached(&error),
        };
        let is_http2 =
            offer == Offer::Http2 || matches!(spoken, Some(Spoken::Http2 | Spoken::Link));
        match &self.check.question {
            Question::Tcp => {
                stream.take_leave();
                Answer::Heard(Ok(()), None)
            }
            Question::Http(question) if is_http2 => {
                Answer::Heard(self.http2(question, stream).await, None)
            }
            Question::Http(question) => self.http1(question, stream).await,
            Question::Grpc { service, .. } => {
                let scheme = self.scheme();
                let verdict = grpc::check(stream, scheme, &self.host, service).await;
                Answer::Heard(verdict, None)
            }
        }
    }

    async fn http1(&self, question: &HttpQuestion, stream: Stream) -> Answer {
        match http1::ask(stream, question, &self.host).await {
            Ok((status, rest)) => Answer::Heard(expected(question, status), Some(rest)),
            Err(error) => Answer::Heard(Err(error), None),
        }
    }

    async fn http2(&self, question: &HttpQuestion, stream: Stream) -> Verdict {
        let head_only = question.method == Method::HEAD;
        let wanted = http2::Wanted::Head { head_only };
        let answer = http2::ask(stream, wanted, None, |block| {
            block.field(b":method", question.method.as_str().as_bytes());
            block.field(b":scheme", self.scheme().as_bytes());
            block.field(b":authority", self.host.as_bytes());
            block.field(b":path", question.path.as_bytes());
            block.field(b"user-agent", AGENT.as_bytes());
        });
        expected(question, answer.await?.status)
    }

    const fn scheme(&self) -> &'static str {
        match self.upstream.tls {
            Some(_) => "https",
            None => "http",
        }
    }
}

fn expected(question: &HttpQuestion, status: StatusCode) -> Verdict {
    match question.expects(status) {
        true => Ok(()),
        false => Err(format!("status {}", status.as_u16()).into()),
    }
}

fn not_reached(error: &Error) -> Answer {
    let text = error.to_string().into();
    match error.reason {
        Reason::NoIdentity | Reason::Overloaded => Answer::NotAsked(text),
        Reason::ConnectTimeout => Answer::NotReached(CheckResult::Timeout, text),
        _ => Answer::NotReached(CheckResult::Unreachable, text),
    }
}

/// The name that an endpoint was found under, or its address. A Unix socket has none.
fn authority(endpoint: &Endpoint) -> Arc<str> {
    match (&endpoint.target, &endpoint.host) {
        (Target::Tcp { address, .. }, Some(host)) => {
            let host = host.strip_suffix('.').unwrap_or(host);
            format!("{host}:{}", address.port()).into()
        }
        (Target::Tcp { .. }, None) => Arc::clone(&endpoint.label),
        (Target::Unix(_), _) => "localhost".into(),
    }
}

/// The endpoint itself, or what is on another port of its address.
fn on_port(endpoint: &Arc<Endpoint>, port: Option<u16>) -> Arc<Endpoint> {
    let (
        Target::Tcp {
            address,
            alternative,
        },
        Some(port),
    ) = (&endpoint.target, port)
    else {
        return Arc::clone(endpoint);
    };
    let (mut address, mut alternative) = (*address, *alternative);
    address.set_port(port);
    if let Some(alternative) = &mut alternative {
        alternative.set_port(port);
    }
    let target = Target::Tcp {
        address,
        alternative,
    };
    Endpoint::named(target, endpoint.host.clone(), tokio::time::Instant::now())
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn endpoints_are_asked_for_as_they_were_found() {
        let address = ([10, 0, 0, 1], 8080).into();
        let now = Instant::now();
        let plain = Endpoint::new(Target::tcp(address), now);
        let named = Endpoint::named(Target::tcp(address), Some("app.internal.".into()), now);
        let local = Endpoint::new(Target::Unix("/run/app.sock".into()), now);
        assert_eq!(&*authority(&plain), "10.0.0.1:8080");
        assert_eq!(&*authority(&named), "app.internal:8080");
        assert_eq!(&*authority(&local), "localhost");
        assert_eq!(&*on_port(&plain, Some(9)).label, "10.0.0.1:9");
        assert_eq!(on_port(&named, Some(9)).host, named.host);
        assert_eq!(on_port(&plain, None).id, plain.id);
        assert_eq!(on_port(&local, Some(9)).id, local.id);
    }
}
