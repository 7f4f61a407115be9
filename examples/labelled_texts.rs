//! A task from outside: learning from single completions that are labelled good or bad, without pairs.
//!
//! ```sh
//! cargo run --release --example labelled_texts
//! ```
//!
//! L = −(1/N) Σ_i ln σ(± β (ln π(y_i|x_i) − ln μ(y_i|x_i))), with + where a completion is good and − where it is bad: what
//! BCO (arXiv:2404.04656) is without its shift. The engine, the trainer, precision, schedules, metrics and checkpoints are
//! those of every task; the task says how a unit is laid out, and what each token's coefficient is.

use std::error::Error;

use burn::tensor::Device;
use collimate::backend::Backend;
use collimate::model::{Decoder, Error as ModelError, Layout, ModelConfig, Text};
use collimate::train::{Error as TrainError, Event, Judgement, Seen, Settings, Size, Task, Trainer, Unit};
use serde_json::json;

/// A completion with its label.
#[derive(Clone, Debug)]
pub struct Labelled {
    prompt: Vec<u32>,
    completion: Vec<u32>,
    good: bool,
    row: usize,
}

impl Unit for Labelled {
    fn size(&self, _share: bool) -> Size {
        let (scored, read) = (self.completion.len(), self.prompt.len() + self.completion.len());
        Size { inputs: read - 1, scored, rows: 1, longest: read - 1, read }
    }

    fn lay_out(&self, layout: &mut Layout, share: bool) -> Result<(), ModelError> {
        layout.push(&self.prompt, &[Text::whole(&self.completion)], share)
    }

    fn place(&self) -> String {
        self.row.to_string()
    }

    fn key(&self) -> u128 {
        // Any hash of the tokens does; these are few and short.
        let ids = self.prompt.iter().chain([&u32::MAX]).chain(&self.completion);
        ids.fold(0, |hash: u128, id| hash.wrapping_mul(0x1000_0000_01B3).wrapping_add(u128::from(*id) + 1))
    }
}

/// The task.
#[derive(Clone, Copy, Debug)]
pub struct Labels {
    /// β.
    beta: f64,
}

impl Task for Labels {
    type Unit = Labelled;
    /// N.
    type Totals = usize;

    fn metrics(&self) -> Vec<&'static str> {
        vec!["loss", "logratios", "accuracies"]
    }

    fn needs_reference(&self) -> bool {
        true
    }

    fn totals(&self, batch: &[Labelled]) -> usize {
        batch.len()
    }

    fn judge(&self, units: &[Seen<'_, Labelled>], all: usize, _device: &Device) -> Result<Judgement, TrainError> {
        let mut judgement = Judgement::default();
        for seen in units {
            let sum = |p: &[f32]| p.iter().copied().map(f64::from).sum::<f64>();
            let log_probs = &seen.policy[0].log_probs;
            let ratio = sum(log_probs) - seen.reference.map_or(0.0, |r| sum(&r[0]));
            let sign = if seen.unit.good { 1.0 } else { -1.0 };
            let z = sign * self.beta * ratio;
            // −ln σ(z) and its derivative −σ(−z).
            let (loss, slope) = ((-z).max(0.0) + (-z.abs()).exp().ln_1p(), -1.0 / (1.0 + z.exp()));
            judgement.rows.push(vec![loss, ratio, f64::from(u8::from(z > 0.0))]);
            let coefficient = (slope * sign * self.beta / all as f64) as f32;
            judgement.coefficients.extend(log_probs.iter().map(|_| coefficient));
        }
        Ok(judgement)
    }
}

/// Completions that are good where their first token is even.
fn texts() -> Vec<Labelled> {
    let one = |i: usize| {
        let first = 4 + (i * 7 % 16) as u32;
        let completion = vec![first, 4 + (i * 5 % 16) as u32, 2];
        Labelled { prompt: vec![1, 3], completion, good: first.is_multiple_of(2), row: i + 1 }
    };
    (0..64).map(one).collect()
}

/// Trains a small random model; gives the metrics of the first step and of the last.
fn train(device: &Device) -> Result<[serde_json::Map<String, serde_json::Value>; 2], Box<dyn Error>> {
    let config = json!({
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
        "num_hidden_layers": 2, "vocab_size": 20, "max_position_embeddings": 16
    });
    let config = ModelConfig::from_value(&config, std::path::Path::new("config.json"))?;
    let settings = Settings {
        learning_rate: 1e-2,
        per_device_train_batch_size: 16,
        num_train_epochs: 20.0,
        logging_steps: 1,
        ..Settings::default()
    };
    let policy = Decoder::random(config, 1, device);
    let mut trainer = Trainer::<Labels>::new(policy, Labels { beta: 0.5 }, settings, texts(), None)?;
    let mut lines = Vec::new();
    trainer.run(&mut |event| {
        if let Event::Metrics(line) = event {
            lines.push(line.clone());
        }
        Ok(())
    })?;
    let last = lines.pop().ok_or("no step was taken")?;
    Ok([lines.swap_remove(0), last])
}

fn main() -> Result<(), Box<dyn Error>> {
    let backend = Backend::preferred().ok_or("no backend is usable")?;
    let [first, last] = train(&(backend.open)(0))?;
    for line in [first, last] {
        println!(
            "step {}: loss {:.4}, {:.0} % told apart",
            line["step"],
            line["loss"],
            100.0 * line["accuracies"].as_f64().unwrap_or(0.0)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_at_ln_2_and_tells_good_from_bad() {
        for backend in Backend::all().into_iter().filter(|b| (b.devices)().is_ok()) {
            let [first, last] = train(&(backend.open)(0)).unwrap();
            assert!((first["loss"].as_f64().unwrap() - std::f64::consts::LN_2).abs() < 1e-6, "{}", backend.name);
            assert_eq!(last["accuracies"].as_f64(), Some(1.0), "{}", backend.name);
            assert!(last["loss"].as_f64().unwrap() < 0.1, "{}", backend.name);
        }
    }
}
