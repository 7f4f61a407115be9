//! A reward model from pairs: Bradley and Terry's likelihood of the preferences (doi:10.2307/2334029; arXiv:2203.02155,
//! equation 1).
//!
//! With r(x, y) the number that the model's value head says at the last token of y, and m a margin that a pair may have
//! (arXiv:2307.09288, equation 2):
//!
//! L = (1/N) Σ_i [−ln σ(r_w − r_l − m) + c (r_w + r_l)²]
//!
//! c, `center_rewards_coefficient`, keeps the rewards around 0 (arXiv:2312.09244, section 2).

use burn::tensor::Device;
use collimate_core::Number;
use collimate_data::Rated;
use collimate_model::{Error as ModelError, Layout};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::task::{Judgement, Pool, Seen, Size, Task, Unit};
use crate::tasks::pair_size;

impl Unit for Rated {
    fn size(&self, share: bool) -> Size {
        rated_size(pair_size(self.pair.prompt.len(), self.pair.chosen.len(), self.pair.rejected.len(), share))
    }

    fn lay_out(&self, layout: &mut Layout, share: bool) -> Result<(), ModelError> {
        layout.push_to_read(&self.pair.prompt, &[&self.pair.chosen, &self.pair.rejected], share)
    }

    fn place(&self) -> String {
        self.pair.place()
    }

    fn key(&self) -> u128 {
        let margin = self.margin.map_or(u128::MAX, |m| m.to_bits().into());
        self.pair.key() ^ margin.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)
    }
}

/// Both completions are read to their last tokens, and one number is said of each.
pub(crate) fn rated_size(pair: Size) -> Size {
    let inputs = pair.inputs + 2;
    let longest = if pair.rows == 1 { inputs } else { pair.longest + 1 };
    Size { inputs, scored: 2, longest, ..pair }
}

/// Bradley and Terry's likelihood.
#[doc = include_str!("../../equations/task-reward.html")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reward {
    /// c; 0 leaves the rewards where they are.
    pub center_rewards_coefficient: f64,
}

/// What is reported of each pair, under TRL's names.
const METRICS: [&str; 6] = ["loss", "mean_reward", "min_reward", "max_reward", "accuracy", "margin"];

impl Task for Reward {
    type Unit = Rated;
    /// N.
    type Totals = usize;

    fn metrics(&self) -> Vec<&'static str> {
        METRICS.to_vec()
    }

    fn pool(&self, metric: &str) -> Pool {
        match metric {
            "min_reward" => Pool::Min,
            "max_reward" => Pool::Max,
            _ => Pool::Mean,
        }
    }

    fn totals(&self, batch: &[Rated]) -> usize {
        batch.len()
    }

    // ANCHOR: coefficients
    fn judge(&self, units: &[Seen<'_, Rated>], all: usize, _device: &Device) -> Result<Judgement, Error> {
        let (n, c) = (all as f64, self.center_rewards_coefficient);
        let mut judgement = Judgement::default();
        for seen in units {
            let [r, r_] = [0, 1].map(|side| f64::from(seen.policy[side].log_probs[0]));
            let z = r - r_ - seen.unit.margin.map_or(0.0, f64::from);
            let loss = -z.log_sigmoid() + c * (r + r_).powi(2);
            let accuracy = f64::from(u8::from(r > r_));
            judgement.rows.push(vec![loss, (r + r_) / 2.0, r.min(r_), r.max(r_), accuracy, r - r_]);
            // d/dz −ln σ(z) = −σ(−z)
            let pull = -(-z).log_sigmoid().exp();
            let push = 2.0 * c * (r + r_);
            judgement.coefficients.extend([(pull + push) / n, (push - pull) / n].map(|c| c as f32));
        }
        Ok(judgement)
    }
    // ANCHOR_END: coefficients
}
