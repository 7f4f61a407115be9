//! What TRL calls otherwise, or has and this program has not: one table, for messages and for docs/src/coming-from-trl.md.

use anyhow::{Result, bail};
use serde_json::{Map, Value};

/// Keys of TRL's `DPOConfig`, of its scripts and of `TrainingArguments` that are no keys here, and what to write instead.
pub const KEYS: &[(&str, &str)] = &[
    ("model_name_or_path", "`model`"),
    ("ref_model_name_or_path", "`ref_model`"),
    ("dataset_name", "`data`"),
    ("dataset_train_split", "`split`"),
    ("dataset_test_split", "`eval_data = {path = \"...\", split = \"test\"}`"),
    ("eval_dataset", "`eval_data`"),
    ("eval_strategy", "`eval_data` or `eval_split`, and `eval_steps` (0: at the end)"),
    ("evaluation_strategy", "`eval_data` or `eval_split`, and `eval_steps` (0: at the end)"),
    ("do_train", "leave it out: `align` trains"),
    ("do_eval", "`eval_data` or `eval_split`"),
    ("save_strategy", "`save_steps` (0: none)"),
    (
        "save_only_model",
        "leave it out: a checkpoint has all that going on needs; `save_total_limit` bounds their number",
    ),
    ("callbacks", "`early_stopping_patience` and `early_stopping_threshold` for EarlyStoppingCallback"),
    ("logging_strategy", "`logging_steps`"),
    ("logging_first_step", "`logging_steps = 1`"),
    ("max_prompt_length", "`max_length`, and `overlong = \"truncate-prompt\"`"),
    ("max_completion_length", "`max_length`, and `overlong = \"truncate-completion\"`"),
    ("truncation_mode", "`overlong = \"truncate-prompt\"` (keep_end) or \"truncate-completion\" (keep_start)"),
    ("precompute_ref_log_probs", "leave it out: the reference is always scored once; `cache_dir` keeps the scores"),
    ("precompute_ref_batch_size", "`per_device_eval_batch_size`"),
    ("reference_free", "`method = \"simpo\"`, \"cpo\" or \"orpo\""),
    ("force_use_ref_model", "`ref_model`"),
    ("sync_ref_model", "leave it out: the reference stays as it is"),
    ("rpo_alpha", "`loss_type = [\"sigmoid\", \"sft\"]` with `loss_weights = [1.0, alpha]`"),
    ("padding_free", "leave it out: nothing is ever padded"),
    ("pad_token", "leave it out: nothing is ever padded"),
    ("pad_to_multiple_of", "leave it out: nothing is ever padded"),
    ("label_pad_token_id", "leave it out: nothing is ever padded"),
    ("group_by_length", "leave it out: nothing is ever padded"),
    ("use_logits_to_keep", "leave it out: logits of prompts are never computed"),
    ("disable_dropout", "leave it out: there is no dropout"),
    ("dataset_num_proc", "leave it out: all cores read"),
    ("dataloader_num_workers", "leave it out: all cores read"),
    ("dataloader_drop_last", "leave it out: the last step of an epoch has the pairs that are left"),
    ("remove_unused_columns", "leave it out: columns that are not read are listed"),
    ("optim", "leave it out: AdamW is the optimiser"),
    ("lr_scheduler_kwargs", "leave it out: `lr_scheduler_type` and `warmup_steps` say all"),
    ("data_seed", "`seed`"),
    ("torch_dtype", "`dtype` for what is kept, `bf16` or `fp16` for what is computed in"),
    ("model_init_kwargs", "`dtype`"),
    ("bf16_full_eval", "leave it out: evaluation computes as training does"),
    ("fp16_full_eval", "leave it out: evaluation computes as training does"),
    ("tf32", "leave it out: float32 is float32"),
    ("attn_implementation", "leave it out: attention never stores its scores"),
    ("gradient_checkpointing_kwargs", "leave it out: `gradient_checkpointing` says all"),
    ("auto_find_batch_size", "`max_memory_mib`"),
    ("per_gpu_train_batch_size", "`per_device_train_batch_size`"),
    ("eval_accumulation_steps", "leave it out: evaluation keeps no logits"),
    ("generate_during_eval", "`eval_generations`"),
    ("packing", "leave it out: nothing is ever padded"),
    ("packing_strategy", "leave it out: nothing is ever padded"),
    ("eval_packing", "leave it out: nothing is ever padded"),
    ("dataset_text_field", "`columns = {NAME = \"text\"}`"),
    ("max_seq_length", "`max_length`"),
    ("shuffle_dataset", "`shuffle`"),
    ("run_name", "`output_dir`"),
    ("logging_dir", "leave it out: `report_to` writes to `output_dir/runs`"),
    ("disable_tqdm", "`--quiet`"),
    ("log_level", "`--quiet`"),
    ("push_to_hub", "leave it out: `hf upload` takes the output folder as it is"),
    ("hub_model_id", "leave it out: `hf upload` takes the output folder as it is"),
    ("lora_task_type", "leave it out: the command says it (`reward`: SEQ_CLS, else CAUSAL_LM)"),
    ("lora_target_parameters", "`lora_target_modules`: adapters stand beside linear maps"),
    ("lora_bias", "leave it out: biases stay frozen"),
    ("load_in_8bit", "leave it out: weights are float32 or bfloat16"),
    ("load_in_4bit", "leave it out: weights are float32 or bfloat16"),
    ("bnb_4bit_quant_type", "leave it out: weights are float32 or bfloat16"),
    ("use_bnb_nested_quant", "leave it out: weights are float32 or bfloat16"),
    ("bnb_4bit_quant_storage", "leave it out: weights are float32 or bfloat16"),
    ("peft_config", "`use_peft`, and the keys that begin with `lora_`"),
    ("trust_remote_code", "leave it out: no code of a checkpoint is ever run"),
];

