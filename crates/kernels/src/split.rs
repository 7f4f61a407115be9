//! `split`: products of numbers in f32 on a unit that multiplies bf16.
//!
//! A number in f32 has 24 significant bits, one in bf16 8: x = x₁ + x₂ + x₃, x₁ = bf16(x), x₂ = bf16(x − x₁),
//! x₃ = x − x₁ − x₂, exactly. Then
//!
//! x·y ≈ x₁·y₁ + x₁·y₂ + x₂·y₁ + x₂·y₂ + x₁·y₃ + x₃·y₁,
//!
//! and what is left out is at most some 2⁻²⁴ of |x·y|, what rounding to f32 costs. Each of the six products is exact in
//! f32. AMX adds 32 of them before it rounds to what was there, so that sums of many numbers come out nearer than by a
//! chain of fused multiply-adds in f32 (tested). It multiplies bf16 some fifteen times as fast as vectors do f32: what is
//! left of that over six is more than twice as fast.
//!
//! Pieces below 2⁻¹²⁶ are taken as 0: numbers below some 10⁻³³ have fewer bits here. What is infinite, or rounds to it in
//! bf16 (above 3.39·10³⁸), comes out as not finite, not always as infinite: its product with a piece that is 0 is NaN.

use crate::half::{Numbers, Side, Sums, Unit, assert_fit};
use crate::path::Path;

/// Lines of either operand, and multiplications, from which a product is done this way.
const LEAST: [usize; 2] = [16, 1 << 20];

