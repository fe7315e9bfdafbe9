//! TLS, or not: what the first byte of a connection says, and what its listener allows.

use std::{future::poll_fn, io};

use tokio::time::timeout;

use crate::{
    http::input::Input,
    net::Stream,
    tls::{Desk, Fault, FaultKind, Secured, handshake::HANDSHAKE, server::ServerTls},
    worker::Conn,
};

/// Secures the connection, if that is what the client and the listener want. What was read of
/// plaintext comes back.
pub(super) async fn secure(
    mut stream: Stream,
    mut input: Input,
    tls: &ServerTls,
    conn: &Conn,
    desk: &Desk,
) -> Result<(Stream, Input, Option<Secured>), Fault> {
    let limit = tls.config.handshake_timeout;
    let read = timeout(limit, poll_fn(|cx| input.poll_fill(cx, &mut stream))).await;
    match read.map_err(|_| Fault::timeout())? {
        Ok(0) => return Err(closed(io::ErrorKind::UnexpectedEof.into())),
        Ok(_) => {}
        Err(error) => return Err(closed(error)),
    }
    if input.first() != Some(&HANDSHAKE) {
        if tls.config.permissive {
            return Ok((stream, input, None));
        }
        return Err(Fault::new(
            FaultKind::NotTls,
            "the client speaks plaintext, and this listener takes TLS only",
        ));
    }
    let side = tls.now()?;
    let (stream, secured) = desk
        .accept(stream, input, side, conn.listener, limit)
        .await?;
    Ok((stream, Input::default(), Some(secured)))
}

fn closed(error: io::Error) -> Fault {
    Fault::of_handshake(&error)
}
