//! `half`: the products of a linear layer with operands in bf16 and sums in f32, on the processor's own units for them.
//!
//! Let A be `[m, k]` and B be `[n, k]`, each with the numbers of a line beside each other or those of one k: C = A·Bᵀ
//! (+ b, or + C), `[m, n]`. All three products are of this form: y = x·Wᵀ, dx = dy·(Wᵀ)ᵀ, dW = dyᵀ·(xᵀ)ᵀ.
//!
//! How: both units multiply pairs of neighbours in k and add them to a sum in f32: AMX a tile of 16 × 32 by one of 32 × 16
//! (`tdpbf16ps`), AVX-512 a vector of 16 pairs (`vdpbf16ps`). So operands are packed once into blocks of 16 lines × 16
//! pairs, A with the pairs of a line beside each other and B with those of one k, and a number in f32 is rounded on the
//! way: no rounded copy of it is made. A task is a block of C whose sums stay in the second-level cache over all of k, and
//! are rounded once. Where a processor has neither unit, operands are widened and [`gemm`](crate::gemm) multiplies them.
//!
//! The bits depend on the shapes and on the unit, never on the number of threads. The units take subnormal numbers as 0.

use std::cell::Cell;
use std::sync::OnceLock;

use half::bf16;
use half::slice::HalfFloatSliceExt;

use crate::gemm::{Mat, MatMut, Threads, gemm, linear as linear_f32};
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
    /// The fastest that the processor and the system have.
    pub fn here() -> Self {
        static UNIT: OnceLock<Unit> = OnceLock::new();
        *UNIT.get_or_init(|| Self::all().next().unwrap_or(Self::Wide))
    }

    /// All that there are, the fastest first.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::Amx, Self::Avx512, Self::Wide].into_iter().filter(|unit| match unit {
            Self::Wide => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => x86::has_avx512(),
            #[cfg(target_arch = "x86_64")]
            Self::Amx => x86::has_avx512() && x86::has_amx(),
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
fn rounded(x: f32) -> u16 {
    let bits = x.to_bits();
    let near = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    (if bits & 0x7fff_ffff > 0x7f80_0000 { quiet } else { near }) as u16
}

