//! What is computed from the measurements: one formula a file. Every statistic is of weighted observations, so that a
//! resample is nothing but other weights.

pub mod bootstrap;
pub mod correlation;
pub mod curve;
pub mod equal_length;
pub mod kl;
pub mod mean;
pub mod win_rate;

pub use bootstrap::{Interval, Resamples};
pub use curve::{Curve, Point};

/// One answer of a policy, beside the SFT policy's answer of the same prompt and number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observation {
    /// Which seed of the setting it is of, from 0.
    pub seed: usize,
    /// Which prompt it answers, from 0.
    pub prompt: usize,
    /// Tokens.
    pub length: f64,
    /// The reward's score.
    pub score: f64,
    /// Whether it ended by itself.
    pub ended: bool,
    /// Share of 3-grams that were there before.
    pub repetition: f64,
    /// ln π(y)/μ(y), in nats.
    pub log_ratio: f64,
    /// The objective's reward of it, where there is an objective.
    pub implicit_reward: Option<f64>,
    /// Tokens of the SFT policy's answer.
    pub sft_length: f64,
    /// Score of the SFT policy's answer.
    pub sft_score: f64,
    /// Score of the prompt's chosen text, if it has one.
    pub chosen_score: Option<f64>,
}

/// A number about a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Mean tokens of an answer.
    Length,
    /// Mean score.
    Score,
    /// Share of answers that score above the SFT policy's; ties are half.
    WinRateSft,
    /// Share of answers that score above the chosen text; ties are half.
    WinRateChosen,
    /// Win rate against SFT at equal length.
    LengthControlledWinRate,
    /// Difference of scores to SFT at equal length.
    ScoreAtEqualLength,
    /// KL(π‖μ) of whole answers, in nats.
    Kl,
    /// The same a token.
    KlPerToken,
    /// Pearson's correlation of length and implicit reward.
    Pearson,
    /// Spearman's.
    Spearman,
    /// Share of answers that ended by themselves.
    Ended,
    /// Mean share of repeated 3-grams.
    Repetition,
}

impl Metric {
    /// All of them, as tables have them.
    pub const ALL: [Self; 12] = [
        Self::Length,
        Self::Score,
        Self::Kl,
        Self::WinRateSft,
        Self::WinRateChosen,
        Self::LengthControlledWinRate,
        Self::ScoreAtEqualLength,
        Self::KlPerToken,
        Self::Pearson,
        Self::Spearman,
        Self::Ended,
        Self::Repetition,
    ];

    /// Its name in configuration and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Length => "mean_length",
            Self::Score => "mean_score",
            Self::WinRateSft => "win_rate_sft",
            Self::WinRateChosen => "win_rate_chosen",
            Self::LengthControlledWinRate => "length_controlled_win_rate",
            Self::ScoreAtEqualLength => "score_at_equal_length",
            Self::Kl => "kl",
            Self::KlPerToken => "kl_per_token",
            Self::Pearson => "length_reward_pearson",
            Self::Spearman => "length_reward_spearman",
            Self::Ended => "ended",
            Self::Repetition => "repetition",
        }
    }

    /// The head of its column.
    pub fn title(self) -> &'static str {
        match self {
            Self::Length => "tokens",
            Self::Score => "score",
            Self::WinRateSft => "wins against SFT",
            Self::WinRateChosen => "wins against chosen",
            Self::LengthControlledWinRate => "wins at equal length",
            Self::ScoreAtEqualLength => "score gained at equal length",
            Self::Kl => "KL, nats",
            Self::KlPerToken => "KL a token",
            Self::Pearson => "length–reward r",
            Self::Spearman => "length–reward ρ",
            Self::Ended => "ended",
            Self::Repetition => "repetition",
        }
    }

    /// Its value on weighted observations; none where it is not defined.
    pub fn of(self, all: &[Observation], weights: &[f64]) -> Option<f64> {
        let mean = |f: fn(&Observation) -> f64| mean::of(all.iter().zip(weights).map(|(o, w)| (f(o), *w)));
        match self {
            Self::Length => mean(|o| o.length),
            Self::Score => mean(|o| o.score),
            Self::Ended => mean(|o| f64::from(u8::from(o.ended))),
            Self::Repetition => mean(|o| o.repetition),
            Self::WinRateSft => win_rate::of(all.iter().zip(weights).map(|(o, w)| (o.score, o.sft_score, *w))),
            Self::WinRateChosen => {
                win_rate::of(all.iter().zip(weights).filter_map(|(o, w)| Some((o.score, o.chosen_score?, *w))))
            }
            Self::LengthControlledWinRate => equal_length::win_rate(all, weights),
            Self::ScoreAtEqualLength => equal_length::score(all, weights),
            Self::Kl => kl::of(all, weights),
            Self::KlPerToken => kl::per_token(all, weights),
            Self::Pearson | Self::Spearman => {
                let rows = all.iter().zip(weights).filter_map(|(o, w)| Some((o.length, o.implicit_reward?, *w)));
                let rows: Vec<(f64, f64, f64)> = rows.collect();
                if self == Self::Pearson { correlation::pearson(&rows) } else { correlation::spearman(&rows) }
            }
        }
    }
}
