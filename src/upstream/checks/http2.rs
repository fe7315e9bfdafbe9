//! A check over HTTP/2: a connection that is asked once.

use std::future::poll_fn;

use bytes::Bytes;
use http::StatusCode;

use crate::{
    http::{
        fields::Fields,
        h2::{
            send::Block,
            solo::{Event, Solo},
        },
        trailers::Trailers,
    },
    net::Stream,
};

/// Largest header list of an answer, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// Most content that is looked at, in bytes: no answer about health is as long.
const MAX_CONTENT: usize = 16 * 1024;

/// How much of an answer there has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// `head_only`: the question was `HEAD`, so that no content can come.
    Head {
        head_only: bool,
    },
    Everything,
}

/// An answer, or as much of it as was wanted.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) fields: Fields,
    pub(super) content: Vec<u8>,
    pub(super) trailers: Option<Trailers>,
}

/// Asks, and waits for the answer.
pub(super) async fn ask(
    stream: Stream,
    wanted: Wanted,
    content: Option<Bytes>,
    fields: impl FnOnce(&mut Block<'_>),
) -> Result<Answer, Box<str>> {
    let mut solo = Solo::new(stream, MAX_HEAD);
    let to_head = wanted == Wanted::Head { head_only: true };
    solo.ask(to_head, content, fields);
    let answer = answer(&mut solo, wanted).await;
    solo.take_leave().take_leave();
    answer
}

async fn answer(solo: &mut Solo<Stream>, wanted: Wanted) -> Result<Answer, Box<str>> {
    let mut answer = None;
    loop {
        let event = poll_fn(|cx| solo.poll_event(cx)).await;
        match event.map_err(|failure| failure.to_string())? {
            Event::Head(head) => {
                answer = Some(Answer {
                    status: head.status,
                    fields: head.fields,
                    content: Vec::new(),
                    trailers: None,
                });
                if wanted != Wanted::Everything {
                    break;
                }
            }
            Event::Content(piece) => {
                if let Some(answer) = &mut answer {
                    answer.content.extend_from_slice(&piece);
                    if answer.content.len() > MAX_CONTENT {
                        return Err(format!("an answer of more than {MAX_CONTENT} bytes").into());
                    }
                }
            }
            Event::End(trailers) => {
                if let Some(answer) = &mut answer {
                    answer.trailers = trailers;
                }
                break;
            }
        }
    }
    answer.ok_or_else(|| "an answer without a head".into())
}
