//! CPU kernels on `&[f32]` slices, for the layers whose cost or memory a generic tensor library leaves on the table.
//!
//! - Every matrix is row-major and contiguous; shapes are written `[rows, columns]`; n is the number of tokens.
//! - Vector code is written once, generic over the width, and dispatched at run time ([`pulp`]) to a [`Path`](path::Path):
//!   AVX-512, AVX2, NEON or none.
//! - Work is cut into pieces that depend on shapes only and partial sums are added in the order of the pieces, so the
//!   same inputs give the same bits whatever the number of threads.
//! - A shape that does not fit is a programming error of the caller, and panics with the two numbers that disagree.
//! - One kernel is one file: its equations with their symbols bound to arguments, forward, backward, tests against a
//!   naive f64 version.

pub mod adamw;
pub mod attention;
pub mod exp;
pub mod extend;
pub mod gemm;
pub mod half;
pub mod head;
pub mod path;
pub mod rms_norm;
pub mod rope;
pub mod rows;
pub mod split;
pub mod swiglu;

#[cfg(target_arch = "x86_64")]
mod panels;
mod parallel;
mod products;
mod simd;
#[cfg(test)]
mod testing;
mod transpose;
