//! `attention`: causal attention over a padding-free token axis on which sequences share prefixes, with grouped heads.
//!
//! Let q be `q` `[n, H·h]`, k and v be `k` and `v` `[n, KV·h]` with rotary embedding already applied, H `heads`, KV
//! `kv_heads`, h `head_dim`, τ `scale`. A [`Row`] is a prefix and its branches on consecutive tokens; position p counts
//! from the start of the prefix and, in every branch, goes on after the prefix. Query token i of head a (of the key-value
//! head ⌊a·KV/H⌋) sees the set V(i) of key tokens j of its row that are in the prefix or in its own branch, with
//! pⱼ ≤ pᵢ, and pᵢ − pⱼ < `window` where there is one:
//!
//! - forward: ℓᵢ = ln Σ_{j∈V(i)} e^(τ qᵢ·kⱼ), kept as `lse` `[n, H]`; Pᵢⱼ = e^(τ qᵢ·kⱼ − ℓᵢ); outᵢ = Σⱼ Pᵢⱼvⱼ
//! - backward (arXiv:2205.14135, appendix B.4), with g = ∂L/∂out of `dout` and Dᵢ = gᵢ·outᵢ:
//!   dSᵢⱼ = τ·Pᵢⱼ(gᵢ·vⱼ − Dᵢ); dvⱼ = Σᵢ Pᵢⱼgᵢ; dqᵢ = Σⱼ dSᵢⱼkⱼ; dkⱼ = Σᵢ dSᵢⱼqᵢ
//!
//! How: a task is a row and a key-value head. It walks over blocks of query tokens, the heads of the group stacked, and
//! takes with each only the stretches of keys that some query of the block sees, so that a branch costs nothing to its
//! siblings and scores exist for one block at a time. K and V are transposed once a task, padded to whole vectors:
//! every product then has its operands in the order in which the microkernel reads them, and packs nothing. A task owns
//! its columns of dq, dk and dv and adds to them in the order of its blocks: the same bits on any number of threads.

use std::cell::RefCell;

use crate::exp::exp_flushed_lanes;
use crate::gemm::{Mat, MatMut, Threads, gemm};
use crate::parallel::each;
use crate::simd::{dispatched, max, sum, update};
use crate::transpose::{LANES, odd_lines, transpose};

/// Query rows (tokens times heads of a group) in a block: few enough that the mask excludes most of what it can, and as
/// many as the gemm crate takes before it copies the other operand. (32, 64 and 96 were slower on short rows.)
const QUERIES: usize = 48;
/// Keys that the backward pass takes at a time: scores and their gradients of a block stay in the second-level cache.
const KEYS: usize = 384;

/// Tokens `start .. start + prefix + Σ branches` of the token axis: a prefix, then branches that continue it side by side.
///
/// A plain sequence is a prefix without branches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// First token.
    pub start: usize,
    /// Tokens of the shared prefix; may be 0.
    pub prefix: usize,
    /// Tokens of each branch.
    pub branches: Vec<usize>,
}

impl Row {
    /// Tokens of prefix and branches.
    pub fn tokens(&self) -> usize {
        self.prefix + self.branches.iter().sum::<usize>()
    }
}

/// The shape and the mask of an attention.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// The rows, in the order of the token axis, without gaps.
    pub rows: &'a [Row],
    /// Query heads H, a multiple of `kv_heads`.
    pub heads: usize,
    /// Key-value heads KV.
    pub kv_heads: usize,
    /// Width h of a head.
    pub head_dim: usize,
    /// τ > 0, by which the dot products are multiplied, usually 1/√h.
    pub scale: f32,
    /// A query sees keys at less than this distance in positions; at least 1.
    pub window: Option<usize>,
}

/// Keys `first .. end` (tokens from the start of the row) at positions token − `back`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    first: usize,
    end: usize,
    back: usize,
}

/// Query tokens `first .. end` (from the start of the row) at positions token − `back`, and the keys they see.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Block {
    first: usize,
    end: usize,
    back: usize,
    keys: Vec<Stretch>,
}

