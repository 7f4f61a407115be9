//! What a policy writes, and what that is worth: texts sampled from it, and their log-probabilities under it and under
//! the reference.

use std::path::Path;

use anyhow::{Context, Result, bail};
use collimate_core::{Column, Completion, Objective, Pair, Totals};
use collimate_data::{Prompt, Tokenizer};
use collimate_model::{Decoder, Error as ModelError, Layout, Options, Sampling, Text, Written};
use collimate_reward::{AnyReward, Sample, repeated};
use serde::{Deserialize, Serialize};

use crate::commands::generate::completion;

/// Tokens that are scored at a time.
const TOKENS: usize = 4096;

/// One text, and what was found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// The row of the prompt in its file, from 1.
    pub prompt: usize,
    /// Which of the prompt's texts, from 0.
    pub sample: usize,
    /// n, the stop token included.
    pub tokens: usize,
    /// Whether it ended by itself.
    pub ended: bool,
    /// What the reward says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// The share of its 3-grams that stood before.
    pub repetition: f64,
    /// Σ_t ln π(y_t | x, y_<t), in nats.
    pub log_prob: f64,
    /// Σ_t ln μ(y_t | x, y_<t), in nats.
    pub log_reference: f64,
    /// The objective's reward of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub implicit_reward: Option<f64>,
    /// What the reward says of the prompt's own chosen text, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen_score: Option<f64>,
    /// The tokens of that, EOS included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen_tokens: Option<usize>,
    /// The text.
    pub completion: String,
}

/// Holds prompts to the positions of the model that is to write behind them; `file` is for messages.
///
/// # Errors
/// The first that leaves no room, or has no tokens.
pub(crate) fn check_prompts(prompts: &[Prompt], file: &Path, limit: usize) -> Result<()> {
    let Some(odd) = prompts.iter().find(|p| p.ids.is_empty() || p.ids.len() >= limit) else { return Ok(()) };
    let (n, row) = (odd.ids.len(), odd.row);
    match n {
        0 => bail!("{}, row {row}: field `prompt`: no tokens; expected at least one", file.display()),
        _ => bail!(
            "{}, row {row}: field `prompt`: {n} tokens, and the model takes {limit}, answer included",
            file.display()
        ),
    }
}

/// How texts are drawn: at `temperature`, where 0 takes the likeliest token.
pub(crate) fn sampling(temperature: f64, max_new_tokens: usize, num_return_sequences: usize, seed: u64) -> Sampling {
    let do_sample = temperature > 0.0;
    let temperature = if do_sample { temperature } else { 1.0 };
    Sampling { do_sample, temperature, max_new_tokens, num_return_sequences, seed, ..Sampling::default() }
}

/// Who writes, and who judges.
pub(crate) struct Measurement<'a> {
    /// π.
    pub policy: &'a Decoder,
    /// μ.
    pub reference: &'a Decoder,
    pub tokenizer: &'a Tokenizer,
    pub sampling: Sampling,
    /// Texts side by side.
    pub batch: usize,
    pub stop: &'a [u32],
    pub reward: Option<&'a dyn AnyReward>,
    pub objective: Option<&'a Objective>,
}

