//! From a row of a file to a preference pair, whatever the row's format.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::error::{Error, Place};
use crate::options::{Dirt, Format, ImplicitPrompt, Options};

/// The fields of a row.
pub type Row = Map<String, Value>;

/// A preference pair as text, before it is tokenised.
#[derive(Clone, Debug, PartialEq)]
pub enum Example {
    /// Plain strings; prompt + completion is what the model reads.
    Plain {
        /// The prompt x.
        prompt: String,
        /// The preferred completion y⁺.
        chosen: String,
        /// The dispreferred completion y⁻.
        rejected: String,
    },
    /// Messages, `{role, content, …}` each, for a chat template.
    Chat {
        /// The messages before the completion.
        prompt: Vec<Value>,
        /// The messages of the preferred completion.
        chosen: Vec<Value>,
        /// The messages of the dispreferred completion.
        rejected: Vec<Value>,
        /// Tool definitions for the template.
        tools: Option<Value>,
        /// The row's own variables for the template.
        chat_template_kwargs: Row,
    },
}

/// What is wrong with one row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fault {
    pub field: String,
    pub kind: FaultKind,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum FaultKind {
    Json(String),
    Missing { expected: String, found: Vec<String> },
    Dirt(Dirt, String),
    Template(String),
    Other(String),
}

impl Fault {
    pub fn dirt(dirt: Dirt, field: &str, message: impl Into<String>) -> Self {
        Self { field: field.to_owned(), kind: FaultKind::Dirt(dirt, message.into()) }
    }

    pub fn other(field: &str, message: impl Into<String>) -> Self {
        Self { field: field.to_owned(), kind: FaultKind::Other(message.into()) }
    }

    fn wrong_type(field: &str, expected: &str, found: &Value) -> Self {
        Self::dirt(Dirt::WrongType, field, format!("expected {expected}, found {}", describe(found)))
    }

    pub fn into_error(self, place: Place) -> Error {
        let field = self.field;
        match self.kind {
            FaultKind::Json(message) => Error::Json { place, message },
            FaultKind::Missing { expected, found } => Error::MissingField { place, field, expected, found },
            FaultKind::Dirt(dirt, message) => Error::Row { place, field, message, dirt: Some(dirt) },
            FaultKind::Template(message) => Error::Template { place: Some(place), message },
            FaultKind::Other(message) => Error::Row { place, field, message, dirt: None },
        }
    }
}

/// The fields that a format reads.
pub(crate) fn fields(format: Format) -> &'static [&'static str] {
    match format {
        Format::Standard => &["prompt", "chosen", "rejected"],
        Format::Conversational => &["prompt", "chosen", "rejected", "tools", "chat_template_kwargs"],
        Format::ImplicitStandard => &["chosen", "rejected"],
        Format::ImplicitConversational => &["prompt", "chosen", "rejected", "tools", "chat_template_kwargs"],
        Format::Alpaca => &["instruction", "input", "chosen", "rejected", "system", "history"],
        Format::Sharegpt => &["conversations", "chosen", "rejected", "system", "tools"],
        Format::LlamafactoryV1 => &["chosen_messages", "rejected_messages", "tools"],
    }
}

/// Every field that some format reads: what a column may be renamed to.
pub(crate) const FIELDS: [&str; 12] = [
    "prompt",
    "chosen",
    "rejected",
    "tools",
    "chat_template_kwargs",
    "instruction",
    "input",
    "system",
    "history",
    "conversations",
    "chosen_messages",
    "rejected_messages",
];

/// The row under the names that the formats know.
pub(crate) fn rename(row: Row, columns: &BTreeMap<String, String>) -> Result<Row, Fault> {
    if columns.is_empty() {
        return Ok(row);
    }
    let mut out = Row::new();
    for (key, value) in row {
        let name = columns.get(&key).unwrap_or(&key);
        if out.insert(name.clone(), value).is_some() {
            return Err(Fault::other(name, format!("`columns` renames `{key}` to it, and the row has both")));
        }
    }
    Ok(out)
}

