//! `llama`, and what its relatives share: layers of attention and a gated feed-forward part, each behind an RMSNorm and
//! beside the residual stream.

use std::sync::Arc;

use collimate_backend::kernels::{Activation, Heads};
use serde_json::Value;

use super::{Architecture, Builder, Network, Reader, VALUE_HEAD, head, rope};
use crate::blocks::{AnyBlock, Attention, GatedMlp, Normed, Recompute, Residual, Then};
use crate::config::{HeadKind, ModelConfig};
use crate::error::Error;
use crate::rotary::{RopeScaling, Rotary};

pub(super) const ARCHITECTURE: Architecture =
    Architecture { model_type: "llama", family: "Llama", read: |r| Relative::LLAMA.read(r)?.config(r) };

/// Reads one thing a layer, given the number of layers.
pub(super) type ByLayer<T> = fn(&mut Reader<'_>, usize) -> Result<Vec<T>, Error>;

/// What sets a relative of Llama apart, where `config.json` doesn't say it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Relative {
    pub activation: Activation,
    /// The name of the activation in `hidden_act`.
    pub hidden_act: &'static str,
    /// Width of a head where the configuration doesn't give it; otherwise hidden size over heads.
    pub head_dim: Option<usize>,
    pub rope_theta: f64,
    pub tie_word_embeddings: bool,
    pub biases: Biases,
    /// RMSNorm on each head of q and k.
    pub qk_norm: bool,
    /// Which layers have a window.
    pub windows: ByLayer<Option<usize>>,
    /// Which layers rotate queries and keys.
    pub rotates: ByLayer<bool>,
}

/// Where the attention has biases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Biases {
    /// On all four maps, or on none, as `attention_bias` says.
    AsConfigured,
    /// On q, k and v.
    Qkv,
    /// Nowhere: the architecture has none.
    Never,
}

/// The shape of a network of this family.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shape {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub heads: Heads,
    pub max_position_embeddings: usize,
    pub eps: f64,
    pub rope_theta: f64,
    pub rope_scaling: RopeScaling,
    /// Which layers rotate queries and keys.
    pub rotates: Vec<bool>,
    /// For each layer, how many positions back a token sees, itself included; none: all.
    pub windows: Vec<Option<usize>>,
    pub qkv_bias: bool,
    pub o_bias: bool,
    pub mlp_bias: bool,
    pub qk_norm: bool,
    pub activation: Activation,
    pub tie_word_embeddings: bool,
}

impl Relative {
    /// Llama itself.
    pub const LLAMA: Self = Self {
        activation: Activation::Silu,
        hidden_act: "silu",
        head_dim: None,
        rope_theta: 10_000.0,
        tie_word_embeddings: false,
        biases: Biases::AsConfigured,
        qk_norm: false,
        windows: |r, layers| windows(r, layers, Switch::Never),
        rotates: |_, layers| Ok(vec![true; layers]),
    };

    pub fn read(&self, r: &mut Reader<'_>) -> Result<Shape, Error> {
        match r.get("hidden_act").cloned() {
            None => {}
            Some(Value::String(s)) if Activation::named(&s) == Some(self.activation) => {}
            Some(other) => return Err(r.refuse("hidden_act", format!("expected \"{}\", got {other}", self.hidden_act))),
        }
        for key in ["attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop"] {
            let p = r.number(key, 0.0)?;
            if p != 0.0 {
                return Err(r.refuse(
                    key,
                    format!("dropout is not implemented; set it to 0 (TRL trains without it too), got {p}"),
                ));
            }
        }
        let hidden_size = r.size("hidden_size", None)?;
        let queries = r.size("num_attention_heads", None)?;
        let keys = r.size("num_key_value_heads", Some(queries))?;
        if queries % keys != 0 {
            return Err(
                r.refuse("num_key_value_heads", format!("must divide num_attention_heads {queries}, got {keys}"))
            );
        }
        let dim = r.size("head_dim", Some(self.head_dim.unwrap_or(hidden_size / queries)))?;
        if dim == 0 || dim % 2 != 0 {
            return Err(r.refuse("head_dim", format!("must be even for rotary positions, got {dim}")));
        }
        if dim > 1 << 16 {
            return Err(r.refuse("head_dim", format!("expected at most 65536, got {dim}")));
        }
        let eps = r.number("rms_norm_eps", 1e-6)?;
        if eps < 0.0 {
            return Err(r.refuse("rms_norm_eps", format!("expected a number that is not below 0, got {eps}")));
        }
        let layers = r.size("num_hidden_layers", None)?;
        let max_position_embeddings = r.size("max_position_embeddings", Some(2048))?;
        let (rope_theta, rope_scaling) = rope::rope(r, max_position_embeddings, self.rope_theta)?;
        let attention_bias = r.flag("attention_bias", false)?;
        if self.biases == Biases::Never && attention_bias {
            return Err(r.refuse("attention_bias", "this architecture has no bias"));
        }
        Ok(Shape {
            vocab_size: r.size("vocab_size", None)?,
            hidden_size,
            intermediate_size: r.size("intermediate_size", None)?,
            heads: Heads { queries, keys, dim },
            max_position_embeddings,
            eps,
            rope_theta,
            rope_scaling,
            rotates: (self.rotates)(r, layers)?,
            windows: (self.windows)(r, layers)?,
            qkv_bias: self.biases == Biases::Qkv || attention_bias,
            o_bias: self.biases == Biases::AsConfigured && attention_bias,
            mlp_bias: r.flag("mlp_bias", false)?,
            qk_norm: self.qk_norm,
            activation: self.activation,
            tie_word_embeddings: r.flag("tie_word_embeddings", self.tie_word_embeddings)?,
        })
    }
}

