//! A preference loss from outside the core: φ(z) = e^(−z), the exponential loss of boosting.

use collimate_core::loss::{AnyLoss, Preference, PreferenceLoss};
use collimate_core::methods::{Method, Parameter, Setting};
use collimate_core::{Error, Number};
use serde::{Deserialize, Serialize};

// ANCHOR: loss
/// φ(z) = e^(−z/s), with z the margin r⁺ − r⁻ and s `self.scale` (arXiv:2402.05749, table 1). At z = 0: 1.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exponential {
    /// s > 0, in units of the reward.
    pub scale: f64,
}

impl<T: Number> PreferenceLoss<T> for Exponential {
    fn loss(&self, pair: &Preference<T>) -> T {
        (pair.margin() * (-1.0 / self.scale)).bounded_exp()
    }
}

#[typetag::serde(name = "exponential")]
impl AnyLoss for Exponential {
    fn validate(&self) -> Result<(), Error> {
        match self.scale > 0.0 {
            true => Ok(()),
            false => Err(Error::Configuration("exponential: scale must be greater than 0".into())),
        }
    }
    fn monotone(&self) -> bool {
        true
    }
}
// ANCHOR_END: loss

// ANCHOR: method
// A name for the whole triple, for `--method exponential-dpo`.
inventory::submit! { Method {
    name: "exponential-dpo",
    about: "the exponential loss on length-averaged log-likelihoods",
    formula: "exp(−β(a/n⁺ − b/n⁻)/s)",
    paper: "arXiv:2402.05749",
    triple: ("mean", "reverse_kl", "exponential"),
    fixed: &[],
    parameters: &[
        Parameter { key: "beta", path: "/optimality/beta", default: Setting::Number(2.0), about: "strength of the regularisation" },
        Parameter { key: "scale", path: "/loss/scale", default: Setting::Number(1.0), about: "s, in units of the reward" },
    ],
} }
// ANCHOR_END: method
