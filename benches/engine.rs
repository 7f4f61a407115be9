//! The log-prob engine, by the ways it can go about a step: `cargo bench --bench engine`.

mod common;

use collimate::backend::Backend;
use collimate::core::objective::Method;
use collimate::model::Decoder;
use collimate::train::{Preference, Settings, loss_and_gradients};
use common::{config, pairs, tokens};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde_json::Map;

/// What the command has too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn step(c: &mut Criterion) {
    // Without a reference, as a step is once the reference's scores are kept.
    let objective = Preference(Method::find("simpo").and_then(|m| m.objective(&Map::new())).expect("a named method"));
    let pairs = pairs();
    let tokens = tokens(&pairs);
    type Way = fn(&mut Settings);
    let ways: [(&str, Way); 4] = [
        ("default", |_| {}),
        ("prompts not shared", |s| s.prefix_sharing = false),
        ("layers recomputed", |s| s.gradient_checkpointing = true),
        ("micro-batches of one", |s| s.per_device_train_batch_size = 1),
    ];
    for backend in Backend::all().into_iter().filter(|b| (b.devices)().is_ok()) {
        let device = (backend.open)(0);
        let policy = Decoder::random(config(), 1, &device);
        let mut group = c.benchmark_group(format!("loss and gradients on {}", backend.name));
        group.sample_size(10).throughput(Throughput::Elements(tokens as u64));
        for (name, way) in ways {
            let mut settings = Settings::default();
            way(&mut settings);
            group.bench_function(BenchmarkId::from_parameter(name), |b| {
                b.iter(|| loss_and_gradients(&policy, &policy, &objective, &pairs, &settings).expect("a valid batch"));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, step);
criterion_main!(benches);
