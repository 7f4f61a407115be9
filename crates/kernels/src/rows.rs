//! `rows`: y = x·Wᵀ (+ b) for the newest tokens of texts that are written, a few rows at a time.
//!
//! Let x be a row of `x` `[n, k]`, w a row of a weight `[outputs, k]`: y = Σᵢ xᵢwᵢ (+ b). Each sum goes from the first
//! element to the last, one addition after the other, whatever n is: the bits of a row do not depend on the rows beside it,
//! so that a text is the same alone and in any batch. The gemm crate, which chooses its way by the shape, does not promise
//! that.
//!
//! How: a weight is packed once, for many steps, in panels of `PANEL` outputs `[k, PANEL]`: the lanes of a vector are
//! outputs, and nothing is summed across a vector (with k = 384 that cost as much as the products). A tile is a few rows of
//! x times some vectors of a panel, whose sums stay in registers; a panel stays in the second-level cache while all rows go
//! through it. Several weights that read the same x go through in one parallel region.

use half::bf16;
use half::slice::HalfFloatSliceExt;
use pulp::Simd;

use crate::gemm::{Mat, MatMut};
use crate::half::widen_piece;
use crate::parallel::each;
use crate::simd::dispatched;
use crate::transpose::{LANES, transpose};

/// Outputs of a panel.
const PANEL: usize = 64;
/// Rows of a tile: with 4 vectors of 16 lanes, or 2 of 8, as many sums as there are registers for.
const ROWS: usize = 6;
/// Multiplications of a task: some 10 µs.
const TASK: usize = 1 << 20;
/// Tasks of all products together, where there is more to do.
const TASKS: usize = 128;

/// The numbers of a weight `[outputs, inputs]`.
#[derive(Clone, Copy, Debug)]
pub enum Weight<'a> {
    /// As they are computed with.
    F32(&'a [f32]),
    /// To be widened.
    Bf16(&'a [bf16]),
}

/// A weight in the order in which [`linear`] reads it: as many numbers, of the same type, and the last panel filled up.
#[derive(Debug)]
pub struct Packed {
    inputs: usize,
    outputs: usize,
    panels: Panels,
}

#[derive(Debug)]
enum Panels {
    F32(Aligned),
    Bf16(Vec<bf16>),
}

/// Numbers whose vectors do not lie across the borders of cache lines.
#[derive(Debug)]
struct Aligned {
    buffer: Vec<f32>,
    first: usize,
    len: usize,
}

impl Aligned {
    fn zeros(len: usize) -> Self {
        let buffer = vec![0.0; len + LANES];
        let first = buffer.as_ptr().align_offset(size_of::<[f32; LANES]>()).min(LANES);
        Self { buffer, first, len }
    }

    fn slice(&self) -> &[f32] {
        &self.buffer[self.first..][..self.len]
    }

    fn slice_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[self.first..][..self.len]
    }
}

impl Packed {
    /// Packs a weight `[outputs, inputs]`.
    ///
    /// # Panics
    /// When the lengths disagree.
    pub fn new(weight: Weight<'_>, inputs: usize, outputs: usize) -> Self {
        let len = match weight {
            Weight::F32(w) => w.len(),
            Weight::Bf16(w) => w.len(),
        };
        assert!(inputs > 0 && Some(len) == outputs.checked_mul(inputs), "weight is [{outputs}, {inputs}]");
        let (size, all) = (PANEL * inputs, outputs.div_ceil(PANEL) * PANEL * inputs);
        let part = |i: usize| i * size..((i + 1) * size).min(len);
        let turn = |w: &[f32], to: &mut [f32]| transpose(Mat::new(w, w.len() / inputs, inputs), to, PANEL);
        let panels = match weight {
            Weight::F32(w) => {
                let mut panels = Aligned::zeros(all);
                each(panels.slice_mut().chunks_mut(size).enumerate(), |(i, to)| turn(&w[part(i)], to));
                Panels::F32(panels)
            }
            Weight::Bf16(w) => {
                let mut panels = vec![bf16::ZERO; all];
                each(panels.chunks_mut(size).enumerate(), |(i, to)| {
                    let w = &w[part(i)];
                    let (mut wide, mut turned) = (vec![0.0; w.len()], vec![0.0; size]);
                    widen_piece(w.reinterpret_cast(), &mut wide);
                    turn(&wide, &mut turned);
                    to.iter_mut().zip(&turned).for_each(|(to, x)| *to = bf16::from_f32(*x));
                });
                Panels::Bf16(panels)
            }
        };
        Self { inputs, outputs, panels }
    }

