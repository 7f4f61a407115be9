//! What transformers 5 makes of tokenizer.json: as it is, or anew of vocabulary and merges by the class of the tokenizer.

use serde_json::{Value, json};

/// Model types for which transformers 5 goes by tokenizer.json whatever class the checkpoint names.
const BY_FILE: [&str; 45] = [
    "arctic",
    "aria",
    "chatlm",
    "ernie4_5",
    "ernie4_5_moe",
    "flex_olmo",
    "glm",
    "glm4",
    "glm4_moe",
    "glm4_moe_lite",
    "gpt_bigcode",
    "granite",
    "granitemoe",
    "granitemoehybrid",
    "granitemoeshared",
    "h2ovl_chat",
    "hyperclovax",
    "internlm2",
    "internlm3",
    "iquestcoder",
    "jamba",
    "kimi_k25",
    "kimi_linear",
    "mimo_v2_flash",
    "minicpm3",
    "minimax_m2",
    "ministral",
    "ministral3",
    "mistral",
    "mistral3",
    "mistral_large4",
    "mixtral",
    "molmo",
    "molmo2",
    "nemotron",
    "olmo2",
    "olmo3",
    "olmo_hybrid",
    "opencua",
    "persimmon",
    "phi3",
    "phi3_v",
    "phimoe",
    "stablelm",
    "step3_vl",
];

/// Model types of which the class is the one here and not the one that the checkpoint names.
const BY_TYPE: [&str; 6] =
    ["hyperclovax_vision_v2", "qwen2", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen4_exp"];

/// Classes that make their tokenizer in ways that are not followed here.
const OTHERS: [&str; 43] = [
    "AlbertTokenizer",
    "BarthezTokenizer",
    "BertTokenizer",
    "BigBirdTokenizer",
    "BlenderbotTokenizer",
    "CLIPTokenizer",
    "CamembertTokenizer",
    "ConvBertTokenizer",
    "DebertaTokenizer",
    "DebertaV2Tokenizer",
    "DistilBertTokenizer",
    "EsmcTokenizer",
    "FNetTokenizer",
    "FunnelTokenizer",
    "HerbertTokenizer",
    "LasrTokenizer",
    "LayoutLMv2Tokenizer",
    "LayoutLMv3Tokenizer",
    "LayoutXLMTokenizer",
    "LukeTokenizer",
    "MBart50Tokenizer",
    "MBartTokenizer",
    "MLukeTokenizer",
    "MPNetTokenizer",
    "MarkupLMTokenizer",
    "NllbTokenizer",
    "NougatTokenizer",
    "OpenAIGPTTokenizer",
    "PegasusTokenizer",
    "ReformerTokenizer",
    "RemBertTokenizer",
    "RobertaTokenizer",
    "SeamlessM4TTokenizer",
    "Siglip2Tokenizer",
    "SplinterTokenizer",
    "T5Tokenizer",
    "Tipsv2Tokenizer",
    "UdopTokenizer",
    "VideoPrismTokenizer",
    "WhisperTokenizer",
    "XGLMTokenizer",
    "XLMRobertaTokenizer",
    "XLNetTokenizer",
];

/// A class of tokenizers by what it takes from tokenizer.json.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// All of it.
    File,
    /// As all that follow: vocabulary, merges and added tokens, and the post-processor where nothing else is said.
    Llama,
    /// The post-processor puts BOS, whatever that of the file puts.
    CodeLlama,
    Gemma,
    Qwen2,
    Qwen35,
    /// CodeGen's is the same.
    Gpt2,
    /// The post-processor puts nothing.
    GptNeoX,
    Cohere,
}

