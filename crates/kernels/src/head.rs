//! `head`: log-probabilities from a chunk of logits, and the gradient that replaces them.
//!
//! Let z be a row of `logits` `[c, v]`, y its entry of `targets` `[c]`, p = softmax(z):
//!
//! - forward: lse = ln Σᵥ e^(zᵥ) (nats); log-prob = z_y − lse; Σᵥ pᵥ² = Σᵥ e^(2(zᵥ − lse)) where it is wanted
//! - backward: with a = ∂L/∂log-prob the row's entry of `coef` `[c]`, ∂L/∂zᵥ = a·(δᵥ_y − e^(zᵥ − lse)), in place
//!
//! A row is read from memory once in each direction: the maximum is taken block by block, and the sum so far is
//! rescaled when it grows. A row of which every logit is −∞ has no distribution and gives NaN.

use crate::exp::exp_flushed_lanes;
use crate::parallel::{each, rows_per_piece};
use crate::simd::{dispatched, max, update};

/// Logits whose maximum and sum are taken together: they stay in the first-level cache between the two.
const BLOCK: usize = 2048;

dispatched! {
    /// (maximum, Σ e^(z − maximum), Σ e^(2(z − maximum))) of a row; the last only if `squares`.
    fn reduce<S>(simd, z: &'a [f32], squares: bool) -> (f32, f64, f64) {
        let (mut top, mut total, mut total2) = (f32::NEG_INFINITY, 0f64, 0f64);
        for block in z.chunks(BLOCK) {
            let block_top = max(simd, block);
            if block_top == f32::NEG_INFINITY {
                continue;
            }
            if block_top > top {
                let shrink = f64::from(top - block_top).exp();
                total *= shrink;
                total2 *= shrink * shrink;
                top = block_top;
            }
            let shift = simd.splat_f32s(top);
            let zero = simd.splat_f32s(0.0);
            let (mut acc, mut acc2) = ([zero; 2], [zero; 2]);
            let (head, tail) = S::as_simd_f32s(block);
            let mut pairs = head.chunks_exact(2);
            for pair in &mut pairs {
                for k in 0..2 {
                    let e = exp_flushed_lanes(simd, simd.sub_f32s(pair[k], shift));
                    acc[k] = simd.add_f32s(acc[k], e);
                    if squares {
                        acc2[k] = simd.mul_add_e_f32s(e, e, acc2[k]);
                    }
                }
            }
            let mut last = [f32::NEG_INFINITY; 16];
            last[..tail.len()].copy_from_slice(tail);
            for v in pairs.remainder().iter().copied().chain([simd.partial_load_f32s(&last)]) {
                let e = exp_flushed_lanes(simd, simd.sub_f32s(v, shift));
                acc[0] = simd.add_f32s(acc[0], e);
                acc2[0] = simd.mul_add_e_f32s(e, e, acc2[0]);
            }
            total += f64::from(simd.reduce_sum_f32s(simd.add_f32s(acc[0], acc[1])));
            if squares {
                total2 += f64::from(simd.reduce_sum_f32s(simd.add_f32s(acc2[0], acc2[1])));
            }
        }
        (top, total, total2)
    }
}

dispatched! {
    fn backward_row<S>(simd, z: &'a mut [f32], target: usize, lse: f32, coef: f32) {
        // Where the coefficient is 0 the gradient is 0, even if a logit or lse is not finite.
        if coef == 0.0 {
            z.fill(0.0);
            return;
        }
        let (shift, scale) = (simd.splat_f32s(lse), simd.splat_f32s(-coef));
        update(simd, [&mut *z], [], #[inline(always)] |[z], []| {
            [simd.mul_f32s(exp_flushed_lanes(simd, simd.sub_f32s(z, shift)), scale)]
        });
        z[target] += coef;
    }
}

fn check(logits: usize, targets: &[u32], vocab: usize) {
    assert_eq!(logits, targets.len() * vocab, "logits are [{}, {vocab}]", targets.len());
    if let Some(t) = targets.iter().find(|&&t| t as usize >= vocab) {
        panic!("target {t} is not below the vocabulary of {vocab}");
    }
}

/// Log-sum-exp `lse` `[c]` and log-probabilities of the targets `log_prob` `[c]`, in nats, of `logits` `[c, vocab]`; and
/// Σᵥ pᵥ² `[c]` into `sum_p2` where it is given.
///
/// # Panics
/// When the lengths disagree, or a target is not below `vocab`.
pub fn forward(
    logits: &[f32],
    targets: &[u32],
    vocab: usize,
    lse: &mut [f32],
    log_prob: &mut [f32],
    sum_p2: Option<&mut [f32]>,
) {
    check(logits.len(), targets, vocab);
    let c = targets.len();
    assert_eq!(lse.len(), c, "lse is [{c}]");
    assert_eq!(log_prob.len(), c, "log_prob is [{c}]");
    let wanted = sum_p2.is_some();
    let mut unused = vec![0.0; if wanted { 0 } else { c }];
    let sum_p2 = sum_p2.unwrap_or(&mut unused);
    assert_eq!(sum_p2.len(), c, "sum_p2 is [{c}]");

    let rows = rows_per_piece(vocab);
    let write = lse.chunks_mut(rows).zip(log_prob.chunks_mut(rows)).zip(sum_p2.chunks_mut(rows));
    each(logits.chunks(rows * vocab).zip(targets.chunks(rows)).zip(write), |((z, y), ((lse, log_prob), sum_p2))| {
        for (i, (z, &y)) in z.chunks_exact(vocab).zip(y).enumerate() {
            let (top, total, total2) = reduce(z, wanted);
            lse[i] = (f64::from(top) + total.ln()) as f32;
            log_prob[i] = (f64::from(z[y as usize]) - f64::from(top) - total.ln()) as f32;
            sum_p2[i] = (total2 / (total * total)) as f32;
        }
    });
}

