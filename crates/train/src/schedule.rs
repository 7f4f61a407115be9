//! Learning-rate schedules, under the names that transformers gives them.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// How the learning rate runs behind the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// As it is.
    Constant,
    /// As it is, behind a warm-up.
    ConstantWithWarmup,
    /// Straight down to 0 at the last step.
    #[default]
    Linear,
    /// Half a cosine, down to 0 at the last step.
    Cosine,
}

impl Schedule {
    /// The factor on the learning rate of optimiser step `step` of `steps`, counted from 0, with `warmup` steps first.
    ///
    /// The warm-up rises from 0 (so its first step changes nothing), as in transformers.
    pub fn factor(self, step: usize, warmup: usize, steps: usize) -> f64 {
        if self != Self::Constant && step < warmup {
            return step as f64 / warmup as f64;
        }
        let progress = (step.saturating_sub(warmup)) as f64 / (steps.saturating_sub(warmup)).max(1) as f64;
        match self {
            Self::Constant | Self::ConstantWithWarmup => 1.0,
            Self::Linear => (1.0 - progress).max(0.0),
            Self::Cosine => (0.5 * (1.0 + (PI * progress).cos())).max(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors() {
        assert_eq!((0..4).map(|s| Schedule::Linear.factor(s, 0, 4)).collect::<Vec<_>>(), [1.0, 0.75, 0.5, 0.25]);
        assert_eq!((0..4).map(|s| Schedule::Linear.factor(s, 2, 4)).collect::<Vec<_>>(), [0.0, 0.5, 1.0, 0.5]);
        assert_eq!((0..3).map(|s| Schedule::Constant.factor(s, 2, 4)).collect::<Vec<_>>(), [1.0; 3]);
        assert_eq!((0..3).map(|s| Schedule::ConstantWithWarmup.factor(s, 2, 4)).collect::<Vec<_>>(), [0.0, 0.5, 1.0]);
        // (1 + cos(π/2))/2 = 1/2
        assert!((Schedule::Cosine.factor(2, 0, 4) - 0.5).abs() < 1e-12);
    }
}
