//! The numbers that a run reports, under TRL's names where TRL has them.
//!
//! Rewards, margins and accuracies are those of the objective that is optimised. `logps` are plain sums, as TRL's;
//! what else is said of them has a name of its own.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::step::{Item, Outcome};

/// What is averaged over pairs, in the order in which it is written.
const NAMES: [&str; 15] = [
    "loss",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
    "logps_per_token/chosen",
    "logps_per_token/rejected",
    "logratios/chosen",
    "logratios/rejected",
    "logratios_per_token/chosen",
    "logratios_per_token/rejected",
    "completion_tokens/chosen",
    "completion_tokens/rejected",
];

/// Sums over the pairs since the last line of metrics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Window {
    pairs: usize,
    sums: [f64; NAMES.len()],
}

impl Window {
    /// Adds the pairs of a step.
    pub fn add(&mut self, items: &[Item], outcome: &Outcome) {
        for (i, (item, policy)) in items.iter().zip(&outcome.policy).enumerate() {
            let (r, r_) = (outcome.judged.reward.chosen[i], outcome.judged.reward.rejected[i]);
            let (c, c_) = (policy.chosen, policy.rejected);
            let (a, b) = (c.sum - item.reference.chosen.sum, c_.sum - item.reference.rejected.sum);
            let values = [
                outcome.judged.loss[i],
                r,
                r_,
                r - r_,
                f64::from(u8::from(r > r_)),
                c.sum,
                c_.sum,
                c.sum / c.tokens,
                c_.sum / c_.tokens,
                a,
                b,
                a / c.tokens,
                b / c_.tokens,
                c.tokens,
                c_.tokens,
            ];
            for (sum, value) in self.sums.iter_mut().zip(values) {
                *sum += value;
            }
        }
        self.pairs += items.len();
    }

    /// The mean of a number over the pairs seen.
    pub fn mean(&self, name: &str) -> f64 {
        let at = NAMES.iter().position(|n| *n == name).expect("a name of the list");
        self.sums[at] / self.pairs as f64
    }

    /// All means, their names behind `prefix`; without a reference there are no log-ratios.
    pub fn means(&self, prefix: &str, reference: bool) -> Map<String, Value> {
        let all = NAMES.iter().zip(self.sums).filter(|(name, _)| reference || !name.starts_with("logratios"));
        all.map(|(name, sum)| (format!("{prefix}{name}"), (sum / self.pairs as f64).into())).collect()
    }
}
