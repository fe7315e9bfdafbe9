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

/// What a heap may hold free at its end before it is given back to the kernel, bytes. glibc's own
/// 128 KiB are two buffers of a large body: each was mapped again, and cleared, for each read.
#[cfg(target_env = "gnu")]
const SPARE: libc::c_int = 2 << 20;

/// From now on so much of every heap stays with the process for what is allocated next. [`trim`]
/// gives it back.
pub(crate) fn keep_spare() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) takes two numbers and may be called from any thread at any time.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, SPARE);
    }
}

/// Unmaps the program's own code and constants. What is needed again is mapped again as it is met,
/// sixteen pages at a time, from the page cache, in microseconds altogether: one megabyte of six.
/// The rest only a start or a reload needs, and the kernel may use its pages when memory is short.
pub(crate) fn release_code() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `release_segments` has the signature that dl_iterate_phdr(3) asks for, and needs no data.
    unsafe {
        libc::dl_iterate_phdr(Some(release_segments), std::ptr::null_mut());
    }
}

/// Of one loaded object. The program comes first, and its end is the end of the search.
#[cfg(target_env = "gnu")]
unsafe extern "C" fn release_segments(
    object: *mut libc::dl_phdr_info,
    _: usize,
    _: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: dl_iterate_phdr lends a valid object, and with it that many headers, during the call.
    let (base, headers) = unsafe {
        let object = &*object;
        let headers = std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into());
        (object.dlpi_addr, headers)
    };
    let page = rustix::param::page_size() as u64;
    for header in headers {
        // Relocated pages differ from the file: those lie in segments that can be written.
        if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 {
            let start = (base + header.p_vaddr).next_multiple_of(page);
            let end = (base + header.p_vaddr + header.p_memsz) / page * page;
            let length = end.saturating_sub(start) as usize;
            // SAFETY: whole pages of a private mapping of a file, which never were written: the next
            // access finds the same bytes. When it fails they stay mapped.
            unsafe {
                libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED);
            }
        }
    }
    1
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
    fn released_code_still_runs() {
        static TEXT: &str = "constants as well";
        super::release_code();
        assert_eq!(TEXT.replace("as well", "too"), "constants too");
    }

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
