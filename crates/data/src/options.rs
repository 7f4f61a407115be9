//! What the user decides about data: one commented key each, and no silent default for anything that loses data.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How data is read and tokenised.
///
/// Every default either keeps the data as it is or stops with an error; nothing is dropped or cut unless a key says so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// The format of the rows; recognised from the first row of each file unless set.
    pub format: Option<Format>,
    /// Renamed columns: `{ question = "prompt" }` reads the file's `question` as `prompt`.
    pub columns: BTreeMap<String, String>,
    /// The split that is read from a folder that has several (`train-00000-of-00002.parquet`).
    pub split: String,
    /// The configuration that is read from a folder whose README declares several under `configs`.
    pub dataset_config: Option<String>,
    /// The most tokens in prompt + completion, EOS included. None: no limit.
    pub max_length: Option<usize>,
    /// What happens to a pair of which one side is longer than `max_length`.
    pub overlong: Overlong,
    /// What happens when the tokens of the prompt are not a prefix of the tokens of prompt + completion.
    pub boundary: Boundary,
    /// How the prompt is told from the completions where it stands only inside them.
    pub implicit_prompt: ImplicitPrompt,
    /// One for all: `drop` leaves out every row that another policy here would stop at, and counts it.
    pub dirty_rows: Policy,
    /// A row that is no object of JSON, names a key twice, has half a character (a lone surrogate), or is too large.
    pub malformed_row: Policy,
    /// A row that lacks a field of its format.
    pub missing_field: Policy,
    /// A conversation whose prompt ends in the assistant's turn.
    pub assistant_prompt: AssistantPrompt,
    /// A conversation that the chat template refuses, or cannot write.
    pub refused_by_template: Policy,
    /// A token that is beyond the model's vocabulary (`vocab_size` in config.json).
    pub unknown_id: Policy,
    /// BOS anywhere but at the beginning.
    pub inner_bos: Policy,
    /// Another special token that a text spells out.
    pub inner_special: Leniency,
    /// A completion without a character other than white space.
    pub empty_completion: Policy,
    /// A prompt that leaves no token before the completion (no text, and a tokenizer without BOS).
    pub empty_prompt: Policy,
    /// A pair whose chosen and rejected are the same.
    pub identical_pair: Policy,
    /// A pair whose chosen and rejected turn out to answer different prompts.
    pub differing_prompts: Policy,
    /// A field that should be text (or messages) and is something else.
    pub wrong_type: Policy,
    /// A row whose prompt, chosen and rejected all stood in an earlier row.
    pub duplicate_row: Duplicates,
    /// A pair whose two sides became the same by truncation.
    pub identical_after_truncation: Policy,
    /// A pair that truncation would leave without a completion or without a prompt.
    pub untruncatable: Policy,
    /// A completion that has the EOS token somewhere before its end.
    pub inner_eos: Policy,
    /// The text of a chat template, or a path to one, in place of the checkpoint's own.
    pub chat_template: Option<String>,
    /// Variables handed to the chat template of every row; a row's own `chat_template_kwargs` go before these.
    pub chat_template_kwargs: serde_json::Map<String, serde_json::Value>,
    /// What `strftime_now` tells the chat template, `YYYY-MM-DD`. None: today (UTC), so that the tokens of a template
    /// that asks for it change from day to day.
    pub template_date: Option<String>,
    /// Score only what the chat template marks with `{% generation %}`. False scores the whole completion.
    pub assistant_only_loss: bool,
    /// Supervised rows: learn the completion alone (true), or the prompt too (false). None: the completion alone where the
    /// row has a prompt and a completion, and all of it where it has not.
    pub completion_only_loss: Option<bool>,
    /// Folder for tokenised data, found again by a hash of data, tokenizer, template and options. None: no cache.
    pub cache_dir: Option<PathBuf>,
    /// Seeds the choice of pairs where a data set's weight is not a whole number.
    pub seed: u64,
}

/// The split that is read unless another is asked for.
pub(crate) const SPLIT: &str = "train";

