//! Both ends of HTTP/1.1: messages of known sizes.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

pub(crate) struct Client {
    stream: UnixStream,
    request: Vec<u8>,
    /// Bytes of the response's body.
    gets: usize,
    room: Vec<u8>,
}

impl Client {
    pub(crate) fn new(stream: UnixStream, sends: usize, gets: usize) -> Self {
        let line = if sends == 0 { "GET" } else { "POST" };
        let head = format!(
            "{line} /1k HTTP/1.1\r\nHost: bench.local\r\nUser-Agent: counted\r\nAccept: */*\r\n{}\r\n",
            length(sends)
        );
        Self {
            stream,
            request: message(head, sends),
            gets,
            room: vec![0; ROOM],
        }
    }

    /// Asks, and waits for the whole answer.
    pub(crate) async fn turn(&mut self) {
        let (mut from, mut to) = self.stream.split();
        let send = async {
            to.write_all(&self.request)
                .await
                .expect("a proxy that reads")
        };
        let read = read(&mut from, &mut self.room, self.gets);
        let ((), whole) = tokio::join!(send, read);
        assert!(whole, "the proxy closed a connection");
    }
}

/// Answers request after request.
pub(crate) async fn answer(mut stream: UnixStream, gets: usize, sends: usize) {
    let head = format!(
        "HTTP/1.1 200 OK\r\nServer: script\r\nDate: Sun, 22 Nov 2026 12:00:00 GMT\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: {sends}\r\n\r\n"
    );
    let response = message(head, sends);
    let mut room = vec![0; ROOM];
    while read(&mut stream, &mut room, gets).await {
        // A client that is gone does not mind.
        drop(stream.write_all(&response).await);
    }
}

const ROOM: usize = 64 * 1024;

fn length(body: usize) -> String {
    if body == 0 {
        return String::new();
    }
    format!("Content-Length: {body}\r\n")
}

fn message(head: String, body: usize) -> Vec<u8> {
    let mut message = head.into_bytes();
    message.resize(message.len() + body, b'x');
    message
}

/// Reads one message with a body of this size; `false` where the connection ends before it.
async fn read(stream: &mut (impl AsyncReadExt + Unpin), room: &mut [u8], body: usize) -> bool {
    let mut filled = 0;
    let mut left = loop {
        match stream.read(&mut room[filled..]).await {
            Ok(read) if read > 0 => filled += read,
            _ => return false,
        }
        if let Some(end) = memchr::memmem::find(&room[..filled], b"\r\n\r\n") {
            assert!(room.starts_with(b"HTTP/1.1 200") || !room.starts_with(b"HTTP"));
            break body - (filled - end - 4);
        }
    };
    while left > 0 {
        match stream.read(room).await {
            Ok(read) if read > 0 => left -= read,
            _ => return false,
        }
    }
    true
}