impl Class {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "LlamaTokenizer" => Class::Llama,
            "CodeLlamaTokenizer" => Class::CodeLlama,
            "GemmaTokenizer" => Class::Gemma,
            "Qwen2Tokenizer" => Class::Qwen2,
            "Qwen3_5Tokenizer" => Class::Qwen35,
            "GPT2Tokenizer" | "CodeGenTokenizer" => Class::Gpt2,
            "GPTNeoXTokenizer" => Class::GptNeoX,
            "CohereTokenizer" => Class::Cohere,
            _ => return None,
        })
    }

    /// The class of a model type, as `TOKENIZER_MAPPING_NAMES` of transformers has it.
    fn of_type(model_type: &str) -> Option<Self> {
        Some(match model_type {
            "diffusion_gemma" | "gemma" | "gemma2" | "gemma3" | "gemma3_text" | "gemma3n" | "gemma3n_text"
            | "recurrent_gemma" | "shieldgemma2" | "t5gemma" | "zaya" => Class::Gemma,
            "qwen2" | "qwen2_5_omni" | "qwen2_5_vl" | "qwen2_audio" | "qwen2_moe" | "qwen2_vl" | "qwen3"
            | "qwen3_asr" | "qwen3_moe" | "qwen3_next" | "qwen3_omni_moe" | "qwen3_vl" | "qwen3_vl_moe" => Class::Qwen2,
            "qwen3_5" | "qwen3_5_moe" | "qwen3_5_moe_text" | "qwen3_5_text" | "qwen4_exp" => Class::Qwen35,
            "codegen"
            | "dbrx"
            | "emu3"
            | "gpt2"
            | "gpt_neo"
            | "gptj"
            | "hyperclovax_vision_v2"
            | "jais2"
            | "opt"
            | "phi"
            | "starcoder2" => Class::Gpt2,
            "falcon_mamba" | "gpt_neox" | "mamba" | "mamba2" | "mpt" | "olmo" | "olmoe" | "rwkv" | "xlstm" => {
                Class::GptNeoX
            }
            "aya_vision" | "cohere" | "cohere2" => Class::Cohere,
            _ => return None,
        })
    }

    /// The class that `AutoTokenizer` takes for a folder, by its tokenizer_config.json and config.json.
    ///
    /// # Errors
    /// One that is not followed here.
    pub fn of(config: Option<&Value>, model: Option<&Value>) -> Result<Self, String> {
        let key = |name: &str| config.and_then(|c| c.get(name)).filter(|v| !v.is_null());
        let model_type = model.and_then(|m| m.get("model_type")).and_then(Value::as_str).unwrap_or_default();
        if key("auto_map").is_some() || BY_FILE.contains(&model_type) {
            return Ok(Class::File);
        }
        let named = key("tokenizer_class").or_else(|| model?.get("tokenizer_class")).and_then(Value::as_str);
        let named = named.map(|name| name.strip_suffix("Fast").unwrap_or(name));
        let of_type = Class::of_type(model_type);
        match named {
            None => Ok(of_type.unwrap_or(Class::File)),
            Some(_) if BY_TYPE.contains(&model_type) => Ok(of_type.unwrap_or(Class::File)),
            Some(name) if OTHERS.contains(&name) => Err(format!(
                "`tokenizer_class` is {name}, which transformers makes anew of the vocabulary, in a way that is not \
                 followed here; set it to \"PreTrainedTokenizerFast\" where tokenizer.json is right as it is"
            )),
            Some(name) => Ok(Class::named(name).unwrap_or(Class::File)),
        }
    }

    /// The special token of a class where no file names one: `bos_token`, `eos_token`, `unk_token`, `pad_token`.
    pub fn token(self, key: &str) -> Option<&'static str> {
        let [bos, eos, unk, pad] = match self {
            Class::File => [""; 4],
            Class::Llama | Class::CodeLlama => ["<s>", "</s>", "<unk>", ""],
            Class::Gemma => ["<bos>", "<eos>", "<unk>", "<pad>"],
            Class::Qwen2 | Class::Qwen35 => ["", "<|endoftext|>", "<|endoftext|>", "<|endoftext|>"],
            Class::Gpt2 => ["<|endoftext|>", "<|endoftext|>", "<|endoftext|>", ""],
            Class::GptNeoX => ["<|endoftext|>", "<|endoftext|>", "<|endoftext|>", "<|padding|>"],
            Class::Cohere => ["<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", "<UNK>", "<PAD>"],
        };
        let token = match key {
            "bos_token" => bos,
            "eos_token" => eos,
            "unk_token" => unk,
            "pad_token" => pad,
            _ => "",
        };
        Some(token).filter(|token| !token.is_empty())
    }

    /// tokenizer.json as transformers 5 uses it, and the class that it is of in the end: one that does not fit the file
    /// leaves it as it is. `legacy` and `add_prefix_space` of the configuration decide where a space is put before a text.
    ///
    /// # Errors
    /// A tokenizer with dropout, which gives other tokens each time.
    pub fn prepare(self, bytes: Vec<u8>, config: Option<&Value>) -> Result<(Vec<u8>, Self), String> {
        // What is no JSON the reader of tokenizers says better.
        let Ok(mut json) = serde_json::from_slice::<Value>(&bytes) else { return Ok((bytes, Class::File)) };
        if let Some(p) = json["model"].get("dropout").and_then(Value::as_f64).filter(|p| *p > 0.0) {
            return Err(format!(
                "`model.dropout` is {p}: the tokenizer is random, and makes other tokens of a text each time; set it to null"
            ));
        }
        // Older files leave the model's type out.
        let bpe = json["model"].get("type").is_none_or(|t| t == "BPE") && json["model"]["merges"].is_array();
        let byte_level = mentions(&json["pre_tokenizer"], "ByteLevel") || mentions(&json["decoder"], "ByteLevel");
        if self == Class::File || !bpe || (self == Class::Llama && byte_level) {
            return Ok((bytes, Class::File));
        }
        self.rebuild(&mut json, config);
        Ok((json.to_string().into_bytes(), self))
    }

    /// Leaves of a file what the class takes from it.
    fn rebuild(self, json: &mut Value, config: Option<&Value>) {
        let key = |name: &str| config.and_then(|c| c.get(name));
        let flag = |name: &str| key(name).and_then(Value::as_bool);
        let text = |name: &str| match key(name) {
            None => self.token(name),
            Some(value) => value.as_str().or_else(|| value.get("content")?.as_str()),
        };
        let metaspace = matches!(self, Class::Llama | Class::CodeLlama);
        let prefix = flag("add_prefix_space").unwrap_or(metaspace);
        let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": regex});
        let nfc = json!({"type": "NFC"});
        let both = |first: Value, second: Value| json!({"type": "Sequence", "pretokenizers": [first, second]});
        let split = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        let (normalizer, pre_tokenizer) = match self {
            Class::File => return,
            Class::Llama | Class::CodeLlama => {
                let scheme = match (prefix, flag("legacy").unwrap_or(false) && self == Class::Llama) {
                    (false, _) => "never",
                    (true, true) => "always",
                    (true, false) => "first",
                };
                let space = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
                (Value::Null, space)
            }
            Class::Gemma => (
                json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}),
                json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false}),
            ),
            Class::Qwen2 => (nfc, both(split(QWEN2), bytes(false))),
            Class::Qwen35 => (nfc, both(split(QWEN3_5), bytes(false))),
            Class::Gpt2 => (Value::Null, bytes(true)),
            Class::GptNeoX => (nfc, bytes(true)),
            Class::Cohere => (nfc, both(json!({"type": "Digits", "individual_digits": true}), bytes(true))),
        };
        let spaced = metaspace || self == Class::Gemma;
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if (self == Class::Llama && prefix) || self == Class::CodeLlama {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let decoder = if spaced { json!({"type": "Sequence", "decoders": decoders}) } else { bytes(true) };
        let unk = text("unk_token").filter(|_| matches!(self, Class::CodeLlama | Class::Gemma));
        let part = (!spaced).then_some("");
        let id = |token: &str| {
            let added = json["added_tokens"].as_array().into_iter().flatten().find(|t| t["content"] == token);
            json["model"]["vocab"].get(token).or_else(|| added?.get("id")).cloned()
        };
        let bos = text("bos_token").and_then(|bos| Some((bos, id(bos)?)));
        match (self, bos) {
            (Class::CodeLlama, Some((bos, id))) => {
                json["post_processor"] = json!({
                    "type": "TemplateProcessing",
                    "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                    "special_tokens": {bos: {"id": bos, "ids": [id], "tokens": [bos]}},
                });
            }
            (Class::CodeLlama, None) | (Class::GptNeoX, _) => json["post_processor"] = Value::Null,
            _ => {}
        }
        let (vocab, merges) = (json["model"]["vocab"].take(), json["model"]["merges"].take());
        json["model"] = json!({
            "type": "BPE", "dropout": null, "unk_token": unk, "continuing_subword_prefix": part,
            "end_of_word_suffix": part, "fuse_unk": spaced, "byte_fallback": spaced, "ignore_merges": false,
            "vocab": vocab, "merges": merges,
        });
        json["normalizer"] = normalizer;
        json["pre_tokenizer"] = pre_tokenizer;
        json["decoder"] = decoder;
    }
}

/// What these split texts by before they look at bytes.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN3_5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Whether a part of a tokenizer, or one in it, is of the type `kind`.
fn mentions(part: &Value, kind: &str) -> bool {
    match part {
        Value::Object(map) => map.get("type").is_some_and(|t| t == kind) || map.values().any(|v| mentions(v, kind)),
        Value::Array(list) => list.iter().any(|v| mentions(v, kind)),
        _ => false,
    }
}