/// An operand `[lines, k]`, or its transpose.
#[derive(Clone, Copy)]
pub(crate) enum Operand<'a> {
    /// The numbers of a line beside each other.
    Lines(&'a [f32]),
    /// The numbers of one k beside each other.
    Columns(&'a [f32]),
}

/// C ← A·Bᵀ (+ bias), or C ← C + A·Bᵀ: `a` `[m, k]`, `b` `[n, k]`, `c` `[m, n]`, `bias` `[n]`. False, with nothing done,
/// where a product in f32 is as fast: without AMX, and for small ones.
///
/// # Panics
/// When the lengths disagree.
pub(crate) fn product(
    a: Operand<'_>,
    b: Operand<'_>,
    [m, n, k]: [usize; 3],
    bias: Option<&[f32]>,
    c: &mut [f32],
    accumulate: bool,
) -> bool {
    let worth = m.min(n) >= LEAST[0] && m.saturating_mul(n).saturating_mul(k) >= LEAST[1];
    // Where a narrower path is wanted, it is for what that does.
    let wanted = Path::current() == Path::Avx512;
    if worth && wanted && Unit::here() == Unit::Amx {
        in_pieces(true, a, b, [m, n, k], bias, c, accumulate);
        return true;
    }
    false
}

/// As [`product`], by tiles or by vectors: vectors, which gain nothing by it, are for tests.
fn in_pieces(
    tiles: bool,
    a: Operand<'_>,
    b: Operand<'_>,
    [m, n, k]: [usize; 3],
    bias: Option<&[f32]>,
    c: &mut [f32],
    accumulate: bool,
) {
    let side = |operand, lines| match operand {
        Operand::Lines(x) => Side { numbers: Numbers::F32(x), lines, k, by_line: true },
        Operand::Columns(x) => Side { numbers: Numbers::F32(x), lines, k, by_line: false },
    };
    let (a, b, c) = (side(a, m), side(b, n), Sums::F32(c));
    assert_fit(a, b, bias, &c);
    #[cfg(target_arch = "x86_64")]
    crate::panels::product::<3>(tiles, a, b, bias, c, accumulate);
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("no such unit is on this processor: {:?}", (tiles, c, accumulate));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::{Mat, MatMut, Threads, gemm};
    use crate::testing::{Seeded, close, same_bits_on_any_pool, wide};

    /// Of this machine: tiles, vectors.
    fn units() -> impl Iterator<Item = bool> {
        Unit::all().filter(|unit| *unit != Unit::Wide).map(|unit| unit == Unit::Amx)
    }

    fn transposed(a: &[f32], rows: usize, cols: usize) -> Vec<f32> {
        (0..rows * cols).map(|i| a[(i % rows) * cols + i / rows]).collect()
    }

    /// Largest and mean square of the error, relative to Σ|x·y|.
    fn errors(got: &[f32], a: &[f32], b: &[f32], [m, n, k]: [usize; 3]) -> (f64, f64) {
        let (a, b) = (wide(a), wide(b));
        let mut most = 0f64;
        let mut squares = 0.0;
        for i in 0..m {
            for j in 0..n {
                let terms = a[i * k..][..k].iter().zip(&b[j * k..][..k]).map(|(x, y)| x * y);
                let (sum, size) = terms.fold((0.0, 0.0), |(s, t), p: f64| (s + p, t + p.abs()));
                let error = (f64::from(got[i * n + j]) - sum).abs() / size.max(f64::MIN_POSITIVE);
                most = most.max(error);
                squares += error * error;
            }
        }
        (most, squares / (m * n) as f64)
    }

    /// Every orientation and every way to add, over borders of blocks, strips and k.
    #[test]
    fn products_against_f64() {
        let mut seeded = Seeded(41);
        for round in 0..60 {
            let most = [90, 700, 2500][[round % 2, 2 * usize::from(round % 15 == 0)].into_iter().max().unwrap()];
            let [m, n] = [(); 2].map(|()| seeded.index(1, most.min(700)));
            let k = seeded.index(1, most);
            let (a, b) = (seeded.vec(m * k, 1.0), seeded.vec(n * k, 1.0));
            let (at, bt) = (transposed(&a, m, k), transposed(&b, n, k));
            let left = if round & 1 == 0 { Operand::Lines(&a) } else { Operand::Columns(&at) };
            let right = if round & 2 == 0 { Operand::Lines(&b) } else { Operand::Columns(&bt) };
            let (start, bias) = (seeded.vec(m * n, 1.0), seeded.vec(n, 1.0));
            let (accumulate, bias) = (round % 3 == 0, (round % 3 == 1).then_some(&bias[..]));
            let (aw, bw) = (wide(&a), wide(&b));
            let expected: Vec<f64> = (0..m * n)
                .map(|i| {
                    let sum: f64 = aw[i / n * k..][..k].iter().zip(&bw[i % n * k..][..k]).map(|(x, y)| x * y).sum();
                    let added = if accumulate { f64::from(start[i]) } else { 0.0 };
                    sum + added + bias.map_or(0.0, |b| f64::from(b[i % n]))
                })
                .collect();
            for tiles in units() {
                let mut got = if accumulate { start.clone() } else { vec![f32::NAN; m * n] };
                in_pieces(tiles, left, right, [m, n, k], bias, &mut got, accumulate);
                // Vectors round after every pair.
                close(&got, &expected, if tiles { 1e-6 } else { 4e-6 });
            }
        }
    }

    /// No farther from the exact sums than multiply-adds in f32, with all numbers of one sign too.
    #[test]
    fn as_exact_as_f32() {
        let mut seeded = Seeded(42);
        for (shape, positive) in
            [([64, 48, 2000], false), ([64, 48, 2000], true), ([33, 70, 31], true), ([40, 40, 1], false)]
        {
            let [m, n, k] = shape;
            let sign = |x: Vec<f32>| x.into_iter().map(|x| if positive { x.abs() } else { x }).collect::<Vec<_>>();
            let (a, b) = (sign(seeded.vec(m * k, 3.0)), sign(seeded.vec(n * k, 0.1)));
            let mut plain = vec![0.0; m * n];
            gemm(0.0, MatMut::new(&mut plain, m, n), 1.0, Mat::new(&a, m, k), Mat::new(&b, n, k).t(), Threads::Pool);
            let plain = errors(&plain, &a, &b, shape);
            for tiles in units() {
                let mut got = vec![0.0; m * n];
                in_pieces(tiles, Operand::Lines(&a), Operand::Lines(&b), shape, None, &mut got, false);
                let got = errors(&got, &a, &b, shape);
                // A single product is rounded once there, and twice here at most; vectors round after every pair.
                let most = if tiles { plain } else { (6.0 * plain.0, 36.0 * plain.1) };
                assert!(
                    got.1 <= most.1.max(1e-15) && got.0 <= most.0.max(1.2e-7),
                    "{tiles} {shape:?}: {got:?}, {plain:?}"
                );
            }
        }
    }

    /// What is not finite stays so; large and small numbers are right.
    #[test]
    fn special_numbers() {
        for (x, y) in [
            (f32::NAN, 1.0),
            (f32::from_bits(0x7fff_ffff), 1.0),
            (f32::INFINITY, 2.0),
            (f32::NEG_INFINITY, 2.0),
            (f32::INFINITY, 0.0),
            (1.234_568e37, 1.1),
            (1.234_568e-30, 1e25),
            (-0.0, 3.0),
        ] {
            let expected = x * y;
            for tiles in units() {
                let mut c = [7.0; 2];
                in_pieces(tiles, Operand::Lines(&[x, 1.0]), Operand::Lines(&[y]), [2, 1, 1], None, &mut c, false);
                let right = if expected.is_finite() {
                    c[0] == expected || (c[0] / expected - 1.0).abs() < 2e-7
                } else {
                    !c[0].is_finite() && (c[0].is_nan() || c[0] == expected)
                };
                assert!(right, "{tiles}: {x}·{y} is {}", c[0]);
                assert_eq!(c[1], y);
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let mut seeded = Seeded(43);
        let [m, n, k] = [900, 500, 1300];
        let (a, b) = (seeded.vec(m * k, 1.0), seeded.vec(n * k, 1.0));
        for tiles in units() {
            same_bits_on_any_pool(|| {
                let mut c = vec![0.0; m * n];
                in_pieces(tiles, Operand::Lines(&a), Operand::Columns(&b), [m, n, k], None, &mut c, false);
                c
            });
        }
    }
}
