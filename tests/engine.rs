//! How a step is computed changes neither its loss nor its gradient, whatever the method: one test for each method,
//! backend and way of computing; and one for each method and backend against the hand-made kernels, which pack rows where
//! tensor operations pad them.

mod common;

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use collimate::core::objective::Method;
use collimate::data::Tokens;
use collimate::model::{Decoder, Grads, ModelConfig, Tensors};
use collimate::train::{Preference, Settings, loss_and_gradients};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Map, json};

type Way = fn(&mut Settings);

/// The ways, each against the plainest: all pairs at once, every completion with its prompt, everything stored, the
/// head in one piece.
const WAYS: [(&str, Way); 7] = [
    ("shared prompts", |s| s.prefix_sharing = true),
    ("micro-batches of one", |s| s.per_device_train_batch_size = 1),
    ("micro-batches of three", |s| s.per_device_train_batch_size = 3),
    ("at most 40 tokens", |s| s.max_tokens_per_batch = Some(40)),
    ("layers recomputed", |s| s.gradient_checkpointing = true),
    ("head one token at a time", |s| s.logits_chunk = 1),
    ("all together", |s| {
        s.prefix_sharing = true;
        s.per_device_train_batch_size = 2;
        s.max_tokens_per_batch = Some(30);
        s.gradient_checkpointing = true;
        s.logits_chunk = 7 * 40;
    }),
];

fn plainest() -> Settings {
    Settings { prefix_sharing: false, per_device_train_batch_size: 64, logits_chunk: 1 << 20, ..Settings::default() }
}

fn model(seed: u64, device: &Device) -> Decoder {
    let table = json!({
        "model_type": "qwen3", "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "head_dim": 6,
        "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 40, "max_position_embeddings": 64
    });
    let config = ModelConfig::from_value(&table, std::path::Path::new("config.json")).unwrap();
    let random = Decoder::random(config.clone(), seed, device);
    // Wide enough that policy and reference differ by more than rounding.
    let wide = random
        .specs()
        .iter()
        .zip(&random.parameters().0)
        .map(|(spec, t)| t.clone() * if spec.name.contains("norm") { 1.0 } else { 5.0 });
    Decoder::new(config, Tensors(wide.collect()), device)
}

fn pairs() -> Vec<Tokens> {
    let text =
        |from: usize, n: usize| (0..n).map(|k| (3 + (from * 11 + k * k * 7 + k) % 37) as u32).collect::<Vec<_>>();
    let pair = |i: usize| Tokens {
        prompt: text(i, 1 + i * 5 % 9),
        chosen: text(i + 20, 2 + i * 3 % 7),
        rejected: text(i + 40, 1 + i * 4 % 6),
        chosen_mask: (i == 3).then(|| (0..2 + i * 3 % 7).map(|k| k > 0).collect()),
        rejected_mask: None,
        key: i as u64,
        file: 0,
        row: i + 1,
    };
    (0..7).map(pair).collect()
}

fn host(g: &Grads) -> Vec<Vec<f32>> {
    let one =
        |t: &Option<Tensor<2>>| t.as_ref().expect("every parameter has a gradient").to_data().try_to_vec().unwrap();
    g.all().iter().map(one).collect()
}

struct Bench {
    policy: Decoder,
    reference: Decoder,
    pairs: Vec<Tokens>,
}

impl Bench {
    fn run(&self, objective: &Preference, s: &Settings) -> Result<(f64, Vec<Vec<f32>>), Failed> {
        let (loss, gradients) =
            loss_and_gradients(&self.policy, &self.reference, objective, &self.pairs, s).map_err(|e| e.to_string())?;
        Ok((loss, host(&gradients)))
    }
}

/// The same loss, and the same gradients within 1e-5 of the largest.
fn compare((loss, gradients): (f64, Vec<Vec<f32>>), (other_loss, other): (f64, Vec<Vec<f32>>)) -> Result<(), Failed> {
    if (loss - other_loss).abs() > 1e-5 * loss.abs().max(1e-3) {
        return Err(format!("the loss is {other_loss}, not {loss}").into());
    }
    let largest = gradients.iter().flatten().fold(0f32, |m, g| m.max(g.abs()));
    for (i, (g, o)) in gradients.iter().zip(&other).enumerate() {
        let worst = g.iter().zip(o).map(|(g, o)| (g - o).abs()).fold(0f32, f32::max);
        if worst > 1e-5 * largest {
            return Err(format!("parameter {i}: gradients differ by {worst}, the largest is {largest}").into());
        }
    }
    Ok(())
}

fn trial(
    bench: &Arc<Bench>,
    backend: &str,
    name: &str,
    objective: &Arc<Preference>,
    (what, way): (&str, Way),
) -> Trial {
    let (bench, objective) = (bench.clone(), objective.clone());
    Trial::test(format!("{backend}::{name}::{what}"), move || {
        let mut settings = plainest();
        let plain = bench.run(&objective, &settings)?;
        way(&mut settings);
        compare(plain, bench.run(&objective, &settings)?)
    })
}

/// Tensor operations, which pad the rows of a batch side by side, against the kernels, which don't.
fn against_kernels(
    kernels: &Arc<Bench>,
    bench: &Arc<Bench>,
    backend: &str,
    name: &str,
    objective: &Arc<Preference>,
) -> Trial {
    let (kernels, bench, objective) = (kernels.clone(), bench.clone(), objective.clone());
    Trial::test(format!("{backend}::{name}::against kernels"), move || {
        let settings = Settings { prefix_sharing: true, ..plainest() };
        compare(kernels.run(&objective, &settings)?, bench.run(&objective, &settings)?)
    })
}

fn main() {
    let mut trials = Vec::new();
    let on =
        |device: &Device| Arc::new(Bench { policy: model(1, device), reference: model(2, device), pairs: pairs() });
    // Against whatever backend here has hand-made kernels, where there is one.
    let kernels = common::devices().into_iter().map(|(_, device)| on(&device)).find(|b| b.policy.has_kernels());
    for (backend, device) in common::devices() {
        let bench = on(&device);
        for method in Method::all() {
            let objective = Arc::new(Preference(method.objective(&Map::new()).expect("a method's own defaults")));
            trials.extend(WAYS.map(|way| trial(&bench, backend, method.name, &objective, way)));
            if let Some(kernels) = kernels.as_ref().filter(|_| !bench.policy.has_kernels()) {
                trials.push(against_kernels(kernels, &bench, backend, method.name, &objective));
            }
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
