//! `model`: a reward model as a reward.

use std::path::PathBuf;
use std::sync::OnceLock;

use collimate_data::Tokenizer;
use collimate_model::{Decoder, HeadKind, Layout, Options};
use collimate_reward::{AnyReward, Error, Reward, Sample};
use serde::{Deserialize, Serialize};

/// r(x, y): what a sequence classification with one label says at the last token of prompt and completion, as
/// `collimate reward` trains it. Opened with the first texts, and kept.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Its folder.
    pub model: PathBuf,
    /// Tensors: see `collimate backends`; the first that is usable where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    #[serde(skip)]
    open: OnceLock<Result<Opened, String>>,
}

#[derive(Debug)]
struct Opened {
    decoder: Decoder,
    tokenizer: Tokenizer,
    /// The token behind each completion, at which the model is read.
    end: Option<u32>,
}

/// Tokens that are scored at a time.
const TOKENS: usize = 4096;

impl Opened {
    fn new(model: &Model) -> anyhow::Result<Self> {
        let (_, device) = crate::commands::device(model.backend.as_deref())?;
        let checkpoint = crate::commands::open(&model.model, None)?;
        if checkpoint.config.head != HeadKind::Value {
            anyhow::bail!(
                "{} is no reward model: its architectures name no sequence classification; `collimate reward` trains one",
                model.model.display()
            );
        }
        let decoder = Decoder::load(&checkpoint, &device)?;
        let tokenizer = Tokenizer::from_folder(checkpoint.tokenizer_folder())?;
        // Where texts are padded with EOS, transformers, and TRL in training, reads at the last token before it.
        let pads = |id: &u32| tokenizer.pad_id() == Some(*id) && checkpoint.raw_config["pad_token_id"] == *id;
        let end = tokenizer.eos_id().filter(|id| !pads(id));
        Ok(Self { decoder, tokenizer, end })
    }

    /// The prompt's tokens as training has them, and the completion's with the end behind it.
    fn tokens(&self, sample: &Sample<'_>) -> Result<[Vec<u32>; 2], Error> {
        let fault = |e: collimate_data::Error| Error::Sample { row: sample.row, why: e.to_string() };
        let (prompt, _) = self.tokenizer.begin(sample.prompt).map_err(fault)?;
        let mut completion = self.tokenizer.encode(sample.completion, false).map_err(fault)?;
        completion.extend(self.end);
        if completion.is_empty() {
            return Err(Error::Sample { row: sample.row, why: "the completion has no tokens".into() });
        }
        Ok([prompt, completion])
    }
}

impl Reward for Model {
    fn scores(&self, samples: &[Sample<'_>]) -> Result<Vec<f64>, Error> {
        let opened = self.open.get_or_init(|| Opened::new(self).map_err(|e| format!("reward \"model\": {e:#}")));
        let Opened { decoder, .. } = opened.as_ref().map_err(|why| Error::Configuration(why.clone()))?;
        let opened = opened.as_ref().expect("it was opened");
        let mut scores = Vec::with_capacity(samples.len());
        let mut layout = Layout::default();
        let mut ask = |layout: &mut Layout, row: usize| {
            let said = decoder.score(layout, Options::default());
            *layout = Layout::default();
            let said = said.map_err(|e| Error::Sample { row, why: e.to_string() })?;
            scores.extend(said.log_probs.into_iter().map(f64::from));
            Ok::<_, Error>(())
        };
        for (i, sample) in samples.iter().enumerate() {
            let [prompt, completion] = opened.tokens(sample)?;
            let pushed = layout.push_to_read(&prompt, &[&completion], true);
            pushed.map_err(|e| Error::Sample { row: sample.row, why: e.to_string() })?;
            if layout.tokens() >= TOKENS || i + 1 == samples.len() {
                ask(&mut layout, sample.row)?;
            }
        }
        Ok(scores)
    }
}

#[typetag::serde(name = "model")]
impl AnyReward for Model {}
