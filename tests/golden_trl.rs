//! Training runs of another implementation, replayed step by step on every backend.

mod common;
#[path = "common/golden.rs"]
mod golden;

use std::io::Write;
use std::sync::Arc;

use burn::tensor::Device;
use collimate::core::{Objective, trl};
use collimate::data::{Options as DataOptions, Source, Tokenizer};
use collimate::model::{Checkpoint, Decoder, Layout, Options, Precision, Text};
use collimate::train::{Event, Part, Preference, Schedule, Settings, Trainer};
use libtest_mimic::Arguments;
use serde_json::{Map, Value, json};

/// The reference's texts, its first run, and the model.
fn first_golden() -> (Value, Checkpoint, Tokenizer) {
    let folder = golden::fixture("stories260k-hf");
    let golden = json("golden-trl/shared_trl_dpo_stories260k.json");
    (golden, Checkpoint::open(&folder).unwrap(), Tokenizer::from_folder(&folder).unwrap())
}

fn json(fixture: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden::fixture(fixture)).unwrap()).unwrap()
}

/// The texts of the reference run as the file that a user would have.
fn file(golden: &Value) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".jsonl").tempfile().unwrap();
    for example in golden["examples"].as_array().unwrap() {
        writeln!(file, "{}", example["text"]).unwrap();
    }
    file
}

fn data(golden: &Value, tokenizer: &Tokenizer) -> collimate::data::Dataset {
    let file = file(golden);
    let sources = [Source::from(file.path())];
    collimate::data::load(&sources, tokenizer, &DataOptions::default()).unwrap().0
}

fn token_ids_are_equal() {
    let (golden, _, tokenizer) = first_golden();
    let data = data(&golden, &tokenizer);
    let examples = golden["examples"].as_array().unwrap();
    assert_eq!(data.len(), 16);
    for (i, e) in examples.iter().enumerate() {
        let t = data.get(i);
        assert_eq!(t.prompt, golden::ids(&e["prompt_ids"]), "prompt {i}");
        assert_eq!(t.chosen, golden::ids(&e["chosen_ids"]), "chosen {i}");
        assert_eq!(t.rejected, golden::ids(&e["rejected_ids"]), "rejected {i}");
    }
}

fn log_probs_are_within_a_thousandth() {
    let (golden, checkpoint, tokenizer) = first_golden();
    let data = data(&golden, &tokenizer);
    for (name, device) in common::devices() {
        let decoder = Decoder::load(&checkpoint, &device).unwrap();
        for share in [true, false] {
            let mut layout = Layout::default();
            for t in data.iter() {
                layout.push(&t.prompt, &[Text::whole(&t.chosen), Text::whole(&t.rejected)], share).unwrap();
            }
            let scores = decoder.score(&layout, Options::default()).unwrap();
            let expected = golden["examples"].as_array().unwrap().iter();
            let expected = expected.flat_map(|e| [&e["chosen_logp"], &e["rejected_logp"]].map(|v| v.as_f64().unwrap()));
            for (range, expected) in layout.completions.iter().zip(expected) {
                let got: f64 = scores.log_probs[range.clone()].iter().map(|p| f64::from(*p)).sum();
                assert!((got - expected).abs() < 1e-3, "{name}, share {share}: {got} is not {expected}");
            }
        }
    }
}

/// A run of the reference: TRL's keys of the loss, its settings, and what it said at each step.
struct Run {
    loss: Map<String, Value>,
    settings: Settings,
    steps: Vec<Value>,
}

impl Run {
    fn objective(&self) -> Objective {
        trl::objective(&self.loss).unwrap()
    }

    /// The first run: full batches at a constant rate.
    fn first(run: &Value) -> Self {
        let keys = ["loss_type", "beta", "label_smoothing"].map(|k| (k.to_owned(), run[k].clone()));
        let settings = Settings {
            learning_rate: 2e-5,
            lr_scheduler_type: Schedule::Constant,
            per_device_train_batch_size: 16,
            max_steps: 8,
            max_grad_norm: 0.0,
            ..Settings::default()
        };
        Self { loss: Map::from_iter(keys), settings, steps: run["steps"].as_array().unwrap().clone() }
    }

    /// One of curves.json, which names every setting.
    fn curve(run: &Value) -> Self {
        let settings = serde_json::from_value(run["settings"].clone()).unwrap();
        let loss = run["loss"].as_object().unwrap().clone();
        Self { loss, settings, steps: run["steps"].as_array().unwrap().clone() }
    }
}

