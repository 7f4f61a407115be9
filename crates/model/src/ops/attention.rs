//! o = softmax(q kᵀ/√d + mask) v, on rows whose branches share a prefix.

use burn::tensor::{DType, Device, Int, Tensor, TensorData, activation::softmax};

use collimate_kernels::attention::Attention;
use std::cell::OnceCell;
use std::ops::Range;

use crate::host::{self, View};
use crate::layout::{Row, places};

/// Far below any score, yet finite: its exponential is exactly 0 in f32.
const MASKED: f32 = -1e30;

/// Most scores of one head that tensor operations hold at a time: longer batches go by groups of rows.
pub(crate) const SCORES: usize = 1 << 21;

/// Widths of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heads {
    /// Query heads.
    pub queries: usize,
    /// Key and value heads; query head h reads key head h·keys/queries.
    pub keys: usize,
    /// Width of a head, d.
    pub dim: usize,
}

/// Who attends to whom, prepared once per batch for all layers with the same window.
#[derive(Debug)]
pub(crate) struct Mask {
    rows: Vec<Row>,
    window: Option<usize>,
    device: Device,
    scores: usize,
    rectangles: OnceCell<Vec<Rectangle>>,
}

impl Mask {
    /// `window`: how many positions back a token sees, itself included; none: all.
    pub fn new(rows: &[Row], window: Option<usize>, device: &Device) -> Self {
        let rectangles = OnceCell::new();
        Self { rows: rows.to_vec(), window, device: device.clone(), scores: SCORES, rectangles }
    }

    /// The rows as rectangles, which only tensor operations need.
    fn rectangles(&self) -> &[Rectangle] {
        self.rectangles.get_or_init(|| {
            let groups = groups(&self.rows, self.scores).into_iter();
            groups.map(|g| Rectangle::new(&self.rows[g], self.window, &self.device)).collect()
        })
    }

    fn kernel(&self, heads: Heads) -> Attention<'_> {
        Attention {
            rows: &self.rows,
            heads: heads.queries,
            kv_heads: heads.keys,
            head_dim: heads.dim,
            scale: heads.scale() as f32,
            window: self.window,
        }
    }
}

/// Cuts rows into runs that hold at most `scores` scores when padded to their longest, or one row.
pub(crate) fn groups(rows: &[Row], scores: usize) -> Vec<Range<usize>> {
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
#[derive(Clone, Debug)]
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
                    let near = window.is_none_or(|w| position - other < w);
                    if seen && near {
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

    /// softmax(q kᵀ/√d + mask) in f32, `[rows, keys, group·longest, longest]`.
    fn probabilities(&self, q: &Tensor<4>, k: &Tensor<4>, heads: Heads) -> Tensor<4> {
        let shape = [self.rows, heads.keys, heads.group(), self.longest, self.longest];
        let flat = [self.rows, heads.keys, heads.group() * self.longest, self.longest];
        let scores = q.clone().matmul(k.clone().swap_dims(2, 3)).cast(DType::F32) * heads.scale();
        softmax(scores.reshape(shape) + self.bias.clone(), 4).reshape(flat)
    }
}

impl Heads {
    fn group(self) -> usize {
        self.queries / self.keys
    }
    fn scale(self) -> f64 {
        1.0 / (self.dim as f64).sqrt()
    }
}

/// Let q be `q` `[tokens, queries·d]` and k, v be `k`, `v` `[tokens, keys·d]`: o `[tokens, queries·d]`, and what the
/// backward pass of a kernel wants beside it, ln Σ exp `[tokens, queries]`.
pub(crate) fn forward(
    q: &Tensor<2>,
    k: &Tensor<2>,
    v: &Tensor<2>,
    mask: &Mask,
    heads: Heads,
) -> (Tensor<2>, Option<Tensor<2>>) {
    let Some([qs, ks, vs]) = View::all([q, k, v]) else { return (plain(q, k, v, mask.rectangles(), heads), None) };
    let [n, width] = q.dims();
    let (mut out, mut lse) = (vec![0.0; n * width], vec![0.0; n * heads.queries]);
    mask.kernel(heads).forward(qs.slice(), ks.slice(), vs.slice(), &mut out, &mut lse);
    (host::tensor(out, [n, width]), Some(host::tensor(lse, [n, heads.queries])))
}

fn plain(q: &Tensor<2>, k: &Tensor<2>, v: &Tensor<2>, masks: &[Rectangle], heads: Heads) -> Tensor<2> {
    let Heads { keys, dim, .. } = heads;
    let one = |mask: &Rectangle| {
        let q = mask.spread(q.clone(), keys, heads.group(), dim);
        let k = mask.spread(k.clone(), keys, 1, dim);
        let v = mask.spread(v.clone(), keys, 1, dim);
        mask.gather(mask.probabilities(&q, &k, heads).cast(v.dtype()).matmul(v), heads.group())
    };
    joined(masks.iter().map(one).collect())
}

/// The tokens of consecutive groups, one after the other.
fn joined(mut parts: Vec<Tensor<2>>) -> Tensor<2> {
    if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, 0) }
}

