//! Transposition into a buffer with a stride that suits the caches.

use pulp::{Arch, NullaryFnOnce};

use crate::gemm::Mat;
use crate::path;

/// The widest vector, in elements: what transposed rows are padded to.
pub(crate) const LANES: usize = 16;

/// `width`, a multiple of `LANES`, made an odd one.
pub(crate) fn odd_lines(width: usize) -> usize {
    ((width / LANES) | 1) * LANES
}

/// Side of a tile.
const SIDE: usize = 8;

/// Transposes a tile. Compilers make no shuffles of the plain loop, and one element at a time takes as long as an eighth
/// of the product that follows.
trait Tile: Copy {
    fn transposed(self, tile: [[f32; SIDE]; SIDE]) -> [[f32; SIDE]; SIDE];
}

#[derive(Clone, Copy)]
struct Plain;

impl Tile for Plain {
    #[inline(always)]
    fn transposed(self, tile: [[f32; SIDE]; SIDE]) -> [[f32; SIDE]; SIDE] {
        let mut out = [[0.0; SIDE]; SIDE];
        for i in 0..SIDE {
            for j in 0..SIDE {
                out[i][j] = tile[j][i];
            }
        }
        out
    }
}

#[cfg(target_arch = "x86_64")]
impl Tile for pulp::x86::V3 {
    #[inline(always)]
    fn transposed(self, tile: [[f32; SIDE]; SIDE]) -> [[f32; SIDE]; SIDE] {
        use std::arch::x86_64::__m256;
        let [a, b, c, d, e, f, g, h] = tile;
        let v = |x: [f32; SIDE]| -> __m256 { pulp::cast(x) };
        let avx = self.avx;
        // Elements of two rows beside each other, of four, of eight.
        let (ab0, ab1) = (avx._mm256_unpacklo_ps(v(a), v(b)), avx._mm256_unpackhi_ps(v(a), v(b)));
        let (cd0, cd1) = (avx._mm256_unpacklo_ps(v(c), v(d)), avx._mm256_unpackhi_ps(v(c), v(d)));
        let (ef0, ef1) = (avx._mm256_unpacklo_ps(v(e), v(f)), avx._mm256_unpackhi_ps(v(e), v(f)));
        let (gh0, gh1) = (avx._mm256_unpacklo_ps(v(g), v(h)), avx._mm256_unpackhi_ps(v(g), v(h)));
        let upper = [
            avx._mm256_shuffle_ps::<0x44>(ab0, cd0),
            avx._mm256_shuffle_ps::<0xEE>(ab0, cd0),
            avx._mm256_shuffle_ps::<0x44>(ab1, cd1),
            avx._mm256_shuffle_ps::<0xEE>(ab1, cd1),
        ];
        let lower = [
            avx._mm256_shuffle_ps::<0x44>(ef0, gh0),
            avx._mm256_shuffle_ps::<0xEE>(ef0, gh0),
            avx._mm256_shuffle_ps::<0x44>(ef1, gh1),
            avx._mm256_shuffle_ps::<0xEE>(ef1, gh1),
        ];
        [
            pulp::cast(avx._mm256_permute2f128_ps::<0x20>(upper[0], lower[0])),
            pulp::cast(avx._mm256_permute2f128_ps::<0x20>(upper[1], lower[1])),
            pulp::cast(avx._mm256_permute2f128_ps::<0x20>(upper[2], lower[2])),
            pulp::cast(avx._mm256_permute2f128_ps::<0x20>(upper[3], lower[3])),
            pulp::cast(avx._mm256_permute2f128_ps::<0x31>(upper[0], lower[0])),
            pulp::cast(avx._mm256_permute2f128_ps::<0x31>(upper[1], lower[1])),
            pulp::cast(avx._mm256_permute2f128_ps::<0x31>(upper[2], lower[2])),
            pulp::cast(avx._mm256_permute2f128_ps::<0x31>(upper[3], lower[3])),
        ]
    }
}

