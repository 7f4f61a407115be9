//! Runs of TRL's RewardTrainer and SFTTrainer, replayed step by step on every backend; and the folders of reward models.

#[path = "common/golden.rs"]
mod golden;

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use collimate::data::{Options as DataOptions, Source, Tokenizer, Tokens, load_lessons};
use collimate::model::{Checkpoint, Decoder, HeadKind, Options};
use collimate::train::{Event, Part, Rated, Reward, Settings, Supervised, Task, Trainer, Units};
use libtest_mimic::{Arguments, Trial};
use serde_json::{Map, Value, json};

fn json(fixture: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden::fixture(fixture)).unwrap()).unwrap()
}

/// The checkpoint of a run: stories260k-hf whose head is replaced by one of seeded weights, or seeded weights throughout.
fn decoder(goldens: &Value, model: &str, device: &Device) -> Decoder {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = match goldens["shapes"].get(model) {
        Some(shapes) => {
            golden::seeded_checkpoint(folder.path(), &goldens["configs"][model], shapes);
            Checkpoint::open(folder.path()).unwrap()
        }
        None => Checkpoint::open(&golden::fixture("stories260k-hf")).unwrap().with_value_head(1).unwrap(),
    };
    assert_eq!(checkpoint.config.head, HeadKind::Value);
    let mut tensors = checkpoint.load(device).unwrap();
    let score = checkpoint.inventory.find("score.weight").unwrap().index();
    let values: Vec<f32> = golden::seeded("score.weight", checkpoint.config.hidden_size).map(|x| x * 0.5).collect();
    let shape = tensors.0[score].dims();
    tensors.0[score] = burn::tensor::Tensor::from_data(burn::tensor::TensorData::new(values, shape), device);
    // What is written is what is read again, under transformers' names.
    let out = folder.path().join("saved");
    checkpoint.save(&tensors, &out).unwrap();
    Decoder::load(&Checkpoint::open(&out).unwrap(), device).unwrap()
}

/// The reference's pairs; a pair's prompt is what its completions begin with.
fn pairs(margins: Option<&Vec<Value>>) -> Vec<Rated> {
    let examples = json("golden-trl/shared_trl_dpo_stories260k.json");
    let examples = examples["examples"].as_array().unwrap();
    let one = |(i, e): (usize, &Value)| Rated {
        pair: Tokens {
            prompt: golden::ids(&e["prompt_ids"]),
            chosen: golden::ids(&e["chosen_ids"]),
            rejected: golden::ids(&e["rejected_ids"]),
            chosen_mask: None,
            rejected_mask: None,
            key: i as u64,
            file: 0,
            row: i + 1,
        },
        margin: margins.map(|m| m[i].as_f64().unwrap() as f32),
    };
    examples.iter().enumerate().map(one).collect()
}

/// The settings of a run, one line of metrics a step; and of them those that are the task's own.
fn settings(run: &Value, own: &[&str]) -> (Settings, Map<String, Value>) {
    let mut keys = run["settings"].as_object().unwrap().clone();
    let own = own.iter().filter_map(|k| keys.remove(*k).map(|v| ((*k).to_owned(), v))).collect();
    let settings: Settings = serde_json::from_value(Value::Object(keys)).unwrap();
    (Settings { logging_steps: 1, shuffle: false, ..settings }, own)
}

/// Trains, and holds each line of metrics to the run's: relative, with a tolerance for each key.
fn held_to<T: Task>(trainer: &mut Trainer<T>, name: &str, run: &Value, keys: &[(&str, f64)]) {
    let mut lines: Vec<Map<String, Value>> = Vec::new();
    trainer
        .run(&mut |event| {
            if let Event::Metrics(line) = event {
                lines.push(line.clone());
            }
            Ok(())
        })
        .unwrap();
    let steps = run["steps"].as_array().unwrap();
    assert_eq!(lines.len(), steps.len());
    for (got, expected) in lines.iter().zip(steps) {
        for (key, tolerance) in keys {
            let (g, e) = (got[*key].as_f64().unwrap(), expected[*key].as_f64().unwrap());
            // A reward is a sum of terms of the size of 1 that may cancel.
            let scale = if key.contains("reward") || *key == "margin" { e.abs().max(1.0) } else { e.abs() };
            assert!((g - e).abs() <= tolerance * scale, "{name}, step {}: {key} {g} is not {e}", expected["step"]);
        }
    }
}