/// dq, dk and dv. With p the probabilities, computed anew: dv = pᵀ do, ds = p (do vᵀ − Σ do·o), dq = ds k/√d,
/// dk = dsᵀ q/√d (arXiv:2205.14135, algorithm 4). `out` and `lse` are those of the forward pass.
pub(crate) fn backward(
    d_out: &Tensor<2>,
    [q, k, v]: [&Tensor<2>; 3],
    (out, lse): (&Tensor<2>, Option<&Tensor<2>>),
    mask: &Mask,
    heads: Heads,
) -> [Tensor<2>; 3] {
    let views = lse.and_then(|lse| View::all([d_out, q, k, v, out, lse]));
    let Some([g, qs, ks, vs, o, l]) = views else { return plain_backward(d_out, [q, k, v], mask.rectangles(), heads) };
    let (dims, kv_dims) = (q.dims(), k.dims());
    let mut dq = vec![0.0; dims[0] * dims[1]];
    let [mut dk, mut dv] = [(); 2].map(|()| vec![0.0; kv_dims[0] * kv_dims[1]]);
    mask.kernel(heads).backward(
        g.slice(),
        qs.slice(),
        ks.slice(),
        vs.slice(),
        o.slice(),
        l.slice(),
        &mut dq,
        &mut dk,
        &mut dv,
    );
    [host::tensor(dq, dims), host::tensor(dk, kv_dims), host::tensor(dv, kv_dims)]
}