    /// Rows of the weight.
    pub fn outputs(&self) -> usize {
        self.outputs
    }
}

/// What the processor is asked to bring near while it computes: its own guesses stop where a panel is read again.
#[derive(Clone, Copy)]
struct Ahead<'a> {
    /// The panel that comes next.
    panel: &'a [f32],
    /// Of the lines of a row of it, which are this tile's.
    first: usize,
    step: usize,
}

impl Ahead<'_> {
    /// Row `i`.
    #[inline(always)]
    #[allow(unsafe_code)]
    fn ask(self, i: usize) {
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (self.panel, self.first, self.step, i);
        #[cfg(target_arch = "x86_64")]
        for line in (self.first..PANEL / LANES).step_by(self.step) {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            let at = self.panel.as_ptr().wrapping_add(i * PANEL + line * LANES);
            // SAFETY: a hint: nothing is read, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
        }
    }
}

/// `R` rows of x, `k` elements each, times `V` vectors of a panel from its column `first` on: to rows `at ..` and as many
/// columns `first ..` of y as there are.
///
/// Loops, and not `map` of arrays, which stays a function of its own and is compiled without the vector instructions.
#[inline(always)]
fn tile<S: Simd, const R: usize, const V: usize>(
    simd: S,
    x: &[f32],
    panel: &[f32],
    ahead: Ahead<'_>,
    y: &mut MatMut<'_>,
    [at, first]: [usize; 2],
) {
    let k = panel.len() / PANEL;
    let xs: [&[f32]; R] = std::array::from_fn(
        #[inline(always)]
        |r| &x[r * k..][..k],
    );
    let mut acc = [[simd.splat_f32s(0.0); V]; R];
    for (i, w) in panel.chunks_exact(PANEL).enumerate() {
        ahead.ask(i);
        let w = S::as_simd_f32s(&w[first..first + V * S::F32_LANES]).0;
        let w: [S::f32s; V] = std::array::from_fn(
            #[inline(always)]
            |v| w[v],
        );
        for r in 0..R {
            let x = simd.splat_f32s(xs[r][i]);
            for v in 0..V {
                acc[r][v] = simd.mul_add_e_f32s(x, w[v], acc[r][v]);
            }
        }
    }
    let wide = (V * S::F32_LANES).min(y.shape().1 - first);
    for (r, acc) in acc.iter().enumerate() {
        let y = &mut y.row(at + r)[first..first + wide];
        if wide == V * S::F32_LANES {
            for (y, acc) in S::as_mut_simd_f32s(y).0.iter_mut().zip(acc) {
                *y = *acc;
            }
        } else {
            for (y, acc) in y.chunks_mut(S::F32_LANES).zip(acc) {
                simd.partial_store_f32s(y, *acc);
            }
        }
    }
}

/// All rows of x with `V` vectors of a panel.
#[inline(always)]
fn band<S: Simd, const V: usize>(simd: S, x: &[f32], panel: &[f32], next: &[f32], y: &mut MatMut<'_>, first: usize) {
    let (k, n) = (panel.len() / PANEL, y.shape().0);
    // Of nearly one size.
    let tiles = n.div_ceil(ROWS);
    for t in 0..tiles {
        let (at, end) = (t * n / tiles, (t + 1) * n / tiles);
        let (x, to, ahead) = (&x[at * k..end * k], [at, first], Ahead { panel: next, first: t, step: tiles });
        match end - at {
            1 => tile::<S, 1, V>(simd, x, panel, ahead, y, to),
            2 => tile::<S, 2, V>(simd, x, panel, ahead, y, to),
            3 => tile::<S, 3, V>(simd, x, panel, ahead, y, to),
            4 => tile::<S, 4, V>(simd, x, panel, ahead, y, to),
            5 => tile::<S, 5, V>(simd, x, panel, ahead, y, to),
            _ => tile::<S, ROWS, V>(simd, x, panel, ahead, y, to),
        }
    }
}

dispatched! {
    /// y `[n, up to PANEL]` ← x times a panel.
    fn times_panel<S>(simd, x: &'a [f32], panel: &'a [f32], next: &'a [f32], y: &'a mut MatMut<'a>) {
        let (cols, lanes) = (y.shape().1, S::F32_LANES);
        let mut first = 0;
        while first < cols {
            let vectors = (cols - first).div_ceil(lanes);
            if lanes != 8 && vectors >= 4 {
                band::<S, 4>(simd, x, panel, next, y, first);
                first += 4 * lanes;
            } else if vectors >= 2 {
                band::<S, 2>(simd, x, panel, next, y, first);
                first += 2 * lanes;
            } else {
                band::<S, 1>(simd, x, panel, next, y, first);
                first += lanes;
            }
        }
    }
}

