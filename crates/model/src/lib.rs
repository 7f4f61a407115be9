//! Decoder-only transformers of the Llama family: read from and written to Hugging Face folders, scored and
//! differentiated by one log-prob engine.

mod adamw;
mod checkpoint;
mod config;
mod decoder;
mod engine;
mod error;
pub mod files;
mod generate;
mod host;
mod layout;
mod memory;
mod ops;
mod parameters;
mod precision;
mod profile;
mod rotary;

pub use adamw::{AdamW, Moments};
pub use checkpoint::{Checkpoint, remove_saved};
pub use config::{MODEL_TYPES, ModelConfig, RopeScaling};
pub use decoder::{Decoder, Gradients};
pub use engine::{Options, Pass, Scores};
pub use error::Error;
pub use files::write_whole;
pub use generate::{Generation, Sampling};
pub use host::has_kernels;
pub use layout::{Layout, Row, Text};
pub use memory::{Load, Memory};
pub use parameters::{Inventory, Spec, Tensors};
pub use precision::Precision;
pub use profile::{Piece, Profile};
pub use rotary::Rotary;
