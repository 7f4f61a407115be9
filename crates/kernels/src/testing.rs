//! What the tests share: seeded numbers, closeness, finite differences, thread pools, paths.

use crate::path::Path;

/// Seeded uniform numbers (SplitMix64).
pub(crate) struct Seeded(pub u64);

impl Seeded {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// In `low..high`.
    pub(crate) fn index(&mut self, low: usize, high: usize) -> usize {
        low + (self.bits() % (high - low) as u64) as usize
    }

    /// In [−scale, scale).
    pub(crate) fn vec(&mut self, n: usize, scale: f64) -> Vec<f32> {
        (0..n).map(|_| ((2.0 * self.unit() - 1.0) * scale) as f32).collect()
    }
}

pub(crate) fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

/// Every element within `tolerance` of the expected one, relative to the largest expected magnitude.
#[track_caller]
pub(crate) fn close(actual: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len());
    let scale = expected.iter().fold(1e-30f64, |m, v| m.max(v.abs()));
    for (i, (&a, &e)) in actual.iter().zip(expected).enumerate() {
        assert!((f64::from(a) - e).abs() <= tolerance * scale, "element {i}: {a} against {e} (scale {scale})");
    }
}

/// Central differences of `f` at `x`, one coordinate after the other.
pub(crate) fn finite_differences(x: &[f64], mut f: impl FnMut(&[f64]) -> f64) -> Vec<f64> {
    let mut x = x.to_vec();
    let h = 1e-5;
    (0..x.len())
        .map(|i| {
            let at = x[i];
            x[i] = at + h;
            let up = f(&x);
            x[i] = at - h;
            let down = f(&x);
            x[i] = at;
            (up - down) / (2.0 * h)
        })
        .collect()
}

/// Runs `f` on every path of this machine.
pub(crate) fn each_path(mut f: impl FnMut()) {
    Path::all().for_each(|path| path.run(&mut f));
}

/// The results of `f` on pools of 1, 2 and 5 threads are the same bits, on every path.
#[track_caller]
pub(crate) fn same_bits_on_any_pool(f: impl Fn() -> Vec<f32> + Send + Sync) {
    for path in Path::all() {
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| path.run(&f)).into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let one = on(1);
        assert!(one == on(2) && one == on(5), "{path:?}");
    }
}
