//! `panels`: products of operands packed in panels, on the processor's units for bf16.
//!
//! Let A be `a` `[m, k]` and B be `b` `[n, k]`, C be `c` `[m, n]`: C ← A·Bᵀ (+ b, or + C). Each operand is the sum of its
//! `P` pieces in bf16: one for numbers in bf16 or rounded to it ([`half`](crate::half)), three for all of a number in f32
//! ([`split`](crate::split)). Sums are in f32.
//!
//! How: both units multiply pairs of neighbours in k and add them to a sum: AMX a tile of 16 × 32 by one of 32 × 16
//! (`tdpbf16ps`), AVX-512 a vector of 16 pairs (`vdpbf16ps`). So operands are packed into blocks of 16 lines × 16 pairs,
//! A with the pairs of a line beside each other and B with those of one k, and a number in f32 is rounded on the way. What
//! is packed at a time is bounded ([`STRIP`]). A task is a block of C that one thread computes.

use std::arch::x86_64::*;
use std::cell::Cell;

use half::slice::HalfFloatSliceExt;

use crate::half::{Numbers, Side, Sums, rounded, wide};
use crate::parallel::each;

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
/// Bytes of either operand that are packed at a time, about: a share of the last-level cache, and a bound of the memory
/// that is kept for it.
const STRIP: [usize; 2] = [24 << 20, 8 << 20];

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

pub(crate) fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bf16")
}

/// Whether the processor is Intel's, by what it calls itself.
pub(crate) fn is_intel() -> bool {
    let leaf = std::arch::x86_64::__cpuid(0);
    [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
}

/// Whether there is AMX with bf16, and Linux lets this process use its registers.
#[allow(unsafe_code)]
pub(crate) fn has_amx() -> bool {
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

/// A part of an operand in panels: of each, for each k the two blocks of every piece, behind those of the k before.
#[derive(Clone, Copy)]
struct Packed<'a, const P: usize> {
    blocks: &'a [[Blocks; P]],
    /// Pairs of blocks in k.
    depth: usize,
}

impl<'a, const P: usize> Packed<'a, P> {
    /// What [`pack`] left in a buffer.
    fn of(buffer: &'a [Line<u32>], depth: usize) -> Self {
        Self { blocks: buffer.as_chunks::<PANEL>().0.as_chunks::<P>().0, depth }
    }

    /// The blocks of a panel from one in k on.
    fn panel(&self, panel: usize, k: usize, depth: usize) -> &[[Blocks; P]] {
        &self.blocks[panel * self.depth + k..][..depth]
    }
}

/// First and number.
type Range = [usize; 2];

/// Packs some lines of some k; `across` says that the pairs of one k are to be beside each other.
fn pack<const P: usize>(side: Side<'_>, lines: Range, ks: Range, across: bool, buffer: &mut Vec<Line<u32>>) {
    let (panels, depth) = (lines[1].div_ceil(PANEL), ks[1].div_ceil(PANEL));
    let (blocks, _) = room(buffer, P * PANEL * panels * depth).as_chunks_mut::<PANEL>();
    let (blocks, _) = blocks.as_chunks_mut::<P>();
    each(blocks.chunks_mut((BESIDE * depth).max(1)).enumerate(), |(i, to)| {
        for k in 0..depth {
            for (j, to) in to.chunks_exact_mut(depth).enumerate() {
                let line = (BESIDE * i + j) * PANEL;
                let (lines, ks) = ([lines[0] + line, lines[1] - line], [ks[0] + k * PANEL, ks[1] - k * PANEL]);
                #[allow(unsafe_code)]
                // SAFETY: `product` is called where the processor has these vectors.
                unsafe {
                    blocks_of(side, lines, ks, across, &mut to[k]);
                }
            }
        }
    });
}

/// Two blocks of each piece, from a line and a k on; 0 beyond the ends.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn blocks_of<const P: usize>(side: Side<'_>, lines: Range, ks: Range, across: bool, to: &mut [Blocks; P]) {
    let ([line, lines], [k, depth]) = (lines, ks);
    let (lines, depth) = (PANEL.min(lines), PANEL.min(depth));
    let mut words = [[[_mm512_setzero_si512(); SIDE]; 2]; P];
    if side.by_line {
        for i in 0..lines {
            let pieces = load::<P>(side.numbers, (line + i) * side.k + k, depth);
            for (words, piece) in words.iter_mut().zip(pieces) {
                words[i / SIDE][i % SIDE] = piece;
            }
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
            let even = load::<P>(side.numbers, at, lines);
            let odd = match 2 * p + 1 < depth {
                true => load::<P>(side.numbers, at + side.lines, lines),
                false => [_mm512_setzero_si512(); P],
            };
            for ((words, even), odd) in words.iter_mut().zip(even).zip(odd) {
                for (words, turn) in words.iter_mut().zip(turns) {
                    words[p] = _mm512_permutex2var_epi16(even, turn, odd);
                }
            }
        }
    }
    for (words, to) in words.into_iter().zip(to) {
        for (words, to) in words.into_iter().zip(to.as_chunks_mut::<SIDE>().0) {
            let words = if side.by_line == across { transposed(words) } else { words };
            for (word, to) in words.iter().zip(to) {
                *to = Line(pulp::cast(*word));
            }
        }
    }
}

