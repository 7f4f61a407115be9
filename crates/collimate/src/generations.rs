//! Texts that are written while a run goes, so that a policy that grows verbose is seen while it does.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use collimate_data::{Options, Prompt, Source, Tokenizer, prompts};
use collimate_model::{Checkpoint, Decoder, Sampling};
use collimate_reward::AnyReward;
use collimate_workers::{Workers, of_all, share};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::section;
use crate::measure::{Measured, Measurement, check_prompts, sampling};

/// What `eval_generations` says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generations {
    /// A file of prompts.
    pub prompts: PathBuf,
    /// Optimiser steps between looks; 0: before the first step and after the last alone.
    #[serde(default)]
    pub steps: usize,
    /// At most so many prompts, the first of the file; 0: all.
    #[serde(default)]
    pub most: usize,
    /// What scores the texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<Value>,
    /// Most tokens of a text.
    #[serde(default = "max_new_tokens")]
    pub max_new_tokens: usize,
    /// What logits are divided by; 0 takes the likeliest token.
    #[serde(default = "one")]
    pub temperature: f64,
    /// Texts of each prompt.
    #[serde(default = "one_text")]
    pub num_return_sequences: usize,
    /// Texts that are written side by side.
    #[serde(default = "batch_size")]
    pub batch_size: usize,
    /// What samples are drawn from.
    #[serde(default = "seed")]
    pub seed: u64,
    /// The factor by which the mean length may leave that of the first look before an alarm is raised.
    #[serde(default = "length_bound")]
    pub length_bound: f64,
}

fn max_new_tokens() -> usize {
    128
}
fn one() -> f64 {
    1.0
}
fn one_text() -> usize {
    1
}
fn batch_size() -> usize {
    32
}
fn seed() -> u64 {
    42
}
fn length_bound() -> f64 {
    1.5
}

impl Generations {
    /// Reads the table of `eval_generations`.
    ///
    /// # Errors
    /// A key that is missing, unknown, of the wrong type or out of range, by its name.
    pub fn new(value: Value) -> Result<Self> {
        let Value::Object(table) = value else {
            bail!(
                "eval_generations: expected a table such as {{prompts = \"prompts.jsonl\", steps = 50}}, got {value}"
            );
        };
        let read: Self = section(table, "eval_generations.")?;
        let t = read.temperature;
        if !(t >= 0.0 && t.is_finite()) {
            bail!("eval_generations.temperature: expected 0 or more, got {t}");
        }
        read.sampling().validate().context("eval_generations")?;
        if let Some(reward) = &read.reward {
            collimate_reward::read(reward).context("eval_generations")?;
        }
        for (key, n) in [("num_return_sequences", read.num_return_sequences), ("batch_size", read.batch_size)] {
            if n == 0 {
                bail!("eval_generations.{key}: expected a whole number above 0, got 0");
            }
        }
        if read.length_bound.is_nan() || read.length_bound <= 1.0 {
            bail!("eval_generations.length_bound: expected a factor above 1, got {}", read.length_bound);
        }
        Ok(read)
    }

    fn sampling(&self) -> Sampling {
        sampling(self.temperature, self.max_new_tokens, self.num_return_sequences, self.seed)
    }
}

/// Whoever writes the texts.
pub(crate) struct Watch {
    settings: Generations,
    tokenizer: Tokenizer,
    prompts: Vec<Prompt>,
    reference: Decoder,
    reward: Option<Box<dyn AnyReward>>,
    stop: Vec<u32>,
    /// The mean length of the first look.
    first: Option<f64>,
}

