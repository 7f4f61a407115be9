//! What a training run can be told, under TRL's names.

use collimate_model::Precision;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::schedule::Schedule;

/// The settings of the trainer. Every key has a default; those that TRL has too have TRL's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Peak learning rate of AdamW.
    pub learning_rate: f64,
    /// How the learning rate runs: constant, constant_with_warmup, linear or cosine.
    pub lr_scheduler_type: Schedule,
    /// Optimiser steps over which the learning rate rises from 0.
    pub warmup_steps: usize,
    /// The same as a share of all steps; used where warmup_steps is 0.
    pub warmup_ratio: f64,
    /// Pairs per micro-batch.
    pub per_device_train_batch_size: usize,
    /// Micro-batches per optimiser step; the step is that of the undivided batch.
    pub gradient_accumulation_steps: usize,
    /// Passes over the data.
    pub num_train_epochs: f64,
    /// Optimiser steps; above 0 it overrides num_train_epochs.
    pub max_steps: usize,
    /// β₁ of AdamW.
    pub adam_beta1: f64,
    /// β₂ of AdamW.
    pub adam_beta2: f64,
    /// ε of AdamW.
    pub adam_epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// The gradient is scaled down to this global norm; 0: never.
    pub max_grad_norm: f64,
    /// Optimiser steps per line of metrics.
    pub logging_steps: usize,
    /// Optimiser steps between evaluations; 0: at the end only.
    pub eval_steps: usize,
    /// Pairs per batch in evaluation and in the pass over the reference.
    pub per_device_eval_batch_size: usize,
    /// Optimiser steps between checkpoints to go on from; 0: none.
    pub save_steps: usize,
    /// Checkpoints kept; the best one and the one gone on from beside them. 0: all.
    pub save_total_limit: usize,
    /// Whether the result is the best of the checkpoints, and not the last policy.
    pub load_best_model_at_end: bool,
    /// The metric of evaluations that says which is the best, with or without `eval_`; None: the loss.
    pub metric_for_best_model: Option<String>,
    /// Whether more of that metric is better; None: unless its name ends with "loss".
    pub greater_is_better: Option<bool>,
    /// Evaluations in a row without a better one after which the run ends; 0: none end it.
    pub early_stopping_patience: usize,
    /// By how much an evaluation must be better to count as one.
    pub early_stopping_threshold: f64,
    /// What the order of the data and everything else that is random is drawn from.
    pub seed: u64,
    /// Whether the data is shuffled, anew for each epoch.
    pub shuffle: bool,
    /// Whether the prompt of a pair is computed once for both completions.
    pub prefix_sharing: bool,
    /// An upper bound on input tokens per micro-batch, beside its number of pairs; 0: none. If it isn't given, it is what
    /// fills the processor where a step is the same however it is cut, and none elsewhere.
    pub max_tokens_per_batch: Option<usize>,
    /// Whether layers are recomputed in the backward pass instead of stored.
    pub gradient_checkpointing: bool,
    /// Most memory that a step may hold, in MiB; 0: as much as it takes. Above 0 the trainer cuts micro-batches, holds fewer
    /// logits and recomputes layers, as many as fit: see [`Plan`](crate::Plan).
    pub max_memory_mib: usize,
    /// What the loss that balances the experts of a mixture is multiplied by; none: what the model's configuration says.
    pub router_aux_loss_coef: Option<f64>,
    /// What several workers share beside the step: 1 splits the optimiser's state over them (ZeRO-1), 0 leaves it whole on
    /// each.
    pub zero_stage: usize,
    /// Logits held at a time, in numbers.
    pub logits_chunk: usize,
    /// What the weights are kept, and without bf16 and fp16 also computed, in: float32 or bfloat16.
    pub dtype: Dtype,
    /// Whether to compute in bfloat16, with a rounded copy of weights kept in float32.
    pub bf16: bool,
    /// Whether to compute in float16, likewise.
    pub fp16: bool,
}

