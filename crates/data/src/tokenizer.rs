//! The tokenizer of a checkpoint, with the names of its special tokens and its chat template.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::Tokenizer as Inner;
use xxhash_rust::xxh3::xxh3_64;

use crate::Error;

/// A special token: its text and its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Special {
    /// The text, `</s>`.
    pub text: String,
    /// The id in the vocabulary.
    pub id: u32,
}

/// The tokenizer of a Hugging Face folder.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: Inner,
    folder: PathBuf,
    /// What the post-processor puts before every text: BOS, or nothing.
    before: Vec<u32>,
    bos: Option<Special>,
    eos: Option<Special>,
    unk: Option<Special>,
    pad: Option<Special>,
    /// The ids that `skip_special` leaves out.
    special_ids: HashSet<u32>,
    /// Where generation stops: EOS and whatever generation_config.json adds to it.
    stop: Vec<u32>,
    /// The text of the chat template, and the file that it came from.
    template: Option<(String, PathBuf)>,
    fingerprint: u64,
}

impl Tokenizer {
    /// Reads `tokenizer.json` and, where they exist, `tokenizer_config.json`, `special_tokens_map.json`,
    /// `generation_config.json`, `config.json` and `chat_template.jinja` of `folder`.
    ///
    /// Truncation and padding that tokenizer.json asks for are switched off: lengths are this crate's policy.
    ///
    /// # Errors
    /// No `tokenizer.json`; a file that does not parse; a special token whose name is not in the vocabulary.
    pub fn from_folder(folder: &Path) -> Result<Self, Error> {
        let file = folder.join("tokenizer.json");
        if !file.is_file() {
            return Err(Error::file(
                folder,
                "no tokenizer.json here; expected the folder of a Hugging Face checkpoint with a fast tokenizer",
            ));
        }
        let bytes = std::fs::read(&file).map_err(Error::io(&file, "read"))?;
        let mut inner = Inner::from_bytes(&bytes)
            .map_err(|e| Error::file(&file, format!("not a tokenizer that can be read: {e}")))?;
        inner.with_truncation(None).map_err(|e| Error::file(&file, e.to_string()))?;
        inner.with_padding(None);

        let config = optional_json(folder, "tokenizer_config.json")?;
        let map = optional_json(folder, "special_tokens_map.json")?;
        let model = optional_json(folder, "config.json")?;
        let generation = optional_json(folder, "generation_config.json")?;

        let special = |key: &str| -> Result<Option<Special>, Error> {
            let name = [("tokenizer_config.json", &config), ("special_tokens_map.json", &map)]
                .into_iter()
                .find_map(|(f, json)| Some((f, token_text(json.as_ref()?.get(key)?)?)));
            if let Some((source, text)) = name {
                let id = inner.token_to_id(&text).ok_or_else(|| {
                    Error::file(
                        &folder.join(source),
                        format!("`{key}` is {text:?}, which tokenizer.json does not know"),
                    )
                })?;
                return Ok(Some(Special { text, id }));
            }
            // Checkpoints without a tokenizer_config name their tokens by id only.
            let id = [&generation, &model]
                .into_iter()
                .find_map(|json| ids(json.as_ref()?.get(format!("{key}_id"))?).first().copied());
            Ok(id.and_then(|id| inner.id_to_token(id).map(|text| Special { text, id })))
        };
        let (bos, eos) = (special("bos_token")?, special("eos_token")?);
        let (unk, pad) = (special("unk_token")?, special("pad_token")?);

        let mut before = surroundings(&inner, &file)?;
        // transformers rebuilds the post-processor when these keys are there, so they win over tokenizer.json.
        match (config.as_ref().and_then(|c| c.get("add_bos_token")).and_then(Value::as_bool), &bos) {
            (Some(true), Some(bos)) if before.is_empty() => before.push(bos.id),
            (Some(true), None) => {
                return Err(Error::file(
                    &folder.join("tokenizer_config.json"),
                    "`add_bos_token` is true, and no `bos_token` is named",
                ));
            }
            (Some(false), Some(bos)) => before.retain(|id| *id != bos.id),
            _ => {}
        }

        let mut stop: Vec<u32> = eos.iter().map(|s| s.id).collect();
        for json in [&generation, &model].into_iter().flatten() {
            let more = json.get("eos_token_id").map(ids).unwrap_or_default();
            stop.extend(more.into_iter().filter(|id| !stop.contains(id)).collect::<Vec<_>>());
        }

        let template = template_of(folder, config.as_ref())?;
        let mut facts = bytes;
        for part in [&bos, &eos, &unk, &pad].into_iter().flatten() {
            facts.extend_from_slice(part.text.as_bytes());
            facts.extend_from_slice(&part.id.to_le_bytes());
        }
        facts.extend(before.iter().flat_map(|id| id.to_le_bytes()));
        let fingerprint = xxh3_64(&facts);
        let added = inner.get_added_tokens_decoder();
        let special_ids = added.into_iter().filter(|(_, token)| token.special).map(|(id, _)| id).collect();
        Ok(Self {
            inner,
            folder: folder.to_owned(),
            before,
            bos,
            eos,
            unk,
            pad,
            special_ids,
            stop,
            template,
            fingerprint,
        })
    }