/// Loss and rewards within 1e-4 of the reference's, relative; gradient norms within 1e-3.
fn replay_rewards(goldens: &Value, name: &str, device: &Device, share: bool) {
    let run = &goldens["runs"][name];
    let (settings, own) = settings(run, &["center_rewards_coefficient"]);
    let settings = Settings { prefix_sharing: share, ..settings };
    let policy = decoder(goldens, run["model"].as_str().unwrap(), device);
    let task: Reward = serde_json::from_value(Value::Object(own)).unwrap();
    let mut trainer = Trainer::<Reward>::new(policy, task, settings, pairs(run["margins"].as_array()), None).unwrap();
    let rewards = ["loss", "mean_reward", "min_reward", "max_reward", "margin"].map(|k| (k, 1e-4));
    let others = [("grad_norm", 1e-3), ("accuracy", 1e-9), ("num_tokens", 0.0)];
    held_to(&mut trainer, name, run, &[&rewards[..], &others].concat());
}

/// Supervised training from rows of text, as the command reads them.
fn replay_lessons(goldens: &Value, name: &str, device: &Device) {
    let run = &goldens["runs"][name];
    let texts = json("golden-trl/shared_trl_dpo_stories260k.json");
    let row = |e: &Value| {
        let (prompt, completion) = (e["text"]["prompt"].as_str().unwrap(), e["text"]["chosen"].as_str().unwrap());
        match run["whole"].as_bool().unwrap() {
            true => json!({"text": format!("{prompt}{completion}")}),
            false => json!({"prompt": prompt, "completion": completion}),
        }
    };
    let rows: String = texts["examples"].as_array().unwrap().iter().map(|e| format!("{}\n", row(e))).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("texts.jsonl");
    std::fs::write(&file, rows).unwrap();
    let model = golden::fixture("stories260k-hf");
    let options = DataOptions { completion_only_loss: run["completion_only_loss"].as_bool(), ..DataOptions::default() };
    let (lessons, _) = load_lessons(&[Source::from(file)], &Tokenizer::from_folder(&model).unwrap(), &options).unwrap();
    let policy = Decoder::load(&Checkpoint::open(&model).unwrap(), device).unwrap();
    let lessons: Units<Supervised> = Box::new(Part::whole(lessons));
    let mut trainer = Trainer::<Supervised>::new(policy, Supervised, settings(run, &[]).0, lessons, None).unwrap();
    held_to(&mut trainer, name, run, &[("loss", 1e-4), ("grad_norm", 1e-3), ("num_tokens", 0.0)]);
}

/// The reference's order of tokens is ours: a prompt, a completion and one EOS.
fn tokens_are_those_of_the_reference(goldens: &Value) {
    for (rated, ids) in pairs(None).iter().zip(goldens["ids"].as_array().unwrap()) {
        for (side, key) in [(&rated.pair.chosen, "chosen_ids"), (&rated.pair.rejected, "rejected_ids")] {
            assert_eq!([rated.pair.prompt.clone(), side.clone()].concat(), golden::ids(&ids[key]));
        }
    }
}

fn a_folder_says_what_transformers_would_say(goldens: &Value) {
    let checkpoint = Checkpoint::open(&golden::fixture("stories260k-hf")).unwrap().with_value_head(1).unwrap();
    let expected = &goldens["configs"]["stories"];
    for key in ["architectures", "id2label", "label2id", "model_type", "vocab_size"] {
        assert_eq!(checkpoint.raw_config[key], expected[key], "{key}");
    }
    assert_eq!(checkpoint.inventory.specs.last().unwrap().name, "score.weight");
    assert!(checkpoint.inventory.find("lm_head.weight").is_none());
    // The same seed draws the same head, another one another; all else is the checkpoint's.
    let device = Device::default();
    let load = |seed| {
        let folder = golden::fixture("stories260k-hf");
        let c = Checkpoint::open(&folder).unwrap().with_value_head(seed).unwrap();
        c.load(&device).unwrap().0.iter().map(|t| t.to_data()).collect::<Vec<_>>()
    };
    let (one, other) = (load(1), load(2));
    assert_eq!(one, load(1));
    assert_ne!(one.last(), other.last());
    assert_eq!(one[..one.len() - 1], other[..one.len() - 1]);
}

