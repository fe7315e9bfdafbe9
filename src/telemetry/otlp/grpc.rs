//! Exports over gRPC.

use std::{future::poll_fn, time::Duration};

use super::{
    Signal,
    client::{AGENT, Partial, Refusal, Request, partial},
    retry,
};
use crate::{
    config::model::Export,
    http::{
        fields::Fields,
        grpc::{
            call::{Deframer, PREFIX, Status},
            is_grpc,
        },
        h2::{
            frame::Fault,
            send::Block,
            solo::{Event, Failure, Solo},
            streams::Broken,
        },
        name::GRPC_STATUS_DETAILS,
    },
    net::outbound::Wire,
};

/// Largest header list of an answer, in bytes.
const MAX_HEAD: usize = 16 * 1024;

pub(super) struct Client(Solo<Wire>);

/// Fills in the prefix, for which there is room.
pub(super) fn frame(framed: &mut [u8], gzip: bool) {
    // Batches are bounded far below.
    let length = u32::try_from(framed.len() - PREFIX).unwrap_or(u32::MAX);
    framed[0] = gzip.into();
    framed[1..PREFIX].copy_from_slice(&length.to_be_bytes());
}

impl Client {
    pub(super) fn new(wire: Wire) -> Self {
        Self(Solo::new(wire, MAX_HEAD))
    }

    pub(super) fn is_open(&self) -> bool {
        self.0.is_open()
    }

    pub(super) async fn rest(&mut self) {
        // With no question there is no other event than the end.
        let _ = poll_fn(|cx| self.0.poll_event(cx)).await;
    }

    pub(super) async fn send(
        &mut self,
        export: &Export,
        signal: Signal,
        request: &Request,
        left: Duration,
    ) -> Result<Partial, Refusal> {
        let content = Some(request.content.clone());
        self.0.ask(false, content, |block| {
            put_head(block, export, signal, request.gzip, left);
        });
        self.answer().await
    }

    async fn answer(&mut self) -> Result<Partial, Refusal> {
        let mut status = None;
        let mut delay = None;
        let mut taken = Partial::default();
        let mut deframer = Deframer::default();
        let mut read = |fields: &Fields| {
            if let Some(told) = Status::of(fields) {
                status = Some(told);
                let details = fields.get(&GRPC_STATUS_DETAILS);
                delay = details.and_then(retry::retry_info);
            }
        };
        loop {
            match poll_fn(|cx| self.0.poll_event(cx)).await {
                Ok(Event::Head(head)) if head.status != ::http::StatusCode::OK => {
                    self.0.give_up();
                    let why = format!("the answer is {}", head.status);
                    return Err(Refusal::said(why, retry::of_http(head.status, None)));
                }
                Ok(Event::Head(head)) if !is_grpc(&head.fields) => {
                    self.0.give_up();
                    let why = "the answer is not gRPC";
                    return Err(Refusal::said(why, retry::Verdict::Final).foreign());
                }
                Ok(Event::Head(head)) => read(&head.fields),
                Ok(Event::Content(piece)) => {
                    let mut rest = &piece[..];
                    while !rest.is_empty() {
                        let message = deframer.push(&mut rest).map_err(Refusal::lost)?;
                        if let Some(message) = message {
                            taken = partial(&message).map_err(Refusal::lost)?;
                        }
                    }
                }
                Ok(Event::End(trailers)) => {
                    if let Some(trailers) = trailers {
                        read(&trailers);
                    }
                    break;
                }
                Err(Failure::Broken(Broken::Fault(Fault::FOREIGN))) => {
                    return Err(Refusal::lost("the answer is not HTTP/2").foreign());
                }
                Err(Failure::Broken(broken)) => return Err(Refusal::lost(broken)),
                Err(failure) => return Err(Refusal::lost(failure.to_string())),
            }
        }
        match status {
            Some(status) if status.code == Status::OK => Ok(taken),
            Some(status) => {
                let verdict = retry::of_grpc(status.code, delay);
                Err(Refusal::said(status.to_string(), verdict))
            }
            None => Err(Refusal::lost("the answer ended without a status")),
        }
    }
}

fn put_head(block: &mut Block<'_>, export: &Export, signal: Signal, gzip: bool, left: Duration) {
    let url = &export.endpoint;
    let authority = url.authority().map_or("", |authority| authority.as_str());
    block.field(b":method", b"POST");
    block.field(b":scheme", url.scheme_str().unwrap_or("http").as_bytes());
    block.field(b":authority", authority.as_bytes());
    block.field(b":path", path(signal).as_bytes());
    block.field(b"te", b"trailers");
    block.field(b"content-type", b"application/grpc");
    block.field(b"grpc-timeout", grpc_timeout(left).as_bytes());
    if gzip {
        block.field(b"grpc-encoding", b"gzip");
    }
    block.field(b"user-agent", AGENT.as_bytes());
    for (name, value) in &export.headers {
        block.field(name.as_str().as_bytes(), value.as_bytes());
    }
}

const fn path(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    }
}

/// At most eight digits (gRPC over HTTP/2, "Timeout").
fn grpc_timeout(left: Duration) -> String {
    match left.as_millis() {
        millis @ 0..=99_999_999 => format!("{millis}m"),
        _ => format!("{}S", left.as_secs().min(99_999_999)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_have_eight_digits_at_most() {
        assert_eq!(grpc_timeout(Duration::from_secs(10)), "10000m");
        assert_eq!(grpc_timeout(Duration::from_secs(1_000_000)), "1000000S");
    }
}
