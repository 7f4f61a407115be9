//! `half`: the products of a linear layer with operands in bf16 and sums in f32, on the processor's own units for them.
//!
//! Let A be `[m, k]` and B be `[n, k]`, each with the numbers of a line beside each other or those of one k: C = A·Bᵀ
//! (+ b, or + C), `[m, n]`. All three products are of this form: y = x·Wᵀ, dx = dy·(Wᵀ)ᵀ, dW = dyᵀ·(xᵀ)ᵀ.
//!
//! How: `panels.rs`, on AMX or AVX-512's unit. A number in f32 is rounded on the way: no rounded copy of it is made. Sums
//! are rounded once. Where a processor has neither unit, operands are widened and [`gemm`](crate::gemm) multiplies them.
//!
//! The bits depend on the shapes and on the unit, never on the number of threads. The units take subnormal numbers as 0.

use std::cell::Cell;
use std::sync::OnceLock;

use half::bf16;
use half::slice::HalfFloatSliceExt;

use crate::gemm::{Mat, MatMut, Threads, gemm, linear as linear_f32};
#[cfg(target_arch = "x86_64")]
use crate::panels;
use crate::parallel::{PIECE, each};
use crate::simd::dispatched;

/// Numbers to be multiplied: rounded to bf16 where they are not in it.
#[derive(Clone, Copy, Debug)]
pub enum Numbers<'a> {
    /// To be rounded.
    F32(&'a [f32]),
    /// As they are computed with.
    Bf16(&'a [bf16]),
}

impl Numbers<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(x) => x.len(),
            Self::Bf16(x) => x.len(),
        }
    }

    /// Rounded to bf16, as f32.
    fn rounded(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.len()];
        match self {
            Self::F32(x) => each(out.chunks_mut(PIECE).zip(x.chunks(PIECE)), |(out, x)| {
                out.iter_mut().zip(x).for_each(|(out, x)| *out = wide(rounded(*x)));
            }),
            Self::Bf16(x) => widen(x, &mut out),
        }
        out
    }
}

/// Where sums go to.
#[derive(Debug)]
pub enum Sums<'a> {
    /// As they are.
    F32(&'a mut [f32]),
    /// Rounded, once.
    Bf16(&'a mut [bf16]),
}

/// What multiplies bf16 on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// AMX: tiles, `tdpbf16ps`.
    Amx,
    /// AVX-512 BF16: vectors, `vdpbf16ps`.
    Avx512,
    /// None: bf16 saves memory, and no time.
    Wide,
}

impl Unit {
    /// The fastest that the processor and the system have; none that is slower than products of f32 are.
    pub fn here() -> Self {
        static UNIT: OnceLock<Unit> = OnceLock::new();
        *UNIT.get_or_init(|| Self::all().find(|unit| unit.pays()).unwrap_or(Self::Wide))
    }

    /// Whether it multiplies bf16 faster than the processor multiplies f32.
    fn pays(self) -> bool {
        match self {
            // Of Intel's processors (Emerald Rapids was measured: 171 GFLOP/s where its f32 makes 349) one port has it, at half
            // the rate of two that add and multiply f32; of AMD's (Zen 4, Zen 5) it makes nearly twice as much.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => !panels::is_intel(),
            _ => true,
        }
    }

    /// All that there are, the fastest first.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::Amx, Self::Avx512, Self::Wide].into_iter().filter(|unit| match unit {
            Self::Wide => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => panels::has_avx512(),
            #[cfg(target_arch = "x86_64")]
            Self::Amx => panels::has_avx512() && panels::has_amx(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Amx | Self::Avx512 => false,
        })
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amx => "AMX",
            Self::Avx512 => "AVX-512 BF16",
            Self::Wide => "none",
        }
    }
}

/// To the nearest bf16, to the even one of two; NaN stays NaN.
#[inline(always)]
pub(crate) fn rounded(x: f32) -> u16 {
    let bits = x.to_bits();
    let near = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    (if bits & 0x7fff_ffff > 0x7f80_0000 { quiet } else { near }) as u16
}

