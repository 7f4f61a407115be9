//! From a row as text to a row as tokens: the boundary, BOS and EOS, and the length.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::dataset::{Record, Scored};
use crate::format::{Fault, FaultKind, Row, Said, Text, blank, empty};
use crate::options::{AssistantPrompt, Boundary, Dirt, Options, Overlong, Task, Verdict};
use crate::template::{ChatTemplate, Rendered};
use crate::{Error, Report, Tokenizer, bounded};

/// A pair of token sequences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// The prompt, BOS included where the tokenizer puts one.
    pub prompt: Vec<u32>,
    /// The preferred completion, EOS included.
    pub chosen: Vec<u32>,
    /// The dispreferred completion, EOS included.
    pub rejected: Vec<u32>,
    /// Which tokens of `chosen` are scored; none: all of them.
    pub chosen_mask: Option<Vec<bool>>,
    /// Which tokens of `rejected` are scored; none: all of them.
    pub rejected_mask: Option<Vec<bool>>,
    /// A hash of the pair's text: the same in every epoch, format and layout; equal for duplicated rows.
    pub key: u64,
    /// Index of the file in [`Report::files`](crate::Report::files).
    pub file: usize,
    /// 1-based row in that file.
    pub row: usize,
}

/// A supervised row as tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lesson {
    /// What is read and not learnt: the prompt, BOS included, or the first token where all is learnt, since nothing stands
    /// before it that could predict it.
    pub prompt: Vec<u32>,
    /// The rest, EOS included.
    pub completion: Vec<u32>,
    /// Which tokens of `completion` are learnt; none: all of them.
    pub mask: Option<Vec<bool>>,
    /// A hash of the row's text: the same in every epoch, format and layout; equal for duplicated rows.
    pub key: u64,
    /// Index of the file in [`Report::files`](crate::Report::files).
    pub file: usize,
    /// 1-based row in that file.
    pub row: usize,
}

/// A pair with the margin that its row gives it, for a reward model.
#[derive(Clone, Debug, PartialEq)]
pub struct Rated {
    /// The pair.
    pub pair: Tokens,
    /// By how much the reward of the chosen completion is to be the higher, where the row says so.
    pub margin: Option<f32>,
}

/// What was done to one row, for the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Touches {
    pub separate: bool,
    pub merged: bool,
    pub moved: usize,
    pub prompt_cut: bool,
    pub completions_cut: usize,
    pub prompt_lost: usize,
    pub completion_lost: usize,
    pub bos_not_doubled: usize,
    pub bos_left_out: usize,
    pub eos_not_doubled: usize,
    pub without_eos: usize,
    /// Tokens of the pair before any cut.
    pub length: usize,
}

/// One side under way.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Side {
    ids: Vec<u32>,
    mask: Option<Vec<bool>>,
}

impl Side {
    fn scored(&self) -> usize {
        self.mask.as_ref().map_or(self.ids.len(), |m| m.iter().filter(|scored| **scored).count())
    }

    /// Takes the first `n` tokens off.
    fn split(&mut self, n: usize) -> Vec<u32> {
        if let Some(mask) = &mut self.mask {
            mask.drain(..n.min(mask.len()));
        }
        self.ids.drain(..n.min(self.ids.len())).collect()
    }

    fn truncate(&mut self, n: usize) {
        self.ids.truncate(n);
        if let Some(mask) = &mut self.mask {
            mask.truncate(n);
        }
    }
}

/// A row under way: a prompt and one side or two.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Encoded {
    pub prompt: Vec<u32>,
    sides: Vec<Side>,
    /// By how much the rewards of a pair are to differ.
    pub margin: Option<f32>,
    pub touches: Touches,
}

