//! `collimate generate`.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command};
use collimate_data::{ChatTemplate, Options, Source, Tokenizer, prompts};
use collimate_model::{Decoder, Generation, ModelConfig, Precision, Sampling, write_whole};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

const OF_SAMPLING: [&str; 3] = ["top_k", "top_p", "min_p"];

pub(crate) fn command() -> Command {
    let about = "Write text with a checkpoint";
    let long = "Write text with a checkpoint: behind a prompt, as an answer in a chat, or behind each prompt of a file.\n\n\
        Options are spelt as transformers spells them, with its meaning. A text ends with a token that \
        generation_config.json, config.json or the tokenizer names as its end; nothing else is taken from \
        generation_config.json.\n\nExamples:\n  collimate generate --model my-model --prompt \"Once upon a time\"\n  \
        collimate generate --model my-model --chat\n  collimate generate --model my-model --prompts prompts.jsonl \
        --output texts.jsonl --temperature 0.8 --num_return_sequences 4";
    let value = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).alias(name.replace('_', "-")).value_name(value).help(help)
    };
    let number = |name: &'static str, default: &'static str, help: &'static str, parser: ValueParser| {
        value(name, "N", help).default_value(default).value_parser(parser)
    };
    let count = || ValueParser::from(clap::value_parser!(u64));
    let real = || ValueParser::from(clap::value_parser!(f64));
    let path = || clap::value_parser!(PathBuf);
    let switch = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).alias(name.replace('_', "-")).action(ArgAction::SetTrue).help(help)
    };
    Command::new("generate").about(about).long_about(long).args([
        value("model", "FOLDER", "A Hugging Face checkpoint folder").required(true),
        value("base_model", "FOLDER", "Where the base of an adapter is, if not where the adapter says"),
        value("prompt", "TEXT", "What the text begins with; with --chat, what the user says")
            .required_unless_present_any(["chat", "prompts"])
            .conflicts_with("prompts"),
        switch(
            "chat",
            "Answer by the checkpoint's chat template: turn after turn on a terminal, else all of the input",
        )
        .conflicts_with("prompts"),
        value("prompts", "FILE", "Rows with `prompt`, a string or messages: JSONL, Parquet …")
            .value_parser(path())
            .requires("output"),
        value("output", "FILE", "Where the texts of --prompts go, as JSON lines")
            .value_parser(path())
            .requires("prompts"),
        number("max_new_tokens", "256", "Most tokens to write", count()),
        switch("do_sample", "Draw tokens; without it, and without --temperature, the likeliest is taken"),
        value("temperature", "N", "0 takes the likeliest token; above 0 draws, from logits divided by it [default: 1]")
            .value_parser(real()),
        number("top_k", "0", "Draw from this many of the likeliest tokens; 0: all", count()),
        number("top_p", "1", "Draw from the likeliest tokens of this total probability", real()),
        number("min_p", "0", "Draw from tokens at least this likely, in parts of the likeliest", real()),
        number("repetition_penalty", "1", "Above 1, tokens that the text has already become less likely", real()),
        number("num_return_sequences", "1", "Texts for each prompt of --prompts", count()),
        number("batch_size", "32", "Texts of --prompts in progress at a time; changes no text", count()),
        number("seed", "42", "What is drawn follows from this, the prompt and the number of the sample", count()),
        value("dtype", "TYPE", "What is computed in")
            .default_value("float32")
            .value_parser(Precision::ALL.map(Precision::name)),
        value("backend", "NAME", "Tensors: see `collimate backends`"),
    ])
}

fn sampling(m: &ArgMatches) -> Result<Sampling> {
    let number = |key: &str| *m.get_one::<f64>(key).expect("it has a default");
    let count = |key: &str| *m.get_one::<u64>(key).expect("it has a default");
    let (flag, temperature) = (m.get_flag("do_sample"), m.get_one::<f64>("temperature").copied());
    if flag && temperature == Some(0.0) {
        bail!("temperature 0 takes the likeliest token, and do_sample draws: give one of them");
    }
    if let Some(t) = temperature.filter(|t| !(*t >= 0.0 && t.is_finite())) {
        bail!("temperature must be 0 or more, got {t}");
    }
    let do_sample = flag || temperature.is_some_and(|t| t > 0.0);
    let given = |key: &&str| m.value_source(key) == Some(clap::parser::ValueSource::CommandLine);
    if let Some(key) = OF_SAMPLING.into_iter().find(|key| !do_sample && given(key)) {
        bail!("{key} has no effect where the likeliest token is taken; add --do_sample or a --temperature above 0");
    }
    let sampling = Sampling {
        do_sample,
        temperature: temperature.filter(|t| *t > 0.0).unwrap_or(1.0),
        top_k: count("top_k") as usize,
        top_p: number("top_p"),
        min_p: number("min_p"),
        repetition_penalty: number("repetition_penalty"),
        seed: count("seed"),
        max_new_tokens: count("max_new_tokens") as usize,
        num_return_sequences: count("num_return_sequences") as usize,
    };
    sampling.validate()?;
    Ok(sampling)
}