/// The pieces of up to 32 numbers, from one on; 0 beyond. A number in f32 is its first piece, rounded, and those of what
/// is left; of what is not finite nothing is left.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
#[allow(unsafe_code)]
fn load<const P: usize>(numbers: Numbers<'_>, at: usize, count: usize) -> [__m512i; P] {
    let mask = u32::MAX >> (PANEL - count.clamp(1, PANEL));
    let mut pieces = [_mm512_setzero_si512(); P];
    match numbers {
        Numbers::Bf16(x) => {
            let x = &x[at..at + count];
            // SAFETY: only the slice's numbers are read.
            pieces[0] = unsafe { _mm512_maskz_loadu_epi16(mask, x.as_ptr().cast()) };
        }
        Numbers::F32(x) => {
            let x = &x[at..at + count];
            // SAFETY: as above; where the second half is empty its address is not read from.
            let mut left = unsafe {
                [
                    _mm512_maskz_loadu_ps(mask as u16, x.as_ptr()),
                    _mm512_maskz_loadu_ps((mask >> 16) as u16, x.as_ptr().wrapping_add(SIDE)),
                ]
            };
            for (i, piece) in pieces.iter_mut().enumerate() {
                // SAFETY: both are 64 bytes without invalid values.
                *piece = unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(left[1], left[0])) };
                if i + 1 < P {
                    let halves = [_mm512_castsi512_si256(*piece), _mm512_extracti64x4_epi64::<1>(*piece)];
                    for (left, half) in left.iter_mut().zip(halves) {
                        let half = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)));
                        let rest = _mm512_sub_ps(*left, half);
                        *left = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_ORD_Q>(rest, rest), rest);
                    }
                }
            }
        }
    }
    pieces
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