impl Encoded {
    /// Adds the pair to the report.
    pub fn count(&self, report: &mut Report) {
        let (touches, tokens) = (&self.touches, &mut report.tokens);
        report.boundary_separate += usize::from(touches.separate);
        report.boundary_merged += usize::from(touches.merged);
        report.boundary_tokens_moved += touches.moved;
        report.prompts_truncated += usize::from(touches.prompt_cut);
        report.completions_truncated += touches.completions_cut;
        report.prompt_tokens_lost += touches.prompt_lost;
        report.completion_tokens_lost += touches.completion_lost;
        report.bos_not_doubled += touches.bos_not_doubled;
        report.bos_left_out += touches.bos_left_out;
        report.eos_not_doubled += touches.eos_not_doubled;
        report.completions_without_eos += touches.without_eos;
        tokens.prompt += self.prompt.len() as u64;
        match (report.task, &self.sides[..]) {
            (Task::Align | Task::Reward, [chosen, rejected]) => {
                tokens.chosen += chosen.ids.len() as u64;
                tokens.rejected += rejected.ids.len() as u64;
            }
            (_, sides) => tokens.completion += sides.iter().map(|s| s.ids.len() as u64).sum::<u64>(),
        }
        tokens.longest = tokens.longest.max(self.prompt.len() + self.longest());
    }

    /// Tokens of the longest side.
    fn longest(&self) -> usize {
        self.sides.iter().map(|s| s.ids.len()).max().unwrap_or(0)
    }

    pub fn into_record<T: Record>(self, key: u64, file: usize, row: usize) -> T {
        let mut sides = self.sides.into_iter().map(|s| -> Scored { (s.ids, s.mask) });
        let sides = [(); 2].map(|()| sides.next().unwrap_or_default());
        T::new(self.prompt, sides, self.margin, (key, file, row))
    }
}

/// Said where a template refuses what it may take for a string.
const IN_PARTS: &str = "; it may want `content` as one string, and not in parts";
/// What a template is asked to write, to see whether it does.
const PROBE: &str = "collimate probe";

/// How a template printed content in parts, if it did so with their keys: as Python does, or as JSON.
fn parts_as_they_are(messages: &[Value], rendered: &str) -> Option<&'static str> {
    let mut parts = messages.iter().filter_map(|m| m["content"].as_array()).flatten().peekable();
    parts.peek()?;
    if rendered.contains("'type': 'text'") {
        return Some("{'type': 'text'");
    }
    // Tools are printed as JSON too, with types of their own: it is a part only where its text stands beside the type,
    // whatever the order, the white space and the escapes.
    let dense = |text: &str| text.chars().filter(|c| !c.is_ascii_whitespace()).collect::<String>();
    let rendered = rendered.contains("\"type\"").then(|| dense(rendered))?;
    let printed = |text: &str| {
        let text = Value::from(text).to_string();
        let mut escaped = String::with_capacity(text.len());
        for c in text.chars() {
            match c.is_ascii() {
                true => escaped.push(c),
                false => escaped.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}"))),
            }
        }
        [text, escaped].iter().map(|text| dense(text)).any(|text| {
            rendered.contains(&format!("\"type\":\"text\",\"text\":{text}"))
                || rendered.contains(&format!("\"text\":{text},\"type\":\"text\""))
        })
    };
    parts.filter_map(|part| part["text"].as_str()).any(printed).then_some("{\"type\": \"text\"")
}

/// The prompt's text up to the end of its last message, which goes on; as `continue_final_message` of transformers.
fn up_to_last(mut text: String, prompt: &[Value]) -> Result<String, Fault> {
    let last = prompt.last().and_then(|m| m["content"].as_str()).unwrap_or_default();
    let refuse = |why: &str| Fault::new(Dirt::RefusedByTemplate, "prompt", format!("a last message that {why}"));
    if blank(last) {
        return Err(refuse("has no text to go on from"));
    }
    // Templates may cut white space off.
    let (at, length) = match text.rfind(last) {
        Some(at) => (at, last.len()),
        None => (text.rfind(last.trim()).ok_or_else(|| refuse("the chat template does not write"))?, last.trim().len()),
    };
    text.truncate(at + length);
    Ok(text)
}

/// The conversation in which the completion goes on with the last message of the prompt.
fn continued(prompt: &[Value], completion: &[Value], field: &str) -> Result<Vec<Value>, Fault> {
    let mut whole = prompt.to_vec();
    let text = |m: &Value| m["content"].as_str().map(str::to_owned);
    let (Some(start), Some((first, rest))) = (whole.last_mut(), completion.split_first()) else { return Ok(whole) };
    let (Some(begun), Some(more)) = (text(start), text(first)) else {
        let message = "content that is no string, and goes on with the assistant's turn of the prompt";
        return Err(Fault::new(Dirt::RefusedByTemplate, field, message));
    };
    start["content"] = Value::String(begun + &more);
    whole.extend(rest.iter().cloned());
    Ok(whole)
}

