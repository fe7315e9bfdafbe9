//! Bytes moved from one socket to another inside the kernel: `splice(2)` into a pipe and out of it,
//! where a read and a write would copy them twice.
//!
//! A pipe is held only while bytes lie in it: as long as the receiver keeps up, one serves a whole
//! worker. There are limits to how many lie waiting; beyond them bytes are copied as ever.

use std::{
    cell::{Cell, RefCell},
    io,
    os::fd::{AsFd, OwnedFd},
    task::{Context, Poll, ready},
};

use rustix::pipe::{
    PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice,
};
use tokio::{io::Interest, task::coop};

use super::Stream;

/// At most so many bytes lie in a pipe.
pub const CAPACITY: usize = 256 * 1024;
/// A user with many pipes gets small ones (`pipe-user-pages-soft`): then copying is cheaper.
const LEAST: usize = 64 * 1024;
/// Empty pipes that a worker keeps,
const KEPT: usize = 8;
/// and pipes that it has at the most, each with two descriptors.
const MOST: usize = 64;
/// What counts as one step of a task's budget, so that one transfer can't keep a worker.
const STEP: usize = 32 * 1024;

thread_local! {
    static SPARE: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
    /// Pipes of this worker, spare ones included.
    static MADE: Cell<usize> = const { Cell::new(0) };
    /// The kernel, or what stands in for it, doesn't splice.
    static REFUSED: Cell<bool> = const { Cell::new(false) };
}

/// Bytes on their way between two sockets.
#[derive(Debug)]
pub struct Pipe {
    /// There until it is dropped.
    ends: Option<Ends>,
    held: usize,
}

impl Pipe {
    /// An empty pipe; `None` if there is none to be had, and bytes have to be copied.
    pub fn lend() -> Option<Self> {
        let spare = SPARE.with_borrow_mut(Vec::pop);
        let ends = spare.or_else(|| Ends::new().ok())?;
        Some(Self {
            ends: Some(ends),
            held: 0,
        })
    }

    /// Bytes that lie in it.
    pub const fn len(&self) -> usize {
        self.held
    }

    pub const fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Moves up to `most` bytes of `from` into the pipe, which has to be empty. 0 where the caller
    /// has to read by itself: at the end of the stream, and where the kernel can't.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &Stream,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        // With bytes in it, a full pipe would look like a silent sender.
        debug_assert!(self.is_empty());
        let (Some(ends), false) = (&self.ends, REFUSED.get()) else {
            return Poll::Ready(Ok(0));
        };
        let most = most.min(CAPACITY);
        match ready!(transfer(cx, from, Interest::READABLE, |socket| {
            splice(socket, None, &ends.write, None, most, FLAGS)
        })) {
            Ok(moved) => {
                self.held = moved;
                spend(cx, moved);
                Poll::Ready(Ok(moved))
            }
            Err(error) if refuses(&error) => {
                REFUSED.set(true);
                Poll::Ready(Ok(0))
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Moves what `to` takes out of the pipe, which must not be empty; never 0.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>, to: &Stream) -> Poll<io::Result<usize>> {
        let Some(ends) = &self.ends else {
            return Poll::Ready(Ok(0));
        };
        let moved = ready!(transfer(cx, to, Interest::WRITABLE, |socket| {
            splice(&ends.read, None, socket, None, self.held, FLAGS)
        }))?;
        if moved == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.held -= moved;
        Poll::Ready(Ok(moved))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if self.held > 0 {
            return;
        }
        let ends = self.ends.take();
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < KEPT {
                spare.extend(ends);
            }
        });
    }
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

impl Ends {
    fn new() -> io::Result<Self> {
        if REFUSED.get() || MADE.get() >= MOST {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        MADE.set(MADE.get() + 1);
        let ends = Self { read, write };
        // The limit of what one user's pipes may hold leaves it as it is.
        let _ = fcntl_setpipe_size(&ends.write, CAPACITY);
        if fcntl_getpipe_size(&ends.write)? < LEAST {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok(ends)
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        // A worker that ends may have lost its count already.
        let _ = MADE.try_with(|made| made.set(made.get() - 1));
    }
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// Tries until `stream` is ready.
pub(super) fn transfer(
    cx: &mut Context<'_>,
    stream: &Stream,
    interest: Interest,
    mut call: impl FnMut(std::os::fd::BorrowedFd<'_>) -> rustix::io::Result<usize>,
) -> Poll<io::Result<usize>> {
    macro_rules! transfer {
        ($stream:ident) => {
            loop {
                ready!(if interest.is_readable() {
                    $stream.poll_read_ready(cx)
                } else {
                    $stream.poll_write_ready(cx)
                })?;
                match $stream.try_io(interest, || Ok(call($stream.as_fd())?)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    done => return Poll::Ready(done),
                }
            }
        };
    }
    match stream {
        Stream::Tcp(stream) => transfer!(stream),
        Stream::Unix(stream) => transfer!(stream),
        Stream::Tls(_) | Stream::Memory(_) => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
    }
}

fn refuses(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    matches!(error.kind(), InvalidInput | PermissionDenied | Unsupported)
}

/// Takes as much of the task's budget as copying would have taken.
fn spend(cx: &mut Context<'_>, bytes: usize) {
    for _ in 0..bytes / STEP {
        match coop::poll_proceed(cx) {
            Poll::Ready(step) => step.made_progress(),
            // Nothing is left: the next step of the task waits for its turn.
            Poll::Pending => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream, UnixStream},
    };

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    async fn carry(from: Stream, to: Stream) -> usize {
        let mut carried = 0;
        loop {
            let mut pipe = Pipe::lend().unwrap();
            let filled = poll_fn(|cx| pipe.poll_fill(cx, &from, usize::MAX));
            if filled.await.unwrap() == 0 {
                return carried;
            }
            while !pipe.is_empty() {
                carried += poll_fn(|cx| pipe.poll_drain(cx, &to)).await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn bytes_pass_from_socket_to_socket() {
        let (mut sender, from) = pair().await;
        let (to, mut receiver) = UnixStream::pair().unwrap();
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        let mut received = Vec::new();
        let (carried, (), got) = tokio::join!(
            carry(Stream::Tcp(from), Stream::Unix(to)),
            async {
                sender.write_all(&sent).await.unwrap();
                sender.shutdown().await.unwrap();
            },
            receiver.read_to_end(&mut received),
        );
        assert_eq!((carried, got.unwrap()), (sent.len(), sent.len()));
        assert_eq!(received, sent);
        // One was enough, and is kept.
        assert_eq!((MADE.get(), SPARE.with_borrow(Vec::len)), (1, 1));
    }

    #[tokio::test]
    async fn a_pipe_with_bytes_in_it_is_not_lent_again() {
        let (mut sender, from) = pair().await;
        sender.write_all(b"lost").await.unwrap();
        let from = Stream::Tcp(from);
        let mut pipe = Pipe::lend().unwrap();
        let filled = poll_fn(|cx| pipe.poll_fill(cx, &from, 3)).await.unwrap();
        assert_eq!((filled, pipe.len()), (3, 3));
        drop(pipe);
        assert_eq!((MADE.get(), SPARE.with_borrow(Vec::len)), (0, 0));
    }

    #[test]
    fn pipes_have_a_limit() {
        let lent: Vec<_> = std::iter::from_fn(Pipe::lend).take(MOST + 1).collect();
        assert!(lent.len() <= MOST);
        drop(lent);
        assert!(MADE.get() <= KEPT);
        assert!(Pipe::lend().is_some());
    }
}
