//! The `collimate` command.

use std::alloc::{GlobalAlloc, Layout};
use std::process::ExitCode;

/// A training step allocates and frees every activation: with the C library's allocator a large part of it would go to
/// page faults.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator(mimalloc::MiMalloc);

fn main() -> ExitCode {
    keep_pages();
    collimate::cli::main()
}

/// Keeps freed memory, unless `MIMALLOC_PURGE_DELAY` is set: the next step asks for as much again, and pages that were
/// given back come at the price of a fault each.
#[allow(unsafe_code)]
fn keep_pages() {
    /// `mi_option_purge_delay` of mimalloc.h.
    const PURGE_DELAY: i32 = 15;
    unsafe extern "C" {
        fn mi_option_set_default(option: i32, value: std::ffi::c_long);
    }
    // SAFETY: it stores a number; -1 is "never".
    unsafe { mi_option_set_default(PURGE_DELAY, -1) }
}

/// An allocator whose memory running out is an error with a message, not an abort.
struct Allocator(mimalloc::MiMalloc);

// SAFETY: every call is handed on as it came, and what comes back is handed back or ends the process.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        granted(unsafe { self.0.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        granted(unsafe { self.0.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        granted(unsafe { self.0.realloc(at, layout, size) }, size)
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { self.0.dealloc(at, layout) }
    }
}

fn granted(at: *mut u8, wanted: usize) -> *mut u8 {
    if at.is_null() {
        exhausted(wanted);
    }
    at
}

/// Says what was wanted, without any memory, and ends the process as an error does. What was under way beside its place is
/// cleared by the next run.
#[cold]
#[cfg_attr(unix, allow(unsafe_code))]
fn exhausted(wanted: usize) {
    #[cfg(unix)]
    {
        use std::io::Write;
        unsafe extern "C" {
            fn write(file: i32, bytes: *const u8, n: usize) -> isize;
            fn _exit(code: i32) -> !;
        }
        let mut line = [0; 160];
        let mut rest = &mut line[..];
        let mib = wanted.div_ceil(1 << 20);
        let _ = writeln!(
            rest,
            "error: out of memory: {mib} MiB more were wanted; the model, a batch or a damaged file asks for too much"
        );
        let n = 160 - rest.len();
        // SAFETY: the bytes are there, and the process ends here whatever its other threads do.
        unsafe {
            write(2, line.as_ptr(), n);
            _exit(1)
        }
    }
    #[cfg(not(unix))]
    let _ = wanted;
}