/// Replaces `logits` `[c, vocab]` by ∂L/∂logits = coef·(onehot(target) − softmax), given `lse` `[c]` of the forward pass
/// and `coef` `[c]` = ∂L/∂log-prob.
///
/// # Panics
/// When the lengths disagree, or a target is not below `vocab`.
pub fn backward(logits: &mut [f32], targets: &[u32], vocab: usize, lse: &[f32], coef: &[f32]) {
    check(logits.len(), targets, vocab);
    let c = targets.len();
    assert_eq!(lse.len(), c, "lse is [{c}]");
    assert_eq!(coef.len(), c, "coef is [{c}]");
    let rows = rows_per_piece(vocab);
    let read = targets.chunks(rows).zip(lse.chunks(rows)).zip(coef.chunks(rows));
    each(logits.chunks_mut(rows * vocab).zip(read), |(z, ((y, lse), coef))| {
        for (((z, &y), &lse), &coef) in z.chunks_exact_mut(vocab).zip(y).zip(lse).zip(coef) {
            backward_row(z, y as usize, lse, coef);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Seeded, close, each_path, finite_differences, same_bits_on_any_pool, wide};

    /// (lse, log-prob, Σp²) of one row.
    fn naive(z: &[f64], y: usize) -> (f64, f64, f64) {
        let top = z.iter().fold(f64::NEG_INFINITY, |m, v| m.max(*v));
        let lse = top + z.iter().map(|v| (v - top).exp()).sum::<f64>().ln();
        (lse, z[y] - lse, z.iter().map(|v| (2.0 * (v - lse)).exp()).sum())
    }

    #[test]
    fn forward_and_backward_against_f64() {
        each_path(|| {
            let mut seeded = Seeded(6);
            for round in 0..30 {
                let (c, v) = (seeded.index(1, 6), seeded.index(1, if round % 5 == 0 { 9000 } else { 90 }));
                let z = seeded.vec(c * v, [1.0, 30.0][round % 2]);
                let y: Vec<u32> = (0..c).map(|_| seeded.index(0, v) as u32).collect();
                let coef = seeded.vec(c, 2.0);
                let (mut lse, mut lp, mut p2) = (vec![0.0; c], vec![0.0; c], vec![0.0; c]);
                forward(&z, &y, v, &mut lse, &mut lp, Some(&mut p2));
                let expected: Vec<_> = wide(&z).chunks(v).zip(&y).map(|(z, &y)| naive(z, y as usize)).collect();
                close(&lse, &expected.iter().map(|e| e.0).collect::<Vec<_>>(), 1e-6);
                close(&lp, &expected.iter().map(|e| e.1).collect::<Vec<_>>(), 1e-6);
                close(&p2, &expected.iter().map(|e| e.2).collect::<Vec<_>>(), 2e-6);
                let mut lp2 = vec![0.0; c];
                forward(&z, &y, v, &mut lse, &mut lp2, None);
                assert_eq!(lp, lp2);

                let mut dz = z.clone();
                backward(&mut dz, &y, v, &lse, &coef);
                if v < 100 {
                    for i in 0..c {
                        let row = wide(&z[i * v..][..v]);
                        let a = f64::from(coef[i]);
                        let d = finite_differences(&row, |z| a * naive(z, y[i] as usize).1);
                        for (got, want) in dz[i * v..][..v].iter().zip(d) {
                            assert!((f64::from(*got) - want).abs() < 2e-5, "{got} against {want}");
                        }
                    }
                }
                for row in dz.chunks(v) {
                    let total: f64 = wide(row).iter().sum();
                    assert!(total.abs() < 2e-5, "the gradient of a row adds up to 0, not {total}");
                }
            }
        });
    }

    #[test]
    fn extremes() {
        each_path(|| {
            let v = 5000;
            let mut z = vec![f32::NEG_INFINITY; 3 * v];
            z[4321] = 3.0; // a single possible token
            z[v] = 3e38; // everything else is impossible beside it
            z[v + 1..2 * v].fill(-3e38);
            z[2 * v..].fill(-1e30); // uniform, far from 0
            let y = [4321, 0, 7];
            let (mut lse, mut lp, mut p2) = ([0.0; 3], [0.0; 3], [0.0; 3]);
            forward(&z, &y, v, &mut lse, &mut lp, Some(&mut p2));
            assert_eq!(&lp[..2], &[0.0, 0.0]);
            assert_eq!(&p2[..2], &[1.0, 1.0]);
            assert!((lp[2] + (v as f32).ln()).abs() < 1e-5 && (p2[2] * v as f32 - 1.0).abs() < 1e-5);
            backward(&mut z, &y, v, &lse, &[1.0, 1.0, 0.0]);
            assert!(z.iter().all(|v| *v == 0.0));
        });
    }

    #[test]
    #[should_panic(expected = "target 9 is not below the vocabulary of 9")]
    fn a_target_outside_the_vocabulary_is_refused() {
        forward(&[0.0; 9], &[9], 9, &mut [0.0], &mut [0.0], None);
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let mut seeded = Seeded(7);
        let (c, v) = (40, 3001);
        let z = seeded.vec(c * v, 5.0);
        let y: Vec<u32> = (0..c).map(|_| seeded.index(0, v) as u32).collect();
        same_bits_on_any_pool(|| {
            let (mut lse, mut lp, mut p2, mut z) = (vec![0.0; c], vec![0.0; c], vec![0.0; c], z.clone());
            forward(&z, &y, v, &mut lse, &mut lp, Some(&mut p2));
            backward(&mut z, &y, v, &lse, &lp);
            [z, lse, lp, p2].concat()
        });
    }
}
