//! Prompts to answer: rows that have a `prompt` alone, and those of pairs and lessons, whose prompts they are.

use std::ops::ControlFlow;
use std::sync::atomic::AtomicU64;

use serde_json::Value;

use crate::encode::{Encoder, Lesson};
use crate::error::{Error, Place};
use crate::format::{self, Fault, FaultKind, Row, Said, Text};
use crate::load::Files;
use crate::options::{Options, Task, Verdict};
use crate::source::{self, Source};
use crate::tokenizer::Tokenizer;

/// A prompt, as a model reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Its row in its file, from 1.
    pub row: usize,
    /// What the row says: a text, or messages.
    pub said: Value,
    /// The text behind which the model is to write; of messages, what the chat template makes of them.
    pub text: String,
    /// Its tokens, BOS included.
    pub ids: Vec<u32>,
    /// What its row has for an answer: the chosen one of a pair, or what a lesson teaches.
    pub answer: Option<Answer>,
}

/// An answer that was there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The text, special tokens left out.
    pub text: String,
    /// Its tokens, what ends it included.
    pub ids: Vec<u32>,
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
        let mut refused = None;
        source::rows(&file.path, file.open()?, &AtomicU64::new(0), &mut |raw| {
            let row = raw.row;
            let read = raw.body.parse().and_then(|r| format::rename(r, &file.columns));
            match read.and_then(|r| prompt(r, row, &encoder, tokenizer, options)) {
                Ok(prompt) => {
                    all.push(prompt);
                    ControlFlow::Continue(())
                }
                Err(fault) => {
                    // Without the hints of policies, which leave out pairs and no prompts.
                    let fault = match fault.kind {
                        FaultKind::Json(why) => Fault::other("prompt", format!("not a JSON object: {why}")),
                        FaultKind::Dirt(_, why) => Fault::other(&fault.field, why),
                        _ => fault,
                    };
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

fn prompt(
    fields: Row,
    row: usize,
    encoder: &Encoder<'_>,
    tokenizer: &Tokenizer,
    options: &Options,
) -> Result<Prompt, Fault> {
    let said = said(fields, options)?;
    let (encoded, faults) = encoder.encode(&said);
    if let Some(fault) = faults.into_iter().find(|f| f.dirt().is_none_or(|d| options.verdict(d) != Verdict::Keep)) {
        return Err(fault);
    }
    let encoded = encoded.ok_or_else(|| Fault::other("prompt", "it could not be tokenised"))?;
    let lesson: Lesson = encoded.into_record(0, 0, row);
    let decode = |ids: &[u32], skip| tokenizer.decode(ids, skip).map_err(|e| Fault::other("prompt", e.to_string()));
    let (said, text) = match said.text {
        Text::Plain { prompt, .. } => (prompt.clone().into(), prompt),
        Text::Chat { prompt, .. } => (prompt.into(), decode(&lesson.prompt, false)?),
    };
    let answer = match lesson.completion.is_empty() {
        true => None,
        false => Some(Answer { text: decode(&lesson.completion, true)?, ids: lesson.completion }),
    };
    Ok(Prompt { row, said, text, ids: lesson.prompt, answer })
}

const EXPECTED: &str = "expected a string, or a list of messages {role, content}";

/// Messages of which the last is to be answered.
fn asked(said: &Value) -> Result<Vec<Value>, Fault> {
    // No policy leaves a prompt out.
    let wrong = |why: String| Fault::other("prompt", why);
    let Value::Array(list) = said else { return Err(wrong(format!("{EXPECTED}, got {}", format::describe(said)))) };
    if let Some(i) = list.iter().position(|m| !m.get("role").is_some_and(Value::is_string)) {
        return Err(wrong(format!("message {} has no `role`; {EXPECTED}", i + 1)));
    }
    match list.last().map(|m| m["role"] == "assistant") {
        None => Err(wrong(format!("no messages; {EXPECTED}"))),
        Some(true) => Err(wrong("the last message is the assistant's own; expected one to be answered".into())),
        Some(false) => format::messages(said, "prompt", false),
    }
}

/// What a row says: its prompt, and at most one side.
fn said(mut row: Row, options: &Options) -> Result<Said, Fault> {
    format::unpack(&mut row)?;
    let has = |key: &str| row.get(key).is_some_and(|v| !v.is_null());
    if let Some(prompt) = row.get("prompt").filter(|_| !["chosen", "rejected", "completion"].into_iter().any(has)) {
        let text = match prompt {
            Value::String(text) => Text::Plain { prompt: text.clone(), sides: Vec::new() },
            messages => Text::Chat {
                prompt: asked(messages)?,
                sides: Vec::new(),
                tools: format::tools(row.get("tools"))?,
                chat_template_kwargs: format::kwargs(&row)?,
            },
        };
        return Ok(Said { text, fields: &[], whole: false });
    }
    if !["prompt", "chosen", "rejected", "completion", "messages", "conversations", "instruction", "input", "context"]
        .iter()
        .any(|k| row.contains_key(*k))
    {
        let found: Vec<_> = row.keys().map(|k| format!("`{k}`")).collect();
        let why = format!("is missing; {EXPECTED}; the row has {}", found.join(", "));
        return Err(Fault::other("prompt", why));
    }
    // A prompt with the one answer that is wanted is a lesson under another name.
    if has("chosen") && !has("rejected") {
        let chosen = row.shift_remove("chosen").unwrap_or_default();
        row.insert("completion".to_owned(), chosen);
    }
    let format = match options.format {
        Some(format) => format,
        None => format::recognise(&row, Task::Sft, options)?,
    };
    let (said, mut faults) = format::said(row, format, Task::Sft, options);
    faults.retain(|f| f.dirt().is_none_or(|d| options.verdict(d) != Verdict::Keep));
    match said {
        Some(said) if faults.is_empty() && !said.whole => Ok(said),
        _ if !faults.is_empty() => Err(faults.remove(0)),
        _ => Err(Fault::other("prompt", "the row has no prompt apart from what follows it")),
    }
}