fn two_labels_are_refused() {
    let read = |more: Value| {
        let mut table = json!({
            "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2,
            "num_hidden_layers": 1, "vocab_size": 12, "architectures": ["LlamaForSequenceClassification"]
        });
        table.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        collimate::model::ModelConfig::from_value(&table, Path::new("config.json")).map(|c| c.head)
    };
    for more in [json!({}), json!({"num_labels": 3}), json!({"id2label": {"0": "bad", "1": "good"}})] {
        let said = read(more).unwrap_err().to_string();
        assert!(said.contains("num_labels") && said.contains("a reward model has 1 label"), "{said}");
    }
    assert_eq!(read(json!({"num_labels": 1})).unwrap(), HeadKind::Value);
    assert_eq!(read(json!({"id2label": {"0": "LABEL_0"}})).unwrap(), HeadKind::Value);
}

/// A value is the number of a text, whatever it is laid out beside.
fn a_text_is_scored_alike_alone(goldens: &Value) {
    let device = golden::places().into_iter().find_map(|p| p.device.ok()).unwrap();
    let model = decoder(goldens, "stories", &device);
    let pairs = pairs(None);
    let scores = |pairs: &[Rated], share: bool| {
        let mut layout = collimate::model::Layout::default();
        pairs.iter().for_each(|p| collimate::train::Unit::lay_out(p, &mut layout, share).unwrap());
        model.score(&layout, Options::default()).unwrap().log_probs
    };
    let together = scores(&pairs, true);
    for share in [true, false] {
        let alone: Vec<f32> = pairs.iter().flat_map(|p| scores(std::slice::from_ref(p), share)).collect();
        for (a, b) in alone.iter().zip(&together) {
            assert!((a - b).abs() < 1e-4 * b.abs().max(1.0), "{a} is not {b}");
        }
    }
}

fn main() {
    let arguments = Arguments::from_args();
    let goldens = Arc::new(json("golden-trl/rewards.json"));
    let lessons = Arc::new(json("golden-trl/sft.json"));
    type Test = fn(&Value);
    let plain: [(&str, Test); 3] = [
        ("tokens_are_those_of_the_reference", tokens_are_those_of_the_reference),
        ("a_folder_says_what_transformers_would_say", a_folder_says_what_transformers_would_say),
        ("a_text_is_scored_alike_alone", a_text_is_scored_alike_alone),
    ];
    let mut trials = golden::trials([("two_labels_are_refused", two_labels_are_refused as fn())]);
    trials.extend(plain.map(|(name, test)| {
        let goldens = goldens.clone();
        Trial::test(name, move || {
            test(&goldens);
            Ok(())
        })
    }));
    for place in golden::places() {
        for name in goldens["runs"].as_object().unwrap().keys() {
            for share in [true, false] {
                let (goldens, name) = (goldens.clone(), name.clone());
                let how = if share { "shared" } else { "apart" };
                trials.push(place.trial(&format!("rewards::{name}::{how}"), move |device| {
                    replay_rewards(&goldens, &name, device, share);
                    Ok(())
                }));
            }
        }
        for name in lessons["runs"].as_object().unwrap().keys() {
            let (lessons, name) = (lessons.clone(), name.clone());
            trials.push(place.trial(&format!("lessons::{name}"), move |device| {
                replay_lessons(&lessons, &name, device);
                Ok(())
            }));
        }
    }
    golden::run(&arguments, trials, "golden runs of TRL's RewardTrainer and SFTTrainer");
}