fn plain_backward(d_out: &Tensor<2>, [q, k, v]: [&Tensor<2>; 3], masks: &[Rectangle], heads: Heads) -> [Tensor<2>; 3] {
    let Heads { keys, dim, .. } = heads;
    let mut parts: [Vec<Tensor<2>>; 3] = Default::default();
    for mask in masks {
        let q = mask.spread(q.clone(), keys, heads.group(), dim);
        let k = mask.spread(k.clone(), keys, 1, dim);
        let v = mask.spread(v.clone(), keys, 1, dim);
        let d_out = mask.spread(d_out.clone(), keys, heads.group(), dim);
        let p = mask.probabilities(&q, &k, heads);
        let dv = p.clone().cast(d_out.dtype()).swap_dims(2, 3).matmul(d_out.clone());
        let dp = d_out.matmul(v.swap_dims(2, 3)).cast(DType::F32);
        // Σ do·o = Σ p·dp, row by row.
        let along = (p.clone() * dp.clone()).sum_dim(3);
        let ds = (p * (dp - along) * heads.scale()).cast(q.dtype());
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

/// One text in progress: the queries of its newest tokens `[new, queries·d]` against all keys and values so far
/// `[all, keys·d]`, the newest included. `seen` bounds how far back a token sees.
pub(crate) fn extend(q: &Tensor<2>, k: &Tensor<2>, v: &Tensor<2>, window: Option<usize>, heads: Heads) -> Tensor<2> {
    let ([new, width], [all, _]) = (q.dims(), k.dims());
    let (group, d) = (heads.group(), heads.dim);
    let split = |x: &Tensor<2>| x.clone().reshape([all, heads.keys, d]).permute([1, 0, 2]);
    let q = q.clone().reshape([new, heads.keys, group, d]).permute([1, 2, 0, 3]).reshape([heads.keys, group * new, d]);
    let mut bias = vec![0f32; new * all];
    for i in 0..new {
        let own = all - new + i;
        for (j, b) in bias[i * all..][..all].iter_mut().enumerate() {
            if j > own || window.is_some_and(|w| own - j >= w) {
                *b = MASKED;
            }
        }
    }
    let bias: Tensor<4> = Tensor::from_data(TensorData::new(bias, [1, 1, new, all]), (&q.device(), DType::F32));
    let scores = q.matmul(split(k).swap_dims(1, 2)).cast(DType::F32) * heads.scale();
    let p = softmax(scores.reshape([heads.keys, group, new, all]) + bias, 3).reshape([heads.keys, group * new, all]);
    p.cast(v.dtype()).matmul(split(v)).reshape([heads.keys, group, new, d]).permute([2, 0, 1, 3]).reshape([new, width])
}

#[cfg(test)]
mod tests {
    use super::super::oracle::{assert_close, gradients, on_both, random};
    use super::*;

    const HEADS: Heads = Heads { queries: 4, keys: 2, dim: 4 };

    fn rows() -> Vec<Row> {
        vec![
            Row { start: 0, prefix: 3, branches: vec![2, 4] },
            Row { start: 9, prefix: 5, branches: vec![] },
            Row { start: 14, prefix: 1, branches: vec![1, 1, 1] },
        ]
    }

    fn inputs() -> [Tensor<2>; 3] {
        [random([18, 16], 1), random([18, 8], 2), random([18, 8], 3)]
    }

    /// Straight from the definition, token by token, in f64.
    fn naive(q: &Tensor<2>, k: &Tensor<2>, v: &Tensor<2>, rows: &[Row], window: Option<usize>) -> Vec<f32> {
        let host =
            |t: &Tensor<2>| t.to_data().try_to_vec::<f32>().unwrap().iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
        let (q, k, v) = (host(q), host(k), host(v));
        let mut out = vec![0f32; q.len()];
        for row in rows {
            let at: Vec<_> = places(row).collect();
            for i in 0..row.tokens() {
                for h in 0..HEADS.queries {
                    let kh = h / 2;
                    let seen: Vec<usize> = (0..=i)
                        .filter(|&j| {
                            (j < row.prefix || at[j].1 == at[i].1) && window.is_none_or(|w| at[i].0 - at[j].0 < w)
                        })
                        .collect();
                    let dot = |j: usize| {
                        (0..4)
                            .map(|c| q[(row.start + i) * 16 + h * 4 + c] * k[(row.start + j) * 8 + kh * 4 + c])
                            .sum::<f64>()
                            / 2.0
                    };
                    let e: Vec<f64> = seen.iter().map(|&j| dot(j).exp()).collect();
                    let z: f64 = e.iter().sum();
                    for c in 0..4 {
                        let o: f64 =
                            seen.iter().zip(&e).map(|(&j, e)| e / z * v[(row.start + j) * 8 + kh * 4 + c]).sum();
                        out[(row.start + i) * 16 + h * 4 + c] = o as f32;
                    }
                }
            }
        }
        out
    }

    #[test]
    fn groups_keep_to_their_bound_and_lose_no_row() {
        // 9, 5 and 4 tokens: two rows take 2·9² = 162 scores, all three 243.
        assert_eq!(groups(&rows(), 243).len(), 1);
        assert_eq!(groups(&rows(), 162), [0..2, 2..3]);
        assert_eq!(groups(&rows(), 1), [0..1, 1..2, 2..3]);
        assert!(groups(&[], 1).is_empty());
    }

    #[test]
    fn forward_is_the_definition() {
        on_both(|at| {
            let [q, k, v] = inputs().map(at);
            for (window, scores) in [(None, SCORES), (Some(3), SCORES), (None, 162), (Some(3), 1)] {
                let mask = Mask { scores, ..Mask::new(&rows(), window, &q.device()) };
                let expected = TensorData::new(naive(&q, &k, &v, &rows(), window), [18, 16]);
                assert_close(&forward(&q, &k, &v, &mask, HEADS).0, &Tensor::from_data(expected, &q.device()));
            }
        });
    }

    #[test]
    fn backward_is_that_of_forward() {
        on_both(|at| {
            let [q, k, v] = inputs().map(at);
            let dy = at(random([18, 16], 4));
            let mask = Mask::new(&rows(), Some(4), &q.device());
            let tracked = |r: &Rectangle| Rectangle { bias: r.bias.clone().autodiff(), ..r.clone() };
            let tracked: Vec<_> = mask.rectangles().iter().map(tracked).collect();
            let expected =
                gradients(&[q.clone(), k.clone(), v.clone()], &dy, |t| plain(&t[0], &t[1], &t[2], &tracked, HEADS));
            let by_groups = Mask { scores: 162, ..Mask::new(&rows(), Some(4), &q.device()) };
            for mask in [mask, by_groups] {
                let (out, lse) = forward(&q, &k, &v, &mask, HEADS);
                let got = backward(&dy, [&q, &k, &v], (&out, lse.as_ref()), &mask, HEADS);
                for (got, expected) in got.iter().zip(&expected) {
                    assert_close(got, expected);
                }
            }
        });
    }

    #[test]
    fn extending_is_the_same_as_starting_over() {
        let [q, k, v] = inputs();
        let (q, k, v) = (q.narrow(0, 0, 9), k.narrow(0, 0, 9), v.narrow(0, 0, 9));
        let whole = [Row { start: 0, prefix: 9, branches: vec![] }];
        for window in [None, Some(3)] {
            let expected = forward(&q, &k, &v, &Mask::new(&whole, window, &q.device()), HEADS).0.narrow(0, 6, 3);
            assert_close(&extend(&q.clone().narrow(0, 6, 3), &k, &v, window, HEADS), &expected);
        }
    }
}
