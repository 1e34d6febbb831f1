//! The program's heap. A request makes and frees thousands of small pieces, often on different threads; jemalloc does that with less CPU than
//! the C library (docs/performance.md), and keeps no more memory.
//!
//! It is set up when it is built (`.cargo/config.toml`): few arenas, since threads have caches of their own, and free pages go back to the
//! kernel after a second.

use tikv_jemalloc_sys::mallctl;

#[global_allocator]
static HEAP: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Has [`knarr_sys::memory::free_heap`] give this heap's free pages back.
pub fn install() {
    knarr_sys::memory::has_heap(purge);
}

/// Gives back what this thread's cache and all arenas hold and nobody uses.
fn purge() {
    // `4096` stands for all arenas (`MALLCTL_ARENAS_ALL`).
    for name in [c"thread.tcache.flush", c"arena.4096.purge"] {
        // SAFETY: both take no value and give none, and the name ends with a zero.
        let failed = unsafe { mallctl(name.as_ptr(), std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut(), 0) };
        debug_assert_eq!(failed, 0, "{name:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting<T: Default>(name: &std::ffi::CStr) -> T {
        let (mut value, mut size) = (T::default(), size_of::<T>());
        // SAFETY: the value has the size that is told.
        let failed = unsafe { mallctl(name.as_ptr(), (&raw mut value).cast(), &raw mut size, std::ptr::null_mut(), 0) };
        assert_eq!((failed, size), (0, size_of::<T>()), "{name:?}");
        value
    }

    #[test]
    fn it_was_built_with_its_settings() {
        assert_eq!(setting::<u32>(c"opt.narenas"), 4);
        assert_eq!(setting::<isize>(c"opt.dirty_decay_ms"), 1000);
        assert_eq!(setting::<isize>(c"opt.muzzy_decay_ms"), 0);
    }

    #[test]
    fn free_heap_goes_back_to_the_kernel() {
        let heap_kb = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            status.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap().split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        install();
        let mut pieces: Vec<Box<[u8; 1000]>> = (0..40_000).map(|i| Box::new([i as u8; 1000])).collect();
        let before = heap_kb();
        // The last stays: what is beside it does not end the heap.
        pieces.drain(..39_999);
        knarr_sys::memory::free_heap();
        assert!(heap_kb() + 20_000 < before, "{} after {before}", heap_kb());
        assert_eq!(pieces[0][0], std::hint::black_box(39_999_u32 as u8));
    }
}
