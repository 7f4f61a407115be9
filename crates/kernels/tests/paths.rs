//! Every kernel on every path of this machine, with the scalar path as the oracle.
//!
//! Paths add in another order, so numbers agree within a few roundings of the largest; where nothing is added, as in a
//! transposition or a conversion, to the bit.

use collimate_kernels::adamw::{self, AdamW};
use collimate_kernels::attention::{Attention, Row};
use collimate_kernels::extend::{BLOCK, Cache, Text};
use collimate_kernels::gemm::{self, Mat, MatMut, Threads};
use collimate_kernels::half::{narrow, widen};
use collimate_kernels::path::Path;
use collimate_kernels::rows::{self, Packed, Weight};
use collimate_kernels::{exp, head, rms_norm, rope, swiglu};
use half::bf16;

/// Lengths around those of vectors and of the loops over them, and a few pieces of work.
const LENGTHS: [usize; 12] = [1, 3, 4, 7, 8, 15, 16, 17, 63, 64, 65, 40_003];

/// Seeded numbers in [−1, 1).
struct Seeded(u64);

impl Seeded {
    fn vec(&mut self, n: usize) -> Vec<f32> {
        let mut next = || {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }
}

/// The results of `kernel` on each path are those on the scalar path, within `tolerance` of the largest of each.
#[track_caller]
fn as_scalar(tolerance: f32, mut kernel: impl FnMut() -> Vec<Vec<f32>>) {
    let oracle = Path::Scalar.run(&mut kernel);
    assert!(oracle.iter().flatten().all(|x| x.is_finite()), "the oracle is finite");
    for path in Path::all() {
        for (i, (got, expected)) in path.run(&mut kernel).iter().zip(&oracle).enumerate() {
            assert_eq!(got.len(), expected.len());
            let largest = expected.iter().fold(f32::MIN_POSITIVE, |most, x| most.max(x.abs()));
            for (j, (a, b)) in got.iter().zip(expected).enumerate() {
                let near = (a - b).abs() <= tolerance * largest;
                assert!(near, "{path:?}, result {i}, element {j}: {a}, not {b} (largest {largest})");
            }
        }
    }
}

#[test]
fn exponentials() {
    for n in LENGTHS {
        let x: Vec<f32> = Seeded(1).vec(n).iter().map(|x| 80.0 * x).collect();
        // Of each number, not of the largest: as a difference of logarithms.
        as_scalar(1e-6, || {
            let mut y = x.clone();
            exp::exp_in_place(&mut y);
            vec![y.iter().zip(&x).map(|(y, x)| (f64::from(*y) / f64::from(*x).exp()) as f32).collect()]
        });
    }
    for path in Path::all() {
        let mut y = vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -104.5, 89.0];
        path.run(|| exp::exp_in_place(&mut y));
        assert!(y[0].is_nan(), "{path:?}");
        assert_eq!(y[1..], [f32::INFINITY, 0.0, 1.0, 0.0, f32::INFINITY], "{path:?}");
    }
}

#[test]
fn norms() {
    for d in LENGTHS {
        let n = if d < 100 { 37 } else { 2 };
        let mut seeded = Seeded(2);
        let (x, dy, w) = (seeded.vec(n * d), seeded.vec(n * d), seeded.vec(d));
        for accumulate in [false, true] {
            as_scalar(1e-5, || {
                let (mut y, mut inv, mut dx, mut dw) = (vec![0.0; n * d], vec![0.0; n], dy.clone(), vec![0.5; d]);
                rms_norm::forward(&x, &w, 1e-5, &mut y, &mut inv);
                rms_norm::backward(&dy, &x, &w, &inv, &mut dx, accumulate, &mut dw);
                vec![y, inv, dx, dw]
            });
        }
    }
}

#[test]
fn rotations() {
    for half in LENGTHS {
        let (n, heads) = if half < 100 { (9, 3) } else { (2, 1) };
        let positions: Vec<usize> = (0..n).map(|i| 7 * i).collect();
        let (cos, sin) = rope::tables(&positions, 2 * half, 1e4);
        let x = Seeded(3).vec(n * heads * 2 * half);
        as_scalar(1e-6, || {
            let (mut y, mut dx) = (x.clone(), x.clone());
            rope::forward(&mut y, heads, &cos, &sin, 2 * half);
            rope::backward(&mut dx, heads, &cos, &sin, 2 * half);
            vec![y, dx]
        });
    }
}

