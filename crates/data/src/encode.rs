//! From a pair as text to a pair as tokens: the boundary, BOS and EOS, and the length.

use std::ops::Range;

use serde_json::Value;

use crate::format::{Example, Fault, FaultKind, Row};
use crate::options::{Boundary, Dirt, Options, Overlong, Verdict};
use crate::template::{ChatTemplate, Rendered};
use crate::{Error, Report, Tokenizer};

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

/// What was done to one pair, for the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Touches {
    pub separate: bool,
    pub merged: bool,
    pub moved: usize,
    pub prompt_cut: bool,
    pub completions_cut: usize,
    pub prompt_lost: usize,
    pub completion_lost: usize,
    pub bos_not_doubled: usize,
    pub eos_not_doubled: usize,
    pub without_eos: usize,
    /// Tokens of the pair before any cut.
    pub length: usize,
}

/// One side of a pair under way.
#[derive(Clone, Debug, Default)]
struct Side {
    ids: Vec<u32>,
    mask: Option<Vec<bool>>,
}

impl Side {
    fn truncate(&mut self, n: usize) {
        self.ids.truncate(n);
        if let Some(mask) = &mut self.mask {
            mask.truncate(n);
        }
    }
}

/// A pair under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Encoded {
    pub prompt: Vec<u32>,
    chosen: Side,
    rejected: Side,
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
        report.eos_not_doubled += touches.eos_not_doubled;
        report.completions_without_eos += touches.without_eos;
        tokens.prompt += self.prompt.len() as u64;
        tokens.chosen += self.chosen.ids.len() as u64;
        tokens.rejected += self.rejected.ids.len() as u64;
        let longest = self.prompt.len() + self.chosen.ids.len().max(self.rejected.ids.len());
        tokens.longest = tokens.longest.max(longest);
    }

    pub fn into_tokens(self, key: u64, file: usize, row: usize) -> Tokens {
        Tokens {
            prompt: self.prompt,
            chosen: self.chosen.ids,
            rejected: self.rejected.ids,
            chosen_mask: self.chosen.mask,
            rejected_mask: self.rejected.mask,
            key,
            file,
            row,
        }
    }
}

const FIELDS: [&str; 2] = ["chosen", "rejected"];

