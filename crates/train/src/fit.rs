//! How much is computed and held at a time, so that a step fits `max_memory_mib`.
//!
//! Nothing of it changes what a step is, beyond rounding. What costs least comes first: fewer tokens a micro-batch (each
//! micro-batch passes over the weights and their gradients once more), fewer logits a group, then layers that are computed
//! anew, one by one; at last micro-batches of single units.

use collimate_model::{ALL, Memory};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::settings::Settings;

/// How much is computed and held at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// If above 0, most input tokens of a micro-batch; a longer unit is one by itself.
    pub tokens: usize,
    /// Logits held at a time, in numbers.
    pub logits: usize,
    /// Layers that are computed anew in the backward pass, from the first trained one on.
    pub recomputed: usize,
}

/// Tokens of a micro-batch below which its passes over the weights begin to cost more than a few hundredths of a step.
const FEW_TOKENS: usize = 1024;
/// Rows of logits below which the products of the head are slow.
const FEW_ROWS: usize = 64;

/// What a run's sizes are between.
pub(crate) struct Bounds {
    /// Input tokens of the largest micro-batch.
    pub most: usize,
    /// Input tokens of the longest unit.
    pub longest: usize,
    /// Logits of a token.
    pub width: usize,
    /// Layers that are trained, or lie above one that is.
    pub layers: usize,
}

impl Plan {
    /// What the settings say, whatever it holds.
    pub fn of(s: &Settings) -> Self {
        let recomputed = if s.gradient_checkpointing { ALL } else { 0 };
        Self { tokens: s.max_tokens_per_batch.unwrap_or(0), logits: s.logits_chunk, recomputed }
    }

    /// The first of [`cheaper`](Self::cheaper) that fits.
    ///
    /// # Errors
    /// None fits.
    pub(crate) fn fitting(self, mib: usize, bounds: &Bounds, predict: impl Fn(Self) -> Memory) -> Result<Self, Error> {
        let mut last = predict(self);
        for plan in self.cheaper(bounds) {
            last = predict(plan);
            if last.total() <= mib.saturating_mul(1 << 20) {
                return Ok(plan);
            }
        }
        let in_mib = |bytes: usize| bytes.div_ceil(1 << 20);
        let fixed = in_mib(last.parameters + last.gradients + last.moments);
        Err(Error::Memory { allowed: mib, needed: in_mib(last.total()), fixed })
    }

    /// Itself, and what holds less and less.
    fn cheaper(self, bounds: &Bounds) -> Vec<Self> {
        let Bounds { most, longest, width, layers } = *bounds;
        let mut plans = vec![self];
        let mut plan = self;
        let tokens = |plan: &mut Self, plans: &mut Vec<Self>, least: usize| {
            let mut now = if plan.tokens > 0 { plan.tokens.min(most) } else { most };
            while now > least {
                now = (now / 2).max(least);
                plan.tokens = now;
                plans.push(*plan);
            }
        };
        tokens(&mut plan, &mut plans, longest.max(FEW_TOKENS));
        while plan.logits > FEW_ROWS * width {
            plan.logits = (plan.logits / 2).max(FEW_ROWS * width);
            plans.push(plan);
        }
        for recomputed in 1..=layers {
            if recomputed > plan.recomputed {
                plan.recomputed = recomputed;
                plans.push(plan);
            }
        }
        tokens(&mut plan, &mut plans, longest.max(1));
        plans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { most: 4000, longest: 300, width: 10, layers: 3 };
    const FROM: Plan = Plan { tokens: 0, logits: 2000, recomputed: 0 };

    fn predict(plan: Plan) -> Memory {
        let tokens = if plan.tokens == 0 { 4000 } else { plan.tokens };
        let mib = 1 << 20;
        Memory {
            parameters: 10 * mib,
            gradients: 10 * mib,
            moments: 20 * mib,
            activations: tokens * (4 - plan.recomputed.min(3)) * mib / 100,
            attention: 0,
            logits: plan.logits * mib / 100,
        }
    }

    #[test]
    fn the_cheapest_way_that_fits_is_taken() {
        let fit = |mib| FROM.fitting(mib, &BOUNDS, predict).unwrap();
        assert_eq!(predict(FROM).total() >> 20, 220);
        assert_eq!(fit(220), FROM);
        assert_eq!(fit(219), Plan { tokens: 2000, ..FROM });
        assert_eq!(fit(105), Plan { tokens: 1024, ..FROM });
        assert_eq!(fit(95), Plan { tokens: 1024, logits: 1000, ..FROM });
        assert_eq!(fit(86), Plan { tokens: 1024, logits: 640, recomputed: 1 });
        assert_eq!(fit(60), Plan { tokens: 1024, logits: 640, recomputed: 3 });
        assert_eq!(fit(55), Plan { tokens: 512, logits: 640, recomputed: 3 });
        let said = FROM.fitting(40, &BOUNDS, predict).unwrap_err().to_string();
        assert!(said.starts_with("max_memory_mib 40: ") && said.contains("takes 50 MiB, 40 of them"), "{said}");
    }

    #[test]
    fn what_is_said_already_is_where_it_begins() {
        let said = Plan { tokens: 700, logits: 500, recomputed: ALL };
        let plans = said.cheaper(&BOUNDS);
        assert_eq!(plans, [said, Plan { tokens: 350, ..said }, Plan { tokens: 300, ..said }]);
    }
}