    /// The token ids of `text`; with `add_special`, BOS goes before it where this tokenizer puts one. EOS is never
    /// added.
    ///
    /// # Errors
    /// A text that the tokenizer cannot encode (no unknown token in its vocabulary).
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, Error> {
        let encoding = self.inner.encode_fast(text, false).map_err(|e| self.failure(e))?;
        let ids = encoding.get_ids();
        if !add_special {
            return Ok(ids.to_vec());
        }
        Ok(self.before.iter().chain(ids).copied().collect())
    }

    /// The token ids of `text` without special tokens, and the bytes of `text` that each stands for.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_offsets(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), Error> {
        let encoding = self.inner.encode(text, false).map_err(|e| self.failure(e))?;
        Ok((encoding.get_ids().to_vec(), encoding.get_offsets().iter().map(|(a, b)| *a..*b).collect()))
    }

    /// The text of `ids`.
    ///
    /// # Errors
    /// Ids that the decoder refuses.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, Error> {
        // The library looks special tokens up by their normalised text and misses some; ids are certain.
        let keep = |id: &&u32| !skip_special || !self.special_ids.contains(id);
        let ids: Vec<u32> = ids.iter().filter(keep).copied().collect();
        self.inner.decode(&ids, false).map_err(|e| self.failure(e))
    }

    /// A decoder that is fed one token at a time and hands out text as soon as it is settled.
    pub fn decode_stream(&self, skip_special: bool) -> DecodeStream<'_> {
        DecodeStream { tokenizer: self, skip_special, ids: Vec::new(), settled: 0, read: 0 }
    }

    /// The id of the token that ends a text, if the checkpoint names one.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos.as_ref().map(|s| s.id)
    }

    /// The text of the token that ends a text.
    pub fn eos_token(&self) -> Option<&str> {
        self.eos.as_ref().map(|s| s.text.as_str())
    }

    /// Every id at which generation stops: EOS, and what `generation_config.json` adds.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop
    }

    /// The id of the token that begins a text, if the checkpoint names one.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos.as_ref().map(|s| s.id)
    }

    /// The text of the token that begins a text.
    pub fn bos_token(&self) -> Option<&str> {
        self.bos.as_ref().map(|s| s.text.as_str())
    }

    /// The id that pads, if the checkpoint names one.
    pub fn pad_id(&self) -> Option<u32> {
        self.pad.as_ref().map(|s| s.id)
    }

    /// What `encode` puts before a text with `add_special`: BOS, or nothing.
    pub fn prefix(&self) -> &[u32] {
        &self.before
    }

    /// The number of ids, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The token of an id, as the vocabulary spells it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The folder that it was read from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The text of the checkpoint's chat template, if it has one.
    pub fn chat_template(&self) -> Option<&str> {
        self.template.as_ref().map(|(text, _)| text.as_str())
    }

    /// The names and texts of the special tokens, as chat templates see them.
    pub fn special_tokens(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [("bos_token", &self.bos), ("eos_token", &self.eos), ("unk_token", &self.unk), ("pad_token", &self.pad)]
            .into_iter()
            .filter_map(|(name, s)| Some((name, s.as_ref()?.text.as_str())))
    }

    /// A hash of everything that decides the ids.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    fn failure(&self, e: tokenizers::Error) -> Error {
        Error::file(&self.folder.join("tokenizer.json"), e.to_string())
    }
}

