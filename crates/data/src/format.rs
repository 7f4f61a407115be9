//! From a row of a file to a preference pair or a lesson, whatever the row's format.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::{Error, Place};
use crate::options::{Dirt, Format, ImplicitPrompt, Options, Task};
use crate::source;

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

/// A row as text, before it is tokenised: what is read, and the sides that are scored, two of a pair and one of a lesson.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Said {
    pub text: Text,
    /// The fields that the sides come from, for messages.
    pub fields: &'static [&'static str],
    /// A lesson without a prompt: all of its side is learnt.
    pub whole: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Text {
    Plain { prompt: String, sides: Vec<String> },
    Chat { prompt: Vec<Value>, sides: Vec<Vec<Value>>, tools: Option<Value>, chat_template_kwargs: Row },
}

impl From<Example> for Said {
    fn from(example: Example) -> Self {
        let text = match example {
            Example::Plain { prompt, chosen, rejected } => Text::Plain { prompt, sides: vec![chosen, rejected] },
            Example::Chat { prompt, chosen, rejected, tools, chat_template_kwargs } => {
                Text::Chat { prompt, sides: vec![chosen, rejected], tools, chat_template_kwargs }
            }
        };
        Self { text, fields: &["chosen", "rejected"], whole: false }
    }
}

impl Said {
    /// The pair that it is; None for a lesson.
    pub fn pair(self) -> Option<Example> {
        match self.text {
            Text::Plain { prompt, sides } => {
                let [chosen, rejected] = sides.try_into().ok()?;
                Some(Example::Plain { prompt, chosen, rejected })
            }
            Text::Chat { prompt, sides, tools, chat_template_kwargs } => {
                let [chosen, rejected] = sides.try_into().ok()?;
                Some(Example::Chat { prompt, chosen, rejected, tools, chat_template_kwargs })
            }
        }
    }

    /// The lesson that a pair's chosen side is.
    fn of_chosen(pair: Example) -> Self {
        let mut said = Self { fields: &["chosen"], ..Self::from(pair) };
        match &mut said.text {
            Text::Plain { sides, .. } => sides.truncate(1),
            Text::Chat { sides, .. } => sides.truncate(1),
        }
        said
    }

    /// Makes the prompt a part of what is learnt.
    fn join(&mut self) {
        self.whole = true;
        match &mut self.text {
            Text::Plain { prompt, sides } => sides[0].insert_str(0, &std::mem::take(prompt)),
            Text::Chat { prompt, sides, .. } => drop(sides[0].splice(..0, std::mem::take(prompt))),
        }
    }
}

/// The dirt that an empty side is.
pub(crate) fn empty(field: &str) -> Dirt {
    match field {
        "chosen" => Dirt::EmptyChosen,
        "rejected" => Dirt::EmptyRejected,
        _ => Dirt::EmptyCompletion,
    }
}

/// What is wrong with one row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fault {
    pub field: String,
    pub kind: FaultKind,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum FaultKind {
    Json(String),
    /// Of a row that is not of JSON.
    Malformed(String),
    Missing {
        expected: String,
        found: Vec<String>,
    },
    Dirt(Dirt, String),
    Template(String),
    Other(String),
}

impl Fault {
    pub fn new(dirt: Dirt, field: &str, message: impl Into<String>) -> Self {
        Self { field: field.to_owned(), kind: FaultKind::Dirt(dirt, message.into()) }
    }

    pub fn other(field: &str, message: impl Into<String>) -> Self {
        Self { field: field.to_owned(), kind: FaultKind::Other(message.into()) }
    }

    fn wrong_type(field: &str, expected: &str, found: &Value) -> Self {
        Self::new(Dirt::WrongType, field, format!("expected {expected}, found {}", describe(found)))
    }

    /// The kind of dirt, where a policy exists for it.
    pub fn dirt(&self) -> Option<Dirt> {
        match self.kind {
            FaultKind::Json(_) | FaultKind::Malformed(_) => Some(Dirt::MalformedRow),
            FaultKind::Missing { .. } => Some(Dirt::MissingField),
            FaultKind::Dirt(dirt, _) => Some(dirt),
            FaultKind::Template(_) => Some(Dirt::RefusedByTemplate),
            FaultKind::Other(_) => None,
        }
    }

    /// What is wrong, in a line.
    pub fn message(&self) -> String {
        let field = &self.field;
        let all = match &self.kind {
            FaultKind::Json(message) | FaultKind::Malformed(message) | FaultKind::Template(message) => message.clone(),
            FaultKind::Missing { .. } => format!("no field `{field}`"),
            FaultKind::Dirt(_, message) | FaultKind::Other(message) => format!("`{field}`: {message}"),
        };
        all.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
    }

