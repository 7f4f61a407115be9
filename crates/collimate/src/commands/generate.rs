//! `collimate generate`.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use clap::ArgMatches;
use collimate_data::Tokenizer;
use collimate_data::hub::{self, Kind};
use collimate_model::{Checkpoint, Decoder, Generation, Sampling};

pub(crate) fn run(m: &ArgMatches) -> Result<()> {
    let folder = Path::new(m.get_one::<String>("model").expect("required"));
    let prompt = m.get_one::<String>("prompt").expect("required");
    let number = |key: &str| *m.get_one::<f64>(key).expect("it has a default");
    let count = |key: &str| *m.get_one::<u64>(key).expect("it has a default");
    let temperature = number("temperature");
    let do_sample = temperature != 0.0;
    let sampling = Sampling {
        do_sample,
        temperature: if do_sample { temperature } else { 1.0 },
        top_p: number("top_p"),
        top_k: count("top_k") as usize,
        seed: count("seed"),
        ..Sampling::default()
    };
    sampling.validate()?;
    let (_, device) = super::device(m.get_one::<String>("backend").map(String::as_str))?;
    let folder = &hub::locate(folder, Kind::Model)?;
    let checkpoint = Checkpoint::open(folder)?;
    let tokenizer = Tokenizer::from_folder(folder)?;
    let decoder = Decoder::load(&checkpoint, &device)?;
    let mut out = std::io::stdout().lock();
    write!(out, "{prompt}")?;
    text(&decoder, &tokenizer, prompt, count("max_new_tokens") as usize, sampling, &mut |piece| {
        write!(out, "{piece}")?;
        Ok(out.flush()?)
    })?;
    writeln!(out)?;
    Ok(())
}

/// The tokens that end a text: those of config.json and of the tokenizer, which reads generation_config.json.
pub(crate) fn stops(checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> Vec<u32> {
    let mut all = [tokenizer.stop_ids(), &checkpoint.config.eos_token_ids].concat();
    all.sort_unstable();
    all.dedup();
    all
}

/// Writes on from a prompt until a stop token, the model's positions or `most` tokens end it; returns the new tokens.
pub(crate) fn text(
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    prompt: &str,
    most: usize,
    sampling: Sampling,
    each: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Vec<u32>> {
    let ids = tokenizer.encode(prompt, true)?;
    let mut generation = Generation::start(decoder, &ids, sampling)?;
    let mut stream = tokenizer.decode_stream(true);
    // The prompt goes through the decoder too: what a token reads as depends on those before it.
    for id in &ids {
        stream.push(*id)?;
    }
    let mut new = Vec::new();
    while new.len() < most {
        let Some(id) = generation.step()? else { break };
        new.push(id);
        if tokenizer.stop_ids().contains(&id) || decoder.config().eos_token_ids.contains(&id) {
            break;
        }
        each(&stream.push(id)?)?;
    }
    each(&stream.finish()?)?;
    Ok(new)
}
