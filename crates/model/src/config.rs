//! `config.json` of a Hugging Face checkpoint, read so that nothing it asks for is ignored.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::Error;

/// The architectures that share this decoder, by their `model_type`.
pub const MODEL_TYPES: [&str; 5] = ["llama", "mistral", "qwen2", "qwen3", "smollm3"];

/// Keys that change nothing in what is computed here: about other heads, about generation, or left by the tools that
/// wrote the file.
const HARMLESS: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_flash_attn_2_enabled",
    "_from_model_config",
    "_name_or_path",
    "architectures",
    "attn_implementation",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "eos_token_id",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "label2id",
    "length_penalty",
    "max_length",
    "max_window_layers",
    "min_length",
    "model_name",
    "model_type",
    "name_or_path",
    "no_repeat_ngram_size",
    "no_rope_layer_interval",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "use_bfloat16",
    "use_cache",
];

/// How rotary frequencies are scaled.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// As they are.
    None,
    /// All frequencies divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Like `None` up to `max_position_embeddings`, which is as far as this program goes.
    Dynamic,
    /// Llama 3.1: low frequencies divided, high ones kept, those between interpolated.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths longer than context/this are divided.
        low_freq_factor: f64,
        /// Wavelengths shorter than context/this are kept.
        high_freq_factor: f64,
        /// The context of the first training.
        original: f64,
    },
    /// YaRN (arXiv:2309.00071).
    Yarn {
        /// The divisor of interpolated frequencies.
        factor: f64,
        /// Rotations in the original context above which a frequency is kept.
        beta_fast: f64,
        /// Rotations in the original context below which a frequency is divided.
        beta_slow: f64,
        /// The context of the first training.
        original: f64,
        /// What cosines and sines are multiplied by.
        attention_factor: f64,
        /// Whether the two bounds are rounded outwards.
        truncate: bool,
    },
}

/// The shape of a decoder-only transformer of the Llama family.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// `model_type`: one of [`MODEL_TYPES`].
    pub model_type: String,
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// The longest sequence.
    pub max_position_embeddings: usize,
    /// ε of every RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Scaling of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// Which layers rotate queries and keys (SmolLM3 leaves some out).
    pub rope_layers: Vec<bool>,
    /// For each layer, how many positions back a token sees, itself included; none: all.
    pub sliding_window: Vec<Option<usize>>,
    /// Bias on q, k and v.
    pub qkv_bias: bool,
    /// Bias on the output projection.
    pub o_bias: bool,
    /// Bias in the feed-forward layer.
    pub mlp_bias: bool,
    /// RMSNorm on each head of q and k.
    pub qk_norm: bool,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Token ids that end a text.
    pub eos_token_ids: Vec<u32>,
}

/// Reads keys, remembers which, and names file and key in every complaint.
struct Reader<'a> {
    path: &'a Path,
    table: &'a Map<String, Value>,
    seen: Vec<&'static str>,
}

impl Reader<'_> {
    fn refuse(&self, key: &str, why: impl Into<String>) -> Error {
        Error::Config { path: self.path.to_owned(), key: key.to_owned(), why: why.into() }
    }
    fn get(&mut self, key: &'static str) -> Option<&Value> {
        self.seen.push(key);
        self.table.get(key).filter(|v| !v.is_null())
    }
    fn size(&mut self, key: &'static str, default: Option<usize>) -> Result<usize, Error> {
        match self.get(key).cloned() {
            None => default.ok_or_else(|| self.refuse(key, "is missing; expected a whole number above 0")),
            Some(v) => {
                // The product of two such numbers is a number, and a list of layers fits into memory.
                let most = if key == "num_hidden_layers" { 10_000 } else { 1 << 31 };
                v.as_u64().filter(|n| (1..=most).contains(n)).map(|n| n as usize).ok_or_else(|| {
                    self.refuse(key, format!("expected a whole number above 0 and at most {most}, got {v}"))
                })
            }
        }
    }
    fn number(&mut self, key: &'static str, default: f64) -> Result<f64, Error> {
        match self.get(key).cloned() {
            None => Ok(default),
            Some(v) => v.as_f64().ok_or_else(|| self.refuse(key, format!("expected a number, got {v}"))),
        }
    }
    fn flag(&mut self, key: &'static str, default: bool) -> Result<bool, Error> {
        match self.get(key).cloned() {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| self.refuse(key, format!("expected true or false, got {v}"))),
        }
    }
}