/// The format that a row has.
pub(crate) fn recognise(row: &Row) -> Result<Format, Fault> {
    let is_list = |field: &str| row.get(field).is_some_and(Value::is_array);
    if row.contains_key("chosen_messages") || row.contains_key("rejected_messages") {
        return Ok(Format::LlamafactoryV1);
    }
    let expected = "expected `prompt`, `chosen`, `rejected` (strings or messages), `chosen`, `rejected` alone, or one \
                    of LLaMA-Factory's ranking formats; other columns can be renamed with `columns`";
    get(row, "chosen", expected)?;
    get(row, "rejected", expected)?;
    let forms = ["prompt", "conversations", "instruction"];
    let present: Vec<_> = forms.into_iter().filter(|f| row.contains_key(*f)).collect();
    match present[..] {
        ["prompt"] if row["prompt"].is_array() => Ok(Format::Conversational),
        ["prompt"] if is_list("chosen") || is_list("rejected") => {
            // The prompt beside two whole conversations (ultrafeedback_binarized) repeats their first user message.
            let chosen = row["chosen"].as_array().map(Vec::as_slice).unwrap_or_default();
            if chosen
                .iter()
                .any(|m| m.get("role").is_some_and(|r| r == "user") && m.get("content") == row.get("prompt"))
            {
                Ok(Format::ImplicitConversational)
            } else {
                Err(Fault::other(
                    "prompt",
                    "a string beside `chosen` as a list of messages that do not repeat it: ambiguous; make `prompt` a \
                     list of messages too, or force `format = \"implicit-conversational\"` to take the prompt from \
                     what `chosen` and `rejected` have in common",
                ))
            }
        }
        ["prompt"] => Ok(Format::Standard),
        ["conversations"] => Ok(Format::Sharegpt),
        ["instruction"] => Ok(Format::Alpaca),
        [] if is_list("chosen") || is_list("rejected") => Ok(Format::ImplicitConversational),
        [] => Ok(Format::ImplicitStandard),
        [..] => Err(Fault::other(
            present[0],
            format!(
                "the row has `{}`, each of which names another format: ambiguous; set `format`",
                present.join("`, `")
            ),
        )),
    }
}

/// The pair of a row, with dirt that can be told from the text alone. Faults come in the order of [`Dirt::ALL`]; with
/// any of them the example may still be there, so that all dirt of a row can be counted.
pub(crate) fn example(row: Row, format: Format, options: &Options) -> (Option<Example>, Vec<Fault>) {
    let mut faults = Vec::new();
    let example = match convert(row, format, options, &mut faults) {
        Ok(example) => Some(example),
        Err(fault) => {
            faults.push(fault);
            None
        }
    };
    if let Some(example) = &example {
        examine(example, options, &mut faults);
    }
    (example, faults)
}

fn convert(mut row: Row, format: Format, options: &Options, faults: &mut Vec<Fault>) -> Result<Example, Fault> {
    match format {
        Format::Standard => {
            let expected = "the standard format has `prompt`, `chosen` and `rejected`, strings each";
            Ok(Example::Plain {
                prompt: string(&mut row, "prompt", expected)?,
                chosen: string(&mut row, "chosen", expected)?,
                rejected: string(&mut row, "rejected", expected)?,
            })
        }
        Format::ImplicitStandard => {
            let expected = "the implicit-standard format has `chosen` and `rejected`, strings that begin alike";
            let chosen = string(&mut row, "chosen", expected)?;
            let rejected = string(&mut row, "rejected", expected)?;
            split_strings(&chosen, &rejected, options.implicit_prompt, faults)
        }
        Format::Conversational => {
            let expected = "the conversational format has `prompt`, `chosen` and `rejected`, lists of messages each";
            Ok(Example::Chat {
                prompt: messages(get(&row, "prompt", expected)?, "prompt")?,
                chosen: messages(get(&row, "chosen", expected)?, "chosen")?,
                rejected: messages(get(&row, "rejected", expected)?, "rejected")?,
                tools: tools(&row)?,
                chat_template_kwargs: kwargs(&row)?,
            })
        }
        Format::ImplicitConversational => {
            let expected = "the implicit-conversational format has `chosen` and `rejected`, whole conversations each";
            let chosen = messages(get(&row, "chosen", expected)?, "chosen")?;
            let rejected = messages(get(&row, "rejected", expected)?, "rejected")?;
            split_messages(chosen, rejected, tools(&row)?, kwargs(&row)?, faults)
        }
        Format::Alpaca => alpaca(row),
        Format::Sharegpt => sharegpt(row),
        Format::LlamafactoryV1 => {
            let expected = "LLaMA-Factory's version 1 has `chosen_messages` and `rejected_messages`";
            let chosen = weighted_messages(get(&row, "chosen_messages", expected)?, "chosen_messages")?;
            let rejected = weighted_messages(get(&row, "rejected_messages", expected)?, "rejected_messages")?;
            let n = common(&chosen, &rejected, |a, b| a.0 == b.0);
            for (field, side) in [("chosen_messages", &chosen), ("rejected_messages", &rejected)] {
                if let Some((_, weight)) = side[n..].iter().find(|(_, w)| *w != 1.0) {
                    return Err(Fault::other(field, format!("a completion with loss_weight {weight}; expected 1")));
                }
            }
            let strip = |side: Vec<(Value, f64)>| side.into_iter().map(|(m, _)| m).collect();
            split_messages(strip(chosen), strip(rejected), tools(&row)?, Row::new(), faults)
        }
    }
}

