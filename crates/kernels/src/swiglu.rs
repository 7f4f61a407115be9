//! `swiglu`: y = silu(g) ⊙ u, the gate of the feed-forward layer (arXiv:2002.05202, equation 6).
//!
//! Let g be an element of `gate`, u of `up`, σ = 1/(1 + e⁻ᵍ), silu(g) = g·σ:
//!
//! - forward: y = g·σ·u
//! - backward, with δ = ∂L/∂y of `dy`: ∂L/∂g = δ·u·σ·(1 + g·(1 − σ)); ∂L/∂u = δ·g·σ

use crate::exp::sigmoid_lanes;
use crate::parallel::{PIECE, each};
use crate::simd::{dispatched, update};

dispatched! {
    fn forward_piece<S>(simd, gate: &'a [f32], up: &'a [f32], y: &'a mut [f32]) {
        update(simd, [y], [gate, up], #[inline(always)] |[_], [g, u]| {
            [simd.mul_f32s(simd.mul_f32s(g, sigmoid_lanes(simd, g)), u)]
        });
    }
}

dispatched! {
    fn backward_piece<S>(simd, dy: &'a [f32], gate: &'a mut [f32], up: &'a mut [f32]) {
        let one = simd.splat_f32s(1.0);
        update(simd, [gate, up], [dy], #[inline(always)] |[g, u], [dy]| {
            let sigma = sigmoid_lanes(simd, g);
            let slope = simd.mul_add_e_f32s(g, simd.sub_f32s(one, sigma), one);
            let by_sigma = simd.mul_f32s(dy, sigma);
            [simd.mul_f32s(simd.mul_f32s(by_sigma, slope), u), simd.mul_f32s(by_sigma, g)]
        });
    }
}

/// `y ← silu(gate) ⊙ up`, all `[n, m]`.
///
/// # Panics
/// When the lengths disagree.
pub fn forward(gate: &[f32], up: &[f32], y: &mut [f32]) {
    assert_eq!(gate.len(), up.len(), "gate and up have one shape");
    assert_eq!(gate.len(), y.len(), "gate and y have one shape");
    each(gate.chunks(PIECE).zip(up.chunks(PIECE)).zip(y.chunks_mut(PIECE)), |((g, u), y)| forward_piece(g, u, y));
}

/// `gate` and `up` are overwritten by ∂L/∂gate and ∂L/∂up, from `dy` = ∂L/∂y; all `[n, m]`.
///
/// # Panics
/// When the lengths disagree.
pub fn backward(dy: &[f32], gate: &mut [f32], up: &mut [f32]) {
    for len in [gate.len(), up.len()] {
        assert_eq!(len, dy.len(), "all have the shape of dy");
    }
    each(dy.chunks(PIECE).zip(gate.chunks_mut(PIECE)).zip(up.chunks_mut(PIECE)), |((dy, g), u)| {
        backward_piece(dy, g, u);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Seeded, close, each_path, finite_differences, wide};

    fn naive(g: &[f64], u: &[f64]) -> Vec<f64> {
        g.iter().zip(u).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect()
    }

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn forward_and_backward_against_f64() {
        each_path(|| {
            let mut seeded = Seeded(5);
            for _ in 0..30 {
                let n = seeded.index(1, 100);
                let (g, u, dy) = (seeded.vec(n, 6.0), seeded.vec(n, 2.0), seeded.vec(n, 1.0));
                let mut y = vec![f32::NAN; n];
                forward(&g, &u, &mut y);
                close(&y, &naive(&wide(&g), &wide(&u)), 1e-6);
                let (mut dg, mut du) = (g.clone(), u.clone());
                backward(&dy, &mut dg, &mut du);
                let dys = wide(&dy);
                close(&dg, &finite_differences(&wide(&g), |g| dot(&naive(g, &wide(&u)), &dys)), 1e-6);
                close(&du, &finite_differences(&wide(&u), |u| dot(&naive(&wide(&g), u), &dys)), 1e-6);
            }
        });
    }

    #[test]
    fn large_gates_saturate() {
        each_path(|| {
            // silu(g) → 0 as g → −∞ and g as g → ∞; the slope goes to 0 and 1.
            let (g, u) = ([-1e30, -100.0, 100.0, 1e30], [1.0; 4]);
            let (mut y, mut dg, mut du) = ([0.0; 4], g, u);
            forward(&g, &u, &mut y);
            backward(&[1.0; 4], &mut dg, &mut du);
            assert!(y[0].abs() < 1e-30 && y[1].abs() < 1e-30 && y[2] == 100.0 && y[3] == 1e30, "{y:?}");
            assert!(dg[0].abs() < 1e-30 && dg[1].abs() < 1e-30 && dg[2] == 1.0 && dg[3] == 1.0, "{dg:?}");
        });
    }
}