#[cfg(target_arch = "aarch64")]
impl Tile for pulp::aarch64::Neon {
    #[inline(always)]
    fn transposed(self, tile: [[f32; SIDE]; SIDE]) -> [[f32; SIDE]; SIDE] {
        use std::arch::aarch64::{float32x4_t, float64x2_t};
        let neon = self.neon;
        let mut out = [[0.0; SIDE]; SIDE];
        for i in [0, 4] {
            for j in [0, 4] {
                let v = |r: usize| -> float32x4_t { pulp::cast([0, 1, 2, 3].map(|c| tile[i + r][j + c])) };
                // Elements of two rows beside each other, of four.
                let wide = |x: float32x4_t| -> float64x2_t { pulp::cast(x) };
                let (ab0, ab1) = (wide(neon.vtrn1q_f32(v(0), v(1))), wide(neon.vtrn2q_f32(v(0), v(1))));
                let (cd0, cd1) = (wide(neon.vtrn1q_f32(v(2), v(3))), wide(neon.vtrn2q_f32(v(2), v(3))));
                let columns = [
                    neon.vtrn1q_f64(ab0, cd0),
                    neon.vtrn1q_f64(ab1, cd1),
                    neon.vtrn2q_f64(ab0, cd0),
                    neon.vtrn2q_f64(ab1, cd1),
                ];
                for (c, column) in columns.into_iter().enumerate() {
                    let column: [f32; 4] = pulp::cast(column);
                    out[j + c][i..i + 4].copy_from_slice(&column);
                }
            }
        }
        out
    }
}

struct Body<'a, T> {
    tile: T,
    from: Mat<'a>,
    to: &'a mut [f32],
    stride: usize,
}

impl<T: Tile> NullaryFnOnce for Body<'_, T> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { tile, from, to, stride } = self;
        let (tokens, width) = from.shape();
        for line in to.chunks_exact_mut(stride) {
            line[tokens..].fill(0.0);
        }
        for t in (0..tokens).step_by(SIDE) {
            let rows = SIDE.min(tokens - t);
            for d in (0..width).step_by(SIDE) {
                let cols = SIDE.min(width - d);
                if rows == SIDE && cols == SIDE {
                    let mut square = [[0f32; SIDE]; SIDE];
                    for (i, line) in square.iter_mut().enumerate() {
                        line.copy_from_slice(&from.row(t + i)[d..d + SIDE]);
                    }
                    let square = tile.transposed(square);
                    for (j, line) in square.iter().enumerate() {
                        to[(d + j) * stride + t..][..SIDE].copy_from_slice(line);
                    }
                } else {
                    for i in 0..rows {
                        let line = &from.row(t + i)[d..d + cols];
                        for (j, v) in line.iter().enumerate() {
                            to[(d + j) * stride + t + i] = *v;
                        }
                    }
                }
            }
        }
    }
}

/// `to` `[h, stride]` ← `from` `[tokens, h]` transposed, the columns beyond the tokens 0.
pub(crate) fn transpose(from: Mat<'_>, to: &mut [f32], stride: usize) {
    match path::token().arch {
        // A tile has as many columns as a vector of AVX2 has lanes.
        #[cfg(target_arch = "x86_64")]
        Arch::V4(simd) => simd.vectorize(Body { tile: *simd, from, to, stride }),
        #[cfg(target_arch = "x86_64")]
        Arch::V3(tile) => tile.vectorize(Body { tile, from, to, stride }),
        #[cfg(target_arch = "aarch64")]
        Arch::Neon(tile) => tile.vectorize(Body { tile, from, to, stride }),
        _ => Body { tile: Plain, from, to, stride }.call(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Seeded, each_path};

    #[test]
    fn every_element_moves_and_the_rest_is_zero() {
        let mut seeded = Seeded(19);
        for _ in 0..40 {
            let (rows, cols) = (seeded.index(1, 70), seeded.index(1, 70));
            let x = seeded.vec(rows * cols, 1.0);
            let stride = odd_lines(rows.next_multiple_of(LANES));
            assert!(stride >= rows && stride / LANES % 2 == 1);
            let mut y = vec![f32::NAN; cols * stride];
            each_path(|| {
                y.fill(f32::NAN);
                transpose(Mat::new(&x, rows, cols), &mut y, stride);
                for (i, v) in y.iter().enumerate() {
                    let (col, row) = (i / stride, i % stride);
                    assert_eq!(*v, if row < rows { x[row * cols + col] } else { 0.0 });
                }
            });
        }
    }
}
