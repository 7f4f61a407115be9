//! Work on pieces whose number and borders depend on shapes only, never on the number of threads.

use rayon::prelude::*;

use crate::path;

/// Elements that one piece of an element-wise kernel treats: a few pages per buffer, so that the pieces of a small tensor
/// still feed two cores and a piece costs far more than its hand-over (some 5 µs).
pub(crate) const PIECE: usize = 16 * 1024;

/// Rows of `width` elements that make up a piece.
pub(crate) fn rows_per_piece(width: usize) -> usize {
    (PIECE / width.max(1)).max(1)
}

/// Runs `work` on every task; a single task stays on this thread.
pub(crate) fn each<T: Send>(tasks: impl Iterator<Item = T>, work: impl Fn(T) + Send + Sync) {
    map(tasks, work);
}

/// Runs `work` on every task, on the path of the caller, and returns the results in the order of the tasks.
pub(crate) fn map<T: Send, R: Send>(tasks: impl Iterator<Item = T>, work: impl Fn(T) -> R + Send + Sync) -> Vec<R> {
    let tasks: Vec<T> = tasks.collect();
    if tasks.len() < 2 {
        tasks.into_iter().map(work).collect()
    } else {
        let chosen = path::chosen();
        tasks.into_par_iter().with_max_len(1).map(|task| path::with(chosen, || work(task))).collect()
    }
}
