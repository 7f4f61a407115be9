//! `config.json` of a Hugging Face checkpoint, read so that nothing it asks for is ignored.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::arch::{self, Network, Reader};
use crate::blocks::Block;
use crate::error::Error;
use crate::files::{SETTINGS_BYTES, read_at_most};
use crate::params::Inventory;

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
    "classifier_dropout",
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

/// What the head of a network says of a hidden state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadKind {
    /// A logit for each entry of the vocabulary.
    Vocabulary,
    /// One number: a reward model's. transformers calls such a network a sequence classification with one label.
    Value,
}

/// What a `config.json` says: the facts that others ask for, the parameters that a checkpoint must hold, and the network
/// that its architecture makes of it.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// `model_type`: one of [`model_types`](crate::model_types).
    pub model_type: String,
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// The longest sequence of the model's own training.
    pub max_position_embeddings: usize,
    /// Whether longer sequences can't be computed, and why.
    pub bounded_by: Option<&'static str>,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// What the head says.
    pub head: HeadKind,
    /// Token ids that end a text.
    pub eos_token_ids: Vec<u32>,
    /// The type of the vision-language model whose text part it is, where it is one.
    pub text_of: Option<String>,
    /// What its configuration multiplies the loss that balances experts by; none where it has no experts.
    pub router_aux_loss_coef: Option<f64>,
    /// What a checkpoint of it holds.
    pub inventory: Inventory,
    /// What computes it.
    pub network: Arc<Network>,
}

impl ModelConfig {
    /// Reads `config.json` in a checkpoint folder: of a vision-language model whose text part can be read, that of the
    /// latter.
    ///
    /// # Errors
    /// A folder without it, a key of the wrong kind, an architecture or an option that is not there.
    pub fn from_folder(folder: &Path) -> Result<(Self, Value), Error> {
        let path: PathBuf = folder.join("config.json");
        if !folder.is_dir() {
            return Err(Error::NotACheckpoint { path: folder.to_owned(), why: "there is no such folder".into() });
        }
        let bytes = read_at_most(&path, SETTINGS_BYTES).map_err(|e| Error::NotACheckpoint {
            path: folder.to_owned(),
            why: format!("config.json can't be read ({e})"),
        })?;
        let value: Value =
            serde_json::from_slice(&bytes).map_err(|e| Error::Json { path: path.clone(), why: e.to_string() })?;
        match arch::text_part(&value) {
            None => Ok((Self::from_value(&value, &path)?, value)),
            Some(text) => {
                let config = Self::from_value(&text, &path)?;
                let text_of = value["model_type"].as_str().map(str::to_owned);
                Ok((Self { text_of, ..config }, text))
            }
        }
    }

    /// The numbers that the head says of a hidden state.
    pub fn head_width(&self) -> usize {
        match self.head {
            HeadKind::Vocabulary => self.vocab_size,
            HeadKind::Value => 1,
        }
    }

    /// The first layer that has anything trained in it or below it: the backward pass ends there.
    pub(crate) fn first_trained(&self, trainable: &[bool]) -> usize {
        let mut trained = trainable.to_vec();
        for (weight, own) in self.inventory.adapted.iter().flat_map(|a| {
            a.linear.iter().map(|(w, adapter)| (w, adapter.a)).chain(a.replaced.iter().map(|(old, new)| (old, *new)))
        }) {
            trained[weight.index()] |= trained[own.index()];
        }
        if trained[self.network.embedding.table.index()] {
            return 0;
        }
        let layers = &self.network.layers;
        let in_layer = |layer: &_| {
            let mut any = false;
            Block::params(layer, &mut |id| any |= trained[id.index()]);
            any
        };
        layers.iter().position(in_layer).unwrap_or(layers.len())
    }

    /// Refuses a network that has no loss that balances experts; it is asked for by `coefficient`.
    ///
    /// # Errors
    /// A network without experts, and a reward model.
    pub fn balances(&self, coefficient: f64) -> Result<(), Error> {
        let why = match (self.router_aux_loss_coef, self.head) {
            (Some(_), HeadKind::Vocabulary) => return Ok(()),
            (None, _) => format!("model_type {:?} has no experts to balance", self.model_type),
            (_, HeadKind::Value) => "a reward model has no loss that balances experts".into(),
        };
        Err(Error::Part(format!("router_aux_loss_coef is {coefficient}, and {why}; leave it out or set it to 0")))
    }

