//! One collector, by one connection.

use std::{io::Write, time::Duration};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use rustls::{ClientConfig, pki_types::UnixTime};

use super::{Signal, grpc, http, retry::Verdict};
use crate::{
    config::model::{Export, OtlpProtocol, OtlpTls, TlsVersion},
    http::grpc::call::PREFIX,
    net::outbound::{Failure, Wire, connect},
    protobuf::{Fields, Malformed, Value},
    tls::{Bundle, Credential, Expected, Trust, client::rustls_config},
};

pub(super) const AGENT: &str = concat!("pillion/", env!("CARGO_PKG_VERSION"));

/// A connection that exports are sent over, one after the other.
pub(super) enum Client {
    Grpc(Box<grpc::Client>),
    Http(http::Client),
}

/// What is sent, framed as the protocol wants it: good for any number of tries.
pub(super) struct Request {
    pub(super) content: Bytes,
    pub(super) gzip: bool,
}

/// What a collector took less than all of.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Partial {
    pub(super) rejected: u64,
    /// Why; or, with nothing rejected, a warning.
    pub(super) message: Box<str>,
}

/// Why it was not taken.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) why: Failure,
    pub(super) verdict: Verdict,
    lost: bool,
    foreign: bool,
}

impl Refusal {
    /// Whether the connection is of no use any more, as far as that is known.
    pub(super) const fn is_lost(&self) -> bool {
        self.lost
    }

    /// The collector said no.
    pub(super) fn said(why: impl Into<Failure>, verdict: Verdict) -> Self {
        Self {
            why: why.into(),
            verdict,
            lost: false,
            foreign: false,
        }
    }

    /// No answer came that could be read; the next one may.
    pub(super) fn lost(why: impl Into<Failure>) -> Self {
        Self {
            why: why.into(),
            verdict: Verdict::Later(None),
            lost: true,
            foreign: false,
        }
    }

    /// What answers there may speak another protocol.
    pub(super) fn foreign(self) -> Self {
        Self {
            foreign: true,
            ..self
        }
    }

    /// What may be wrong, for a person.
    pub(super) const fn hint(&self, spoken: OtlpProtocol) -> Option<&'static str> {
        match spoken {
            _ if !self.foreign => None,
            OtlpProtocol::Grpc => Some("is `otlp.protocol` right? this looks like http/protobuf"),
            OtlpProtocol::HttpProtobuf => Some("is `otlp.protocol` right? this looks like grpc"),
        }
    }
}

impl Client {
    pub(super) async fn connect(export: &Export) -> Result<Self, Failure> {
        let alpn = match export.protocol {
            OtlpProtocol::Grpc => b"h2".to_vec(),
            OtlpProtocol::HttpProtobuf => b"http/1.1".to_vec(),
        };
        let name = export.tls.server_name.as_deref();
        let wire: Wire = connect(&export.endpoint, name, |expected| {
            let mut config = client_config(&export.tls, expected)?;
            config.alpn_protocols = vec![alpn];
            Ok(config)
        })
        .await?;
        Ok(match export.protocol {
            OtlpProtocol::Grpc => Self::Grpc(Box::new(grpc::Client::new(wire))),
            OtlpProtocol::HttpProtobuf => Self::Http(http::Client::new(wire).await?),
        })
    }

    /// Sends, and waits for the answer; a limit of time is the caller's, who drops the connection
    /// when that is over. `left` is told to the collector.
    pub(super) async fn send(
        &mut self,
        export: &Export,
        signal: Signal,
        request: &Request,
        left: Duration,
    ) -> Result<Partial, Refusal> {
        match self {
            Self::Grpc(client) => client.send(export, signal, request, left).await,
            Self::Http(client) => client.send(export, request).await,
        }
    }

    /// Whether another export can be sent.
    pub(super) fn is_open(&self) -> bool {
        match self {
            Self::Grpc(client) => client.is_open(),
            Self::Http(client) => client.is_open(),
        }
    }

    /// Keeps the connection alive until it ends.
    pub(super) async fn rest(&mut self) {
        match self {
            Self::Grpc(client) => client.rest().await,
            Self::Http(client) => client.rest().await,
        }
    }
}