/// A product with x: weight, bias `[outputs]` and y `[n, outputs]`.
pub type Product<'a> = (&'a Packed, Option<&'a [f32]>, &'a mut [f32]);

/// y ← x·Wᵀ (+ bias) for each of the products, with one `x` `[n, inputs]`.
///
/// # Panics
/// When the lengths disagree.
pub fn linear(x: &[f32], inputs: usize, products: Vec<Product<'_>>) {
    assert!(inputs > 0 && x.len().is_multiple_of(inputs), "{} elements are no rows of {inputs}", x.len());
    let n = x.len() / inputs;
    // A task of few rows is as large as the part of W that it reads. No more tasks than many threads can share.
    let all = products.iter().map(|p| p.0.outputs).sum::<usize>().div_ceil(TASKS);
    let wide = (TASK / inputs / n.max(8)).max(all).next_multiple_of(PANEL);
    let mut tasks = Vec::new();
    for (weight, bias, y) in products {
        let outputs = weight.outputs;
        assert_eq!(weight.inputs, inputs, "a weight [{outputs}, {}] of rows of {inputs}", weight.inputs);
        assert!(bias.is_none_or(|b| b.len() == outputs), "bias is [{outputs}]");
        let mut rest = MatMut::new(y, n, outputs);
        for first in (0..outputs).step_by(wide) {
            let (left, right) = rest.split_cols(wide.min(outputs - first));
            tasks.push((weight, bias, first, left));
            rest = right;
        }
    }
    each(tasks.into_iter(), |(weight, bias, first, mut y)| {
        let (size, cols) = (PANEL * inputs, y.shape().1);
        let mut wide = Vec::new();
        for at in (0..cols).step_by(PANEL) {
            let part = (first + at) * inputs..(first + at) * inputs + size;
            let panel = match &weight.panels {
                Panels::F32(w) => &w.slice()[part.clone()],
                Panels::Bf16(w) => {
                    wide.resize(size, 0.0);
                    widen_piece(w[part.clone()].reinterpret_cast(), &mut wide);
                    &wide
                }
            };
            let next = match &weight.panels {
                Panels::F32(w) => w.slice().get(part.end..part.end + size).unwrap_or(panel),
                Panels::Bf16(_) => panel,
            };
            times_panel(x, panel, next, &mut y.block(0, n, at, PANEL.min(cols - at)));
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
    use crate::testing::{Seeded, close, each_path, same_bits_on_any_pool, wide};

    #[test]
    fn products_against_f64_in_both_types() {
        each_path(|| {
            let mut seeded = Seeded(31);
            for round in 0..40 {
                let (n, k, o) = (seeded.index(1, 30), seeded.index(1, 90), seeded.index(1, 170));
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
                let packed = Packed::new(weight, k, o);
                let mut again = vec![f32::NAN; n * o];
                linear(&x, k, vec![(&packed, bias, &mut y), (&packed, None, &mut again)]);
                close(&y, &expected, 1e-6);
                if bias.is_none() {
                    assert_eq!(y, again);
                }
            }
        });
    }

    #[test]
    fn a_row_has_the_same_bits_among_any_rows() {
        each_path(|| {
            let mut seeded = Seeded(32);
            let (n, k, o) = (250, 100, 235);
            let (x, w, b) = (seeded.vec(n * k, 1.0), seeded.vec(o * k, 1.0), seeded.vec(o, 1.0));
            let packed = Packed::new(Weight::F32(&w), k, o);
            let run = |rows: std::ops::Range<usize>| {
                let mut y = vec![0.0; rows.len() * o];
                linear(&x[rows.start * k..rows.end * k], k, vec![(&packed, Some(&b), &mut y)]);
                y
            };
            let all = run(0..n);
            for rows in [0..1, 7..9, 5..8, 100..104, 33..38, 60..66, 1..8, 3..20, 0..33, 10..201] {
                assert_eq!(run(rows.clone()), all[rows.start * o..rows.end * o], "rows {rows:?}");
            }
        });
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let mut seeded = Seeded(33);
        let (n, k, o) = (9, 384, 3000);
        let (x, w) = (seeded.vec(n * k, 1.0), seeded.vec(o * k, 1.0));
        same_bits_on_any_pool(|| {
            let mut y = vec![0.0; n * o];
            linear(&x, k, vec![(&Packed::new(Weight::F32(&w), k, o), None, &mut y)]);
            y
        });
    }
}
