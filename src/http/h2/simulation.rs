//! Two connections wired to each other, byte by byte and at random: whatever the order in which
//! things happen, all content arrives, and nothing is left behind.

use std::{collections::HashMap, task::Context, task::Poll, task::Waker};

use bytes::{Bytes, BytesMut};

use super::{
    connection::{Connection, Limits, Role},
    frame::{Code, MAX_PAYLOAD},
    receive::HeadKind,
    streams::{Broken, Key},
};

/// What a test keeps with a stream.
#[derive(Debug, Default)]
struct Mail {
    trailers: Option<String>,
}

/// One end and what has come for it.
struct End {
    core: Connection<Mail>,
    input: BytesMut,
    /// Streams that were opened by the peer.
    opened: Vec<(Key, String)>,
}

impl End {
    fn new(role: Role, limits: Limits) -> Self {
        Self {
            core: Connection::new(role, limits),
            input: BytesMut::new(),
            opened: Vec::new(),
        }
    }

    fn receive(&mut self) {
        let mut text = String::new();
        while let Some(head) = self
            .core
            .receive(&mut self.input, &mut |name, value| {
                text += std::str::from_utf8(name).unwrap();
                text += "=";
                text += std::str::from_utf8(value).unwrap();
                text += ";";
            })
            .unwrap()
        {
            let text = std::mem::take(&mut text);
            match head.kind {
                HeadKind::Head => {
                    if let Some(stream) = self.core.stream(head.key) {
                        stream.got_head = true;
                        self.opened.push((head.key, text));
                    }
                }
                HeadKind::Trailers => {
                    if let Some(stream) = self.core.stream(head.key) {
                        stream.mail.trailers = Some(text);
                    }
                    self.core.finish(head.key);
                }
            }
        }
    }

    /// Moves up to `octets` of what it has to say to the other end.
    fn say(&mut self, to: &mut Self, octets: usize) {
        self.core.fill();
        let mut pipe = Pipe {
            to: &mut to.input,
            room: octets,
        };
        let mut cx = Context::from_waker(Waker::noop());
        let _ = self.core.output.poll_flush(&mut cx, &mut pipe);
    }
}

/// Takes so many bytes and then waits.
struct Pipe<'a> {
    to: &'a mut BytesMut,
    room: usize,
}