/// Cuts a row into blocks of at most `size` query tokens, each with the stretches of keys that some of them see.
fn blocks(row: &Row, size: usize, window: usize) -> Vec<Block> {
    // The first branch goes on where the prefix ends: together they are one plain sequence.
    let trunk = row.prefix + row.branches.first().unwrap_or(&0);
    let mut sequences = vec![(0, trunk, 0)];
    let mut start = trunk;
    for &len in row.branches.iter().skip(1) {
        sequences.push((start, len, start - row.prefix));
        start += len;
    }
    let mut out = Vec::new();
    for (start, len, back) in sequences {
        // Blocks of nearly one size: a last block of a few tokens would cost as many calls as a full one.
        let pieces = len.div_ceil(size);
        for i in 0..pieces {
            let (first, end) = (start + i * len / pieces, start + (i + 1) * len / pieces);
            let oldest = (first - back + 1).saturating_sub(window);
            let mut keys = Vec::new();
            if back > 0 && oldest < row.prefix {
                keys.push(Stretch { first: oldest, end: row.prefix, back: 0 });
            }
            // Without anything in between (back = 0) prefix and branch are one stretch.
            let own = if back > 0 { start } else { 0 };
            keys.push(Stretch { first: own.max(oldest + back), end, back });
            out.push(Block { first, end, back, keys });
        }
    }
    out
}

impl Stretch {
    /// The columns, from `first`, of the keys that the query at position `p` sees.
    fn seen(&self, p: usize, window: usize) -> (usize, usize) {
        let from = ((p + 1).saturating_sub(window) + self.back).clamp(self.first, self.end);
        let to = (p + 1 + self.back).clamp(from, self.end);
        (from - self.first, to - self.first)
    }

    fn len(&self) -> usize {
        self.end - self.first
    }

    fn padded(&self) -> usize {
        self.len().next_multiple_of(LANES)
    }
}

