//! `rows`: y = x·Wᵀ (+ b) for the newest tokens of texts that are written, a few rows at a time.
//!
//! Let x be a row of `x` `[n, k]`, w a row of `weight` `[outputs, k]`: y = Σᵢ xᵢwᵢ (+ b). Each sum goes along the lanes of
//! vectors from the first element to the last and is reduced at the end, whatever n is: the bits of a row do not depend
//! on the rows beside it, so that a text is the same alone and in any batch. The gemm crate, which chooses its way by the
//! shape, does not promise that.
//!
//! How: nothing is packed or transposed, because a weight is read once a step. A tile is a few rows of x times [`WIDE`] of
//! W, whose sums stay in registers; a task is a strip of W.

use half::bf16;
use pulp::Simd;

use crate::gemm::{Mat, MatMut};
use crate::parallel::each;
use crate::simd::dispatched;

/// Rows of W in a tile.
const WIDE: usize = 4;
/// Multiplications of a task: some 20 µs.
const TASK: usize = 1 << 20;
/// Rows of x that are taken through a strip of W at a time: they stay in the second-level cache.
const ROWS: usize = 192;

/// The numbers of a weight `[outputs, inputs]`.
#[derive(Clone, Copy, Debug)]
pub enum Weight<'a> {
    /// As they are computed with.
    F32(&'a [f32]),
    /// To be widened.
    Bf16(&'a [bf16]),
}

/// Σ of `R` rows of x with `O` rows of w, `k` elements each, one below the other: to rows `at ..` and columns `col ..` of
/// y.
///
/// Loops, and not `map` of arrays, which stays a function of its own and is compiled without the vector instructions.
#[inline(always)]
fn tile<S: Simd, const R: usize, const O: usize>(
    simd: S,
    x: &[f32],
    w: &[f32],
    k: usize,
    y: &mut MatMut<'_>,
    [at, col]: [usize; 2],
) {
    let vectors = k / S::F32_LANES;
    let rest = vectors * S::F32_LANES;
    let xs: [&[S::f32s]; R] = std::array::from_fn(
        #[inline(always)]
        |r| S::as_simd_f32s(&x[r * k..][..rest]).0,
    );
    let ws: [&[S::f32s]; O] = std::array::from_fn(
        #[inline(always)]
        |o| S::as_simd_f32s(&w[o * k..][..rest]).0,
    );
    let mut acc = [[simd.splat_f32s(0.0); O]; R];
    for i in 0..vectors {
        let w: [S::f32s; O] = std::array::from_fn(
            #[inline(always)]
            |o| ws[o][i],
        );
        for r in 0..R {
            let x = xs[r][i];
            for o in 0..O {
                acc[r][o] = simd.mul_add_e_f32s(x, w[o], acc[r][o]);
            }
        }
    }
    if rest < k {
        for (r, acc) in acc.iter_mut().enumerate() {
            let x = simd.partial_load_f32s(&x[r * k + rest..(r + 1) * k]);
            for (o, acc) in acc.iter_mut().enumerate() {
                let w = simd.partial_load_f32s(&w[o * k + rest..(o + 1) * k]);
                *acc = simd.mul_add_e_f32s(x, w, *acc);
            }
        }
    }
    for (r, acc) in acc.iter().enumerate() {
        let y = &mut y.row(at + r)[col..col + O];
        for (y, acc) in y.iter_mut().zip(acc) {
            *y = simd.reduce_sum_f32s(*acc);
        }
    }
}

/// `O` rows of w with all rows of x, in tiles of nearly one size.
#[inline(always)]
fn band<S: Simd, const O: usize>(simd: S, x: &[f32], w: &[f32], k: usize, y: &mut MatMut<'_>, col: usize, from: usize) {
    // As many sums as there are registers for.
    let most = if S::F32_LANES >= 16 { 6 } else { 3 };
    let n = x.len() / k;
    let tiles = n.div_ceil(most);
    for t in 0..tiles {
        let (first, end) = (t * n / tiles, (t + 1) * n / tiles);
        let (x, to) = (&x[first * k..end * k], [from + first, col]);
        match end - first {
            1 => tile::<S, 1, O>(simd, x, w, k, y, to),
            2 => tile::<S, 2, O>(simd, x, w, k, y, to),
            3 => tile::<S, 3, O>(simd, x, w, k, y, to),
            4 => tile::<S, 4, O>(simd, x, w, k, y, to),
            5 => tile::<S, 5, O>(simd, x, w, k, y, to),
            _ => tile::<S, 6, O>(simd, x, w, k, y, to),
        }
    }
}

dispatched! {
    fn strip<S>(simd, x: &'a [f32], w: &'a [f32], k: usize, y: &'a mut MatMut<'a>, from: usize) {
        let outputs = w.len() / k;
        for col in (0..outputs / WIDE * WIDE).step_by(WIDE) {
            band::<S, WIDE>(simd, x, &w[col * k..(col + WIDE) * k], k, y, col, from);
        }
        for col in outputs / WIDE * WIDE..outputs {
            band::<S, 1>(simd, x, &w[col * k..(col + 1) * k], k, y, col, from);
        }
    }
}

dispatched! {
    fn widen<S>(_simd, from: &'a [bf16], to: &'a mut [f32]) {
        for (from, to) in from.iter().zip(to) {
            *to = f32::from_bits(u32::from(from.to_bits()) << 16);
        }
    }
}

/// y ← x·Wᵀ (+ bias): `x` `[n, inputs]`, `weight` `[outputs, inputs]`, `bias` `[outputs]`, `y` `[n, outputs]`.
///
/// # Panics
/// When the lengths disagree.
pub fn linear(x: &[f32], weight: Weight<'_>, bias: Option<&[f32]>, inputs: usize, outputs: usize, y: &mut [f32]) {
    assert!(inputs > 0 && x.len().is_multiple_of(inputs), "{} elements are no rows of {inputs}", x.len());
    let n = x.len() / inputs;
    let len = match weight {
        Weight::F32(w) => w.len(),
        Weight::Bf16(w) => w.len(),
    };
    assert_eq!(Some(len), outputs.checked_mul(inputs), "weight is [{outputs}, {inputs}]");
    assert!(bias.is_none_or(|b| b.len() == outputs), "bias is [{outputs}]");
    // A task of few rows is as large as the part of W that it reads.
    let wide = (TASK / inputs / n.max(8)).next_multiple_of(WIDE).clamp(4 * WIDE, 1 << 12);
    let mut strips = Vec::new();
    let mut rest = MatMut::new(y, n, outputs);
    for first in (0..outputs).step_by(wide) {
        let (left, right) = rest.split_cols(wide.min(outputs - first));
        strips.push((first, left));
        rest = right;
    }
    let x = Mat::new(x, n, inputs);
    each(strips.into_iter(), |(first, mut y)| {
        let cols = y.shape().1;
        let part = first * inputs..(first + cols) * inputs;
        let mut wide = Vec::new();
        let w = match weight {
            Weight::F32(w) => &w[part],
            Weight::Bf16(w) => {
                wide.resize(part.len(), 0.0);
                widen(&w[part], &mut wide);
                &wide
            }
        };
        for from in (0..n).step_by(ROWS) {
            let rows = ROWS.min(n - from);
            let mut y = y.block(0, n, 0, cols);
            strip(x.rows(from, rows), w, inputs, &mut y, from);
        }
        if let Some(bias) = bias {
            for r in 0..n {
                y.row(r).iter_mut().zip(&bias[first..]).for_each(|(y, b)| *y += b);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Seeded, close, same_bits_on_any_pool, wide};

    #[test]
    fn products_against_f64_in_both_types() {
        let mut seeded = Seeded(31);
        for round in 0..40 {
            let (n, k, o) = (seeded.index(1, 30), seeded.index(1, 90), seeded.index(1, 70));
            let (x, mut w, b) = (seeded.vec(n * k, 1.0), seeded.vec(o * k, 1.0), seeded.vec(o, 1.0));
            let narrow: Vec<bf16> = w.iter().map(|w| bf16::from_f32(*w)).collect();
            if round % 2 == 1 {
                w = narrow.iter().map(|w| w.to_f32()).collect();
            }
            let bias = (round % 4 < 2).then_some(&b[..]);
            let (xs, ws) = (wide(&x), wide(&w));
            let expected: Vec<f64> = (0..n * o)
                .map(|at| {
                    let (r, c) = (at / o, at % o);
                    let dot: f64 = (0..k).map(|i| xs[r * k + i] * ws[c * k + i]).sum();
                    dot + bias.map_or(0.0, |b| f64::from(b[c]))
                })
                .collect();
            let mut y = vec![f32::NAN; n * o];
            let weight = if round % 2 == 1 { Weight::Bf16(&narrow) } else { Weight::F32(&w) };
            linear(&x, weight, bias, k, o, &mut y);
            close(&y, &expected, 1e-6);
        }
    }

    #[test]
    fn a_row_has_the_same_bits_among_any_rows() {
        let mut seeded = Seeded(32);
        let (n, k, o) = (250, 100, 43);
        let (x, w, b) = (seeded.vec(n * k, 1.0), seeded.vec(o * k, 1.0), seeded.vec(o, 1.0));
        let run = |rows: std::ops::Range<usize>| {
            let mut y = vec![0.0; rows.len() * o];
            linear(&x[rows.start * k..rows.end * k], Weight::F32(&w), Some(&b), k, o, &mut y);
            y
        };
        let all = run(0..n);
        for rows in [0..1, 7..9, 5..8, 100..104, 33..38, 60..66, 1..8, 3..20, 0..33, 10..201] {
            assert_eq!(run(rows.clone()), all[rows.start * o..rows.end * o], "rows {rows:?}");
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let mut seeded = Seeded(33);
        let (n, k, o) = (9, 384, 3000);
        let (x, w) = (seeded.vec(n * k, 1.0), seeded.vec(o * k, 1.0));
        same_bits_on_any_pool(|| {
            let mut y = vec![0.0; n * o];
            linear(&x, Weight::F32(&w), None, k, o, &mut y);
            y
        });
    }
}