/// A lesson of which all is learnt, but its first token, which nothing predicts.
fn whole(mut sides: Vec<Side>, touches: Touches) -> Encoded {
    let prompt = sides[0].split(1);
    let touches = Touches { length: prompt.len() + sides[0].ids.len(), ..touches };
    Encoded { prompt, sides, margin: None, touches }
}

/// Tokenises rows with one tokenizer under one set of options.
#[derive(Debug)]
pub(crate) struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    options: &'a Options,
    eos: u32,
    eos_text: &'a str,
    template: Option<ChatTemplate>,
    /// Whether the template writes what messages of a role say, as far as it was asked.
    heard: Mutex<HashMap<String, bool>>,
    fingerprint: u64,
}

/// The file that `chat_template` names, if it is no template itself: text without a brace says nothing of messages.
pub fn template_path(given: &str) -> Option<&Path> {
    (!given.contains(['{', '\n']) && !given.trim().is_empty()).then(|| Path::new(given))
}

impl<'a> Encoder<'a> {
    pub fn new(tokenizer: &'a Tokenizer, options: &'a Options) -> Result<Self, Error> {
        let (Some(eos), Some(eos_text)) = (tokenizer.eos_id(), tokenizer.eos_token()) else {
            return Err(Error::file(
                tokenizer.folder(),
                "names no `eos_token` (tokenizer_config.json) and no `eos_token_id` (generation_config.json, \
                 config.json); completions must end with one",
            ));
        };
        let text = match &options.chat_template {
            None => tokenizer.chat_template().map(str::to_owned),
            Some(given) => Some(match template_path(given) {
                Some(path) => bounded::text(path, bounded::SETTINGS).map_err(Error::io(path, "read"))?,
                None => given.clone(),
            }),
        };
        let date = options.template_date.as_deref();
        let compile = |text: &String| ChatTemplate::new(text, tokenizer.special_tokens(), date);
        let template = text.as_ref().map(compile).transpose()?;
        if options.assistant_only_loss && !template.as_ref().is_some_and(ChatTemplate::marks_generation) {
            return Err(Error::Option {
                key: "assistant_only_loss",
                message: "needs a chat template with {% generation %} blocks, which mark what the assistant says"
                    .into(),
            });
        }
        let mut facts = xxhash_rust::xxh3::Xxh3::new();
        facts.update(&tokenizer.fingerprint().to_le_bytes());
        facts.update(&tokenizer.model_vocab_size().unwrap_or(usize::MAX).to_le_bytes());
        facts.update(text.unwrap_or_default().as_bytes());
        if let Some(today) = template.as_ref().filter(|t| t.is_dated()).map(|t| t.date()) {
            facts.update(today.as_bytes());
        }
        Ok(Self { tokenizer, options, eos, eos_text, template, heard: Mutex::default(), fingerprint: facts.digest() })
    }

    /// A hash of tokenizer and template.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Tokenises what a row says. Faults come back with the tokens, if there are any, so that all dirt can be counted; a row
    /// with a fault whose verdict is not [`Verdict::Keep`] must not be used.
    pub fn encode(&self, said: &Said) -> (Option<Encoded>, Vec<Fault>) {
        let mut faults = Vec::new();
        let encoded = match &said.text {
            Text::Plain { prompt, sides } => self.plain(prompt, sides, said, &mut faults),
            Text::Chat { prompt, sides, tools, chat_template_kwargs } => {
                self.chat(prompt, sides, tools.as_ref(), chat_template_kwargs, said, &mut faults)
            }
        };
        match encoded {
            Err(fault) => {
                faults.push(fault);
                (None, faults)
            }
            Ok(mut encoded) => {
                self.check(&encoded, said, &mut faults);
                if faults.iter().all(|f| self.keeps(f)) {
                    self.fit(&mut encoded, said, &mut faults);
                }
                (Some(encoded), faults)
            }
        }
    }