/// What weights are kept in, under torch's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32 bits: the smallest update is kept.
    #[default]
    Float32,
    /// 16 bits: an update below a 256th of its weight is lost.
    Bfloat16,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            learning_rate: 1e-6,
            lr_scheduler_type: Schedule::Linear,
            warmup_steps: 0,
            warmup_ratio: 0.0,
            per_device_train_batch_size: 8,
            gradient_accumulation_steps: 1,
            num_train_epochs: 3.0,
            max_steps: 0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            logging_steps: 10,
            eval_steps: 0,
            per_device_eval_batch_size: 8,
            save_steps: 0,
            save_total_limit: 0,
            load_best_model_at_end: false,
            metric_for_best_model: None,
            greater_is_better: None,
            early_stopping_patience: 0,
            early_stopping_threshold: 0.0,
            seed: 42,
            shuffle: true,
            prefix_sharing: true,
            max_tokens_per_batch: None,
            gradient_checkpointing: false,
            max_memory_mib: 0,
            router_aux_loss_coef: None,
            zero_stage: 0,
            logits_chunk: 1 << 24,
            dtype: Dtype::Float32,
            bf16: false,
            fp16: false,
        }
    }
}

/// Beyond these a number is a slip, and sums of pairs and steps would leave their types.
const MOST_PAIRS: usize = 1 << 31;
const MOST_STEPS: u64 = 1_000_000_000_000;
const MOST_EPOCHS: f64 = 1e6;

impl Settings {
    /// Checks every value against its rule.
    ///
    /// # Errors
    /// Names the key, its rule and what was given.
    pub fn validate(&self) -> Result<(), Error> {
        let rule = |holds: bool, key: &'static str, rule: &'static str, value: f64| {
            if holds { Ok(()) } else { Err(Error::Setting { key, rule, value }) }
        };
        let at_least_one = |key, value: usize| rule(value > 0, key, "at least 1", value as f64);
        let share = |key, v: f64| rule((0.0..1.0).contains(&v), key, "at least 0 and below 1", v);
        let not_negative = |key, v: f64| rule(v >= 0.0 && v.is_finite(), key, "0 or more", v);
        rule(
            self.learning_rate > 0.0 && self.learning_rate.is_finite(),
            "learning_rate",
            "above 0",
            self.learning_rate,
        )?;
        rule((0.0..=1.0).contains(&self.warmup_ratio), "warmup_ratio", "between 0 and 1", self.warmup_ratio)?;
        at_least_one("per_device_train_batch_size", self.per_device_train_batch_size)?;
        if self.lr_scheduler_type == Schedule::Constant && (self.warmup_steps > 0 || self.warmup_ratio > 0.0) {
            return Err(Error::Conflict(
                "lr_scheduler_type = \"constant\" has no warm-up: warmup_steps and warmup_ratio would do nothing; \
                 \"constant_with_warmup\" has one",
            ));
        }
        if self.warmup_steps > 0 && self.warmup_ratio > 0.0 {
            return Err(Error::Conflict("warmup_steps and warmup_ratio both say how long the warm-up is: give one"));
        }
        at_least_one("per_device_eval_batch_size", self.per_device_eval_batch_size)?;
        at_least_one("gradient_accumulation_steps", self.gradient_accumulation_steps)?;
        at_least_one("logging_steps", self.logging_steps)?;
        at_least_one("logits_chunk", self.logits_chunk)?;
        let (micro, count) = (self.per_device_train_batch_size, self.gradient_accumulation_steps);
        rule(
            micro.checked_mul(count).is_some_and(|n| n <= MOST_PAIRS),
            "per_device_train_batch_size × gradient_accumulation_steps",
            "at most 2^31 pairs a step",
            micro as f64 * count as f64,
        )?;
        rule(self.max_steps as u64 <= MOST_STEPS, "max_steps", "at most 10^12", self.max_steps as f64)?;
        let epochs = self.num_train_epochs;
        rule(
            self.max_steps > 0 || (epochs > 0.0 && epochs <= MOST_EPOCHS),
            "num_train_epochs",
            "above 0 and at most 10^6 (max_steps may say more)",
            epochs,
        )?;
        share("adam_beta1", self.adam_beta1)?;
        share("adam_beta2", self.adam_beta2)?;
        rule(self.adam_epsilon > 0.0, "adam_epsilon", "above 0", self.adam_epsilon)?;
        not_negative("weight_decay", self.weight_decay)?;
        not_negative("max_grad_norm", self.max_grad_norm)?;
        rule(
            self.zero_stage <= 1,
            "zero_stage",
            "0 or 1: gradients and weights are whole on every worker",
            self.zero_stage as f64,
        )?;
        not_negative("router_aux_loss_coef", self.router_aux_loss_coef.unwrap_or(0.0))?;
        not_negative("early_stopping_threshold", self.early_stopping_threshold)?;
        self.validate_keeping()?;
        match (self.dtype, self.bf16, self.fp16) {
            (_, true, true) => Err(Error::Conflict("bf16 and fp16 both say what to compute in: give one")),
            (Dtype::Bfloat16, _, true) => {
                Err(Error::Conflict("fp16 computes with a copy of weights kept in float32; dtype says bfloat16"))
            }
            (Dtype::Bfloat16, true, _) => Err(Error::Conflict(
                "bf16 computes with a copy of weights kept in float32; dtype = \"bfloat16\" keeps no such weights: give one",
            )),
            _ => Ok(()),
        }
    }