#[inline(always)]
fn wide(x: u16) -> f32 {
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
struct Side<'a> {
    numbers: Numbers<'a>,
    lines: usize,
    k: usize,
    /// Whether the numbers of a line are beside each other, or those of one k.
    by_line: bool,
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
    let (m, n) = (a.lines, b.lines);
    assert_eq!(a.k, b.k, "operands of one k");
    for side in [a, b] {
        assert_eq!(Some(side.numbers.len()), side.lines.checked_mul(side.k), "an operand [{}, {}]", side.lines, side.k);
    }
    let len = match &c {
        Sums::F32(c) => c.len(),
        Sums::Bf16(c) => c.len(),
    };
    assert_eq!(Some(len), m.checked_mul(n), "sums [{m}, {n}]");
    if let Some(bias) = bias {
        assert_eq!(bias.len(), n, "bias is [{n}]");
    }
    match unit {
        Unit::Wide => widened(a, b, bias, c, accumulate),
        #[cfg(target_arch = "x86_64")]
        unit => x86::product(unit == Unit::Amx, a, b, bias, c, accumulate),
        #[cfg(not(target_arch = "x86_64"))]
        Unit::Amx | Unit::Avx512 => unreachable!("not on this processor"),
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

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! Blocks, tiles and vectors.

    use std::arch::x86_64::*;

    use super::*;

    /// Lines and pairs of a block.
    const SIDE: usize = 16;
    /// Two blocks beside each other.
    type Blocks = [Line<u32>; PANEL];
    /// Lines of a panel, two blocks beside each other: what the inner loop treats of each operand.
    const PANEL: usize = 2 * SIDE;
    /// Lines of either operand in a task, at most: with more, less is read again from memory; with fewer, more of it stays
    /// in the second-level cache.
    const TASK: usize = 384;
    /// Blocks in k that are multiplied without storing sums between them.
    const DEPTH: usize = 32;
    /// Panels that are packed beside each other where lines are: whole cache lines, in a row.
    const BESIDE: usize = 4;

    /// Numbers that fill a cache line: a vector or a tile's row that lies across two takes twice the time.
    #[derive(Clone, Copy)]
    #[repr(align(64))]
    struct Line<T>([T; SIDE]);

    thread_local! {
        static PACKED: Cell<[Vec<Line<u32>>; 2]> = const { Cell::new([Vec::new(), Vec::new()]) };
        static SUMS: Cell<Vec<Line<f32>>> = const { Cell::new(Vec::new()) };
    }

    /// The first lines of a buffer that is made larger where it must be. What is overwritten need not be copied first.
    fn room<T: Copy + Default>(buffer: &mut Vec<Line<T>>, lines: usize) -> &mut [Line<T>] {
        if buffer.len() < lines {
            *buffer = vec![Line([T::default(); SIDE]); lines];
        }
        &mut buffer[..lines]
    }

    pub(super) fn has_avx512() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bf16")
    }

    /// Whether there is AMX with bf16, and Linux lets this process use its registers.
    #[allow(unsafe_code)]
    pub(super) fn has_amx() -> bool {
        if !cfg!(target_os = "linux") || __cpuid(0).eax < 7 {
            return false;
        }
        let features = __cpuid_count(7, 0).edx;
        // AMX-BF16 and AMX-TILE.
        if features & (1 << 22) == 0 || features & (1 << 24) == 0 {
            return false;
        }
        // arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA): an older kernel answers with an error.
        let mut answer: i64 = 158;
        // SAFETY: the call reads its two numbers and writes no memory of this process; the kernel clobbers rcx and r11.
        unsafe {
            std::arch::asm!("syscall", inlateout("rax") answer, in("rdi") 0x1023u64, in("rsi") 18u64,
                lateout("rcx") _, lateout("r11") _, options(nostack));
        }
        answer == 0
    }

    /// An operand in panels: of each, the two blocks of a k behind those of the k before.
    struct Packed<'a> {
        blocks: &'a [Blocks],
        /// Pairs of blocks in k.
        depth: usize,
    }

    impl Packed<'_> {
        /// The blocks of a panel from one in k on.
        fn panel(&self, panel: usize, k: usize, depth: usize) -> &[Blocks] {
            &self.blocks[panel * self.depth + k..][..depth]
        }
    }

    /// Packs an operand; `across` says that the pairs of one k are to be beside each other.
    fn pack<'a>(side: Side<'_>, across: bool, buffer: &'a mut Vec<Line<u32>>) -> Packed<'a> {
        let (panels, depth) = (side.lines.div_ceil(PANEL), side.k.div_ceil(PANEL));
        let (blocks, _) = room(buffer, PANEL * panels * depth).as_chunks_mut::<PANEL>();
        each(blocks.chunks_mut((BESIDE * depth).max(1)).enumerate(), |(i, to)| {
            for k in 0..depth {
                for (j, to) in to.chunks_exact_mut(depth).enumerate() {
                    let line = (BESIDE * i + j) * PANEL;
                    #[allow(unsafe_code)]
                    // SAFETY: `product` is called where the processor has these vectors.
                    unsafe {
                        blocks_of(side, line, k * PANEL, across, &mut to[k]);
                    }
                }
            }
        });
        Packed { blocks, depth }
    }

    /// Two blocks, from a line and a k on; 0 beyond the ends.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn blocks_of(side: Side<'_>, line: usize, k: usize, across: bool, to: &mut Blocks) {
        let (lines, depth) = (PANEL.min(side.lines - line), PANEL.min(side.k - k));
        let mut words = [[_mm512_setzero_si512(); SIDE]; 2];
        if side.by_line {
            for i in 0..lines {
                words[i / SIDE][i % SIDE] = load(side.numbers, (line + i) * side.k + k, depth);
            }
        } else {
            // The numbers of two neighbours in k, in turns.
            let turn = |first: u16| -> __m512i {
                let places: [[u16; 2]; SIDE] = std::array::from_fn(|i| [first + i as u16, 32 + first + i as u16]);
                pulp::cast(places)
            };
            let turns = [turn(0), turn(SIDE as u16)];
            for p in 0..depth.div_ceil(2) {
                let at = (k + 2 * p) * side.lines + line;
                let even = load(side.numbers, at, lines);
                let odd = match 2 * p + 1 < depth {
                    true => load(side.numbers, at + side.lines, lines),
                    false => _mm512_setzero_si512(),
                };
                for (words, turn) in words.iter_mut().zip(turns) {
                    words[p] = _mm512_permutex2var_epi16(even, turn, odd);
                }
            }
        }
        for (words, to) in words.into_iter().zip(to.as_chunks_mut::<SIDE>().0) {
            let words = if side.by_line == across { transposed(words) } else { words };
            for (word, to) in words.iter().zip(to) {
                *to = Line(pulp::cast(*word));
            }
        }
    }

    /// Up to 32 numbers in bf16, from one on; 0 beyond.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    #[allow(unsafe_code)]
    fn load(numbers: Numbers<'_>, at: usize, count: usize) -> __m512i {
        let mask = u32::MAX >> (PANEL - count.clamp(1, PANEL));
        match numbers {
            Numbers::Bf16(x) => {
                let x = &x[at..at + count];
                // SAFETY: only the slice's numbers are read.
                unsafe { _mm512_maskz_loadu_epi16(mask, x.as_ptr().cast()) }
            }
            Numbers::F32(x) => {
                let x = &x[at..at + count];
                // SAFETY: as above; where the second half is empty its address is not read from.
                unsafe {
                    let low = _mm512_maskz_loadu_ps(mask as u16, x.as_ptr());
                    let high = _mm512_maskz_loadu_ps((mask >> 16) as u16, x.as_ptr().wrapping_add(SIDE));
                    std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low))
                }
            }
        }
    }

    /// Of a square of words. Compilers make no shuffles of the plain loop.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn transposed(v: [__m512i; SIDE]) -> [__m512i; SIDE] {
        let [mut a, mut b] = [[_mm512_setzero_si512(); SIDE]; 2];
        // Two rows beside each other, four, eight, all.
        for i in 0..SIDE / 2 {
            a[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
            a[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
        }
        for i in 0..SIDE / 4 {
            for j in 0..2 {
                b[4 * i + 2 * j] = _mm512_unpacklo_epi64(a[4 * i + j], a[4 * i + 2 + j]);
                b[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(a[4 * i + j], a[4 * i + 2 + j]);
            }
        }
        for i in 0..2 {
            for j in 0..4 {
                a[8 * i + j] = _mm512_shuffle_i32x4::<0x88>(b[8 * i + j], b[8 * i + 4 + j]);
                a[8 * i + 4 + j] = _mm512_shuffle_i32x4::<0xdd>(b[8 * i + j], b[8 * i + 4 + j]);
            }
        }
        for j in 0..8 {
            b[j] = _mm512_shuffle_i32x4::<0x88>(a[j], a[8 + j]);
            b[8 + j] = _mm512_shuffle_i32x4::<0xdd>(a[j], a[8 + j]);
        }
        b
    }

    #[allow(unsafe_code)]
    fn flat(lines: &mut [Line<f32>]) -> &mut [f32] {
        // SAFETY: a line is sixteen numbers with nothing between them.
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), SIDE * lines.len()) }
    }

    /// C, to be written in blocks that don't overlap.
    #[derive(Clone, Copy)]
    enum Target {
        F32(*mut f32),
        Bf16(*mut u16),
    }

    #[allow(unsafe_code)]
    // SAFETY: tasks write disjoint blocks of what the caller has borrowed exclusively.
    unsafe impl Sync for Target {}
    #[allow(unsafe_code)]
    // SAFETY: as above.
    unsafe impl Send for Target {}

    pub(super) fn product(tiles: bool, a: Side<'_>, b: Side<'_>, bias: Option<&[f32]>, c: Sums<'_>, accumulate: bool) {
        let (m, n) = (a.lines, b.lines);
        // Taken, not borrowed: while this thread waits for others it may be given another product to compute.
        let [mut left, mut right] = PACKED.take();
        let (pa, pb) = (pack(a, false, &mut left), pack(b, true, &mut right));
        let target = match c {
            Sums::F32(c) => Target::F32(c.as_mut_ptr()),
            Sums::Bf16(c) => Target::Bf16(c.reinterpret_cast_mut().as_mut_ptr()),
        };
        let write = |row: usize, rows: usize, col: usize, cols: usize, sums: &[f32], stride: usize| {
            let bias = bias.map(|b| &b[col..col + cols]);
            let sums = sums.chunks_exact(stride).take(rows).map(|s| &s[..cols]);
            let at = row * n + col;
            #[allow(unsafe_code)]
            // SAFETY: rows of a block inside C, which no other task writes; the processor has these vectors.
            unsafe {
                match target {
                    Target::F32(c) => write_rows(sums, bias, c.add(at), n, accumulate),
                    Target::Bf16(c) => write_rows(sums, bias, c.add(at), n, accumulate),
                }
            }
        };
        // Smaller tasks where there would be too few to share.
        let most = if m.div_ceil(TASK) * n.div_ceil(TASK) < 8 { TASK / 3 } else { TASK };
        let even = |lines: usize| lines.div_ceil(lines.div_ceil(most).max(1)).next_multiple_of(PANEL).max(PANEL);
        let (tall, broad) = (even(m), even(n));
        let tasks = (0..n.div_ceil(broad)).flat_map(|j| (0..m.div_ceil(tall)).map(move |i| (i * tall, j * broad)));
        each(tasks, |(row, col)| {
            let (rows, cols) = (tall.min(m - row), broad.min(n - col));
            let (down, across) = (rows.div_ceil(PANEL), cols.div_ceil(PANEL));
            let _registers = tiles.then(Registers::set);
            let multiply = |i: usize, j: usize, k: usize, sums: &mut [f32], stride: usize| {
                let depth = DEPTH.min(pa.depth - k);
                let (left, right) = (pa.panel(row / PANEL + i, k, depth), pb.panel(col / PANEL + j, k, depth));
                #[allow(unsafe_code)]
                // SAFETY: the processor has the unit, as `Unit::all` found, and its registers are set.
                unsafe {
                    match tiles {
                        true => with_tiles(left, right, sums, stride, k > 0),
                        false => with_vectors(left, right, sums, stride, k > 0),
                    }
                }
            };
            let panels = (0..across).flat_map(|j| (0..down).map(move |i| (i, j)));
            if pa.depth <= DEPTH {
                let mut sums = [Line([0.0; SIDE]); 2 * PANEL];
                let sums = flat(&mut sums);
                for (i, j) in panels {
                    if pa.depth > 0 {
                        multiply(i, j, 0, sums, PANEL);
                    }
                    let (first, beside) = (i * PANEL, j * PANEL);
                    write(row + first, PANEL.min(rows - first), col + beside, PANEL.min(cols - beside), sums, PANEL);
                }
            } else {
                let stride = across * PANEL;
                let mut buffer = SUMS.take();
                let sums = flat(room(&mut buffer, down * across * 2 * PANEL));
                for k in (0..pa.depth).step_by(DEPTH) {
                    for (i, j) in panels.clone() {
                        multiply(i, j, k, &mut sums[i * PANEL * stride + j * PANEL..], stride);
                    }
                }
                write(row, rows, col, cols, sums, stride);
                SUMS.set(buffer);
            }
        });
        PACKED.set([left, right]);
    }

    /// What sums are written as.
    trait Stored: Copy {
        fn of(sum: f32) -> Self;
        fn wide(self) -> f32;
    }

    impl Stored for f32 {
        #[inline(always)]
        fn of(sum: f32) -> Self {
            sum
        }
        #[inline(always)]
        fn wide(self) -> f32 {
            self
        }
    }

    /// The bits of a bf16.
    impl Stored for u16 {
        #[inline(always)]
        fn of(sum: f32) -> Self {
            rounded(sum)
        }
        #[inline(always)]
        fn wide(self) -> f32 {
            wide(self)
        }
    }

    /// Writes rows of sums to `c`, a row of which is `stride` behind the one before.
    ///
    /// # Safety
    /// They must lie inside of what the caller may write.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    #[allow(unsafe_code)]
    unsafe fn write_rows<'a, E: Stored>(
        rows: impl Iterator<Item = &'a [f32]>,
        bias: Option<&[f32]>,
        mut c: *mut E,
        stride: usize,
        accumulate: bool,
    ) {
        for sums in rows {
            // SAFETY: as the caller promised.
            let to = unsafe { std::slice::from_raw_parts_mut(c, sums.len()) };
            c = c.wrapping_add(stride);
            match (bias, accumulate) {
                (Some(bias), _) => to.iter_mut().zip(sums).zip(bias).for_each(|((c, s), b)| *c = E::of(s + b)),
                (None, true) => to.iter_mut().zip(sums).for_each(|(c, s)| *c = E::of(s + c.wide())),
                (None, false) => to.iter_mut().zip(sums).for_each(|(c, s)| *c = E::of(*s)),
            }
        }
    }

    /// The product of two panels, in the first elements of rows of `sums` that are `stride` apart; added to what is there
    /// if `add`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn with_vectors(left: &[Blocks], right: &[Blocks], sums: &mut [f32], stride: usize, add: bool) {
        /// Lines whose sums stay in registers, with the two vectors of a panel.
        const ROWS: usize = 8;
        for line in (0..PANEL).step_by(ROWS) {
            let mut acc = [[_mm512_setzero_ps(); 2]; ROWS];
            if add {
                for (r, acc) in acc.iter_mut().enumerate() {
                    let from: &[f32; PANEL] = sums[(line + r) * stride..][..PANEL].try_into().expect("a panel's width");
                    *acc = pulp::cast(*from);
                }
            }
            for (left, right) in left.iter().zip(right) {
                let left: &[Line<u32>; ROWS] = left[line..line + ROWS].try_into().expect("as many rows");
                for p in 0..SIDE {
                    let (one, two) = (cast_bh(right[p].0), cast_bh(right[SIDE + p].0));
                    for r in 0..ROWS {
                        let pair = cast_bh([left[r].0[p]; SIDE]);
                        acc[r][0] = _mm512_dpbf16_ps(acc[r][0], pair, one);
                        acc[r][1] = _mm512_dpbf16_ps(acc[r][1], pair, two);
                    }
                }
            }
            for (r, acc) in acc.iter().enumerate() {
                let acc: [f32; PANEL] = pulp::cast(*acc);
                sums[(line + r) * stride..][..PANEL].copy_from_slice(&acc);
            }
        }
    }

    #[inline]
    #[allow(unsafe_code)]
    fn cast_bh(words: [u32; SIDE]) -> __m512bh {
        // SAFETY: both are 64 bytes without invalid values.
        unsafe { std::mem::transmute(words) }
    }

    /// Tiles of 16 rows of 64 bytes.
    const CONFIGURATION: [u8; 64] = {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        let mut tile = 0;
        while tile < 8 {
            bytes[16 + 2 * tile] = 64;
            bytes[48 + tile] = 16;
            tile += 1;
        }
        bytes
    };

    /// Tile registers of this thread, until it is dropped.
    struct Registers;

    impl Registers {
        #[allow(unsafe_code)]
        fn set() -> Self {
            // SAFETY: it reads 64 bytes.
            unsafe { std::arch::asm!("ldtilecfg [{}]", in(reg) CONFIGURATION.as_ptr(), options(nostack, readonly)) };
            Self
        }
    }

    impl Drop for Registers {
        #[allow(unsafe_code)]
        fn drop(&mut self) {
            // SAFETY: it reads and writes no memory.
            unsafe { std::arch::asm!("tilerelease", options(nostack, nomem)) };
        }
    }

    /// As [`with_vectors`].
    ///
    /// # Safety
    /// The processor must have AMX with bf16, and [`Registers`] be set.
    #[allow(unsafe_code)]
    unsafe fn with_tiles(left: &[Blocks], right: &[Blocks], sums: &mut [f32], stride: usize, add: bool) {
        assert!(!left.is_empty() && left.len() == right.len());
        assert!(stride >= PANEL && sums.len() >= (PANEL - 1) * stride + PANEL);
        let (c, below) = (sums.as_mut_ptr(), sums[SIDE * stride..].as_mut_ptr());
        // SAFETY: four tiles of sums lie at `c` and `below`, and the blocks lie inside the operands: as was just asserted.
        // No Rust code uses tile registers.
        unsafe {
            std::arch::asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "test {add}, {add}",
                "jz 2f",
                "tileloadd tmm0, [{c} + {s}]",
                "tileloadd tmm1, [{c} + {s} + 64]",
                "tileloadd tmm2, [{below} + {s}]",
                "tileloadd tmm3, [{below} + {s} + 64]",
                "2:",
                "tileloadd tmm4, [{a} + {line}]",
                "tileloadd tmm6, [{b} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {line} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a} + {line} + 1024]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a}, 2048",
                "add {b}, 2048",
                "dec {n}",
                "jnz 2b",
                "tilestored [{c} + {s}], tmm0",
                "tilestored [{c} + {s} + 64], tmm1",
                "tilestored [{below} + {s}], tmm2",
                "tilestored [{below} + {s} + 64], tmm3",
                c = in(reg) c,
                below = in(reg) below,
                s = in(reg) 4 * stride,
                line = in(reg) 4 * SIDE,
                a = inout(reg) left.as_ptr() => _,
                b = inout(reg) right.as_ptr() => _,
                n = inout(reg) left.len() => _,
                add = in(reg) u64::from(add),
                options(nostack),
            );
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