    fn keeps(&self, fault: &Fault) -> bool {
        fault.dirt().is_some_and(|dirt| self.options.verdict(dirt) == Verdict::Keep)
    }

    fn ids(&self, text: &str, field: &str) -> Result<Vec<u32>, Fault> {
        self.tokenizer.encode(text, false).map_err(|e| Fault::new(Dirt::UnknownId, field, e.to_string()))
    }

    /// The tokens of a text from its beginning on, with BOS once where the tokenizer puts it or the text has it; and
    /// whether the text has it.
    fn begin(&self, text: &str, field: &str) -> Result<(Vec<u32>, bool), Fault> {
        self.tokenizer.begin(text).map_err(|e| Fault::new(Dirt::UnknownId, field, e.to_string()))
    }

    /// BOS, if it is another token than EOS.
    fn bos(&self) -> Option<u32> {
        self.tokenizer.bos_id().filter(|id| *id != self.eos)
    }

    /// TRL's way for strings: the completion is what follows the prompt's tokens in the tokens of prompt + completion.
    fn plain(&self, prompt: &str, bodies: &[String], said: &Said, faults: &mut Vec<Fault>) -> Result<Encoded, Fault> {
        let mut touches = Touches::default();
        let (prompt_ids, own) = self.begin(prompt, "prompt")?;
        touches.bos_not_doubled = usize::from(own && !self.tokenizer.prefix().is_empty());
        let mut bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
        for body in &mut bodies {
            let all = *body;
            while let Some(rest) = body.strip_suffix(self.eos_text) {
                *body = rest;
            }
            touches.eos_not_doubled += usize::from(all.len() != body.len());
            let all = *body;
            if let (false, Some(_), Some(bos)) = (said.whole, self.bos(), self.tokenizer.bos_token()) {
                while let Some(rest) = body.strip_prefix(bos) {
                    *body = rest;
                }
            }
            touches.bos_left_out += usize::from(all.len() != body.len());
        }
        let mut sides = Vec::with_capacity(bodies.len());
        for (body, field) in bodies.iter().zip(said.fields) {
            let (mut ids, own) = self.begin(&[prompt, body].concat(), field)?;
            touches.bos_not_doubled += usize::from(said.whole && own && !self.tokenizer.prefix().is_empty());
            // EOS goes on as an id: some tokenizers do not find its text after other text.
            ids.push(self.eos);
            sides.push(Side { ids, mask: None });
        }
        if said.whole {
            return Ok(whole(sides, touches));
        }
        let apart = |i: usize| {
            let mut ids = self.ids(bodies[i], said.fields[i])?;
            ids.push(self.eos);
            Ok(Side { ids, mask: None })
        };
        self.join(prompt_ids, sides, said, &apart, touches, faults)
    }

