//! What a process keeps in memory although it needs it no more.

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

/// How the program's heap gives back what is free, where it is not the C library's.
static PURGE: OnceLock<fn()> = OnceLock::new();

/// Tells that the program has a heap of its own, and how it gives free memory back to the kernel. The first call counts.
pub fn has_heap(purge: fn()) {
    PURGE.get_or_init(|| purge);
}

/// Lets go of what was needed for the start: free heap, and pages of the program itself that were only read (code and constants). The kernel keeps
/// these in its page cache as long as it likes, and maps those that are used again at their next use.
///
/// Each process has its own view of the program; what the start has touched, two thirds of all code, would else stay mapped for ever.
pub fn let_go() {
    // SAFETY: the callback has the signature that is wanted, and is called before this returns.
    unsafe { libc::dl_iterate_phdr(Some(let_go_of_segments), std::ptr::null_mut()) };
    free_heap();
}

/// Gives free heap back to the kernel: after work that needed many times what stays of it. Takes a millisecond or a few.
pub fn free_heap() {
    if let Some(purge) = PURGE.get() {
        return purge();
    }
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer; glibc does its own locking.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Takes a page of the program's file for granted only if it lies wholly within a segment.
extern "C" fn let_go_of_segments(info: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
    let page = page_size();
    // SAFETY: the loader passes a valid object, whose headers stay in memory as long as the program does.
    let (base, headers) = unsafe { ((*info).dlpi_addr as usize, std::slice::from_raw_parts((*info).dlpi_phdr, usize::from((*info).dlpi_phnum))) };
    for segment in headers.iter().filter(|h| h.p_type == libc::PT_LOAD && h.p_flags & libc::PF_W == 0) {
        let start = (base + segment.p_vaddr as usize).next_multiple_of(page);
        let end = (base + segment.p_vaddr as usize + segment.p_filesz as usize) / page * page;
        if start < end {
            // SAFETY: nothing was ever written to these pages, so that the file has all that stands in them.
            unsafe { libc::madvise(start as *mut c_void, end - start, libc::MADV_DONTNEED) };
        }
    }
    0
}

fn page_size() -> usize {
    // SAFETY: a plain question.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_kb() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("RssFile:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    #[test]
    fn free_heap_goes_back_to_the_kernel() {
        let heap_kb = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            status.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap().split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        // Small pieces, of which the last stays: the heap seldom can simply end earlier. Where other tests left holes it can, and then it does.
        let mut pieces: Vec<Box<[u8; 1000]>> = (0..40_000).map(|i| Box::new([i as u8; 1000])).collect();
        let before = heap_kb();
        pieces.drain(..39_999);
        free_heap();
        assert!(heap_kb() + 20_000 < before, "{} after {before}", heap_kb());
        assert_eq!(pieces[0][0], std::hint::black_box(39_999_u32 as u8));
    }

    #[test]
    fn what_was_only_read_is_let_go_and_comes_back() {
        static CONSTANTS: [u8; 1 << 20] = [7; 1 << 20];
        let sum = || std::hint::black_box(&CONSTANTS).iter().map(|b| u64::from(*b)).sum::<u64>();
        assert_eq!(sum(), 7 << 20);
        let before = file_kb();
        let_go();
        assert!(file_kb() + 512 < before, "{} after {before}", file_kb());
        assert_eq!(sum(), 7 << 20);
    }
}