    pub fn into_error(self, place: Place) -> Error {
        let field = self.field;
        match self.kind {
            FaultKind::Json(message) => Error::Json { place, message },
            FaultKind::Malformed(message) => Error::Malformed { place, message },
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
        Format::Alpaca => &["instruction", "input", "output", "chosen", "rejected", "system", "history"],
        Format::Sharegpt => &["conversations", "chosen", "rejected", "system", "tools"],
        Format::LlamafactoryV1 => &["chosen_messages", "rejected_messages", "tools"],
        Format::Axolotl => &["messages", "chosen", "rejected", "tools", "chat_template_kwargs"],
        Format::MsSwift => &["messages", "rejected_response", "rejected_messages", "tools"],
        Format::Openai => &["input", "preferred_output", "non_preferred_output"],
        Format::NemoRl => &["context", "completions"],
        Format::PromptCompletion => &["prompt", "completion", "tools", "chat_template_kwargs"],
        Format::Messages => &["messages", "tools", "chat_template_kwargs"],
        Format::Text => &["text"],
    }
}

/// By how much a pair's rewards are to differ, beside the fields of any format.
pub(crate) const MARGIN: &str = "margin";

/// The margin of a row, if it has one.
pub(crate) fn margin(row: &Row) -> Result<Option<f32>, Fault> {
    match row.get(MARGIN).filter(|v| !v.is_null()) {
        None => Ok(None),
        Some(v) => match v.as_f64().map(|m| m as f32).filter(|m| m.is_finite()) {
            Some(margin) => Ok(Some(margin)),
            None => Err(Fault::wrong_type(MARGIN, "a finite number", v)),
        },
    }
}

/// Every field that some format reads: what a column may be renamed to.
pub(crate) const FIELDS: [&str; 22] = [
    MARGIN,
    "prompt",
    "chosen",
    "rejected",
    "tools",
    "chat_template_kwargs",
    "instruction",
    "input",
    "output",
    "system",
    "history",
    "conversations",
    "messages",
    "chosen_messages",
    "rejected_messages",
    "rejected_response",
    "preferred_output",
    "non_preferred_output",
    "context",
    "completions",
    "completion",
    "text",
];

/// Fields in which messages may stand as text of JSON, as CSV has to hold them and Parquet often does.
const OF_MESSAGES: [&str; 13] = [
    "prompt",
    "chosen",
    "rejected",
    "conversations",
    "messages",
    "chosen_messages",
    "rejected_messages",
    "input",
    "preferred_output",
    "non_preferred_output",
    "context",
    "completions",
    "completion",
];

/// Other projects' names for the two sides, and for the prompt.
const SIDES: [[&str; 2]; 15] = [
    ["chosen_response", "rejected_response"],
    ["chosen_conversations", "rejected_conversations"],
    ["chosen_conversation", "rejected_conversation"],
    ["chosen_answer", "rejected_answer"],
    ["chosen_text", "rejected_text"],
    ["response_chosen", "response_rejected"],
    ["response_j", "response_k"],
    ["preferred", "dispreferred"],
    ["preferred_response", "dispreferred_response"],
    ["preferred", "rejected"],
    ["accepted", "rejected"],
    ["better", "worse"],
    ["winner", "loser"],
    ["win", "lose"],
    ["positive", "negative"],
];
const PROMPTS: [&str; 10] =
    ["question", "query", "input", "instruction", "user", "context", "problem", "text", "post", "user_prompt"];

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

/// Messages that stand in a row as text of JSON become messages: text of them is never what a model is to say.
pub(crate) fn unpack(row: &mut Row) -> Result<(), Fault> {
    for field in OF_MESSAGES {
        let Some(Value::String(text)) = row.get(field) else { continue };
        let text = text.trim();
        if !text.starts_with(['[', '{']) {
            continue;
        }
        let inner = text.trim_start_matches(['[', '{', ' ', '\n', '\r', '\t']);
        let named = |quote: char, names: &[&str]| {
            names.iter().any(|name| inner.strip_prefix(quote).is_some_and(|t| t.starts_with(&format!("{name}{quote}"))))
        };
        let keys = ["role", "content", "from", "value", "messages", "completion", "rank"];
        if named('\'', &keys) {
            let message = "messages as Python prints them; expected messages, or their text in JSON (json.dumps)";
            return Err(Fault::new(Dirt::WrongType, field, message));
        }
        match source::value(text.as_bytes()) {
            Ok(value) if speaks_of_messages(&value) => {
                row.insert(field.to_owned(), value);
            }
            Err(e) if named('"', &keys[..4]) => {
                let message = format!("text of messages in JSON that cannot be read: {e}");
                return Err(Fault::new(Dirt::WrongType, field, message));
            }
            _ => {}
        }
    }
    Ok(())
}

fn speaks_of_messages(value: &Value) -> bool {
    let message = |m: &Value| {
        let has = |key: &str| m.get(key).is_some();
        (has("role") && (has("content") || has("tool_calls"))) || (has("from") && has("value"))
    };
    match value {
        Value::Array(list) => {
            !list.is_empty() && list.iter().all(|m| message(m) || m.get("completion").is_some_and(speaks_of_messages))
        }
        Value::Object(object) => message(value) || object.get("messages").is_some_and(speaks_of_messages),
        _ => false,
    }
}

/// Other projects' names for an answer that is to be learnt.
const ANSWERS: [&str; 9] =
    ["response", "answer", "output", "completion", "target", "reply", "assistant", "solution", "model_answer"];

/// The columns that a row fills: null is as good as nothing, for files in which all rows have the same columns.
fn has(row: &Row, field: &str) -> bool {
    row.get(field).is_some_and(|v| !v.is_null())
}

/// The messages of a side that may be a list of them, or one.
fn first_role(side: Option<&Value>) -> Option<&str> {
    let first = match side? {
        Value::Array(list) => list.first()?,
        one => one,
    };
    first.get("role").and_then(Value::as_str)
}

/// The format that a row has, unless a text in it is read by none.
pub(crate) fn recognise(row: &Row, task: Task, options: &Options) -> Result<Format, Fault> {
    let format = match task {
        Task::Align | Task::Reward => layout(row)?,
        Task::Sft => lesson_layout(row)?,
    };
    match unread(row, format, options) {
        None => Ok(format),
        Some(fault) => Err(fault),
    }
}

fn layout(row: &Row) -> Result<Format, Fault> {
    let has = |field: &str| has(row, field);
    let is_list = |field: &str| row.get(field).is_some_and(|v| v.is_array() || v.is_object());
    if has("preferred_output") || has("non_preferred_output") {
        return Ok(Format::Openai);
    }
    if has("messages") && !has("chosen") && (has("rejected_response") || has("rejected_messages")) {
        return Ok(Format::MsSwift);
    }
    if has("chosen_messages") || has("rejected_messages") {
        return Ok(Format::LlamafactoryV1);
    }
    if has("completions") && has("context") {
        return Ok(Format::NemoRl);
    }
    let two = |v: &Value| v.as_array().is_some_and(|v| v.len() == 2 && v.iter().all(Value::is_string));
    if has("instruction") && !has("chosen") && row.get("output").is_some_and(two) {
        return Ok(Format::Alpaca);
    }
    let expected = "expected `prompt`, `chosen`, `rejected` (strings or messages), `chosen`, `rejected` alone, or \
                    another layout of those that the documentation of data lists";
    let expected = match renaming(row) {
        Some(columns) => format!("`columns = {columns}` reads what the row has; {expected}"),
        None if !has("chosen") && !has("rejected") && lesson_layout(row).is_ok() => {
            format!("such rows are for supervised training; {expected}")
        }
        None => format!("{expected}; other columns can be renamed with `columns`"),
    };
    get(row, "chosen", &expected)?;
    get(row, "rejected", &expected)?;
    let sides = [row.get("chosen"), row.get("rejected")];
    if let Some(field) = ["chosen", "rejected"].into_iter().zip(sides).find_map(|(field, side)| {
        let list = side?.as_array()?;
        (!list.is_empty() && list.iter().all(Value::is_string)).then_some(field)
    }) {
        let n = row[field].as_array().map_or(0, Vec::len);
        return Err(Fault::other(field, format!("a list of {n} strings; expected the string itself, or messages")));
    }
    let answers = is_list("chosen") && is_list("rejected") && sides.iter().all(|s| first_role(*s) == Some("assistant"));
    let forms = ["prompt", "conversations", "instruction", "messages"];
    let present: Vec<_> =
        forms.into_iter().filter(|f| has(f) && (*f != "messages" || (answers && is_list("messages")))).collect();
    match present[..] {
        ["prompt"] if row["prompt"].is_array() => Ok(Format::Conversational),
        // A string can only be the user's message.
        ["prompt"] if answers => Ok(Format::Conversational),
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
        ["messages"] => Ok(Format::Axolotl),
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

/// The layout of a row that is to be learnt from.
fn lesson_layout(row: &Row) -> Result<Format, Fault> {
    let has = |field: &str| has(row, field);
    let two = |v: &Value| v.as_array().is_some_and(|v| v.len() == 2 && v.iter().all(Value::is_string));
    let of_pairs = ["preferred_output", "non_preferred_output", "chosen_messages", "rejected_messages"];
    if of_pairs.into_iter().any(has)
        || (has("chosen") && has("rejected"))
        || (has("messages") && has("rejected_response"))
        || (has("context") && has("completions"))
        || (has("instruction") && row.get("output").is_some_and(two))
    {
        return layout(row);
    }
    let forms = [
        ("completion", Format::PromptCompletion),
        ("output", Format::Alpaca),
        ("messages", Format::Messages),
        ("conversations", Format::Sharegpt),
        ("text", Format::Text),
    ];
    let present: Vec<_> = forms.into_iter().filter(|(f, _)| has(f) && (*f != "output" || has("instruction"))).collect();
    match present[..] {
        [(_, format)] => {
            if format == Format::PromptCompletion {
                get(
                    row,
                    "prompt",
                    "the prompt-completion format has `prompt` beside `completion`; what has no prompt is `text`",
                )?;
            }
            Ok(format)
        }
        [] => {
            let expected = "expected `prompt` and `completion` (strings or messages), `messages`, `conversations`, `text`, \
                            `instruction` and `output`, or a pair with `chosen` and `rejected`, of which `chosen` is learnt";
            let expected = match lesson_renaming(row) {
                Some(columns) => format!("`columns = {columns}` reads what the row has; {expected}"),
                None => format!("{expected}; other columns can be renamed with `columns`"),
            };
            let kind = FaultKind::Missing { expected, found: row.keys().cloned().collect() };
            Err(Fault { field: "completion".to_owned(), kind })
        }
        [(first, _), ..] => Err(Fault::other(
            first,
            format!(
                "the row has `{}`, each of which names another format: ambiguous; set `format`",
                present.iter().map(|(f, _)| *f).collect::<Vec<_>>().join("`, `")
            ),
        )),
    }
}

/// The `columns` that make a known supervised layout of other projects' names.
fn lesson_renaming(row: &Row) -> Option<String> {
    let text = |name: &&str| row.get(*name).is_some_and(Value::is_string);
    let mut columns = Vec::new();
    if let Some(list) =
        ["conversation", "dialogue", "chat", "dialog"].into_iter().find(|c| row.get(*c).is_some_and(Value::is_array))
    {
        return Some(format!("{{{list} = \"messages\"}}"));
    }
    let answer = ANSWERS.into_iter().find(text)?;
    let prompt = if has(row, "instruction") {
        "instruction"
    } else {
        ["prompt"].into_iter().chain(PROMPTS).find(|name| *name != answer && text(name))?
    };
    let system = SYSTEM.into_iter().find(text);
    let alpaca = prompt == "instruction" || system.is_some();
    for (theirs, ours) in [
        (prompt, if alpaca { "instruction" } else { "prompt" }),
        (answer, if alpaca { "output" } else { "completion" }),
    ] {
        if theirs != ours {
            columns.push(format!("{theirs} = \"{ours}\""));
        }
    }
    columns.extend(system.filter(|s| *s != "system").map(|s| format!("{s} = \"system\"")));
    if alpaca && prompt != "context" && has(row, "context") && !has(row, "input") {
        columns.push("context = \"input\"".to_owned());
    }
    Some(format!("{{{}}}", columns.join(", ")))
}

/// The `columns` that make a known layout of other projects' names.
fn renaming(row: &Row) -> Option<String> {
    let [chosen, rejected] = SIDES.into_iter().find(|sides| sides.iter().all(|side| has(row, side)))?;
    let mut columns = Vec::new();
    let texts = row[chosen].is_string();
    if texts && !has(row, "prompt") {
        let prompt = PROMPTS.into_iter().find(|name| row.get(*name).is_some_and(Value::is_string))?;
        // The system's text has a place beside an instruction only.
        let ours = if has(row, "system") { "instruction" } else { "prompt" };
        if prompt != ours {
            columns.push(format!("{prompt} = \"{ours}\""));
        }
    } else if texts && has(row, "system") {
        columns.push("prompt = \"instruction\"".to_owned());
    }
    for (theirs, ours) in [(chosen, "chosen"), (rejected, "rejected")] {
        if theirs != ours {
            columns.push(format!("{theirs} = \"{ours}\""));
        }
    }
    Some(format!("{{{}}}", columns.join(", ")))
}

/// Columns of text that can be no prompt.
const ABOUT: [&str; 20] = [
    "id",
    "idx",
    "index",
    "uid",
    "uuid",
    "hash",
    "split",
    "source",
    "dataset",
    "dataset_name",
    "subset",
    "category",
    "topic",
    "lang",
    "language",
    "model",
    "license",
    "url",
    "score",
    "timestamp",
];
const SYSTEM: [&str; 3] = ["system", "system_prompt", "system_message"];

fn speaks(value: &Value) -> bool {
    match value {
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(list) => list.iter().any(speaks),
        Value::Object(object) => object.values().any(speaks),
        _ => false,
    }
}

/// A text that is part of what was asked, and that the format does not read.
pub(crate) fn unread(row: &Row, format: Format, options: &Options) -> Option<Fault> {
    let read = fields(format);
    let others = || row.iter().filter(|(name, value)| !read.contains(&name.as_str()) && speaks(value));
    let name = format.name();
    let force = format!("`format = \"{name}\"` leaves it out");
    if let Some((column, _)) = others().find(|(name, _)| SYSTEM.contains(&name.as_str())) {
        let whole = match format {
            Format::Standard | Format::PromptCompletion if row.get("prompt").is_some_and(Value::is_string) => {
                let answer = if format == Format::Standard { "" } else { ", completion = \"output\"" };
                let system = if column == "system" { String::new() } else { format!(", {column} = \"system\"") };
                return Some(Fault::other(
                    column,
                    format!(
                        "text for the system that nothing reads beside `prompt` as a string: ambiguous; `columns = {{prompt = \
                     \"instruction\"{answer}{system}}}` makes messages of both, {force}",
                    ),
                ));
            }
            Format::Text => {
                return Some(Fault::other(
                    column,
                    format!("text for the system that nothing reads beside `text`: ambiguous; {force}"),
                ));
            }
            Format::Conversational | Format::PromptCompletion => row.get("prompt"),
            Format::Axolotl | Format::Messages => row.get("messages"),
            Format::ImplicitConversational => row.get("chosen"),
            _ => None,
        };
        if whole.is_some() && first_role(whole) != Some("system") {
            return Some(Fault::other(
                column,
                format!("text for the system that nothing reads: ambiguous; make it the first message, or {force}"),
            ));
        }
    }
    match format {
        // Unpaired preferences: TRL's KTO.
        Format::PromptCompletion if row.get("label").is_some_and(Value::is_boolean) => {
            let message = "true or false beside `completion`, as of completions that are good or bad: ambiguous; keep the \
                           good ones alone and leave the column out";
            return Some(Fault::other("label", format!("{message}, or `format = \"{name}\"` to learn all")));
        }
        Format::Text => {
            let text = row.get("text").and_then(Value::as_str)?;
            let repeated = |v: &Value| v.as_str().is_some_and(|t| text.contains(t.trim()));
            let asked = ["prompt", "instruction", "question", "query"];
            let (column, _) = others().find(|(name, value)| asked.contains(&name.as_str()) && !repeated(value))?;
            return Some(Fault::other(
                column,
                format!(
                    "text that nothing reads, and `text` does not have it: ambiguous; `columns = {{{column} = \"prompt\", \
                     text = \"completion\"}}` makes a prompt and its completion of both, {force}"
                ),
            ));
        }
        Format::Messages => {
            let messages = row.get("messages");
            let column = candidate(others()).filter(|_| first_role(messages) == Some("assistant"))?;
            return Some(Fault::other(
                column,
                format!("text that nothing reads, and `messages` begin with the assistant's turn: ambiguous; {force}"),
            ));
        }
        _ => {}
    }
    let (chosen, rejected) = (row.get("chosen")?, row.get("rejected")?);
    match format {
        Format::ImplicitStandard if options.implicit_prompt == ImplicitPrompt::Auto => {
            let (a, b) = (chosen.as_str()?, rejected.as_str()?);
            if a.contains(TURN) && b.contains(TURN) {
                return None;
            }
            // What stands at the beginning of both is no news.
            let repeated = |v: &Value| v.as_str().is_some_and(|t| a.starts_with(t) && b.starts_with(t));
            let column = candidate(others().filter(|(_, value)| !repeated(value)))?;
            let beside = if has(row, "system") { " (with `system`)" } else { "" };
            Some(Fault::other(
                column,
                format!(
                    "text that nothing reads, and the row has no `prompt`: ambiguous; `columns = {{{column} = \
                     \"instruction\"}}` makes the alpaca layout of it{beside}, `columns = {{{column} = \"prompt\"}}` \
                     the standard one; `format = \"{name}\"` says that the prompt stands inside `chosen` and \
                     `rejected`"
                ),
            ))
        }
        Format::ImplicitConversational => {
            let inside = [chosen, rejected].iter().all(|side| first_role(Some(side)).is_some_and(|r| r != "assistant"));
            let column = candidate(others()).filter(|_| !inside)?;
            Some(Fault::other(
                column,
                format!(
                    "text that nothing reads, and neither `prompt` nor `chosen` and `rejected` say what was asked: \
                     ambiguous; `columns = {{{column} = \"prompt\"}}` makes it the prompt, {force}"
                ),
            ))
        }
        _ => None,
    }
}

/// The column that is likeliest the prompt.
fn candidate<'r>(columns: impl Iterator<Item = (&'r String, &'r Value)>) -> Option<&'r str> {
    let no_prompt = |name: &str| {
        ABOUT.contains(&name) || SYSTEM.contains(&name) || name.ends_with("_id") || name.ends_with("_model")
    };
    let names: Vec<&str> = columns.map(|(name, _)| name.as_str()).filter(|name| !no_prompt(name)).collect();
    PROMPTS.into_iter().find_map(|known| names.iter().find(|name| **name == known).copied()).or(names.first().copied())
}

/// What a row says, with dirt that can be told from the text alone. Faults come in the order of [`Dirt::ALL`]; with
/// any of them the text may still be there, so that all dirt of a row can be counted.
pub(crate) fn said(row: Row, format: Format, task: Task, options: &Options) -> (Option<Said>, Vec<Fault>) {
    let mut faults = Vec::new();
    let converted = match task {
        Task::Align | Task::Reward => convert(row, format, options, &mut faults).map(Said::from).and_then(|said| {
            no_turns(&said, options)?;
            Ok(said)
        }),
        Task::Sft => lesson(row, format, options, &mut faults),
    };
    let said = match converted {
        Ok(said) => Some(said),
        Err(fault) => {
            faults.push(fault);
            None
        }
    };
    if let Some(said) = &said {
        examine(said, options, &mut faults);
    }
    (said, faults)
}

/// Keys with which other projects' messages say how much of them is learnt.
const SHARES: [&str; 5] = ["weight", "loss_weight", "loss", "train", "training"];

/// Refuses messages that are to be learnt less than others.
fn equal_shares(value: Option<&Value>, field: &str) -> Result<(), Fault> {
    let list = match value {
        Some(Value::Array(list)) => list.as_slice(),
        Some(one) => std::slice::from_ref(one),
        None => &[],
    };
    let full = |v: &Value| v.is_null() || *v == true || v.as_f64() == Some(1.0);
    for m in list {
        if let Some((key, share)) = SHARES.iter().find_map(|key| Some((key, m.get(*key).filter(|v| !full(v))?))) {
            let message = format!(
                "a message with `{key}` of {share}, which is not read; `assistant_only_loss` learns the assistant's turns, \
                 and a prompt is what stands in `prompt`"
            );
            return Err(Fault::new(Dirt::WrongType, field, message));
        }
    }
    Ok(())
}

/// The lesson of a row.
fn lesson(mut row: Row, format: Format, options: &Options, faults: &mut Vec<Fault>) -> Result<Said, Fault> {
    for field in ["prompt", "completion", "messages", "conversations"] {
        equal_shares(row.get(field), field)?;
    }
    let plain = |prompt, text, field: &'static [&'static str], whole| Said {
        text: Text::Plain { prompt, sides: vec![text] },
        fields: field,
        whole,
    };
    let single = !has(&row, "chosen") && !has(&row, "rejected");
    let mut said = match format {
        Format::PromptCompletion => {
            let expected = "the prompt-completion format has `prompt` and `completion`, strings or lists of messages";
            let (prompt, completion) = (get(&row, "prompt", expected)?, get(&row, "completion", expected)?);
            if prompt.is_string() && !completion.is_array() && !completion.is_object() {
                plain(
                    string(&mut row, "prompt", expected)?,
                    string(&mut row, "completion", expected)?,
                    &["completion"],
                    false,
                )
            } else {
                let prompt = match prompt {
                    // A string can only be the user's message.
                    Value::String(asked) if first_role(Some(completion)) == Some("assistant") => {
                        vec![message("user", asked.clone())]
                    }
                    list => messages(list, "prompt", false)?,
                };
                let text = Text::Chat {
                    prompt,
                    sides: vec![messages(completion, "completion", true)?],
                    tools: tools(row.get("tools"))?,
                    chat_template_kwargs: kwargs(&row)?,
                };
                Said { text, fields: &["completion"], whole: false }
            }
        }
        Format::Text => {
            let text = string(&mut row, "text", "the text format has `text`, a string")?;
            plain(String::new(), text, &["text"], true)
        }
        Format::Messages => {
            let list = get(&row, "messages", "the messages format has `messages`, a whole conversation")?;
            let theirs = list.get(0).is_some_and(|m| m.get("from").is_some());
            let messages = if theirs { turns(&row, "messages", "")? } else { messages(list, "messages", true)? };
            let (tools, chat_template_kwargs) = (tools(row.get("tools"))?, kwargs(&row)?);
            let text = Text::Chat { prompt: Vec::new(), sides: vec![messages], tools, chat_template_kwargs };
            Said { text, fields: &["messages"], whole: true }
        }
        Format::Sharegpt if single => {
            let mut all = sharegpt_system(&row)?;
            all.extend(turns(&row, "conversations", "the sharegpt format has `conversations` of {from, value}")?);
            let text = Text::Chat {
                prompt: Vec::new(),
                sides: vec![all],
                tools: tools(row.get("tools"))?,
                chat_template_kwargs: Row::new(),
            };
            Said { text, fields: &["conversations"], whole: true }
        }
        Format::Alpaca if single && !row.get("output").is_some_and(Value::is_array) => {
            let expected = "the alpaca format has `instruction` and `output`, and `input`, `system`, `history` if any";
            let prompt = alpaca_prompt(&mut row, expected)?;
            let text = Text::Chat {
                prompt,
                sides: vec![vec![message("assistant", string(&mut row, "output", expected)?)]],
                tools: None,
                chat_template_kwargs: Row::new(),
            };
            Said { text, fields: &["output"], whole: false }
        }
        _ => Said::of_chosen(convert(row, format, options, faults).map_err(|fault| match fault.dirt() {
            // Where the prompt stands inside the sides alone, it is what they have in common.
            Some(Dirt::IdenticalPair) => {
                let message = "the same as `chosen`, so that it can't be told where the prompt ends";
                Fault::new(Dirt::DifferingPrompts, "rejected", message)
            }
            _ => fault,
        })?),
    };
    let field = said.fields[0];
    match (options.completion_only_loss, said.whole) {
        (Some(true), true) => {
            let message = "no prompt beside it that `completion_only_loss = true` could leave out; leave the key out, or \
                           give `prompt` and `completion`";
            return Err(Fault::other(field, message));
        }
        (Some(false), false) => said.join(),
        _ => {}
    }
    no_turns(&said, options)?;
    Ok(said)
}

/// Refuses strings where what is scored goes by turns.
fn no_turns(said: &Said, options: &Options) -> Result<(), Fault> {
    if options.assistant_only_loss && matches!(said.text, Text::Plain { .. }) {
        let message =
            "a string, in which nothing tells the assistant's turns, as `assistant_only_loss` asks; expected messages";
        return Err(Fault::other(said.fields[0], message));
    }
    Ok(())
}

fn convert(mut row: Row, format: Format, options: &Options, faults: &mut Vec<Fault>) -> Result<Example, Fault> {
    match format {
        Format::PromptCompletion | Format::Messages | Format::Text => {
            Err(Fault::other("format", format!("{:?} has no pairs", format.name())))
        }
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
            let prompt = match get(&row, "prompt", expected)? {
                Value::String(asked) => vec![message("user", asked.clone())],
                list => messages(list, "prompt", false)?,
            };
            Ok(Example::Chat {
                prompt,
                chosen: messages(get(&row, "chosen", expected)?, "chosen", true)?,
                rejected: messages(get(&row, "rejected", expected)?, "rejected", true)?,
                tools: tools(row.get("tools"))?,
                chat_template_kwargs: kwargs(&row)?,
            })
        }
        Format::Axolotl => {
            let expected = "axolotl's layout has `messages` before the answers `chosen` and `rejected`, a message each";
            Ok(Example::Chat {
                prompt: messages(get(&row, "messages", expected)?, "messages", false)?,
                chosen: messages(get(&row, "chosen", expected)?, "chosen", true)?,
                rejected: messages(get(&row, "rejected", expected)?, "rejected", true)?,
                tools: tools(row.get("tools"))?,
                chat_template_kwargs: kwargs(&row)?,
            })
        }
        Format::MsSwift => ms_swift(row, faults),
        Format::Openai => {
            let expected = "OpenAI's export has `input` with `messages`, `preferred_output` and `non_preferred_output`";
            let input = get(&row, "input", expected)?;
            let asked =
                input.get("messages").ok_or_else(|| Fault::wrong_type("input", "an object with `messages`", input))?;
            Ok(Example::Chat {
                prompt: messages(asked, "input.messages", false)?,
                chosen: messages(get(&row, "preferred_output", expected)?, "preferred_output", true)?,
                rejected: messages(get(&row, "non_preferred_output", expected)?, "non_preferred_output", true)?,
                tools: tools(input.get("tools"))?,
                chat_template_kwargs: Row::new(),
            })
        }
        Format::NemoRl => nemo_rl(row),
        Format::ImplicitConversational => {
            let expected = "the implicit-conversational format has `chosen` and `rejected`, whole conversations each";
            let chosen = messages(get(&row, "chosen", expected)?, "chosen", true)?;
            let rejected = messages(get(&row, "rejected", expected)?, "rejected", true)?;
            split_messages(chosen, rejected, tools(row.get("tools"))?, kwargs(&row)?, faults)
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
                    let message = format!("a completion with loss_weight {weight}; expected 1");
                    return Err(Fault::new(Dirt::WrongType, field, message));
                }
            }
            let strip = |side: Vec<(Value, f64)>| side.into_iter().map(|(m, _)| m).collect();
            split_messages(strip(chosen), strip(rejected), tools(row.get("tools"))?, Row::new(), faults)
        }
    }
}