impl Shape {
    /// The network, and the facts that others ask for.
    pub fn config(&self, r: &mut Reader<'_>) -> Result<ModelConfig, Error> {
        let mut b = Builder::default();
        let (h, m, eps) = (self.hidden_size, self.intermediate_size, self.eps);
        let (q_width, kv_width) = (self.heads.queries * self.heads.dim, self.heads.keys * self.heads.dim);
        let embedding = b.embedding("model.embed_tokens", self.vocab_size, h);
        let layers = self.windows.len();
        let layer = |i: usize| {
            let name = |piece: &str| format!("model.layers.{i}.{piece}");
            let q = b.linear(&name("self_attn.q_proj"), q_width, h, self.qkv_bias);
            let k = b.linear(&name("self_attn.k_proj"), kv_width, h, self.qkv_bias);
            let v = b.linear(&name("self_attn.v_proj"), kv_width, h, self.qkv_bias);
            let o = b.linear(&name("self_attn.o_proj"), h, q_width, self.o_bias);
            let gate = b.linear(&name("mlp.gate_proj"), m, h, self.mlp_bias);
            let up = b.linear(&name("mlp.up_proj"), m, h, self.mlp_bias);
            let down = b.linear(&name("mlp.down_proj"), h, m, self.mlp_bias);
            let input_norm = b.norm(&name("input_layernorm"), h, eps);
            let norms = self
                .qk_norm
                .then(|| [name("self_attn.q_norm"), name("self_attn.k_norm")].map(|n| b.norm(&n, self.heads.dim, eps)));
            let middle_norm = b.norm(&name("post_attention_layernorm"), h, eps);
            let narrows = i + 1 == layers;
            let attention = Attention {
                q,
                k,
                v,
                o,
                norms,
                rotary: self.rotates[i].then_some(0),
                window: self.windows[i],
                heads: self.heads,
                narrows,
                slot: i,
            };
            let mlp = GatedMlp { gate, up, down, activation: self.activation, inner: m };
            let block: Box<dyn AnyBlock> = Box::new(Then(
                Residual { inner: Normed { norm: input_norm, inner: attention }, narrows },
                Residual { inner: Normed { norm: middle_norm, inner: mlp }, narrows: false },
            ));
            Recompute(block)
        };
        let layers: Vec<_> = (0..layers).map(layer).collect();
        let norm = b.norm("model.norm", h, eps);
        let kind = head(r)?;
        let head = match kind {
            HeadKind::Value => b.linear(VALUE_HEAD, 1, h, false).weight,
            HeadKind::Vocabulary if self.tie_word_embeddings => embedding.table,
            HeadKind::Vocabulary => b.linear("lm_head", self.vocab_size, h, false).weight,
        };
        let mut windows = self.windows.clone();
        windows.sort_unstable();
        windows.dedup();
        // Rotary positions go on beyond what the model was trained for; only dynamic scaling would have to change there.
        let bounded_by = (self.rope_scaling == RopeScaling::Dynamic)
            .then_some("its dynamic rotary scaling sets in, which is not implemented");
        Ok(ModelConfig {
            model_type: r.get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned(),
            vocab_size: self.vocab_size,
            hidden_size: h,
            num_hidden_layers: layers.len(),
            max_position_embeddings: self.max_position_embeddings,
            bounded_by,
            tie_word_embeddings: self.tie_word_embeddings,
            head: kind,
            eos_token_ids: r.token_ids("eos_token_id")?,
            inventory: b.0,
            network: Arc::new(Network {
                embedding,
                layers,
                norm,
                head,
                rotary: vec![Rotary::new(self.heads.dim, self.rope_theta, &self.rope_scaling)],
                windows,
            }),
        })
    }
}