pub(crate) fn run(m: &ArgMatches) -> Result<()> {
    let text_of = |key: &str| m.get_one::<String>(key).map(String::as_str);
    let sampling = sampling(m)?;
    let file = m.get_one::<PathBuf>("prompts");
    if file.is_none() && m.contains_id("output") {
        bail!("output is where the texts of --prompts go; without these they are printed");
    }
    if file.is_none() && sampling.num_return_sequences > 1 {
        bail!("num_return_sequences is {} without --prompts, which takes several", sampling.num_return_sequences);
    }
    let (_, device) = super::device(text_of("backend"))?;
    let base = text_of("base_model").map(Path::new);
    let checkpoint = super::open(Path::new(text_of("model").expect("required")), base)?;
    super::say_text_part(&checkpoint, &checkpoint.folder, "read");
    checkpoint.config.writes_text(&checkpoint.folder, "`generate`")?;
    let tokenizer = Tokenizer::from_folder(checkpoint.tokenizer_folder())?;
    let name = text_of("dtype").expect("it has a default");
    let precision = Precision::ALL.into_iter().find(|p| p.name() == name).expect("the parser knows the names");
    let decoder = &Decoder::load(&checkpoint, &device)?.with_precision(precision, false)?;
    let writer = Writer::new(decoder, &tokenizer, sampling);
    match file {
        Some(file) => {
            let output = m.get_one::<PathBuf>("output").expect("it goes with prompts");
            writer.file(file, output, *m.get_one::<u64>("batch_size").expect("it has a default") as usize)
        }
        None if m.get_flag("chat") => writer.chat(text_of("prompt")),
        None => writer.one(text_of("prompt").expect("required here")),
    }
}

struct Writer<'a> {
    decoder: &'a Decoder,
    tokenizer: &'a Tokenizer,
    /// The tokens that end a text, wherever the checkpoint names them.
    stop: Vec<u32>,
    sampling: Sampling,
}

impl<'a> Writer<'a> {
    fn new(decoder: &'a Decoder, tokenizer: &'a Tokenizer, sampling: Sampling) -> Self {
        Self { decoder, tokenizer, stop: stops(decoder.config(), tokenizer), sampling }
    }

    fn one(&self, prompt: &str) -> Result<()> {
        let mut out = std::io::stdout().lock();
        write!(out, "{prompt}")?;
        let ids = self.tokenizer.encode(prompt, true)?;
        let mut generation = Generation::start(self.decoder, &ids, self.sampling.clone())?;
        self.stream(&mut generation, &ids, &mut |piece| {
            write!(out, "{piece}")?;
            Ok(out.flush()?)
        })?;
        writeln!(out)?;
        Ok(())
    }

