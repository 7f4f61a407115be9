//! `rms_norm`: y = w ⊙ x / √(mean(x²) + ε), row by row (arXiv:1910.07467, equation 4).
//!
//! Let x be a row of `x` `[n, d]`, w `weight` `[d]`, ε `eps`, ρ = 1/√(Σⱼ xⱼ²/d + ε) the row's entry of `inv_rms` `[n]`:
//!
//! - forward: yⱼ = wⱼ·xⱼ·ρ
//! - backward, with g = ∂L/∂y a row of `dy`: ∂L/∂xⱼ = ρ·(wⱼgⱼ − xⱼ·ρ²·Σᵢ wᵢgᵢxᵢ/d); ∂L/∂wⱼ = Σ_rows gⱼxⱼρ
//!
//! The norm of queries and keys is the same with d the width of a head and n the number of tokens times heads.

use crate::parallel::{each, map, rows_per_piece};
use crate::simd::{dispatched, sum, update};

dispatched! {
    fn forward_piece<S>(simd, x: &'a [f32], w: &'a [f32], eps: f32, y: &'a mut [f32], inv_rms: &'a mut [f32]) {
        let d = w.len();
        for ((x, y), inv_rms) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)).zip(inv_rms) {
            let squares = sum(simd, [x], #[inline(always)] |[x], acc| simd.mul_add_e_f32s(x, x, acc));
            let rho = 1.0 / (squares / d as f32 + eps).sqrt();
            *inv_rms = rho;
            let rho = simd.splat_f32s(rho);
            update(simd, [y], [x, w], #[inline(always)] |[_], [x, w]| [simd.mul_f32s(simd.mul_f32s(x, rho), w)]);
        }
    }
}

dispatched! {
    fn backward_piece<S>(
        simd,
        dy: &'a [f32],
        x: &'a [f32],
        w: &'a [f32],
        inv_rms: &'a [f32],
        dx: &'a mut [f32],
        accumulate: bool,
        dw: &'a mut [f32],
    ) {
        let d = w.len();
        let rows = dy.chunks_exact(d).zip(x.chunks_exact(d)).zip(dx.chunks_exact_mut(d)).zip(inv_rms);
        for (((dy, x), dx), &rho) in rows {
            let dot = sum(simd, [dy, x, w], #[inline(always)] |[g, x, w], acc| simd.mul_add_e_f32s(simd.mul_f32s(g, w), x, acc));
            let along = simd.splat_f32s(-rho * rho * rho * dot / d as f32);
            let rho = simd.splat_f32s(rho);
            // One pass for both gradients: dy and x are read from memory once.
            if accumulate {
                update(simd, [dx, &mut *dw], [dy, x, w], #[inline(always)] |[dx, dw], [g, x, w]| {
                    let gr = simd.mul_f32s(g, rho);
                    let dx = simd.add_f32s(dx, simd.mul_add_e_f32s(x, along, simd.mul_f32s(gr, w)));
                    [dx, simd.mul_add_e_f32s(gr, x, dw)]
                });
            } else {
                update(simd, [dx, &mut *dw], [dy, x, w], #[inline(always)] |[_, dw], [g, x, w]| {
                    let gr = simd.mul_f32s(g, rho);
                    [simd.mul_add_e_f32s(x, along, simd.mul_f32s(gr, w)), simd.mul_add_e_f32s(gr, x, dw)]
                });
            }
        }
    }
}

dispatched! {
    fn add<S>(simd, to: &'a mut [f32], x: &'a [f32]) {
        update(simd, [to], [x], #[inline(always)] |[to], [x]| [simd.add_f32s(to, x)]);
    }
}

/// Normalises the rows of `x` `[n, d]` into `y` `[n, d]` and writes 1/√(mean(x²) + ε) into `inv_rms` `[n]`.
///
/// # Panics
/// When the lengths disagree.
pub fn forward(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32], inv_rms: &mut [f32]) {
    let (d, n) = (weight.len(), inv_rms.len());
    assert_eq!(x.len(), n * d, "x is [{n}, {d}]");
    assert_eq!(y.len(), n * d, "y is [{n}, {d}]");
    let rows = rows_per_piece(d);
    each(x.chunks(rows * d).zip(y.chunks_mut(rows * d)).zip(inv_rms.chunks_mut(rows)), |((x, y), inv_rms)| {
        forward_piece(x, weight, eps, y, inv_rms);
    });
}

