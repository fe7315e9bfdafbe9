//! The health protocol of gRPC: `grpc.health.v1.Health/Check`.

use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;

use super::{
    http2::{self, Answer, Wanted},
    question::AGENT,
};
use crate::{
    http::grpc::{
        call::{Deframer, Status},
        is_grpc,
    },
    net::Stream,
    protobuf::{Fields, Value, Writer},
};

/// `HealthCheckResponse.ServingStatus`.
const NAMES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const SERVING: u64 = 1;

/// Asks for the status of a service; the empty one is the server as a whole.
pub(super) async fn check(
    stream: Stream,
    scheme: &str,
    host: &str,
    service: &str,
) -> Result<(), Box<str>> {
    let content = Some(request(service));
    let answer = http2::ask(stream, Wanted::Everything, content, |block| {
        block.field(b":method", b"POST");
        block.field(b":scheme", scheme.as_bytes());
        block.field(b":authority", host.as_bytes());
        block.field(b":path", b"/grpc.health.v1.Health/Check");
        block.field(b"content-type", b"application/grpc");
        block.field(b"te", b"trailers");
        block.field(b"user-agent", AGENT.as_bytes());
    });
    judge(&answer.await?)
}

/// `HealthCheckRequest`, framed: its one field is the service.
fn request(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        Writer(&mut message).bytes(1, service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(&message);
    framed.freeze()
}

fn judge(answer: &Answer) -> Result<(), Box<str>> {
    if answer.status != StatusCode::OK {
        return Err(format!("status {}", answer.status.as_u16()).into());
    }
    if !is_grpc(&answer.fields) {
        return Err("the answer is not gRPC".into());
    }
    let trailers = answer.trailers.as_deref().and_then(Status::of);
    match trailers.or_else(|| Status::of(&answer.fields)) {
        Some(status) if status.code == Status::OK => serving(&answer.content),
        Some(status) => Err(status.to_string().into()),
        None => Err("the answer ended without a status".into()),
    }
}

/// Whether the message in this content says so.
fn serving(mut content: &[u8]) -> Result<(), Box<str>> {
    let message = Deframer::default().push(&mut content);
    let message = message
        .map_err(|error| error.to_string())?
        .ok_or("an answer without a message")?;
    let mut fields = Fields(&message);
    // What is not written is zero.
    let mut status = 0;
    while let Some(field) = fields.next().map_err(|error| error.to_string())? {
        if let (1, Value::Varint(number)) = (field.number, &field.value) {
            status = *number;
        }
    }
    if status == SERVING {
        return Ok(());
    }
    let name = usize::try_from(status).ok().and_then(|at| NAMES.get(at));
    Err(name.map_or_else(|| format!("status {status}").into(), |&name| name.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_its_service() {
        assert_eq!(&request("")[..], [0; 5]);
        assert_eq!(&request("ab")[..], b"\0\0\0\0\x04\x0a\x02ab");
        let long = "s".repeat(200);
        assert_eq!(&request(&long)[..8], b"\0\0\0\0\xcb\x0a\xc8\x01");
    }

    #[test]
    fn only_serving_is_healthy() {
        let said = |content: &[u8]| serving(content).map_err(|error| error.to_string());
        assert_eq!(said(b"\0\0\0\0\x02\x08\x01"), Ok(()));
        assert_eq!(said(b"\0\0\0\0\x02\x08\x02"), Err("NOT_SERVING".to_owned()));
        assert_eq!(
            said(b"\0\0\0\0\x02\x08\x03"),
            Err("SERVICE_UNKNOWN".to_owned())
        );
        assert_eq!(said(b"\0\0\0\0\x02\x08\x09"), Err("status 9".to_owned()));
        assert_eq!(said(b"\0\0\0\0\0"), Err("UNKNOWN".to_owned()));
        for broken in [
            &b""[..],
            b"\0\0\0",
            b"\0\0\0\0\x02\x08",
            b"\x01\0\0\0\0",
            b"\0\0\0\0\x02\x08\x80",
        ] {
            assert!(said(broken).is_err(), "{broken:?}");
        }
    }
}
