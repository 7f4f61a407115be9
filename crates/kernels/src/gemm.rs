//! `gemm`: matrix products on strided views, and the three products of a linear layer, which a unit for bf16 multiplies
//! where that is faster ([`crate::split`]).
//!
//! Let A be `a` `[m, k]`, B `b` `[k, n]`, C `c` `[m, n]`, α `alpha`, β `beta`: C ← α·C + β·A·B; α = 0 does not read C.
//!
//! What was found out about the gemm crate 0.19 (figures: one thread of a Zen 4 core with AVX-512, CPU time, GFLOP/s; a
//! product 1024³ makes 98, and two threads about twice that):
//!
//! - It exchanges the operands by itself when C is row-major, so the orientation of C need not be chosen here. What counts
//!   is then B: rows that are contiguous cost nothing, and rows that are apart (B = Wᵀ) are first copied, element by
//!   element and on one thread when C has up to 1,024 columns. [`linear`] therefore transposes W itself, on all threads,
//!   in strips that stay in the last-level cache. On two threads the copy by one showed: n = 512, 1024→384 made 124 where
//!   dx made 194. On one thread the two ways differ by no more than the noise of a busy machine up to n = 2000; for the
//!   head with n = 256, in turns, 68 and 74 against 58 and 59. Two threads remain to be compared on a quiet machine.
//!   Below 48 rows nothing is copied, and W is read in place. The strip (6 MB at most) is kept by the calling thread.
//! - dx = dy·W needs no copy and reaches 91 … 105. dW += dyᵀ·x reaches 85 … 100, adding in place; both operands in
//!   their natural order are the fastest.
//! - Few rows are slow: the head 384→50257 makes 62 … 80 with 64 rows, 88 … 97 from 256 on. Choose chunks of 256 rows.
//! - The bits do not depend on the number of threads: threads share the columns and rows of C, never k.

use std::cell::Cell;
use std::marker::PhantomData;

use crate::parallel::each;
use crate::simd::{dispatched, update};
use crate::split::{self, Operand};
use crate::transpose::{LANES, odd_lines, transpose};

/// A read-only view of a matrix `[rows, cols]` in a slice.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

/// Stops unless `count` rows or columns from `first` on are among `all`, whatever the numbers.
#[track_caller]
fn assert_inside(first: usize, count: usize, all: usize) {
    assert!(count <= all && first <= all - count, "a block inside: {count} from {first} on, of {all}");
}