/// Gradients: ∂L/∂x into `dx` `[n, d]` (added to what is there if `accumulate`), ∂L/∂w added to `dweight` `[d]`.
///
/// `dy` is ∂L/∂y `[n, d]`; `x`, `weight` and `inv_rms` are those of the forward pass.
///
/// # Panics
/// When the lengths disagree.
pub fn backward(
    dy: &[f32],
    x: &[f32],
    weight: &[f32],
    inv_rms: &[f32],
    dx: &mut [f32],
    accumulate: bool,
    dweight: &mut [f32],
) {
    let (d, n) = (weight.len(), inv_rms.len());
    assert_eq!(x.len(), n * d, "x is [{n}, {d}]");
    assert_eq!(dy.len(), n * d, "dy is [{n}, {d}]");
    assert_eq!(dx.len(), n * d, "dx is [{n}, {d}]");
    assert_eq!(dweight.len(), d, "dweight is [{d}]");
    let rows = rows_per_piece(d);
    let pieces = dy.chunks(rows * d).zip(x.chunks(rows * d)).zip(dx.chunks_mut(rows * d)).zip(inv_rms.chunks(rows));
    let partial = map(pieces, |(((dy, x), dx), inv_rms)| {
        let mut dw = vec![0.0; d];
        backward_piece(dy, x, weight, inv_rms, dx, accumulate, &mut dw);
        dw
    });
    for dw in &partial {
        add(dweight, dw);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Seeded, close, each_path, finite_differences, same_bits_on_any_pool, wide};

    fn naive(x: &[f64], w: &[f64], eps: f64) -> Vec<f64> {
        x.chunks_exact(w.len())
            .flat_map(|x| {
                let rms = (x.iter().map(|v| v * v).sum::<f64>() / w.len() as f64 + eps).sqrt();
                x.iter().zip(w).map(|(x, w)| x / rms * w).collect::<Vec<_>>()
            })
            .collect()
    }

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn forward_and_backward_against_f64() {
        each_path(|| {
            let mut seeded = Seeded(1);
            for _ in 0..30 {
                let (n, d) = (seeded.index(1, 6), seeded.index(1, 70));
                let (x, w, dy) = (seeded.vec(n * d, 2.0), seeded.vec(d, 1.5), seeded.vec(n * d, 1.0));
                let (mut y, mut inv) = (vec![0.0; n * d], vec![0.0; n]);
                forward(&x, &w, 1e-5, &mut y, &mut inv);
                close(&y, &naive(&wide(&x), &wide(&w), 1e-5), 1e-6);

                let (gx, gw) = (wide(&dy), wide(&dy));
                let dx_expected = finite_differences(&wide(&x), |x| dot(&naive(x, &wide(&w), 1e-5), &gx));
                let dw_expected = finite_differences(&wide(&w), |w| dot(&naive(&wide(&x), w, 1e-5), &gw));
                let (mut dx, mut dw) = (vec![f32::NAN; n * d], vec![0.0; d]);
                backward(&dy, &x, &w, &inv, &mut dx, false, &mut dw);
                let scale = 1.0 + 1.0 / inv.iter().fold(f64::MAX, |m, &v| m.min(f64::from(1.0 / v)));
                close(&dw, &dw_expected, 1e-5);
                // A width of 1 makes dx vanish but for ε: the terms that cancel set the scale.
                for (a, e) in dx.iter().zip(&dx_expected) {
                    assert!((f64::from(*a) - e).abs() < 4e-6 * scale, "{a} against {e}");
                }
                let (before, mut again) = (dx.clone(), dx.clone());
                backward(&dy, &x, &w, &inv, &mut again, true, &mut dw);
                for (a, b) in again.iter().zip(&before) {
                    assert!((a - 2.0 * b).abs() <= 1e-6 * b.abs());
                }
                close(&dw, &dw_expected.iter().map(|v| 2.0 * v).collect::<Vec<_>>(), 1e-5);
            }
        });
    }

    #[test]
    fn zeros_and_large_values_stay_finite() {
        each_path(|| {
            let x = [vec![0.0; 33], vec![1e18; 33], vec![-1e-30; 33]].concat();
            let (mut y, mut inv) = (vec![0.0; 99], vec![0.0; 3]);
            forward(&x, &[1.0; 33], 1e-6, &mut y, &mut inv);
            assert!(y.iter().all(|v| v.is_finite()));
            assert!((inv[0] - 1e3).abs() < 1e-3);
            assert!(y[33..66].iter().all(|v| (v - 1.0).abs() < 1e-6));
        });
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let mut seeded = Seeded(2);
        let (n, d) = (3001, 48);
        let (x, w, dy) = (seeded.vec(n * d, 2.0), seeded.vec(d, 1.5), seeded.vec(n * d, 1.0));
        same_bits_on_any_pool(|| {
            let (mut y, mut inv) = (vec![0.0; n * d], vec![0.0; n]);
            forward(&x, &w, 1e-5, &mut y, &mut inv);
            let mut dw = vec![0.0; d];
            backward(&dy, &x, &w, &inv, &mut y, true, &mut dw);
            [y, inv, dw].concat()
        });
    }
}
