//! A worker's spare buffers.
//!
//! An idle connection holds no buffer; a busy one borrows. What comes back is lent out again, so
//! that a request allocates none, and the memory of a burst is bounded by what may be kept.

use std::{cell::RefCell, mem};

use bytes::BytesMut;

/// Pieces up to this size are copied behind what waits to be written; beyond it a copy costs more
/// than one more element of a vectored write.
pub(super) const COPY_LIMIT: usize = 4 * 1024;
/// Buffers kept for the next borrower; more are freed.
const KEPT: usize = 32;
/// A buffer that grew past this is freed. Where pieces of it were given out its capacity doesn't
/// tell: then the borrower has to know.
pub(super) const LARGEST: usize = 16 * 1024;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for `room` bytes.
pub(super) fn lend(room: usize) -> BytesMut {
    let mut buffer = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
    buffer.reserve(room);
    buffer
}

/// Takes a buffer's memory back. Pieces of it that are still held elsewhere stay valid: the memory is
/// used again only when the last of them is gone.
pub(super) fn give_back(buffer: &mut BytesMut) {
    if buffer.capacity() == 0 {
        return;
    }
    let mut buffer = mem::take(buffer);
    if buffer.capacity() > LARGEST {
        return;
    }
    buffer.clear();
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < KEPT {
            spare.push(buffer);
        }
    });
}
