//! `collimate demo`: a small model is trained, aligned with and without averaging, and the difference shown.
//!
//! The task is made here. The model answers questions about the colour of things; it knows the colours half the time,
//! and goes on for a while or not. The preference pairs prefer the right colour, but, as human preferences do, they
//! also tend to prefer the longer answer. Whether a method learns the colour and leaves the length shows in the table.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burn::tensor::Device;
use clap::{Arg, ArgMatches, Command};
use collimate_data::Tokenizer;
use collimate_model::{Checkpoint, Decoder, Profile, Sampling};
use collimate_train::{Event, Lesson, Schedule, Settings, Supervised, Trainer};
use comfy_table::{ContentArrangement, Table, presets::UTF8_HORIZONTAL_ONLY};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value, json};

use crate::config::{Kind, Run};
use crate::say::print;

const THINGS: [(&str, &str); 16] = [
    ("sky", "blue"),
    ("sea", "blue"),
    ("grass", "green"),
    ("leaf", "green"),
    ("frog", "green"),
    ("rose", "red"),
    ("cherry", "red"),
    ("brick", "red"),
    ("sun", "yellow"),
    ("lemon", "yellow"),
    ("corn", "yellow"),
    ("snow", "white"),
    ("milk", "white"),
    ("salt", "white"),
    ("coal", "black"),
    ("crow", "black"),
];
const COLOURS: [&str; 6] = ["blue", "green", "red", "yellow", "white", "black"];
const ASIDES: [&str; 5] = [
    "it is nice to look at .",
    "many people like it .",
    "i saw one yesterday .",
    "there is more to say about it .",
    "ask me again .",
];
/// Asides of the longest answer.
const MOST: usize = 6;

pub(crate) fn command() -> Command {
    Command::new("demo")
        .about("Train a small model, align it with DPO and with averaged DPO, and show the difference")
        .long_about(
            "Train a small model, align it with DPO and with averaged DPO, and show the difference.\n\n\
             Nothing is needed but this program: the task, its preference pairs and the model are made here. The \
             folder that is written holds the checkpoints, the pairs and each run's metrics and configuration.",
        )
        .args([
            Arg::new("output_dir")
                .long("output_dir")
                .alias("output-dir")
                .default_value("out/demo")
                .help("Where it all goes"),
            Arg::new("backend").long("backend").value_name("NAME").help("Tensors: see `collimate backends`"),
        ])
}

/// The answer about a thing: its colour, right or wrong, and `asides` asides.
fn answer(rng: &mut StdRng, thing: &str, colour: &str, asides: usize) -> String {
    let said = (0..asides).map(|_| format!(" {}", ASIDES[rng.random_range(0..ASIDES.len())])).collect::<String>();
    format!(" the {thing} is {colour} .{said}")
}

fn question(thing: &str) -> String {
    format!("what colour is the {thing} ?")
}

fn wrong(rng: &mut StdRng, right: &str) -> &'static str {
    loop {
        let colour = COLOURS[rng.random_range(0..COLOURS.len())];
        if colour != right {
            return colour;
        }
    }
}

/// The number of asides of an unaligned answer: each follows the last with probability 1/2.
fn unaligned(rng: &mut StdRng) -> usize {
    (0..MOST).take_while(|_| rng.random::<f64>() < 0.5).count()
}

/// Preference pairs: the right colour against a wrong one, and four times in five the longer answer against the shorter.
fn pairs(rng: &mut StdRng, count: usize) -> Vec<Value> {
    let pair = |i: usize| {
        let (thing, right) = THINGS[i % THINGS.len()];
        let (a, b) = (unaligned(rng), unaligned(rng));
        let (short, long) = (a.min(b), a.max(b));
        let (chosen, rejected) = if rng.random::<f64>() < 0.8 { (long, short) } else { (short, long) };
        let bad = wrong(rng, right);
        json!({
            "prompt": question(thing),
            "chosen": answer(rng, thing, right, chosen),
            "rejected": answer(rng, thing, bad, rejected),
        })
    };
    (0..count).map(pair).collect()
}