/// Tokenises pairs with one tokenizer under one set of options.
#[derive(Debug)]
pub(crate) struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    options: &'a Options,
    eos: u32,
    eos_text: &'a str,
    template: Option<ChatTemplate>,
    fingerprint: u64,
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
            Some(path) if path.ends_with(".jinja") => {
                let path = std::path::Path::new(path);
                Some(std::fs::read_to_string(path).map_err(Error::io(path, "read"))?)
            }
            Some(text) => Some(text.clone()),
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
        facts.update(text.unwrap_or_default().as_bytes());
        if let Some(today) = template.as_ref().filter(|t| t.is_dated()).map(|t| t.date()) {
            facts.update(today.as_bytes());
        }
        Ok(Self { tokenizer, options, eos, eos_text, template, fingerprint: facts.digest() })
    }

    /// A hash of tokenizer and template.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Tokenises `example`. Faults come back with the pair, if there is one, so that all dirt can be counted; a pair
    /// with a fault whose verdict is not [`Verdict::Keep`] must not be used.
    pub fn encode(&self, example: &Example) -> (Option<Encoded>, Vec<Fault>) {
        let mut faults = Vec::new();
        let encoded = match example {
            Example::Plain { prompt, chosen, rejected } => self.plain(prompt, chosen, rejected, &mut faults),
            Example::Chat { prompt, chosen, rejected, tools, chat_template_kwargs } => {
                self.chat(prompt, [chosen, rejected], tools.as_ref(), chat_template_kwargs, &mut faults)
            }
        };
        match encoded {
            Err(fault) => {
                faults.push(fault);
                (None, faults)
            }
            Ok(mut encoded) => {
                let plain = matches!(example, Example::Plain { .. });
                self.check(&encoded, plain, &mut faults);
                if faults.iter().all(|f| self.keeps(f)) {
                    self.fit(&mut encoded, &mut faults);
                }
                (Some(encoded), faults)
            }
        }
    }

    fn keeps(&self, fault: &Fault) -> bool {
        match &fault.kind {
            FaultKind::Dirt(dirt, _) => self.options.verdict(*dirt) == Verdict::Keep,
            _ => false,
        }
    }

    fn ids(&self, text: &str, field: &str, special: bool) -> Result<Vec<u32>, Fault> {
        self.tokenizer.encode(text, special).map_err(|e| Fault::other(field, e.to_string()))
    }

    /// TRL's way for strings: the completion is what follows the prompt's tokens in the tokens of prompt + completion.
    fn plain(&self, prompt: &str, chosen: &str, rejected: &str, faults: &mut Vec<Fault>) -> Result<Encoded, Fault> {
        let mut touches = Touches::default();
        // A prompt that begins with BOS itself gets no second one.
        let own_bos = match self.tokenizer.bos_token() {
            Some(bos) => !self.tokenizer.prefix().is_empty() && prompt.starts_with(bos),
            None => false,
        };
        touches.bos_not_doubled = usize::from(own_bos);
        let prompt_ids = self.ids(prompt, "prompt", !own_bos)?;
        let mut sides = [Side::default(), Side::default()];
        let mut bodies = [chosen, rejected];
        for body in &mut bodies {
            let whole = *body;
            while let Some(rest) = body.strip_suffix(self.eos_text) {
                *body = rest;
            }
            touches.eos_not_doubled += usize::from(whole.len() != body.len());
        }
        for ((side, body), field) in sides.iter_mut().zip(bodies).zip(FIELDS) {
            let mut text = String::with_capacity(prompt.len() + body.len());
            text.push_str(prompt);
            text.push_str(body);
            side.ids = self.ids(&text, field, !own_bos)?;
            // EOS goes on as an id: some tokenizers do not find its text after other text.
            side.ids.push(self.eos);
        }
        let apart = |i: usize| {
            let mut ids = self.ids(bodies[i], FIELDS[i], false)?;
            ids.push(self.eos);
            Ok(Side { ids, mask: None })
        };
        self.join(prompt_ids, sides, &apart, touches, faults)
    }

    /// TRL's way for messages: the template writes BOS and EOS, and the completion is what follows the tokens of the
    /// prompt, rendered up to where the assistant speaks.
    fn chat(
        &self,
        prompt: &[Value],
        completions: [&Vec<Value>; 2],
        tools: Option<&Value>,
        kwargs: &Row,
        faults: &mut Vec<Fault>,
    ) -> Result<Encoded, Fault> {
        let template = self.template.as_ref().ok_or_else(|| {
            Fault::other(
                "prompt",
                "messages, and the checkpoint has no chat template (chat_template.jinja, or `chat_template` in \
                 tokenizer_config.json) to make text of them; name one with `chat_template`, or use strings",
            )
        })?;
        let mut variables = self.options.chat_template_kwargs.clone();
        variables.extend(kwargs.iter().map(|(k, v)| (k.clone(), v.clone())));
        let render = |messages: &[Value], field: &str, ask: bool| {
            template.render(messages, tools, &variables, ask).map_err(|e| match e {
                Error::Template { message, .. } => {
                    Fault { field: field.to_owned(), kind: FaultKind::Template(format!("`{field}`: {message}")) }
                }
                other => Fault::other(field, other.to_string()),
            })
        };
        let asked = render(prompt, "prompt", true)?.text;
        let prompt_ids = self.ids(&asked, "prompt", false)?;
        let mut texts = [Rendered::default(), Rendered::default()];
        let mut sides = [Side::default(), Side::default()];
        for i in 0..2 {
            let whole: Vec<Value> = prompt.iter().chain(completions[i]).cloned().collect();
            texts[i] = render(&whole, FIELDS[i], false)?;
            sides[i] = self.side(&texts[i], 0, FIELDS[i])?;
        }
        let apart = |i: usize| {
            if !texts[i].text.starts_with(&asked) {
                return Err(Fault::other(
                    FIELDS[i],
                    "the chat template writes the prompt otherwise when an answer follows, so that the answer cannot \
                     be tokenised apart; `boundary = \"merge\"` scores from where the two part",
                ));
            }
            self.side(&texts[i], asked.len(), FIELDS[i])
        };
        self.join(prompt_ids, sides, &apart, Touches::default(), faults)
    }

    /// The tokens of a rendered text from byte `from` on, with what is scored of them where that is asked for.
    fn side(&self, rendered: &Rendered, from: usize, field: &str) -> Result<Side, Fault> {
        let text = &rendered.text[from..];
        if !self.options.assistant_only_loss {
            return Ok(Side { ids: self.ids(text, field, false)?, mask: None });
        }
        let (ids, offsets) = self.tokenizer.encode_offsets(text).map_err(|e| Fault::other(field, e.to_string()))?;
        let touches = |token: &Range<usize>| {
            let (start, end) = (token.start + from, token.end + from);
            rendered.assistant.iter().any(|span| start < span.end && span.start < end)
        };
        Ok(Side { mask: Some(offsets.iter().map(touches).collect()), ids })
    }

    /// Cuts the prompt's tokens off both sides, by the boundary policy where they are not a prefix. `apart` tokenises
    /// a completion by itself.
    fn join(
        &self,
        mut prompt: Vec<u32>,
        mut sides: [Side; 2],
        apart: &dyn Fn(usize) -> Result<Side, Fault>,
        mut touches: Touches,
        faults: &mut Vec<Fault>,
    ) -> Result<Encoded, Fault> {
        let shared = |side: &Side| prompt.iter().zip(&side.ids).take_while(|(a, b)| a == b).count();
        let commons = [shared(&sides[0]), shared(&sides[1])];
        let mut cut = [prompt.len(); 2];
        if let Some(i) = (0..2).find(|i| commons[*i] < prompt.len()) {
            let at = commons[i];
            let show = |ids: &[u32]| {
                let end = ids.len().min(at + 2);
                let names = ids[at.min(end)..end].iter().map(|id| self.tokenizer.token(*id).unwrap_or_default());
                names.map(|t| format!("{t:?}")).collect::<Vec<_>>().join(" ")
            };
            faults.push(Fault::dirt(
                Dirt::Boundary,
                FIELDS[i],
                format!(
                    "the tokens of the prompt are not the first tokens of prompt + {}: after {at} of {} tokens, {} \
                     stands against {}",
                    FIELDS[i],
                    prompt.len(),
                    show(&prompt),
                    show(&sides[i].ids)
                ),
            ));
            match self.options.boundary {
                Boundary::Error => {}
                Boundary::Separate => {
                    for i in (0..2).filter(|i| commons[*i] < prompt.len()) {
                        sides[i] = apart(i)?;
                        cut[i] = 0;
                    }
                    touches.separate = true;
                }
                Boundary::Merge => {
                    let boundary = commons[0].min(commons[1]);
                    touches.merged = true;
                    touches.moved = prompt.len() - boundary;
                    prompt.truncate(boundary);
                    cut = [boundary; 2];
                }
            }
        }
        for (side, cut) in sides.iter_mut().zip(cut) {
            side.ids.drain(..cut.min(side.ids.len()));
            if let Some(mask) = &mut side.mask {
                mask.drain(..cut.min(mask.len()));
            }
        }
        let [chosen, rejected] = sides;
        touches.length = prompt.len() + chosen.ids.len().max(rejected.ids.len());
        Ok(Encoded { prompt, chosen, rejected, touches })
    }

    fn check(&self, encoded: &Encoded, plain: bool, faults: &mut Vec<Fault>) {
        if encoded.prompt.is_empty() {
            faults.push(Fault::dirt(
                Dirt::EmptyPrompt,
                "prompt",
                "no token before the completion, whose first token then has no log-probability",
            ));
        }
        for (dirt, field, side) in
            [(Dirt::EmptyChosen, "chosen", &encoded.chosen), (Dirt::EmptyRejected, "rejected", &encoded.rejected)]
        {
            let scored = side.mask.as_ref().map_or(side.ids.len(), |m| m.iter().filter(|scored| **scored).count());
            if scored == 0 {
                faults.push(Fault::dirt(dirt, field, "the chat template makes no scored token of it"));
            }
        }
        if !plain {
            return; // a template ends every turn with EOS, and often a line break after it
        }
        for (field, side) in [("chosen", &encoded.chosen), ("rejected", &encoded.rejected)] {
            let inner = side.ids.split_last().map_or(&[][..], |(_, inner)| inner);
            if let Some(at) = inner.iter().position(|id| *id == self.eos) {
                faults.push(Fault::dirt(
                    Dirt::InnerEos,
                    field,
                    format!("{} stands at token {} of {}, before the end", self.eos_text, at + 1, side.ids.len()),
                ));
            }
        }
    }

    /// Brings the pair under `max_length`, or says why not.
    fn fit(&self, encoded: &mut Encoded, faults: &mut Vec<Fault>) {
        let Some(max) = self.options.max_length else { return self.count_eos(encoded) };
        let Encoded { prompt, chosen, rejected, touches } = encoded;
        let lengths = [prompt.len() + chosen.ids.len(), prompt.len() + rejected.ids.len()];
        if lengths.iter().all(|n| *n <= max) {
            return self.count_eos(encoded);
        }
        let field = match () {
            () if prompt.len() >= max => "prompt",
            () if lengths[0] > max => "chosen",
            () => "rejected",
        };
        faults.push(Fault::dirt(
            Dirt::Overlong,
            field,
            format!(
                "{} tokens of prompt + {} of chosen, {} of rejected; max_length is {max}",
                prompt.len(),
                chosen.ids.len(),
                rejected.ids.len()
            ),
        ));
        let cannot = |field: &str, message: String| Fault::dirt(Dirt::Untruncatable, field, message);
        match self.options.overlong {
            Overlong::Error | Overlong::Drop => {}
            Overlong::TruncatePrompt => {
                let longest = chosen.ids.len().max(rejected.ids.len());
                let bos = usize::from(prompt.first().is_some_and(|id| Some(*id) == self.tokenizer.bos_id()));
                // BOS alone is no prompt, unless the prompt was nothing else.
                let least = (bos + 1).min(prompt.len());
                if longest + least > max {
                    let field = if chosen.ids.len() >= rejected.ids.len() { "chosen" } else { "rejected" };
                    faults.push(cannot(
                        field,
                        format!("{longest} tokens leave no room for a prompt within max_length {max}"),
                    ));
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
                for side in [&mut *chosen, &mut *rejected] {
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
                }
            }
        }
        if touches.completions_cut > 0 && chosen.ids == rejected.ids {
            faults.push(Fault::dirt(
                Dirt::IdenticalAfterTruncation,
                "rejected",
                format!("the same as `chosen` in the {} tokens that max_length {max} leaves", chosen.ids.len()),
            ));
        }
        self.count_eos(encoded);
    }

    fn count_eos(&self, encoded: &mut Encoded) {
        let ends = |side: &Side| side.ids.contains(&self.eos);
        encoded.touches.without_eos = usize::from(!ends(&encoded.chosen)) + usize::from(!ends(&encoded.rejected));
    }
}
