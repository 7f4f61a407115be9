//! Prompts to answer: rows that have a `prompt` alone, and those of pairs and lessons, whose prompts they are.

use std::ops::ControlFlow;
use std::sync::atomic::AtomicU64;

use serde_json::Value;

use crate::encode::Encoder;
use crate::error::{Error, Place};
use crate::format::{self, Fault, Row, Said, Text};
use crate::load::Files;
use crate::options::{Options, Task};
use crate::source::{self, Source};
use crate::tokenizer::Tokenizer;

/// A prompt, as a model reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Its row in its file, from 1.
    pub row: usize,
    /// The text behind which the model is to write; of messages, what the chat template makes of them.
    pub text: String,
    /// Its tokens, BOS included.
    pub ids: Vec<u32>,
    /// The text that its row has for an answer: the chosen one of a pair, or what a lesson teaches.
    pub chosen: Option<String>,
}

/// Reads prompts: rows with a `prompt`, a text or messages, and pairs and lessons in any format that is known.
///
/// # Errors
/// A file that can't be read, and the first row without a prompt.
pub fn prompts(source: &Source, tokenizer: &Tokenizer, options: &Options) -> Result<Vec<Prompt>, Error> {
    let files = Files::resolve(std::slice::from_ref(source), options, Task::Sft)?;
    let encoder = Encoder::new(tokenizer, options)?;
    let mut all = Vec::new();
    for file in &files.read {
        let (mut refused, mut row) = (None, 0);
        source::rows(&file.path, file.open()?, &AtomicU64::new(0), &mut |raw| {
            row += 1;
            let read = raw.body.parse().and_then(|r| format::rename(r, &file.columns));
            match read.and_then(|r| prompt(r, &encoder, options)) {
                Ok((text, ids, chosen)) => {
                    all.push(Prompt { row, text, ids, chosen });
                    ControlFlow::Continue(())
                }
                Err(fault) => {
                    refused = Some(fault.into_error(Place::new(&file.path, row)));
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(refused) = refused {
            return Err(refused);
        }
    }
    if all.is_empty() {
        return Err(Error::file(&source.path, "has no prompts"));
    }
    Ok(all)
}

/// Text, tokens, and what the row has for an answer.
fn prompt(mut row: Row, encoder: &Encoder<'_>, options: &Options) -> Result<(String, Vec<u32>, Option<String>), Fault> {
    format::unpack(&mut row)?;
    let alone = ["chosen", "rejected", "completion"].iter().all(|k| row.get(*k).is_none_or(Value::is_null));
    let said = match row.get("prompt") {
        Some(Value::String(text)) if alone => Text::Plain { prompt: text.clone(), sides: Vec::new() },
        Some(messages @ Value::Array(_)) if alone => Text::Chat {
            prompt: format::messages(messages, "prompt", false)?,
            sides: Vec::new(),
            tools: format::tools(row.get("tools"))?,
            chat_template_kwargs: format::kwargs(&row)?,
        },
        // A prompt and the one text that it should be answered by.
        Some(Value::String(text)) if row.get("rejected").is_none_or(Value::is_null) => {
            let answer = ["chosen", "completion"].iter().find_map(|k| row.get(*k)?.as_str()).map(str::to_owned);
            Text::Plain { prompt: text.clone(), sides: answer.into_iter().collect() }
        }
        _ => {
            let task = if row.get("rejected").is_some_and(|v| !v.is_null()) { Task::Align } else { Task::Sft };
            let format = match options.format {
                Some(format) => format,
                None => format::recognise(&row, task, options)?,
            };
            let (said, mut faults) = format::said(row, format, task, options);
            let Some(Said { text, whole: false, .. }) = said else {
                let none = || Fault::other("prompt", "the row has no prompt apart from what follows it");
                return Err(if faults.is_empty() { none() } else { faults.remove(0) });
            };
            text
        }
    };
    encoder.asked(&said)
}
