//! `olmo3`: OLMo 2 with a window in three layers of four, and rotary positions whose scaling is of the other layers alone.

use super::llama::{QkNorm, Relative, Switch, windows};
use super::olmo2::BEHIND;
use super::rope::{self, Turning};
use super::{Architecture, Reader};
use crate::config::ModelConfig;
use crate::error::Error;

pub(super) const ARCHITECTURE: Architecture = Architecture { model_type: "olmo3", family: "Olmo3", read };

const THETA: f64 = 500_000.0;

const RELATIVE: Relative = Relative {
    turning: Turning { theta: THETA, part: None, interleaved: false },
    eps: ("rms_norm_eps", 1e-5),
    qk_norm: QkNorm::Whole,
    windows: |r, layers| windows(r, layers, Switch::Pattern(4)),
    names: &BEHIND,
    ..Relative::LLAMA
};

fn read(r: &mut Reader<'_>) -> Result<ModelConfig, Error> {
    let longest = r.size("max_position_embeddings", Some(RELATIVE.max_position_embeddings))?;
    // A base in the old style is that of layers without a window alone, as transformers takes it.
    let rope = rope::by_type(r, longest, RELATIVE.turning, THETA)?;
    let mut shape = RELATIVE.read_with(r, longest, rope)?;
    shape.rotates = shape.windows.iter().map(|w| Some(usize::from(w.is_some()))).collect();
    shape.config(r)
}