fn examine(said: &Said, options: &Options, faults: &mut Vec<Fault>) {
    let same = match &said.text {
        Text::Plain { sides, .. } => {
            for (field, text) in said.fields.iter().zip(sides) {
                if blank(text) {
                    faults.push(Fault::new(
                        empty(field),
                        field,
                        format!("an empty completion, {text:?}; expected text"),
                    ));
                }
            }
            sides.len() == 2 && sides[0] == sides[1]
        }
        Text::Chat { prompt, sides, .. } => {
            if prompt.last().is_some_and(|m| role(m) == "assistant") {
                faults.push(Fault::new(
                    Dirt::AssistantPrompt,
                    "prompt",
                    "the last message is the assistant's; expected a turn to answer",
                ));
            }
            for (field, side) in said.fields.iter().zip(sides) {
                if !side.iter().any(says_something) {
                    faults.push(Fault::new(
                        empty(field),
                        field,
                        "an empty completion; expected a message with content",
                    ));
                } else if let Some(m) = side.iter().find(|m| !says_something(m) && !m["content"].is_string()) {
                    let found = m.get("content").unwrap_or(&Value::Null);
                    faults.push(Fault::wrong_type(&format!("{field}.content"), "a string", found));
                }
            }
            let same = sides.len() == 2 && sides[0] == sides[1];
            if !same && !said.whole && !options.assistant_only_loss {
                for (field, side) in said.fields.iter().zip(sides) {
                    if let Some(m) = side.iter().find(|m| role(m) != "assistant") {
                        faults.push(Fault::new(
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
            same
        }
    };
    if same {
        faults.push(Fault::new(Dirt::IdenticalPair, "rejected", "the same as `chosen`; nothing to prefer"));
    }
    let order = |f: &Fault| f.dirt().and_then(|d| Dirt::ALL.iter().position(|other| *other == d)).unwrap_or(0);
    faults.sort_by_key(order);
}

/// Text that shows nothing: white space, and characters without a shape.
pub(crate) fn blank(text: &str) -> bool {
    let shapeless = |c: char| matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}');
    text.chars().all(|c| c.is_whitespace() || c.is_control() || shapeless(c))
}

/// Whether a message has content, calls a tool, or thinks aloud.
fn says_something(message: &Value) -> bool {
    let called = |key: &str| match message.get(key) {
        Some(Value::Array(calls)) => !calls.is_empty(),
        Some(Value::Object(call)) => !call.is_empty(),
        _ => false,
    };
    let thought = |key: &str| message.get(key).and_then(Value::as_str).is_some_and(|text| !blank(text));
    !is_blank(message.get("content"))
        || called("tool_calls")
        || called("function_call")
        || thought("reasoning_content")
        || thought("thinking")
}

/// Where hh-rlhf's dialogues turn to the model.
const TURN: &str = "\n\nAssistant:";

fn split_strings(a: &str, b: &str, rule: ImplicitPrompt, faults: &mut Vec<Fault>) -> Result<Example, Fault> {
    let both = [("chosen", a), ("rejected", b)];
    let by_turn = match rule {
        ImplicitPrompt::Turn => {
            if let Some((field, text)) = both.into_iter().find(|(_, text)| !text.contains(TURN)) {
                let start: String = text.chars().take(40).collect();
                return Err(Fault::new(
                    Dirt::DifferingPrompts,
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
            faults.push(Fault::new(
                Dirt::DifferingPrompts,
                "rejected",
                format!("answers another prompt than `chosen`: {}", difference(&prompt, &other)),
            ));
        }
        return Ok(Example::Plain { prompt, chosen, rejected });
    }
    if a == b {
        return Err(Fault::new(Dirt::IdenticalPair, "rejected", "the same as `chosen`; nothing to prefer"));
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
        faults.push(Fault::new(
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
        return Err(Fault::new(Dirt::IdenticalPair, "rejected", "the same as `chosen`; nothing to prefer"));
    }
    let n = common(&chosen, &rejected, |a, b| a == b);
    let asked = chosen[..n].iter().any(|m| role(m) != "system");
    let answers = chosen.get(n).into_iter().chain(rejected.get(n)).all(|m| role(m) == "assistant");
    if !asked || !answers {
        faults.push(Fault::new(
            Dirt::DifferingPrompts,
            "rejected",
            format!("parts from `chosen` at message {}, before the assistant's turn", n + 1),
        ));
    }
    let prompt = chosen.drain(..n).collect();
    rejected.drain(..n);
    Ok(Example::Chat { prompt, chosen, rejected, tools, chat_template_kwargs })
}

/// The messages before the answer.
fn alpaca_prompt(row: &mut Row, expected: &str) -> Result<Vec<Value>, Fault> {
    let mut prompt = Vec::new();
    let optional = |row: &mut Row, field: &str| match row.get(field) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(_) => string(row, field, expected),
    };
    let system = optional(row, "system")?;
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
    let parts = [string(row, "instruction", expected)?, optional(row, "input")?];
    let asked: Vec<_> = parts.into_iter().filter(|p| !p.is_empty()).collect();
    prompt.push(message("user", asked.join("\n")));
    Ok(prompt)
}

fn alpaca(mut row: Row) -> Result<Example, Fault> {
    let expected =
        "the alpaca format has `instruction`, `chosen` and `rejected`, and `input`, `system`, `history` if any";
    // The older layout: `output` holds the better answer and the worse.
    if let (None, Some(Value::Array(answers))) = (row.get("chosen"), row.get("output"))
        && let [better, worse] = &answers[..]
    {
        let (better, worse) = (better.clone(), worse.clone());
        row.insert("chosen".to_owned(), better);
        row.insert("rejected".to_owned(), worse);
    }
    Ok(Example::Chat {
        prompt: alpaca_prompt(&mut row, expected)?,
        chosen: vec![message("assistant", string(&mut row, "chosen", expected)?)],
        rejected: vec![message("assistant", string(&mut row, "rejected", expected)?)],
        tools: None,
        chat_template_kwargs: Row::new(),
    })
}

/// A whole conversation with the better answer, and the worse one, or the conversation that has it.
fn ms_swift(row: Row, faults: &mut Vec<Fault>) -> Result<Example, Fault> {
    let expected = "ms-swift's layout has `messages` that end in the better answer, and `rejected_response` or \
                    `rejected_messages`";
    let mut prompt = messages(get(&row, "messages", expected)?, "messages", true)?;
    let tools = tools(row.get("tools"))?;
    if has(&row, "rejected_messages") {
        let rejected = messages(&row["rejected_messages"], "rejected_messages", true)?;
        return split_messages(prompt, rejected, tools, Row::new(), faults);
    }
    let rejected = match get(&row, "rejected_response", expected)? {
        Value::String(text) => vec![message("assistant", text.clone())],
        other => messages(other, "rejected_response", true)?,
    };
    match prompt.pop() {
        Some(chosen) if role(&chosen) == "assistant" => {
            Ok(Example::Chat { prompt, chosen: vec![chosen], rejected, tools, chat_template_kwargs: Row::new() })
        }
        _ => {
            let message = "expected the assistant's answer, the better one, as the last message";
            Err(Fault::new(Dirt::WrongType, "messages", message))
        }
    }
}

/// Completions with ranks, of which 0 is the best.
fn nemo_rl(row: Row) -> Result<Example, Fault> {
    let expected = "NeMo-RL's layout has `context` and two `completions` of {rank, completion}";
    let completions = get(&row, "completions", expected)?;
    let wrong = || Fault::wrong_type("completions", "two of {rank, completion} with different ranks", completions);
    let [a, b] = &completions.as_array().ok_or_else(wrong)?[..] else { return Err(wrong()) };
    let rank = |c: &Value| c.get("rank").and_then(Value::as_f64).ok_or_else(wrong);
    let (first, second) = (rank(a)?, rank(b)?);
    let (best, other) = match () {
        () if first < second => (a, b),
        () if second < first => (b, a),
        () => return Err(wrong()),
    };
    let side = |c: &Value| messages(c.get("completion").ok_or_else(wrong)?, "completions.completion", true);
    Ok(Example::Chat {
        prompt: messages(get(&row, "context", expected)?, "context", false)?,
        chosen: side(best)?,
        rejected: side(other)?,
        tools: tools(row.get("tools"))?,
        chat_template_kwargs: Row::new(),
    })
}

fn sharegpt(row: Row) -> Result<Example, Fault> {
    let expected = "the sharegpt format has `conversations`, `chosen` and `rejected` of {from, value}";
    let mut prompt = sharegpt_system(&row)?;
    prompt.extend(turns(&row, "conversations", expected)?);
    Ok(Example::Chat {
        prompt,
        chosen: turns(&row, "chosen", expected)?,
        rejected: turns(&row, "rejected", expected)?,
        tools: tools(row.get("tools"))?,
        chat_template_kwargs: Row::new(),
    })
}

/// The first message, where the system's text has a column of its own.
fn sharegpt_system(row: &Row) -> Result<Vec<Value>, Fault> {
    match row.get("system").filter(|s| !s.is_null() && *s != "") {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![message("system", text.clone())]),
        Some(other) => Err(Fault::wrong_type("system", "a string", other)),
    }
}

/// The messages that {from, value} in a field stand for.
fn turns(row: &Row, field: &str, expected: &str) -> Result<Vec<Value>, Fault> {
    let value = get(row, field, expected)?;
    let list = match value {
        Value::Array(list) => list.as_slice(),
        Value::Object(_) => std::slice::from_ref(value),
        other => return Err(Fault::wrong_type(field, "{from, value}, or a list of them", other)),
    };
    list.iter().map(|turn| sharegpt_turn(turn, field)).collect()
}

fn sharegpt_turn(turn: &Value, field: &str) -> Result<Value, Fault> {
    if turn.get("from").is_none() && turn.get("role").is_some() {
        return one_message(turn, field.to_owned(), true);
    }
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
                let message = format!("a function_call that is not JSON ({e})");
                Fault::new(Dirt::WrongType, &format!("{field}.value"), message)
            })?;
            let calls = if let Value::Array(all) = call { all } else { vec![call] };
            let calls: Vec<_> = calls.into_iter().map(|c| json!({"type": "function", "function": c})).collect();
            json!({"role": "assistant", "content": "", "tool_calls": calls})
        }
        other => {
            return Err(Fault::new(
                Dirt::WrongType,
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
        known_role(who, field)?;
        let mut text = String::new();
        match m.get("content") {
            Some(Value::String(s)) => text.push_str(s),
            Some(Value::Array(parts)) => {
                for part in parts {
                    match (part.get("type").and_then(Value::as_str), part.get("value").and_then(Value::as_str)) {
                        (Some("text"), Some(value)) => text.push_str(value),
                        (Some(kind), _) => {
                            let message = format!("a part of type {kind:?}; only text is read");
                            return Err(Fault::new(Dirt::WrongType, field, message));
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
        Some(Value::String(text)) => blank(text),
        Some(Value::Array(parts)) => {
            parts.iter().all(|p| blank(p.get("text").and_then(Value::as_str).unwrap_or_default()))
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

/// Names that other projects have for the speakers; no chat template knows them.
const ROLES: [(&str, &[&str]); 3] = [
    ("assistant", &["assistant", "model", "bot", "chatbot", "gpt", "ai"]),
    ("user", &["user", "human", "prompter"]),
    ("system", &["system"]),
];

fn known_role(role: &str, field: &str) -> Result<(), Fault> {
    let lower = role.to_lowercase();
    match ROLES.iter().find(|(ours, names)| role != *ours && names.contains(&lower.as_str())) {
        None => Ok(()),
        Some((ours, _)) => {
            let message = format!("the role {role:?}, which chat templates do not know; write {ours:?}");
            Err(Fault::new(Dirt::WrongType, field, message))
        }
    }
}

/// A list of messages as chat templates take them, nulls and all. `answers`: they end in the model's answer, which may
/// be empty.
pub(crate) fn messages(value: &Value, field: &str, answers: bool) -> Result<Vec<Value>, Fault> {
    let list = match value {
        Value::Array(list) => list.as_slice(),
        Value::Object(_) => std::slice::from_ref(value),
        other => return Err(Fault::wrong_type(field, "a list of messages {role, content}", other)),
    };
    let last = list.len().saturating_sub(1);
    let one = |(i, m)| one_message(m, format!("{field}[{i}]"), answers && i == last);
    list.iter().enumerate().map(one).collect()
}

fn one_message(m: &Value, field: String, may_be_empty: bool) -> Result<Value, Fault> {
    let at = |key: &str| format!("{field}.{key}");
    let object = m.as_object().ok_or_else(|| Fault::wrong_type(&field, "a message {role, content}", m))?;
    match object.get("role") {
        Some(Value::String(role)) => known_role(role, &at("role"))?,
        other => return Err(Fault::wrong_type(&at("role"), "a string", other.unwrap_or(&Value::Null))),
    }
    match object.get("content") {
        Some(Value::String(_)) => {}
        Some(Value::Array(parts)) => {
            for part in parts {
                let kind = part.get("type").and_then(Value::as_str);
                if kind != Some("text") || !part.get("text").is_some_and(Value::is_string) {
                    return Err(Fault::wrong_type(&at("content"), "text, or parts {type: \"text\", text}", part));
                }
            }
        }
        None | Some(Value::Null) if says_something(m) || (may_be_empty && role(m) == "assistant") => {}
        other => return Err(Fault::wrong_type(&at("content"), "a string", other.unwrap_or(&Value::Null))),
    }
    Ok(m.clone())
}

/// Tool definitions: a list, or JSON text of one (older Parquet cannot hold free-form objects).
pub(crate) fn tools(value: Option<&Value>) -> Result<Option<Value>, Fault> {
    let wrong = |message| Fault::new(Dirt::WrongType, "tools", message);
    let parsed = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
        Some(Value::String(text)) => source::value(text.as_bytes())
            .map_err(|e| wrong(format!("a string that is not JSON ({e}); expected a list of tools")))?,
        Some(other) => other.clone(),
    };
    match parsed {
        Value::Array(list) if list.is_empty() => Ok(None),
        Value::Array(_) => Ok(Some(parsed)),
        other => Err(Fault::wrong_type("tools", "a list of tools", &other)),
    }
}

pub(crate) fn kwargs(row: &Row) -> Result<Row, Fault> {
    let field = "chat_template_kwargs";
    match row.get(field) {
        None | Some(Value::Null) => Ok(Row::new()),
        Some(Value::Object(map)) => Ok(map.clone()),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(Row::new()),
        Some(Value::String(text)) => match source::value(text.as_bytes()) {
            Ok(Value::Object(map)) => Ok(map),
            Ok(other) => Err(Fault::wrong_type(field, "an object", &other)),
            Err(e) => {
                let message = format!("a string that is not a JSON object ({e})");
                Err(Fault::new(Dirt::WrongType, field, message))
            }
        },
        Some(other) => Err(Fault::wrong_type(field, "an object", other)),
    }
}

/// The first of `fields` in whose value a number stands that JSON does not have.
pub(crate) fn odd_number(row: &Row, fields: &[&str]) -> Option<Fault> {
    fn find(value: &Value) -> Option<&str> {
        match value {
            Value::Array(list) => list.iter().find_map(find),
            Value::Object(map) => source::odd(value).or_else(|| map.values().find_map(find)),
            _ => None,
        }
    }
    let (field, name) = fields.iter().find_map(|field| Some((field, find(row.get(*field)?)?)))?;
    let message = format!("the number {name}, which JSON does not have; expected text or messages without it");
    Some(Fault::new(Dirt::WrongType, field, message))
}

pub(crate) fn describe(value: &Value) -> String {
    if let Some(name) = source::odd(value) {
        return format!("the number {name}");
    }
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => format!("the boolean {b}"),
        Value::Number(n) => format!("the number {n}"),
        Value::String(s) => format!("the string {:?}", s.chars().take(30).collect::<String>()),
        Value::Array(a) => format!("a list of {}", a.len()),
        Value::Object(o) => format!("an object with {}", o.keys().cloned().collect::<Vec<_>>().join(", ")),
    }
}
