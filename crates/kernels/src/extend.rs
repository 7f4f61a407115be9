//! `extend`: attention of the newest tokens of texts in progress over their keys and values so far, which lie in blocks
//! that texts may share.
//!
//! Let q be `q` `[n, H·h]`, k and v be `k` and `v` `[n, KV·h]` of the newest tokens, with rotary embedding applied; H, KV
//! and h the numbers of heads and their width, τ `scale`. A [`Text`] of t tokens has its token p in row p mod [`BLOCK`] of
//! block `blocks[p / BLOCK]`; its newest are the last. k and v are written there first. Then the query at position p of
//! head a (of the key-value head ⌊a·KV/H⌋) sees the keys j of its text with j ≤ p, and p − j < `window` where there is
//! one: out = Σⱼ e^(τ q·kⱼ − m) vⱼ / Σⱼ e^(τ q·kⱼ − m), with m the largest τ q·kⱼ.
//!
//! How: a block holds its keys transposed, so that a vector holds one element of all of them and no sum goes across a
//! vector; values lie as they come. A task is a text and a key-value head. What a query gives depends on its own text and
//! position only, in the order of the sums too: the same bits alone, among others, and however many of its tokens are new.

use std::cell::RefCell;

use pulp::Simd;

use crate::exp::exp_flushed_lanes;
use crate::gemm::MatMut;
use crate::parallel::each;
use crate::simd::{dispatched, max, update};

/// Tokens of a block.
pub const BLOCK: usize = 16;
/// Multiplications below which all is done on one thread.
const ALONE: usize = 1 << 17;
/// Queries that are taken together.
const TILE: usize = 4;

/// A text in progress.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// The blocks of its tokens.
    pub blocks: &'a [u32],
    /// Its tokens, the newest included.
    pub tokens: usize,
    /// How many of them are new.
    pub new: usize,
}

/// Keys and values of one attention.
#[derive(Debug)]
pub struct Cache {
    heads: usize,
    head_dim: usize,
    scale: f32,
    window: Option<usize>,
    parts: Vec<Part>,
}

/// Those of one head.
#[derive(Clone, Debug, Default)]
struct Part {
    /// `[blocks, h, BLOCK]`.
    keys: Vec<f32>,
    /// `[blocks, BLOCK, h]`.
    values: Vec<f32>,
}

thread_local! {
    static SCORES: RefCell<Vec<f32>> = RefCell::default();
}

/// `scores[r][j]` ← q_r·k_j for `R` queries and the keys of one block.
#[inline(always)]
fn block_scores<S: Simd, const R: usize>(
    simd: S,
    q: [&[f32]; R],
    keys: &[f32],
    scores: &mut [f32],
    stride: usize,
    at: usize,
) {
    let lines = keys.len() / BLOCK;
    for part in (0..BLOCK).step_by(S::F32_LANES) {
        // Two chains of additions hide some of the latency of one.
        let mut acc = [[simd.splat_f32s(0.0); R]; 2];
        for i in (0..lines).step_by(2) {
            for c in 0..2.min(lines - i) {
                let k = S::as_simd_f32s(&keys[(i + c) * BLOCK + part..][..S::F32_LANES]).0[0];
                for r in 0..R {
                    acc[c][r] = simd.mul_add_e_f32s(simd.splat_f32s(q[r][i + c]), k, acc[c][r]);
                }
            }
        }
        for r in 0..R {
            let sum = simd.add_f32s(acc[0][r], acc[1][r]);
            S::as_mut_simd_f32s(&mut scores[r * stride + at + part..][..S::F32_LANES]).0[0] = sum;
        }
    }
}

/// `out[r]` ← out[r] + Σ_j p_rj v_j over `V` vectors of the values' columns from `col` on.
#[inline(always)]
fn weighed<S: Simd, const R: usize, const V: usize>(
    simd: S,
    p: &[f32],
    stride: usize,
    values: impl Fn(usize) -> [S::f32s; V],
    keys: std::ops::Range<usize>,
) -> [[S::f32s; V]; R] {
    let mut acc = [[simd.splat_f32s(0.0); V]; R];
    for j in keys {
        let v = values(j);
        for r in 0..R {
            let p = simd.splat_f32s(p[r * stride + j]);
            for c in 0..V {
                acc[r][c] = simd.mul_add_e_f32s(p, v[c], acc[r][c]);
            }
        }
    }
    acc
}