    /// Refuses a network whose head doesn't write text; `what` is asked of it.
    ///
    /// # Errors
    /// A reward model.
    pub fn writes_text(&self, folder: &Path, what: &str) -> Result<(), Error> {
        match self.head {
            HeadKind::Vocabulary => Ok(()),
            HeadKind::Value => Err(Error::NotACheckpoint {
                path: folder.to_owned(),
                why: format!(
                    "it is a reward model (a sequence classification), which scores texts; {what} wants one that writes them"
                ),
            }),
        }
    }

    /// Reads the table of a `config.json`; `path` is for messages.
    ///
    /// # Errors
    /// As [`from_folder`](Self::from_folder).
    pub fn from_value(value: &Value, path: &Path) -> Result<Self, Error> {
        let table = value
            .as_object()
            .ok_or_else(|| Error::Json { path: path.to_owned(), why: "expected a table of keys".into() })?;
        let mut r = Reader::new(path, table);
        let architecture = arch::of(&mut r)?;
        let config = (architecture.read)(&mut r)?;
        // Whatever is left asks for something unknown, unless it is known to be harmless or switched off.
        for (key, v) in table {
            let off = matches!(v, Value::Null | Value::Bool(false))
                || v.as_f64() == Some(0.0)
                || v.as_array().is_some_and(|a| a.is_empty())
                || v.as_object().is_some_and(|o| o.is_empty());
            let harmless = HARMLESS.contains(&key.as_str()) || key.starts_with("unsloth_");
            if !r.has_read(key) && !harmless && !off {
                return Err(r.refuse(
                    key,
                    format!("this decoder does not know the key (value {v}); if it changes nothing, remove it"),
                ));
            }
        }
        Ok(config)
    }
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
    fn what_is_lacking_is_refused_by_name() {
        for (key, v, part) in [
            ("model_type", json!("bloom"), "expected one of cohere2"),
            ("hidden_act", json!("gelu"), "expected \"silu\""),
            ("attention_dropout", json!(0.1), "dropout is not implemented"),
            ("rope_scaling", json!({"rope_type": "proportional"}), "got \"proportional\""),
            ("rope_scaling", json!({"rope_type": "linear", "factor": 2.0, "warp": 3}), "does not know the key"),
            (
                "rope_scaling",
                json!({"rope_type": "default", "partial_rotary_factor": 1.0, "warp": 3}),
                "does not know the key",
            ),
            ("rope_scaling", json!({"rope_type": 5}), "expected a name"),
            ("rope_scaling", json!({"rope_type": "linear", "factor": 0.0}), "expected a number above 0"),
            ("rope_theta", json!(-1.0), "must be above 0"),
            ("residual_multiplier", json!(0.22), "does not know the key"),
            ("num_key_value_heads", json!(3), "must divide"),
            ("vocab_size", json!("many"), "expected a whole number"),
            ("num_hidden_layers", json!(1u64 << 63), "above 0 and at most 10000"),
            ("hidden_size", json!(u64::MAX), "above 0 and at most"),
            ("head_dim", json!(1 << 30), "above 0 and at most 65536"),
            ("rms_norm_eps", json!(-1e-5), "not below 0"),
            ("router_aux_loss_coef", json!(0.1), "does not know the key"),
            ("layer_types", json!(["full_attention", "linear_attention"]), "got \"linear_attention\""),
        ] {
            let said = with(key, v).unwrap_err().to_string();
            assert!(said.contains(part) && said.contains(key) && said.contains("config.json"), "{said}");
        }
    }

    #[test]
    fn the_balance_of_experts_is_read_where_there_are_experts() {
        let of = |model_type: &str, more: &[(&str, Value)]| {
            let mut table = base();
            table["model_type"] = model_type.into();
            more.iter().for_each(|(key, v)| table[*key] = v.clone());
            ModelConfig::from_value(&table, Path::new("config.json")).unwrap()
        };
        assert_eq!(of("mixtral", &[("output_router_logits", json!(true))]).router_aux_loss_coef, Some(0.001));
        assert_eq!(of("olmoe", &[]).router_aux_loss_coef, Some(0.01));
        let given = [("router_aux_loss_coef", json!(0.3)), ("mlp_only_layers", json!([0]))];
        assert_eq!(of("qwen3_moe", &given).router_aux_loss_coef, Some(0.3));
        assert_eq!(of("qwen3_moe", &[("mlp_only_layers", json!([0, 1]))]).router_aux_loss_coef, None);
        assert_eq!(of("llama", &[]).router_aux_loss_coef, None);
        of("mixtral", &[]).balances(0.1).unwrap();
        let head = [("architectures", json!(["MixtralForSequenceClassification"])), ("num_labels", json!(1))];
        let said = of("mixtral", &head).balances(0.1).unwrap_err().to_string();
        assert!(said.contains("router_aux_loss_coef is 0.1, and a reward model"), "{said}");
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
}
