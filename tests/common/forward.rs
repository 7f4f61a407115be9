//! The logits and greedy tokens of a case of reference material, and a checkpoint's own.
#![allow(dead_code)]

use std::path::Path;

use burn::tensor::Device;
use collimate::model::{Checkpoint, Decoder, Generation, Layout, Options, Sampling, Text};
use libtest_mimic::Failed;
use serde_json::Value;

/// Of the largest |logit|.
pub const TOLERANCE: f64 = 1e-4;

// ---- The model, as it is asked here ---------------------------------------------------------------------------------

pub fn load(folder: &Path, device: &Device) -> Result<Decoder, Failed> {
    Ok(Decoder::load(&Checkpoint::open(folder)?, device)?)
}

/// ln π(v | text) for every v of the vocabulary, for each of `texts`.
fn next(decoder: &Decoder, texts: &[&[u32]]) -> Result<Vec<Vec<f64>>, Failed> {
    let vocabulary: Vec<u32> = (0..decoder.config().vocab_size as u32).collect();
    let every: Vec<_> = vocabulary.chunks(1).map(Text::whole).collect();
    let mut layout = Layout::default();
    for text in texts {
        layout.push(text, &every, true)?;
    }
    let scores = decoder.score(&layout, Options::default())?.log_probs;
    Ok(scores.chunks(every.len()).map(|row| row.iter().map(|p| f64::from(*p)).collect()).collect())
}

/// ln π of each token behind the first, from one pass over the text.
fn along(decoder: &Decoder, text: &[u32]) -> Result<Vec<f64>, Failed> {
    let mut layout = Layout::default();
    layout.push(&text[..1], &[Text::whole(&text[1..])], false)?;
    Ok(decoder.score(&layout, Options::default())?.log_probs.into_iter().map(f64::from).collect())
}

/// The likeliest tokens behind a prompt, its keys and values kept.
fn cached(decoder: &Decoder, prompt: &[u32], n: usize) -> Result<Vec<u32>, Failed> {
    let mut text = Generation::start(decoder, prompt, Sampling::default())?;
    Ok((0..n).map_while(|_| text.step().transpose()).collect::<Result<_, _>>()?)
}

// ---- What is compared -----------------------------------------------------------------------------------------------

pub struct Case {
    /// A checkpoint folder, made of the case's config.json and weights.
    pub folder: tempfile::TempDir,
    /// Tokens, and for each the logits that follow it, less their log-sum-exp.
    sequences: Vec<(Vec<u32>, Vec<Vec<f64>>)>,
    largest: f64,
    prompt: Vec<u32>,
    greedy: Vec<u32>,
}

impl Case {
    pub fn read(path: &Path) -> Self {
        let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        crate::golden::seeded_checkpoint(folder.path(), &golden["config"], &golden["shapes"]);
        let row = |v: &Value| -> Vec<f64> { v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect() };
        let sequences = golden["sequences"].as_array().unwrap().iter();
        let sequences: Vec<(_, Vec<Vec<f64>>)> = sequences
            .map(|s| (crate::golden::ids(&s["tokens"]), s["logits"].as_array().unwrap().iter().map(row).collect()))
            .collect();
        let largest = sequences.iter().flat_map(|s| s.1.iter().flatten()).fold(0.0, |m: f64, x| m.max(x.abs()));
        let sequences = sequences.into_iter().map(|(t, rows)| (t, rows.into_iter().map(log_softmax).collect()));
        let ids = |key: &str| crate::golden::ids(&golden["greedy"][key]);
        Self { folder, sequences: sequences.collect(), largest, prompt: ids("prompt"), greedy: ids("tokens") }
    }

    /// How far the logits are off, of the largest of them.
    pub fn logits(&self, device: &Device) -> Result<f64, Failed> {
        let decoder = load(self.folder.path(), device)?;
        let mut worst: (f64, String) = (0.0, String::new());
        let mut compare = |got: f64, expected: f64, what: &dyn Fn() -> String| {
            let off = (got - expected).abs() / self.largest;
            if off.is_nan() || off > worst.0 {
                worst = (if off.is_nan() { f64::INFINITY } else { off }, format!("{}: {got}, not {expected}", what()));
            }
        };
        // All prefixes of all sequences in one batch, so that short and long rows lie side by side.
        let prefixes: Vec<&[u32]> =
            self.sequences.iter().flat_map(|(tokens, _)| (1..=tokens.len()).map(|n| &tokens[..n])).collect();
        let wanted: Vec<&Vec<f64>> = self.sequences.iter().flat_map(|(_, rows)| rows).collect();
        let got = next(&decoder, &prefixes)?;
        assert_eq!(got.len(), wanted.len());
        for ((prefix, got), wanted) in prefixes.iter().zip(&got).zip(&wanted) {
            assert_eq!(got.len(), wanted.len());
            for (v, (got, wanted)) in got.iter().zip(*wanted).enumerate() {
                compare(*got, *wanted, &|| format!("ln π of token {v} behind {} tokens", prefix.len()));
            }
        }
        for (tokens, rows) in &self.sequences {
            for (i, got) in along(&decoder, tokens)?.into_iter().enumerate() {
                compare(got, rows[i][tokens[i + 1] as usize], &|| format!("ln π of the sequence's token {}", i + 1));
            }
        }
        match worst {
            (off, what) if off > TOLERANCE => Err(format!("off by {off:.2e} of the largest logit: {what}").into()),
            (off, _) => Ok(off),
        }
    }

    pub fn tokens(&self, device: &Device) -> Result<(), Failed> {
        let decoder = load(self.folder.path(), device)?;
        let mut text = self.prompt.clone();
        for _ in &self.greedy {
            let scores = next(&decoder, &[&text])?.remove(0);
            let best = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).expect("a vocabulary");
            text.push(best as u32);
        }
        let kept = cached(&decoder, &self.prompt, self.greedy.len())?;
        for (what, got) in [("without a cache", &text[self.prompt.len()..]), ("with a cache", &kept[..])] {
            if got != self.greedy {
                return Err(format!("{what}: {got:?}, not {:?}", self.greedy).into());
            }
        }
        Ok(())
    }
}

/// ln softmax.
fn log_softmax(logits: Vec<f64>) -> Vec<f64> {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = top + logits.iter().map(|x| (x - top).exp()).sum::<f64>().ln();
    logits.into_iter().map(|x| x - log_sum).collect()
}
