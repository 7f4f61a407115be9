//! The log-prob engine, by the ways it can go about a step: `cargo bench --bench engine`.

use collimate::backend::Backend;
use collimate::core::objective::Method;
use collimate::data::Tokens;
use collimate::model::{Decoder, ModelConfig};
use collimate::train::{Settings, loss_and_gradients};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde_json::{Map, json};

/// A model of 5 M parameters: its head is a fifth of the work, as in larger models.
fn config() -> ModelConfig {
    let table = json!({
        "model_type": "llama", "hidden_size": 256, "intermediate_size": 688, "num_attention_heads": 4,
        "num_key_value_heads": 2, "num_hidden_layers": 4, "vocab_size": 4096, "max_position_embeddings": 1024
    });
    ModelConfig::from_value(&table, std::path::Path::new("config.json")).expect("a valid configuration")
}

/// Pairs as preference data has them: a prompt that is longer than its completions.
fn pairs() -> Vec<Tokens> {
    let text = |from: usize, n: usize| (0..n).map(|k| ((from * 131 + k * 17) % 4096) as u32).collect::<Vec<_>>();
    let pair = |i: usize| Tokens {
        prompt: text(i, 100 + i * 37 % 120),
        chosen: text(i + 50, 40 + i * 13 % 60),
        rejected: text(i + 90, 20 + i * 29 % 60),
        chosen_mask: None,
        rejected_mask: None,
        key: i as u64,
        file: 0,
        row: i + 1,
    };
    (0..8).map(pair).collect()
}

fn step(c: &mut Criterion) {
    let objective = Method::find("averaged-dpo").and_then(|m| m.objective(&Map::new())).expect("a named method");
    let pairs = pairs();
    let tokens: usize = pairs.iter().map(|p| 2 * p.prompt.len() + p.chosen.len() + p.rejected.len()).sum();
    type Way = fn(&mut Settings);
    let ways: [(&str, Way); 4] = [
        ("default", |_| {}),
        ("prompts not shared", |s| s.prefix_sharing = false),
        ("layers recomputed", |s| s.gradient_checkpointing = true),
        ("micro-batches of one", |s| s.per_device_train_batch_size = 1),
    ];
    for backend in Backend::all().into_iter().filter(|b| (b.devices)().is_ok()) {
        let device = (backend.open)(0);
        let (policy, reference) = (Decoder::random(config(), 1, &device), Decoder::random(config(), 2, &device));
        let mut group = c.benchmark_group(format!("loss and gradients on {}", backend.name));
        group.sample_size(10).throughput(Throughput::Elements(tokens as u64));
        for (name, way) in ways {
            let mut settings = Settings::default();
            way(&mut settings);
            group.bench_function(BenchmarkId::from_parameter(name), |b| {
                b.iter(|| {
                    loss_and_gradients(&policy, &reference, &objective, &pairs, &settings).expect("a valid batch")
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, step);
criterion_main!(benches);
