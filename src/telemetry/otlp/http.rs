//! Exports over HTTP/1.1, as bodies of `POST`.

use std::{future::poll_fn, time::SystemTime};

use ::http::{Request as HttpRequest, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;

use super::{
    client::{AGENT, Partial, Refusal, Request, partial},
    retry,
};
use crate::{
    config::model::Export,
    net::outbound::{Failure, Wire},
};

/// Most of an answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

pub(super) struct Client {
    sender: SendRequest<Full<Bytes>>,
    /// Dropped with it.
    connection: JoinSet<()>,
}

impl Client {
    pub(super) async fn new(wire: Wire) -> Result<Self, Failure> {
        let (sender, driven) = http1::handshake(TokioIo::new(wire)).await?;
        let mut connection = JoinSet::new();
        // How it ends is told to whoever waits for an answer.
        connection.spawn_local(async move { drop(driven.await) });
        Ok(Self { sender, connection })
    }

    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    pub(super) async fn rest(&mut self) {
        poll_fn(|cx| self.connection.poll_join_next(cx)).await;
    }

    pub(super) async fn send(
        &mut self,
        export: &Export,
        request: &Request,
    ) -> Result<Partial, Refusal> {
        let request =
            post(export, request).map_err(|error| Refusal::said(error, retry::Verdict::Final))?;
        self.sender.ready().await.map_err(Refusal::lost)?;
        let response = self.sender.send_request(request).await;
        let (head, body) = response.map_err(unanswered)?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        if !head.status.is_success() {
            let after = head.headers.get(header::RETRY_AFTER);
            let after =
                after.and_then(|value| retry::retry_after(value.as_bytes(), SystemTime::now()));
            let why = format!("the answer is {}", head.status);
            return Err(Refusal::said(why, retry::of_http(head.status, after)));
        }
        let body = body.map_err(Refusal::lost)?.to_bytes();
        // Some collectors answer in JSON, or not at all: it was taken nevertheless.
        let kind = head.headers.get(header::CONTENT_TYPE);
        Ok(match kind.is_some_and(|kind| kind == PROTOBUF) {
            true => partial(&body).unwrap_or_default(),
            false => Partial::default(),
        })
    }
}

/// What can't be read at all is no HTTP/1.1.
fn unanswered(error: hyper::Error) -> Refusal {
    match error.is_parse() && !error.is_parse_too_large() {
        true => Refusal::lost("the answer is not HTTP/1.1").foreign(),
        false => Refusal::lost(error),
    }
}

const PROTOBUF: &str = "application/x-protobuf";

fn post(export: &Export, request: &Request) -> Result<HttpRequest<Full<Bytes>>, ::http::Error> {
    let url = &export.endpoint;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let host = url.authority().map_or("", |authority| authority.as_str());
    let mut builder = HttpRequest::post(path)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, PROTOBUF)
        .header(header::USER_AGENT, AGENT);
    if request.gzip {
        builder = builder.header(header::CONTENT_ENCODING, "gzip");
    }
    for (name, value) in &export.headers {
        builder = builder.header(name, value);
    }
    builder.body(Full::new(request.content.clone()))
}