    /// TRL's way for messages: the template writes BOS and EOS, and the completion is what follows the tokens of the
    /// prompt, rendered up to where the assistant speaks.
    fn chat(
        &self,
        prompt: &[Value],
        completions: &[Vec<Value>],
        tools: Option<&Value>,
        kwargs: &Row,
        said: &Said,
        faults: &mut Vec<Fault>,
    ) -> Result<Encoded, Fault> {
        let template = self.template.as_ref().ok_or_else(|| {
            Fault::other(
                if said.whole { said.fields[0] } else { "prompt" },
                "messages, and the checkpoint has no chat template (chat_template.jinja, or `chat_template` in \
                 tokenizer_config.json) to make text of them; name one with `chat_template`, or use strings",
            )
        })?;
        self.listen(template, prompt, completions)?;
        let mut variables = self.options.chat_template_kwargs.clone();
        variables.extend(kwargs.iter().map(|(k, v)| (k.clone(), v.clone())));
        let render = |messages: &[Value], field: &str, ask: bool| {
            template.render(messages, tools, &variables, ask).map_err(|e| match e {
                Error::Template { message, .. } => {
                    let parts = if messages.iter().any(|m| m["content"].is_array()) { IN_PARTS } else { "" };
                    let message = format!("`{field}`: {message}{parts}");
                    Fault { field: field.to_owned(), kind: FaultKind::Template(message) }
                }
                other => Fault::other(field, other.to_string()),
            })
        };
        let goes_on = prompt.last().is_some_and(|m| m["role"] == "assistant")
            && self.options.assistant_prompt == AssistantPrompt::Continue;
        let asked = match (said.whole, goes_on) {
            (true, _) => String::new(),
            (_, true) => up_to_last(render(prompt, "prompt", false)?.text, prompt)?,
            (_, false) => render(prompt, "prompt", true)?.text,
        };
        let prompt_ids = self.ids(&asked, "prompt")?;
        let (mut texts, mut sides) = (Vec::new(), Vec::new());
        for (completion, field) in completions.iter().zip(said.fields) {
            let all: Vec<Value> = match goes_on {
                true => continued(prompt, completion, field)?,
                false => prompt.iter().chain(completion).cloned().collect(),
            };
            let rendered = render(&all, field, false)?;
            if let Some(printed) = parts_as_they_are(&all, &rendered.text) {
                return Err(Fault {
                    field: (*field).to_owned(),
                    kind: FaultKind::Template(format!(
                        "`{field}`: it prints content in parts as it is, [{printed}, …; write `content` as one string",
                    )),
                });
            }
            sides.push(self.side(&rendered, 0, field)?);
            texts.push(rendered);
        }
        if said.whole {
            return Ok(whole(sides, Touches::default()));
        }
        let apart = |i: usize| {
            if !texts[i].text.starts_with(&asked) {
                return Err(Fault::new(
                    Dirt::RefusedByTemplate,
                    said.fields[i],
                    "the chat template writes the prompt otherwise when an answer follows, so that the answer cannot \
                     be tokenised apart; `boundary = \"merge\"` scores from where the two part",
                ));
            }
            self.side(&texts[i], asked.len(), said.fields[i])
        };
        self.join(prompt_ids, sides, said, &apart, Touches::default(), faults)
    }

    /// Refuses messages of which the template writes nothing, as templates do with roles that they do not know.
    fn listen(&self, template: &ChatTemplate, prompt: &[Value], completions: &[Vec<Value>]) -> Result<(), Fault> {
        for m in prompt.iter().chain(completions.iter().flatten()) {
            let role = m["role"].as_str().unwrap_or_default();
            if ["user", "assistant"].contains(&role) {
                continue;
            }
            let known = self.heard.lock().unwrap_or_else(PoisonError::into_inner).get(role).copied();
            let heard = known.unwrap_or_else(|| {
                let said = |role: &str, text: &str| json!({"role": role, "content": text});
                let (odd, user) = (said(role, PROBE), said("user", "a"));
                let asked = if role == "system" || role == "developer" { [odd, user] } else { [user, odd] };
                // What it refuses by an error, it refuses by itself.
                template.render(&asked, None, &Row::new(), false).map_or(true, |r| r.text.contains(PROBE))
            });
            self.heard.lock().unwrap_or_else(PoisonError::into_inner).insert(role.to_owned(), heard);
            if !heard {
                let message = format!("it writes nothing of messages of the role {role:?}; use one that it knows");
                return Err(Fault { field: "prompt".to_owned(), kind: FaultKind::Template(message) });
            }
        }
        Ok(())
    }

    /// The tokens of a rendered text from byte `from` on, with what is scored of them where that is asked for.
    fn side(&self, rendered: &Rendered, from: usize, field: &str) -> Result<Side, Fault> {
        let text = &rendered.text[from..];
        if !self.options.assistant_only_loss {
            return Ok(Side { ids: self.ids(text, field)?, mask: None });
        }
        let (ids, offsets) =
            self.tokenizer.encode_offsets(text).map_err(|e| Fault::new(Dirt::UnknownId, field, e.to_string()))?;
        let touches = |token: &Range<usize>| {
            let (start, end) = (token.start + from, token.end + from);
            rendered.assistant.iter().any(|span| start < span.end && span.start < end)
        };
        Ok(Side { mask: Some(offsets.iter().map(touches).collect()), ids })
    }

