//! `supervised`: the negative log-likelihood of the chosen completion.

use serde::{Deserialize, Serialize};

use super::{AnyLoss, Preference, PreferenceLoss, Reads};
use crate::Number;

/// What the negative log-likelihood is a mean over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Over {
    /// All chosen tokens of the optimiser's batch, which count alike (TRL's `sft`, and the NLL of its CPO and ORPO).
    #[default]
    Batch,
    /// The tokens of each chosen completion; then completions count alike (RPO, arXiv:2404.19733, eq. 1).
    Completion,
    /// Nothing: the sum over the tokens of each chosen completion (CPO, arXiv:2401.08417, eq. 5; SLiC-HF).
    Sum,
}

/// ℓ = −ln π(y⁺|x), as a mean `over` the batch's tokens, the completion's tokens, or as a sum.
///
/// Over the batch, the share of a pair is −ln π(y⁺|x) · pairs/tokens with both counts taken of the whole batch, so that
/// the mean over pairs is the mean over tokens however the batch is cut.
#[doc = include_str!("../../equations/loss-supervised.html")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Supervised {
    /// `batch` (the default), `completion` or `sum`.
    #[serde(default)]
    pub over: Over,
}

// ANCHOR: formula
impl<T: Number> PreferenceLoss<T> for Supervised {
    fn loss(&self, pair: &Preference<T>) -> T {
        let chosen = &pair.policy.chosen;
        let nll = -chosen.sum.clone();
        match self.over {
            Over::Batch => nll * (pair.totals.pairs as f64 / pair.totals.chosen_tokens as f64),
            Over::Completion => nll / chosen.tokens.clone(),
            Over::Sum => nll,
        }
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "supervised")]
impl AnyLoss for Supervised {
    fn reads(&self) -> Reads {
        Reads { sums: true, ..Reads::default() }
    }
    // It doesn't see the rewards.
    fn monotone(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::super::batch;
    use super::*;
    use crate::Totals;

    // ANCHOR: each_mean_by_hand
    #[test]
    fn each_mean_by_hand() {
        // Chosen sums −6 over 2 tokens and −3 over 3.
        let mut pair = batch(&[(-6.0, -1.0), (-3.0, -1.0)], &[(0.0, 0.0), (0.0, 0.0)], 1.0);
        pair.policy.chosen.tokens.0 = vec![2.0, 3.0];
        pair.totals = Totals { pairs: 2, chosen_tokens: 5 };
        let mean = |over| Supervised { over }.loss(&pair).0.iter().sum::<f64>() / 2.0;
        // (6 + 3)/5, (6/2 + 3/3)/2, (6 + 3)/2
        assert_abs_diff_eq!(mean(Over::Batch), 1.8, epsilon = 1e-15);
        assert_eq!(mean(Over::Completion), 2.0);
        assert_eq!(mean(Over::Sum), 4.5);
    }
    // ANCHOR_END: each_mean_by_hand
}
