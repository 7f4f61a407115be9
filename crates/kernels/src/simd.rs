//! What every kernel needs of vectors: dispatch to a [path](crate::path), loops with tails, sums.

use pulp::Simd;

/// Declares a function whose body is compiled for each vector width and runs on the current path.
///
/// References among the arguments carry the lifetime `'a`. `$simd` is the token of the width, of type `$S`.
macro_rules! dispatched {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$S:ident>($simd:ident, $($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name<'a>($($arg: $ty),*) $(-> $ret)? {
            struct Body<'a> {
                $($arg: $ty,)*
                lifetime: std::marker::PhantomData<&'a ()>,
            }
            impl<'a> pulp::WithSimd for Body<'a> {
                #[allow(unused_parens)]
                type Output = ($($ret)?);
                #[inline(always)]
                fn with_simd<$S: pulp::Simd>(self, $simd: $S) -> Self::Output {
                    let Self { $($arg,)* lifetime: _ } = self;
                    $body
                }
            }
            crate::path::dispatch(Body { $($arg,)* lifetime: std::marker::PhantomData })
        }
    };
}
pub(crate) use dispatched;

/// `write[..][i] ← f(write[..][i], read[..][i])` for every i; all slices have one length.
///
/// `f` must be marked `#[inline(always)]`: a closure that stays a function of its own is compiled without the vector
/// instructions, and each operation in it becomes a call.
#[inline(always)]
pub(crate) fn update<S: Simd, const W: usize, const R: usize>(
    simd: S,
    write: [&mut [f32]; W],
    read: [&[f32]; R],
    mut f: impl FnMut([S::f32s; W], [S::f32s; R]) -> [S::f32s; W],
) {
    let n = write[0].len();
    let write = write.map(|w| S::as_mut_simd_f32s(&mut w[..n]));
    let read = read.map(|r| S::as_simd_f32s(&r[..n]));
    for i in 0..write[0].0.len() {
        let out = f(
            std::array::from_fn(
                #[inline(always)]
                |j| write[j].0[i],
            ),
            std::array::from_fn(
                #[inline(always)]
                |j| read[j].0[i],
            ),
        );
        for j in 0..W {
            write[j].0[i] = out[j];
        }
    }
    if !write[0].1.is_empty() {
        let out = f(
            std::array::from_fn(
                #[inline(always)]
                |j| simd.partial_load_f32s(write[j].1),
            ),
            std::array::from_fn(
                #[inline(always)]
                |j| simd.partial_load_f32s(read[j].1),
            ),
        );
        for j in 0..W {
            simd.partial_store_f32s(write[j].1, out[j]);
        }
    }
}

/// `Σ_i f(read[..][i])` in f32, in an order that depends on the length only. `f` sees zeros beyond the end, and must
/// return zero for them; it must be marked `#[inline(always)]`, as in [`update`].
#[inline(always)]
pub(crate) fn sum<S: Simd, const R: usize>(
    simd: S,
    read: [&[f32]; R],
    mut f: impl FnMut([S::f32s; R], S::f32s) -> S::f32s,
) -> f32 {
    let n = read[0].len();
    let read = read.map(|r| S::as_simd_f32s(&r[..n]));
    // Four chains of additions hide the latency of one, and shorten the error.
    let mut acc = [simd.splat_f32s(0.0); 4];
    let vectors = read[0].0.len();
    let mut i = 0;
    while i + 4 <= vectors {
        for (k, acc) in acc.iter_mut().enumerate() {
            *acc = f(
                std::array::from_fn(
                    #[inline(always)]
                    |j| read[j].0[i + k],
                ),
                *acc,
            );
        }
        i += 4;
    }
    while i < vectors {
        acc[0] = f(
            std::array::from_fn(
                #[inline(always)]
                |j| read[j].0[i],
            ),
            acc[0],
        );
        i += 1;
    }
    if !read[0].1.is_empty() {
        acc[1] = f(
            std::array::from_fn(
                #[inline(always)]
                |j| simd.partial_load_f32s(read[j].1),
            ),
            acc[1],
        );
    }
    simd.reduce_sum_f32s(simd.add_f32s(simd.add_f32s(acc[0], acc[1]), simd.add_f32s(acc[2], acc[3])))
}

/// The largest element; −∞ for an empty slice.
#[inline(always)]
pub(crate) fn max<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let (head, tail) = S::as_simd_f32s(x);
    let mut acc = [simd.splat_f32s(f32::NEG_INFINITY); 4];
    let mut quads = head.chunks_exact(4);
    for quad in &mut quads {
        for (acc, v) in acc.iter_mut().zip(quad) {
            *acc = simd.max_f32s(*acc, *v);
        }
    }
    for v in quads.remainder() {
        acc[0] = simd.max_f32s(acc[0], *v);
    }
    let acc = simd.max_f32s(simd.max_f32s(acc[0], acc[1]), simd.max_f32s(acc[2], acc[3]));
    tail.iter().fold(simd.reduce_max_f32s(acc), |m, &v| m.max(v))
}