fn examine(example: &Example, options: &Options, faults: &mut Vec<Fault>) {
    match example {
        Example::Plain { chosen, rejected, .. } => {
            for (dirt, field, text) in
                [(Dirt::EmptyChosen, "chosen", chosen), (Dirt::EmptyRejected, "rejected", rejected)]
            {
                if text.trim().is_empty() {
                    faults.push(Fault::dirt(dirt, field, format!("an empty completion, {text:?}; expected text")));
                }
            }
            if chosen == rejected {
                faults.push(Fault::dirt(Dirt::IdenticalPair, "rejected", "the same as `chosen`; nothing to prefer"));
            }
        }
        Example::Chat { prompt, chosen, rejected, .. } => {
            if prompt.last().is_some_and(|m| role(m) == "assistant") {
                faults.push(Fault::other("prompt", "the last message is the assistant's; expected a turn to answer"));
            }
            for (dirt, field, side) in
                [(Dirt::EmptyChosen, "chosen", chosen), (Dirt::EmptyRejected, "rejected", rejected)]
            {
                let said = |m: &Value| m.get("tool_calls").is_some() || !is_blank(m.get("content"));
                if !side.iter().any(said) {
                    faults.push(Fault::dirt(dirt, field, "an empty completion; expected a message with content"));
                }
            }
            if chosen == rejected {
                faults.push(Fault::dirt(Dirt::IdenticalPair, "rejected", "the same as `chosen`; nothing to prefer"));
            } else if !options.assistant_only_loss {
                for (field, side) in [("chosen", chosen), ("rejected", rejected)] {
                    if let Some(m) = side.iter().find(|m| role(m) != "assistant") {
                        faults.push(Fault::dirt(
                            Dirt::DifferingPrompts,
                            field,
                            format!(
                                "the completion has a turn of the {}, which would be scored as the model's own; \
                                 expected assistant messages (or `assistant_only_loss`)",
                                role(m)
                            ),
                        ));
                        break;
                    }
                }
            }
        }
    }
    let order = |f: &Fault| match f.kind {
        FaultKind::Dirt(dirt, _) => Dirt::ALL.iter().position(|d| *d == dirt).unwrap_or(Dirt::ALL.len()),
        _ => 0,
    };
    faults.sort_by_key(order);
}

/// Where hh-rlhf's dialogues turn to the model.
const TURN: &str = "\n\nAssistant:";

