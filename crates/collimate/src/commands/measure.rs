//! `collimate measure`: what a policy writes to prompts, and what that is worth.

use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgMatches, Command, builder::ValueParser};
use collimate_core::Objective;
use collimate_data::{Options, Source, Tokenizer, prompts};
use collimate_model::{Checkpoint, Decoder, write_whole};

use crate::config;
use crate::measure::{Measured, Measurement, check_prompts, sampling};
use crate::say::print;

pub(crate) fn command() -> Command {
    let number = |name: &'static str, default: &'static str, help: &'static str, parser: ValueParser| {
        Arg::new(name)
            .long(name)
            .alias(name.replace('_', "-"))
            .value_name("N")
            .default_value(default)
            .help(help)
            .value_parser(parser)
    };
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).alias(name.replace('_', "-")).value_name(value).help(help)
    };
    let whole = || ValueParser::from(clap::value_parser!(u64));
    Command::new("measure")
        .about("Sample texts from a policy and measure them: length, score, log-probabilities, rewards")
        .long_about(
            "Sample texts from a policy and measure them.\n\n\
             Each line of the output is a text: its tokens, whether it ended by itself, what the reward says of it, its \
             log-probability under the policy and under the reference (the mean of the difference estimates the KL \
             divergence), and the reward that the policy's own objective sees in it.",
        )
        .args([
            text("model", "FOLDER", "The policy: a checkpoint folder").required(true),
            text("base_model", "FOLDER", "Where the base of an adapter is, if not where the adapter says"),
            text("reference", "FOLDER", "The reference [default: the policy itself]"),
            text("prompts", "FILE", "Prompts, with a chosen text each or without").required(true),
            text("reward", "NAME or {type = …}", "What scores the texts: see `collimate methods`"),
            text(
                "objective_from",
                "FILE",
                "The collimate.toml of a run, whose objective's reward of each text is written too",
            ),
            text("output", "FILE", "A line of JSON for each text").required(true),
            text("backend", "NAME", "Tensors: see `collimate backends`"),
            number("max_new_tokens", "128", "Most tokens of a text", whole()),
            number("temperature", "1", "What logits are divided by", clap::value_parser!(f64).into()),
            number("num_return_sequences", "1", "Texts of each prompt", whole()),
            number("batch_size", "32", "Texts that are written side by side", whole()),
            number("seed", "42", "What samples are drawn from", whole()),
            number("most", "0", "At most so many prompts, the first of the file; 0: all", whole()),
        ])
}

pub(crate) fn run(m: &ArgMatches) -> Result<()> {
    let said = |key: &str| m.get_one::<String>(key).map(String::as_str);
    let count = |key: &str| *m.get_one::<u64>(key).expect("it has a default");
    let temperature = *m.get_one::<f64>("temperature").expect("it has a default");
    if !(temperature >= 0.0 && temperature.is_finite()) {
        bail!("temperature must be 0 or more, got {temperature}");
    }
    let (most, texts) = (count("max_new_tokens") as usize, count("num_return_sequences") as usize);
    let sampling = sampling(temperature, most, texts, count("seed"));
    sampling.validate()?;
    let reward = said("reward").map(super::score::read_reward).transpose()?;
    let objective = said("objective_from").map(|file| objective(Path::new(file))).transpose()?;
    let (_, device) = super::device(said("backend"))?;
    let open = |key: &str| -> Result<Option<Checkpoint>> {
        let Some(given) = said(key) else { return Ok(None) };
        let base = said("base_model").map(Path::new).filter(|_| key == "model");
        let checkpoint = super::open(Path::new(given), base)?;
        checkpoint.config.writes_text(&checkpoint.folder, "`measure`")?;
        Ok(Some(checkpoint))
    };
    let checkpoint = open("model")?.expect("required");
    let policy = Decoder::load(&checkpoint, &device)?;
    let reference = match open("reference")? {
        None => policy.clone(),
        Some(other) => {
            let (theirs, ours) = (other.config.vocab_size, checkpoint.config.vocab_size);
            if theirs != ours {
                bail!("reference has a vocabulary of {theirs} tokens and the model one of {ours}");
            }
            Decoder::load(&other, &device)?
        }
    };
    let tokenizer = Tokenizer::from_folder(checkpoint.tokenizer_folder())?;
    let source = Source::from(said("prompts").expect("required"));
    let mut all = prompts(&source, &tokenizer, &Options::default())?;
    if count("most") > 0 {
        all.truncate(count("most") as usize);
    }
    check_prompts(&all, &source.path, checkpoint.config.max_position_embeddings)?;
    let measurement = Measurement {
        policy: &policy,
        reference: &reference,
        tokenizer: &tokenizer,
        sampling,
        batch: count("batch_size").max(1) as usize,
        stop: &super::generate::stops(&checkpoint.config, &tokenizer),
        reward: reward.as_deref(),
        objective: objective.as_ref(),
    };
    let texts = measurement.run(&all, &mut |_| Ok(()))?;
    let lines = texts.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    let output = Path::new(said("output").expect("required"));
    write_whole(output, (lines.join("\n") + "\n").as_bytes())?;
    print(&summary(&texts, output))
}

fn objective(file: &Path) -> Result<Objective> {
    let table = config::read_file(file)?;
    let value = table.get("objective").with_context(|| format!("{}: `objective` is missing", file.display()))?;
    Ok(Objective::from_value(value)?)
}

fn summary(texts: &[Measured], output: &Path) -> String {
    let mean = |of: &dyn Fn(&Measured) -> f64| texts.iter().map(of).sum::<f64>() / texts.len() as f64;
    let mut text = format!(
        "{} texts: {:.1} tokens, {:.0} % ended by themselves, repetition {:.3}, KL {:.4}",
        texts.len(),
        mean(&|t| t.tokens as f64),
        100.0 * mean(&|t| f64::from(u8::from(t.ended))),
        mean(&|t| t.repetition),
        mean(&|t| t.log_prob - t.log_reference)
    );
    if texts.iter().all(|t| t.score.is_some()) {
        text += &format!(", score {:.4}", mean(&|t| t.score.unwrap_or(f64::NAN)));
    }
    text + &format!("\nwritten to {}", output.display())
}