    /// What is kept of what is saved, and what ends a run early.
    fn validate_keeping(&self) -> Result<(), Error> {
        let (eval, save) = (self.eval_steps, self.save_steps);
        if self.save_total_limit > 0 && save == 0 {
            return Err(Error::Conflict("save_total_limit: nothing is saved on the way; save_steps says how often"));
        }
        if self.load_best_model_at_end && (eval == 0 || save == 0 || !save.is_multiple_of(eval)) {
            return Err(Error::Best(format!(
                "load_best_model_at_end: what is saved must have been evaluated: eval_steps ({eval}) and save_steps \
                 ({save}) must be above 0, and save_steps a multiple of eval_steps"
            )));
        }
        if self.early_stopping_patience > 0 && eval == 0 {
            return Err(Error::Conflict(
                "early_stopping_patience: nothing is evaluated on the way; eval_steps says how often",
            ));
        }
        if self.early_stopping_threshold > 0.0 && self.early_stopping_patience == 0 {
            return Err(Error::Conflict("early_stopping_threshold: does nothing without early_stopping_patience"));
        }
        Ok(())
    }

    /// The metric that says which evaluation is the best, and whether more of it is better; `names` are those of a task.
    ///
    /// # Errors
    /// A metric that no evaluation has; the message lists those that there are.
    pub fn best_metric(&self, names: &[&str]) -> Result<(String, bool), Error> {
        let asked = self.metric_for_best_model.as_deref().unwrap_or("loss");
        let name = asked.strip_prefix("eval_").unwrap_or(asked);
        if !names.contains(&name) {
            let all: Vec<_> = names.iter().map(|n| format!("eval_{n}")).collect();
            return Err(Error::Best(format!(
                "metric_for_best_model: evaluations of this run have no \"{asked}\"; they have {}",
                all.join(", ")
            )));
        }
        Ok((format!("eval_{name}"), self.greater_is_better.unwrap_or(!name.ends_with("loss"))))
    }

