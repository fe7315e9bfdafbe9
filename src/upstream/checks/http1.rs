//! A check by HTTP/1.1: one request on a connection that ends with it.

use std::time::Duration;

use bytes::BytesMut;
use http::{Method, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::question::AGENT;
use crate::{
    config::model::HttpQuestion,
    http::{
        h1::{head, scan::Scanner},
        message::{MAX_INTERIM, MAX_RESPONSE_HEAD},
    },
    net::Stream,
};

/// What is read of an answer behind its head, in bytes, and how long that is waited for.
const MAX_REST: usize = 64 * 1024;
const REST_WAIT: Duration = Duration::from_millis(200);

/// Asks, and waits for the head of the answer.
pub(super) async fn ask(
    mut stream: Stream,
    question: &HttpQuestion,
    host: &str,
) -> Result<(StatusCode, Rest), Box<str>> {
    let broke = |error| Box::from(format!("the connection broke: {error}"));
    let request = request(question, host);
    let sent = stream.write_all(request.as_bytes()).await;
    sent.map_err(broke)?;
    stream.flush().await.map_err(broke)?;
    let mut input = BytesMut::new();
    let mut scanner = Scanner::default();
    let mut interim = 0;
    loop {
        let next = head::next_response(&input, &mut scanner, MAX_RESPONSE_HEAD, &question.method);
        let next = next.map_err(|error| error.of_response().to_string())?;
        if let Some((length, received)) = next {
            let status = received.head.status;
            if !status.is_informational() {
                let bodiless = received.framing == head::Framing::None;
                return Ok((status, Rest { stream, bodiless }));
            }
            interim += 1;
            if interim > MAX_INTERIM || status == StatusCode::SWITCHING_PROTOCOLS {
                return Err(format!("interim answers, the last {}", status.as_u16()).into());
            }
            let _ = input.split_to(length);
            continue;
        }
        if !head::may_be_response(&input) {
            return Err("the answer is not HTTP/1".into());
        }
        match stream.read_buf(&mut input).await {
            Ok(0) => return Err("the connection was closed before an answer".into()),
            Ok(_) => {}
            Err(error) => return Err(broke(error)),
        }
    }
}

/// What is left of the connection once the head has come.
pub(super) struct Rest {
    stream: Stream,
    bodiless: bool,
}

impl Rest {
    /// Takes the rest of the answer, so that its sender sees no reset: within bounds, and whatever
    /// it is.
    pub(super) async fn take_leave(mut self) {
        if !self.bodiless {
            let mut buffer = vec![0; 4096];
            let rest = async {
                let mut taken = 0;
                while taken < MAX_REST {
                    match self.stream.read(&mut buffer).await {
                        Ok(0) | Err(_) => break,
                        Ok(length) => taken += length,
                    }
                }
            };
            // The check is over; this is politeness.
            let _ = timeout(REST_WAIT, rest).await;
        }
        self.stream.take_leave();
    }
}

fn request(question: &HttpQuestion, host: &str) -> String {
    let HttpQuestion { method, path, .. } = question;
    // A method that commonly has a body says that there is none (RFC 9110 section 8.6).
    let length = match *method {
        Method::POST | Method::PUT | Method::PATCH => "content-length: 0\r\n",
        _ => "",
    };
    format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: {AGENT}\r\n{length}connection: close\r\n\r\n"
    )
}
