//! SIGINT and SIGTERM: the first lets a training step finish and be saved, a second one stops at once.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// The signals that came.
pub(crate) struct Signals {
    /// The last one's number; 0: none.
    got: Arc<AtomicUsize>,
    /// Whether the next one ends the process.
    at_once: Arc<AtomicBool>,
}

impl Signals {
    /// Those of this process; until [`hold`](Self::hold) they end it as ever.
    pub fn watch() -> Result<&'static Self> {
        static ALL: OnceLock<Signals> = OnceLock::new();
        if let Some(all) = ALL.get() {
            return Ok(all);
        }
        let all = Self { got: Arc::default(), at_once: Arc::new(AtomicBool::new(true)) };
        for signal in [SIGINT, SIGTERM] {
            // In the order in which they act: the one that ends the process sees what the one before has set.
            flag::register_conditional_shutdown(signal, 128 + signal, all.at_once.clone())
                .and_then(|_| flag::register(signal, all.at_once.clone()))
                .and_then(|_| flag::register_usize(signal, all.got.clone(), signal as usize))
                .context("watching for signals")?;
        }
        Ok(ALL.get_or_init(|| all))
    }

    /// From now on the first signal only sets [`flag`](Self::flag), until the guard is dropped.
    pub fn hold(&self) -> Held<'_> {
        self.got.store(0, Ordering::SeqCst);
        self.at_once.store(false, Ordering::SeqCst);
        Held(self)
    }

    /// The number of the last signal, 0 before one came.
    pub fn flag(&self) -> Arc<AtomicUsize> {
        self.got.clone()
    }

    /// The signal that came, if one came.
    pub fn came(&self) -> Option<u8> {
        u8::try_from(self.got.load(Ordering::SeqCst)).ok().filter(|n| *n > 0)
    }
}

/// While it lives, the first signal ends nothing.
pub(crate) struct Held<'a>(&'a Signals);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.at_once.store(true, Ordering::SeqCst);
    }
}

/// A run that a signal stopped, and how it can go on. The process exits as one that the signal ended.
#[derive(Debug)]
pub(crate) struct Interrupted {
    pub signal: u8,
    pub how: String,
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if i32::from(self.signal) == SIGINT { "SIGINT" } else { "SIGTERM" };
        write!(f, "stopped by {name}: {}", self.how)
    }
}

impl std::error::Error for Interrupted {}