impl Request {
    /// Of a message to which `write` appends.
    pub(super) fn new(export: &Export, write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut plain = Vec::new();
        if export.protocol == OtlpProtocol::Grpc && !export.gzip {
            // So that it needs not be moved.
            plain.extend_from_slice(&[0; PREFIX]);
        }
        write(&mut plain);
        let mut content = plain;
        if export.gzip {
            content = compressed(&content, export.protocol == OtlpProtocol::Grpc);
        }
        if export.protocol == OtlpProtocol::Grpc {
            grpc::frame(&mut content, export.gzip);
        }
        Self {
            content: content.into(),
            gzip: export.gzip,
        }
    }
}

/// Whether a connection that was made for one is good for the other.
pub(super) fn same_place(one: &Export, other: &Export) -> bool {
    one.endpoint == other.endpoint && one.protocol == other.protocol && one.tls == other.tls
}

/// With room for a frame's prefix, if there is to be one.
fn compressed(plain: &[u8], framed: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(plain.len() / 4);
    if framed {
        out.extend_from_slice(&[0; PREFIX]);
    }
    let mut encoder = GzEncoder::new(out, Compression::fast());
    encoder
        .write_all(plain)
        .and_then(|()| encoder.finish())
        .expect("writing to a Vec can't fail")
}

/// Reads the files.
fn client_config(tls: &OtlpTls, expected: Expected) -> Result<ClientConfig, Failure> {
    let trust = match &tls.authorities[..] {
        [] => Trust::system()?,
        files => Trust::new(vec![Bundle::load(files, &[] as &[&str], None)?]),
    };
    let shown = match &tls.identity {
        None => None,
        Some(pair) => {
            let now = UnixTime::now();
            Some(Credential::load(&pair.certificate, &pair.key, now)?.credential)
        }
    };
    Ok(rustls_config(
        TlsVersion::V1_2,
        trust,
        expected,
        shown.as_ref(),
    ))
}

/// An `Export…ServiceResponse`.
pub(super) fn partial(message: &[u8]) -> Result<Partial, Malformed> {
    const PARTIAL_SUCCESS: u32 = 1;
    let mut partial = Partial::default();
    let mut fields = Fields(message);
    while let Some(field) = fields.next()? {
        if field.number != PARTIAL_SUCCESS {
            continue;
        }
        let mut fields = Fields(field.bytes()?);
        while let Some(field) = fields.next()? {
            match (field.number, &field.value) {
                (1, Value::Varint(rejected)) => partial.rejected = *rejected,
                (2, Value::Bytes(_)) => partial.message = line(field.text()?),
                _ => {}
            }
        }
    }
    Ok(partial)
}

/// Fit for a line of a log.
fn line(text: &str) -> Box<str> {
    const MOST: usize = 300;
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars()
        .take(MOST)
        .map(plain)
        .collect::<String>()
        .into()
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Read;

    use super::*;
    use crate::config;

    /// By what is written below `otlp`.
    pub(in super::super) fn export(text: &str) -> Export {
        let text = format!(
            "otlp: {{ {text} }}\nlisteners: [{{ address: 127.0.0.1:1, upstream: a }}]\n\
             upstreams: [{{ name: a, endpoints: [127.0.0.1:2] }}]"
        );
        let loaded = config::parse("test.yaml", &text, &|_| None).unwrap();
        loaded.config.otlp.traces
    }

    fn content(text: &str) -> Vec<u8> {
        let request = Request::new(&export(text), |out| out.extend_from_slice(b"message"));
        request.content.to_vec()
    }

    fn unzipped(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        flate2::read::GzDecoder::new(bytes)
            .read_to_end(&mut out)
            .unwrap();
        out
    }

    #[test]
    fn messages_are_framed_for_grpc_alone() {
        assert_eq!(content(""), b"\0\0\0\0\x07message");
        assert_eq!(content("protocol: http/protobuf"), b"message");
        let framed = content("compression: gzip");
        assert_eq!(framed[0], 1);
        assert_eq!(framed[1..5], (framed.len() as u32 - 5).to_be_bytes());
        assert_eq!(unzipped(&framed[5..]), b"message");
        let plain = content("compression: gzip, protocol: http/protobuf");
        assert_eq!(unzipped(&plain), b"message");
    }

    #[test]
    fn a_partial_success_is_read() {
        assert_eq!(partial(b""), Ok(Partial::default()));
        let told = partial(b"\x0a\x0b\x08\x03\x12\x07too\nbig").unwrap();
        assert_eq!((told.rejected, &*told.message), (3, "too big"));
        assert!(partial(b"\x0a\x0a\x08").is_err());
    }
}
