//! The loss and the gradients of one step, by the ways it can go about it, on every usable backend:
//! `cargo bench --bench engine`.

mod common;

use std::fmt::{Display, Formatter};

use collimate::backend::Backend;
use collimate::core::objective::Method;
use collimate::model::Decoder;
use collimate::train::{Preference, Settings, loss_and_gradients};
use common::{config, pairs, tokens};
use divan::Bencher;
use divan::counter::ItemsCount;
use serde_json::Map;

/// What the command has too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Way = fn(&mut Settings);

const WAYS: [(&str, Way); 4] = [
    ("default", |_| {}),
    ("prompts not shared", |s| s.prefix_sharing = false),
    ("layers recomputed", |s| s.gradient_checkpointing = true),
    ("micro-batches of one", |s| s.per_device_train_batch_size = 1),
];

struct Case {
    backend: &'static Backend,
    name: &'static str,
    way: Way,
}

impl Display for Case {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.backend.name, self.name)
    }
}

fn cases() -> Vec<Case> {
    let usable = Backend::all().into_iter().filter(|b| (b.devices)().is_ok());
    usable.flat_map(|backend| WAYS.map(|(name, way)| Case { backend, name, way })).collect()
}

/// Items are tokens, the prompt counted for each completion.
#[divan::bench(args = cases(), sample_count = 10)]
fn step(bencher: Bencher<'_, '_>, case: &Case) {
    // Without a reference, as a step is once the reference's scores are kept.
    let objective = Method::find("simpo").and_then(|m| m.objective(&Map::new())).expect("a named method");
    let (objective, pairs, mut settings) = (Preference(objective), pairs(), Settings::default());
    (case.way)(&mut settings);
    let policy = Decoder::random(config(), 1, &(case.backend.open)(0));
    bencher
        .counter(ItemsCount::new(tokens(&pairs)))
        .bench_local(|| loss_and_gradients(&policy, &policy, &objective, &pairs, &settings).expect("a valid batch"));
}

fn main() {
    divan::main();
}
