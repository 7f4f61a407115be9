//! The tokenizer of a checkpoint, with the names of its special tokens and its chat template.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::Tokenizer as Inner;
use xxhash_rust::xxh3::xxh3_64;

use crate::classes::Class;
use crate::{Error, bounded, quiet};

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
    /// What the texts of special tokens begin with; none if that cannot be told.
    begins: Option<HashSet<char>>,
    /// `vocab_size` of config.json: the ids that the model knows.
    rows: Option<usize>,
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
        let bytes = bounded::read(&file, bounded::TOKENIZER).map_err(Error::io(&file, "read"))?;
        let config = optional_json(folder, "tokenizer_config.json")?;
        let map = optional_json(folder, "special_tokens_map.json")?;
        let model = optional_json(folder, "config.json")?;
        let generation = optional_json(folder, "generation_config.json")?;

        let class = Class::of(config.as_ref(), model.as_ref());
        let class = class.map_err(|e| Error::file(&folder.join("tokenizer_config.json"), e))?;
        let (bytes, class) = class.prepare(bytes, config.as_ref()).map_err(|e| Error::file(&file, e))?;
        let refused = |why: String| Error::file(&file, format!("not a tokenizer that can be read: {why}"));
        let mut inner = quiet::catch(|| Inner::from_bytes(&bytes))
            .ok_or_else(|| refused("its reader gave up on it".to_owned()))?
            .map_err(|e| refused(e.to_string()))?;
        inner.with_truncation(None).map_err(|e| Error::file(&file, e.to_string()))?;
        inner.with_padding(None);

        let special = |key: &str| -> Result<Option<Special>, Error> {
            // A null there says that there is none, whatever the other files name.
            if config.as_ref().and_then(|c| c.get(key)).is_some_and(Value::is_null) && key == "bos_token" {
                return Ok(None);
            }
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
            let said = config.as_ref().is_some_and(|c| c.get(key).is_some());
            let of_class = class.token(key).filter(|_| !said);
            if let Some((text, id)) = of_class.and_then(|text| Some((text.to_owned(), inner.token_to_id(text)?))) {
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

        // Only the post-processor decides: transformers 5 goes by it whatever `add_bos_token` says.
        let before = surroundings(&inner, &file)?;

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
        let added: Vec<_> = inner.get_added_tokens_decoder().into_iter().filter(|(_, token)| token.special).collect();
        // Text without these characters has no special token in it, unless a normaliser makes one.
        let begins = match added.iter().any(|(_, token)| token.normalized) && inner.get_normalizer().is_some() {
            true => None,
            false => Some(added.iter().filter_map(|(_, token)| token.content.chars().next()).collect()),
        };
        let special_ids = added.into_iter().map(|(id, _)| id).collect();
        let text_config = || model.as_ref()?.get("text_config")?.get("vocab_size");
        let rows = model.as_ref().and_then(|m| m.get("vocab_size")).or_else(text_config).and_then(Value::as_u64);
        Ok(Self {
            inner,
            folder: folder.to_owned(),
            before,
            bos,
            eos,
            unk,
            pad,
            special_ids,
            begins,
            rows: rows.and_then(|n| usize::try_from(n).ok()),
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
        let encoding = quiet::catch(|| self.inner.encode_fast(text, false)).ok_or_else(|| self.gave_up())?;
        let encoding = encoding.map_err(|e| self.failure(e))?;
        let ids = encoding.get_ids();
        if !add_special {
            return Ok(ids.to_vec());
        }
        Ok(self.before.iter().chain(ids).copied().collect())
    }

    /// The tokens of a text from its beginning on, with BOS once where the tokenizer puts it or the text has it; and
    /// whether the text has it.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn begin(&self, text: &str) -> Result<(Vec<u32>, bool), Error> {
        let mut ids = self.encode(text, false)?;
        let own = ids.iter().take_while(|id| Some(**id) == self.bos_id()).count();
        if own > 0 {
            ids.drain(..own - 1);
        } else {
            ids.splice(..0, self.prefix().iter().copied());
        }
        Ok((ids, own > 0))
    }

    /// The token ids of `text` without special tokens, and the bytes of `text` that each stands for.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_offsets(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), Error> {
        let encoding = quiet::catch(|| self.inner.encode(text, false)).ok_or_else(|| self.gave_up())?;
        let encoding = encoding.map_err(|e| self.failure(e))?;
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
        let text = quiet::catch(|| self.inner.decode(&ids, false)).ok_or_else(|| self.gave_up())?;
        text.map_err(|e| self.failure(e))
    }

    /// The ids of special tokens that `text` spells out, in their order.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn special_in(&self, text: &str) -> Result<Vec<u32>, Error> {
        if self.begins.as_ref().is_some_and(|begins| !text.contains(|c| begins.contains(&c))) {
            return Ok(Vec::new());
        }
        let unknown = self.unk.as_ref().map(|s| s.id);
        let special = |id: &u32| self.is_special(*id) && Some(*id) != unknown;
        Ok(self.encode(text, false)?.into_iter().filter(special).collect())
    }

    /// Whether `id` is that of a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.special_ids.contains(&id)
    }

    /// The ids that the model of the same folder knows, by its config.json.
    pub fn model_vocab_size(&self) -> Option<usize> {
        self.rows
    }

    /// The id of the token for what is unknown, if the checkpoint names one.
    pub fn unk_id(&self) -> Option<u32> {
        self.unk.as_ref().map(|s| s.id)
    }

    /// A decoder that is fed one token at a time and hands out text as soon as it is settled.
    pub fn decode_stream(&self, skip_special: bool) -> DecodeStream<'_> {
        DecodeStream { tokenizer: self, skip_special, eager: false, ids: Vec::new(), settled: 0, read: 0, said: 0 }
    }

    /// As [`Tokenizer::decode_stream`], of which characters come with the last of their bytes, even if a byte after them may
    /// make an error of them.
    pub(crate) fn decode_eagerly(&self) -> DecodeStream<'_> {
        DecodeStream { eager: true, ..self.decode_stream(false) }
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

    fn gave_up(&self) -> Error {
        Error::file(
            &self.folder.join("tokenizer.json"),
            "its tokenizer gave up on a text or on tokens; the file is at fault",
        )
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
    eager: bool,
    ids: Vec<u32>,
    /// Those between this one and `read` give context to the decoder.
    settled: usize,
    /// What these say was handed out.
    read: usize,
    /// The bytes that were handed out.
    said: usize,
}

