//! Products by the gemm crate on the current [path](crate::path).
//!
//! The crate takes the widest vectors of the machine, once for all, and has no switch. What it is made of has one: its
//! microkernels and the loops around them are public, and are put together here for the narrower paths.

use gemm_common::Parallelism;
use gemm_common::gemm::gemm_basic_generic;
use gemm_common::simd::{MixedSimd, Scalar};

use crate::path::Path;

/// As `gemm::gemm` of f32: rows and columns of C and columns of A; C, A and B with the strides of their columns and rows,
/// behind C whether it is read; α and β; what is to be conjugated, nothing; who computes.
pub(crate) type Multiply = unsafe fn(
    usize,
    usize,
    usize,
    *mut f32,
    isize,
    isize,
    bool,
    *const f32,
    isize,
    isize,
    *const f32,
    isize,
    isize,
    f32,
    f32,
    bool,
    bool,
    bool,
    Parallelism,
);

/// What multiplies on the current path.
pub(crate) fn current() -> Multiply {
    match Path::current() {
        path if path == Path::here() => gemm::gemm::<f32>,
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => avx2,
        _ => scalar,
    }
}

macro_rules! narrower {
    ($(#[$meta:meta])* $name:ident, $kernels:ident, $lanes:literal, $simd:ty) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, unsafe_code)]
        unsafe fn $name(
            m: usize,
            n: usize,
            k: usize,
            c: *mut f32,
            c_cs: isize,
            c_rs: isize,
            read: bool,
            a: *const f32,
            a_cs: isize,
            a_rs: isize,
            b: *const f32,
            b_cs: isize,
            b_rs: isize,
            alpha: f32,
            beta: f32,
            _conj_c: bool,
            _conj_a: bool,
            _conj_b: bool,
            parallelism: Parallelism,
        ) {
            use gemm_f32::microkernel::$kernels::f32::{H_M, H_N, H_UKR, MR_DIV_N, NR, UKR};
            // The kernels want C with contiguous columns: Cᵀ = Bᵀ·Aᵀ where its rows are.
            let ((m, a, a_rs, a_cs), (n, b, b_rs, b_cs), (c_rs, c_cs)) = match c_cs.abs() < c_rs.abs() {
                true => ((n, b, b_cs, b_rs), (m, a, a_cs, a_rs), (c_cs, c_rs)),
                false => ((m, a, a_rs, a_cs), (n, b, b_rs, b_cs), (c_rs, c_cs)),
            };
            let simd = <$simd as MixedSimd<f32, f32, f32, f32>>::try_new().expect("the path is on this processor");
            // SAFETY: as the caller promised, with the operands in another order.
            unsafe {
                gemm_basic_generic::<_, f32, $lanes, { MR_DIV_N * $lanes }, NR, MR_DIV_N, H_M, H_N>(
                    simd, m, n, k, c, c_cs, c_rs, read, a, a_cs, a_rs, b, b_cs, b_rs, alpha, beta, false, false, false,
                    #[inline(always)]
                    |x, y, z| x * y + z,
                    &UKR, &H_UKR, false, parallelism,
                );
            }
        }
    };
}

narrower! {
    /// # Safety
    /// The elements that shapes and strides, none of them negative, reach must be there, and those of C apart and the
    /// caller's alone.
    scalar, scalar, 1, Scalar
}

#[cfg(target_arch = "x86_64")]
narrower! {
    /// # Safety
    /// As [`scalar`].
    avx2, fma, 8, gemm_common::simd::V3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::{Mat, MatMut, Threads, gemm};
    use crate::testing::{Seeded, close, wide};

    #[test]
    fn all_orientations_on_every_path_against_f64() {
        let mut seeded = Seeded(41);
        for round in 0..60 {
            let most = if round % 10 == 0 { 300 } else { 40 };
            let (m, n, k) = (seeded.index(1, most), seeded.index(1, most), seeded.index(1, most));
            let (a, b, c) = (seeded.vec(m * k, 1.0), seeded.vec(k * n, 1.0), seeded.vec(m * n, 1.0));
            let view =
                |x, rows, cols, turned| if turned { Mat::new(x, cols, rows).t() } else { Mat::new(x, rows, cols) };
            let (turned_a, turned_b) = (round & 1 == 0, round & 2 == 0);
            let (alpha, threads) = ([0.0, 1.0, 0.5][round % 3], [Threads::One, Threads::Pool][round / 2 % 2]);
            let (a64, b64, c64) = (wide(&a), wide(&b), wide(&c));
            let at_a = |i: usize, l: usize| a64[if turned_a { l * m + i } else { i * k + l }];
            let at_b = |l: usize, j: usize| b64[if turned_b { j * k + l } else { l * n + j }];
            let expected: Vec<f64> = (0..m * n)
                .map(|at| {
                    let sum: f64 = (0..k).map(|l| at_a(at / n, l) * at_b(l, at % n)).sum();
                    f64::from(alpha) * c64[at] + 2.0 * sum
                })
                .collect();
            let (a, b) = (view(&a, m, k, turned_a), view(&b, k, n, turned_b));
            for path in Path::all() {
                let mut got = c.clone();
                if alpha == 0.0 {
                    got.fill(f32::NAN);
                }
                path.run(|| gemm(alpha, MatMut::new(&mut got, m, n), 2.0, a, b, threads));
                close(&got, &expected, 2e-6);
            }
        }
    }

    #[test]
    fn the_path_is_taken() {
        // (1 + ε)² − (1 + 2ε) = ε² in one rounding; in two the square has lost it.
        let e = f32::EPSILON;
        // Of k = 1 and 2 the crate makes outer products, whatever the vectors.
        let (mut a, mut b) = (vec![0.0; 20 * 9], vec![0.0; 9 * 20]);
        for row in a.chunks_exact_mut(9) {
            row[3..5].copy_from_slice(&[1.0 + 2.0 * e, 1.0 + e]);
        }
        b[3 * 20..4 * 20].fill(-1.0);
        b[4 * 20..5 * 20].fill(1.0 + e);
        for path in Path::all() {
            let mut c = [f32::NAN; 400];
            let (to, a, b) = (MatMut::new(&mut c, 20, 20), Mat::new(&a, 20, 9), Mat::new(&b, 9, 20));
            path.run(|| gemm(0.0, to, 1.0, a, b, Threads::One));
            let expected = if path == Path::Scalar { 0.0 } else { e * e };
            assert!(c.iter().all(|c| *c == expected), "{path:?}: {}, not {expected}", c[0]);
        }
        let taken = |path: Path| path.run(|| current() as usize);
        let all: Vec<usize> = Path::all().map(taken).collect();
        assert!((1..all.len()).all(|i| !all[..i].contains(&all[i])), "one for each path");
    }
}
