//! Both ends of HTTP/2, as thin as can be: frames written from templates, and only the ends of streams
//! read out of what comes (RFC 9113). Fields go into the peer's table with the first message and are
//! named by their index from then on (RFC 7541), as every library does it.

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::UnixStream,
};

/// What is asked and answered on every stream.
#[derive(Clone, Copy)]
pub(crate) enum Script {
    /// A GET, answered with so many bytes.
    Get { body: usize },
    /// A unary call, which ends in trailers.
    Grpc,
}

impl Script {
    fn request(self) -> Message {
        let mut head = fields(&[
            (":scheme", "http"),
            (":authority", "bench.local"),
            (":path", "/helloworld.Greeter/SayHello"),
        ]);
        let body = match self {
            Self::Get { .. } => {
                head.extend(fields(&[(":method", "GET"), ("user-agent", "counted")]));
                None
            }
            Self::Grpc => {
                head.extend(fields(&[
                    (":method", "POST"),
                    ("user-agent", "counted"),
                    ("te", "trailers"),
                    ("content-type", "application/grpc"),
                ]));
                Some(b"\0\0\0\0\x07\n\x05world".to_vec())
            }
        };
        Message {
            head,
            body,
            trailers: None,
        }
    }

    fn response(self) -> Message {
        match self {
            Self::Get { body } => Message {
                head: fields(&[
                    (":status", "200"),
                    ("server", "script"),
                    ("content-type", "application/octet-stream"),
                    ("content-length", &body.to_string()),
                ]),
                body: Some(vec![b'x'; body]),
                trailers: None,
            },
            Self::Grpc => Message {
                head: fields(&[(":status", "200"), ("content-type", "application/grpc")]),
                body: Some(b"\0\0\0\0\x0d\n\x0bHello world".to_vec()),
                trailers: Some(fields(&[("grpc-status", "0"), ("grpc-message", "")])),
            },
        }
    }
}

pub(crate) struct Client {
    stream: UnixStream,
    writer: Writer,
    reader: Reader,
    streams: usize,
    next: u32,
}

impl Client {
    pub(crate) async fn connect(mut stream: UnixStream, streams: usize, script: Script) -> Self {
        stream.write_all(PREFACE).await.expect("a proxy that reads");
        stream
            .write_all(&opening())
            .await
            .expect("a proxy that reads");
        Self {
            stream,
            writer: Writer::new(script.request(), Table::Used),
            reader: Reader::default(),
            streams,
            next: 1,
        }
    }

    /// Begins all streams in one write, and waits until each of them is answered.
    pub(crate) async fn turn(&mut self) {
        let mut out = Vec::new();
        for _ in 0..self.streams {
            self.writer.write(self.next, &mut out);
            self.next += 2;
        }
        self.stream
            .write_all(&out)
            .await
            .expect("a proxy that reads");
        let mut open = self.streams;
        while open > 0 {
            let mut out = Vec::new();
            let came = self
                .reader
                .read(&mut self.stream, &mut out, |_, _| open -= 1)
                .await;
            assert!(came == Came::Frames, "the proxy refused a stream");
            if !out.is_empty() {
                self.stream
                    .write_all(&out)
                    .await
                    .expect("a proxy that reads");
            }
        }
    }
}

/// Answers every stream of a connection.
pub(crate) async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    script: Script,
    table: Table,
) {
    let mut preface = [0; PREFACE.len()];
    stream.read_exact(&mut preface).await.expect("a preface");
    let mut writer = Writer::new(script.response(), table);
    let mut reader = Reader::default();
    let mut out = opening();
    loop {
        // A client that is gone does not mind.
        drop(stream.write_all(&out).await);
        out.clear();
        let came = reader
            .read(&mut stream, &mut out, |id, out| writer.write(id, out))
            .await;
        if came == Came::End {
            return;
        }
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const FRAME_HEAD: usize = 9;

/// Windows so wide that nobody ever has to widen them.
fn opening() -> Vec<u8> {
    let mut out = Vec::new();
    let initial_window = [0, 4, 0x7f, 0xff, 0xff, 0xff];
    frame(SETTINGS, 0, 0, &initial_window, &mut out);
    frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xfe, 0, 0], &mut out);
    out
}

/// The same message again and again.
struct Message {
    head: Fields,
    body: Option<Vec<u8>>,
    trailers: Option<Fields>,
}

