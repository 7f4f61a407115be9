//! One training step of one model on one batch, on every usable backend in turn: `cargo bench --bench backends`, with
//! `-- 30` for thirty rounds instead of ten, and `--features libtorch` for more backends.
//!
//! The backends take turns within a round, so that a machine that slows down slows all of them.

mod common;

use std::time::Instant;

use burn::tensor::Device;
use collimate::backend::Backend;
use collimate::core::objective::Method;
use collimate::model::{AdamW, Decoder, Moments};
use collimate::train::{Preference, Settings, loss_and_gradients};
use common::{config, pairs, tokens};
use serde_json::Map;

/// What a run has too: see the `collimate` command.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Lane {
    name: &'static str,
    device: Device,
    policy: Decoder,
    moments: Moments,
    seconds: Vec<f64>,
    loss: f64,
}

fn main() {
    // Cargo's own flags, such as --bench, are not ours.
    let rounds = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(10usize).max(1);
    // Without a reference, as a step is once the reference's scores are kept.
    let objective = Preference(Method::find("simpo").and_then(|m| m.objective(&Map::new())).expect("a named method"));
    let adamw = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
    let (settings, pairs) = (Settings::default(), pairs());
    let tokens = tokens(&pairs);
    let mut lanes = Vec::new();
    for b in Backend::all() {
        match (b.devices)() {
            Err(why) => println!("skipped: backend {}: {why}", b.name),
            Ok(_) => {
                let device = (b.open)(0);
                let policy = Decoder::random(config(), 1, &device);
                let moments = Moments::new(&policy);
                lanes.push(Lane { name: b.name, device, policy, moments, seconds: Vec::new(), loss: 0.0 });
            }
        }
    }
    // The first round warms up and is not counted.
    for round in 0..=rounds {
        for lane in &mut lanes {
            let start = Instant::now();
            let (loss, gradients) =
                loss_and_gradients(&lane.policy, &lane.policy, &objective, &pairs, &settings).expect("a valid batch");
            adamw.step(&mut lane.policy, &mut lane.moments, gradients, 1e-5, 1.0);
            lane.device.sync().expect("the device answers");
            if round > 0 {
                lane.seconds.push(start.elapsed().as_secs_f64());
            }
            lane.loss = loss;
        }
    }
    let default = Backend::preferred().map(|b| b.name);
    let median = |lane: &Lane| {
        let mut sorted = lane.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    };
    let base = lanes.iter().find(|l| Some(l.name) == default).map(median).expect("a default backend");
    println!("5 M parameters, {} pairs, {tokens} tokens a step, medians of {rounds} steps", pairs.len());
    println!("{:<14} {:>8} {:>10} {:>18} {:>12}", "backend", "s/step", "tokens/s", "time / default's", "last loss");
    for lane in &lanes {
        let s = median(lane);
        println!("{:<14} {s:>8.4} {:>10.0} {:>18.2} {:>12.6}", lane.name, tokens as f64 / s, s / base, lane.loss);
    }
}
