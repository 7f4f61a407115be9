//! Panics of other crates on hostile input, made errors without a word on standard error.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// What `run` returns, or None where it panics. A panic in it is not told, those of other threads are as before.
pub(crate) fn catch<T>(run: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info| {
            if !QUIET.get() {
                before(info);
            }
        }));
    });
    let outer = QUIET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    QUIET.set(outer);
    result.ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_panic_is_nothing() {
        assert_eq!(super::catch(|| 1), Some(1));
        assert_eq!(super::catch(|| -> u8 { panic!("unheard") }), None);
        assert!(!super::QUIET.get());
    }
}
