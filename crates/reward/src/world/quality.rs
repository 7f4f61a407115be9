//! What an answer is worth: the one formula of the world.

use serde::{Deserialize, Serialize};

/// What an answer says, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Counts {
    /// r: things asked for that it says rightly, each counted once.
    pub right: usize,
    /// w: sentences that say something false, or nothing that can be read; the last one, if it has no end, too.
    pub wrong: usize,
    /// o: true sentences about what wasn't asked.
    pub off_topic: usize,
    /// p: sentences that say nothing: fillers, and what was asked said rightly again.
    pub padding: usize,
}

/// q(x, y) = H(r) − a w − b o − c p (p − 1)/2, with H(r) = 1 + 1/2 + … + 1/r.
///
/// Each further fact is worth less than the one before; the first padding sentence costs nothing, the j-th c (j − 1). So a
/// longer answer is better while it brings facts, and an over-long one is worse than a short one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quality {
    /// a, the cost of a false sentence.
    pub wrong: f64,
    /// b, the cost of one that is beside the question.
    pub off_topic: f64,
    /// c, by which the cost of padding rises with each sentence of it.
    pub padding: f64,
}

impl Default for Quality {
    fn default() -> Self {
        Self { wrong: 0.5, off_topic: 0.25, padding: 0.05 }
    }
}

impl Quality {
    /// q of an answer.
    pub fn of(&self, counts: &Counts) -> f64 {
        let facts: f64 = (1..=counts.right).map(|j| 1.0 / j as f64).sum();
        let pairs = (counts.padding * counts.padding.saturating_sub(1) / 2) as f64;
        facts - self.wrong * counts.wrong as f64 - self.off_topic * counts.off_topic as f64 - self.padding * pairs
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::*;

    #[test]
    fn facts_are_worth_less_and_less_and_padding_costs_more_and_more() {
        let q = |right, wrong, off_topic, padding| Quality::default().of(&Counts { right, wrong, off_topic, padding });
        assert_eq!(q(0, 0, 0, 0), 0.0);
        assert_abs_diff_eq!(q(3, 0, 0, 0), 1.0 + 0.5 + 1.0 / 3.0, epsilon = 1e-15);
        assert_eq!(q(0, 0, 0, 1), 0.0);
        // 0.05 · (1 + 2 + 3)
        assert_abs_diff_eq!(q(0, 0, 0, 4), -0.3, epsilon = 1e-15);
        // 1.5 − 0.5 − 2 · 0.25 − 0.05
        assert_abs_diff_eq!(q(2, 1, 2, 2), 0.45, epsilon = 1e-15);
        // The whole answer with eight sentences of padding is worse than half of it without.
        assert!(q(2, 0, 0, 8) < q(1, 0, 0, 0) && q(2, 0, 0, 0) > q(1, 0, 0, 0));
    }
}
