//! The origin for what nginx can't be one: unary gRPC calls over HTTP/2 without TLS, answered with
//! trailers, and uploads over HTTP/1.1, read whole before they are answered. Both cost it next to
//! nothing, so that it is never what is measured. Argument: the address to listen on.

#[path = "../instructions/h2.rs"]
#[expect(dead_code, reason = "the client's half is for the counts")]
mod h2;

use std::{env, io};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::spawn_local,
};

const ROOM: usize = 256 * 1024;
const MOST_FIELDS: usize = 32;

fn main() -> io::Result<()> {
    let Some(listen) = env::args().nth(1) else {
        return Err(io::Error::other("usage: origin LISTEN"));
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await?;
        loop {
            let (client, _) = listener.accept().await?;
            client.set_nodelay(true)?;
            spawn_local(async move {
                // A connection that fails ends; the load generator counts it.
                let _ = serve(client).await;
            });
        }
    })
}

async fn serve(client: TcpStream) -> io::Result<()> {
    let mut first = [0];
    if client.peek(&mut first).await? > 0 && first == *b"P" && is_http2(&client).await? {
        h2::answer(client, h2::Script::Grpc, h2::Table::Unused).await;
        return Ok(());
    }
    uploads(client).await
}

/// `PRI` or `POST`: told by the second byte.
async fn is_http2(client: &TcpStream) -> io::Result<bool> {
    let mut start = [0; 2];
    while client.peek(&mut start).await? < start.len() {
        tokio::task::yield_now().await;
    }
    Ok(start == *b"PR")
}

/// Reads a request to its end and says so, again and again.
async fn uploads(mut client: TcpStream) -> io::Result<()> {
    let mut room = vec![0; ROOM];
    loop {
        let mut filled = 0;
        let (head, body) = loop {
            let read = client.read(&mut room[filled..]).await?;
            if read == 0 {
                return Ok(());
            }
            filled += read;
            if let Some(sizes) = sizes(&room[..filled])? {
                break sizes;
            }
        };
        let mut left = (head + body).checked_sub(filled);
        while let Some(more @ 1..) = left {
            let read = client.read(&mut room).await?;
            if read == 0 {
                return Ok(());
            }
            left = more.checked_sub(read);
        }
        if left.is_none() {
            return Err(io::Error::other("more came than was announced"));
        }
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        client.write_all(answer).await?;
    }
}

/// Bytes of the head and of the body that follows it, once the head is there.
fn sizes(seen: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let parsed = request.parse(seen).map_err(io::Error::other)?;
    let httparse::Status::Complete(head) = parsed else {
        return Ok(None);
    };
    let field = |name: &str| {
        let found = request
            .headers
            .iter()
            .find(|field| field.name.eq_ignore_ascii_case(name));
        found.and_then(|field| std::str::from_utf8(field.value).ok())
    };
    if field("transfer-encoding").is_some() {
        return Err(io::Error::other("bodies come with their length here"));
    }
    let body = field("content-length")
        .map_or(Ok(0), str::parse)
        .map_err(io::Error::other)?;
    Ok(Some((head, body)))
}