    /// Cuts the prompt's tokens off all sides, by the boundary policy where they are not a prefix. `apart` tokenises
    /// a completion by itself.
    fn join(
        &self,
        mut prompt: Vec<u32>,
        mut sides: Vec<Side>,
        said: &Said,
        apart: &dyn Fn(usize) -> Result<Side, Fault>,
        mut touches: Touches,
        faults: &mut Vec<Fault>,
    ) -> Result<Encoded, Fault> {
        let shared = |side: &Side| prompt.iter().zip(&side.ids).take_while(|(a, b)| a == b).count();
        let commons: Vec<usize> = sides.iter().map(shared).collect();
        let mut cut = vec![prompt.len(); sides.len()];
        if let Some(i) = commons.iter().position(|n| *n < prompt.len()) {
            let (at, field) = (commons[i], said.fields[i]);
            let show = |ids: &[u32]| {
                let end = ids.len().min(at + 2);
                let names = ids[at.min(end)..end].iter().map(|id| self.tokenizer.token(*id).unwrap_or_default());
                names.map(|t| format!("{t:?}")).collect::<Vec<_>>().join(" ")
            };
            faults.push(Fault::new(
                Dirt::Boundary,
                field,
                format!(
                    "the tokens of the prompt are not the first tokens of prompt + {field}: after {at} of {} tokens, {} \
                     stands against {}",
                    prompt.len(),
                    show(&prompt),
                    show(&sides[i].ids)
                ),
            ));
            match self.options.boundary {
                Boundary::Error | Boundary::Drop => {}
                Boundary::Separate => {
                    for i in (0..sides.len()).filter(|i| commons[*i] < prompt.len()) {
                        sides[i] = apart(i)?;
                        cut[i] = 0;
                    }
                    touches.separate = true;
                }
                Boundary::Merge => {
                    let boundary = commons.iter().copied().min().unwrap_or(0);
                    touches.merged = true;
                    touches.moved = prompt.len() - boundary;
                    prompt.truncate(boundary);
                    cut.fill(boundary);
                }
            }
        }
        for (side, cut) in sides.iter_mut().zip(cut) {
            side.split(cut);
        }
        if let [chosen, rejected] = &sides[..]
            && chosen.ids == rejected.ids
            && !chosen.ids.is_empty()
        {
            let message = "the same tokens as `chosen`; nothing to prefer";
            faults.push(Fault::new(Dirt::IdenticalPair, said.fields[1], message));
        }
        let mut encoded = Encoded { prompt, sides, margin: None, touches };
        encoded.touches.length = encoded.prompt.len() + encoded.longest();
        Ok(encoded)
    }

    fn check(&self, encoded: &Encoded, said: &Said, faults: &mut Vec<Fault>) {
        if encoded.prompt.is_empty() && !said.whole {
            faults.push(Fault::new(
                Dirt::EmptyPrompt,
                "prompt",
                "no token before the completion, whose first token then has no log-probability",
            ));
        }
        let plain = matches!(said.text, Text::Plain { .. });
        let special = |id: &u32| *id == self.eos || Some(*id) == self.tokenizer.bos_id();
        for (field, side) in said.fields.iter().zip(&encoded.sides) {
            let before = if said.whole { &encoded.prompt[..] } else { &[] };
            if side.scored() == 0 {
                let message = match plain {
                    true => "an empty completion; expected text",
                    false => "the chat template makes no scored token of it",
                };
                faults.push(Fault::new(empty(field), field, message));
            } else if plain && before.iter().chain(&side.ids).all(special) {
                let message = "an empty completion but for special tokens; expected text";
                faults.push(Fault::new(empty(field), field, message));
            }
        }
        self.known(encoded, said, faults);
        match &said.text {
            Text::Plain { .. } => self.inner_of_plain(encoded, said, faults),
            Text::Chat { prompt, sides, .. } => {
                self.inner_of_messages(None, "prompt", prompt, faults);
                for (field, side) in said.fields.iter().zip(sides) {
                    self.inner_of_messages(Some(empty(field)), field, side, faults);
                }
            }
        }
    }

