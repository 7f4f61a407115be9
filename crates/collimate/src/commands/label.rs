//! `collimate label`: preference pairs from generations and a reward.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Arg, ArgMatches, Command};
use collimate_reward::labels::{Labels, Which};
use serde_json::json;

use super::score;

const WHICH: [(&str, Which); 3] = [("all", Which::All), ("best-worst", Which::BestWorst), ("random", Which::Random)];

pub(crate) fn command() -> Command {
    Command::new("label")
        .about("Make preference pairs of generations, labelled by a reward")
        .long_about(
            "Make preference pairs of generations, labelled by a reward. Files have a JSON object a line, with `prompt` \
             and `completion`, several lines a prompt. Labels are drawn, P(a ≻ b) = σ((r_a − r_b)/noise), from the seed \
             and the texts, whatever the order of lines.\n\nExample:\n  collimate label generations.jsonl --reward \
             length --model my-model --noise 10 --output pairs.jsonl",
        )
        .args([
            Arg::new("files")
                .value_name("FILE")
                .required(true)
                .num_args(1..)
                .value_parser(clap::value_parser!(PathBuf))
                .help("Generations, as JSONL"),
            score::output("Where the pairs go").required(true),
            Arg::new("noise")
                .long("noise")
                .value_name("R")
                .default_value("1")
                .allow_hyphen_values(true)
                .value_parser(clap::value_parser!(f64))
                .help("Noise of labels, in units of the score; 0: the higher always wins"),
            Arg::new("seed")
                .long("seed")
                .value_name("N")
                .default_value("42")
                .value_parser(clap::value_parser!(u64))
                .help("What labels are drawn from"),
            Arg::new("pairs")
                .long("pairs")
                .value_name("WHICH")
                .default_value("all")
                .value_parser(WHICH.map(|(name, _)| name))
                .help("Of a prompt's completions: all pairs, best against worst, or one random pair"),
        ])
        .args(score::reward())
}

pub(crate) fn run(m: &ArgMatches) -> Result<()> {
    let labels = Labels {
        noise: *m.get_one::<f64>("noise").expect("it has a default"),
        seed: *m.get_one::<u64>("seed").expect("it has a default"),
    };
    if !(labels.noise >= 0.0 && labels.noise.is_finite()) {
        bail!("noise must be 0 or more, got {}", labels.noise);
    }
    let which = m.get_one::<String>("pairs").expect("it has a default");
    let (_, which) = *WHICH.iter().find(|(name, _)| name == which).expect("one of them");
    let reward = score::read_reward(m.get_one::<String>("reward").expect("required"))?;
    let mut all = Vec::new();
    for path in m.get_many::<PathBuf>("files").expect("required") {
        all.extend(score::scored(path, m, &*reward)?);
    }
    // Prompts in the order of their first lines.
    let mut prompts: Vec<(&str, Vec<(&str, f64)>)> = Vec::new();
    let mut places = HashMap::new();
    for g in &all {
        let place = *places.entry(g.prompt.as_str()).or_insert_with(|| {
            prompts.push((&g.prompt, Vec::new()));
            prompts.len() - 1
        });
        prompts[place].1.push((&g.completion, g.score));
    }
    let (mut text, mut pairs, mut single) = (String::new(), 0, 0);
    for (prompt, completions) in &prompts {
        let labelled = labels.pairs(prompt, completions, which);
        single += usize::from(labelled.is_empty());
        pairs += labelled.len();
        for (chosen, rejected) in labelled {
            let ((chosen, high), (rejected, low)) = (completions[chosen], completions[rejected]);
            let row = json!({"prompt": prompt, "chosen": chosen, "rejected": rejected, "chosen_score": high,
                "rejected_score": low});
            text += &format!("{row}\n");
        }
    }
    if pairs == 0 {
        bail!("no pairs: none of the {} prompts has two completions that differ", prompts.len());
    }
    collimate_model::write_whole(m.get_one::<PathBuf>("output").expect("required"), text.as_bytes())?;
    say!("{pairs} pairs of {} prompts; {single} prompts have no two completions that differ", prompts.len());
    Ok(())
}
