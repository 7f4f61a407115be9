//! The linear maps that get adapters where nothing is said, by `model_type`: as PEFT 0.21 has them
//! (`TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING`).

/// Names of modules; none where PEFT wants them named.
pub(crate) fn of(model_type: &str) -> Option<&'static [&'static str]> {
    Some(match model_type {
        "llama" | "mistral" | "mixtral" | "opt" | "stablelm" | "gemma" | "gemma2" | "gemma3_text" | "qwen2"
        | "qwen3" => &["q_proj", "v_proj"],
        "gpt2" => &["c_attn"],
        "gpt_neox" => &["query_key_value"],
        "phi" => &["q_proj", "v_proj", "fc1", "fc2"],
        _ => return None,
    })
}

/// Whether PEFT takes the names of routers and experts, and "all-linear", for the weights that are stacked in transformers
/// (`_MODEL_TO_CONVERSION_PATTERN`); elsewhere such names are those of other maps alone.
pub(crate) fn stacked(model_type: &str) -> bool {
    matches!(model_type, "mixtral" | "olmoe" | "qwen3_moe")
}