    /// Tokens that the model has no row for.
    fn known(&self, encoded: &Encoded, said: &Said, faults: &mut Vec<Fault>) {
        let Some(rows) = self.tokenizer.model_vocab_size() else { return };
        let sides = said.fields.iter().copied().zip(encoded.sides.iter().map(|s| &s.ids));
        let first = if said.whole { said.fields[0] } else { "prompt" };
        for (field, ids) in std::iter::once((first, &encoded.prompt)).chain(sides) {
            if let Some(id) = ids.iter().find(|id| **id as usize >= rows) {
                let token = self.tokenizer.token(*id).unwrap_or_default();
                faults.push(Fault::new(
                    Dirt::UnknownId,
                    field,
                    format!(
                        "the token {token:?} has the id {id}, and the model knows {rows} (`vocab_size` in config.json)"
                    ),
                ));
            }
        }
    }

    /// Special tokens in strings, which may be written by hand in prompts, and in texts that are learnt as a whole.
    fn inner_of_plain(&self, encoded: &Encoded, said: &Said, faults: &mut Vec<Fault>) {
        let prompt = encoded.prompt.get(1..).unwrap_or_default();
        let sides = encoded.sides.iter().map(|side| side.ids.split_last().map_or(&[][..], |(_, inner)| inner));
        for (field, ids) in std::iter::once(("prompt", prompt)).chain(said.fields.iter().copied().zip(sides)) {
            let eos = |id: u32| id == self.eos && field != "prompt";
            let place = if field == "prompt" || said.whole { 2 } else { 1 };
            let of = ids.len() + 1 + usize::from(said.whole);
            if said.whole && ids.contains(&self.eos) {
                faults.push(self.spelled_out(self.eos, field));
            } else if let Some(at) = ids.iter().position(|id| eos(*id)) {
                let message = format!("{} stands at token {} of {of}, before the end", self.eos_text, at + place);
                faults.push(Fault::new(Dirt::InnerEos, field, message));
            }
            if let Some(at) = ids.iter().position(|id| Some(*id) == self.bos()) {
                let bos = self.tokenizer.bos_token().unwrap_or_default();
                let message = format!("{bos} stands at token {} of {of}, after the beginning", at + place);
                faults.push(Fault::new(Dirt::InnerBos, field, message));
            }
            let other = |id: &&u32| {
                let known = [Some(self.eos), self.tokenizer.bos_id(), self.tokenizer.unk_id()];
                self.tokenizer.is_special(**id) && !known.contains(&Some(**id))
            };
            if let Some(id) = ids.iter().find(other) {
                faults.push(self.spelled_out(*id, field));
            }
        }
    }

    /// Special tokens in messages, where only the template is to write them.
    fn inner_of_messages(&self, empty: Option<Dirt>, field: &str, side: &[Value], faults: &mut Vec<Fault>) {
        let (mut found, mut said) = (Vec::new(), false);
        for m in side {
            let text: Cow<str> = match &m["content"] {
                Value::String(text) => text.into(),
                Value::Array(parts) => {
                    parts.iter().filter_map(|p| p["text"].as_str()).collect::<Vec<_>>().concat().into()
                }
                _ => "".into(),
            };
            let special = self.tokenizer.special_in(&text).unwrap_or_default();
            let spelt = special.iter().filter_map(|id| self.tokenizer.token(*id));
            let rest = spelt.fold(text.into_owned(), |text, token| text.replace(&token, ""));
            let more =
                m.as_object().is_some_and(|o| o.keys().any(|k| !["role", "content", "name"].contains(&k.as_str())));
            said |= more || !blank(&rest);
            found.extend(special);
        }
        if let Some(dirt) = empty.filter(|_| !said && !found.is_empty()) {
            faults.push(Fault::new(dirt, field, "an empty completion but for special tokens; expected text"));
        }
        for (dirt, id, name) in [(Dirt::InnerEos, Some(self.eos), "EOS"), (Dirt::InnerBos, self.bos(), "BOS")] {
            let Some(id) = id.filter(|id| found.contains(id)) else { continue };
            let token = self.tokenizer.token(id).unwrap_or_default();
            if dirt == Dirt::InnerEos && field == "prompt" {
                faults.push(self.spelled_out(id, field));
                continue;
            }
            let message = format!("the text of a message has {token}, which is {name}; the chat template writes it");
            faults.push(Fault::new(dirt, field, message));
        }
        if let Some(id) = found.iter().find(|id| **id != self.eos && Some(**id) != self.tokenizer.bos_id()) {
            faults.push(self.spelled_out(*id, field));
        }
    }

