//! The `collimate` command.

use std::process::ExitCode;

/// A training step allocates and frees every activation: with the C library's allocator a large part of it would go to
/// page faults.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    collimate::cli::main()
}
