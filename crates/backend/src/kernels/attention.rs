//! o = softmax(q kᵀ/√d + mask) v, on rows whose branches share a prefix; where scores have a cap c, c·tanh(s/c) of each.

use std::any::Any;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::OnceLock;

use burn::tensor::{DType, Device, IndexingUpdateOp, Int, Tensor, TensorData, activation::softmax};

use super::Plain;
use super::cap::{capped, slope};

/// Far below any score, yet finite: its exponential is exactly 0 in f32.
const MASKED: f32 = -1e30;

/// Most scores of one head that tensor operations hold at a time: longer batches go by groups of rows.
pub const SCORES: usize = 1 << 21;

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

/// For each token of a row: its position in its text, and the first token of its branch (0 in the prefix).
pub fn places(row: &Row) -> impl Iterator<Item = (usize, usize)> + '_ {
    let mut next = row.prefix;
    let branches = row.branches.iter().flat_map(move |&n| {
        let first = next;
        next += n;
        (0..n).map(move |i| (row.prefix + i, first))
    });
    (0..row.prefix).map(|i| (i, 0)).chain(branches)
}

/// Widths of an attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Query heads.
    pub queries: usize,
    /// Key and value heads; query head h reads key head h·keys/queries.
    pub keys: usize,
    /// Width of a head, d.
    pub dim: usize,
    /// c: scores s become c·tanh(s/c) before they are masked (arXiv:2408.00118, section 2).
    pub cap: Option<f64>,
}

/// Who attends to whom, prepared once per batch for all layers with the same window.
#[derive(Debug)]
pub struct Mask {
    rows: Vec<Row>,
    window: Option<usize>,
    device: Device,
    scores: usize,
    rectangles: OnceLock<Vec<Rectangle>>,
    prepared: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl Mask {
    /// `window`: how many positions back a token sees, itself included; none: all.
    pub fn new(rows: &[Row], window: Option<usize>, device: &Device) -> Self {
        let (rectangles, prepared) = (OnceLock::new(), OnceLock::new());
        Self { rows: rows.to_vec(), window, device: device.clone(), scores: SCORES, rectangles, prepared }
    }

    /// The same, holding at most `scores` scores of a head at a time (or those of one row).
    pub fn with_scores(self, scores: usize) -> Self {
        Self { scores, rectangles: OnceLock::new(), ..self }
    }

    /// The rows, in the order of the token axis.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// How many positions back a token sees, itself included; none: all.
    pub fn window(&self) -> Option<usize> {
        self.window
    }

    /// What a kernel makes of the rows once, for all layers: `make` is called where it is the first to ask. None if another
    /// kernel keeps something else here.
    pub fn prepared<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Option<&T> {
        self.prepared.get_or_init(|| Box::new(make())).downcast_ref()
    }

    /// The rows as rectangles, which only tensor operations need.
    fn rectangles(&self) -> &[Rectangle] {
        self.rectangles.get_or_init(|| {
            let groups = groups(&self.rows, self.scores).into_iter();
            groups.map(|g| Rectangle::new(&self.rows[g], self.window, &self.device)).collect()
        })
    }
}

/// Cuts rows into runs that hold at most `scores` scores when padded to their longest, or one row.
fn groups(rows: &[Row], scores: usize) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut longest = 0;
    for (i, row) in rows.iter().enumerate() {
        let wider = longest.max(row.tokens());
        match groups.last_mut() {
            Some(g) if (g.len() + 1) * wider * wider <= scores => (g.end, longest) = (i + 1, wider),
            _ => {
                groups.push(i..i + 1);
                longest = row.tokens();
            }
        }
    }
    groups
}

/// Rows side by side, padded to the longest.
#[derive(Debug)]
struct Rectangle {
    /// The token at each place `[rows·longest]` (its first at empty ones).
    places: Tensor<1, Int>,
    /// The place of each of these rows' tokens, `[tokens]`.
    tokens: Tensor<1, Int>,
    /// 0 where row and column may meet, [`MASKED`] elsewhere, `[rows, 1, 1, longest, longest]`.
    bias: Tensor<5>,
    rows: usize,
    longest: usize,
}