impl Default for Options {
    fn default() -> Self {
        Self {
            format: None,
            columns: BTreeMap::new(),
            split: SPLIT.to_owned(),
            dataset_config: None,
            max_length: None,
            overlong: Overlong::Error,
            boundary: Boundary::Error,
            implicit_prompt: ImplicitPrompt::Auto,
            dirty_rows: Policy::Error,
            malformed_row: Policy::Error,
            missing_field: Policy::Error,
            assistant_prompt: AssistantPrompt::Error,
            refused_by_template: Policy::Error,
            unknown_id: Policy::Error,
            inner_bos: Policy::Error,
            inner_special: Leniency::Keep,
            empty_completion: Policy::Error,
            empty_prompt: Policy::Error,
            identical_pair: Policy::Error,
            differing_prompts: Policy::Error,
            wrong_type: Policy::Error,
            duplicate_row: Duplicates::Keep,
            identical_after_truncation: Policy::Error,
            untruncatable: Policy::Error,
            inner_eos: Policy::Error,
            chat_template: None,
            chat_template_kwargs: serde_json::Map::new(),
            template_date: None,
            assistant_only_loss: false,
            completion_only_loss: None,
            cache_dir: None,
            seed: 0,
        }
    }
}

/// What is made of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Pairs, for preference training.
    #[default]
    Align,
    /// Lessons, for supervised training; of pairs the chosen side.
    Sft,
    /// Pairs with the `margin` that a row may have, for a reward model.
    Reward,
}

impl Task {
    /// What a row becomes, in the plural.
    pub fn units(self) -> &'static str {
        match self {
            Task::Align | Task::Reward => "pairs",
            Task::Sft => "lessons",
        }
    }

    /// The keys of [`Options`] that it does not read; one that is set is refused.
    pub fn unread_options(self) -> &'static [&'static str] {
        match self {
            Task::Align => &["completion_only_loss"],
            Task::Reward => &["completion_only_loss", "assistant_only_loss"],
            Task::Sft => &["identical_pair", "identical_after_truncation"],
        }
    }
}

/// The formats of rows that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// `prompt`, `chosen`, `rejected`: strings.
    Standard,
    /// `prompt`, `chosen`, `rejected`: lists of `{role, content}`.
    Conversational,
    /// `chosen`, `rejected`: strings that both begin with the prompt.
    ImplicitStandard,
    /// `chosen`, `rejected`: whole conversations that both begin with the prompt's messages.
    ImplicitConversational,
    /// LLaMA-Factory's alpaca ranking: `instruction`, `input`, `chosen`, `rejected`, and `system`, `history` if any.
    Alpaca,
    /// LLaMA-Factory's ShareGPT ranking: `conversations` of `{from, value}`, and `chosen`, `rejected` of the same.
    Sharegpt,
    /// LLaMA-Factory's version 1: `chosen_messages`, `rejected_messages`, each content a list of parts.
    LlamafactoryV1,
    /// axolotl's: `messages`, and the answers `chosen` and `rejected`, a message each.
    Axolotl,
    /// ms-swift's: `messages` that end in the better answer, and `rejected_response` or `rejected_messages`.
    MsSwift,
    /// OpenAI's export: `input` with `messages`, `preferred_output`, `non_preferred_output`.
    Openai,
    /// NeMo-RL's: `context`, and two `completions` of {rank, completion}, the lower rank preferred.
    NemoRl,
    /// Supervised: `prompt` and `completion`, strings or lists of `{role, content}`.
    PromptCompletion,
    /// Supervised: `messages`, a whole conversation.
    Messages,
    /// Supervised: `text`, a string.
    Text,
}

impl Format {
    /// The name that configuration and reports use.
    pub fn name(self) -> &'static str {
        match self {
            Format::Standard => "standard",
            Format::Conversational => "conversational",
            Format::ImplicitStandard => "implicit-standard",
            Format::ImplicitConversational => "implicit-conversational",
            Format::Alpaca => "alpaca",
            Format::Sharegpt => "sharegpt",
            Format::LlamafactoryV1 => "llamafactory-v1",
            Format::Axolotl => "axolotl",
            Format::MsSwift => "ms-swift",
            Format::Openai => "openai",
            Format::NemoRl => "nemo-rl",
            Format::PromptCompletion => "prompt-completion",
            Format::Messages => "messages",
            Format::Text => "text",
        }
    }

    /// Whether its rows have one side alone.
    pub(crate) fn is_supervised(self) -> bool {
        matches!(self, Format::PromptCompletion | Format::Messages | Format::Text)
    }
}

