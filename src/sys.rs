//! What the C library can and no crate offers safely. Nowhere else is `unsafe` allowed.
//!
//! glibc gives freed memory back to the kernel only from the end of a heap. After a burst of
//! connections a few long-lived blocks near that end hold the rest: 95 MB after 10,000 connections,
//! for good. `malloc_trim` gives back every free page between them. Other allocators were weighed:
//! jemalloc and mimalloc do it by themselves, cost as much processor time, and more memory at rest.
#![allow(unsafe_code)]

/// Gives free memory back to the kernel. Takes milliseconds for tens of megabytes; other threads
/// that allocate may wait for it.
pub(crate) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes a number, may be called from any thread at any time, and touches
    // only pages in which no allocated block lies.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Small sizes of which glibc caches freed blocks for each thread: 24 bytes, 40 bytes, and so on.
const CACHED_SIZES: usize = 64;
/// Blocks of each that it caches.
const CACHED: usize = 7;

/// Empties the calling thread's cache of small blocks. They count as blocks in use; strewn over the
/// heap by a burst, each keeps a page from [`trim`], two megabytes in all.
pub(crate) fn empty_cache() {
    let size = |step| 24 + 16 * step;
    let blocks: Vec<Vec<u8>> = (0..CACHED_SIZES * CACHED)
        .map(|n| Vec::with_capacity(size(n % CACHED_SIZES)))
        .collect();
    // Freed here they would be cached again. That thread's own cache ends with it; where there is no
    // thread to be had nothing is gained and nothing lost.
    drop(std::thread::Builder::new().spawn(move || drop(blocks)));
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_in_use_survives() {
        let blocks: Vec<Vec<u8>> = (0..2000).map(|n| vec![(n % 251) as u8; 5000]).collect();
        let kept: Vec<Vec<u8>> = blocks
            .into_iter()
            .enumerate()
            .filter_map(|(n, block)| (n % 7 == 0).then_some(block))
            .collect();
        super::trim();
        for (n, block) in kept.iter().enumerate() {
            assert!(block.iter().all(|&byte| usize::from(byte) == n * 7 % 251));
        }
    }
}
