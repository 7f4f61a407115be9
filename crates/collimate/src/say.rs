//! What is said on the terminal: a log that can't be written stops nothing, a result that can't be is an error.

use std::io::{ErrorKind, Write};

use anyhow::{Context, Result};

/// A line on standard error, dropped where it can't be written.
macro_rules! say {
    ($($what:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($what)*);
    }};
}

/// A result, on standard output; that nobody reads on is no fault.
///
/// # Errors
/// Standard output that can't be written.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("standard output can't be written"),
    }
}