/// What happens to a pair of which one side is longer than `max_length`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overlong {
    /// Stop and name the row.
    #[default]
    Error,
    /// Leave the pair out, and count it.
    Drop,
    /// Cut the prompt from the left, after BOS, by the same tokens for both sides.
    TruncatePrompt,
    /// Cut each completion from the right; a cut completion loses its EOS, as it was not finished.
    TruncateCompletion,
    /// Cut each completion from the right, and end it with EOS all the same.
    TruncateCompletionKeepEos,
}

/// What happens when the tokens of the prompt are not a prefix of the tokens of prompt + completion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boundary {
    /// Stop and name the row.
    #[default]
    Error,
    /// Leave the pair out, and count it.
    Drop,
    /// Tokenise the completion apart from the prompt.
    Separate,
    /// Move the boundary back to the last token that the prompt alone, prompt + chosen and prompt + rejected have in
    /// common; the rest of the prompt's text is scored with each completion.
    Merge,
}

/// How the prompt is told from the completions where it stands only inside them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImplicitPrompt {
    /// `turn` where both sides have an `Assistant:` turn (the hh-rlhf dialogues); else `common-prefix`, moved back so
    /// that no word is cut.
    #[default]
    Auto,
    /// Everything up to the last `\n\nAssistant:`; both sides must agree on it.
    Turn,
    /// The longest common run of characters, less a space at its end: TRL's `extract_prompt`.
    CommonPrefix,
}

/// What happens to a row with dirt in it. Either way it is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Stop and name the row.
    #[default]
    Error,
    /// Leave the row out, and count it.
    Drop,
}

/// What happens to a conversation whose prompt ends in the assistant's turn. Either way it is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AssistantPrompt {
    /// Stop and name the row.
    #[default]
    Error,
    /// Leave the row out.
    Drop,
    /// The completion goes on with the turn: the two are one message for the chat template.
    Continue,
}

/// What happens to a row with something in it that may be meant. Either way it is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Leniency {
    /// Train on it as it is.
    #[default]
    Keep,
    /// Leave the row out.
    Drop,
    /// Stop and name the row.
    Error,
}

/// What happens to a row that stood in the data before. Either way it is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Duplicates {
    /// Train on it as often as it stands there.
    #[default]
    Keep,
    /// Leave the later rows out.
    Drop,
    /// Stop and name the later row.
    Error,
}

/// The kinds of dirt that are looked for, in the order in which a row is examined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dirt {
    /// No object of JSON, a key twice, half a character, or too large.
    MalformedRow,
    /// A field of the format is missing.
    MissingField,
    /// A field that should be text (or messages) and is something else.
    WrongType,
    /// The two sides answer different prompts.
    DifferingPrompts,
    /// The prompt ends in the assistant's turn.
    AssistantPrompt,
    /// No token before the completion.
    EmptyPrompt,
    /// A chosen completion without a character other than white space.
    EmptyChosen,
    /// A rejected completion without a character other than white space.
    EmptyRejected,
    /// What a supervised row teaches is without a character other than white space.
    EmptyCompletion,
    /// Chosen and rejected are the same.
    IdenticalPair,
    /// Prompt, chosen and rejected all stood in an earlier row.
    DuplicateRow,
    /// The chat template refuses the conversation.
    RefusedByTemplate,
    /// A token beyond the model's vocabulary.
    UnknownId,
    /// BOS anywhere but at the beginning.
    InnerBos,
    /// EOS before the end of a completion.
    InnerEos,
    /// Another special token that a text spells out.
    InnerSpecial,
    /// One side is longer than `max_length`.
    Overlong,
    /// Truncation would leave no completion or no prompt.
    Untruncatable,
    /// Chosen and rejected became the same by truncation.
    IdenticalAfterTruncation,
    /// The prompt's tokens are not a prefix of those of prompt + completion.
    Boundary,
}