/// What the queries of a tile have in common.
struct Keys<'a> {
    part: &'a Part,
    blocks: &'a [u32],
    /// The first block that some of them see.
    first: usize,
    /// The last key that some of them see, and one, from the start of the first block.
    end: usize,
}

dispatched! {
    fn tile_scores<S>(simd, keys: &'a Keys<'a>, q: [&'a [f32]; TILE], queries: usize, scores: &'a mut [f32], stride: usize) {
        let lines = q[0].len();
        for (b, block) in keys.blocks[keys.first..][..keys.end.div_ceil(BLOCK)].iter().enumerate() {
            let k = &keys.part.keys[*block as usize * lines * BLOCK..][..lines * BLOCK];
            match queries {
                1 => block_scores::<S, 1>(simd, [q[0]], k, scores, stride, b * BLOCK),
                _ => block_scores::<S, TILE>(simd, q, k, scores, stride, b * BLOCK),
            }
        }
    }
}

dispatched! {
    /// `scores` ← e^(τs − m) in `from .. to`, 0 elsewhere; returns their sum.
    fn softmax<S>(simd, scores: &'a mut [f32], from: usize, to: usize, scale: f32) -> f32 {
        scores[..from].fill(f32::NEG_INFINITY);
        scores[to..].fill(f32::NEG_INFINITY);
        let top = max(simd, scores) * scale;
        let (tau, shift) = (simd.splat_f32s(scale), simd.splat_f32s(-top));
        // What is −∞ is 0, as a key that is not there.
        let mut acc = simd.splat_f32s(0.0);
        for s in S::as_mut_simd_f32s(scores).0 {
            *s = exp_flushed_lanes(simd, simd.mul_add_e_f32s(*s, tau, shift));
            acc = simd.add_f32s(acc, *s);
        }
        simd.reduce_sum_f32s(acc)
    }
}

dispatched! {
    fn tile_values<S>(
        simd,
        keys: &'a Keys<'a>,
        p: &'a [f32],
        stride: usize,
        queries: usize,
        out: &'a mut [f32],
        h: usize,
    ) {
        let row = {
            #[inline(always)]
            |j: usize| {
                let block = keys.blocks[keys.first + j / BLOCK] as usize;
                &keys.part.values[(block * BLOCK + j % BLOCK) * h..][..h]
            }
        };
        let lanes = S::F32_LANES;
        let mut col = 0;
        while col < h {
            let width = (h - col).min(4 * lanes);
            if width == 4 * lanes {
                let values = {
                    #[inline(always)]
                    |j| {
                        let v = S::as_simd_f32s(&row(j)[col..col + 4 * lanes]).0;
                        [v[0], v[1], v[2], v[3]]
                    }
                };
                match queries {
                    1 => store(simd, weighed::<S, 1, 4>(simd, p, stride, values, 0..keys.end), out, h, col),
                    _ => store(simd, weighed::<S, TILE, 4>(simd, p, stride, values, 0..keys.end), out, h, col),
                }
                col += width;
            } else {
                let width = width.min(lanes);
                let values = {
                    #[inline(always)]
                    |j| [simd.partial_load_f32s(&row(j)[col..col + width])]
                };
                match queries {
                    1 => store(simd, weighed::<S, 1, 1>(simd, p, stride, values, 0..keys.end), out, h, col),
                    _ => store(simd, weighed::<S, TILE, 1>(simd, p, stride, values, 0..keys.end), out, h, col),
                }
                col += width;
            }
        }
    }
}

#[inline(always)]
fn store<S: Simd, const R: usize, const V: usize>(
    simd: S,
    from: [[S::f32s; V]; R],
    out: &mut [f32],
    h: usize,
    col: usize,
) {
    for (r, from) in from.iter().enumerate() {
        for (c, from) in from.iter().enumerate() {
            let at = col + c * S::F32_LANES;
            simd.partial_store_f32s(&mut out[r * h + at..][..S::F32_LANES.min(h - at)], *from);
        }
    }
}

dispatched! {
    fn scaled<S>(simd, from: &'a [f32], by: f32, to: &'a mut [f32]) {
        let by = simd.splat_f32s(by);
        update(simd, [to], [from], #[inline(always)] |[_], [x]| [simd.mul_f32s(x, by)]);
    }
}

impl Part {
    fn write(&mut self, block: usize, row: usize, k: &[f32], v: &[f32]) {
        let h = k.len();
        let keys = &mut self.keys[block * h * BLOCK..][..h * BLOCK];
        k.iter().enumerate().for_each(|(i, k)| keys[i * BLOCK + row] = *k);
        self.values[(block * BLOCK + row) * h..][..h].copy_from_slice(v);
    }
}

struct Task<'a> {
    text: Text<'a>,
    head: usize,
    /// The first of its newest tokens among all.
    row: usize,
    out: MatMut<'a>,
}

impl Cache {
    /// An empty one, for `kv_heads` heads of keys and values that `heads` heads of queries read.
    ///
    /// # Panics
    /// Without heads, or with a group of no whole number of them.
    pub fn new(heads: usize, kv_heads: usize, head_dim: usize, scale: f32, window: Option<usize>) -> Self {
        assert!(kv_heads > 0 && head_dim > 0, "at least one head, of at least one element");
        assert!(heads > 0 && heads.is_multiple_of(kv_heads), "{heads} heads in {kv_heads} groups");
        assert!(scale > 0.0, "the scale is positive, not {scale}");
        assert!(window != Some(0), "a window of 0 sees nothing");
        Self { heads, head_dim, scale, window, parts: vec![Part::default(); kv_heads] }
    }

    /// Makes room for blocks `0 .. blocks`.
    pub fn reserve(&mut self, blocks: usize) {
        let len = blocks * BLOCK * self.head_dim;
        for part in &mut self.parts {
            if part.keys.len() < len {
                part.keys.resize(len, 0.0);
                part.values.resize(len, 0.0);
            }
        }
    }

    /// Block `to` becomes the same as block `from`.
    ///
    /// # Panics
    /// Where there is no room for one of them.
    pub fn copy(&mut self, from: usize, to: usize) {
        let len = BLOCK * self.head_dim;
        for part in &mut self.parts {
            part.keys.copy_within(from * len..(from + 1) * len, to * len);
            part.values.copy_within(from * len..(from + 1) * len, to * len);
        }
    }

    /// Writes keys and values `[n, kv_heads·head_dim]` of the newest tokens of `texts`, one text's behind the other's,
    /// and puts what their queries `q` `[n, heads·head_dim]` find into `out` `[n, heads·head_dim]`.
    ///
    /// # Panics
    /// When the lengths disagree, a text has no block for some of its tokens, or there is no room for a block.
    pub fn extend(&mut self, q: &[f32], k: &[f32], v: &[f32], texts: &[Text<'_>], out: &mut [f32]) {
        let (h, kv) = (self.head_dim, self.parts.len());
        let n: usize = texts.iter().map(|t| t.new).sum();
        for t in texts {
            assert!(t.new <= t.tokens && t.tokens <= t.blocks.len() * BLOCK, "{t:?} has a block for each token");
        }
        assert_eq!(k.len(), n * kv * h, "k is [{n}, {}]", kv * h);
        assert_eq!(v.len(), n * kv * h, "v is [{n}, {}]", kv * h);
        assert_eq!(q.len(), n * self.heads * h, "q is [{n}, {}]", self.heads * h);

        let write = |(head, part): (usize, &mut Part)| {
            let mut row = 0;
            for t in texts {
                for p in t.tokens - t.new..t.tokens {
                    let at = (row * kv + head) * h;
                    part.write(t.blocks[p / BLOCK] as usize, p % BLOCK, &k[at..at + h], &v[at..at + h]);
                    row += 1;
                }
            }
        };
        if n * kv * h < ALONE {
            self.parts.iter_mut().enumerate().for_each(write);
        } else {
            each(self.parts.iter_mut().enumerate(), write);
        }

        let group = self.heads / kv;
        let mut rest = MatMut::new(out, n, self.heads * h);
        let (mut tasks, mut row) = (Vec::with_capacity(texts.len() * kv), 0);
        for text in texts {
            let (mut strip, below) = rest.split_rows(text.new);
            rest = below;
            for head in 0..kv {
                let (left, right) = strip.split_cols(group * h);
                strip = right;
                tasks.push(Task { text: *text, head, row, out: left });
            }
            row += text.new;
        }
        let work: usize = texts.iter().map(|t| t.new * t.tokens * 2 * self.heads * h).sum();
        let run = |task| SCORES.with_borrow_mut(|scores| self.task(task, q, scores));
        if work < ALONE {
            tasks.into_iter().for_each(run);
        } else {
            each(tasks.into_iter(), run);
        }
    }

    fn task(&self, task: Task<'_>, q: &[f32], scratch: &mut Vec<f32>) {
        let Task { text, head, row, mut out } = task;
        let (h, group) = (self.head_dim, self.heads / self.parts.len());
        let window = self.window.unwrap_or(usize::MAX);
        let queries = text.new * group;
        // Query i is that of head i mod group, of new token i / group.
        let position = |i: usize| text.tokens - text.new + i / group;
        let query = |i: usize| &q[((row + i / group) * self.heads + head * group + i % group) * h..][..h];
        for at in (0..queries).step_by(TILE) {
            let count = TILE.min(queries - at);
            let first = (position(at) + 1).saturating_sub(window) / BLOCK;
            let end = position(at + count - 1) + 1 - first * BLOCK;
            let keys = Keys { part: &self.parts[head], blocks: text.blocks, first, end };
            let stride = end.next_multiple_of(BLOCK);
            if scratch.len() < TILE * (stride + h) {
                scratch.resize(TILE * (stride + h), 0.0);
            }
            let (scores, sums) = scratch.split_at_mut(TILE * stride);
            let rows: [&[f32]; TILE] = std::array::from_fn(|r| query(at + r.min(count - 1)));
            tile_scores(&keys, rows, count, scores, stride);
            let mut totals = [1.0; TILE];
            for (r, scores) in scores.chunks_exact_mut(stride).enumerate().take(count) {
                let p = position(at + r);
                // As long as it would be alone: the order of the sum follows from the length.
                let from = (p + 1).saturating_sub(window);
                let (own, to) = (from / BLOCK * BLOCK - first * BLOCK, p + 1 - first * BLOCK);
                let past = to.next_multiple_of(BLOCK);
                scores[..own].fill(0.0);
                scores[past..].fill(0.0);
                totals[r] = softmax(&mut scores[own..past], from - first * BLOCK - own, to - own, self.scale);
            }
            tile_values(&keys, scores, stride, count, &mut sums[..TILE * h], h);
            for r in 0..count {
                let i = at + r;
                scaled(&sums[r * h..][..h], 1.0 / totals[r], &mut out.row(i / group)[i % group * h..][..h]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Seeded, close, each_path, same_bits_on_any_pool, wide};

    struct Case {
        heads: usize,
        kv: usize,
        h: usize,
        window: Option<usize>,
    }

    impl Case {
        fn cache(&self, blocks: usize) -> Cache {
            let mut cache = Cache::new(self.heads, self.kv, self.h, 0.7, self.window);
            cache.reserve(blocks);
            cache
        }

        /// Of one whole text, by definition.
        fn naive(&self, q: &[f64], k: &[f64], v: &[f64], n: usize) -> Vec<f64> {
            let (h, group) = (self.h, self.heads / self.kv);
            let mut out = vec![0.0; n * self.heads * h];
            for p in 0..n {
                for a in 0..self.heads {
                    let key = |j: usize| (j * self.kv + a / group) * h;
                    let seen: Vec<usize> = (0..=p).filter(|j| self.window.is_none_or(|w| p - j < w)).collect();
                    let dot = |j: usize| (0..h).map(|i| q[(p * self.heads + a) * h + i] * k[key(j) + i]).sum::<f64>();
                    let e: Vec<f64> = seen.iter().map(|j| (0.7 * dot(*j)).exp()).collect();
                    let sum: f64 = e.iter().sum();
                    for i in 0..h {
                        let terms = seen.iter().zip(&e).map(|(j, e)| e / sum * v[key(*j) + i]);
                        out[(p * self.heads + a) * h + i] = terms.sum();
                    }
                }
            }
            out
        }
    }

    fn cases() -> Vec<Case> {
        let one = |heads, kv, h, window| Case { heads, kv, h, window };
        vec![
            one(2, 2, 64, None),
            one(6, 2, 20, None),
            one(4, 1, 7, Some(5)),
            one(3, 3, 16, Some(40)),
            one(1, 1, 130, None),
        ]
    }

    #[test]
    fn a_text_is_that_of_the_definition_in_any_pieces_to_the_bit() {
        each_path(|| {
            let mut seeded = Seeded(41);
            for case in cases() {
                let n = seeded.index(40, 90);
                let (q, k, v) = (
                    seeded.vec(n * case.heads * case.h, 1.0),
                    seeded.vec(n * case.kv * case.h, 1.0),
                    seeded.vec(n * case.kv * case.h, 1.0),
                );
                let expected = case.naive(&wide(&q), &wide(&k), &wide(&v), n);
                // Its blocks lie anywhere.
                let blocks = [5u32, 2, 7, 0, 6, 3];
                let mut outs = Vec::new();
                for pieces in [vec![n], vec![1; n], vec![7, 1, 1, n - 9]] {
                    let mut cache = case.cache(8);
                    let mut out = vec![f32::NAN; n * case.heads * case.h];
                    let mut at = 0;
                    for new in pieces {
                        let cut = |x: &'_ [f32], width: usize| x[at * width..(at + new) * width].to_vec();
                        let (wq, wkv) = (case.heads * case.h, case.kv * case.h);
                        let text = Text { blocks: &blocks, tokens: at + new, new };
                        let to = &mut out[at * wq..(at + new) * wq];
                        cache.extend(&cut(&q, wq), &cut(&k, wkv), &cut(&v, wkv), &[text], to);
                        at += new;
                    }
                    close(&out, &expected, 2e-6);
                    outs.push(out);
                }
                assert!(outs.iter().all(|o| *o == outs[0]), "in pieces as in one");
            }
        });
    }

    #[test]
    fn texts_side_by_side_share_blocks_and_not_bits() {
        each_path(|| {
            let mut seeded = Seeded(42);
            let case = Case { heads: 4, kv: 2, h: 24, window: None };
            let (wq, wkv) = (case.heads * case.h, case.kv * case.h);
            let mut some = |n: usize| [seeded.vec(n * wq, 1.0), seeded.vec(n * wkv, 1.0), seeded.vec(n * wkv, 1.0)];
            // A prompt of 20 tokens, two texts that go on from it, and another text.
            let ([pq, pk, pv], [aq, ak, av], [bq, bk, bv], [cq, ck, cv]) = (some(20), some(1), some(1), some(3));
            let mut cache = case.cache(10);
            let mut out = vec![0.0; 20 * wq];
            cache.extend(&pq, &pk, &pv, &[Text { blocks: &[4, 9], tokens: 20, new: 20 }], &mut out);
            cache.copy(9, 1);
            let texts = [
                Text { blocks: &[4, 9], tokens: 21, new: 1 },
                Text { blocks: &[3], tokens: 3, new: 3 },
                Text { blocks: &[4, 1], tokens: 21, new: 1 },
            ];
            let join = |a: &[f32], c: &[f32], b: &[f32]| [a, c, b].concat();
            let mut out = vec![0.0; 5 * wq];
            cache.extend(&join(&aq, &cq, &bq), &join(&ak, &ck, &bk), &join(&av, &cv, &bv), &texts, &mut out);

            let alone = |q: Vec<f32>, k: Vec<f32>, v: Vec<f32>| {
                let n = q.len() / wq;
                let mut out = vec![0.0; q.len()];
                case.cache(2).extend(&q, &k, &v, &[Text { blocks: &[0, 1], tokens: n, new: n }], &mut out);
                out
            };
            let with = |q: &[f32], k: &[f32], v: &[f32]| alone([&pq, q].concat(), [&pk, k].concat(), [&pv, v].concat());
            assert_eq!(out[..wq], with(&aq, &ak, &av)[20 * wq..]);
            assert_eq!(out[wq..4 * wq], alone(cq, ck, cv));
            assert_eq!(out[4 * wq..], with(&bq, &bk, &bv)[20 * wq..]);
        });
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let mut seeded = Seeded(43);
        let case = Case { heads: 4, kv: 4, h: 32, window: Some(100) };
        let n = 200;
        let x = [(); 3].map(|()| seeded.vec(n * 128, 1.0));
        let blocks: Vec<u32> = (0..13).collect();
        same_bits_on_any_pool(|| {
            let mut out = vec![0.0; n * 128];
            case.cache(13).extend(&x[0], &x[1], &x[2], &[Text { blocks: &blocks, tokens: n, new: n }], &mut out);
            out
        });
    }
}