fn write_base(folder: &Path) -> Result<()> {
    let mut words: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    let texts = THINGS.iter().map(|(thing, _)| question(thing)).chain(ASIDES.map(String::from));
    let spoken = texts.chain(COLOURS.map(String::from)).collect::<Vec<_>>().join(" ");
    for word in spoken.split(' ') {
        if !words.iter().any(|w| w == word) {
            words.push(word.to_owned());
        }
    }
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 64,
        "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 2,
        "vocab_size": words.len(), "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32"
    });
    let special = |id: usize| {
        json!({"id": id, "content": words[id], "special": true, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false})
    };
    let vocab: Map<String, Value> = words.iter().enumerate().map(|(i, w)| (w.clone(), i.into())).collect();
    // One token a word; each begins with the space before it, so that text is whole again when tokens are joined.
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [special(0), special(1), special(2)],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}
    });
    let names = json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "model_max_length": 128});
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    for (name, value) in [("config.json", config), ("tokenizer.json", tokenizer), ("tokenizer_config.json", names)] {
        collimate_model::write_whole(&folder.join(name), serde_json::to_string_pretty(&value)?.as_bytes())?;
    }
    Ok(())
}

/// Trains the model that is to be aligned.
fn train_base(folder: &Path, device: &Device, rng: &mut StdRng) -> Result<()> {
    write_base(folder)?;
    let checkpoint = Checkpoint::open(folder)?;
    let tokenizer = Tokenizer::from_folder(folder)?;
    let decoder = Decoder::random(checkpoint.config.clone(), 1, device);
    let mut lessons = Vec::new();
    for i in 0..4096 {
        let (thing, right) = THINGS[i % THINGS.len()];
        let colour = if rng.random::<bool>() { right } else { wrong(rng, right) };
        let asides = unaligned(rng);
        let text = answer(rng, thing, colour, asides) + " </s>";
        let (prompt, completion) = (tokenizer.encode(&question(thing), true)?, tokenizer.encode(&text, false)?);
        lessons.push(Lesson { prompt, completion, row: i + 1, ..Lesson::default() });
    }
    let settings = Settings {
        learning_rate: 3e-3,
        lr_scheduler_type: Schedule::Cosine,
        warmup_steps: 50,
        per_device_train_batch_size: 32,
        max_steps: 1000,
        logging_steps: 250,
        ..Settings::default()
    };
    let mut trainer = Trainer::<Supervised>::new(decoder, Supervised, settings, lessons, None)?;
    trainer.run(&mut |event| {
        if let Event::Metrics(line) = event {
            say!(
                "  step {}: cross-entropy {:.3} nats a token",
                line["step"],
                line["loss"].as_f64().unwrap_or(f64::NAN)
            );
        }
        Ok(())
    })?;
    let decoder = trainer.into_policy();
    checkpoint.save(decoder.parameters(), folder)?;
    Ok(())
}

/// What a checkpoint does with the questions.
struct Behaviour {
    right: f64,
    tokens: f64,
    greedy: String,
}

fn behaviour(folder: &Path, device: &Device) -> Result<Behaviour> {
    const SAMPLES: u64 = 8;
    let checkpoint = Checkpoint::open(folder)?;
    let tokenizer = Tokenizer::from_folder(folder)?;
    let decoder = Decoder::load(&checkpoint, device)?;
    let (mut right, mut tokens) = (0, 0);
    for (t, (thing, colour)) in THINGS.iter().enumerate() {
        for s in 0..SAMPLES {
            let sampling = Sampling { do_sample: true, seed: t as u64 * SAMPLES + s, ..Sampling::default() };
            let (n, text) = write(&decoder, &tokenizer, &question(thing), sampling)?;
            tokens += n;
            right += usize::from(text.contains(&format!("the {thing} is {colour} .")));
        }
    }
    let all = (THINGS.len() as u64 * SAMPLES) as f64;
    let (_, greedy) = write(&decoder, &tokenizer, &question("crow"), Sampling::default())?;
    Ok(Behaviour { right: right as f64 / all, tokens: tokens as f64 / all, greedy })
}