#[test]
fn gates() {
    for n in LENGTHS {
        let mut seeded = Seeded(4);
        let (gate, up, dy) = (seeded.vec(n).iter().map(|x| 9.0 * x).collect::<Vec<_>>(), seeded.vec(n), seeded.vec(n));
        as_scalar(1e-6, || {
            let (mut y, mut dg, mut du) = (vec![0.0; n], gate.clone(), up.clone());
            swiglu::forward(&gate, &up, &mut y);
            swiglu::backward(&dy, &mut dg, &mut du);
            vec![y, dg, du]
        });
    }
}

#[test]
fn the_head() {
    for v in LENGTHS {
        let c = if v < 100 { 21 } else { 2 };
        let mut seeded = Seeded(5);
        let (z, coef) = (seeded.vec(c * v).iter().map(|x| 12.0 * x).collect::<Vec<_>>(), seeded.vec(c));
        let targets: Vec<u32> = (0..c).map(|i| (i * 31 % v) as u32).collect();
        as_scalar(2e-6, || {
            let (mut lse, mut lp, mut p2, mut dz) = (vec![0.0; c], vec![0.0; c], vec![0.0; c], z.clone());
            head::forward(&z, &targets, v, &mut lse, &mut lp, Some(&mut p2));
            head::backward(&mut dz, &targets, v, &lse, &coef);
            vec![lse, lp, p2, dz]
        });
    }
}

#[test]
fn steps_of_the_optimiser() {
    let adamw = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    for n in LENGTHS {
        let mut seeded = Seeded(6);
        let (start, gradients) = (seeded.vec(n), [seeded.vec(n), seeded.vec(n), seeded.vec(n)]);
        as_scalar(2e-6, || {
            let (mut p, mut m, mut v) = (start.clone(), vec![0.0; n], vec![0.0; n]);
            for (t, g) in gradients.iter().enumerate() {
                adamw.step(t as u64 + 1, 0.7, &mut p, &mut m, &mut v, g);
            }
            vec![p, m, v, vec![adamw::sum_of_squares(&start) as f32]]
        });
    }
}

#[test]
fn products() {
    let sizes = [(1, 1, 1), (1, 17, 5), (5, 3, 40), (33, 65, 17), (50, 64, 64), (130, 70, 90), (200, 300, 260)];
    for (n, i, o) in sizes {
        let mut seeded = Seeded(7);
        let (x, w, dy, bias) = (seeded.vec(n * i), seeded.vec(o * i), seeded.vec(n * o), seeded.vec(o));
        as_scalar(2e-6, || {
            let (mut y, mut with_bias) = (vec![f32::NAN; n * o], vec![f32::NAN; n * o]);
            let (mut dx, mut dw, mut db) = (vec![0.5; n * i], vec![0.5; o * i], vec![0.5; o]);
            gemm::linear(&x, &w, None, i, o, &mut y);
            gemm::linear(&x, &w, Some(&bias), i, o, &mut with_bias);
            gemm::linear_backward_input(&dy, &w, i, o, &mut dx, true);
            gemm::linear_backward_weight(&dy, &x, i, o, &mut dw, Some(&mut db));
            let mut one = vec![f32::NAN; n * o];
            let (a, b) = (Mat::new(&x, n, i), Mat::new(&w, o, i).t());
            gemm::gemm(0.0, MatMut::new(&mut one, n, o), 0.5, a, b, Threads::One);
            vec![y, with_bias, dx, dw, db, one]
        });
    }
}

