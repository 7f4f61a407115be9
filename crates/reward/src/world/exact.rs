//! The best policies of a finite world, exactly: where each β leads under an averaging, in length, quality and KL.

use collimate_core::averaging::AnyAveraging;
use collimate_core::tabular;
use serde::Serialize;

use crate::Error;

/// Prompts of one kind: their completions, or classes of completions of one length and quality.
///
/// Under the reverse KL and weights of n alone, π*/μ is the same for all of a class, so that what is computed on classes
/// is what it is on completions.
#[derive(Clone, Debug, PartialEq)]
pub struct Enumerated {
    /// How many of all prompts are of this kind; shares are normalised.
    pub share: f64,
    /// Lengths and ln μ(y|x).
    pub world: tabular::World,
    /// q(x, y) of each.
    pub quality: Vec<f64>,
}

/// A world of prompts whose completions are enumerated.
#[derive(Clone, Debug, PartialEq)]
pub struct Exact {
    prompts: Vec<Enumerated>,
}

/// What a policy does, in the mean over prompts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// The β that it is best for; none of the reference.
    pub beta: Option<f64>,
    /// KL(π‖μ) in nats.
    pub kl: f64,
    /// E\[n\] in tokens.
    pub length: f64,
    /// E\[q\].
    pub quality: f64,
}

/// A reward of each completion of each kind of prompts.
pub type Rewards = Vec<Vec<f64>>;

impl Exact {
    /// A world of these prompts.
    ///
    /// # Errors
    /// No prompts, a share that isn't above 0, or not one finite quality for each completion.
    pub fn new(mut prompts: Vec<Enumerated>) -> Result<Self, Error> {
        let total: f64 = prompts.iter().map(|p| p.share).sum();
        for p in &mut prompts {
            let sound = p.quality.len() == p.world.lengths().len() && p.quality.iter().all(|q| q.is_finite());
            if !(sound && p.share > 0.0 && p.share.is_finite()) {
                return Err(Error::Configuration(
                    "exact world: expected prompts with a share above 0, and one finite quality for each completion"
                        .into(),
                ));
            }
            p.share /= total;
        }
        if prompts.is_empty() {
            return Err(Error::Configuration("exact world: it has no prompts".into()));
        }
        Ok(Self { prompts })
    }

    /// The prompts, by kind.
    pub fn prompts(&self) -> &[Enumerated] {
        &self.prompts
    }

    /// A reward from quality and length.
    pub fn rewards(&self, of: impl Fn(f64, usize) -> f64) -> Rewards {
        let each = |p: &Enumerated| p.quality.iter().zip(p.world.lengths()).map(|(q, n)| of(*q, *n)).collect();
        self.prompts.iter().map(each).collect()
    }

    /// What the squared loss learns of a reward: the chance to win against a draw from the reference,
    /// Σ_j μ_j σ(R_i − R_j) (arXiv:2310.12036). The logistic loss learns the reward itself.
    pub fn win_rates(&self, rewards: &[Vec<f64>]) -> Rewards {
        let one = |(p, rewards): (&Enumerated, &Vec<f64>)| -> Vec<f64> {
            let reference: Vec<f64> = p.world.log_reference().iter().map(|l| l.exp()).collect();
            let chance = |a: &f64| rewards.iter().zip(&reference).map(|(b, m)| m / (1.0 + (b - a).exp())).sum();
            rewards.iter().map(chance).collect()
        };
        self.prompts.iter().zip(rewards).map(one).collect()
    }

    fn point(&self, beta: Option<f64>, policies: &[Vec<f64>]) -> Point {
        let mut point = Point { beta, kl: 0.0, length: 0.0, quality: 0.0 };
        for (p, policy) in self.prompts.iter().zip(policies) {
            for (i, log) in policy.iter().enumerate() {
                let probability = p.share * log.exp();
                // Where it vanishes, so does what it adds.
                if probability > 0.0 {
                    point.kl += probability * (log - p.world.log_reference()[i]);
                }
                point.length += probability * p.world.lengths()[i] as f64;
                point.quality += probability * p.quality[i];
            }
        }
        point
    }

    /// What the reference does.
    pub fn reference(&self) -> Point {
        self.point(None, &self.prompts.iter().map(|p| p.world.log_reference().to_vec()).collect::<Vec<_>>())
    }

