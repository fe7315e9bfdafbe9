//! Both ends of a short opaque connection.

use std::rc::Rc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use crate::world::World;

const SIZE: usize = 64;

pub(crate) struct Client(pub(crate) Rc<World>);

impl Client {
    /// A connection: some bytes there and back, then its end.
    pub(crate) async fn turn(&mut self) {
        let mut stream = self.0.connect();
        stream
            .write_all(&[b'x'; SIZE])
            .await
            .expect("a proxy that reads");
        let mut got = [0; SIZE];
        stream.read_exact(&mut got).await.expect("an answer");
        stream.shutdown().await.expect("an open connection");
        let end = stream.read(&mut got).await.expect("a clean end");
        assert_eq!(end, 0, "more came than was sent");
    }
}

/// Sends back what comes.
pub(crate) async fn answer(mut stream: UnixStream) {
    let mut room = [0; SIZE];
    while let Ok(read @ 1..) = stream.read(&mut room).await {
        // A client that is gone does not mind.
        drop(stream.write_all(&room[..read]).await);
    }
}