impl tokio::io::AsyncWrite for Pipe<'_> {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let this = self.get_mut();
        let taken = buf.len().min(this.room);
        if taken == 0 {
            return Poll::Pending;
        }
        this.room -= taken;
        this.to.extend_from_slice(&buf[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// One message on its way.
struct Sending {
    left: Vec<u8>,
    done: bool,
}

/// The same as its server does.
struct Serving {
    key: Key,
    got: Vec<u8>,
    sending: Sending,
    /// The request has come to its end.
    whole: bool,
}

/// An exchange as its client sees it.
struct Exchange {
    key: Key,
    sending: Sending,
    sent: Vec<u8>,
    got: Vec<u8>,
    over: bool,
}

fn content(rng: &mut fastrand::Rng) -> Vec<u8> {
    let most = [1, 100, 3000, 40_000, 200_000][rng.usize(..5)];
    let length = rng.usize(..most);
    let mut content = vec![0; length];
    rng.fill(&mut content);
    content
}

/// Sends a piece if the stream has room for it; true if the stream is broken.
fn send(end: &mut End, key: Key, sending: &mut Sending, rng: &mut fastrand::Rng) -> bool {
    let cx = Context::from_waker(Waker::noop());
    match end.core.poll_sent(key, &cx) {
        Poll::Pending => return false,
        Poll::Ready(Err(_)) => return true,
        Poll::Ready(Ok(())) if sending.done => return false,
        Poll::Ready(Ok(())) => {}
    }
    let most = sending.left.len().min(50_000);
    let rest = sending.left.split_off(rng.usize(..=most));
    let piece = Bytes::from(std::mem::replace(&mut sending.left, rest));
    if !sending.left.is_empty() {
        end.core.data(key, piece, false);
        return false;
    }
    sending.done = true;
    match rng.u8(..3) {
        0 => {
            end.core.data(key, piece, false);
            sending.done = !matches!(end.core.poll_sent(key, &cx), Poll::Ready(Ok(())));
            if sending.done {
                // The end has to wait as well: another turn.
                sending.done = false;
                return false;
            }
            sending.done = true;
            end.core
                .head(key, true, |block| block.field(b"x-sum", b"1"));
        }
        1 => {
            end.core.data(key, piece, false);
            sending.done = false;
        }
        _ => end.core.data(key, piece, true),
    }
    false
}

/// Takes what has come; `Some(true)` at a good end, `Some(false)` at a bad one.
fn take(end: &mut End, key: Key, got: &mut Vec<u8>, rng: &mut fastrand::Rng) -> Option<bool> {
    let cx = Context::from_waker(Waker::noop());
    while rng.u8(..4) > 0 {
        match end.core.poll_data(key, &cx) {
            Poll::Ready(Some(Ok(data))) => got.extend_from_slice(&data),
            Poll::Ready(Some(Err(_))) => return Some(false),
            Poll::Ready(None) => return Some(true),
            Poll::Pending => return None,
        }
    }
    None
}

fn play(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let sizes = [1, 10, 1000, 65_535, 1 << 20];
    let mut limits = || Limits {
        streams: 8,
        head: 64 * 1024,
        stream_window: sizes[rng.usize(..5)],
        window: 65_535 + sizes[rng.usize(..5)],
    };
    let (allowed, offered) = (limits(), limits());
    let mut client = End::new(Role::Client, allowed);
    let mut server = End::new(Role::Server, offered);
    // The preface is not the connection's business.
    client.say(&mut server, 24);
    assert_eq!(server.input.split(), crate::http::PREFACE);

    let total = 30;
    let mut begun = 0;
    let mut exchanges: Vec<Exchange> = Vec::new();
    let mut serving: HashMap<u32, Serving> = HashMap::new();
    let mut steps = 0;
    loop {
        steps += 1;
        assert!(steps < 2_000_000, "seed {seed}: it does not come to an end");
        match rng.u8(..8) {
            0 if begun < total && client.core.room().is_some_and(|room| room > 0) => {
                let sent = content(&mut rng);
                let id = begun.to_string();
                let large = "v".repeat(rng.usize(..2) * 20_000);
                let key = client.core.request(false, |block| {
                    block.field(b":path", id.as_bytes());
                    block.field(b"x-large", large.as_bytes());
                });
                client.core.hold(key);
                let sending = Sending {
                    left: sent.clone(),
                    done: false,
                };
                let (got, over) = (Vec::new(), false);
                exchanges.push(Exchange {
                    key,
                    sending,
                    sent,
                    got,
                    over,
                });
                begun += 1;
            }
            1 => client.say(&mut server, rng.usize(1..MAX_PAYLOAD * 2)),
            2 => server.say(&mut client, rng.usize(1..MAX_PAYLOAD * 2)),
            3 => client.receive(),
            4 => server.receive(),
            5 if !exchanges.is_empty() => {
                let at = rng.usize(..exchanges.len());
                let exchange = &mut exchanges[at];
                if exchange.over {
                    continue;
                }
                let cancelled = rng.u8(..200) == 0;
                let broken = send(&mut client, exchange.key, &mut exchange.sending, &mut rng);
                let end = take(&mut client, exchange.key, &mut exchange.got, &mut rng);
                if end == Some(true) && exchange.sending.done && !broken {
                    assert!(
                        exchange.got == exchange.sent,
                        "seed {seed}: content differs"
                    );
                }
                let whole = end == Some(true) && exchange.sending.done;
                if whole || end == Some(false) || broken || cancelled {
                    exchange.over = true;
                    client.core.drop_hold(exchange.key);
                }
            }
            6 if !serving.is_empty() => {
                let id = *rng.choice(serving.keys()).unwrap();
                let Serving {
                    key,
                    got,
                    sending,
                    whole,
                } = serving.get_mut(&id).unwrap();
                let key = *key;
                if !*whole {
                    // An echo: what has come goes back.
                    let before = got.len();
                    let end = take(&mut server, key, got, &mut rng);
                    sending.left.extend_from_slice(&got[before..]);
                    *whole = end == Some(true);
                    if end == Some(false) {
                        server.core.drop_hold(key);
                        serving.remove(&id);
                        continue;
                    }
                }
                let gone = if *whole {
                    send(&mut server, key, sending, &mut rng)
                } else {
                    matches!(
                        server.core.stream(key).and_then(|stream| stream.broken),
                        Some(Broken::Reset(_))
                    )
                };
                let cx = Context::from_waker(Waker::noop());
                let sent = sending.done && server.core.poll_sent(key, &cx).is_ready();
                if rng.u8(..250) == 0 {
                    server.core.reset(key, Code::INTERNAL_ERROR);
                }
                if gone || sent {
                    server.core.drop_hold(key);
                    serving.remove(&id);
                }
            }
            _ => {}
        }
        for (key, _) in server.opened.drain(..) {
            server.core.hold(key);
            if let Some(stream) = server.core.stream(key) {
                stream.seen = true;
            }
            server
                .core
                .head(key, false, |block| block.field(b":status", b"200"));
            let sending = Sending {
                left: Vec::new(),
                done: false,
            };
            let (got, whole) = (Vec::new(), false);
            serving.insert(
                key.id,
                Serving {
                    key,
                    got,
                    sending,
                    whole,
                },
            );
        }
        client.opened.clear();
        let over = begun == total && exchanges.iter().all(|exchange| exchange.over);
        if over && serving.is_empty() {
            break;
        }
    }
    // All that is still on its way arrives.
    let rests = |end: &End| end.core.output.is_empty() && end.input.is_empty();
    while !(rests(&client) && rests(&server)) {
        client.say(&mut server, usize::MAX);
        server.receive();
        server.say(&mut client, usize::MAX);
        client.receive();
    }
    for key in std::mem::take(&mut server.opened) {
        server.core.hold(key.0);
        server.core.drop_hold(key.0);
    }
    for (end, peer) in [(&client, &server), (&server, &client)] {
        assert!(end.core.is_empty(), "seed {seed}: streams are left");
        assert_eq!(end.core.open, 0, "seed {seed}");
        // Not an octet of credit was lost.
        assert_eq!(
            end.core.send_window.left(),
            peer.core.recv_window.left(),
            "seed {seed}: the windows differ"
        );
        assert!(
            peer.core.recv_window.is_whole(),
            "seed {seed}: credit is lost"
        );
    }
}

#[test]
fn all_content_arrives_and_nothing_is_left() {
    for seed in 0..60 {
        play(seed);
    }
}

#[test]
fn hostile_bytes_end_the_connection_or_do_not() {
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..3000 {
        let role = if rng.bool() {
            Role::Client
        } else {
            Role::Server
        };
        let limits = Limits {
            streams: 10,
            head: 1000,
            stream_window: 1000,
            window: 70_000,
        };
        let mut core = Connection::<()>::new(role, limits);
        let mut input = BytesMut::from(&b"\0\0\0\x04\0\0\0\0\0"[..]);
        for _ in 0..rng.usize(..40) {
            let mut payload = vec![0; rng.usize(..40)];
            rng.fill(&mut payload);
            let stream = [0, 1, 1, 3, 5, 7][rng.usize(..6)];
            input.extend_from_slice(&[0, 0, payload.len() as u8, rng.u8(..11)]);
            input.extend_from_slice(&[rng.u8(..), 0, 0, 0, stream]);
            input.extend_from_slice(&payload);
            if role == Role::Client && rng.u8(..4) == 0 {
                let key = core.request(rng.bool(), |block| block.field(b":path", b"/"));
                core.hold(key);
            }
            let mut part = input.split_to(rng.usize(..=input.len()));
            while let Ok(Some(head)) = core.receive(&mut part, &mut |_, _| {}) {
                core.hold(head.key);
                if let Some(stream) = core.stream(head.key) {
                    stream.got_head = true;
                }
                core.head(head.key, rng.bool(), |block| {
                    block.field(b":status", b"200")
                });
                core.data(head.key, Bytes::from_static(b"body"), true);
            }
            part.unsplit(input);
            input = part;
            core.fill();
        }
        core.end(Broken::Lost(crate::net::Loss::Closed));
    }
}