    /// What to compute in, and whether weights are kept in f32 beside it.
    pub fn precision(&self) -> (Precision, bool) {
        match (self.dtype, self.bf16, self.fp16) {
            (Dtype::Bfloat16, ..) => (Precision::Bf16, false),
            (Dtype::Float32, true, _) => (Precision::Bf16, true),
            (Dtype::Float32, _, true) => (Precision::F16, true),
            (Dtype::Float32, false, false) => (Precision::F32, true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_contradicts_itself_is_refused() {
        let said = |s: Settings| s.validate().unwrap_err().to_string();
        let both = Settings { bf16: true, fp16: true, ..Settings::default() };
        assert_eq!(said(both), "bf16 and fp16 both say what to compute in: give one");
        let kept = Settings { dtype: Dtype::Bfloat16, fp16: true, ..Settings::default() };
        assert!(said(kept).starts_with("fp16 computes with a copy"));
        let twice = Settings { dtype: Dtype::Bfloat16, bf16: true, ..Settings::default() };
        assert!(said(twice).starts_with("bf16 computes with a copy"));
    }

    #[test]
    fn numbers_that_can_only_be_slips_are_refused() {
        let said = |s: Settings| s.validate().unwrap_err().to_string();
        let half = 1 << 32;
        let wraps =
            Settings { per_device_train_batch_size: half, gradient_accumulation_steps: half, ..Settings::default() };
        let sentence = "per_device_train_batch_size × gradient_accumulation_steps must be at most 2^31 pairs a step";
        assert!(said(wraps).starts_with(sentence));
        let epochs = Settings { num_train_epochs: 1e18, ..Settings::default() };
        assert!(said(epochs).starts_with("num_train_epochs must be above 0 and at most 10^6"));
        let steps = Settings { max_steps: usize::MAX, ..Settings::default() };
        assert!(said(steps).starts_with("max_steps must be at most 10^12"));
        Settings { max_steps: 1_000_000_000, ..Settings::default() }.validate().unwrap();
    }

    #[test]
    fn a_warm_up_that_would_do_nothing_is_refused() {
        for (warmup_steps, warmup_ratio) in [(5, 0.0), (0, 0.1)] {
            let s =
                Settings { lr_scheduler_type: Schedule::Constant, warmup_steps, warmup_ratio, ..Settings::default() };
            assert!(s.validate().unwrap_err().to_string().contains("\"constant_with_warmup\" has one"));
            Settings { lr_scheduler_type: Schedule::ConstantWithWarmup, ..s }.validate().unwrap();
        }
        let both = Settings { warmup_steps: 5, warmup_ratio: 0.1, ..Settings::default() };
        assert!(both.validate().unwrap_err().to_string().ends_with("give one"));
    }

    #[test]
    fn the_best_is_of_what_is_evaluated_and_saved() {
        let said = |s: Settings| s.validate().unwrap_err().to_string();
        let best = |eval_steps, save_steps| Settings {
            load_best_model_at_end: true,
            eval_steps,
            save_steps,
            ..Settings::default()
        };
        for (eval, save) in [(0, 4), (4, 0), (4, 6), (4, 2)] {
            let said = said(best(eval, save));
            assert!(said.contains(&format!("eval_steps ({eval}) and save_steps ({save})")), "{said}");
        }
        best(2, 6).validate().unwrap();
        assert!(said(Settings { save_total_limit: 2, ..Settings::default() }).starts_with("save_total_limit: nothing"));
        let early = Settings { early_stopping_patience: 2, ..Settings::default() };
        assert!(said(early).starts_with("early_stopping_patience: nothing is evaluated"));
        let alone = Settings { early_stopping_threshold: 0.1, ..Settings::default() };
        assert!(said(alone).starts_with("early_stopping_threshold: does nothing"));
        let below = Settings { early_stopping_threshold: -0.1, early_stopping_patience: 1, ..Settings::default() };
        assert!(said(below).starts_with("early_stopping_threshold must be 0 or more"));
    }

    #[test]
    fn the_metric_of_the_best_is_one_that_there_is() {
        let of = |name: Option<&str>, greater| {
            let s = Settings {
                metric_for_best_model: name.map(str::to_owned),
                greater_is_better: greater,
                ..Settings::default()
            };
            s.best_metric(&["loss", "rewards/margins"]).map_err(|e| e.to_string())
        };
        let is = |name: &str, greater| Ok((name.to_owned(), greater));
        assert_eq!(of(None, None), is("eval_loss", false));
        assert_eq!(of(Some("eval_loss"), Some(true)), is("eval_loss", true));
        assert_eq!(of(Some("rewards/margins"), None), is("eval_rewards/margins", true));
        let said = of(Some("accuracy"), None).unwrap_err();
        assert!(said.ends_with("have no \"accuracy\"; they have eval_loss, eval_rewards/margins"), "{said}");
    }

    #[test]
    fn precision_is_what_the_keys_say() {
        let of = |dtype, bf16, fp16| Settings { dtype, bf16, fp16, ..Settings::default() }.precision();
        assert_eq!(of(Dtype::Float32, false, false), (Precision::F32, true));
        assert_eq!(of(Dtype::Float32, true, false), (Precision::Bf16, true));
        assert_eq!(of(Dtype::Float32, false, true), (Precision::F16, true));
        assert_eq!(of(Dtype::Bfloat16, false, false), (Precision::Bf16, false));
    }
}
