//! Decoder-only transformers: read from and written to Hugging Face folders, scored and differentiated by one log-prob
//! engine.
//!
//! A `config.json` names an architecture ([`arch`]), which makes a network of [`blocks`] and the [`Inventory`] of its
//! parameters; a [`Decoder`] holds both on a device, with the kernels that serve it; the readout asks whoever trains it
//! for one coefficient per token.

mod adamw;
pub mod arch;
pub mod blocks;
mod checkpoint;
mod config;
mod decoder;
mod error;
pub mod files;
mod generate;
mod layout;
mod lora;
mod memory;
mod mixed;
#[cfg(test)]
mod oracle;
mod params;
mod part;
mod pickle;
mod precision;
mod profile;
mod readout;
mod rotary;
mod value;

pub use adamw::{AdamW, Moments};
pub use arch::model_types;
pub use checkpoint::{Checkpoint, remove_saved};
pub use config::{HeadKind, ModelConfig};
pub use decoder::Decoder;
pub use error::Error;
pub use files::write_whole;
pub use generate::{Generation, Sampling, Written};
pub use layout::{Layout, Row, Text};
pub use lora::{Init, Lora, Targets};
pub use memory::{Load, Memory};
pub use params::{Adapted, Grads, Inventory, ParamId, Params, Ready, Role, Spec, Stacked, Tensors};
pub use part::{Picked, Selection};
pub use precision::Precision;
pub use profile::{Piece, Profile};
pub use readout::{ALL, Judge, Options, Pass, Scores};
pub use rotary::{RopeScaling, Rotary};
