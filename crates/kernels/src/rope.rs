//! `rope`: rotary position embedding in place (arXiv:2104.09864, equation 34, with the halves of Hugging Face's
//! `rotate_half` as pairs).
//!
//! Let x be a head of a row of `x` `[n, heads·h]`, h the width of a head, c and s the row of `cos` and `sin`
//! `[n, h/2]`; for i < h/2:
//!
//! - forward: xᵢ ← xᵢcᵢ − xᵢ₊ₕ⸝₂sᵢ and xᵢ₊ₕ⸝₂ ← xᵢ₊ₕ⸝₂cᵢ + xᵢsᵢ
//! - backward: a rotation is orthogonal, so the gradient goes through the inverse one, s → −s

use crate::parallel::{each, rows_per_piece};
use crate::simd::{dispatched, update};

dispatched! {
    fn piece<S>(simd, x: &'a mut [f32], heads: usize, cos: &'a [f32], sin: &'a [f32], half: usize, sign: f32) {
        let sign = simd.splat_f32s(sign);
        let tables = cos.chunks_exact(half).zip(sin.chunks_exact(half));
        for (row, (cos, sin)) in x.chunks_exact_mut(2 * half * heads).zip(tables) {
            for head in row.chunks_exact_mut(2 * half) {
                let (a, b) = head.split_at_mut(half);
                update(simd, [a, b], [cos, sin], #[inline(always)] |[a, b], [c, s]| {
                    let s = simd.mul_f32s(s, sign);
                    let minus = simd.neg_f32s(simd.mul_f32s(b, s));
                    [simd.mul_add_e_f32s(a, c, minus), simd.mul_add_e_f32s(b, c, simd.mul_f32s(a, s))]
                });
            }
        }
    }
}

fn rotate(x: &mut [f32], heads: usize, cos: &[f32], sin: &[f32], head_dim: usize, sign: f32) {
    assert!(head_dim > 0 && head_dim.is_multiple_of(2), "the width of a head is even, not {head_dim}");
    let (half, width) = (head_dim / 2, heads * head_dim);
    assert!(width > 0 && x.len().is_multiple_of(width), "x has {} elements, rows of {width}", x.len());
    let n = x.len() / width;
    assert_eq!(cos.len(), n * half, "cos is [{n}, {half}]");
    assert_eq!(sin.len(), n * half, "sin is [{n}, {half}]");
    let rows = rows_per_piece(width);
    let tables = cos.chunks(rows * half).zip(sin.chunks(rows * half));
    each(x.chunks_mut(rows * width).zip(tables), |(x, (cos, sin))| piece(x, heads, cos, sin, half, sign));
}

/// Rotates `x` `[n, heads·head_dim]` in place by the angles whose cosines and sines are `cos` and `sin`
/// `[n, head_dim/2]`.
///
/// # Panics
/// When the lengths disagree or `head_dim` is odd.
pub fn forward(x: &mut [f32], heads: usize, cos: &[f32], sin: &[f32], head_dim: usize) {
    rotate(x, heads, cos, sin, head_dim, 1.0);
}

/// Turns ∂L/∂(rotated) `dx` `[n, heads·head_dim]` into ∂L/∂x in place.
///
/// # Panics
/// When the lengths disagree or `head_dim` is odd.
pub fn backward(dx: &mut [f32], heads: usize, cos: &[f32], sin: &[f32], head_dim: usize) {
    rotate(dx, heads, cos, sin, head_dim, -1.0);
}

/// The tables `(cos, sin)`, each `[n, head_dim/2]`, of tokens at `positions` `[n]`: angle = position·θ^(−2i/h), computed
/// in f64 (f32 angles lose 4 digits at position 10,000).
pub fn tables(positions: &[usize], head_dim: usize, theta: f64) -> (Vec<f32>, Vec<f32>) {
    let half = head_dim / 2;
    let frequency: Vec<f64> = (0..half).map(|i| theta.powf(-((2 * i) as f64) / head_dim as f64)).collect();
    let angles = positions.iter().flat_map(|&p| frequency.iter().map(move |f| p as f64 * f));
    angles.map(|a| (a.cos() as f32, a.sin() as f32)).unzip()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Seeded, close, each_path, same_bits_on_any_pool, wide};

    fn naive(x: &[f64], heads: usize, positions: &[usize], h: usize, theta: f64, sign: f64) -> Vec<f64> {
        let mut y = x.to_vec();
        for (t, p) in positions.iter().enumerate() {
            for head in 0..heads {
                for i in 0..h / 2 {
                    let angle = sign * *p as f64 * theta.powf(-((2 * i) as f64) / h as f64);
                    let (a, b) = ((t * heads + head) * h + i, (t * heads + head) * h + i + h / 2);
                    y[a] = x[a] * angle.cos() - x[b] * angle.sin();
                    y[b] = x[b] * angle.cos() + x[a] * angle.sin();
                }
            }
        }
        y
    }

    #[test]
    fn rotation_and_its_inverse_against_f64() {
        each_path(|| {
            let mut seeded = Seeded(3);
            for _ in 0..30 {
                let (n, heads, h) = (seeded.index(1, 9), seeded.index(1, 5), 2 * seeded.index(1, 40));
                let positions: Vec<usize> = (0..n).map(|_| seeded.index(0, 5000)).collect();
                let (cos, sin) = tables(&positions, h, 10_000.0);
                let x = seeded.vec(n * heads * h, 3.0);
                let mut y = x.clone();
                forward(&mut y, heads, &cos, &sin, h);
                close(&y, &naive(&wide(&x), heads, &positions, h, 10_000.0, 1.0), 1e-6);
                backward(&mut y, heads, &cos, &sin, h);
                close(&y, &wide(&x), 1e-6);
                let mut dx = x.clone();
                backward(&mut dx, heads, &cos, &sin, h);
                close(&dx, &naive(&wide(&x), heads, &positions, h, 10_000.0, -1.0), 1e-6);
            }
        });
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let positions: Vec<usize> = (0..1000).collect();
        let (cos, sin) = tables(&positions, 64, 10_000.0);
        let x = Seeded(4).vec(1000 * 3 * 64, 1.0);
        same_bits_on_any_pool(|| {
            let mut y = x.clone();
            forward(&mut y, 3, &cos, &sin, 64);
            y
        });
    }
}
