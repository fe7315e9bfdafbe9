//! An agent that answers as it is told, over a Unix socket.

use std::{
    fs,
    future::poll_fn,
    path::PathBuf,
    pin::Pin,
    sync::atomic::{AtomicU32, Ordering},
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};
use tokio_util::io::poll_read_buf;

use crate::http::h2::{
    connection::{Connection, Limits, Role},
    receive::HeadKind,
    send::Block,
    streams::Key,
};

/// What a client of HTTP/2 says first (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) struct Agent {
    folder: PathBuf,
    pub(super) socket: PathBuf,
    listener: Option<UnixListener>,
}

impl Agent {
    pub(super) fn start() -> Self {
        let mut agent = Self::absent();
        agent.appear();
        agent
    }

    /// A path without anybody behind it.
    pub(super) fn absent() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pillion-{}-agent-{count}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        let socket = folder.join("agent.sock");
        Self {
            folder,
            socket,
            listener: None,
        }
    }

    pub(super) fn appear(&mut self) {
        self.listener = Some(UnixListener::bind(&self.socket).unwrap());
    }

    /// A connection on which nothing was said yet.
    pub(super) async fn connection(&self) -> UnixStream {
        let listener = self.listener.as_ref().unwrap();
        listener.accept().await.unwrap().0
    }

    /// The next call, its request read.
    pub(super) async fn call(&self) -> Answer {
        let mut socket = self.connection().await;
        let mut preface = [0; PREFACE.len()];
        socket.read_exact(&mut preface).await.unwrap();
        assert_eq!(preface, PREFACE);
        let limits = Limits {
            streams: 10,
            head: 1 << 14,
            stream_window: 1 << 16,
            window: 1 << 16,
        };
        let mut answer = Answer {
            core: Connection::new(Role::Server, limits),
            socket,
            input: BytesMut::new(),
            key: None,
            asked: Vec::new(),
            body: Vec::new(),
        };
        answer.request().await;
        answer
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A call from the agent's side.
pub(super) struct Answer {
    core: Connection<()>,
    socket: UnixStream,
    input: BytesMut,
    key: Option<Key>,
    /// What was asked: `name: value`.
    pub(super) asked: Vec<String>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    async fn request(&mut self) {
        let mut body = Vec::new();
        let whole = self.until(|core, key, cx| {
            while let Some(key) = key
                && let Poll::Ready(piece) = core.poll_data(key, cx)
            {
                match piece {
                    Some(piece) => body.extend_from_slice(&piece.unwrap()),
                    None => return Poll::Ready(()),
                }
            }
            Poll::Pending
        });
        whole.await.expect("a whole request");
        self.body = body;
    }

    pub(super) async fn begin(&mut self) {
        self.head(false, |block| {
            block.field(b":status", b"200");
            block.field(b"content-type", b"application/grpc+proto");
        })
        .await;
    }

    pub(super) async fn message(&mut self, message: &[u8]) {
        let length = u32::try_from(message.len()).unwrap();
        let framed = [&[0][..], &length.to_be_bytes(), message].concat();
        self.content(&framed).await;
    }

    pub(super) async fn content(&mut self, content: &[u8]) {
        let key = self.key.unwrap();
        self.core.data(key, Bytes::copy_from_slice(content), false);
        self.flush().await;
    }

    /// The trailers of a good call or a bad one.
    pub(super) async fn end(&mut self, code: &str, text: &str) {
        self.head(true, |block| {
            block.field(b"grpc-status", code.as_bytes());
            block.field(b"grpc-message", text.as_bytes());
        })
        .await;
    }

    pub(super) async fn head(&mut self, end: bool, fields: impl FnOnce(&mut Block<'_>)) {
        self.core.head(self.key.unwrap(), end, fields);
        self.flush().await;
    }

    /// Writes all that there is, as fast as the windows allow.
    async fn flush(&mut self) {
        let written = self.until(|core, key, cx| {
            let sent = core.poll_sent(key.unwrap(), cx).is_ready();
            match sent && core.output.is_empty() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        written.await.expect("a client that listens");
    }

    /// Answers PINGs until the client has gone.
    pub(super) async fn closed(mut self) {
        let never = self.until(|_, _, _| Poll::<()>::Pending).await;
        assert!(never.is_none());
    }

    /// Says that, whatever it is, unless the client has gone.
    pub(super) async fn raw(&mut self, bytes: &[u8]) {
        let _ = self.socket.write_all(bytes).await;
    }

    /// Drives the connection until `done`; `None` if the client has gone before.
    async fn until<T>(
        &mut self,
        mut done: impl FnMut(&mut Connection<()>, Option<Key>, &Context<'_>) -> Poll<T>,
    ) -> Option<T> {
        poll_fn(|cx| {
            loop {
                self.core.fill();
                let _ = self.core.output.poll_flush(cx, &mut self.socket);
                if let Poll::Ready(result) = done(&mut self.core, self.key, cx) {
                    return Poll::Ready(Some(result));
                }
                match poll_read_buf(Pin::new(&mut self.socket), cx, &mut self.input) {
                    Poll::Ready(Ok(1..)) => self.receive(),
                    Poll::Ready(_) => return Poll::Ready(None),
                    // What was received may have made something to say.
                    Poll::Pending if !self.core.output.is_empty() => {}
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    fn receive(&mut self) {
        let lines = &mut self.asked;
        while let Some(head) = self
            .core
            .receive(&mut self.input, &mut |name, value| {
                let text = [name, b": ", value].concat();
                lines.push(String::from_utf8(text).unwrap());
            })
            .unwrap()
        {
            assert_eq!(head.kind, HeadKind::Head);
            self.core.hold(head.key);
            self.core.seen(head.key);
            self.core.expect(head.key, None);
            self.key = Some(head.key);
        }
    }
}