fn write(decoder: &Decoder, tokenizer: &Tokenizer, prompt: &str, sampling: Sampling) -> Result<(usize, String)> {
    let mut text = String::new();
    let new = super::generate::text(decoder, tokenizer, prompt, 96, sampling, &mut |piece| {
        text += piece;
        Ok(())
    })?;
    Ok((new.len(), text.trim().to_owned()))
}

pub(crate) fn run(m: &ArgMatches) -> Result<()> {
    let root = PathBuf::from(m.get_one::<String>("output_dir").expect("it has a default"));
    let backend = m.get_one::<String>("backend").map(String::as_str);
    let (name, device) = super::device(backend)?;
    let mut rng = StdRng::seed_from_u64(7);
    let (base, data) = (root.join("base"), root.join("pairs.jsonl"));

    say!("1. a model that answers questions about colours, trained on {name}");
    train_base(&base, &device, &mut rng)?;
    let pairs = pairs(&mut rng, 640);
    let lines: String = pairs.iter().map(|p| format!("{p}\n")).collect();
    collimate_model::write_whole(&data, lines.as_bytes())?;
    let words = |p: &Value, k: &str| p[k].as_str().map_or(0, |s| s.split_whitespace().count());
    let longer = pairs.iter().filter(|p| words(p, "chosen") > words(p, "rejected")).count();
    let shorter = pairs.iter().filter(|p| words(p, "chosen") < words(p, "rejected")).count();
    say!(
        "2. {} preference pairs: the right colour is chosen; it is the longer answer in {longer}, the shorter in {shorter}",
        pairs.len()
    );

    let mut table = Table::new();
    table
        .load_style(UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(110)
        .set_header(["", "right colour", "tokens per answer", "margin", "accuracy", "asked for the colour of a crow"]);
    let row = |name: &str, b: &Behaviour, margin: String, accuracy: String| {
        [
            name.to_owned(),
            format!("{:.0} %", 100.0 * b.right),
            format!("{:.1}", b.tokens),
            margin,
            accuracy,
            b.greedy.clone(),
        ]
    };
    table.add_row(row("before", &behaviour(&base, &device)?, "0".into(), "–".into()));
    for (step, (method, beta)) in [("dpo", 0.1), ("averaged-dpo", 10.0)].into_iter().enumerate() {
        say!("{}. {method}", step + 3);
        let out = root.join(method);
        let mut keys = json!({
            "model": base.display().to_string(), "data": data.display().to_string(), "method": method, "beta": beta,
            "output_dir": out.display().to_string(), "eval_split": 0.1, "learning_rate": 1e-4,
            "per_device_train_batch_size": 16, "num_train_epochs": 4.0, "logging_steps": 48,
            "overwrite_output_dir": true
        });
        if let Some(backend) = backend {
            keys["backend"] = backend.into();
        }
        let Value::Object(keys) = keys else { unreachable!("it is a table") };
        super::train::train(Run::new(Kind::Align, keys)?, false, Profile::default())?;
        let last = last_evaluation(&out)?;
        let number = |key: &str| last[key].as_f64().unwrap_or(f64::NAN);
        let (margin, accuracy) = (number("eval_rewards/margins"), number("eval_rewards/accuracies"));
        let b = behaviour(&out, &device)?;
        table.add_row(row(method, &b, format!("{margin:+.2}"), format!("{:.0} %", 100.0 * accuracy)));
    }
    print(&format!(
        "\n{table}\nAnswers are sampled, 8 for each of {} questions; margin and accuracy are those of pairs kept apart.\n\
         Everything is in {}: try `collimate generate --model {} --prompt \"what colour is the sea ?\"`",
        THINGS.len(),
        root.display(),
        root.join("averaged-dpo").display()
    ))
}

fn last_evaluation(folder: &Path) -> Result<Value> {
    let path = folder.join("metrics.jsonl");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let last = text.lines().rev().find(|l| l.contains("eval_loss")).context("no evaluation in metrics.jsonl")?;
    Ok(serde_json::from_str(last)?)
}