impl DecodeStream<'_> {
    /// Takes the next token and returns the text that became certain with it: empty while a character is incomplete.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String, Error> {
        self.ids.push(id);
        self.advance()
    }

    /// The text still held back, with U+FFFD for bytes that never became a character. All that was handed out, and this,
    /// is [`Tokenizer::decode`] of all tokens.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(self) -> Result<String, Error> {
        let all = self.tokenizer.decode(&self.ids, self.skip_special)?;
        Ok(all.get(self.said..).unwrap_or_default().to_owned())
    }

    fn advance(&mut self) -> Result<String, Error> {
        // One byte more may make an error of all bytes before it.
        let byte = |id: &u32| {
            self.tokenizer.token(*id).is_some_and(|t| t.len() == 6 && t.starts_with("<0x") && t.ends_with('>'))
        };
        if !self.eager && self.ids.last().is_some_and(byte) {
            return Ok(String::new());
        }
        let before = self.tokenizer.decode(&self.ids[self.settled..self.read], self.skip_special)?;
        let now = self.tokenizer.decode(&self.ids[self.settled..], self.skip_special)?;
        // A trailing U+FFFD may be the first bytes of a longer character.
        let new = match now.strip_prefix(&before) {
            Some(new) if !new.is_empty() && !new.ends_with('\u{fffd}') => new.to_owned(),
            _ => return Ok(String::new()),
        };
        self.settled = self.read;
        self.read = self.ids.len();
        self.said += new.len();
        Ok(new)
    }
}

/// The special tokens that the post-processor puts before a text. What it puts after (an EOS) is left out: a prompt
/// must not end with it, and a completion gets exactly one.
fn surroundings(inner: &Inner, file: &Path) -> Result<Vec<u32>, Error> {
    let with = quiet::catch(|| inner.encode("a", true))
        .ok_or_else(|| Error::file(file, "its tokenizer gave up on a text or on tokens; the file is at fault"))?
        .map_err(|e| Error::file(file, e.to_string()))?;
    let mask = with.get_special_tokens_mask();
    let n = mask.iter().take_while(|m| **m == 1).count();
    Ok(with.get_ids()[..n].to_vec())
}

fn optional_json(folder: &Path, name: &str) -> Result<Option<Value>, Error> {
    let path = folder.join(name);
    match bounded::read(&path, bounded::SETTINGS) {
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
    match bounded::text(&path, bounded::SETTINGS) {
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
