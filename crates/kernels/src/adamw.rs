//! `adamw`: decoupled weight decay Adam, in place (arXiv:1711.05101, algorithm 2), operation by operation as
//! `torch.optim.AdamW`.
//!
//! Let θ be `p`, m and v the moments `m` and `v`, g = `scale`·`g` the gradient, t the number of this step from 1, η `lr`,
//! λ `weight_decay`:
//!
//! - θ ← θ·(1 − ηλ)
//! - m ← m + (g − m)(1 − β₁);  v ← β₂v + (1 − β₂)g²
//! - θ ← θ − η/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)
//!
//! The global gradient norm that `scale` is made of is the root of [`sum_of_squares`] over all tensors.

use crate::parallel::{PIECE, each, map};
use crate::simd::{dispatched, update};

/// The settings of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate η.
    pub lr: f64,
    /// Decay β₁ of the first moment.
    pub beta1: f64,
    /// Decay β₂ of the second moment.
    pub beta2: f64,
    /// ε, added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay λ, multiplied by the learning rate.
    pub weight_decay: f64,
}

dispatched! {
    fn piece<S>(simd, p: &'a mut [f32], m: &'a mut [f32], v: &'a mut [f32], g: &'a [f32], c: [f32; 8]) {
        let [scale, keep, one_minus_beta1, beta2, one_minus_beta2, root, eps, step] = c.map(|c| simd.splat_f32s(c));
        update(simd, [p, m, v], [g], #[inline(always)] |[p, m, v], [g]| {
            let g = simd.mul_f32s(g, scale);
            let m = simd.mul_add_e_f32s(simd.sub_f32s(g, m), one_minus_beta1, m);
            let v = simd.mul_add_e_f32s(simd.mul_f32s(g, one_minus_beta2), g, simd.mul_f32s(v, beta2));
            let denominator = simd.add_f32s(simd.div_f32s(simd.sqrt_f32s(v), root), eps);
            let moved = simd.div_f32s(simd.mul_f32s(m, step), denominator);
            [simd.sub_f32s(simd.mul_f32s(p, keep), moved), m, v]
        });
    }
}

impl AdamW {
    /// Step number `t` (from 1) on parameters `p` with moments `m` and `v` and gradient `scale`·`g`, all of one length.
    ///
    /// # Panics
    /// When the lengths disagree or `t` is 0.
    pub fn step(&self, t: u64, scale: f32, p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32]) {
        assert!(t > 0, "steps count from 1");
        for len in [m.len(), v.len(), g.len()] {
            assert_eq!(len, p.len(), "moments and gradient have the shape of p");
        }
        // Scalars in f64, rounded once, as torch does.
        let t = t as f64;
        let constants = [
            scale,
            (1.0 - self.lr * self.weight_decay) as f32,
            (1.0 - self.beta1) as f32,
            self.beta2 as f32,
            (1.0 - self.beta2) as f32,
            (1.0 - self.beta2.powf(t)).sqrt() as f32,
            self.eps as f32,
            (self.lr / (1.0 - self.beta1.powf(t))) as f32,
        ];
        let write = p.chunks_mut(PIECE).zip(m.chunks_mut(PIECE)).zip(v.chunks_mut(PIECE));
        each(write.zip(g.chunks(PIECE)), |(((p, m), v), g)| piece(p, m, v, g, constants));
    }
}

dispatched! {
    fn squares<S>(_simd, x: &'a [f32]) -> f64 {
        // Fixed lanes, not the machine's: the compiler makes vectors of them.
        let mut acc = [0f64; 32];
        let mut blocks = x.chunks_exact(32);
        for block in &mut blocks {
            for (acc, &v) in acc.iter_mut().zip(block) {
                *acc += f64::from(v) * f64::from(v);
            }
        }
        for (acc, &v) in acc.iter_mut().zip(blocks.remainder()) {
            *acc += f64::from(v) * f64::from(v);
        }
        acc.iter().sum()
    }
}

/// Σ g², accumulated in f64.
pub fn sum_of_squares(g: &[f32]) -> f64 {
    map(g.chunks(4 * PIECE), squares).into_iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Seeded, close, each_path, same_bits_on_any_pool, wide};

    const SETTINGS: AdamW = AdamW { lr: 3e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };

    #[test]
    fn ten_steps_against_f64() {
        each_path(|| {
            let mut seeded = Seeded(8);
            for n in [1, 7, 40, 20_000] {
                let mut p = seeded.vec(n, 1.0);
                let (mut m, mut v) = (vec![0.0; n], vec![0.0; n]);
                let (mut p64, mut m64, mut v64) = (wide(&p), vec![0f64; n], vec![0f64; n]);
                for t in 1..=10 {
                    let g = seeded.vec(n, 0.3);
                    SETTINGS.step(t, 0.5, &mut p, &mut m, &mut v, &g);
                    let AdamW { lr, beta1, beta2, eps, weight_decay } = SETTINGS;
                    for i in 0..n {
                        let g = 0.5 * f64::from(g[i]);
                        m64[i] = beta1 * m64[i] + (1.0 - beta1) * g;
                        v64[i] = beta2 * v64[i] + (1.0 - beta2) * g * g;
                        let m_hat = m64[i] / (1.0 - beta1.powi(t as i32));
                        let v_hat = v64[i] / (1.0 - beta2.powi(t as i32));
                        p64[i] = p64[i] * (1.0 - lr * weight_decay) - lr * m_hat / (v_hat.sqrt() + eps);
                    }
                }
                close(&p, &p64, 1e-6);
                close(&m, &m64, 1e-6);
                close(&v, &v64, 1e-6);
            }
        });
    }

    #[test]
    fn a_zero_gradient_only_decays() {
        let (mut p, mut m, mut v) = ([2.0f32; 3], [0.0; 3], [0.0; 3]);
        SETTINGS.step(1, 1.0, &mut p, &mut m, &mut v, &[0.0; 3]);
        assert_eq!(p, [2.0 * (1.0 - 3e-4) as f32; 3]);
    }

    #[test]
    fn squares_add_up_in_f64() {
        each_path(|| {
            // 2²⁰ + 1 squares of 1, then of 1e-3: f32 sums would stall or overflow their digits.
            let x = vec![1.0; (1 << 20) + 1];
            assert_eq!(sum_of_squares(&x), ((1 << 20) + 1) as f64);
            assert!((sum_of_squares(&vec![1e25f32; 100]) / 1e52 - 1.0).abs() < 1e-6);
            let x = Seeded(9).vec(300_001, 1.0);
            let expected: f64 = wide(&x).iter().map(|v| v * v).sum();
            assert!((sum_of_squares(&x) / expected - 1.0).abs() < 1e-12);
            same_bits_on_any_pool(|| {
                let bits = sum_of_squares(&x).to_bits();
                vec![f32::from_bits(bits as u32), f32::from_bits((bits >> 32) as u32)]
            });
        });
    }
}