    /// What the best policy for `rewards` does, π* = μ exp((R − λ)/(β w(n))).
    ///
    /// # Errors
    /// A β that isn't above 0, a reward that isn't finite, an averaging whose weights are not of n alone.
    pub fn optimum(&self, averaging: &dyn AnyAveraging, beta: f64, rewards: &[Vec<f64>]) -> Result<Point, Error> {
        if !(beta > 0.0 && beta.is_finite()) {
            return Err(Error::Configuration(format!("exact world: beta must be above 0, got {beta}")));
        }
        let mut policies = Vec::with_capacity(self.prompts.len());
        for (i, p) in self.prompts.iter().enumerate() {
            let rewards = rewards.get(i).filter(|r| r.len() == p.quality.len() && r.iter().all(|r| r.is_finite()));
            let Some(rewards) = rewards else {
                return Err(Error::Configuration("exact world: expected a finite reward for each completion".into()));
            };
            policies.push(p.world.closed_form(beta, &p.world.weights(averaging)?, rewards).log_policy);
        }
        Ok(self.point(Some(beta), &policies))
    }

    /// Where each β leads: KL, length and quality, in the order of `betas`.
    ///
    /// # Errors
    /// As [`optimum`](Self::optimum).
    pub fn curve(
        &self,
        averaging: &dyn AnyAveraging,
        betas: &[f64],
        rewards: &[Vec<f64>],
    ) -> Result<Vec<Point>, Error> {
        betas.iter().map(|beta| self.optimum(averaging, *beta, rewards)).collect()
    }