impl ModelConfig {
    /// Reads `config.json` in a checkpoint folder.
    ///
    /// # Errors
    /// A folder without it, a key of the wrong kind, an architecture or an option that this decoder lacks.
    pub fn from_folder(folder: &Path) -> Result<(Self, Value), Error> {
        let path: PathBuf = folder.join("config.json");
        if !folder.is_dir() {
            return Err(Error::NotACheckpoint { path: folder.to_owned(), why: "there is no such folder".into() });
        }
        let text = std::fs::read_to_string(&path).map_err(|e| Error::NotACheckpoint {
            path: folder.to_owned(),
            why: format!("config.json can't be read ({e})"),
        })?;
        let value: Value =
            serde_json::from_str(&text).map_err(|e| Error::Json { path: path.clone(), why: e.to_string() })?;
        Ok((Self::from_value(&value, &path)?, value))
    }

    /// Reads the table of a `config.json`; `path` is for messages.
    ///
    /// # Errors
    /// As [`from_folder`](Self::from_folder).
    pub fn from_value(value: &Value, path: &Path) -> Result<Self, Error> {
        let table = value
            .as_object()
            .ok_or_else(|| Error::Json { path: path.to_owned(), why: "expected a table of keys".into() })?;
        let mut r = Reader { path, table, seen: Vec::new() };
        let model_type = match r.get("model_type").cloned() {
            Some(Value::String(s)) if MODEL_TYPES.contains(&s.as_str()) => s,
            other => {
                let got = other.map_or("nothing".into(), |v| v.to_string());
                return Err(r.refuse("model_type", format!("expected one of {}, got {got}", MODEL_TYPES.join(", "))));
            }
        };
        match r.get("hidden_act").cloned() {
            None => {}
            Some(Value::String(s)) if s == "silu" || s == "swish" => {}
            Some(other) => return Err(r.refuse("hidden_act", format!("only \"silu\" is implemented, got {other}"))),
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
        let heads = r.size("num_attention_heads", None)?;
        let kv_heads = r.size("num_key_value_heads", Some(heads))?;
        if heads % kv_heads != 0 {
            return Err(
                r.refuse("num_key_value_heads", format!("must divide num_attention_heads {heads}, got {kv_heads}"))
            );
        }
        let default_head = if model_type == "qwen3" { 128 } else { hidden_size / heads };
        let head_dim = r.size("head_dim", Some(default_head))?;
        if head_dim == 0 || head_dim % 2 != 0 {
            return Err(r.refuse("head_dim", format!("must be even for rotary positions, got {head_dim}")));
        }
        let layers = r.size("num_hidden_layers", None)?;
        let max_position_embeddings = r.size("max_position_embeddings", Some(2048))?;
        let (rope_theta, rope_scaling) = rope(&mut r, max_position_embeddings, &model_type)?;
        let attention_bias = r.flag("attention_bias", false)?;
        let config = Self {
            vocab_size: r.size("vocab_size", None)?,
            hidden_size,
            intermediate_size: r.size("intermediate_size", None)?,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim,
            max_position_embeddings,
            rms_norm_eps: r.number("rms_norm_eps", 1e-6)?,
            rope_theta,
            rope_scaling,
            rope_layers: rope_layers(&mut r, layers, &model_type)?,
            sliding_window: sliding_windows(&mut r, layers, &model_type)?,
            qkv_bias: if model_type == "qwen2" { true } else { attention_bias },
            o_bias: if model_type == "qwen2" { false } else { attention_bias },
            mlp_bias: r.flag("mlp_bias", false)?,
            qk_norm: model_type == "qwen3",
            tie_word_embeddings: r.flag("tie_word_embeddings", model_type == "smollm3")?,
            eos_token_ids: token_ids(&mut r, "eos_token_id")?,
            model_type,
        };
        if config.model_type == "mistral" && attention_bias {
            return Err(r.refuse("attention_bias", "mistral has no bias"));
        }
        // Whatever is left asks for something unknown, unless it is known to be harmless or switched off.
        for (key, v) in table {
            let off = matches!(v, Value::Null | Value::Bool(false))
                || v.as_f64() == Some(0.0)
                || v.as_array().is_some_and(|a| a.is_empty())
                || v.as_object().is_some_and(|o| o.is_empty());
            let harmless = HARMLESS.contains(&key.as_str()) || key.starts_with("unsloth_");
            if !r.seen.contains(&key.as_str()) && !harmless && !off {
                return Err(r.refuse(
                    key,
                    format!("this decoder does not know the key (value {v}); if it changes nothing, remove it"),
                ));
            }
        }
        Ok(config)
    }

    /// Query heads per key head.
    pub fn group(&self) -> usize {
        self.num_attention_heads / self.num_key_value_heads
    }

    /// Width of the query projection.
    pub fn q_width(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of the key and of the value projection.
    pub fn kv_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}

fn token_ids(r: &mut Reader<'_>, key: &'static str) -> Result<Vec<u32>, Error> {
    let one = |v: &Value| v.as_u64().map(|n| n as u32);
    let ids = match r.get(key) {
        None => Some(Vec::new()),
        Some(Value::Array(a)) => a.iter().map(one).collect(),
        Some(v) => one(v).map(|n| vec![n]),
    };
    ids.ok_or_else(|| r.refuse(key, "expected a token id or a list of them"))
}

fn rope_layers(r: &mut Reader<'_>, layers: usize, model_type: &str) -> Result<Vec<bool>, Error> {
    if model_type != "smollm3" {
        return Ok(vec![true; layers]);
    }
    // SmolLM3 leaves the rotation out of every `no_rope_layer_interval`-th layer; in the list, 1 means that it rotates.
    let interval = r.size("no_rope_layer_interval", Some(4))?;
    match r.get("no_rope_layers").cloned() {
        None => Ok((0..layers).map(|i| (i + 1) % interval != 0).collect()),
        Some(Value::Array(a)) if a.len() == layers && a.iter().all(|v| v.as_u64().is_some_and(|n| n < 2)) => {
            Ok(a.iter().map(|v| v.as_u64() == Some(1)).collect())
        }
        Some(v) => Err(r.refuse("no_rope_layers", format!("expected {layers} numbers, each 0 or 1, got {v}"))),
    }
}

fn sliding_windows(r: &mut Reader<'_>, layers: usize, model_type: &str) -> Result<Vec<Option<usize>>, Error> {
    // transformers' default where the key is absent; null switches the window off.
    let absent = !r.table.contains_key("sliding_window");
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
    // Mistral's window is on wherever it is given; the others need a switch too, and apply it from one layer on.
    let on = model_type != "llama" && r.flag("use_sliding_window", model_type == "mistral")?;
    let first = r.size_or_zero("max_window_layers", if model_type == "mistral" { 0 } else { 28 })?;
    if let Some(types) = r.get("layer_types").cloned() {
        let list = types.as_array().cloned().unwrap_or_default();
        if list.len() != layers {
            return Err(r.refuse("layer_types", format!("expected a list of {layers} names, got {types}")));
        }
        return list
            .iter()
            .map(|t| match t.as_str() {
                Some("full_attention") => Ok(None),
                Some("sliding_attention") => window
                    .map(Some)
                    .ok_or_else(|| r.refuse("layer_types", "has \"sliding_attention\" but sliding_window is missing")),
                _ => Err(r.refuse("layer_types", format!("expected full_attention or sliding_attention, got {t}"))),
            })
            .collect();
    }
    if on && model_type == "smollm3" {
        return Err(r.refuse("use_sliding_window", "smollm3 needs layer_types beside it"));
    }
    Ok((0..layers).map(|i| window.filter(|_| on && i >= first)).collect())
}

impl Reader<'_> {
    fn size_or_zero(&mut self, key: &'static str, default: usize) -> Result<usize, Error> {
        match self.get(key).cloned() {
            None => Ok(default),
            Some(v) => v
                .as_u64()
                .map(|n| n as usize)
                .ok_or_else(|| self.refuse(key, format!("expected a whole number, got {v}"))),
        }
    }
}

fn rope(r: &mut Reader<'_>, max_position: usize, model_type: &str) -> Result<(f64, RopeScaling), Error> {
    let base = match model_type {
        "smollm3" => 2_000_000.0,
        _ => 10_000.0,
    };
    let mut theta = r.number("rope_theta", base)?;
    if r.flag("rope_interleaved", false)? {
        return Err(r.refuse("rope_interleaved", "interleaved rotary positions are not implemented"));
    }
    let partial = r.number("partial_rotary_factor", 1.0)?;
    if partial != 1.0 {
        return Err(r.refuse("partial_rotary_factor", format!("only 1 is implemented, got {partial}")));
    }
    // Old style: rope_scaling beside rope_theta; new style: rope_parameters with both.
    let old = r.get("rope_scaling").cloned();
    let new = r.get("rope_parameters").cloned();
    let (key, given) = match (new, old) {
        (Some(v), _) => ("rope_parameters", v),
        (None, Some(v)) => ("rope_scaling", v),
        (None, None) => return Ok((theta, RopeScaling::None)),
    };
    let Some(table) = given.as_object() else {
        return Err(r.refuse(key, format!("expected a table, got {given}")));
    };
    let mut used = vec!["rope_type", "type", "rope_theta"];
    let number = |used: &mut Vec<&'static str>, name: &'static str, default: Option<f64>| {
        used.push(name);
        match table.get(name).filter(|v| !v.is_null()) {
            None => default.ok_or_else(|| r.refuse(&format!("{key}.{name}"), "is missing; expected a number")),
            Some(v) => {
                v.as_f64().ok_or_else(|| r.refuse(&format!("{key}.{name}"), format!("expected a number, got {v}")))
            }
        }
    };
    theta = number(&mut used, "rope_theta", Some(theta))?;
    let original =
        |used: &mut Vec<&'static str>| number(used, "original_max_position_embeddings", Some(max_position as f64));
    let kind = table.get("rope_type").or_else(|| table.get("type")).and_then(Value::as_str).unwrap_or("default");
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: number(&mut used, "factor", None)? },
        "dynamic" => {
            number(&mut used, "factor", None)?;
            RopeScaling::Dynamic
        }
        "llama3" => RopeScaling::Llama3 {
            factor: number(&mut used, "factor", None)?,
            low_freq_factor: number(&mut used, "low_freq_factor", None)?,
            high_freq_factor: number(&mut used, "high_freq_factor", None)?,
            original: number(&mut used, "original_max_position_embeddings", None)?,
        },
        "yarn" => {
            let original = original(&mut used)?;
            let factor = number(&mut used, "factor", Some(max_position as f64 / original))?;
            let mscale = |scale: f64, m: f64| if scale <= 1.0 { 1.0 } else { 0.1 * m * scale.ln() + 1.0 };
            let m = number(&mut used, "mscale", Some(0.0))?;
            let m_all = number(&mut used, "mscale_all_dim", Some(0.0))?;
            let implied =
                if m != 0.0 && m_all != 0.0 { mscale(factor, m) / mscale(factor, m_all) } else { mscale(factor, 1.0) };
            let truncate = match table.get("truncate") {
                None | Some(Value::Null) => true,
                Some(v) => v
                    .as_bool()
                    .ok_or_else(|| r.refuse(&format!("{key}.truncate"), format!("expected true or false, got {v}")))?,
            };
            used.push("truncate");
            RopeScaling::Yarn {
                factor,
                beta_fast: number(&mut used, "beta_fast", Some(32.0))?,
                beta_slow: number(&mut used, "beta_slow", Some(1.0))?,
                original,
                attention_factor: number(&mut used, "attention_factor", Some(implied))?,
                truncate,
            }
        }
        other => {
            let known = "default, linear, dynamic, llama3, yarn";
            return Err(r.refuse(&format!("{key}.rope_type"), format!("expected one of {known}, got \"{other}\"")));
        }
    };
    if let Some(odd) = table.iter().find(|(k, v)| !used.contains(&k.as_str()) && !v.is_null()) {
        let neutral = odd.0 == "partial_rotary_factor" && odd.1.as_f64() == Some(1.0);
        if !neutral {
            return Err(r.refuse(
                &format!("{key}.{}", odd.0),
                format!("rope type \"{kind}\" does not know the key (value {})", odd.1),
            ));
        }
    }
    Ok((theta, scaling))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn base() -> Value {
        json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 172, "num_attention_heads": 8,
            "num_hidden_layers": 2, "num_key_value_heads": 4, "vocab_size": 512, "rope_theta": 10000.0,
            "max_position_embeddings": 512
        })
    }

    fn with(key: &str, v: Value) -> Result<ModelConfig, Error> {
        let mut table = base();
        table[key] = v;
        ModelConfig::from_value(&table, Path::new("config.json"))
    }

    #[test]
    fn old_and_new_style_agree() {
        let old = with("rope_scaling", json!({"type": "linear", "factor": 2.0})).unwrap();
        let new =
            with("rope_parameters", json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0})).unwrap();
        assert_eq!(old, new);
        assert_eq!(old.rope_scaling, RopeScaling::Linear { factor: 2.0 });
        assert_eq!((old.head_dim, old.group(), old.kv_width()), (8, 2, 32));
    }

    #[test]
    fn what_is_lacking_is_refused_by_name() {
        for (key, v, part) in [
            ("model_type", json!("gpt2"), "expected one of llama"),
            ("hidden_act", json!("gelu"), "only \"silu\""),
            ("attention_dropout", json!(0.1), "dropout is not implemented"),
            ("rope_scaling", json!({"rope_type": "longrope", "short_factor": [1.0]}), "got \"longrope\""),
            ("rope_scaling", json!({"rope_type": "linear", "factor": 2.0, "warp": 3}), "does not know the key"),
            ("residual_multiplier", json!(0.22), "does not know the key"),
            ("num_key_value_heads", json!(3), "must divide"),
            ("vocab_size", json!("many"), "expected a whole number"),
            ("num_hidden_layers", json!(1u64 << 63), "above 0 and at most 10000"),
            ("hidden_size", json!(u64::MAX), "above 0 and at most"),
            ("layer_types", json!(["full_attention", "linear_attention"]), "got \"linear_attention\""),
        ] {
            let said = with(key, v).unwrap_err().to_string();
            assert!(said.contains(part) && said.contains(key) && said.contains("config.json"), "{said}");
        }
    }

    #[test]
    fn switched_off_and_harmless_keys_pass() {
        with("residual_multiplier", Value::Null).unwrap();
        with("use_cache", json!(true)).unwrap();
        with("quantization_config", json!({})).unwrap();
        with("unsloth_version", json!("2025.6.2")).unwrap();
        with("unsloth_fixed", json!(true)).unwrap();
        with("temperature", json!(0.6)).unwrap();
    }

    #[test]
    fn windows_follow_the_architecture() {
        let mut table = base();
        table["sliding_window"] = json!(128);
        let read = |t: &Value| ModelConfig::from_value(t, Path::new("config.json")).unwrap().sliding_window;
        assert_eq!(read(&table), [None, None]);
        table["model_type"] = json!("mistral");
        assert_eq!(read(&table), [Some(128), Some(128)]);
        table["model_type"] = json!("qwen2");
        table["use_sliding_window"] = json!(true);
        table["max_window_layers"] = json!(1);
        assert_eq!(read(&table), [None, Some(128)]);
        table["layer_types"] = json!(["sliding_attention", "full_attention"]);
        assert_eq!(read(&table), [Some(128), None]);
    }
}
