//! Files of prompts to write texts behind.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use serde_json::Value;

use crate::error::Place;
use crate::format::{self, Row};
use crate::{Error, source};

/// What a text is to be written behind.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// Text, as it stands.
    Text(String),
    /// Messages, `{role, content, …}` each, for a chat template. The last one is to be answered.
    Chat(Vec<Value>),
}

impl Prompt {
    /// The prompt of a row: its field `prompt`, a string or a list of messages.
    fn of(row: &mut Row) -> Result<Self, (&'static str, String)> {
        const EXPECTED: &str = "expected a string, or a list of messages {role, content}";
        let messages = match row.remove("prompt") {
            Some(Value::String(text)) => return Ok(Self::Text(text)),
            Some(Value::Array(messages)) => messages,
            Some(other) => return Err(("prompt", format!("{}; {EXPECTED}", format::describe(&other)))),
            None => {
                let found: Vec<_> = row.keys().map(|k| format!("`{k}`")).collect();
                return Err(("prompt", format!("is missing; {EXPECTED}; the row has {}", found.join(", "))));
            }
        };
        let role = |m: &Value| m.get("role").and_then(Value::as_str).map(str::to_owned);
        if let Some(i) = messages.iter().position(|m| role(m).is_none()) {
            return Err(("prompt", format!("message {} has no `role`; {EXPECTED}", i + 1)));
        }
        match messages.last().and_then(role).as_deref() {
            None => Err(("prompt", format!("no messages; {EXPECTED}"))),
            Some("assistant") => {
                Err(("prompt", "the last message is the assistant's own; expected one to be answered".to_owned()))
            }
            Some(_) => Ok(Self::Chat(messages)),
        }
    }
}

/// The prompts of a file (JSONL, JSON, CSV; plain, .gz or .zst; Parquet or Arrow) with their rows.
///
/// # Errors
/// A file that can't be read, or has no rows; the first row that has no prompt, by file, row and field.
pub fn prompts(path: &Path) -> Result<Vec<(Place, Prompt)>, Error> {
    let file = File::open(path).map_err(Error::io(path, "open"))?;
    let mut all = Vec::new();
    let mut refused = None;
    source::rows(path, file, &AtomicU64::new(0), &mut |raw| {
        let place = Place::new(path, raw.row);
        let prompt = match raw.body.parse() {
            Ok(mut row) => Prompt::of(&mut row).map_err(|(field, message)| Error::Row {
                place: place.clone(),
                field: field.to_owned(),
                message,
                dirt: None,
            }),
            Err(fault) => Err(match fault.into_error(place.clone()) {
                // The hint is how to leave such pairs out.
                Error::Json { place, message } => Error::Row {
                    place,
                    field: "prompt".into(),
                    message: format!("not a JSON object: {message}"),
                    dirt: None,
                },
                other => other,
            }),
        };
        match prompt {
            Ok(prompt) => {
                all.push((place, prompt));
                ControlFlow::Continue(())
            }
            Err(e) => {
                refused = Some(e);
                ControlFlow::Break(())
            }
        }
    })?;
    match refused {
        Some(e) => Err(e),
        None if all.is_empty() => Err(Error::file(path, "no prompts in it; expected rows with `prompt`")),
        None => Ok(all),
    }
}
