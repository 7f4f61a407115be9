//! `collimate world`: a world whose reward is known, as a folder of data and a model to train.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, ArgMatches, Command};
use collimate_core::averaging::{AnyAveraging, Mean, Sum};
use collimate_model::{Checkpoint, Decoder, write_whole};
use collimate_reward::World;
use collimate_reward::world::{Point, base_files};
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use serde_json::{Map, Value, json};

use crate::config;
use crate::say::print;

const DIALS: [(&str, &str); 10] = [
    ("length_bias", "c: labels come from quality + c · tokens; above 0 they like length"),
    ("label_noise", "Noise of labels, in units of quality, above 0"),
    ("sentences", "Sentences of the reference's answers, in the mean; 1 or more"),
    ("sft", "Rows of sft.jsonl"),
    ("pairs", "Rows of pairs.jsonl"),
    ("prompts", "Questions kept apart, in prompts.jsonl"),
    ("seed", "What all draws come from, and the weights of the base model"),
    ("wrong", "Cost of a false sentence"),
    ("off_topic", "Cost of a sentence beside the question"),
    ("padding", "By how much each further sentence of padding costs more than the one before"),
];
/// Those of them that are parts of the quality.
const QUALITY: [&str; 3] = ["wrong", "off_topic", "padding"];

pub(crate) fn command() -> Command {
    let defaults = serde_json::to_value(World::default()).expect("a table");
    let dial = |(key, help): (&'static str, &str)| {
        let default = if QUALITY.contains(&key) { &defaults["quality"][key] } else { &defaults[key] };
        let arg = Arg::new(key).long(key).value_name("VALUE").allow_hyphen_values(true);
        let arg = arg.help(format!("{help} [default: {default}]"));
        if key.contains('_') { arg.alias(key.replace('_', "-")) } else { arg }
    };
    Command::new("world")
        .about("Make a world of texts whose reward is known: a base model, texts, preference pairs and prompts")
        .long_about(
            "Make a world of texts whose reward is known, in which length and quality pull apart. The folder holds base/ (a \
             model with random weights), sft.jsonl, pairs.jsonl, prompts.jsonl (questions kept apart) and world.json \
             (the dials). The same dials give the same bytes; `{type = \"world\", folder = \"…\"}` is its reward.",
        )
        .args([
            Arg::new("output_dir")
                .long("output_dir")
                .alias("output-dir")
                .required(true)
                .value_parser(clap::value_parser!(PathBuf))
                .help("The folder that is written"),
            Arg::new("overwrite_output_dir")
                .long("overwrite_output_dir")
                .alias("overwrite-output-dir")
                .action(ArgAction::SetTrue)
                .help("Replace a world that is there"),
            Arg::new("backend").long("backend").value_name("NAME").help("Tensors: see `collimate backends`"),
        ])
        .args(DIALS.map(dial))
}

/// The names of a world's dials.
pub(crate) fn dials() -> Vec<String> {
    DIALS.iter().map(|(name, _)| (*name).to_owned()).collect()
}

/// The world that flags describe.
fn world(m: &ArgMatches) -> Result<World> {
    let mut table = Map::new();
    let mut quality = Map::new();
    for (key, _) in DIALS {
        let Some(given) = m.get_one::<String>(key) else { continue };
        let value = config::flag_value(&config::Key { name: key, heading: "", help: "", text: false }, given);
        if QUALITY.contains(&key) { &mut quality } else { &mut table }.insert(key.to_owned(), value);
    }
    if !quality.is_empty() {
        let Ok(Value::Object(mut all)) = serde_json::to_value(World::default().quality) else {
            unreachable!("a table")
        };
        all.extend(quality);
        table.insert("quality".into(), all.into());
    }
    let world: World = config::section(table, "")?;
    world.validate()?;
    Ok(world)
}

pub(crate) fn run(m: &ArgMatches) -> Result<()> {
    let world = world(m)?;
    let folder = m.get_one::<PathBuf>("output_dir").expect("required");
    let dials = folder.join("world.json");
    if dials.exists() {
        if !m.get_flag("overwrite_output_dir") {
            bail!("output_dir {} holds a world; give --overwrite_output_dir to replace it", folder.display());
        }
        // What is half written is no world.
        fs::remove_file(&dials).with_context(|| dials.display().to_string())?;
    }
    let (_, device) = super::device(m.get_one::<String>("backend").map(String::as_str))?;
    let base = folder.join("base");
    fs::create_dir_all(&base).with_context(|| base.display().to_string())?;
    for (name, value) in base_files() {
        write_whole(&base.join(name), serde_json::to_string_pretty(&value)?.as_bytes())?;
    }
    let checkpoint = Checkpoint::open(&base)?;
    let decoder = Decoder::random(checkpoint.config.clone(), world.seed, &device);
    checkpoint.save(decoder.parameters(), &base)?;
    write_whole(&folder.join(OPTIMUM), curves(&world)?.as_bytes())?;
    for (name, text) in world.files() {
        write_whole(&folder.join(name), text.as_bytes())?;
    }
    say!(
        "{}: base/, {} supervised texts, {} pairs, {} prompts",
        folder.display(),
        world.sft,
        world.pairs,
        world.prompts
    );
    print(&optima(&world)?)
}

/// The exact optimum, as curves.
const OPTIMUM: &str = "optimum.json";
/// Of its points, in nats.
const KLS: [f64; 14] = [0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0, 1.4, 1.8, 2.4, 3.0, 4.0];

/// What the best policies for the labels do as the KL grows: by the averaging, a list of \[KL, tokens, quality\].
fn curves(world: &World) -> Result<String> {
    let exact = world.exact();
    let rewards = world.label_rewards(&exact);
    let numbers = |p: Point| json!([p.kl, p.length, p.quality]);
    let mut all = Map::new();
    for (name, averaging) in [("sum", &Sum {} as &dyn AnyAveraging), ("mean", &Mean {})] {
        let mut points = vec![numbers(exact.reference())];
        for kl in KLS {
            // Beyond the KL that the best answers alone have, there is nothing.
            match exact.at_kl(averaging, kl, &rewards) {
                Ok(point) => points.push(numbers(point)),
                Err(_) => break,
            }
        }
        all.insert(name.into(), points.into());
    }
    Ok(serde_json::to_string_pretty(&all)?)
}

/// What the best policies for the labels do, at equal KL.
fn optima(world: &World) -> Result<String> {
    let exact = world.exact();
    let rewards = world.label_rewards(&exact);
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_header(["best policy", "KL", "beta", "tokens", "quality"]);
    let row = |name: &str, p: Point| {
        let beta = p.beta.map_or_else(|| "–".to_owned(), |b| format!("{b:.3}"));
        [name.to_owned(), format!("{:.2}", p.kl), beta, format!("{:.2}", p.length), format!("{:.3}", p.quality)]
    };
    table.add_row(row("reference", exact.reference()));
    for kl in [0.2, 0.5] {
        table.add_row(row("sum", exact.at_kl(&Sum {}, kl, &rewards)?));
        table.add_row(row("mean", exact.at_kl(&Mean {}, kl, &rewards)?));
    }
    let bias = world.length_bias;
    Ok(format!("Labels from quality {bias:+} · tokens; the exact optimum of DPO and averaged DPO:\n{table}"))
}
