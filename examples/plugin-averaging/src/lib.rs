//! An averaging operator from outside the core: early tokens count more.

use collimate_core::averaging::{AnyAveraging, AveragingOperator};
use collimate_core::methods::{Method, Parameter, Setting};
use collimate_core::{Error, Pair};
use serde::{Deserialize, Serialize};

// ANCHOR: averaging
/// ω_t = 2^(−t/h) / Σ_u 2^(−u/h) for token t = 0 … n−1, with h `self.half_life`: the mean as h → ∞.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Discounted {
    /// h > 0, in tokens.
    pub half_life: f64,
}

impl AveragingOperator for Discounted {
    fn weights(&self, lengths: Pair<usize>, _key: u64) -> Pair<Vec<f64>> {
        lengths.map(|n| {
            let each: Vec<f64> = (0..n).map(|t| (-(t as f64) / self.half_life).exp2()).collect();
            let total: f64 = each.iter().sum();
            each.into_iter().map(|w| w / total).collect()
        })
    }
}

#[typetag::serde(name = "discounted")]
impl AnyAveraging for Discounted {
    fn validate(&self) -> Result<(), Error> {
        match self.half_life > 0.0 {
            true => Ok(()),
            false => Err(Error::Configuration("discounted: half_life must be greater than 0".into())),
        }
    }
}
// ANCHOR_END: averaging

// A name for the whole triple, for `--method discounted-dpo`.
inventory::submit! { Method {
    name: "discounted-dpo",
    about: "DPO on log-likelihoods averaged with more weight on early tokens",
    formula: "−ln σ(β Σ_t ω_t (a_t − b_t))",
    paper: "this example",
    triple: ("discounted", "reverse_kl", "logistic"),
    fixed: &[],
    parameters: &[
        Parameter { key: "beta", path: "/optimality/beta", default: Setting::Number(2.0), about: "strength of the regularisation" },
        Parameter { key: "half_life", path: "/averaging/half_life", default: Setting::Number(64.0), about: "h, in tokens" },
    ],
} }