/// What switches a window on, where `layer_types` doesn't say it layer by layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Switch {
    /// Nothing does: the architecture reads neither windows nor types of layers, whatever its configuration says of them.
    Never,
    /// It is on in all layers wherever it is given.
    Given,
    /// `use_sliding_window`, from layer `max_window_layers` on.
    Flag,
    /// `use_sliding_window` beside `layer_types`.
    FlagAndTypes,
}

/// For each layer, how many positions back a token sees; none: all.
pub(super) fn windows(r: &mut Reader<'_>, layers: usize, switch: Switch) -> Result<Vec<Option<usize>>, Error> {
    // transformers' default where the key is absent; null switches the window off.
    let absent = !r.has("sliding_window");
    let window = match r.get("sliding_window").cloned() {
        None if absent => Some(4096),
        None => None,
        Some(v) => Some(
            v.as_u64()
                .filter(|n| *n > 0)
                .ok_or_else(|| r.refuse("sliding_window", format!("expected a whole number above 0, got {v}")))?
                as usize,
        ),
    };
    // Where the architecture reads no switch, what one says changes nothing, as in transformers.
    let (flag, first) = (r.flag("use_sliding_window", false)?, r.size_or_zero("max_window_layers", 28)?);
    let (on, first) = match switch {
        Switch::Never => (false, 0),
        Switch::Given => (true, 0),
        Switch::Flag | Switch::FlagAndTypes => (flag, first),
    };
    if let Some(types) = r.get("layer_types").cloned() {
        let list = types.as_array().cloned().unwrap_or_default();
        if list.len() != layers {
            return Err(
                r.refuse("layer_types", format!("expected a list of {layers} names, got {} of them", list.len()))
            );
        }
        return list
            .iter()
            .map(|t| match t.as_str() {
                Some("full_attention") => Ok(None),
                Some("sliding_attention") if switch == Switch::Never => Ok(None),
                Some("sliding_attention") if switch == Switch::Flag && !flag => {
                    Err(r.refuse("layer_types", "has \"sliding_attention\" but use_sliding_window is off"))
                }
                Some("sliding_attention") => window
                    .map(Some)
                    .ok_or_else(|| r.refuse("layer_types", "has \"sliding_attention\" but sliding_window is missing")),
                _ => Err(r.refuse("layer_types", format!("expected full_attention or sliding_attention, got {t}"))),
            })
            .collect();
    }
    if on && switch == Switch::FlagAndTypes {
        return Err(r.refuse("use_sliding_window", "smollm3 needs layer_types beside it"));
    }
    Ok((0..layers).map(|i| window.filter(|_| on && i >= first)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, json};
    use std::path::Path;

    fn base() -> Value {
        json!({
            "hidden_size": 64, "intermediate_size": 172, "num_attention_heads": 8, "num_hidden_layers": 2,
            "num_key_value_heads": 4, "vocab_size": 512, "rope_theta": 10000.0, "max_position_embeddings": 512
        })
    }

    fn read(relative: Relative, table: &Value) -> Shape {
        let table: &Map<String, Value> = table.as_object().unwrap();
        relative.read(&mut Reader::new(Path::new("config.json"), table)).unwrap()
    }

    #[test]
    fn old_and_new_style_agree() {
        let with = |key: &str, v: Value| {
            let mut table = base();
            table[key] = v;
            read(Relative::LLAMA, &table)
        };
        let old = with("rope_scaling", json!({"type": "linear", "factor": 2.0}));
        let new = with("rope_parameters", json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}));
        assert_eq!(old, new);
        assert_eq!(old.rope_scaling, RopeScaling::Linear { factor: 2.0 });
        assert_eq!(old.heads, Heads { queries: 8, keys: 4, dim: 8 });
    }

    #[test]
    fn windows_follow_the_architecture() {
        let mut table = base();
        table["sliding_window"] = json!(128);
        assert_eq!(read(Relative::LLAMA, &table).windows, [None, None]);
        let mut types = table.clone();
        types["layer_types"] = json!(["sliding_attention", "full_attention"]);
        assert_eq!(read(Relative::LLAMA, &types).windows, [None, None]);
        assert_eq!(read(super::super::mistral::RELATIVE, &table).windows, [Some(128), Some(128)]);
        let mut off = table.clone();
        (off["use_sliding_window"], off["max_window_layers"]) = (json!(false), json!(1));
        assert_eq!(read(super::super::mistral::RELATIVE, &off).windows, [Some(128), Some(128)]);
        table["use_sliding_window"] = json!(true);
        table["max_window_layers"] = json!(1);
        assert_eq!(read(super::super::qwen2::RELATIVE, &table).windows, [None, Some(128)]);
        table["layer_types"] = json!(["sliding_attention", "full_attention"]);
        assert_eq!(read(super::super::qwen2::RELATIVE, &table).windows, [Some(128), None]);
    }
}