impl Dirt {
    /// Every kind, in the order in which a row is examined.
    pub const ALL: [Dirt; 20] = [
        Dirt::MalformedRow,
        Dirt::MissingField,
        Dirt::WrongType,
        Dirt::DifferingPrompts,
        Dirt::AssistantPrompt,
        Dirt::EmptyPrompt,
        Dirt::EmptyChosen,
        Dirt::EmptyRejected,
        Dirt::EmptyCompletion,
        Dirt::IdenticalPair,
        Dirt::DuplicateRow,
        Dirt::RefusedByTemplate,
        Dirt::UnknownId,
        Dirt::InnerBos,
        Dirt::InnerEos,
        Dirt::InnerSpecial,
        Dirt::Overlong,
        Dirt::Untruncatable,
        Dirt::IdenticalAfterTruncation,
        Dirt::Boundary,
    ];

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Dirt::MalformedRow => "malformed rows",
            Dirt::MissingField => "missing fields",
            Dirt::WrongType => "wrong type",
            Dirt::DifferingPrompts => "prompts that differ",
            Dirt::AssistantPrompt => "prompts that end in the assistant's turn",
            Dirt::EmptyPrompt => "empty prompt",
            Dirt::EmptyChosen => "empty chosen",
            Dirt::EmptyRejected => "empty rejected",
            Dirt::EmptyCompletion => "empty completion",
            Dirt::IdenticalPair => "identical pair",
            Dirt::DuplicateRow => "duplicated row",
            Dirt::RefusedByTemplate => "refused by the chat template",
            Dirt::UnknownId => "tokens beyond the model's vocabulary",
            Dirt::InnerBos => "BOS inside a text",
            Dirt::InnerEos => "EOS inside a completion",
            Dirt::InnerSpecial => "special tokens spelled out in texts",
            Dirt::Overlong => "longer than max_length",
            Dirt::Untruncatable => "cannot be truncated",
            Dirt::IdenticalAfterTruncation => "identical after truncation",
            Dirt::Boundary => "tokens merge across the boundary",
        }
    }

    /// Which key decides, and its other values.
    pub(crate) fn hint(self) -> &'static str {
        match self {
            Dirt::MalformedRow => "`malformed_row = \"drop\"` leaves such rows out and counts them",
            Dirt::MissingField => "`missing_field = \"drop\"` leaves such rows out and counts them",
            Dirt::WrongType => "`wrong_type = \"drop\"` leaves such rows out and counts them",
            Dirt::DifferingPrompts => "`differing_prompts = \"drop\"` leaves such rows out and counts them",
            Dirt::AssistantPrompt => {
                "`assistant_prompt` may be \"continue\", so that the completion goes on with that turn, or \"drop\""
            }
            Dirt::EmptyPrompt => "`empty_prompt = \"drop\"` leaves such rows out and counts them",
            Dirt::EmptyChosen | Dirt::EmptyRejected | Dirt::EmptyCompletion => {
                "`empty_completion = \"drop\"` leaves such rows out and counts them"
            }
            Dirt::IdenticalPair => "`identical_pair = \"drop\"` leaves such rows out and counts them",
            Dirt::DuplicateRow => "`duplicate_row = \"drop\"` keeps the first of them, \"keep\" all",
            Dirt::RefusedByTemplate => "`refused_by_template = \"drop\"` leaves such rows out and counts them",
            Dirt::UnknownId => "`unknown_id = \"drop\"` leaves such rows out and counts them",
            Dirt::InnerBos => "`inner_bos = \"drop\"` leaves such rows out and counts them",
            Dirt::InnerEos => "`inner_eos = \"drop\"` leaves such rows out and counts them",
            Dirt::InnerSpecial => "`inner_special` may be \"drop\", \"keep\" or \"error\"",
            Dirt::Overlong => {
                "`overlong` may be \"drop\", \"truncate-prompt\", \"truncate-completion\" or \
                 \"truncate-completion-keep-eos\", or raise `max_length`"
            }
            Dirt::Untruncatable => "`untruncatable = \"drop\"` leaves such rows out and counts them",
            Dirt::IdenticalAfterTruncation => {
                "`identical_after_truncation = \"drop\"` leaves such rows out and counts them"
            }
            Dirt::Boundary => "`boundary` may be \"separate\" or \"merge\", or \"drop\"",
        }
    }
}