/// What a thread keeps between tasks.
#[derive(Default)]
struct Scratch {
    keys: Vec<f32>,
    values: Vec<f32>,
    queries: Vec<f32>,
    gradients: Vec<f32>,
    scores: Vec<f32>,
    score_gradients: Vec<f32>,
    row: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The first `len` elements of a buffer that grows where needed, with whatever they hold.
fn take(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// Columns of a transposed matrix of `tokens` tokens: room for a padded stretch that begins anywhere; as all
/// strides here an odd number of cache lines, because even ones put the column of a tile into few sets of a cache.
fn transposed_cols(tokens: usize) -> usize {
    odd_lines(tokens.next_multiple_of(LANES) + LANES)
}

/// `seen`, made wider to whole vectors of the row; nothing stays nothing.
fn whole_vectors((from, to): (usize, usize)) -> (usize, usize) {
    if from == to { (from, to) } else { (from / LANES * LANES, to.next_multiple_of(LANES)) }
}

dispatched! {
    /// `scores` ← e^(τs − m) in the columns `seen` (one range for each stretch), 0 elsewhere; returns m = max τs over
    /// them, and the sum.
    fn softmax_row<S>(simd, scores: &'a mut [f32], seen: &'a [(usize, usize)], scale: f32) -> (f32, f32) {
        let mut top = f32::NEG_INFINITY;
        for &seen in seen {
            let (from, to) = whole_vectors(seen);
            scores[from..seen.0].fill(f32::NEG_INFINITY);
            scores[seen.1..to].fill(f32::NEG_INFINITY);
            top = top.max(max(simd, &scores[from..to]));
        }
        let top = top * scale;
        let (tau, shift) = (simd.splat_f32s(scale), simd.splat_f32s(-top));
        let mut acc = [simd.splat_f32s(0.0); 2];
        let mut at = 0;
        for &seen in seen {
            let (from, to) = whole_vectors(seen);
            scores[at..from].fill(0.0);
            for (i, s) in S::as_mut_simd_f32s(&mut scores[from..to]).0.iter_mut().enumerate() {
                *s = exp_flushed_lanes(simd, simd.mul_add_e_f32s(*s, tau, shift));
                acc[i % 2] = simd.add_f32s(acc[i % 2], *s);
            }
            at = to;
        }
        scores[at..].fill(0.0);
        (top, simd.reduce_sum_f32s(simd.add_f32s(acc[0], acc[1])))
    }
}

dispatched! {
    /// `scores` ← P and `gradients` (g·v on entry) ← dS, in the columns `seen`, 0 elsewhere.
    fn backward_row<S>(
        simd,
        scores: &'a mut [f32],
        gradients: &'a mut [f32],
        seen: (usize, usize),
        scale: f32,
        lse: f32,
        d: f32,
    ) {
        let (from, to) = whole_vectors(seen);
        scores[..from].fill(0.0);
        scores[from..seen.0].fill(f32::NEG_INFINITY);
        scores[seen.1..to].fill(f32::NEG_INFINITY);
        scores[to..].fill(0.0);
        gradients[..seen.0].fill(0.0);
        gradients[seen.1..].fill(0.0);
        let (tau, shift, d) = (simd.splat_f32s(scale), simd.splat_f32s(-lse), simd.splat_f32s(d));
        update(
            simd,
            [&mut scores[from..to], &mut gradients[from..to]],
            [],
            #[inline(always)]
            |[s, g], []| {
                let p = exp_flushed_lanes(simd, simd.mul_add_e_f32s(s, tau, shift));
                [p, simd.mul_f32s(simd.mul_f32s(p, tau), simd.sub_f32s(g, d))]
            },
        );
    }
}

dispatched! {
    fn scale_row<S>(simd, x: &'a mut [f32], by: f32) {
        let by = simd.splat_f32s(by);
        update(simd, [x], [], #[inline(always)] |[x], []| [simd.mul_f32s(x, by)]);
    }
}

dispatched! {
    fn dot<S>(simd, a: &'a [f32], b: &'a [f32]) -> f32 {
        sum(simd, [a, b], #[inline(always)] |[a, b], acc| simd.mul_add_e_f32s(a, b, acc))
    }
}

/// The rows `first .. end` of every head of a group, one head below the other `[group·(end − first), h]`: the matrix
/// itself when there is one head, a copy in `buffer` otherwise.
fn stacked<'s>(x: Mat<'s>, first: usize, end: usize, head_dim: usize, buffer: &'s mut Vec<f32>) -> Mat<'s> {
    let (tokens, group) = (end - first, x.shape().1 / head_dim);
    if group == 1 {
        return x.block(first, tokens, 0, head_dim);
    }
    let to = take(buffer, group * tokens * head_dim);
    for (i, to) in to.chunks_exact_mut(head_dim).enumerate() {
        to.copy_from_slice(&x.row(first + i % tokens)[i / tokens * head_dim..][..head_dim]);
    }
    Mat::new(to, group * tokens, head_dim)
}

struct ForwardTask<'a> {
    row: &'a Row,
    q: Mat<'a>,
    k: Mat<'a>,
    v: Mat<'a>,
    out: MatMut<'a>,
    lse: MatMut<'a>,
}

struct BackwardTask<'a> {
    row: &'a Row,
    q: Mat<'a>,
    k: Mat<'a>,
    v: Mat<'a>,
    out: Mat<'a>,
    lse: Mat<'a>,
    dout: Mat<'a>,
    dq: MatMut<'a>,
    dk: MatMut<'a>,
    dv: MatMut<'a>,
}

/// The blocks (row, key-value head) of `x` `[n, kv_heads·width]`, row after row.
fn cut<'x>(x: &'x [f32], n: usize, rows: &[Row], kv_heads: usize, width: usize) -> Vec<Mat<'x>> {
    let x = Mat::new(x, n, kv_heads * width);
    let mut out = Vec::with_capacity(rows.len() * kv_heads);
    for row in rows {
        for head in 0..kv_heads {
            out.push(x.block(row.start, row.tokens(), head * width, width));
        }
    }
    out
}

/// As [`cut`], to write to.
fn cut_mut<'x>(x: &'x mut [f32], n: usize, rows: &[Row], kv_heads: usize, width: usize) -> Vec<MatMut<'x>> {
    let mut rest = MatMut::new(x, n, kv_heads * width);
    let mut out = Vec::with_capacity(rows.len() * kv_heads);
    for row in rows {
        let (mut strip, below) = rest.split_rows(row.tokens());
        rest = below;
        for _ in 0..kv_heads {
            let (left, right) = strip.split_cols(width);
            strip = right;
            out.push(left);
        }
    }
    out
}