impl Rectangle {
    fn new(rows: &[Row], window: Option<usize>, device: &Device) -> Self {
        let longest = rows.iter().map(Row::tokens).max().unwrap_or(0);
        let tokens: usize = rows.iter().map(Row::tokens).sum();
        let start = rows.first().map_or(0, |r| r.start);
        let mut spots = vec![start as i32; rows.len() * longest];
        let mut inverse = vec![0i32; tokens];
        let mut bias = vec![MASKED; rows.len() * longest * longest];
        for (r, row) in rows.iter().enumerate() {
            let at: Vec<_> = places(row).collect();
            for (i, &(position, first)) in at.iter().enumerate() {
                spots[r * longest + i] = (row.start + i) as i32;
                inverse[row.start - start + i] = (r * longest + i) as i32;
                let line = &mut bias[(r * longest + i) * longest..][..longest];
                for (j, &(other, _)) in at.iter().enumerate().take(i + 1) {
                    let seen = j < row.prefix || j >= first;
                    // What is not seen may be later in another branch.
                    if seen && window.is_none_or(|w| position - other < w) {
                        line[j] = 0.0;
                    }
                }
            }
            // An empty place attends to itself alone: its softmax is defined, and nobody reads it.
            for i in at.len()..longest {
                bias[(r * longest + i) * longest + i] = 0.0;
            }
        }
        Self {
            places: Tensor::from_data(TensorData::new(spots, [rows.len() * longest]), device),
            tokens: Tensor::from_data(TensorData::new(inverse, [tokens]), device),
            bias: Tensor::from_data(TensorData::new(bias, [rows.len(), 1, 1, longest, longest]), (device, DType::F32)),
            rows: rows.len(),
            longest,
        }
    }

    /// `[tokens, keys·group·d]` to `[rows, keys, group·longest, d]`.
    fn spread(&self, x: Tensor<2>, keys: usize, group: usize, d: usize) -> Tensor<4> {
        x.select(0, self.places.clone())
            .reshape([self.rows, self.longest, keys, group, d])
            .permute([0, 2, 3, 1, 4])
            .reshape([self.rows, keys, group * self.longest, d])
    }

    /// The way back of [`spread`](Self::spread).
    fn gather(&self, x: Tensor<4>, group: usize) -> Tensor<2> {
        let [rows, keys, _, d] = x.dims();
        x.reshape([rows, keys, group, self.longest, d])
            .permute([0, 3, 1, 2, 4])
            .reshape([rows * self.longest, keys * group * d])
            .select(0, self.tokens.clone())
    }

    /// softmax(scores + mask) in f32, `[rows, keys, group·longest, longest]`.
    fn probabilities(&self, scores: Tensor<4>, heads: Heads) -> Tensor<4> {
        let shape = [self.rows, heads.keys, heads.group(), self.longest, self.longest];
        let flat = [self.rows, heads.keys, heads.group() * self.longest, self.longest];
        softmax(scores.reshape(shape) + self.bias.clone(), 4).reshape(flat)
    }
}

impl Heads {
    /// Query heads per key head.
    pub fn group(self) -> usize {
        self.queries / self.keys
    }

    /// What scores are multiplied by, 1/√d.
    pub fn scale(self) -> f64 {
        1.0 / (self.dim as f64).sqrt()
    }

    /// q kᵀ/√d in f32, capped.
    fn scores(self, q: Tensor<4>, k: Tensor<4>) -> Tensor<4> {
        capped(q.matmul(k.swap_dims(2, 3)).cast(DType::F32) * self.scale(), self.cap)
    }
}

/// Let q be `q` `[tokens, queries·d]` and k, v be `k`, `v` `[tokens, keys·d]`.
pub trait Attention: Debug + Sync {
    /// o `[tokens, queries·d]`, and what a kernel wants back in its backward pass, ln Σ exp `[tokens, queries]`.
    fn forward(&self, [q, k, v]: [&Tensor<2>; 3], mask: &Mask, heads: Heads) -> (Tensor<2>, Option<Tensor<2>>) {
        let Heads { keys, dim, .. } = heads;
        let one = |mask: &Rectangle| {
            let q = mask.spread(q.clone(), keys, heads.group(), dim);
            let k = mask.spread(k.clone(), keys, 1, dim);
            let v = mask.spread(v.clone(), keys, 1, dim);
            let p = mask.probabilities(heads.scores(q, k), heads);
            mask.gather(p.cast(v.dtype()).matmul(v), heads.group())
        };
        (joined(mask.rectangles().iter().map(one).collect()), None)
    }