impl Measurement<'_> {
    /// Writes `sampling.num_return_sequences` texts for each prompt and looks at them; `told` hears how many prompts are
    /// done.
    ///
    /// # Errors
    /// A prompt that the model can't take, a reward that fails.
    pub fn run(
        &self,
        prompts: &[Prompt],
        told: &mut dyn FnMut(usize) -> Result<(), ModelError>,
    ) -> Result<Vec<Measured>> {
        let ids: Vec<Vec<u32>> = prompts.iter().map(|p| p.ids.clone()).collect();
        let mut done = 0;
        let written = self.policy.generate(&ids, &self.sampling, self.stop, self.batch, &mut |_, _| {
            done += 1;
            told(done)
        })?;
        let texts: Vec<(&Prompt, usize, &Written)> = prompts
            .iter()
            .zip(&written)
            .flat_map(|(p, all)| all.iter().enumerate().map(move |(k, w)| (p, k, w)))
            .collect();
        let log_probs = self.log_probs(self.policy, &texts)?;
        let log_references = self.log_probs(self.reference, &texts)?;
        let mut measured = Vec::with_capacity(texts.len());
        for (i, (prompt, sample, w)) in texts.iter().enumerate() {
            let (own, other) = (&log_probs[i], &log_references[i]);
            let sum = |p: &[f32]| p.iter().copied().map(f64::from).sum::<f64>();
            measured.push(Measured {
                prompt: prompt.row,
                sample: *sample,
                tokens: w.tokens.len(),
                ended: w.ended,
                score: None,
                repetition: repeated(&w.tokens, 3),
                log_prob: sum(own),
                log_reference: sum(other),
                implicit_reward: self.objective.map(|o| implicit_reward(o, own, other)).transpose()?,
                chosen_score: None,
                chosen_tokens: None,
                completion: completion(self.tokenizer, &prompt.ids, &w.tokens, w.ended)?,
            });
        }
        if let Some(reward) = self.reward {
            self.judge(reward, prompts, &texts, &mut measured)?;
        }
        Ok(measured)
    }

    fn judge(
        &self,
        reward: &dyn AnyReward,
        prompts: &[Prompt],
        texts: &[(&Prompt, usize, &Written)],
        measured: &mut [Measured],
    ) -> Result<()> {
        let said = |e| Err(e).context("scoring the texts");
        let samples: Vec<_> = texts
            .iter()
            .zip(measured.iter())
            .map(|((p, _, w), m)| Sample { prompt: &p.text, completion: &m.completion, tokens: &w.tokens, row: p.row })
            .collect();
        let scores = collimate_reward::scores(reward, &samples).or_else(said)?;
        let answered = prompts.iter().filter_map(|p| Some((p, p.answer.as_ref()?)));
        let samples: Vec<_> = answered
            .map(|(p, a)| Sample { prompt: &p.text, completion: &a.text, tokens: &a.ids, row: p.row })
            .collect();
        let of_chosen = collimate_reward::scores(reward, &samples).or_else(said)?;
        for (m, score) in measured.iter_mut().zip(scores) {
            m.score = Some(score);
        }
        // The texts of a prompt stand together, in the order of the prompts.
        let mut of_chosen = of_chosen.into_iter();
        for (prompt, texts) in prompts.iter().zip(measured.chunks_mut(self.sampling.num_return_sequences)) {
            let Some(answer) = &prompt.answer else { continue };
            let score = of_chosen.next();
            for m in texts {
                (m.chosen_score, m.chosen_tokens) = (score, Some(answer.ids.len()));
            }
        }
        Ok(())
    }

    /// ln p of each token of each text, in the order of `texts`.
    fn log_probs(&self, model: &Decoder, texts: &[(&Prompt, usize, &Written)]) -> Result<Vec<Vec<f32>>> {
        let mut all = Vec::with_capacity(texts.len());
        let mut rest = texts;
        while !rest.is_empty() {
            let mut held = 0;
            let fits = rest.iter().take_while(|(p, _, w)| {
                held += p.ids.len() + w.tokens.len();
                held <= TOKENS
            });
            let (now, later) = rest.split_at(fits.count().max(1));
            let mut layout = Layout::default();
            for (prompt, _, w) in now {
                layout.push(&prompt.ids, &[Text::whole(&w.tokens)], true)?;
            }
            let scores = model.score(&layout, Options::default())?;
            all.extend(layout.completions.iter().map(|range| scores.log_probs[range.clone()].to_vec()));
            rest = later;
        }
        Ok(all)
    }
}

/// The reward that an objective sees in a text: of a pair of it with itself, since some averages look at both lengths.
fn implicit_reward(objective: &Objective, policy: &[f32], reference: &[f32]) -> Result<f64> {
    let n = policy.len();
    let weights = objective.weights(Pair::new(n, n), 0)?.chosen;
    let of = |p: &[f32]| {
        let score = p.iter().zip(&weights).map(|(p, w)| f64::from(*p) * w).sum();
        let sum: f64 = p.iter().copied().map(f64::from).sum();
        let column = |x| Column(vec![x]);
        Completion { score: column(score), sum: column(sum), tokens: column(n as f64), confidence: column(0.0) }
    };
    let both = |p: &[f32]| Pair::new(of(p), of(p));
    let totals = Totals { pairs: 1, chosen_tokens: n };
    Ok(objective.evaluate_column(&both(policy), &both(reference), totals).reward.chosen.0[0])
}