    fn spelled_out(&self, id: u32, field: &str) -> Fault {
        let token = self.tokenizer.token(id).unwrap_or_default();
        Fault::new(Dirt::InnerSpecial, field, format!("the text has {token}, which is a special token"))
    }

    /// Brings the row under `max_length`, or says why not.
    fn fit(&self, encoded: &mut Encoded, said: &Said, faults: &mut Vec<Fault>) {
        let Some(max) = self.options.max_length else { return self.count_eos(encoded) };
        let longest = encoded.longest();
        let Encoded { prompt, sides, touches, .. } = encoded;
        if prompt.len() + longest <= max {
            return self.count_eos(encoded);
        }
        let counts: Vec<_> = said.fields.iter().zip(&*sides).map(|(f, s)| format!("{} of {f}", s.ids.len())).collect();
        let over = sides.iter().position(|s| prompt.len() + s.ids.len() > max).unwrap_or(0);
        let field = if prompt.len() >= max && !said.whole { "prompt" } else { said.fields[over] };
        let counts = counts.join(", ");
        let message = match said.whole {
            true => format!("{} tokens; max_length is {max}", prompt.len() + longest),
            false => format!("{} tokens of prompt + {counts}; max_length is {max}", prompt.len()),
        };
        faults.push(Fault::new(Dirt::Overlong, field, message));
        let cannot = |field: &str, message: String| Fault::new(Dirt::Untruncatable, field, message);
        match self.options.overlong {
            Overlong::Error | Overlong::Drop => {}
            Overlong::TruncatePrompt => {
                let bos = usize::from(prompt.first().is_some_and(|id| Some(*id) == self.tokenizer.bos_id()));
                // BOS alone is no prompt, unless the prompt was nothing else.
                let least = (bos + 1).min(prompt.len());
                if longest + least > max {
                    let at = sides.iter().position(|s| s.ids.len() == longest).unwrap_or(0);
                    let message = match said.whole {
                        true => "no prompt that could be cut: all of it is learnt".to_owned(),
                        false => format!("{longest} tokens leave no room for a prompt within max_length {max}"),
                    };
                    faults.push(cannot(said.fields[at], message));
                    return;
                }
                let lost = prompt.len() - (max - longest);
                prompt.drain(bos..bos + lost);
                touches.prompt_cut = true;
                touches.prompt_lost = lost;
            }
            Overlong::TruncateCompletion | Overlong::TruncateCompletionKeepEos => {
                let keep_eos = self.options.overlong == Overlong::TruncateCompletionKeepEos;
                let least = 1 + usize::from(keep_eos);
                if prompt.len() + least > max {
                    faults.push(cannot(
                        "prompt",
                        format!("{} tokens leave no room for a completion within max_length {max}", prompt.len()),
                    ));
                    return;
                }
                let room = max - prompt.len();
                for (side, field) in sides.iter_mut().zip(said.fields) {
                    if side.ids.len() <= room {
                        continue;
                    }
                    touches.completions_cut += 1;
                    touches.completion_lost += side.ids.len() - room;
                    side.truncate(room);
                    if keep_eos && let Some(last) = side.ids.last_mut() {
                        *last = self.eos;
                        if let Some(last) = side.mask.as_mut().and_then(|m| m.last_mut()) {
                            *last = true;
                        }
                    }
                    if side.scored() == 0 {
                        let message = format!("nothing of it is scored in the tokens that max_length {max} leaves");
                        faults.push(cannot(field, message));
                    }
                }
            }
        }
        if let [chosen, rejected] = &sides[..]
            && touches.completions_cut > 0
            && chosen.ids == rejected.ids
        {
            faults.push(Fault::new(
                Dirt::IdenticalAfterTruncation,
                said.fields[1],
                format!("the same as `chosen` in the {} tokens that max_length {max} leaves", chosen.ids.len()),
            ));
        }
        self.count_eos(encoded);
    }

    fn count_eos(&self, encoded: &mut Encoded) {
        encoded.touches.without_eos = encoded.sides.iter().filter(|side| !side.ids.contains(&self.eos)).count();
    }
}
