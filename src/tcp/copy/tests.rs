use std::time::Duration;

use socket2::SockRef;
use tokio::{
    io::AsyncRead,
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::{TcpListener, TcpStream, UnixStream},
    time::Instant,
};

use super::*;

const PATIENCE: Patience = Patience {
    idle: Duration::from_secs(60),
    half_closed: Duration::from_secs(5),
};

#[derive(Debug)]
struct Outcome {
    a_to_b: u64,
    b_to_a: u64,
    end: End,
}

async fn copy<A: ByteStream, B: ByteStream>(
    a: &mut A,
    b: &mut B,
    leftovers: Leftovers,
    patience: Patience,
) -> Outcome {
    let carried = Carried::default();
    let end = copy_counted(a, b, leftovers, patience, &carried).await;
    Outcome {
        a_to_b: carried.a_to_b.get(),
        b_to_a: carried.b_to_a.get(),
        end,
    }
}

/// Two peers and the copying between them.
fn carry(
    patience: Patience,
    size: usize,
) -> (DuplexStream, DuplexStream, impl Future<Output = Outcome>) {
    let (left, mut a) = duplex(size);
    let (right, mut b) = duplex(size);
    let copy = async move {
        let leftovers = Leftovers {
            from_a: Bytes::from_static(b"early "),
            from_b: Bytes::new(),
        };
        copy(&mut a, &mut b, leftovers, patience).await
    };
    (left, right, copy)
}

#[tokio::test]
async fn leftovers_first_and_the_other_half_stays_open() {
    let (mut left, mut right, copy) = carry(PATIENCE, 16);
    let peers = async {
        left.write_all(b"request").await.unwrap();
        left.shutdown().await.unwrap();
        let mut request = String::new();
        right.read_to_string(&mut request).await.unwrap();
        assert_eq!(request, "early request");
        right
            .write_all(b"an answer longer than the pipe")
            .await
            .unwrap();
        drop(right);
        let mut answer = String::new();
        left.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let (outcome, answer) = tokio::join!(copy, peers);
    assert_eq!(answer, "an answer longer than the pipe");
    assert!(matches!(outcome.end, End::Closed), "{outcome:?}");
    assert_eq!((outcome.a_to_b, outcome.b_to_a), (13, 30));
}

#[tokio::test]
async fn much_data_both_ways_arrives_whole() {
    let (left, right, copy) = carry(PATIENCE, 1000);
    let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let peer = async |stream: DuplexStream| {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut received = Vec::new();
        let write = async {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        tokio::join!(
            async { reader.read_to_end(&mut received).await.unwrap() },
            write
        );
        received
    };
    let (outcome, left, right) = tokio::join!(copy, peer(left), peer(right));
    assert!(matches!(outcome.end, End::Closed));
    assert_eq!(left, sent);
    assert_eq!(right.strip_prefix(b"early ").unwrap(), sent);
}

#[tokio::test]
async fn sockets_carry_bulk_in_pipes_and_pass_the_end_on() {
    let (near, a) = UnixStream::pair().unwrap();
    let (far, b) = UnixStream::pair().unwrap();
    let (mut a, mut b) = (Stream::Unix(a), Stream::Unix(b));
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let peer = async |stream: UnixStream| {
        let (mut reader, mut writer) = stream.into_split();
        let mut received = Vec::new();
        let write = async {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let (read, ()) = tokio::join!(reader.read_to_end(&mut received), write);
        read.unwrap();
        received
    };
    let copy = async move {
        // Both are closed when it is over, as `copy_counted` asks for.
        copy(&mut a, &mut b, Leftovers::default(), PATIENCE).await
    };
    let (outcome, left, right) = tokio::join!(copy, peer(near), peer(far));
    assert!(matches!(outcome.end, End::Closed), "{outcome:?}");
    assert!(left == sent && right == sent);
    let bytes = sent.len() as u64;
    assert_eq!((outcome.a_to_b, outcome.b_to_a), (bytes, bytes));
}

#[tokio::test(start_paused = true)]
async fn silence_ends_it_and_any_byte_puts_it_off() {
    let (mut left, _right, copy) = carry(PATIENCE, 64);
    let start = Instant::now();
    let talk = async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(40)).await;
            left.write_all(b"x").await.unwrap();
        }
        left
    };
    let (outcome, _left) = tokio::join!(copy, talk);
    assert!(matches!(outcome.end, End::Idle { half_closed: false }));
    assert_eq!(start.elapsed().as_secs(), 180);
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_connection_has_its_own_limit() {
    let (mut left, _right, copy) = carry(PATIENCE, 64);
    let start = Instant::now();
    left.shutdown().await.unwrap();
    assert!(matches!(copy.await.end, End::Idle { half_closed: true }));
    assert_eq!(start.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn silent_peers_are_probed_once_a_connection_stays() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut pairs = Vec::new();
    for _ in 0..2 {
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        pairs.push((near.unwrap(), far.unwrap().0));
    }
    let [(_left, a), (_right, b)] = <[_; 2]>::try_from(pairs).unwrap();
    let seen = [&a, &b].map(|socket| SockRef::from(socket).try_clone().unwrap());
    let (mut a, mut b) = (Stream::Tcp(a), Stream::Tcp(b));
    let patience = Patience {
        idle: Duration::ZERO,
        ..PATIENCE
    };
    let copy = copy(&mut a, &mut b, Leftovers::default(), patience);
    let mut copy = pin!(copy);
    let mut after = async |seconds| {
        let waited = tokio::time::timeout(Duration::from_secs(seconds), &mut copy).await;
        waited.expect_err("it should go on");
        [&seen[0], &seen[1]].map(|socket| socket.keepalive().unwrap())
    };
    assert_eq!(after(9).await, [false; 2]);
    assert_eq!(after(2).await, [true; 2]);
    let idle = seen[1].tcp_keepalive_time().unwrap();
    assert_eq!(idle, crate::net::KEEPALIVE_IDLE);
}

#[tokio::test]
async fn an_answer_is_carried_though_the_request_was_refused() {
    /// Takes nothing, has an answer.
    struct Refuses(&'static [u8]);

    impl AsyncRead for Refuses {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            buf.put_slice(std::mem::take(&mut self.0));
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Refuses {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl ByteStream for Refuses {}

    let (mut left, mut a) = duplex(64);
    left.write_all(b"a long upload").await.unwrap();
    let outcome = copy(
        &mut a,
        &mut Refuses(b"too large"),
        Leftovers::default(),
        PATIENCE,
    )
    .await;
    assert!(
        matches!(outcome.end, End::Refused(Side::B, _)),
        "{outcome:?}"
    );
    assert_eq!((outcome.a_to_b, outcome.b_to_a), (0, 9));
}