/// C ← A·Bᵀ (+ bias), or C ← C + A·Bᵀ, of operands in `P` pieces; those in bf16 have one.
pub(crate) fn product<const P: usize>(
    tiles: bool,
    a: Side<'_>,
    b: Side<'_>,
    bias: Option<&[f32]>,
    c: Sums<'_>,
    accumulate: bool,
) {
    const { assert!(P == 1 || P == 3) };
    let (m, n, k) = (a.lines, b.lines, a.k);
    // Sums that are rounded are rounded once: they need all of k at a time.
    let (target, deep) = match c {
        Sums::F32(c) => (Target::F32(c.as_mut_ptr()), (DEPTH * PANEL).min(k)),
        Sums::Bf16(c) => (Target::Bf16(c.reinterpret_cast_mut().as_mut_ptr()), k),
    };
    // Taken, not borrowed: while this thread waits for others it may be given another product to compute.
    let [mut left, mut right] = PACKED.take();
    let strip = |bytes: usize, lines: usize| {
        let most = (bytes / (2 * P * deep.next_multiple_of(PANEL).max(1))).next_multiple_of(TASK);
        lines.div_ceil(lines.div_ceil(most).max(1)).next_multiple_of(PANEL).max(1)
    };
    let (tall, broad) = (strip(STRIP[0], m), strip(STRIP[1], n));
    for from in (0..k.max(1)).step_by(deep.max(1)) {
        let ks = [from, deep.min(k - from)];
        let depth = ks[1].div_ceil(PANEL);
        let (bias, accumulate) = (bias.filter(|_| from == 0), accumulate || from > 0);
        let write = |rows: Range, cols: Range, sums: &[f32], stride: usize| {
            let bias = bias.map(|b| &b[cols[0]..][..cols[1]]);
            let sums = sums.chunks_exact(stride).take(rows[1]).map(|s| &s[..cols[1]]);
            let at = rows[0] * n + cols[0];
            #[allow(unsafe_code)]
            // SAFETY: rows of a block inside C, which no other task writes; the processor has these vectors.
            unsafe {
                match target {
                    Target::F32(c) => write_rows(sums, bias, c.add(at), n, accumulate),
                    Target::Bf16(c) => write_rows(sums, bias, c.add(at), n, accumulate),
                }
            }
        };
        for row in (0..m).step_by(tall) {
            let rows = [row, tall.min(m - row)];
            pack::<P>(a, rows, ks, false, &mut left);
            for col in (0..n).step_by(broad) {
                let cols = [col, broad.min(n - col)];
                // One strip is packed once.
                if row == 0 || broad < n {
                    pack::<P>(b, cols, ks, true, &mut right);
                }
                let (pa, pb) = (Packed::<P>::of(&left, depth), Packed::<P>::of(&right, depth));
                block(tiles, (pa, rows), (pb, cols), write);
            }
        }
    }
    PACKED.set([left, right]);
}