#[inline(always)]
pub(crate) fn wide(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// `to` ← `from`.
///
/// # Panics
/// When the lengths disagree.
pub fn widen(from: &[bf16], to: &mut [f32]) {
    assert_eq!(from.len(), to.len(), "as many numbers");
    each(from.chunks(PIECE).zip(to.chunks_mut(PIECE)), |(from, to)| widen_piece(from.reinterpret_cast(), to));
}

/// `to` ← `from`, rounded.
///
/// # Panics
/// When the lengths disagree.
pub fn narrow(from: &[f32], to: &mut [bf16]) {
    assert_eq!(from.len(), to.len(), "as many numbers");
    each(from.chunks(PIECE).zip(to.chunks_mut(PIECE)), |(from, to)| narrow_piece(from, to.reinterpret_cast_mut()));
}

thread_local! {
    static WIDE: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Runs a kernel that treats each element alone: on pieces that are widened into a cache, and rounded on the way back. It is
/// given what is read, and what is written, as it was.
///
/// # Panics
/// When the lengths disagree.
pub fn by_pieces<const R: usize, const W: usize>(
    read: [&[bf16]; R],
    write: [&mut [bf16]; W],
    run: impl Fn([&[f32]; R], [&mut [f32]; W]) + Send + Sync,
) {
    let len = write.first().map_or(0, |w| w.len());
    assert!(read.iter().all(|r| r.len() == len) && write.iter().all(|w| w.len() == len), "as many numbers");
    let mut write = write.map(|w| w.chunks_mut(PIECE));
    let pieces = (0..len).step_by(PIECE).map(|at| {
        let read = read.map(|r| &r[at..len.min(at + PIECE)]);
        (read, write.each_mut().map(|w| w.next().expect("as many pieces")))
    });
    each(pieces, |(read, mut write)| {
        let len = write.first().map_or(0, |w| w.len());
        let mut buffer = WIDE.take();
        buffer.resize(buffer.len().max((R + W) * len), 0.0);
        let (wide_read, wide_write) = buffer.split_at_mut(R * len);
        for (from, to) in read.iter().zip(wide_read.chunks_exact_mut(len)) {
            widen_piece(from.reinterpret_cast(), to);
        }
        for (from, to) in write.iter().zip(wide_write.chunks_exact_mut(len)) {
            widen_piece(from.reinterpret_cast(), to);
        }
        let mut reads = wide_read.chunks_exact(len);
        let mut writes = wide_write.chunks_exact_mut(len);
        run(
            std::array::from_fn(|_| reads.next().expect("one for each")),
            std::array::from_fn(|_| writes.next().expect("one for each")),
        );
        for (from, to) in wide_write.chunks_exact(len).zip(&mut write) {
            narrow_piece(from, to.reinterpret_cast_mut());
        }
        WIDE.set(buffer);
    });
}

dispatched! {
    pub(crate) fn widen_piece<S>(_simd, from: &'a [u16], to: &'a mut [f32]) {
        to.iter_mut().zip(from).for_each(#[inline(always)] |(to, x)| *to = wide(*x));
    }
}

dispatched! {
    fn narrow_piece<S>(_simd, from: &'a [f32], to: &'a mut [u16]) {
        to.iter_mut().zip(from).for_each(#[inline(always)] |(to, x)| *to = rounded(*x));
    }
}

/// An operand `[lines, k]`.
#[derive(Clone, Copy)]
pub(crate) struct Side<'a> {
    pub(crate) numbers: Numbers<'a>,
    pub(crate) lines: usize,
    pub(crate) k: usize,
    /// Whether the numbers of a line are beside each other, or those of one k.
    pub(crate) by_line: bool,
}

/// y ← x·Wᵀ (+ bias): `x` `[n, inputs]`, `weight` `[outputs, inputs]`, `bias` `[outputs]`, `y` `[n, outputs]`.
///
/// # Panics
/// When the lengths disagree.
pub fn linear(x: Numbers<'_>, weight: Numbers<'_>, bias: Option<&[f32]>, inputs: usize, outputs: usize, y: Sums<'_>) {
    let x = Side { numbers: x, lines: rows_of(x, inputs), k: inputs, by_line: true };
    let w = Side { numbers: weight, lines: outputs, k: inputs, by_line: true };
    product(Unit::here(), x, w, bias, y, false);
}

/// dx ← dy·W, or dx ← dx + dy·W if `accumulate`: `dy` `[n, outputs]`, `weight` `[outputs, inputs]`, `dx` `[n, inputs]`.
///
/// # Panics
/// When the lengths disagree.
pub fn linear_backward_input(
    dy: Numbers<'_>,
    weight: Numbers<'_>,
    inputs: usize,
    outputs: usize,
    dx: Sums<'_>,
    accumulate: bool,
) {
    let dy = Side { numbers: dy, lines: rows_of(dy, outputs), k: outputs, by_line: true };
    let w = Side { numbers: weight, lines: inputs, k: outputs, by_line: false };
    product(Unit::here(), dy, w, None, dx, accumulate);
}

/// dW ← dW + dyᵀ·x: `dy` `[n, outputs]`, `x` `[n, inputs]`, `dweight` `[outputs, inputs]`.
///
/// # Panics
/// When the lengths disagree.
pub fn linear_backward_weight(dy: Numbers<'_>, x: Numbers<'_>, inputs: usize, outputs: usize, dweight: &mut [f32]) {
    let k = rows_of(dy, outputs);
    let dy = Side { numbers: dy, lines: outputs, k, by_line: false };
    let x = Side { numbers: x, lines: inputs, k, by_line: false };
    product(Unit::here(), dy, x, None, Sums::F32(dweight), true);
}

fn rows_of(x: Numbers<'_>, width: usize) -> usize {
    assert!(width > 0 && x.len().is_multiple_of(width), "{} elements are no rows of {width}", x.len());
    x.len() / width
}

/// C ← A·Bᵀ (+ bias), or C ← C + A·Bᵀ.
fn product(unit: Unit, a: Side<'_>, b: Side<'_>, bias: Option<&[f32]>, c: Sums<'_>, accumulate: bool) {
    assert_fit(a, b, bias, &c);
    match unit {
        Unit::Wide => widened(a, b, bias, c, accumulate),
        #[cfg(target_arch = "x86_64")]
        unit => panels::product::<1>(unit == Unit::Amx, a, b, bias, c, accumulate),
        #[cfg(not(target_arch = "x86_64"))]
        Unit::Amx | Unit::Avx512 => unreachable!("not on this processor"),
    }
}

/// Stops unless the shapes fit.
#[track_caller]
pub(crate) fn assert_fit(a: Side<'_>, b: Side<'_>, bias: Option<&[f32]>, c: &Sums<'_>) {
    let (m, n) = (a.lines, b.lines);
    assert_eq!(a.k, b.k, "operands of one k");
    for side in [a, b] {
        assert_eq!(Some(side.numbers.len()), side.lines.checked_mul(side.k), "an operand [{}, {}]", side.lines, side.k);
    }
    let len = match c {
        Sums::F32(c) => c.len(),
        Sums::Bf16(c) => c.len(),
    };
    assert_eq!(Some(len), m.checked_mul(n), "sums [{m}, {n}]");
    if let Some(bias) = bias {
        assert_eq!(bias.len(), n, "bias is [{n}]");
    }
}

/// Without a unit for bf16: the same numbers, multiplied in f32.
fn widened(a: Side<'_>, b: Side<'_>, bias: Option<&[f32]>, c: Sums<'_>, accumulate: bool) {
    let (m, n, k) = (a.lines, b.lines, a.k);
    let (left, right) = (a.numbers.rounded(), b.numbers.rounded());
    let multiply = |c: &mut [f32], add: bool| {
        if a.by_line && b.by_line && !add && k > 0 {
            return linear_f32(&left, &right, bias, k, n, c);
        }
        let view = |side: Side<'_>, numbers| match side.by_line {
            true => Mat::new(numbers, side.lines, k),
            false => Mat::new(numbers, k, side.lines).t(),
        };
        if let Some(bias) = bias {
            c.chunks_exact_mut(n).for_each(|row| row.copy_from_slice(bias));
        }
        let alpha = if add || bias.is_some() { 1.0 } else { 0.0 };
        gemm(alpha, MatMut::new(c, m, n), 1.0, view(a, &left), view(b, &right).t(), Threads::Pool);
    };
    match c {
        Sums::F32(c) => multiply(c, accumulate),
        Sums::Bf16(c) => {
            let mut sums = vec![0.0; c.len()];
            if accumulate {
                widen(c, &mut sums);
            }
            multiply(&mut sums, accumulate);
            narrow(&sums, c);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Seeded, close, same_bits_on_any_pool};

    fn halves(x: &[f32]) -> Vec<bf16> {
        x.iter().map(|x| bf16::from_f32(*x)).collect()
    }

    #[test]
    fn rounding_is_to_the_nearest() {
        let mut seeded = Seeded(31);
        let special = [0.0, -0.0, 1.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-45];
        // Halfway between two, both ways.
        let halfway = [0x3f80_8000, 0x3f81_8000, 0x3f80_8001].map(f32::from_bits);
        let random = (0..10_000).map(|_| f32::from_bits(seeded.bits() as u32)).collect::<Vec<_>>();
        let all: Vec<f32> = special.into_iter().chain(halfway).chain(random).collect();
        let mut got = vec![bf16::ZERO; all.len()];
        narrow(&all, &mut got);
        let mut back = vec![0.0; all.len()];
        widen(&got, &mut back);
        for ((x, got), back) in all.iter().zip(&got).zip(&back) {
            let expected = bf16::from_f32(*x);
            assert!(got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan(), "{x}: {got}");
            assert!(back.to_bits() == expected.to_f32().to_bits() || back.is_nan() && expected.is_nan());
        }
    }

    /// Every unit of this machine, every orientation and type, against sums in f64 of the rounded numbers.
    #[test]
    fn products_against_f64() {
        let mut seeded = Seeded(32);
        for round in 0..120 {
            let most = if round % 10 == 0 { 700 } else { 90 };
            let (m, n, k) = (seeded.index(1, most), seeded.index(1, most), seeded.index(1, most));
            let (a, b) = (seeded.vec(m * k, 1.0), seeded.vec(n * k, 1.0));
            let (start, bias) = (seeded.vec(m * n, 1.0), seeded.vec(n, 1.0));
            let (a_half, b_half, start_half) = (halves(&a), halves(&b), halves(&start));
            let numbers = |full: bool, x, half| if full { Numbers::F32(x) } else { Numbers::Bf16(half) };
            let a = Side { numbers: numbers(round & 1 == 0, &a, &a_half), lines: m, k, by_line: round & 2 == 0 };
            let b = Side { numbers: numbers(round & 4 == 0, &b, &b_half), lines: n, k, by_line: round & 8 == 0 };
            let accumulate = round % 3 == 0;
            let bias = (round % 3 == 1).then_some(&bias[..]);
            let at = |side: Side<'_>, half: &[bf16], line: usize, k: usize| {
                half[if side.by_line { line * side.k + k } else { k * side.lines + line }].to_f64()
            };
            let product: Vec<f64> = (0..m * n)
                .map(|i| {
                    let sum: f64 = (0..k).map(|l| at(a, &a_half, i / n, l) * at(b, &b_half, i % n, l)).sum();
                    sum + bias.map_or(0.0, |b| f64::from(b[i % n]))
                })
                .collect();
            for unit in Unit::all() {
                let mut got = if accumulate { start.clone() } else { vec![f32::NAN; m * n] };
                super::product(unit, a, b, bias, Sums::F32(&mut got), accumulate);
                let with = |start: f64| if accumulate { start } else { 0.0 };
                let expected: Vec<f64> = product.iter().zip(&start).map(|(p, s)| p + with(f64::from(*s))).collect();
                close(&got, &expected, 2e-6);
                let mut got = if accumulate { start_half.clone() } else { vec![bf16::NAN; m * n] };
                super::product(unit, a, b, bias, Sums::Bf16(&mut got), accumulate);
                let expected: Vec<f64> = product.iter().zip(&start_half).map(|(p, s)| p + with(s.to_f64())).collect();
                close(&got.iter().map(|x| x.to_f32()).collect::<Vec<_>>(), &expected, 4e-3);
            }
        }
    }

    #[test]
    fn the_three_products_of_a_layer() {
        let mut seeded = Seeded(33);
        let (n, i, o) = (70, 50, 90);
        let (x, w, dy) = (seeded.vec(n * i, 1.0), seeded.vec(o * i, 1.0), seeded.vec(n * o, 1.0));
        let exact = |x: &[f32]| halves(x).iter().map(|x| x.to_f32()).collect::<Vec<_>>();
        let (xe, we, ge) = (exact(&x), exact(&w), exact(&dy));
        let wide = |x: Vec<f32>| x.into_iter().map(f64::from).collect::<Vec<_>>();
        let [mut y, mut dx, mut dw] = [vec![0.0; n * o], vec![0.0; n * i], vec![0.0; o * i]];
        linear(Numbers::F32(&x), Numbers::F32(&w), None, i, o, Sums::F32(&mut y));
        linear_backward_input(Numbers::F32(&dy), Numbers::F32(&w), i, o, Sums::F32(&mut dx), false);
        linear_backward_weight(Numbers::F32(&dy), Numbers::F32(&x), i, o, &mut dw);
        let [mut ye, mut dxe, mut dwe] = [vec![0.0; n * o], vec![0.0; n * i], vec![0.0; o * i]];
        linear_f32(&xe, &we, None, i, o, &mut ye);
        crate::gemm::linear_backward_input(&ge, &we, i, o, &mut dxe, false);
        crate::gemm::linear_backward_weight(&ge, &xe, i, o, &mut dwe, None);
        close(&y, &wide(ye), 2e-6);
        close(&dx, &wide(dxe), 2e-6);
        close(&dw, &wide(dwe), 2e-6);
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let mut seeded = Seeded(34);
        let (n, i, o) = (700, 200, 1100);
        let (x, w, dy) = (seeded.vec(n * i, 1.0), seeded.vec(o * i, 1.0), seeded.vec(n * o, 1.0));
        same_bits_on_any_pool(|| {
            let (mut y, mut dx, mut dw) = (vec![0.0; n * o], vec![0.0; n * i], vec![0.0; i * o]);
            linear(Numbers::F32(&x), Numbers::F32(&w), None, i, o, Sums::F32(&mut y));
            linear_backward_input(Numbers::F32(&dy), Numbers::F32(&w), i, o, Sums::F32(&mut dx), false);
            linear_backward_weight(Numbers::F32(&dy), Numbers::F32(&x), i, o, &mut dw);
            [y, dx, dw].concat()
        });
    }

    #[test]
    fn pieces_are_the_whole() {
        let mut seeded = Seeded(35);
        for n in [0, 5, PIECE, 2 * PIECE + 7] {
            let (x, y) = (halves(&seeded.vec(n, 1.0)), halves(&seeded.vec(n, 1.0)));
            let [mut got, mut kept] = [y.clone(), x.clone()];
            by_pieces([&x], [&mut got, &mut kept], |[x], [y, _]| y.iter_mut().zip(x).for_each(|(y, x)| *y += 2.0 * x));
            let expected = x.iter().zip(&y).map(|(x, y)| bf16::from_f32(y.to_f32() + 2.0 * x.to_f32()));
            assert!(got.into_iter().eq(expected) && kept == x, "{n}");
        }
    }

    #[test]
    fn nothing_is_no_product() {
        for unit in Unit::all() {
            let empty = |lines, k| Side { numbers: Numbers::F32(&[]), lines, k, by_line: true };
            super::product(
                unit,
                empty(0, 5),
                Side { numbers: Numbers::F32(&[1.0; 15]), lines: 3, k: 5, by_line: true },
                None,
                Sums::F32(&mut []),
                false,
            );
            let mut c = [f32::NAN; 6];
            super::product(unit, empty(2, 0), empty(3, 0), None, Sums::F32(&mut c), false);
            assert_eq!(c, [0.0; 6], "{}", unit.name());
        }
    }
}