/// The number of elements from the first to the last of a view, both included.
fn extent(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> usize {
    if rows == 0 || cols == 0 { 0 } else { (rows - 1) * row_stride + (cols - 1) * col_stride + 1 }
}

impl<'a> Mat<'a> {
    /// All of `data`, row-major.
    ///
    /// # Panics
    /// When `data` has not `rows`·`cols` elements.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(Some(data.len()), rows.checked_mul(cols), "a matrix [{rows}, {cols}]");
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// Rows and columns.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// The transpose, without moving anything.
    pub fn t(self) -> Self {
        Self {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }

    /// The block of `rows` rows and `cols` columns whose first element is at (`row`, `col`).
    ///
    /// # Panics
    /// When the block is not inside the matrix.
    pub fn block(self, row: usize, rows: usize, col: usize, cols: usize) -> Self {
        assert_inside(row, rows, self.rows);
        assert_inside(col, cols, self.cols);
        let len = extent(rows, cols, self.row_stride, self.col_stride);
        let start = if len == 0 { 0 } else { row * self.row_stride + col * self.col_stride };
        Self { data: &self.data[start..start + len], rows, cols, ..self }
    }

    /// Row `i` of a matrix whose rows are contiguous.
    ///
    /// # Panics
    /// When there is no such row, or its elements are apart.
    pub fn row(&self, i: usize) -> &'a [f32] {
        assert!(i < self.rows && self.col_stride == 1);
        &self.data[i * self.row_stride..][..self.cols]
    }
}

/// A view `[rows, cols]` to write to, with contiguous rows; views cut from one by rows or columns never overlap.
#[derive(Debug)]
pub struct MatMut<'a> {
    data: *mut f32,
    rows: usize,
    cols: usize,
    row_stride: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

#[allow(unsafe_code)]
// SAFETY: a MatMut is an exclusive borrow of its elements, as `&mut [f32]` is.
unsafe impl Send for MatMut<'_> {}

impl<'a> MatMut<'a> {
    /// All of `data`, row-major.
    ///
    /// # Panics
    /// When `data` has not `rows`·`cols` elements.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(Some(data.len()), rows.checked_mul(cols), "a matrix [{rows}, {cols}]");
        Self { data: data.as_mut_ptr(), rows, cols, row_stride: cols, lifetime: PhantomData }
    }

    /// Rows and columns.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// The block of `rows` rows and `cols` columns whose first element is at (`row`, `col`), borrowed for a while.
    ///
    /// # Panics
    /// When the block is not inside the matrix.
    pub fn block(&mut self, row: usize, rows: usize, col: usize, cols: usize) -> MatMut<'_> {
        assert_inside(row, rows, self.rows);
        assert_inside(col, cols, self.cols);
        // `wrapping_add` and `wrapping_mul`: an empty block may sit at the very end, and one of a view without elements
        // anywhere; nothing is read there.
        let data = self.data.wrapping_add(row.wrapping_mul(self.row_stride).wrapping_add(col));
        MatMut { data, rows, cols, row_stride: self.row_stride, lifetime: PhantomData }
    }

    /// The columns before `at` and those from `at` on.
    ///
    /// # Panics
    /// When there are fewer columns than `at`.
    pub fn split_cols(self, at: usize) -> (MatMut<'a>, MatMut<'a>) {
        assert!(at <= self.cols);
        let right = MatMut { data: self.data.wrapping_add(at), cols: self.cols - at, ..self };
        (MatMut { cols: at, ..self }, right)
    }

    /// The rows before `at` and those from `at` on.
    ///
    /// # Panics
    /// When there are fewer rows than `at`.
    pub fn split_rows(self, at: usize) -> (MatMut<'a>, MatMut<'a>) {
        assert!(at <= self.rows);
        let below =
            MatMut { data: self.data.wrapping_add(at.wrapping_mul(self.row_stride)), rows: self.rows - at, ..self };
        (MatMut { rows: at, ..self }, below)
    }

    /// Row `i`.
    ///
    /// # Panics
    /// When there is no such row.
    #[allow(unsafe_code)]
    pub fn row(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.rows);
        if self.cols == 0 {
            return &mut [];
        }
        // SAFETY: the view borrows elements i·row_stride … + cols of its buffer exclusively: it was made from a whole
        // buffer of rows·cols elements, and every cut keeps inside (asserted, without overflow) and gives each element to
        // one view. With an element in the row, i·row_stride is below the buffer's length.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(i * self.row_stride), self.cols) }
    }
}

/// Who computes a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The calling thread, for products inside of parallel work.
    One,
    /// The threads of the current rayon pool. The bits are the same.
    Pool,
}

/// C ← α·C + β·A·B.
///
/// # Panics
/// When the shapes do not fit.
#[allow(unsafe_code)]
pub fn gemm(alpha: f32, c: MatMut<'_>, beta: f32, a: Mat<'_>, b: Mat<'_>, threads: Threads) {
    assert_eq!(a.rows, c.rows, "A has the rows of C");
    assert_eq!(b.cols, c.cols, "B has the columns of C");
    assert_eq!(a.cols, b.rows, "A has as many columns as B rows");
    let parallelism = match threads {
        Threads::One => gemm::Parallelism::None,
        Threads::Pool => gemm::Parallelism::Rayon(0),
    };
    // SAFETY: each view holds the elements that its shape and strides reach (invariants of Mat and MatMut), C is
    // borrowed exclusively, so it overlaps neither A nor B, and distinct (row, column) of C are distinct elements.
    unsafe {
        crate::products::current()(
            c.rows,
            c.cols,
            a.cols,
            c.data,
            1,
            c.row_stride as isize,
            alpha != 0.0,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            alpha,
            beta,
            false,
            false,
            false,
            parallelism,
        );
    }
}

