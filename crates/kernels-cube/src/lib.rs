//! Kernels for the decoder in CubeCL: one text that is compiled for NVIDIA's GPUs when it is first used, and for this
//! machine's CPU, where it is tested. Each piece says which of the [pieces](collimate_backend::kernels) it computes.
//!
//! Numbers come in f32, bf16 or f16, and whatever is summed or exponentiated is f32. A cube adds up in one fixed order, so
//! the same launch gives the same bits.

mod attention;
#[cfg(any(feature = "cpu", feature = "cuda"))]
mod bind;
#[cfg(any(feature = "cpu", feature = "cuda"))]
mod device;
#[cfg(feature = "offline")]
pub mod offline;
mod rows;

#[cfg(any(feature = "cpu", feature = "cuda"))]
pub use bind::install;