impl Watch {
    /// `ends` end texts beside what the checkpoint says: the run teaches them.
    ///
    /// # Errors
    /// Prompts that can't be read, or that the model can't take.
    pub fn new(
        settings: &Generations,
        checkpoint: &Checkpoint,
        tokenizer: &Tokenizer,
        options: &Options,
        ends: &[u32],
        reference: Decoder,
    ) -> Result<Self> {
        let source = Source::from(settings.prompts.clone());
        let mut prompts = prompts(&source, tokenizer, options).context("eval_generations.prompts")?;
        if settings.most > 0 {
            prompts.truncate(settings.most);
        }
        check_prompts(&prompts, &settings.prompts, checkpoint.config.max_position_embeddings)
            .context("eval_generations.prompts")?;
        let reward = settings.reward.as_ref().map(collimate_reward::read).transpose()?;
        let stop = [&crate::commands::generate::stops(&checkpoint.config, tokenizer), ends].concat();
        let reference = reference.with_profile(Default::default());
        Ok(Self {
            settings: settings.clone(),
            tokenizer: tokenizer.clone(),
            prompts,
            reference,
            reward,
            stop,
            first: None,
        })
    }

    /// Goes on from a checkpoint of a run that looked before: lengths keep the bound that they had there.
    pub fn resumed(mut self, checkpoint: &Path) -> Self {
        let lines = fs::read_to_string(checkpoint.with_file_name("metrics.jsonl")).unwrap_or_default();
        let tokens = |l: &str| serde_json::from_str::<Value>(l).ok()?.get("generations/tokens")?.as_f64();
        self.first = lines.lines().find_map(tokens);
        self
    }

    /// A line of metrics, and a line a text; each of several workers writes behind its share of the prompts.
    ///
    /// # Errors
    /// A reward that fails.
    pub fn look(
        &mut self,
        policy: &Decoder,
        step: usize,
        workers: &dyn Workers,
    ) -> Result<(Map<String, Value>, Vec<Measured>)> {
        let measurement = Measurement {
            policy,
            reference: &self.reference,
            tokenizer: &self.tokenizer,
            sampling: self.settings.sampling(),
            batch: self.settings.batch_size,
            stop: &self.stop,
            reward: self.reward.as_deref(),
            objective: None,
        };
        let own = &self.prompts[share(self.prompts.len(), workers)];
        let texts = if own.is_empty() { Vec::new() } else { measurement.run(own, &mut |_| Ok(()))? };
        let texts = of_all(workers, texts)?;
        let mean = |of: &dyn Fn(&Measured) -> f64| texts.iter().map(of).sum::<f64>() / texts.len() as f64;
        let mut line = Map::new();
        let mut put = |name: &str, value: f64| line.insert(format!("generations/{name}"), value.into());
        put("tokens", mean(&|t| t.tokens as f64));
        put("ended", mean(&|t| f64::from(u8::from(t.ended))));
        put("repetition", mean(&|t| t.repetition));
        put("kl", mean(&|t| t.log_prob - t.log_reference));
        if self.reward.is_some() {
            put("score", mean(&|t| t.score.unwrap_or(f64::NAN)));
        }
        line.insert("step".into(), json!(step));
        let tokens = mean(&|t| t.tokens as f64);
        self.first.get_or_insert(tokens);
        Ok((line, texts))
    }

    /// What is said of a look; with the alarm, where lengths have left their bound.
    pub fn said(&self, line: &Map<String, Value>) -> String {
        let number = |key: &str| line.get(&format!("generations/{key}")).and_then(Value::as_f64);
        let of = |key| number(key).unwrap_or(f64::NAN);
        let mut text = format!(
            "texts at step {}: {:.1} tokens, {:.0} % ended by themselves, repetition {:.3}, KL {:.3}",
            line["step"],
            of("tokens"),
            100.0 * of("ended"),
            of("repetition"),
            of("kl")
        );
        if let Some(score) = number("score") {
            text += &format!(", score {score:.4}");
        }
        if let (Some(first), bound) = (self.first, self.settings.length_bound) {
            let now = of("tokens");
            if now > first * bound || now * bound < first {
                text += &format!(
                    "\nALARM: texts have {now:.1} tokens, and had {first:.1} at first: more than a factor of {bound}"
                );
            }
        }
        text
    }
}