    /// The best policy whose KL from the reference is `kl`.
    ///
    /// # Errors
    /// A KL that no β between e^−12 and e^16 reaches; as [`optimum`](Self::optimum).
    pub fn at_kl(&self, averaging: &dyn AnyAveraging, kl: f64, rewards: &[Vec<f64>]) -> Result<Point, Error> {
        // KL falls as β rises.
        let (mut low, mut high) = (-12.0f64, 16.0f64);
        let at = |log_beta: f64| self.optimum(averaging, log_beta.exp(), rewards);
        if !(at(high)?.kl <= kl && kl <= at(low)?.kl) {
            return Err(Error::Configuration(format!("exact world: no beta leads to a KL of {kl}")));
        }
        for _ in 0..50 {
            let middle = 0.5 * (low + high);
            if at(middle)?.kl > kl { low = middle } else { high = middle }
        }
        at(0.5 * (low + high))
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;
    use collimate_core::averaging::{LengthDesensitised, Mean, Power, Sum};
    use collimate_core::optimality::ReverseKl;

    use super::*;

    /// Completions of 2 to 30 tokens of two qualities, ln μ = −0.1 n + const.
    fn two_qualities() -> Exact {
        let each = (2..=30usize).flat_map(|n| [(n, 0.0), (n, 1.0)]);
        let (lengths, quality): (Vec<usize>, Vec<f64>) = each.unzip();
        let log_reference = lengths.iter().map(|n| -0.1 * *n as f64).collect();
        let world = tabular::World::new(lengths, log_reference).unwrap();
        Exact::new(vec![Enumerated { share: 1.0, world, quality }]).unwrap()
    }

    #[test]
    fn what_averaging_does_to_length_at_equal_kl() {
        let exact = two_qualities();
        assert_abs_diff_eq!(exact.reference().length, 9.82, epsilon = 5e-3);
        type Row = (fn(f64, usize) -> f64, [f64; 2], [f64; 2]);
        // Reward; E[n] and E[q] under the sum, and under the mean.
        let table: [Row; 5] = [
            (|q, _| q, [9.82, 0.805], [10.63, 0.757]),
            (|q, n| q + 0.1 * n as f64, [13.82, 0.665], [13.20, 0.634]),
            (|q, n| q - 0.1 * n as f64, [6.77, 0.702], [7.04, 0.662]),
            (|_, n| 0.1 * n as f64, [14.57, 0.5], [13.80, 0.5]),
            (|q, n| q * n as f64 / 30.0, [12.83, 0.703], [12.13, 0.660]),
        ];
        for (row, (reward, sum, mean)) in table.into_iter().enumerate() {
            let rewards = exact.rewards(reward);
            for (averaging, [length, quality]) in [(&Sum {} as &dyn AnyAveraging, sum), (&Mean {}, mean)] {
                let found = exact.at_kl(averaging, 0.2, &rewards).unwrap();
                assert_abs_diff_eq!(found.kl, 0.2, epsilon = 1e-9);
                let close = (found.length - length).abs() < 5.1e-3 && (found.quality - quality).abs() < 5.1e-4;
                assert!(close, "row {row}: {found:?}, expected {length} and {quality}");
            }
        }
    }

    #[test]
    fn averages_over_prompts_and_win_rates_by_hand() {
        let world = |p: f64| tabular::World::new(vec![2, 4], vec![p.ln(), (1.0 - p).ln()]).unwrap();
        let one = Enumerated { share: 3.0, world: world(0.5), quality: vec![0.0, 1.0] };
        let other = Enumerated { share: 1.0, world: world(0.25), quality: vec![2.0, 0.0] };
        let exact = Exact::new(vec![one, other]).unwrap();
        // 0.75 · (3, 0.5) + 0.25 · (0.25 · 2 + 0.75 · 4, 0.5)
        let reference = exact.reference();
        assert_abs_diff_eq!(reference.length, 0.75 * 3.0 + 0.25 * 3.5, epsilon = 1e-14);
        assert_abs_diff_eq!(reference.quality, 0.5, epsilon = 1e-14);
        assert_abs_diff_eq!(reference.kl, 0.0, epsilon = 1e-14);
        let rewards = exact.rewards(|q, _| q);
        let rates = exact.win_rates(&rewards);
        // 0.25 σ(0) + 0.75 σ(2)
        assert_abs_diff_eq!(rates[1][0], 0.125 + 0.75 / (1.0 + (-2.0f64).exp()), epsilon = 1e-14);
        // The sum at β = 1: odds e : 1, and 1 · e² : 3.
        let found = exact.optimum(&Sum {}, 1.0, &rewards).unwrap();
        let (e, e2) = (1.0f64.exp(), 2.0f64.exp());
        assert_abs_diff_eq!(found.quality, 0.75 * e / (1.0 + e) + 0.25 * 2.0 * e2 / (e2 + 3.0), epsilon = 1e-13);
    }

    #[test]
    fn classes_have_the_optimum_of_their_completions() {
        // Six completions, of which three are of one length and quality.
        let log = |p: f64| p.ln();
        let single = tabular::World::new(vec![3, 3, 3, 7, 5, 9], [0.1, 0.15, 0.05, 0.3, 0.25, 0.15].map(log).to_vec());
        let classes = tabular::World::new(vec![3, 7, 5, 9], [0.3, 0.3, 0.25, 0.15].map(log).to_vec()).unwrap();
        let single = single.unwrap();
        let reward = [0.4, 0.4, 0.4, 1.0, -0.5, 0.9];
        let exact =
            Exact::new(vec![Enumerated { share: 1.0, world: classes, quality: vec![0.4, 1.0, -0.5, 0.9] }]).unwrap();
        let rewards = exact.rewards(|q, _| q);
        for averaging in [&Sum {} as &dyn AnyAveraging, &Mean {}, &Power { alpha: 0.5 }] {
            // By the composition 𝒜⁻¹ 𝓑 𝒜 μ over the completions themselves.
            let whole = single.optimum(averaging, &ReverseKl { beta: 0.8 }, &reward).unwrap().log_policy;
            let sum = |of: &dyn Fn(usize) -> f64| whole.iter().enumerate().map(|(i, l)| l.exp() * of(i)).sum::<f64>();
            let found = exact.optimum(averaging, 0.8, &rewards).unwrap();
            assert_abs_diff_eq!(found.length, sum(&|i| single.lengths()[i] as f64), epsilon = 1e-10);
            assert_abs_diff_eq!(found.quality, sum(&|i| reward[i]), epsilon = 1e-10);
            assert_abs_diff_eq!(found.kl, sum(&|i| whole[i] - single.log_reference()[i]), epsilon = 1e-10);
        }
    }

    #[test]
    fn faults_are_named() {
        let exact = two_qualities();
        let rewards = exact.rewards(|q, _| q);
        let said = |r: Result<Point, Error>| r.unwrap_err().to_string();
        assert!(said(exact.optimum(&Sum {}, 0.0, &rewards)).contains("beta must be above 0, got 0"));
        assert!(said(exact.optimum(&Sum {}, 1.0, &[vec![1.0]])).contains("a finite reward for each completion"));
        assert!(said(exact.at_kl(&Sum {}, 50.0, &rewards)).contains("no beta leads to a KL of 50"));
        let desensitised = LengthDesensitised { alpha: 0.5, mean: false };
        assert!(
            said(exact.optimum(&desensitised, 1.0, &rewards)).contains("\"length_desensitised\" is not a function")
        );
        assert!(Exact::new(Vec::new()).is_err());
    }
}