/// Trains as `run` says, with `more` changed, and returns the metrics of each step.
fn replay(
    golden: &Value,
    run: &Run,
    checkpoint: &Checkpoint,
    tokenizer: &Tokenizer,
    device: &Device,
    more: &dyn Fn(&mut Settings),
) -> Vec<Map<String, Value>> {
    let mut settings = Settings { logging_steps: 1, shuffle: false, ..run.settings.clone() };
    more(&mut settings);
    let policy = Decoder::load(checkpoint, device).unwrap();
    let train = Part::whole(data(golden, tokenizer));
    let mut trainer = Trainer::<Preference>::new(policy, run.objective(), settings, train, None).unwrap();
    let mut lines = Vec::new();
    trainer
        .run(&mut |event| {
            if let Event::Metrics(line) = event {
                lines.push(line.clone());
            }
            Ok(())
        })
        .unwrap();
    lines
}

/// Loss within 1e-4 relative, gradient norm within 1e-3 relative, and what is reported beside them.
fn assert_steps(got: &[Map<String, Value>], run: &Run, what: &str) {
    assert_eq!(got.len(), run.steps.len(), "{what}");
    // TRL's rewards are β times the summed log-ratio whatever is optimised, here they are the objective's; under ld_alpha
    // its logps are the weighted sums, here they are the plain ones.
    let objective = run.objective().to_value();
    let same_logps = objective["averaging"]["type"] != "length_desensitised";
    let same_rewards = objective["averaging"]["type"] == "sum" && objective["optimality"]["type"] == "reverse_kl";
    for (got, expected) in got.iter().zip(&run.steps) {
        let step = expected["step"].as_u64().unwrap();
        assert_eq!(got["step"], json!(step));
        assert_eq!(got["num_tokens"].as_f64(), expected["num_tokens"].as_f64(), "{what}, step {step}");
        let number = |v: &Value| v.as_f64().unwrap();
        let logps = if same_logps { &["logps/chosen", "logps/rejected"][..] } else { &[] };
        let keys = [("loss", 1e-4), ("grad_norm", 1e-3)].into_iter().chain(logps.iter().map(|key| (*key, 1e-4)));
        for (key, tolerance) in keys {
            let (g, e) = (number(&got[key]), number(&expected[key]));
            assert!((g - e).abs() <= tolerance * e.abs(), "{what}, step {step}: {key} {g} is not {e}");
        }
        if !same_rewards {
            continue;
        }
        for key in ["rewards/chosen", "rewards/rejected", "rewards/margins"] {
            let (g, e) = (number(&got[key]), number(&expected[key]));
            assert!((g - e).abs() < 2e-3 * e.abs().max(0.1), "{what}, step {step}: {key} {g} is not {e}");
        }
        // Before the first change every margin is 0, and rounding decides which are counted.
        if number(&expected["rewards/margins"]).abs() > 1e-3 {
            assert_eq!(
                number(&got["rewards/accuracies"]),
                number(&expected["rewards/accuracies"]),
                "{what}, step {step}"
            );
        }
    }
}

fn every_run_is_replayed_on_every_backend_with_one_result() {
    let (golden, checkpoint, tokenizer) = first_golden();
    for (name, run) in golden["runs"].as_object().unwrap() {
        let run = Run::first(run);
        let losses = |lines: &[Value]| -> Vec<f64> { lines.iter().map(|l| l["loss"].as_f64().unwrap()).collect() };
        let mut columns = vec![("TRL", losses(&run.steps))];
        for (backend, device) in common::devices() {
            let lines = replay(&golden, &run, &checkpoint, &tokenizer, &device, &|_| {});
            assert_steps(&lines, &run, &format!("{name} on {backend}"));
            columns.push((backend, losses(&lines.into_iter().map(Value::Object).collect::<Vec<_>>())));
        }
        for (one, other) in (1..columns.len()).flat_map(|i| (1..i).map(move |k| (i, k))) {
            assert_one_result(&columns[one], &columns[other], name);
        }
        if name == "sigmoid_b0.1" {
            assert_on_page(&columns);
        }
    }
}

/// Losses of two columns, within 1e-4 relative step by step.
fn assert_one_result((one, a): &(&str, Vec<f64>), (other, b): &(&str, Vec<f64>), what: &str) {
    assert_eq!(a.len(), b.len(), "{what}: {one} and {other}");
    for (step, (a, b)) in a.iter().zip(b).enumerate() {
        let off = (a - b).abs();
        assert!(off <= 1e-4 * b.abs(), "{what}, step {}: {a} on {one}, {b} on {other}", step + 1);
    }
}

