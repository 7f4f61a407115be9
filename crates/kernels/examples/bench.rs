//! Times every kernel beside a plain version of the same, at the shapes of a 30-million-parameter model.
//!
//! `cargo run --release -p collimate-kernels --example bench [-- part of a name]`; the minimum of several runs is printed.

use std::time::Instant;

use collimate_kernels::gemm::{self, Mat, MatMut, Threads};

struct Bench {
    only: Option<String>,
}

impl Bench {
    /// Seconds of the fastest of up to 30 runs, within about a second.
    fn time(&self, name: &str, mut run: impl FnMut()) -> Option<f64> {
        if self.only.as_ref().is_some_and(|part| !name.contains(part.as_str())) {
            return None;
        }
        run();
        let (begin, mut best) = (Instant::now(), f64::MAX);
        for i in 0..30 {
            let start = Instant::now();
            run();
            best = best.min(start.elapsed().as_secs_f64());
            if i > 3 && begin.elapsed().as_secs_f64() > 1.0 {
                break;
            }
        }
        Some(best)
    }

    fn flops(&self, name: &str, flops: f64, run: impl FnMut()) {
        if let Some(s) = self.time(name, run) {
            println!("{name:<58} {:>9.3} ms {:>8.1} GFLOP/s", s * 1e3, flops / s / 1e9);
        }
    }
}

fn numbers(n: usize) -> Vec<f32> {
    let mut state = 1u64;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

fn products(b: &Bench) {
    let s = 1024;
    let (x, y, mut z) = (numbers(s * s), numbers(s * s), vec![0.0; s * s]);
    b.flops("gemm 1024³ A·B", 2.0 * (s * s * s) as f64, || {
        gemm::gemm(0.0, MatMut::new(&mut z, s, s), 1.0, Mat::new(&x, s, s), Mat::new(&y, s, s), Threads::Pool);
    });
    for n in [512, 2000, 4096] {
        for (i, o) in [(256, 256), (384, 384), (384, 1024), (1024, 384), (512, 1536)] {
            linear(b, n, i, o);
        }
    }
    for n in [64, 256, 1024] {
        linear(b, n, 384, 50257);
    }
}

fn linear(b: &Bench, n: usize, i: usize, o: usize) {
    let (x, w, dy) = (numbers(n * i), numbers(o * i), numbers(n * o));
    let (mut y, mut dx, mut dw) = (vec![0.0; n * o], vec![0.0; n * i], vec![0.0; o * i]);
    let flops = 2.0 * (n * i * o) as f64;
    b.flops(&format!("linear n={n} {i}→{o} y"), flops, || gemm::linear(&x, &w, None, i, o, &mut y));
    b.flops(&format!("linear n={n} {i}→{o} dx"), flops, || {
        gemm::linear_backward_input(&dy, &w, i, o, &mut dx, false);
    });
    b.flops(&format!("linear n={n} {i}→{o} dW"), flops, || {
        gemm::linear_backward_weight(&dy, &x, i, o, &mut dw, None);
    });
}

fn main() {
    let bench = Bench { only: std::env::args().nth(1) };
    products(&bench);
}