/// What to write in place of TRL's key, if it is one; a flag's dashes count as underscores.
pub fn instead(key: &str) -> Option<&'static str> {
    let key = key.replace('-', "_");
    KEYS.iter().find(|(k, _)| *k == key).map(|(_, instead)| *instead)
}

/// Refuses keys that TRL reads and ignores under the `loss_type` given, unless they say TRL's default.
///
/// # Errors
/// Names the key, and what uses it.
pub(crate) fn refuse_unused(keys: &Map<String, Value>) -> Result<()> {
    let types: Vec<&str> = match &keys["loss_type"] {
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    let other = |key: &str, default: f64| keys.get(key).and_then(Value::as_f64).is_some_and(|v| v != default);
    let any = |names: &[&str]| types.iter().any(|t| names.contains(t));
    let refuse = |key: &str, who: &str| -> Result<()> {
        let types: Vec<_> = types.iter().map(|t| format!("{t:?}")).collect();
        bail!("{key}: loss_type {} does not use it; {who}", types.join(", "))
    };
    if other("label_smoothing", 0.0) && !any(&["exo_pair", "robust", "aot", "aot_unpaired"]) {
        let who = "exo_pair, robust, aot and aot_unpaired do, and `method = \"cdpo\"` is the logistic loss with it";
        return refuse("label_smoothing", who);
    }
    if other("discopop_tau", 0.05) && !any(&["discopop"]) {
        return refuse("discopop_tau", "discopop does");
    }
    let divergence = keys.get("f_divergence_type").and_then(Value::as_str);
    if other("f_alpha_divergence_coef", 0.5) && divergence != Some("alpha_divergence") {
        bail!("f_alpha_divergence_coef: only f_divergence_type = \"alpha_divergence\" does anything with it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/src/coming-from-trl.md");
        let page = std::fs::read_to_string(path).unwrap();
        for (key, instead) in KEYS {
            let row = format!("| `{key}` | {instead} |");
            assert!(page.contains(&row), "docs/src/coming-from-trl.md lacks the row:\n{row}");
        }
    }

    #[test]
    fn no_key_of_the_table_is_a_key() {
        for (key, _) in KEYS {
            assert!(crate::config::KEYS.iter().all(|k| k.name != *key), "{key}");
        }
        assert_eq!(instead("dataset-name"), Some("`data`"));
        assert_eq!(instead("beta"), None);
    }
}