dispatched! {
    fn set_rows<S>(_simd, y: &'a mut [f32], bias: &'a [f32]) {
        for y in y.chunks_exact_mut(bias.len()) {
            y.copy_from_slice(bias);
        }
    }
}

dispatched! {
    fn add_rows<S>(simd, to: &'a mut [f32], rows: &'a [f32]) {
        for row in rows.chunks_exact(to.len()) {
            update(simd, [&mut *to], [row], #[inline(always)] |[to], [x]| [simd.add_f32s(to, x)]);
        }
    }
}

/// Tokens from which [`linear`] transposes the weight first.
const TRANSPOSE_FROM: usize = 48;
/// Elements of the weight that it transposes at a time (6 MB).
const STRIP: usize = 3 << 19;

thread_local! {
    static TRANSPOSED: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// y ← x·Wᵀ (+ bias): `x` `[n, inputs]`, `weight` `[outputs, inputs]`, `bias` `[outputs]`, `y` `[n, outputs]`.
///
/// # Panics
/// When the lengths disagree.
pub fn linear(x: &[f32], weight: &[f32], bias: Option<&[f32]>, inputs: usize, outputs: usize, y: &mut [f32]) {
    let n = rows_of(x, inputs);
    if split::product(Operand::Lines(x), Operand::Lines(weight), [n, outputs, inputs], bias, y, false) {
        return;
    }
    let (x, w) = (Mat::new(x, n, inputs), Mat::new(weight, outputs, inputs));
    if let Some(bias) = bias {
        assert_eq!(bias.len(), outputs, "bias is [{outputs}]");
        set_rows(y, bias);
    }
    let alpha = if bias.is_some() { 1.0 } else { 0.0 };
    let mut y = MatMut::new(y, n, outputs);
    if n < TRANSPOSE_FROM {
        return gemm(alpha, y, 1.0, x, w.t(), Threads::Pool);
    }
    // Taken, not borrowed: while this thread waits for others it may be given another product to compute.
    let mut buffer = TRANSPOSED.take();
    let strip = (STRIP / inputs).next_multiple_of(64);
    for first in (0..outputs).step_by(strip) {
        let wide = strip.min(outputs - first);
        let stride = odd_lines(wide.next_multiple_of(LANES));
        if buffer.len() < inputs * stride {
            buffer.resize(inputs * stride, 0.0);
        }
        let wt = &mut buffer[..inputs * stride];
        each(wt.chunks_mut(64 * stride).enumerate(), |(i, wt)| {
            transpose(w.block(first, wide, 64 * i, wt.len() / stride), wt, stride);
        });
        let wt = Mat::new(wt, inputs, stride).block(0, inputs, 0, wide);
        gemm(alpha, y.block(0, n, first, wide), 1.0, x, wt, Threads::Pool);
    }
    TRANSPOSED.set(buffer);
}

/// dx ← dy·W, or dx ← dx + dy·W if `accumulate`: `dy` `[n, outputs]`, `weight` `[outputs, inputs]`, `dx` `[n, inputs]`.
///
/// # Panics
/// When the lengths disagree.
pub fn linear_backward_input(
    dy: &[f32],
    weight: &[f32],
    inputs: usize,
    outputs: usize,
    dx: &mut [f32],
    accumulate: bool,
) {
    let n = rows_of(dy, outputs);
    if split::product(Operand::Lines(dy), Operand::Columns(weight), [n, inputs, outputs], None, dx, accumulate) {
        return;
    }
    let (dy, w) = (Mat::new(dy, n, outputs), Mat::new(weight, outputs, inputs));
    gemm(if accumulate { 1.0 } else { 0.0 }, MatMut::new(dx, n, inputs), 1.0, dy, w, Threads::Pool);
}

/// dW ← dW + dyᵀ·x, and dbias ← dbias + Σ_rows dy: `dy` `[n, outputs]`, `x` `[n, inputs]`, `dweight`
/// `[outputs, inputs]`, `dbias` `[outputs]`.
///
/// # Panics
/// When the lengths disagree.
pub fn linear_backward_weight(
    dy: &[f32],
    x: &[f32],
    inputs: usize,
    outputs: usize,
    dweight: &mut [f32],
    dbias: Option<&mut [f32]>,
) {
    let n = rows_of(dy, outputs);
    if !split::product(Operand::Columns(dy), Operand::Columns(x), [outputs, inputs, n], None, dweight, true) {
        let (g, x) = (Mat::new(dy, n, outputs), Mat::new(x, n, inputs));
        gemm(1.0, MatMut::new(dweight, outputs, inputs), 1.0, g.t(), x, Threads::Pool);
    }
    if let Some(dbias) = dbias {
        assert_eq!(dbias.len(), outputs, "dbias is [{outputs}]");
        each(std::iter::once(dbias), |dbias| add_rows(dbias, dy));
    }
}

fn rows_of(x: &[f32], width: usize) -> usize {
    assert!(width > 0 && x.len().is_multiple_of(width), "{} elements are no rows of {width}", x.len());
    x.len() / width
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Seeded, close, same_bits_on_any_pool, wide};

    fn naive(a: &[f64], b: &[f64], m: usize, k: usize, n: usize) -> Vec<f64> {
        let mut c = vec![0.0; m * n];
        for i in 0..m {
            for l in 0..k {
                for j in 0..n {
                    c[i * n + j] += a[i * k + l] * b[l * n + j];
                }
            }
        }
        c
    }

    fn transposed(a: &[f32], rows: usize, cols: usize) -> Vec<f32> {
        (0..rows * cols).map(|i| a[(i % rows) * cols + i / rows]).collect()
    }

    #[test]
    fn products_of_all_orientations_against_f64() {
        let mut seeded = Seeded(10);
        for round in 0..80 {
            let (m, k, n) = (seeded.index(1, 90), seeded.index(1, 90), seeded.index(1, 90));
            let (a, b, c) = (seeded.vec(m * k, 1.0), seeded.vec(k * n, 1.0), seeded.vec(m * n, 1.0));
            let (at, bt) = (transposed(&a, m, k), transposed(&b, k, n));
            let left = if round & 1 == 0 { Mat::new(&a, m, k) } else { Mat::new(&at, k, m).t() };
            let right = if round & 2 == 0 { Mat::new(&b, k, n) } else { Mat::new(&bt, n, k).t() };
            let mut got = if round & 4 == 0 { vec![f32::NAN; m * n] } else { c.clone() };
            let alpha = if round & 4 == 0 { 0.0 } else { 0.5 };
            let threads = if round & 8 == 0 { Threads::One } else { Threads::Pool };
            gemm(alpha, MatMut::new(&mut got, m, n), 2.0, left, right, threads);
            let expected: Vec<f64> = naive(&wide(&a), &wide(&b), m, k, n)
                .iter()
                .zip(&c)
                .map(|(p, c)| 2.0 * p + f64::from(alpha) * f64::from(*c))
                .collect();
            close(&got, &expected, 1e-6);
        }
    }

    #[test]
    fn blocks_touch_nothing_else() {
        let a = vec![1.0; 6];
        let mut c = vec![7.0; 5 * 8];
        let mut whole = MatMut::new(&mut c, 5, 8);
        gemm(
            0.0,
            whole.block(1, 3, 2, 2),
            1.0,
            Mat::new(&a, 3, 2),
            Mat::new(&a, 3, 2).t().block(0, 2, 1, 2),
            Threads::One,
        );
        let (left, right) = MatMut::new(&mut c, 5, 8).split_cols(6);
        let (mut top, _) = right.split_rows(1);
        top.row(0).fill(1.0);
        assert_eq!(left.shape(), (5, 6));
        for (i, v) in c.iter().enumerate() {
            let (row, col) = (i / 8, i % 8);
            let expected = match (row, col) {
                (1..4, 2..4) => 2.0,
                (0, 6..) => 1.0,
                _ => 7.0,
            };
            assert_eq!(*v, expected, "at ({row}, {col})");
        }
    }

    /// Whether `f` stops by itself instead of reaching outside.
    fn stops(f: impl FnOnce() + std::panic::UnwindSafe) -> bool {
        std::panic::catch_unwind(f).is_err()
    }

    #[test]
    fn shapes_that_overflow_are_refused() {
        let big = 1usize << (usize::BITS / 2);
        assert!(stops(|| _ = Mat::new(&[], big, big)), "{big}² wraps to 0");
        assert!(stops(|| _ = MatMut::new(&mut [], big, big)));
        for (row, rows, col, cols) in
            [(usize::MAX, 2, 0, 1), (2, usize::MAX, 0, 1), (0, 1, usize::MAX, 2), (0, 1, 3, 2)]
        {
            assert!(stops(|| _ = Mat::new(&[0.0; 12], 3, 4).block(row, rows, col, cols)), "{row} {rows} {col} {cols}");
            assert!(stops(|| _ = MatMut::new(&mut [0.0; 12], 3, 4).block(row, rows, col, cols)));
        }
        assert!(stops(|| _ = MatMut::new(&mut [0.0; 12], 3, 4).split_cols(5)));
        assert!(stops(|| _ = MatMut::new(&mut [0.0; 12], 3, 4).split_rows(4)));
        // Views without elements reach nothing, however many rows they say they have.
        let mut empty = MatMut::new(&mut [], usize::MAX, 0);
        assert!(empty.row(usize::MAX - 1).is_empty());
        assert!(empty.block(usize::MAX - 1, 1, 0, 0).row(0).is_empty());
        assert_eq!(Mat::new(&[0.0; 12], 3, 4).block(3, 0, 4, 0).shape(), (0, 0));
    }

    #[test]
    fn linear_layer_against_f64() {
        let mut seeded = Seeded(11);
        for _ in 0..20 {
            let (n, i, o) = (seeded.index(1, 50), seeded.index(1, 80), seeded.index(1, 80));
            let (x, w, b) = (seeded.vec(n * i, 1.0), seeded.vec(o * i, 1.0), seeded.vec(o, 1.0));
            let dy = seeded.vec(n * o, 1.0);
            let wt = transposed(&w, o, i);
            let product = naive(&wide(&x), &wide(&wt), n, i, o);
            let mut y = vec![f32::NAN; n * o];
            linear(&x, &w, None, i, o, &mut y);
            close(&y, &product, 1e-6);
            linear(&x, &w, Some(&b), i, o, &mut y);
            close(&y, &product.iter().enumerate().map(|(j, p)| p + f64::from(b[j % o])).collect::<Vec<_>>(), 1e-6);

            let dx = naive(&wide(&dy), &wide(&w), n, o, i);
            let mut got = vec![f32::NAN; n * i];
            linear_backward_input(&dy, &w, i, o, &mut got, false);
            close(&got, &dx, 1e-6);
            linear_backward_input(&dy, &w, i, o, &mut got, true);
            close(&got, &dx.iter().map(|v| 2.0 * v).collect::<Vec<_>>(), 1e-6);

            let dyt = transposed(&dy, n, o);
            let dw = naive(&wide(&dyt), &wide(&x), o, n, i);
            let (mut got, mut db) = (vec![0.0; o * i], vec![0.0; o]);
            for _ in 0..2 {
                linear_backward_weight(&dy, &x, i, o, &mut got, Some(&mut db));
            }
            close(&got, &dw.iter().map(|v| 2.0 * v).collect::<Vec<_>>(), 1e-6);
            let sums: Vec<f64> = wide(&dyt).chunks(n).map(|c| 2.0 * c.iter().sum::<f64>()).collect();
            close(&db, &sums, 1e-6);
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let mut seeded = Seeded(12);
        let (n, i, o) = (700, 200, 1100);
        let (x, w, dy) = (seeded.vec(n * i, 1.0), seeded.vec(o * i, 1.0), seeded.vec(n * o, 1.0));
        same_bits_on_any_pool(|| {
            let (mut y, mut dx, mut dw) = (vec![0.0; n * o], vec![0.0; n * i], vec![0.0; i * o]);
            linear(&x, &w, None, i, o, &mut y);
            linear_backward_input(&dy, &w, i, o, &mut dx, false);
            linear_backward_weight(&dy, &x, i, o, &mut dw, None);
            [y, dx, dw].concat()
        });
    }
}