/// The page's table of losses is what was measured, in every column that was measured here.
fn assert_on_page(measured: &[(&str, Vec<f64>)]) {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/src/backends.md")).unwrap();
    let rows: Vec<Vec<&str>> = page
        .lines()
        .skip_while(|l| !l.starts_with("| step |"))
        .take_while(|l| l.starts_with('|'))
        .map(|l| l.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect())
        .collect();
    let table: Vec<String> = (0..measured[0].1.len())
        .map(|i| {
            let losses: Vec<_> = measured.iter().map(|(_, l)| format!("{:.7}", l[i])).collect();
            format!("| {} | {} |", i + 1, losses.join(" | "))
        })
        .collect();
    let table = format!("{:?}\n{}", measured.iter().map(|(name, _)| *name).collect::<Vec<_>>(), table.join("\n"));
    assert_eq!(rows.len(), 2 + measured[0].1.len(), "docs/src/backends.md has no table of losses like\n{table}");
    for column in ["TRL", "flex", "ndarray", "libtorch"] {
        assert!(rows[0].contains(&column), "docs/src/backends.md has no losses on {column}");
    }
    for (name, losses) in measured {
        let Some(column) = rows[0].iter().position(|head| head == name) else { continue };
        let said = rows[2..].iter().map(|row| row[column].parse().unwrap()).collect::<Vec<f64>>();
        assert_one_result(&("the page", said), &(*name, losses.clone()), &table);
    }
}

fn fewer_bits_stay_near() {
    let (golden, checkpoint, tokenizer) = first_golden();
    let run = Run::first(&golden["runs"]["sigmoid_b0.1"]);
    type Way = fn(&mut Settings);
    // Two steps: the second is the first whose margins are not 0.
    let ways: [(&str, Precision, Way); 2] = [
        ("bf16", Precision::Bf16, |s| (s.bf16, s.max_steps) = (true, 2)),
        ("fp16", Precision::F16, |s| (s.fp16, s.max_steps) = (true, 2)),
    ];
    for (backend, device) in common::devices() {
        for (what, precision, way) in ways {
            if let Err(why) = precision.check(&device) {
                eprintln!("skipped: {what} on {backend}: {why}");
                continue;
            }
            let lines = replay(&golden, &run, &checkpoint, &tokenizer, &device, &way);
            assert_eq!(lines.len(), 2);
            // In roundings. A score is a sum of some hundred log-probabilities, so a margin is off by some tenths of a nat
            // in bf16, and by an eighth of that in f16: the loss of step 2 sees β times that, the loss of step 1 nothing.
            let allowed = [
                [("loss", 1e-3), ("grad_norm", 0.5), ("logps/chosen", 0.25)],
                [("loss", 16.0), ("grad_norm", 24.0), ("logps/chosen", 0.25)],
            ];
            for ((got, expected), allowed) in lines.iter().zip(&run.steps).zip(allowed) {
                for (key, roundings) in allowed {
                    let (g, e) = (got[key].as_f64().unwrap(), expected[key].as_f64().unwrap());
                    let off = (g - e).abs() / e.abs() / precision.epsilon();
                    assert!(off < roundings, "{what} on {backend}: {key} {g} is not {e} ({off} roundings)");
                }
            }
        }
    }
}

fn how_it_is_computed_changes_nothing() {
    let (golden, checkpoint, tokenizer) = first_golden();
    let run = Run::first(&golden["runs"]["sigmoid_b0.1"]);
    type Way = fn(&mut Settings);
    let ways: [(&str, Way); 5] = [
        ("micro-batches of 4", |s| (s.per_device_train_batch_size, s.gradient_accumulation_steps) = (4, 4)),
        ("micro-batches of 3 and 1000 tokens", |s| {
            (s.per_device_train_batch_size, s.gradient_accumulation_steps, s.max_tokens_per_batch) = (8, 2, Some(1000))
        }),
        ("prompts not shared", |s| s.prefix_sharing = false),
        ("layers recomputed", |s| s.gradient_checkpointing = true),
        ("head in chunks of 37 tokens", |s| s.logits_chunk = 37 * 512),
    ];
    let (_, device) = common::devices().remove(0);
    for (what, way) in ways {
        let lines = replay(&golden, &run, &checkpoint, &tokenizer, &device, &way);
        assert_steps(&lines, &run, what);
    }
}

/// The runs of curves.json, whose models are stories260k-hf, or seeded ones with its tokenizer.
struct Curves {
    golden: Value,
    curves: Value,
    tokenizer: Tokenizer,
    models: Map<String, Value>,
}

impl Curves {
    fn read() -> Self {
        let (golden, _, tokenizer) = first_golden();
        let curves = json("golden-trl/curves.json");
        let models = curves["models"].as_object().unwrap().clone();
        Self { golden, curves, tokenizer, models }
    }