    /// dq, dk and dv. With p the probabilities, computed anew: dv = pᵀ do, ds = p (do vᵀ − Σ do·o), dq = ds k/√d,
    /// dk = dsᵀ q/√d (arXiv:2205.14135, algorithm 4); under a cap, ds is multiplied by 1 − (s/c)² of the capped scores s.
    /// `out` and `log_sum_exp` are those of the forward pass.
    fn backward(
        &self,
        d_out: &Tensor<2>,
        [q, k, v]: [&Tensor<2>; 3],
        (_out, _log_sum_exp): (&Tensor<2>, Option<&Tensor<2>>),
        mask: &Mask,
        heads: Heads,
    ) -> [Tensor<2>; 3] {
        let Heads { keys, dim, .. } = heads;
        let mut parts: [Vec<Tensor<2>>; 3] = Default::default();
        for mask in mask.rectangles() {
            let q = mask.spread(q.clone(), keys, heads.group(), dim);
            let k = mask.spread(k.clone(), keys, 1, dim);
            let v = mask.spread(v.clone(), keys, 1, dim);
            let d_out = mask.spread(d_out.clone(), keys, heads.group(), dim);
            let scores = heads.scores(q.clone(), k.clone());
            let slope = slope(&scores, heads.cap);
            let p = mask.probabilities(scores, heads);
            let dv = p.clone().cast(d_out.dtype()).swap_dims(2, 3).matmul(d_out.clone());
            let dp = d_out.matmul(v.swap_dims(2, 3)).cast(DType::F32);
            // Σ do·o = Σ p·dp, row by row.
            let along = (p.clone() * dp.clone()).sum_dim(3);
            let ds = p * (dp - along) * heads.scale();
            let ds = if let Some(slope) = slope { ds * slope } else { ds }.cast(q.dtype());
            let dq = ds.clone().matmul(k);
            let dk = ds.swap_dims(2, 3).matmul(q);
            for (part, more) in
                parts.iter_mut().zip([mask.gather(dq, heads.group()), mask.gather(dk, 1), mask.gather(dv, 1)])
            {
                part.push(more);
            }
        }
        parts.map(joined)
    }

    /// An empty cache for texts in progress. `window` bounds how far back a token sees.
    fn cache(&self, window: Option<usize>, heads: Heads) -> Box<dyn Cache> {
        Box::new(PlainCache { window, heads, blocks: 0, stored: None })
    }

    /// Bytes that scores take at a time, on `rows` rows of at most `longest` tokens.
    fn held(&self, rows: usize, longest: usize, heads: Heads) -> usize {
        // The mask once; scores, probabilities and the gradients of both a group at a time.
        let padded = rows * longest * longest;
        4 * (padded + 4 * heads.queries * padded.min(SCORES.max(longest * longest)))
    }
}

impl Attention for Plain {}

/// Tokens of a block of a [`Cache`].
pub const BLOCK: usize = 16;

/// A text in progress, as a [`Cache`] sees it: its token p is row p mod [`BLOCK`] of block `blocks[p / BLOCK]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Growing {
    /// The blocks of its tokens. Texts that begin alike may share those that no new token goes to.
    pub blocks: Vec<u32>,
    /// Its tokens, the newest included.
    pub tokens: usize,
    /// How many of them are new.
    pub new: usize,
}

/// One step of texts in progress, for all layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    /// The texts, in the order of the token axis, which has their newest tokens.
    pub texts: Vec<Growing>,
    /// The number of blocks that there are to be.
    pub blocks: usize,
    /// Blocks that become the same as others before anything is written: from, to.
    pub copies: Vec<(u32, u32)>,
}

/// The keys and values of texts in progress, for one attention: in blocks of [`BLOCK`] tokens, however they lie there.
pub trait Cache: Debug + Send {
    /// Keeps the keys and values `k`, `v` `[new, keys·d]` of the newest tokens, and answers their queries `q`
    /// `[new, queries·d]` from all tokens of their texts so far, themselves included.
    fn extend(&mut self, qkv: [&Tensor<2>; 3], growth: &Growth) -> Tensor<2>;
}

/// A cache as tensors `[blocks·BLOCK, keys·d]`.
#[derive(Debug)]
struct PlainCache {
    window: Option<usize>,
    heads: Heads,
    blocks: usize,
    stored: Option<[Tensor<2>; 2]>,
}