    /// Hands out the text behind a prompt as it comes, and returns its tokens.
    fn stream(
        &self,
        generation: &mut Generation<'_>,
        prompt: &[u32],
        each: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Vec<u32>> {
        let mut stream = self.tokenizer.decode_stream(true);
        // The prompt goes through the decoder too: what a token reads as depends on those before it.
        for id in prompt {
            stream.push(*id)?;
        }
        let mut new = Vec::new();
        while new.len() < self.sampling.max_new_tokens {
            let Some(id) = generation.step()? else { break };
            new.push(id);
            if self.stop.contains(&id) {
                break;
            }
            each(&stream.push(id)?)?;
        }
        each(&stream.finish()?)?;
        Ok(new)
    }

    fn template(&self) -> Result<ChatTemplate> {
        ChatTemplate::of(self.tokenizer, None)?.with_context(|| {
            format!(
                "{} has no chat template; expected chat_template.jinja, or `chat_template` in tokenizer_config.json",
                self.tokenizer.folder().display()
            )
        })
    }

    fn rendered(&self, template: &ChatTemplate, messages: &[Value]) -> Result<Vec<u32>> {
        let text = template.render(messages, None, &Map::new(), true)?.text;
        Ok(self.tokenizer.encode(&text, false)?)
    }

    fn chat(&self, said: Option<&str>) -> Result<()> {
        let template = self.template()?;
        let input = std::io::stdin();
        let asks = said.is_none() && input.is_terminal();
        let mut messages = Vec::new();
        let mut generation: Option<Generation<'_>> = None;
        loop {
            let turn = match said {
                Some(text) => text.to_owned(),
                None if asks => {
                    write!(std::io::stderr(), "> ")?;
                    let mut line = String::new();
                    if input.lock().read_line(&mut line)? == 0 {
                        say!("");
                        return Ok(());
                    }
                    line
                }
                None => {
                    let mut all = String::new();
                    input.lock().read_to_string(&mut all).context("standard input can't be read")?;
                    all
                }
            };
            let turn = turn.trim_end_matches(['\r', '\n']);
            if turn.trim().is_empty() {
                match asks {
                    true => continue,
                    false => bail!("the user says nothing; expected a turn from --prompt or standard input"),
                }
            }
            messages.push(json!({"role": "user", "content": turn}));
            let ids = self.rendered(&template, &messages)?;
            // What earlier turns have computed stays.
            let going = match generation.take() {
                Some(mut g) => {
                    g.restart(&ids)?;
                    generation.insert(g)
                }
                None => generation.insert(Generation::start(self.decoder, &ids, self.sampling.clone())?),
            };
            let (mut out, mut answer) = (std::io::stdout().lock(), String::new());
            self.stream(going, &ids, &mut |piece| {
                answer += piece;
                write!(out, "{piece}")?;
                Ok(out.flush()?)
            })?;
            writeln!(out)?;
            if !asks {
                return Ok(());
            }
            messages.push(json!({"role": "assistant", "content": answer}));
        }
    }

    fn file(&self, file: &Path, output: &Path, batch: usize) -> Result<()> {
        let rows = prompts(&Source::from(file), self.tokenizer, &Options::default())?;
        let limit = self.decoder.config().max_position_embeddings;
        for prompt in &rows {
            let (n, row) = (prompt.ids.len(), prompt.row);
            if n == 0 || n > limit {
                let what = if n == 0 {
                    "no tokens; expected at least one".into()
                } else {
                    format!("{n} tokens; the model takes {limit}")
                };
                bail!("{}, row {row}: field `prompt`: {what}", file.display());
            }
        }
        let ids: Vec<Vec<u32>> = rows.iter().map(|p| p.ids.clone()).collect();
        let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg}").expect("a valid template");
        let bar = std::io::stderr().is_terminal().then(|| ProgressBar::new(ids.len() as u64).with_style(style));
        let (begun, mut tokens) = (Instant::now(), 0);
        let rate = |tokens: usize| tokens as f64 / begun.elapsed().as_secs_f64().max(1e-9);
        let all = self.decoder.generate(&ids, &self.sampling, &self.stop, batch, &mut |_, texts| {
            tokens += texts.iter().map(|t| t.tokens.len()).sum::<usize>();
            if let Some(bar) = &bar {
                bar.inc(1);
                bar.set_message(format!("{:.0} tokens/s", rate(tokens)));
            }
            Ok(())
        })?;
        let speed = rate(tokens);
        if let Some(bar) = &bar {
            bar.finish_and_clear();
        }
        let mut lines = String::new();
        for (prompt, texts) in rows.iter().zip(&all) {
            for (sample, text) in texts.iter().enumerate() {
                let mut line = Map::new();
                line.insert("prompt".into(), prompt.said.clone());
                if texts.len() > 1 {
                    line.insert("sample".into(), sample.into());
                }
                line.insert(
                    "completion".into(),
                    completion(self.tokenizer, &prompt.ids, &text.tokens, text.ended)?.into(),
                );
                line.insert("tokens".into(), text.tokens.len().into());
                line.insert("ended".into(), text.ended.into());
                lines += &format!("{}\n", Value::from(line));
            }
        }
        write_whole(output, lines.as_bytes())?;
        let (n, ended) = (all.iter().flatten().count(), all.iter().flatten().filter(|t| t.ended).count());
        say!(
            "{n} texts in {}: {:.1} % ended by themselves; {tokens} tokens, {speed:.0} tokens/s",
            output.display(),
            100.0 * ended as f64 / n as f64,
        );
        Ok(())
    }
}

/// The text of new tokens as they read behind their prompt, without the stop token.
pub(crate) fn completion(tokenizer: &Tokenizer, prompt: &[u32], new: &[u32], ended: bool) -> Result<String> {
    let mut stream = tokenizer.decode_stream(true);
    for id in prompt {
        stream.push(*id)?;
    }
    let mut text = String::new();
    for id in &new[..new.len() - usize::from(ended)] {
        text += &stream.push(*id)?;
    }
    Ok(text + &stream.finish()?)
}

/// The tokens that end a text: those of config.json and of the tokenizer, which reads generation_config.json.
pub(crate) fn stops(config: &ModelConfig, tokenizer: &Tokenizer) -> Vec<u32> {
    let mut all = [tokenizer.stop_ids(), &config.eos_token_ids].concat();
    all.sort_unstable();
    all.dedup();
    all
}