/// What the policies say of one kind of dirt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Refuse,
    Drop,
    Keep,
}

impl Options {
    /// Checks the ranges of all keys.
    ///
    /// # Errors
    /// Names the first key outside its range.
    pub fn validate(&self) -> Result<(), crate::Error> {
        if self.max_length.is_some_and(|n| n < 2) {
            return Err(crate::Error::Option {
                key: "max_length",
                message: "must be at least 2: one token of prompt and one of completion".to_owned(),
            });
        }
        columns(&self.columns).map_err(|message| crate::Error::Option { key: "columns", message })?;
        Ok(())
    }

    /// Checks that `task` reads all that is set.
    pub(crate) fn validate_for(&self, task: Task) -> Result<(), crate::Error> {
        self.validate()?;
        let refuse = |key, message: &str| Err(crate::Error::Option { key, message: message.to_owned() });
        match task {
            Task::Reward if self.assistant_only_loss => {
                refuse("assistant_only_loss", "says what is scored; a reward model reads the last token alone")
            }
            Task::Align | Task::Reward if self.completion_only_loss.is_some() => {
                refuse("completion_only_loss", "is for supervised rows; of a pair the completions alone are scored")
            }
            Task::Sft if self.identical_pair != Policy::Error => {
                refuse("identical_pair", "is for pairs; supervised training does not compare chosen with rejected")
            }
            Task::Sft if self.identical_after_truncation != Policy::Error => refuse(
                "identical_after_truncation",
                "is for pairs; supervised training does not compare chosen with rejected",
            ),
            _ => Ok(()),
        }
    }

    /// What the policies say of a row that has `dirt`.
    pub(crate) fn verdict(&self, dirt: Dirt) -> Verdict {
        use Verdict::{Drop, Keep, Refuse};
        let policy = |policy| if policy == Policy::Error { Refuse } else { Drop };
        let own = match dirt {
            Dirt::MalformedRow => policy(self.malformed_row),
            Dirt::MissingField => policy(self.missing_field),
            Dirt::WrongType => policy(self.wrong_type),
            Dirt::DifferingPrompts => policy(self.differing_prompts),
            Dirt::AssistantPrompt => match self.assistant_prompt {
                AssistantPrompt::Error => Refuse,
                AssistantPrompt::Drop => Drop,
                AssistantPrompt::Continue => Keep,
            },
            Dirt::EmptyPrompt => policy(self.empty_prompt),
            Dirt::EmptyChosen | Dirt::EmptyRejected | Dirt::EmptyCompletion => policy(self.empty_completion),
            Dirt::IdenticalPair => policy(self.identical_pair),
            Dirt::DuplicateRow => match self.duplicate_row {
                Duplicates::Keep => Keep,
                Duplicates::Drop => Drop,
                Duplicates::Error => Refuse,
            },
            Dirt::RefusedByTemplate => policy(self.refused_by_template),
            Dirt::UnknownId => policy(self.unknown_id),
            Dirt::InnerBos => policy(self.inner_bos),
            Dirt::InnerEos => policy(self.inner_eos),
            Dirt::InnerSpecial => match self.inner_special {
                Leniency::Keep => Keep,
                Leniency::Drop => Drop,
                Leniency::Error => Refuse,
            },
            Dirt::Overlong => match self.overlong {
                Overlong::Error => Refuse,
                Overlong::Drop => Drop,
                _ => Keep,
            },
            Dirt::Untruncatable => policy(self.untruncatable),
            Dirt::IdenticalAfterTruncation => policy(self.identical_after_truncation),
            Dirt::Boundary => match self.boundary {
                Boundary::Error => Refuse,
                Boundary::Drop => Drop,
                _ => Keep,
            },
        };
        if own == Refuse && self.dirty_rows == Policy::Drop { Drop } else { own }
    }
}

/// Checks that columns are renamed to what some format reads.
pub(crate) fn columns(columns: &BTreeMap<String, String>) -> Result<(), String> {
    match columns.values().find(|name| !crate::format::FIELDS.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(format!(
            "renames to `{name}`, which no format reads; it is `{{ their_name = \"name\" }}` with one of {}",
            crate::format::FIELDS.join(", ")
        )),
    }
}