type Fields = Vec<(String, String)>;

fn fields(fields: &[(&str, &str)]) -> Fields {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    fields.iter().map(owned).collect()
}

/// What is made of the peer's table of fields.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    /// Every message but the first names its fields by number.
    Used,
    /// Every message spells its fields out: right for peers that keep no table, too.
    #[allow(dead_code, reason = "the origin of `make bench` shares this file")]
    Unused,
}

/// Writes one message as often as it is told.
struct Writer {
    first: Option<Vec<Frame>>,
    others: Vec<Frame>,
}

/// Type, flags, payload; which stream it is for is said when it is written.
type Frame = (u8, u8, Vec<u8>);

impl Writer {
    fn new(message: Message, table: Table) -> Self {
        let added = message.trailers.as_ref().map_or(0, Fields::len);
        let [first, others] = [false, true].map(|again| {
            let block = |fields: &Fields, newer| match (table, again) {
                (Table::Used, true) => numbers(fields, newer),
                (Table::Used, false) => literals(fields, 0x40),
                (Table::Unused, _) => literals(fields, 0),
            };
            let mut frames = vec![(HEADERS, END_HEADERS, block(&message.head, added))];
            frames.extend(message.body.iter().map(|body| (DATA, 0, body.clone())));
            let trailers = message.trailers.iter().map(|trailers| block(trailers, 0));
            frames.extend(trailers.map(|block| (HEADERS, END_HEADERS, block)));
            if let Some((_, flags, _)) = frames.last_mut() {
                *flags |= END_STREAM;
            }
            frames
        });
        Self {
            first: Some(first),
            others,
        }
    }

    fn write(&mut self, id: u32, out: &mut Vec<u8>) {
        let first = self.first.take();
        for (kind, flags, payload) in first.as_ref().unwrap_or(&self.others) {
            frame(*kind, *flags, id, payload, out);
        }
    }
}

/// Names and values in full, without Huffman coding. What `kind` 0x40 brings goes into the table.
fn literals(fields: &Fields, kind: u8) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(kind);
        for text in [name, value] {
            out.push(u8::try_from(text.len()).expect("a short text"));
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

/// By number, where so many `newer` fields came into the table after these. The newest is 62.
fn numbers(fields: &Fields, newer: usize) -> Vec<u8> {
    let number = |from_last| 0x80 | u8::try_from(62 + newer + from_last).expect("a small table");
    (0..fields.len()).rev().map(number).collect()
}

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(payload.len()).expect("a frame's size");
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(payload);
}

/// What a read brought.
#[derive(PartialEq, Eq)]
enum Came {
    Frames,
    /// Frames too, and one that gives up a stream or the connection.
    Refusal,
    End,
}

/// Reads frames and keeps what is not whole yet.
struct Reader {
    room: Vec<u8>,
    filled: usize,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            room: vec![0; 64 * 1024],
            filled: 0,
        }
    }
}

impl Reader {
    /// Reads once and looks at the whole frames: `ended` gets the streams whose peer is through.
    /// Answers that the protocol demands are put into `out`.
    async fn read(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        out: &mut Vec<u8>,
        mut ended: impl FnMut(u32, &mut Vec<u8>),
    ) -> Came {
        match stream.read(&mut self.room[self.filled..]).await {
            Ok(read) if read > 0 => self.filled += read,
            _ => return Came::End,
        }
        let mut came = Came::Frames;
        let mut start = 0;
        while let Some(&[a, b, c, kind, flags, d, e, f, g]) =
            self.room[start..self.filled].first_chunk::<FRAME_HEAD>()
        {
            let end = start + FRAME_HEAD + u32::from_be_bytes([0, a, b, c]) as usize;
            if end > self.filled {
                break;
            }
            match kind {
                DATA | HEADERS if flags & END_STREAM != 0 => {
                    ended(u32::from_be_bytes([d, e, f, g]), out);
                }
                SETTINGS if flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[], out),
                PING if flags & ACK == 0 => {
                    frame(PING, ACK, 0, &self.room[start + FRAME_HEAD..end], out);
                }
                RST_STREAM | GOAWAY => came = Came::Refusal,
                _ => {}
            }
            start = end;
        }
        self.room.copy_within(start..self.filled, 0);
        self.filled -= start;
        came
    }
}