fn split_strings(a: &str, b: &str, rule: ImplicitPrompt, faults: &mut Vec<Fault>) -> Result<Example, Fault> {
    let both = [("chosen", a), ("rejected", b)];
    let by_turn = match rule {
        ImplicitPrompt::Turn => {
            if let Some((field, text)) = both.into_iter().find(|(_, text)| !text.contains(TURN)) {
                let start: String = text.chars().take(40).collect();
                return Err(Fault::other(
                    field,
                    format!("no {TURN:?} in it, which `implicit_prompt = \"turn\"` splits at; it begins {start:?}"),
                ));
            }
            true
        }
        ImplicitPrompt::Auto => both.into_iter().all(|(_, text)| text.contains(TURN)),
        ImplicitPrompt::CommonPrefix => false,
    };
    if by_turn {
        let split = |text: &str| {
            let at = text.rfind(TURN).map_or(0, |at| at + TURN.len());
            (text[..at].to_owned(), text[at..].to_owned())
        };
        let ((prompt, chosen), (other, rejected)) = (split(a), split(b));
        if prompt != other {
            faults.push(Fault::dirt(
                Dirt::DifferingPrompts,
                "rejected",
                format!("answers another prompt than `chosen`: {}", difference(&prompt, &other)),
            ));
        }
        return Ok(Example::Plain { prompt, chosen, rejected });
    }
    if a == b {
        return Err(Fault::dirt(Dirt::IdenticalPair, "rejected", "the same as `chosen`; nothing to prefer"));
    }
    let mut at =
        a.char_indices().zip(b.chars()).find(|((_, x), y)| x != y).map_or(a.len().min(b.len()), |((i, _), _)| i);
    if rule == ImplicitPrompt::Auto {
        let word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        let inside = |text: &str, at: usize| word(text[..at].chars().next_back()) && word(text[at..].chars().next());
        if inside(a, at) || inside(b, at) {
            at = a[..at].trim_end_matches(char::is_alphanumeric).len();
        }
        at = a[..at].trim_end_matches(' ').len();
    } else if a[..at].ends_with(' ') {
        at -= 1;
    }
    if at == 0 {
        faults.push(Fault::dirt(
            Dirt::DifferingPrompts,
            "rejected",
            "begins otherwise than `chosen`; expected both to begin with the prompt",
        ));
    }
    Ok(Example::Plain { prompt: a[..at].to_owned(), chosen: a[at..].to_owned(), rejected: b[at..].to_owned() })
}

fn difference(a: &str, b: &str) -> String {
    let at = a.chars().zip(b.chars()).take_while(|(x, y)| x == y).count();
    let show = |text: &str| text.chars().skip(at).take(30).collect::<String>();
    format!("they part at character {}, {:?} against {:?}", at + 1, show(a), show(b))
}

fn common<T>(a: &[T], b: &[T], same: impl Fn(&T, &T) -> bool) -> usize {
    a.iter().zip(b).take_while(|(x, y)| same(x, y)).count()
}

fn split_messages(
    mut chosen: Vec<Value>,
    mut rejected: Vec<Value>,
    tools: Option<Value>,
    chat_template_kwargs: Row,
    faults: &mut Vec<Fault>,
) -> Result<Example, Fault> {
    if chosen == rejected {
        return Err(Fault::dirt(Dirt::IdenticalPair, "rejected", "the same as `chosen`; nothing to prefer"));
    }
    let n = common(&chosen, &rejected, |a, b| a == b);
    let asked = chosen[..n].iter().any(|m| role(m) != "system");
    let answers = chosen.get(n).into_iter().chain(rejected.get(n)).all(|m| role(m) == "assistant");
    if !asked || !answers {
        faults.push(Fault::dirt(
            Dirt::DifferingPrompts,
            "rejected",
            format!("parts from `chosen` at message {}, before the assistant's turn", n + 1),
        ));
    }
    let prompt = chosen.drain(..n).collect();
    rejected.drain(..n);
    Ok(Example::Chat { prompt, chosen, rejected, tools, chat_template_kwargs })
}

fn alpaca(mut row: Row) -> Result<Example, Fault> {
    let expected =
        "the alpaca format has `instruction`, `chosen` and `rejected`, and `input`, `system`, `history` if any";
    let mut prompt = Vec::new();
    let optional = |row: &mut Row, field: &str| match row.get(field) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(_) => string(row, field, expected),
    };
    let system = optional(&mut row, "system")?;
    if !system.is_empty() {
        prompt.push(message("system", system));
    }
    if let Some(history) = row.get("history").filter(|h| !h.is_null()) {
        let wrong = || Fault::wrong_type("history", "a list of [question, answer] pairs of strings", history);
        for turn in history.as_array().ok_or_else(wrong)? {
            match turn.as_array().map(Vec::as_slice) {
                Some([Value::String(question), Value::String(answer)]) => {
                    prompt.push(message("user", question.clone()));
                    prompt.push(message("assistant", answer.clone()));
                }
                _ => return Err(wrong()),
            }
        }
    }
    let parts = [string(&mut row, "instruction", expected)?, optional(&mut row, "input")?];
    let asked: Vec<_> = parts.into_iter().filter(|p| !p.is_empty()).collect();
    prompt.push(message("user", asked.join("\n")));
    Ok(Example::Chat {
        prompt,
        chosen: vec![message("assistant", string(&mut row, "chosen", expected)?)],
        rejected: vec![message("assistant", string(&mut row, "rejected", expected)?)],
        tools: None,
        chat_template_kwargs: Row::new(),
    })
}