/// The product of two packed parts, in tasks; each block of it is given to `write`, with what lies where in C.
fn block<const P: usize>(
    tiles: bool,
    (pa, rows): (Packed<'_, P>, Range),
    (pb, cols): (Packed<'_, P>, Range),
    write: impl Fn(Range, Range, &[f32], usize) + Send + Sync,
) {
    let (m, n) = (rows[1], cols[1]);
    // Smaller tasks where there would be too few to share.
    let most = if m.div_ceil(TASK) * n.div_ceil(TASK) < 8 { TASK / 3 } else { TASK };
    let even = |lines: usize| lines.div_ceil(lines.div_ceil(most).max(1)).next_multiple_of(PANEL).max(PANEL);
    let (tall, broad) = (even(m), even(n));
    let tasks = (0..n.div_ceil(broad)).flat_map(|j| (0..m.div_ceil(tall)).map(move |i| (i * tall, j * broad)));
    each(tasks, |(row, col)| {
        let (height, width) = (tall.min(m - row), broad.min(n - col));
        let (down, across) = (height.div_ceil(PANEL), width.div_ceil(PANEL));
        let _registers = tiles.then(Registers::set);
        let multiply = |i: usize, j: usize, k: usize, sums: &mut [f32], stride: usize| {
            let depth = DEPTH.min(pa.depth - k);
            let (left, right) = (pa.panel(row / PANEL + i, k, depth), pb.panel(col / PANEL + j, k, depth));
            #[allow(unsafe_code)]
            // SAFETY: the processor has the unit, as `Unit::all` found, and its registers are set.
            unsafe {
                match tiles {
                    true if P == 1 => with_tiles(left.as_flattened(), right.as_flattened(), sums, stride, k > 0),
                    true => with_pieces(left.as_flattened(), right.as_flattened(), sums, stride, k > 0),
                    false => with_vectors(left, right, sums, stride, k > 0),
                }
            }
        };
        let (first, beside) = (rows[0] + row, cols[0] + col);
        let panels = (0..across).flat_map(|j| (0..down).map(move |i| (i, j)));
        if pa.depth <= DEPTH {
            let mut sums = [Line([0.0; SIDE]); 2 * PANEL];
            let sums = flat(&mut sums);
            for (i, j) in panels {
                if pa.depth > 0 {
                    multiply(i, j, 0, sums, PANEL);
                }
                let (i, j) = (i * PANEL, j * PANEL);
                write([first + i, PANEL.min(height - i)], [beside + j, PANEL.min(width - j)], sums, PANEL);
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
            write([first, height], [beside, width], sums, stride);
            SUMS.set(buffer);
        }
    });
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

/// The pieces that are multiplied with each other, the smallest products first: what is left out of those of three is
/// below the rounding of a number in f32.
const fn pairs<const P: usize>() -> &'static [[usize; 2]] {
    match P {
        1 => &[[0, 0]],
        _ => &[[2, 0], [1, 0], [1, 1], [0, 1], [0, 2], [0, 0]],
    }
}

/// The product of two panels, in the first elements of rows of `sums` that are `stride` apart; added to what is there
/// if `add`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn with_vectors<const P: usize>(
    left: &[[Blocks; P]],
    right: &[[Blocks; P]],
    sums: &mut [f32],
    stride: usize,
    add: bool,
) {
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
            for [i, j] in pairs::<P>() {
                let left: &[Line<u32>; ROWS] = left[*i][line..line + ROWS].try_into().expect("as many rows");
                let right = &right[*j];
                for p in 0..SIDE {
                    let (one, two) = (cast_bh(right[p].0), cast_bh(right[SIDE + p].0));
                    for r in 0..ROWS {
                        let pair = cast_bh([left[r].0[p]; SIDE]);
                        acc[r][0] = _mm512_dpbf16_ps(acc[r][0], pair, one);
                        acc[r][1] = _mm512_dpbf16_ps(acc[r][1], pair, two);
                    }
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

/// As [`with_tiles`], of numbers in three pieces, which meet in the order of [`pairs`].
///
/// # Safety
/// As of [`with_tiles`].
#[allow(unsafe_code)]
unsafe fn with_pieces(left: &[Blocks], right: &[Blocks], sums: &mut [f32], stride: usize, add: bool) {
    assert!(!left.is_empty() && left.len() == right.len() && left.len().is_multiple_of(3));
    assert!(stride >= PANEL && sums.len() >= (PANEL - 1) * stride + PANEL);
    let (c, below) = (sums.as_mut_ptr(), sums[SIDE * stride..].as_mut_ptr());
    // SAFETY: as in `with_tiles`; three blocks beside each other are of one k.
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
            // Third, first: the order lets one operand of each pair of pieces stay.
            "tileloadd tmm4, [{a} + {line} + 4096]",
            "tileloadd tmm6, [{b} + {line}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {line} + 1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a} + {line} + 5120]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            // Second, first.
            "tileloadd tmm4, [{a} + {line} + 2048]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a} + {line} + 3072]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            // Second, second.
            "tileloadd tmm6, [{b} + {line} + 2048]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tileloadd tmm7, [{b} + {line} + 3072]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm3, tmm5, tmm7",
            // First, second.
            "tileloadd tmm4, [{a} + {line}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a} + {line} + 1024]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            // First, third.
            "tileloadd tmm6, [{b} + {line} + 4096]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tileloadd tmm7, [{b} + {line} + 5120]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm3, tmm5, tmm7",
            // First, first.
            "tileloadd tmm6, [{b} + {line}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tileloadd tmm7, [{b} + {line} + 1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 6144",
            "add {b}, 6144",
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
            n = inout(reg) left.len() / 3 => _,
            add = in(reg) u64::from(add),
            options(nostack),
        );
    }
}
