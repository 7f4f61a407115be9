//! `exaone4`: Llama with norms behind attention and feed-forward part and norms of queries and keys of each head; where
//! there is a window in some layers, the others do not turn queries and keys.

use serde_json::Value;

use super::llama::{Biases, QkNorm, Relative, Switch, windows};
use super::olmo2::BEHIND;
use super::{Architecture, Reader};
use crate::config::ModelConfig;
use crate::error::Error;

pub(super) const ARCHITECTURE: Architecture = Architecture { model_type: "exaone4", family: "Exaone4", read };

const RELATIVE: Relative = Relative {
    eps: ("rms_norm_eps", 1e-5),
    biases: Biases::Never,
    qk_norm: QkNorm::Heads,
    windows: |r, layers| {
        let whole = r.has("sliding_window") && r.get("sliding_window").is_none();
        let listed = r.get("layer_types").is_some();
        let every = match r.get("sliding_window_pattern").cloned() {
            None => 4,
            Some(Value::String(_)) if listed => 4,
            Some(Value::String(pattern)) => {
                let why = format!("wants layer_types beside it, or a number in its place, got {pattern:?}");
                return Err(r.refuse("sliding_window_pattern", why));
            }
            Some(_) if whole || listed => 4,
            Some(_) => r.size("sliding_window_pattern", None)?,
        };
        if whole && !listed {
            return Ok(vec![None; layers]);
        }
        windows(r, layers, Switch::Pattern(every))
    },
    names: &BEHIND,
    ..Relative::LLAMA
};

fn read(r: &mut Reader<'_>) -> Result<ModelConfig, Error> {
    let mut shape = RELATIVE.read(r)?;
    // 4096 where the key is absent; off where it is null.
    if !r.has("sliding_window") || r.get("sliding_window").is_some() {
        shape.rotates = shape.windows.iter().map(|w| w.map(|_| 0)).collect();
    }
    shape.config(r)
}