impl Attention<'_> {
    /// Tokens on the axis, after a check of everything that can be wrong.
    fn check(&self) -> usize {
        assert!(self.kv_heads > 0 && self.head_dim > 0, "at least one head, of at least one element");
        assert!(self.heads.is_multiple_of(self.kv_heads), "{} heads in {} groups", self.heads, self.kv_heads);
        assert!(self.heads > 0 && self.scale > 0.0, "the scale is positive, not {}", self.scale);
        assert!(self.window != Some(0), "a window of 0 sees nothing");
        let mut n = 0;
        for row in self.rows {
            assert_eq!(row.start, n, "rows follow each other without gaps");
            n += row.tokens();
        }
        n
    }

    fn window(&self) -> usize {
        self.window.unwrap_or(usize::MAX)
    }

    fn block_tokens(&self) -> usize {
        (QUERIES * self.kv_heads / self.heads).max(16)
    }

    /// Attention of `q` `[n, heads·head_dim]` over `k` and `v` `[n, kv_heads·head_dim]` into `out`
    /// `[n, heads·head_dim]`, and the log-sum-exp of the scores into `lse` `[n, heads]`, in nats.
    ///
    /// # Panics
    /// When the lengths disagree, or the rows don't follow each other without gaps.
    pub fn forward(&self, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32], lse: &mut [f32]) {
        let n = self.check();
        let (kv, h, group) = (self.kv_heads, self.head_dim, self.heads / self.kv_heads);
        let q = cut(q, n, self.rows, kv, group * h);
        let k = cut(k, n, self.rows, kv, h);
        let v = cut(v, n, self.rows, kv, h);
        let out = cut_mut(out, n, self.rows, kv, group * h);
        let lse = cut_mut(lse, n, self.rows, kv, group);
        let rows = self.rows.iter().flat_map(|row| std::iter::repeat_n(row, kv));
        let read = rows.zip(q).zip(k).zip(v);
        let tasks = read.zip(out.into_iter().zip(lse));
        each(tasks.map(|((((row, q), k), v), (out, lse))| ForwardTask { row, q, k, v, out, lse }), |task| {
            SCRATCH.with_borrow_mut(|scratch| self.forward_task(task, scratch));
        });
    }

    fn forward_task(&self, task: ForwardTask<'_>, scratch: &mut Scratch) {
        let ForwardTask { row, q, k, v, mut out, mut lse } = task;
        let (h, window) = (self.head_dim, self.window());
        let stride = transposed_cols(row.tokens());
        let kt = take(&mut scratch.keys, h * stride);
        transpose(k, kt, stride);
        let kt = Mat::new(kt, h, stride);
        for block in blocks(row, self.block_tokens(), window) {
            let tokens = block.end - block.first;
            let queries = stacked(q, block.first, block.end, h, &mut scratch.queries);
            let rows = queries.shape().0;
            let width = odd_lines(block.keys.iter().map(Stretch::padded).sum());
            let scores = take(&mut scratch.scores, rows * width);

            let mut col = 0;
            for keys in &block.keys {
                let keys_t = kt.block(0, h, keys.first, keys.padded());
                let to = &mut MatMut::new(scores, rows, width);
                gemm(0.0, to.block(0, rows, col, keys.padded()), 1.0, queries, keys_t, Threads::One);
                col += keys.padded();
            }

            let totals = take(&mut scratch.row, rows);
            for (i, (scores, total)) in scores.chunks_exact_mut(width).zip(&mut *totals).enumerate() {
                let (token, head) = (block.first + i % tokens, i / tokens);
                let mut seen = [(0, 0); 2];
                let mut col = 0;
                for (keys, seen) in block.keys.iter().zip(&mut seen) {
                    let (from, to) = keys.seen(token - block.back, window);
                    *seen = (col + from, col + to);
                    col += keys.padded();
                }
                let (top, sum) = softmax_row(scores, &seen[..block.keys.len()], self.scale);
                lse.row(token)[head] = top + sum.ln();
                *total = 1.0 / sum;
            }

            let mut col = 0;
            for (s, keys) in block.keys.iter().enumerate() {
                let values = v.block(keys.first, keys.len(), 0, h);
                let alpha = if s == 0 { 0.0 } else { 1.0 };
                for head in 0..rows / tokens {
                    let p = Mat::new(scores, rows, width).block(head * tokens, tokens, col, keys.len());
                    gemm(alpha, out.block(block.first, tokens, head * h, h), 1.0, p, values, Threads::One);
                }
                col += keys.padded();
            }
            for (i, &total) in totals.iter().enumerate() {
                scale_row(&mut out.row(block.first + i % tokens)[i / tokens * h..][..h], total);
            }
        }
    }

    /// Gradients of the loss: ∂L/∂q into `dq` `[n, heads·head_dim]`, ∂L/∂k and ∂L/∂v into `dk` and `dv`
    /// `[n, kv_heads·head_dim]`, from `dout` = ∂L/∂out `[n, heads·head_dim]`; the rest are those of [`forward`](Self::forward).
    ///
    /// # Panics
    /// When the lengths disagree, or the rows don't follow each other without gaps.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &self,
        dout: &[f32],
        q: &[f32],
        k: &[f32],
        v: &[f32],
        out: &[f32],
        lse: &[f32],
        dq: &mut [f32],
        dk: &mut [f32],
        dv: &mut [f32],
    ) {
        let n = self.check();
        let (kv, h, group) = (self.kv_heads, self.head_dim, self.heads / self.kv_heads);
        let rows = self.rows.iter().flat_map(|row| std::iter::repeat_n(row, kv));
        let read = rows
            .zip(cut(q, n, self.rows, kv, group * h))
            .zip(cut(k, n, self.rows, kv, h).into_iter().zip(cut(v, n, self.rows, kv, h)))
            .zip(cut(out, n, self.rows, kv, group * h).into_iter().zip(cut(lse, n, self.rows, kv, group)))
            .zip(cut(dout, n, self.rows, kv, group * h));
        let write = cut_mut(dq, n, self.rows, kv, group * h)
            .into_iter()
            .zip(cut_mut(dk, n, self.rows, kv, h).into_iter().zip(cut_mut(dv, n, self.rows, kv, h)));
        let tasks = read.zip(write).map(|(((((row, q), (k, v)), (out, lse)), dout), (dq, (dk, dv)))| BackwardTask {
            row,
            q,
            k,
            v,
            out,
            lse,
            dout,
            dq,
            dk,
            dv,
        });
        each(tasks, |task| SCRATCH.with_borrow_mut(|scratch| self.backward_task(task, scratch)));
    }

    fn backward_task(&self, task: BackwardTask<'_>, scratch: &mut Scratch) {
        let BackwardTask { row, q, k, v, out, lse, dout, mut dq, mut dk, mut dv } = task;
        let (h, window) = (self.head_dim, self.window());
        let stride = transposed_cols(row.tokens());
        let kt = take(&mut scratch.keys, h * stride);
        transpose(k, kt, stride);
        let vt = take(&mut scratch.values, h * stride);
        transpose(v, vt, stride);
        let (kt, vt) = (Mat::new(kt, h, stride), Mat::new(vt, h, stride));
        for t in 0..row.tokens() {
            dk.row(t).fill(0.0);
            dv.row(t).fill(0.0);
        }
        for block in blocks(row, self.block_tokens(), window) {
            let tokens = block.end - block.first;
            let queries = stacked(q, block.first, block.end, h, &mut scratch.queries);
            let grads = stacked(dout, block.first, block.end, h, &mut scratch.gradients);
            let rows = queries.shape().0;
            let d = take(&mut scratch.row, rows);
            for (i, d) in d.iter_mut().enumerate() {
                *d = dot(grads.row(i), &out.row(block.first + i % tokens)[i / tokens * h..][..h]);
            }

            let mut alpha = 0.0;
            for stretch in &block.keys {
                for first in (stretch.first..stretch.end).step_by(KEYS) {
                    let keys = Stretch { first, end: stretch.end.min(first + KEYS), back: stretch.back };
                    let (padded, width) = (keys.padded(), odd_lines(keys.padded()));
                    let scores = take(&mut scratch.scores, rows * width);
                    let ds = take(&mut scratch.score_gradients, rows * width);
                    for (to, a, b) in [(&mut *scores, queries, kt), (&mut *ds, grads, vt)] {
                        let to = &mut MatMut::new(to, rows, width);
                        gemm(0.0, to.block(0, rows, 0, padded), 1.0, a, b.block(0, h, first, padded), Threads::One);
                    }

                    for (i, (p, ds)) in scores.chunks_exact_mut(width).zip(ds.chunks_exact_mut(width)).enumerate() {
                        let token = block.first + i % tokens;
                        let seen = keys.seen(token - block.back, window);
                        backward_row(p, ds, seen, self.scale, lse.row(token)[i / tokens], d[i]);
                    }

                    let p = Mat::new(scores, rows, width).block(0, rows, 0, keys.len());
                    let ds = Mat::new(ds, rows, width).block(0, rows, 0, keys.len());
                    gemm(1.0, dv.block(first, keys.len(), 0, h), 1.0, p.t(), grads, Threads::One);
                    gemm(1.0, dk.block(first, keys.len(), 0, h), 1.0, ds.t(), queries, Threads::One);
                    let of_keys = k.block(first, keys.len(), 0, h);
                    for head in 0..rows / tokens {
                        let ds = ds.block(head * tokens, tokens, 0, keys.len());
                        gemm(alpha, dq.block(block.first, tokens, head * h, h), 1.0, ds, of_keys, Threads::One);
                    }
                    alpha = 1.0;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Seeded, close, each_path, finite_differences, same_bits_on_any_pool, wide};

    /// (sequence, position) of every token of a row: sequence 0 is the prefix.
    fn places(row: &Row) -> Vec<(usize, usize)> {
        let prefix = (0..row.prefix).map(|p| (0, p));
        let branches =
            row.branches.iter().enumerate().flat_map(|(b, &len)| (0..len).map(move |j| (b + 1, row.prefix + j)));
        prefix.chain(branches).collect()
    }

    /// (out, lse) by the definition of the mask, pair of tokens by pair.
    fn naive(a: &Attention<'_>, q: &[f64], k: &[f64], v: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (h, group) = (a.head_dim, a.heads / a.kv_heads);
        let (mut out, mut lse) = (vec![0.0; q.len()], vec![0.0; q.len() / h]);
        for row in a.rows {
            let places = places(row);
            for (i, &(si, pi)) in places.iter().enumerate() {
                for head in 0..a.heads {
                    let q = &q[((row.start + i) * a.heads + head) * h..][..h];
                    let key = |j: usize| ((row.start + j) * a.kv_heads + head / group) * h;
                    let seen: Vec<usize> = (0..places.len())
                        .filter(|&j| {
                            let (sj, pj) = places[j];
                            (sj == 0 || sj == si) && pj <= pi && a.window.is_none_or(|w| pi - pj < w)
                        })
                        .collect();
                    let score =
                        |j: usize| f64::from(a.scale) * q.iter().zip(&k[key(j)..]).map(|(a, b)| a * b).sum::<f64>();
                    let top = seen.iter().map(|&j| score(j)).fold(f64::NEG_INFINITY, f64::max);
                    let total: f64 = seen.iter().map(|&j| (score(j) - top).exp()).sum();
                    lse[(row.start + i) * a.heads + head] = top + total.ln();
                    for &j in &seen {
                        let p = (score(j) - top).exp() / total;
                        for d in 0..h {
                            out[((row.start + i) * a.heads + head) * h + d] += p * v[key(j) + d];
                        }
                    }
                }
            }
        }
        (out, lse)
    }

    /// (dq, dk, dv) of Σ dout·out, by the chain rule of the definition, in f64.
    fn naive_backward(a: &Attention<'_>, g: &[f64], q: &[f64], k: &[f64], v: &[f64]) -> [Vec<f64>; 3] {
        let (h, group) = (a.head_dim, a.heads / a.kv_heads);
        let (out, lse) = naive(a, q, k, v);
        let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
        for row in a.rows {
            let places = places(row);
            for (i, &(si, pi)) in places.iter().enumerate() {
                for head in 0..a.heads {
                    let qi = ((row.start + i) * a.heads + head) * h;
                    for (j, &(sj, pj)) in places.iter().enumerate() {
                        if !((sj == 0 || sj == si) && pj <= pi && a.window.is_none_or(|w| pi - pj < w)) {
                            continue;
                        }
                        let kj = ((row.start + j) * a.kv_heads + head / group) * h;
                        let tau = f64::from(a.scale);
                        let score: f64 = (0..h).map(|d| tau * q[qi + d] * k[kj + d]).sum();
                        let p = (score - lse[qi / h]).exp();
                        let ds: f64 = (0..h).map(|d| g[qi + d] * (v[kj + d] - out[qi + d])).sum::<f64>() * p * tau;
                        for d in 0..h {
                            dv[kj + d] += p * g[qi + d];
                            dq[qi + d] += ds * k[kj + d];
                            dk[kj + d] += ds * q[qi + d];
                        }
                    }
                }
            }
        }
        [dq, dk, dv]
    }

    struct Case {
        rows: Vec<Row>,
        q: Vec<f32>,
        k: Vec<f32>,
        v: Vec<f32>,
        g: Vec<f32>,
    }

    fn rows(shapes: &[(usize, &[usize])]) -> Vec<Row> {
        let mut start = 0;
        shapes
            .iter()
            .map(|&(prefix, branches)| {
                let row = Row { start, prefix, branches: branches.to_vec() };
                start += row.tokens();
                row
            })
            .collect()
    }

    fn case(seeded: &mut Seeded, rows: Vec<Row>, heads: usize, kv_heads: usize, h: usize, scale: f64) -> Case {
        let n: usize = rows.iter().map(Row::tokens).sum();
        let mut vec = |width: usize| seeded.vec(n * width * h, scale);
        Case { q: vec(heads), k: vec(kv_heads), v: vec(kv_heads), g: vec(heads), rows }
    }

    fn run(a: &Attention<'_>, c: &Case) -> [Vec<f32>; 5] {
        let (mut out, mut lse) = (vec![f32::NAN; c.q.len()], vec![f32::NAN; c.q.len() / a.head_dim]);
        a.forward(&c.q, &c.k, &c.v, &mut out, &mut lse);
        let (mut dq, mut dk, mut dv) =
            (vec![f32::NAN; c.q.len()], vec![f32::NAN; c.k.len()], vec![f32::NAN; c.v.len()]);
        a.backward(&c.g, &c.q, &c.k, &c.v, &out, &lse, &mut dq, &mut dk, &mut dv);
        [out, lse, dq, dk, dv]
    }

    fn compare(a: &Attention<'_>, c: &Case) {
        let (q, k, v, g) = (wide(&c.q), wide(&c.k), wide(&c.v), wide(&c.g));
        let (out, lse) = naive(a, &q, &k, &v);
        let [dq, dk, dv] = naive_backward(a, &g, &q, &k, &v);
        for (got, expected) in run(a, c).iter().zip([out, lse, dq, dk, dv]) {
            close(got, &expected, 4e-6);
        }
    }

    #[test]
    fn the_naive_gradient_is_that_of_finite_differences() {
        let mut seeded = Seeded(13);
        for window in [None, Some(2)] {
            let c = case(&mut seeded, rows(&[(2, &[2, 1]), (0, &[1, 2])]), 2, 1, 3, 1.0);
            let a = Attention { rows: &c.rows, heads: 2, kv_heads: 1, head_dim: 3, scale: 0.7, window };
            let (q, k, v, g) = (wide(&c.q), wide(&c.k), wide(&c.v), wide(&c.g));
            let loss = |q: &[f64], k: &[f64], v: &[f64]| -> f64 {
                naive(&a, q, k, v).0.iter().zip(&g).map(|(o, g)| o * g).sum()
            };
            let differences = [
                finite_differences(&q, |q| loss(q, &k, &v)),
                finite_differences(&k, |k| loss(&q, k, &v)),
                finite_differences(&v, |v| loss(&q, &k, v)),
            ];
            for (got, expected) in naive_backward(&a, &g, &q, &k, &v).iter().zip(differences) {
                close(&got.iter().map(|v| *v as f32).collect::<Vec<_>>(), &expected, 1e-6);
            }
        }
    }

    #[test]
    fn random_rows_heads_and_windows_against_f64() {
        each_path(|| {
            let mut seeded = Seeded(14);
            for _ in 0..60 {
                let kv_heads = seeded.index(1, 3);
                let (heads, h) = (kv_heads * seeded.index(1, 4), seeded.index(1, 24));
                let mut start = 0;
                let rows: Vec<Row> = (0..seeded.index(1, 4))
                    .map(|_| {
                        let prefix = seeded.index(0, 60);
                        let branches = (0..seeded.index(0, 4)).map(|_| seeded.index(0, 40)).collect();
                        let row = Row { start, prefix, branches };
                        start += row.tokens();
                        row
                    })
                    .collect();
                let window = [None, Some(seeded.index(1, 70))][seeded.index(0, 2)];
                let c = case(&mut seeded, rows, heads, kv_heads, h, 1.5);
                compare(&Attention { rows: &c.rows, heads, kv_heads, head_dim: h, scale: 0.4, window }, &c);
            }
        });
    }

    #[test]
    fn rows_of_many_blocks_against_f64() {
        each_path(|| {
            let mut seeded = Seeded(15);
            for (heads, kv_heads, h, window) in [(1, 1, 32, None), (2, 1, 64, None), (3, 1, 16, Some(100))] {
                let c = case(&mut seeded, rows(&[(500, &[120, 33]), (7, &[])]), heads, kv_heads, h, 1.0);
                compare(&Attention { rows: &c.rows, heads, kv_heads, head_dim: h, scale: 0.125, window }, &c);
            }
        });
    }

    #[test]
    fn a_shared_prefix_is_the_same_as_two_sequences() {
        each_path(|| {
            let mut seeded = Seeded(16);
            let shared = case(&mut seeded, rows(&[(30, &[20, 9])]), 2, 2, 16, 1.0);
            let pick = |x: &[f32], width: usize| -> Vec<f32> {
                let tokens = (0..50).chain(0..30).chain(50..59);
                tokens.flat_map(|t| x[t * width..][..width].to_vec()).collect()
            };
            let apart = Case {
                rows: rows(&[(50, &[]), (39, &[])]),
                q: pick(&shared.q, 32),
                k: pick(&shared.k, 32),
                v: pick(&shared.v, 32),
                g: vec![0.0; 89 * 32],
            };
            let of = |c: &Case| {
                let a = Attention { rows: &c.rows, heads: 2, kv_heads: 2, head_dim: 16, scale: 0.25, window: None };
                run(&a, c)[0].clone()
            };
            close(&of(&apart), &wide(&pick(&of(&shared), 32)), 1e-6);
        });
    }

    #[test]
    fn scores_of_thousands_stay_finite() {
        each_path(|| {
            let mut seeded = Seeded(17);
            let c = case(&mut seeded, rows(&[(40, &[30, 20])]), 2, 1, 16, 60.0);
            let a = Attention { rows: &c.rows, heads: 2, kv_heads: 1, head_dim: 16, scale: 1.0, window: None };
            for x in run(&a, &c) {
                assert!(x.iter().all(|v| v.is_finite()));
            }
        });
    }

    #[test]
    fn a_window_skips_the_keys_that_no_query_of_a_block_sees() {
        let row = Row { start: 0, prefix: 100, branches: vec![10, 20] };
        let at = |first, end, back| Stretch { first, end, back };
        // The second branch (tokens 110..130, positions 100..120) in blocks of 10 with a window of 8.
        let last = &blocks(&row, 10, 8)[11..];
        assert_eq!(last[0].keys, [at(93, 100, 0), at(110, 120, 10)]);
        assert_eq!(last[1].keys, [at(113, 130, 10)]);
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let mut seeded = Seeded(18);
        let c = case(&mut seeded, rows(&[(150, &[60, 45]), (90, &[20, 30]), (200, &[])]), 4, 2, 32, 1.0);
        let a = Attention { rows: &c.rows, heads: 4, kv_heads: 2, head_dim: 32, scale: 0.2, window: None };
        same_bits_on_any_pool(|| run(&a, &c).concat());
    }

    #[test]
    #[should_panic(expected = "rows follow each other without gaps")]
    fn a_gap_between_rows_is_refused() {
        let rows = [Row { start: 1, prefix: 1, branches: vec![] }];
        let a = Attention { rows: &rows, heads: 1, kv_heads: 1, head_dim: 1, scale: 1.0, window: None };
        a.forward(&[], &[], &[], &mut [], &mut []);
    }
}