fn sharegpt(row: Row) -> Result<Example, Fault> {
    let expected = "the sharegpt format has `conversations`, `chosen` and `rejected` of {from, value}";
    let mut prompt = Vec::new();
    if let Some(system) = row.get("system").filter(|s| !s.is_null() && *s != "") {
        let text = system.as_str().ok_or_else(|| Fault::wrong_type("system", "a string", system))?;
        prompt.push(message("system", text.to_owned()));
    }
    let turns = |field: &str| -> Result<Vec<Value>, Fault> {
        let value = get(&row, field, expected)?;
        let list = match value {
            Value::Array(list) => list.as_slice(),
            Value::Object(_) => std::slice::from_ref(value),
            other => return Err(Fault::wrong_type(field, "{from, value}, or a list of them", other)),
        };
        list.iter().map(|turn| sharegpt_turn(turn, field)).collect()
    };
    prompt.extend(turns("conversations")?);
    Ok(Example::Chat {
        prompt,
        chosen: turns("chosen")?,
        rejected: turns("rejected")?,
        tools: tools(&row)?,
        chat_template_kwargs: Row::new(),
    })
}

fn sharegpt_turn(turn: &Value, field: &str) -> Result<Value, Fault> {
    let part = |key: &str| match turn.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(Fault::wrong_type(&format!("{field}.{key}"), "a string", other)),
        None => Err(Fault::wrong_type(field, "{from, value}", turn)),
    };
    let (from, value) = (part("from")?, part("value")?);
    Ok(match from.as_str() {
        "human" | "user" => message("user", value),
        "gpt" | "assistant" => message("assistant", value),
        "system" => message("system", value),
        "observation" | "tool" => message("tool", value),
        "function_call" => {
            let call: Value = serde_json::from_str(&value).map_err(|e| {
                Fault::other(&format!("{field}.value"), format!("a function_call that is not JSON ({e})"))
            })?;
            let calls = if let Value::Array(all) = call { all } else { vec![call] };
            let calls: Vec<_> = calls.into_iter().map(|c| json!({"type": "function", "function": c})).collect();
            json!({"role": "assistant", "content": "", "tool_calls": calls})
        }
        other => {
            return Err(Fault::other(
                &format!("{field}.from"),
                format!(
                    "unknown speaker {other:?}; known are human, user, gpt, assistant, system, observation, tool, \
                     function_call"
                ),
            ));
        }
    })
}

/// Messages whose content is a list of `{type: "text", value}`, with their loss weights.
fn weighted_messages(value: &Value, field: &str) -> Result<Vec<(Value, f64)>, Fault> {
    let list = value.as_array().ok_or_else(|| Fault::wrong_type(field, "a list of messages", value))?;
    let mut out = Vec::new();
    for m in list {
        let who = m.get("role").and_then(Value::as_str).ok_or_else(|| {
            Fault::wrong_type(field, "messages with a `role`, a string", m.get("role").unwrap_or(&Value::Null))
        })?;
        let mut text = String::new();
        match m.get("content") {
            Some(Value::String(s)) => text.push_str(s),
            Some(Value::Array(parts)) => {
                for part in parts {
                    match (part.get("type").and_then(Value::as_str), part.get("value").and_then(Value::as_str)) {
                        (Some("text"), Some(value)) => text.push_str(value),
                        (Some(kind), _) => {
                            return Err(Fault::other(field, format!("a part of type {kind:?}; only text is read")));
                        }
                        _ => return Err(Fault::wrong_type(field, "content parts {type, value}", part)),
                    }
                }
            }
            other => {
                let found = other.unwrap_or(&Value::Null);
                return Err(Fault::wrong_type(field, "content as a string or a list of parts", found));
            }
        }
        let weight = match m.get("loss_weight") {
            None | Some(Value::Null) => 1.0,
            Some(w) => w.as_f64().ok_or_else(|| Fault::wrong_type(field, "`loss_weight` as a number", w))?,
        };
        out.push((message(who, text), weight));
    }
    Ok(out)
}

fn message(role: &str, content: String) -> Value {
    json!({"role": role, "content": content})
}

fn role(message: &Value) -> &str {
    message.get("role").and_then(Value::as_str).unwrap_or_default()
}