/// Text from tokens, one at a time; see [`Tokenizer::decode_stream`].
#[derive(Debug)]
pub struct DecodeStream<'t> {
    tokenizer: &'t Tokenizer,
    skip_special: bool,
    ids: Vec<u32>,
    /// Tokens before this one are forgotten; those between it and `read` give context to the decoder.
    settled: usize,
    read: usize,
}

impl DecodeStream<'_> {
    /// Takes the next token and returns the text that became certain with it: empty while a character is incomplete.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String, Error> {
        self.ids.push(id);
        self.advance(false)
    }

    /// The text still held back, with U+FFFD for bytes that never became a character.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(mut self) -> Result<String, Error> {
        self.advance(true)
    }

    fn advance(&mut self, all: bool) -> Result<String, Error> {
        let before = self.tokenizer.decode(&self.ids[self.settled..self.read], self.skip_special)?;
        let now = self.tokenizer.decode(&self.ids[self.settled..], self.skip_special)?;
        // A trailing U+FFFD may be the first bytes of a longer character.
        let new = match now.get(before.len()..) {
            Some(new) if !new.is_empty() && (all || !new.ends_with('\u{fffd}')) => new.to_owned(),
            _ => return Ok(String::new()),
        };
        self.settled = self.read;
        self.read = self.ids.len();
        Ok(new)
    }
}

/// The special tokens that the post-processor puts before a text. What it puts after (an EOS) is left out: a prompt
/// must not end with it, and a completion gets exactly one.
fn surroundings(inner: &Inner, file: &Path) -> Result<Vec<u32>, Error> {
    let with = inner.encode("a", true).map_err(|e| Error::file(file, e.to_string()))?;
    let mask = with.get_special_tokens_mask();
    let n = mask.iter().take_while(|m| **m == 1).count();
    Ok(with.get_ids()[..n].to_vec())
}

fn optional_json(folder: &Path, name: &str) -> Result<Option<Value>, Error> {
    let path = folder.join(name);
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| Error::file(&path, format!("not JSON: {e}"))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(&path, "read")(e)),
    }
}

/// `"</s>"` or `{"content": "</s>", …}`.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

/// `2` or `[2, 3]`.
fn ids(value: &Value) -> Vec<u32> {
    let one = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    match value {
        Value::Array(all) => all.iter().filter_map(one).collect(),
        other => one(other).into_iter().collect(),
    }
}

fn template_of(folder: &Path, config: Option<&Value>) -> Result<Option<(String, PathBuf)>, Error> {
    let path = folder.join("chat_template.jinja");
    match std::fs::read_to_string(&path) {
        Ok(text) => return Ok(Some((text, path))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::io(&path, "read")(e)),
    }
    let path = folder.join("tokenizer_config.json");
    match config.and_then(|c| c.get("chat_template")) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some((text.clone(), path))),
        // Several named templates: the one called "default" is the one that transformers uses.
        Some(Value::Array(named)) => named
            .iter()
            .find(|t| t.get("name").and_then(Value::as_str) == Some("default"))
            .and_then(|t| t.get("template")?.as_str())
            .map(|text| Some((text.to_owned(), path.clone())))
            .ok_or_else(|| Error::file(&path, "`chat_template` is a list without a template named \"default\"")),
        Some(_) => Err(Error::file(&path, "`chat_template` must be a string or a list of {name, template}")),
    }
}