#[test]
fn products_of_the_newest_tokens() {
    for (n, k, o) in [(1, 1, 1), (1, 40, 65), (5, 33, 130), (6, 64, 64), (31, 100, 235)] {
        let mut seeded = Seeded(8);
        let (x, w, b) = (seeded.vec(n * k), seeded.vec(o * k), seeded.vec(o));
        let narrow: Vec<bf16> = w.iter().map(|w| bf16::from_f32(*w)).collect();
        as_scalar(2e-6, || {
            let (mut y, mut z) = (vec![f32::NAN; n * o], vec![f32::NAN; n * o]);
            let packed = [Weight::F32(&w), Weight::Bf16(&narrow)].map(|w| Packed::new(w, k, o));
            rows::linear(&x, k, vec![(&packed[0], Some(&b), &mut y), (&packed[1], None, &mut z)]);
            vec![y, z]
        });
    }
}

#[test]
fn attention() {
    let shapes: [&[(usize, &[usize])]; 3] =
        [&[(1, &[]), (20, &[2])], &[(70, &[31, 17]), (5, &[])], &[(0, &[9, 120]), (33, &[1, 2, 3])]];
    for shape in shapes {
        for (heads, kv_heads, h, window) in [(1, 1, 1, None), (4, 2, 24, None), (3, 3, 64, Some(20)), (2, 1, 17, None)]
        {
            let mut start = 0;
            let mut row = |&(prefix, branches): &(usize, &[usize])| {
                let row = Row { start, prefix, branches: branches.to_vec() };
                start += row.tokens();
                row
            };
            let rows: Vec<Row> = shape.iter().map(&mut row).collect();
            let n = start;
            let a = Attention { rows: &rows, heads, kv_heads, head_dim: h, scale: 0.6, window };
            let mut seeded = Seeded(9);
            let (q, g) = (seeded.vec(n * heads * h), seeded.vec(n * heads * h));
            let (k, v) = (seeded.vec(n * kv_heads * h), seeded.vec(n * kv_heads * h));
            as_scalar(4e-6, || {
                let (mut out, mut lse) = (vec![0.0; q.len()], vec![0.0; n * heads]);
                let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
                a.forward(&q, &k, &v, &mut out, &mut lse);
                a.backward(&g, &q, &k, &v, &out, &lse, &mut dq, &mut dk, &mut dv);
                vec![out, lse, dq, dk, dv]
            });
        }
    }
}

#[test]
fn attention_of_the_newest_tokens() {
    for (heads, kv_heads, h, window) in [(1, 1, 1, None), (6, 2, 64, None), (3, 3, 40, Some(21)), (2, 1, 67, None)] {
        let (before, new) = (50, 5);
        let mut seeded = Seeded(10);
        let mut tokens = |n: usize| [heads, kv_heads, kv_heads].map(|heads| seeded.vec(n * heads * h));
        let (old, young) = (tokens(before), tokens(new));
        as_scalar(2e-6, || {
            let mut cache = Cache::new(heads, kv_heads, h, 0.4, window);
            let blocks: Vec<u32> = (0..(before + new).div_ceil(BLOCK) as u32).rev().collect();
            cache.reserve(blocks.len());
            let (mut first, mut then) = (vec![0.0; before * heads * h], vec![0.0; new * heads * h]);
            let text = |tokens, new| [Text { blocks: &blocks, tokens, new }];
            let ([q, k, v], [q2, k2, v2]) = (&old, &young);
            cache.extend(q, k, v, &text(before, before), &mut first);
            cache.extend(q2, k2, v2, &text(before + new, new), &mut then);
            vec![first, then]
        });
    }
}

#[test]
fn conversions_to_the_bit() {
    let mut x = Seeded(11).vec(40_003);
    x.extend([f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-45, -0.0]);
    x.extend([0x3f80_8000, 0x3f81_8000, 0x3f80_8001].map(f32::from_bits));
    let expected: Vec<bf16> = x.iter().map(|x| bf16::from_f32(*x)).collect();
    for path in Path::all() {
        let (mut y, mut z) = (vec![bf16::ZERO; x.len()], vec![0.0; x.len()]);
        path.run(|| {
            narrow(&x, &mut y);
            widen(&y, &mut z);
        });
        assert_eq!(y, expected, "{path:?}");
        assert!(z.iter().zip(&expected).all(|(z, y)| z.to_bits() == y.to_f32().to_bits()), "{path:?}");
    }
}