fn is_blank(content: Option<&Value>) -> bool {
    match content {
        Some(Value::String(text)) => text.trim().is_empty(),
        Some(Value::Array(parts)) => {
            parts.iter().all(|p| p.get("text").and_then(Value::as_str).unwrap_or_default().trim().is_empty())
        }
        _ => true,
    }
}

fn get<'r>(row: &'r Row, field: &str, expected: &str) -> Result<&'r Value, Fault> {
    row.get(field).ok_or_else(|| Fault {
        field: field.to_owned(),
        kind: FaultKind::Missing { expected: expected.to_owned(), found: row.keys().cloned().collect() },
    })
}

fn string(row: &mut Row, field: &str, expected: &str) -> Result<String, Fault> {
    get(row, field, expected)?;
    match row.get_mut(field).map(Value::take) {
        Some(Value::String(text)) => Ok(text),
        other => Err(Fault::wrong_type(field, "a string", &other.unwrap_or_default())),
    }
}

/// A list of messages as chat templates take them; null fields, which Parquet adds to make rows alike, are left out.
fn messages(value: &Value, field: &str) -> Result<Vec<Value>, Fault> {
    let list = match value {
        Value::Array(list) => list.as_slice(),
        Value::Object(_) => std::slice::from_ref(value),
        other => return Err(Fault::wrong_type(field, "a list of messages {role, content}", other)),
    };
    list.iter()
        .enumerate()
        .map(|(i, m)| {
            let at = |key: &str| format!("{field}[{i}].{key}");
            let object = m
                .as_object()
                .ok_or_else(|| Fault::wrong_type(&format!("{field}[{i}]"), "a message {role, content}", m))?;
            match object.get("role") {
                Some(Value::String(_)) => {}
                other => return Err(Fault::wrong_type(&at("role"), "a string", other.unwrap_or(&Value::Null))),
            }
            match object.get("content") {
                Some(Value::String(_)) => {}
                Some(Value::Array(parts)) => {
                    for part in parts {
                        let kind = part.get("type").and_then(Value::as_str);
                        if kind != Some("text") || !part.get("text").is_some_and(Value::is_string) {
                            return Err(Fault::wrong_type(
                                &at("content"),
                                "text, or parts {type: \"text\", text}",
                                part,
                            ));
                        }
                    }
                }
                None | Some(Value::Null) if object.get("tool_calls").is_some_and(|c| !c.is_null()) => {}
                other => return Err(Fault::wrong_type(&at("content"), "a string", other.unwrap_or(&Value::Null))),
            }
            let mut clean = without_nulls(m);
            if object.get("content").is_some_and(Value::is_null) {
                clean["content"] = Value::Null; // templates ask `message.content is none`
            }
            Ok(clean)
        })
        .collect()
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), without_nulls(v))).collect()
        }
        Value::Array(list) => list.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

/// Tool definitions: a list, or JSON text of one (Parquet cannot hold free-form objects).
fn tools(row: &Row) -> Result<Option<Value>, Fault> {
    let parsed = match row.get("tools") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
        Some(Value::String(text)) => serde_json::from_str(text)
            .map_err(|e| Fault::other("tools", format!("a string that is not JSON ({e}); expected a list of tools")))?,
        Some(other) => other.clone(),
    };
    match parsed {
        Value::Array(list) if list.is_empty() => Ok(None),
        Value::Array(_) => Ok(Some(without_nulls(&parsed))),
        other => Err(Fault::wrong_type("tools", "a list of tools", &other)),
    }
}

fn kwargs(row: &Row) -> Result<Row, Fault> {
    match row.get("chat_template_kwargs") {
        None | Some(Value::Null) => Ok(Row::new()),
        Some(Value::Object(map)) => Ok(map.clone()),
        Some(Value::String(text)) => serde_json::from_str(text)
            .map_err(|e| Fault::other("chat_template_kwargs", format!("a string that is not a JSON object ({e})"))),
        Some(other) => Err(Fault::wrong_type("chat_template_kwargs", "an object", other)),
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => format!("the boolean {b}"),
        Value::Number(n) => format!("the number {n}"),
        Value::String(s) => format!("the string {:?}", s.chars().take(30).collect::<String>()),
        Value::Array(a) => format!("a list of {}", a.len()),
        Value::Object(o) => format!("an object with {}", o.keys().cloned().collect::<Vec<_>>().join(", ")),
    }
}