impl PlainCache {
    /// Texts with one number of new tokens, side by side and padded to the longest.
    fn read(&self, q: Tensor<2>, texts: &[Growing]) -> Tensor<2> {
        let (Heads { keys, dim: d, .. }, group, rows, new) =
            (self.heads, self.heads.group(), texts.len(), texts[0].new);
        let longest = texts.iter().map(|t| t.tokens).max().expect("at least one text");
        let mut places = vec![0i32; rows * longest];
        let mut bias = vec![MASKED; rows * new * longest];
        for (r, text) in texts.iter().enumerate() {
            for p in 0..text.tokens {
                places[r * longest + p] = place(text, p);
            }
            for i in 0..new {
                let own = text.tokens - new + i;
                let from = self.window.map_or(0, |w| (own + 1).saturating_sub(w));
                bias[(r * new + i) * longest..][from..=own].fill(0.0);
            }
        }
        let device = q.device();
        let bias: Tensor<5> =
            Tensor::from_data(TensorData::new(bias, [rows, 1, 1, new, longest]), (&device, DType::F32));
        let places: Tensor<1, Int> = Tensor::from_data(TensorData::new(places, [rows * longest]), &device);
        let stored = self.stored.as_ref().expect("it was written to");
        let [k, v] = stored
            .each_ref()
            .map(|x| x.clone().select(0, places.clone()).reshape([rows, longest, keys, d]).permute([0, 2, 1, 3]));
        let q = q.reshape([rows, new, keys, group, d]).permute([0, 2, 3, 1, 4]).reshape([rows, keys, group * new, d]);
        let p = softmax(self.heads.scores(q, k).reshape([rows, keys, group, new, longest]) + bias, 4);
        p.reshape([rows, keys, group * new, longest])
            .cast(v.dtype())
            .matmul(v)
            .reshape([rows, keys, group, new, d])
            .permute([0, 3, 1, 2, 4])
            .reshape([rows * new, keys * group * d])
    }
}

/// Where the token at `position` of a text lies.
fn place(text: &Growing, position: usize) -> i32 {
    (text.blocks[position / BLOCK] as usize * BLOCK + position % BLOCK) as i32
}

impl Cache for PlainCache {
    fn extend(&mut self, [q, k, v]: [&Tensor<2>; 3], growth: &Growth) -> Tensor<2> {
        let device = q.device();
        let ints = |x: Vec<i32>| {
            let n = x.len();
            Tensor::<1, Int>::from_data(TensorData::new(x, [n]), &device)
        };
        let mut stored = self.stored.take();
        if growth.blocks > self.blocks {
            let more = (growth.blocks - self.blocks) * BLOCK;
            let zeros = Tensor::zeros([more, k.dims()[1]], (&device, k.dtype()));
            stored = Some(match stored {
                Some(old) => old.map(|x| Tensor::cat(vec![x, zeros.clone()], 0)),
                None => [zeros.clone(), zeros],
            });
            self.blocks = growth.blocks;
        }
        let rows = |blocks: &mut dyn Iterator<Item = u32>| {
            ints(blocks.flat_map(|b| (0..BLOCK as i32).map(move |r| b as i32 * BLOCK as i32 + r)).collect())
        };
        if !growth.copies.is_empty() {
            let from = rows(&mut growth.copies.iter().map(|c| c.0));
            let to = rows(&mut growth.copies.iter().map(|c| c.1));
            stored = stored.map(|all| {
                all.map(|x| {
                    let copied = x.clone().select(0, from.clone());
                    x.select_assign(0, to.clone(), copied, IndexingUpdateOp::Assign)
                })
            });
        }
        let new = |t: &Growing| (t.tokens - t.new..t.tokens).map(|p| place(t, p)).collect::<Vec<_>>();
        let places = ints(growth.texts.iter().flat_map(new).collect());
        let [old_k, old_v] = stored.expect("there are blocks for the new tokens");
        let write =
            |to: Tensor<2>, x: &Tensor<2>| to.select_assign(0, places.clone(), x.clone(), IndexingUpdateOp::Assign);
        self.stored = Some([write(old_k, k), write(old_v, v)]);

        let mut parts = Vec::new();
        let mut row = 0;
        for texts in growth.texts.chunk_by(|a, b| a.new == 1 && b.new == 1) {
            let n = texts.iter().map(|t| t.new).sum();
            parts.push(self.read(q.clone().narrow(0, row, n), texts));
            row += n;
        }
        joined(parts)
    }
}

/// The tokens of consecutive groups, one after the other.
fn joined(mut parts: Vec<Tensor<2>>) -> Tensor<2> {
    if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, 0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_keep_to_their_bound_and_lose_no_row() {
        let rows = [
            Row { start: 0, prefix: 3, branches: vec![2, 4] },
            Row { start: 9, prefix: 5, branches: vec![] },
            Row { start: 14, prefix: 1, branches: vec![1, 1, 1] },
        ];
        // 9, 5 and 4 tokens: two rows take 2·9² = 162 scores, all three 243.
        assert_eq!(groups(&rows, 243).len(), 1);
        assert_eq!(groups(&rows, 162), [0..2, 2..3]);
        assert_eq!(groups(&rows, 1), [0..1, 1..2, 2..3]);
        assert!(groups(&[], 1).is_empty());
    }
}