    fn replay(&self, name: &str, device: &Device) {
        let run = &self.curves["runs"][name];
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = match self.models.get(run["model"].as_str().unwrap()) {
            Some(model) => {
                golden::seeded_checkpoint(folder.path(), &model["config"], &model["shapes"]);
                Checkpoint::open(folder.path())
            }
            None => Checkpoint::open(&golden::fixture("stories260k-hf")),
        };
        let run = Run::curve(run);
        let lines = replay(&self.golden, &run, &checkpoint.unwrap(), &self.tokenizer, device, &|_| {});
        assert_steps(&lines, &run, name);
    }
}

/// The runs of lora.json: adapters that PEFT configures, beside stories260k-hf.
fn adapters_are_trained_as_with_peft(name: &str, device: &Device) {
    let (golden, _, tokenizer) = first_golden();
    let all = json("golden-trl/lora.json");
    let run = &all["runs"][name];
    let going_on = run["going_on"].as_bool().unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("adapter_config.json"), run["config"].to_string()).unwrap();
    let base = golden::fixture("stories260k-hf");
    let weights = std::fs::read(base.join("model.safetensors")).unwrap();
    let base_weights = safetensors::SafeTensors::deserialize(&weights).unwrap();
    // Where it is no part of an adapter, what is trained begins as it is in the base.
    let of_base = |name: &str| -> Vec<f32> {
        let t = base_weights.tensor(name).unwrap();
        t.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let norms = |w: &[f32], width: usize| -> Vec<f32> {
        w.chunks(width).map(|row| row.iter().map(|v| v * v).sum::<f32>().sqrt()).collect()
    };
    let tensors = run["shapes"].as_object().unwrap().iter().map(|(name, shape)| {
        let shape: Vec<usize> = golden::ids(shape).into_iter().map(|n| n as usize).collect();
        let n = shape.iter().product();
        let own = name.strip_prefix("base_model.model.").unwrap();
        let values: Vec<f32> = if name.contains("lora_A") {
            golden::seeded(name, n).map(|v| v * 0.2).collect()
        } else if name.contains("lora_B") {
            golden::seeded(name, n).map(|v| if going_on { v * 0.1 } else { 0.0 }).collect()
        } else if let Some(module) = own.strip_suffix(".lora_magnitude_vector") {
            let w = of_base(&format!("{module}.weight"));
            norms(&w, w.len() / n)
        } else {
            of_base(own)
        };
        (name.clone(), shape, values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>())
    });
    let tensors: Vec<_> = tensors.collect();
    let views = tensors
        .iter()
        .map(|(n, s, b)| (n, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, s.clone(), b).unwrap()));
    let file = folder.path().join("adapter_model.safetensors");
    std::fs::write(&file, safetensors::serialize(views, None).unwrap()).unwrap();
    let checkpoint = Checkpoint::open_with(folder.path(), Some(&base)).unwrap();
    let settings = serde_json::from_value(all["settings"].clone()).unwrap();
    let loss = Map::from_iter([("loss_type".to_owned(), json!("sigmoid")), ("beta".to_owned(), json!(0.1))]);
    let run = Run { loss, settings, steps: run["steps"].as_array().unwrap().clone() };
    let lines = replay(&golden, &run, &checkpoint, &tokenizer, device, &|_| {});
    assert_steps(&lines, &run, name);
}

fn main() {
    let arguments = Arguments::from_args();
    let tests: [(&str, fn()); 5] = [
        ("token_ids_are_equal", token_ids_are_equal),
        ("log_probs_are_within_a_thousandth", log_probs_are_within_a_thousandth),
        (
            "every_run_is_replayed_on_every_backend_with_one_result",
            every_run_is_replayed_on_every_backend_with_one_result,
        ),
        ("fewer_bits_stay_near", fewer_bits_stay_near),
        ("how_it_is_computed_changes_nothing", how_it_is_computed_changes_nothing),
    ];
    let mut trials = golden::trials(tests);
    let curves = Arc::new(Curves::read());
    for place in golden::places() {
        for name in curves.curves["runs"].as_object().unwrap().keys() {
            let (curves, name) = (curves.clone(), name.clone());
            trials.push(place.trial(&format!("curve::{name}"), move |device| {
                curves.replay(&name, device);
                Ok(())
            }));
        }
    }
    let lora = json("golden-trl/lora.json");
    for place in golden::places() {
        for name in lora["runs"].as_object().unwrap().keys() {
            let name = name.clone();
            trials.push(place.trial(&format!("lora::{name}"), move |device| {
                adapters_are_trained_as_with_peft(&name, device);
                Ok(())
            }));
        }
    }
    golden::run(&arguments, trials, "golden runs of TRL");
}
