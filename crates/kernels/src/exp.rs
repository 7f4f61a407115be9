//! `exp`: y = eˣ, vectorised, within 2 units in the last place over the whole range of f32.
//!
//! Let x be an element of `x`. With k = ⌊x/ln 2⌉ and r = x − k·ln 2 (|r| ≤ ln 2 / 2, in two steps so that the product
//! with k is exact), eˣ = 2ᵏ·eʳ; eʳ is Cephes' polynomial of degree 7, and 2ᵏ is multiplied in as two factors, because
//! one would overflow for x just below 88.72 and could not reach the subnormals. Limits: x ≥ 88.73 gives ∞, x ≤ −104
//! (−∞ among them) gives 0, NaN stays NaN.

use pulp::Simd;

use crate::parallel::{PIECE, each};
use crate::simd::{dispatched, update};

/// Adding and subtracting 1.5·2²³ rounds to an integer, which also sits in the low bits of the sum.
const ROUND: f32 = 12_582_912.0;

/// 2ᵏ of whole numbers k in −126 … 127, and 0 for k = −127.
#[inline(always)]
fn power_of_two<S: Simd>(simd: S, k: S::f32s) -> S::f32s {
    let biased = simd.transmute_u32s_f32s(simd.add_f32s(k, simd.splat_f32s(ROUND + 127.0)));
    simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(biased, simd.splat_u32s(23)))
}

/// (k, eʳ) of the file's head, for −104 ≤ x ≤ 89.
#[inline(always)]
fn reduced<S: Simd>(simd: S, x: S::f32s) -> (S::f32s, S::f32s) {
    let c = {
        #[inline(always)]
        |v: f32| simd.splat_f32s(v)
    };
    let k = simd.sub_f32s(simd.mul_add_e_f32s(x, c(std::f32::consts::LOG2_E), c(ROUND)), c(ROUND));
    let r = simd.mul_add_e_f32s(k, c(-355.0 / 512.0), x);
    let r = simd.mul_add_e_f32s(k, c(2.121_944_4e-4), r);

    let p = simd.mul_add_e_f32s(c(1.987_569_1e-4), r, c(1.398_199_9e-3));
    let p = simd.mul_add_e_f32s(p, r, c(8.333_452e-3));
    let p = simd.mul_add_e_f32s(p, r, c(4.166_579_6e-2));
    let p = simd.mul_add_e_f32s(p, r, c(1.666_666_5e-1));
    let p = simd.mul_add_e_f32s(p, r, c(0.5));
    let p = simd.add_f32s(simd.mul_add_e_f32s(p, simd.mul_f32s(r, r), r), c(1.0));
    (k, p)
}

/// eˣ in every lane.
#[inline(always)]
pub(crate) fn exp_lanes<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let c = {
        #[inline(always)]
        |v: f32| simd.splat_f32s(v)
    };
    // Selections by comparison, not min and max, which lose NaN on some machines.
    let x = simd.select_f32s(simd.less_than_f32s(x, c(-104.0)), c(-104.0), x);
    let x = simd.select_f32s(simd.greater_than_f32s(x, c(89.0)), c(89.0), x);

    let (k, p) = reduced(simd, x);
    let half = simd.sub_f32s(simd.mul_add_e_f32s(k, c(0.5), c(ROUND)), c(ROUND));
    let rest = simd.sub_f32s(k, half);
    simd.mul_f32s(simd.mul_f32s(p, power_of_two(simd, half)), power_of_two(simd, rest))
}

/// eˣ in every lane for x ≤ 88, with what is below 2⁻¹²⁶ rounded to 0: two thirds of the work, for softmax.
#[inline(always)]
pub(crate) fn exp_flushed_lanes<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // At −88, k = −127, whose biased exponent is the one of 0.
    let lowest = simd.splat_f32s(-88.0);
    let (k, p) = reduced(simd, simd.select_f32s(simd.less_than_f32s(x, lowest), lowest, x));
    simd.mul_f32s(p, power_of_two(simd, k))
}

/// 1/(1 + e⁻ˣ) in every lane.
#[inline(always)]
pub(crate) fn sigmoid_lanes<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let one = simd.splat_f32s(1.0);
    simd.div_f32s(one, simd.add_f32s(one, exp_lanes(simd, simd.neg_f32s(x))))
}

dispatched! {
    fn piece<S>(simd, x: &'a mut [f32]) {
        update(simd, [x], [], #[inline(always)] |[x], []| [exp_lanes(simd, x)]);
    }
}

/// `x ← eˣ`, element by element, in place.
pub fn exp_in_place(x: &mut [f32]) {
    each(x.chunks_mut(PIECE), piece);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::each_path;

    fn exp(x: &[f32]) -> Vec<f32> {
        let mut y = x.to_vec();
        exp_in_place(&mut y);
        y
    }

    #[test]
    fn two_units_in_the_last_place_over_the_whole_range() {
        each_path(|| {
            // −104 … 89 in steps that visit every binade; the length leaves tails at every width.
            let x: Vec<f32> = (0..400_003).map(|i| -104.0 + 193.0 * i as f32 / 400_003.0).collect();
            let mut worst = 0f64;
            for (&x, &y) in x.iter().zip(&exp(&x)) {
                let expected = f64::from(x).exp();
                if expected > f64::from(f32::MAX) {
                    assert!(y == f32::INFINITY || y >= f32::MAX * 0.999_999, "e^{x} = {y}");
                    continue;
                }
                let ulp = f64::from(f32::from_bits(1)).max(expected * f64::from(f32::EPSILON) / 2.0);
                worst = worst.max((f64::from(y) - expected).abs() / ulp);
            }
            // A unit is between ε/2 and ε of the value, so 2 units are at most 4 here.
            assert!(worst <= 3.0, "worst error {worst}");
        });
    }

    dispatched! {
        fn flushed<S>(simd, x: &'a mut [f32]) {
            update(simd, [x], [], #[inline(always)] |[x], []| [exp_flushed_lanes(simd, x)]);
        }
    }

    #[test]
    fn flushed_is_the_same_but_for_subnormals() {
        each_path(|| {
            let mut x: Vec<f32> = (0..100_003).map(|i| -110.0 + 198.0 * i as f32 / 100_003.0).collect();
            x.extend([f32::NEG_INFINITY, f32::MIN, -87.4, -87.6, -87.7]);
            let full = exp(&x);
            let mut y = x.clone();
            flushed(&mut y);
            for ((x, &full), &y) in x.iter().zip(&full).zip(&y) {
                let subnormal = full < f32::MIN_POSITIVE && (0.0..2.0 * f32::MIN_POSITIVE).contains(&y);
                assert!(y == full || subnormal, "e^{x} = {full}, not {y}");
            }
            assert_eq!(&y[100_003..100_005], &[0.0; 2]);
        });
    }

    #[test]
    fn extremes() {
        each_path(|| {
            let x = [f32::NEG_INFINITY, f32::MIN, -104.0, -0.0, 0.0, 1e-30, 88.722, 88.73, f32::MAX, f32::INFINITY];
            let y = exp(&x);
            assert_eq!(&y[..6], &[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
            assert!(y[6].is_finite() && y[6] > 3.39e38);
            assert_eq!(&y[7..], &[f32::INFINITY; 3]);
            assert!(exp(&[f32::NAN; 17]).iter().all(|v| v.is_nan()));
        });
    }
}
