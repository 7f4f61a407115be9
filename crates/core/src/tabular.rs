//! The formalism on finite sets of completions, exactly, in f64.
//!
//! A [`World`] is one prompt with a finite set of completions: their lengths, and the reference's log-probabilities.
//! Policies are vectors of log-probabilities `[completions]`, in nats. Averaging operators enter by the one
//! [weight](crate::AveragingOperator::weight) of a completion, w(n) = ω_t, so those that look at both lengths of a pair
//! (`length_desensitised`, `down_sampled`) have no place here.
//!
//! ```
//! use collimate_core::averaging::{Mean, Sum};
//! use collimate_core::{optimality::ReverseKl, tabular::World};
//!
//! // Two completions of one reward, the second twice as long, and a third that is worse.
//! let world = World::new(vec![4, 8, 6], vec![0.25f64.ln(), 0.25f64.ln(), 0.5f64.ln()]).unwrap();
//! let reward = [1.0, 1.0, 0.0];
//! let sum = world.optimum(&Sum {}, &ReverseKl { beta: 1.0 }, &reward).unwrap();
//! let mean = world.optimum(&Mean {}, &ReverseKl { beta: 1.0 }, &reward).unwrap();
//! // The sum keeps their ratio; the mean pays the reward above the bar once per token.
//! assert!((sum.log_policy[0] - sum.log_policy[1]).abs() < 1e-12);
//! assert!(mean.log_policy[1] > mean.log_policy[0] && reward[0] > mean.bar);
//! ```

use argmin::core::{CostFunction, Executor, Gradient, State};
use argmin::solver::linesearch::MoreThuenteLineSearch;
use argmin::solver::quasinewton::BFGS;

use crate::averaging::AnyAveraging;
use crate::loss::AnyLoss;
use crate::optimality::AnyOptimality;
use crate::{Completion, Error, Objective, Pair, Totals};

/// One prompt, its completions' lengths, and the reference's log-probabilities of them.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    /// n, the tokens of each completion.
    lengths: Vec<usize>,
    /// ln μ(y|x) of each completion, normalised.
    log_reference: Vec<f64>,
}

/// The best policy, and the bar that rewards are measured against.
#[derive(Clone, Debug, PartialEq)]
pub struct Optimum {
    /// ln π*(y|x) of each completion.
    pub log_policy: Vec<f64>,
    /// λ(x), in units of the reward.
    #[doc = include_str!("../equations/bar.html")]
    pub bar: f64,
}

/// How often each completion is preferred to each other, and how often the two are compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Preferences {
    /// `probability[i][j]` = p(y_i ≻ y_j).
    pub probability: Vec<Vec<f64>>,
    /// `frequency[i][j]`: how often the unordered pair is drawn, up to a factor; symmetric.
    pub frequency: Vec<Vec<f64>>,
}

/// What a search for the least loss found.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// ln π(y|x) of each completion.
    pub log_policy: Vec<f64>,
    /// The loss there.
    pub loss: f64,
    /// The largest entry of the gradient there, with respect to the logits.
    pub gradient: f64,
    /// Steps taken.
    pub steps: usize,
}

/// ln Σ exp.
pub(crate) fn log_sum_exp(x: &[f64]) -> f64 {
    let top = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if top.is_infinite() { top } else { top + x.iter().map(|v| (v - top).exp()).sum::<f64>().ln() }
}

/// Log-probabilities from scores: x − ln Σ exp x.
pub fn normalise(scores: &[f64]) -> Vec<f64> {
    let z = log_sum_exp(scores);
    scores.iter().map(|s| s - z).collect()
}

/// The root of a function that falls strictly, found from `start`.
pub(crate) fn root(f: impl Fn(f64) -> f64, start: f64) -> f64 {
    let (mut low, mut high, mut step) = (start, start, 1.0);
    while f(low) < 0.0 {
        low -= step;
        step *= 2.0;
    }
    step = 1.0;
    while f(high) > 0.0 {
        high += step;
        step *= 2.0;
    }
    // Until the interval has no number inside.
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            return middle;
        }
        if f(middle) > 0.0 { low = middle } else { high = middle }
    }
}

impl World {
    /// A world of completions with `lengths` tokens and reference log-probabilities, which are normalised.
    ///
    /// # Errors
    /// Fewer than two completions, lists of two lengths, a completion without tokens, or a probability of zero.
    pub fn new(lengths: Vec<usize>, log_reference: Vec<f64>) -> Result<Self, Error> {
        let fault = |text: String| Err(Error::Configuration(format!("world: {text}")));
        if lengths.len() < 2 || lengths.len() != log_reference.len() {
            return fault(format!(
                "expected two or more completions with a length and a reference each, got {} and {}",
                lengths.len(),
                log_reference.len()
            ));
        }
        if let Some(i) = lengths.iter().position(|n| *n == 0) {
            return fault(format!("completion {i} has no tokens"));
        }
        if let Some(i) = log_reference.iter().position(|p| !p.is_finite()) {
            return fault(format!("completion {i} has a reference log-probability of {}", log_reference[i]));
        }
        Ok(Self { lengths, log_reference: normalise(&log_reference) })
    }

    /// n, the tokens of each completion.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// ln μ(y|x) of each completion.
    pub fn log_reference(&self) -> &[f64] {
        &self.log_reference
    }

    /// w(n) of each completion under an averaging operator.
    ///
    /// # Errors
    /// An operator whose weights depend on the other completion or on the token.
    pub fn weights(&self, averaging: &dyn AnyAveraging) -> Result<Vec<f64>, Error> {
        self.defined(averaging, self.lengths.iter().map(|n| averaging.weight(*n)).collect())
    }

    /// 𝒜 or 𝒜⁻¹ of something, where the operator is a map of policies.
    fn defined(&self, averaging: &dyn AnyAveraging, image: Option<Vec<f64>>) -> Result<Vec<f64>, Error> {
        image.ok_or_else(|| {
            let name = averaging.typetag_name();
            Error::Configuration(format!("averaging \"{name}\" is not a function of a completion's own length"))
        })
    }

    /// 𝓑_{β,m}\[R\]: the best policy for a reward under the regulariser, for reference log-probabilities m.
    ///
    /// `log_reference` and `reward` are `[completions]`; the bar λ is the root of Σ exp s(R − λ) = 1.
    ///
    /// # Errors
    /// A reward that isn't finite.
    #[doc = include_str!("../equations/problem.html")]
    #[doc = include_str!("../equations/gibbs.html")]
    // ANCHOR: problem
    pub fn best(
        &self,
        optimality: &dyn AnyOptimality,
        log_reference: &[f64],
        reward: &[f64],
    ) -> Result<Optimum, Error> {
        if let Some(i) = reward.iter().position(|r| !r.is_finite()) {
            return Err(Error::Configuration(format!("world: completion {i} has a reward of {}", reward[i])));
        }
        let at = |bar: f64| -> Vec<f64> {
            let each = reward.iter().zip(log_reference).zip(&self.lengths);
            each.map(|((r, m), n)| optimality.score(r - bar, *m, *n as f64)).collect()
        };
        let bar = root(|bar| log_sum_exp(&at(bar)), reward.iter().sum::<f64>() / reward.len() as f64);
        Ok(Optimum { log_policy: normalise(&at(bar)), bar })
    }
    // ANCHOR_END: problem

    /// The composition π* = 𝒜⁻¹ 𝓑_{β,𝒜μ}\[R\] (arXiv:2406.19188).
    ///
    /// The bar is λ(x) of π* = μ exp((R − λ)/(β w(n))), which for `reverse_kl` is the [`closed_form`](Self::closed_form).
    ///
    /// # Errors
    /// A reward that isn't finite, and an averaging operator that [`weights`](Self::weights) refuses.
    #[doc = include_str!("../equations/composition.html")]
    #[doc = include_str!("../equations/logs.html")]
    // ANCHOR: composition
    pub fn optimum(
        &self,
        averaging: &dyn AnyAveraging,
        optimality: &dyn AnyOptimality,
        reward: &[f64],
    ) -> Result<Optimum, Error> {
        let averaged_reference = self.defined(averaging, averaging.average(&self.log_reference, &self.lengths))?;
        let averaged = self.best(optimality, &averaged_reference, reward)?.log_policy;
        let log_policy = self.defined(averaging, averaging.unaverage(&averaged, &self.lengths))?;
        // The bar from any completion's own equation: R − λ is its implicit reward.
        let likeliest = (0..reward.len()).max_by(|a, b| log_policy[*a].total_cmp(&log_policy[*b])).unwrap_or(0);
        let weight = self.weights(averaging)?[likeliest];
        let implicit = optimality.reward(&crate::Scores {
            policy: weight * log_policy[likeliest],
            reference: weight * self.log_reference[likeliest],
            tokens: self.lengths[likeliest] as f64,
        });
        Ok(Optimum { log_policy, bar: reward[likeliest] - implicit })
    }
    // ANCHOR_END: composition

    /// π*(y|x) = μ(y|x) exp((R(x,y) − λ(x))/(β w(n))), with λ(x) the one root of Σ_y π*(y|x) = 1: what
    /// [`optimum`](Self::optimum) is under the reverse KL.
    #[doc = include_str!("../equations/closed-form.html")]
    #[doc = include_str!("../equations/constant-reward.html")]
    #[doc = include_str!("../equations/length-response.html")]
    // ANCHOR: closed-form
    pub fn closed_form(&self, beta: f64, weights: &[f64], reward: &[f64]) -> Optimum {
        let at = |bar: f64| -> Vec<f64> {
            let each = self.log_reference.iter().zip(weights).zip(reward);
            each.map(|((m, w), r)| m + (r - bar) / (beta * w)).collect()
        };
        let bar = root(|bar| log_sum_exp(&at(bar)), reward.iter().sum::<f64>() / reward.len() as f64);
        Optimum { log_policy: normalise(&at(bar)), bar }
    }
    // ANCHOR_END: closed-form

    /// Preferences of the Bradley–Terry model, p(y_i ≻ y_j) = σ(R_i − R_j), every pair equally often.
    #[doc = include_str!("../equations/bradley-terry.html")]
    // ANCHOR: bradley-terry
    pub fn bradley_terry(&self, reward: &[f64]) -> Preferences {
        use crate::Number;
        let probability = reward.iter().map(|a| reward.iter().map(|b| (a - b).sigmoid()).collect()).collect();
        Preferences { probability, frequency: vec![vec![1.0; reward.len()]; reward.len()] }
    }
    // ANCHOR_END: bradley-terry

    /// The reward that the squared loss learns: each completion's chance against one drawn from `sampler`,
    /// P_i = Σ_j ρ_j p(y_i ≻ y_j) (arXiv:2310.12036, section 3), where pairs are drawn as ρ_i ρ_j.
    #[doc = include_str!("../equations/win-rate.html")]
    // ANCHOR: win-rates
    pub fn win_rates(&self, preferences: &Preferences, sampler: &[f64]) -> Vec<f64> {
        preferences.probability.iter().map(|row| row.iter().zip(sampler).map(|(p, s)| p * s).sum()).collect()
    }
    // ANCHOR_END: win-rates

    /// Minimises an objective over all policies on exhaustive preference data, from the reference, on logits by BFGS, until
    /// the gradient is below `tolerance`, `limit` steps are taken, or rounding hides every further decrease.
    ///
    /// Supervised terms over the batch take each pair for a batch of its own.
    ///
    /// # Errors
    /// A coupled loss, an averaging operator that [`weights`](Self::weights) refuses, and a search that fails.
    pub fn fit<A: AnyAveraging, O: AnyOptimality, L: AnyLoss>(
        &self,
        objective: &Objective<A, O, L>,
        preferences: &Preferences,
        tolerance: f64,
        limit: usize,
    ) -> Result<Fit, Error> {
        if objective.coupled() {
            let name = objective.loss.typetag_name();
            return Err(Error::Configuration(format!("loss \"{name}\" couples pairs: exhaustive data has no batches")));
        }
        let weights = self.weights(&objective.averaging)?;
        let count = self.lengths.len();
        let exhaustive = Exhaustive { world: self, objective, weights: &weights, preferences };
        let identity =
            (0..count).map(|i| (0..count).map(|j| f64::from(u8::from(i == j))).collect()).collect::<Vec<_>>();
        let fault = |e: argmin::core::Error| Error::Configuration(format!("world: the search for the optimum: {e}"));
        // Below this, what the loss still changes by is its rounding.
        let rounding = f64::EPSILON * (&exhaustive).cost(&self.log_reference).map_err(fault)?.abs().max(1.0);
        let solver = BFGS::new(MoreThuenteLineSearch::new())
            .with_tolerance_grad(tolerance)
            .and_then(|s| s.with_tolerance_cost(rounding))
            .map_err(fault)?;
        let found = Executor::new(&exhaustive, solver)
            .configure(|state| state.param(self.log_reference.clone()).inv_hessian(identity).max_iters(limit as u64))
            .run()
            .map_err(fault)?;
        let state = found.state();
        let logits = state.get_best_param().unwrap_or(&self.log_reference);
        let gradient = (&exhaustive).gradient(logits).map_err(fault)?.iter().fold(0.0f64, |m, g| m.max(g.abs()));
        Ok(Fit {
            log_policy: normalise(logits),
            loss: state.get_best_cost(),
            gradient,
            steps: state.get_iter() as usize,
        })
    }
}

/// An objective on exhaustive preference data, as a function of a policy's logits.
struct Exhaustive<'a, A, O, L> {
    world: &'a World,
    objective: &'a Objective<A, O, L>,
    weights: &'a [f64],
    preferences: &'a Preferences,
}

impl<A: AnyAveraging, O: AnyOptimality, L: AnyLoss> Exhaustive<'_, A, O, L> {
    /// The sum over every ordered pair (i, j), weighed by how often it is drawn and preferred, of what `of` makes of it and
    /// of its loss when the two log-probabilities are moved.
    fn mean(&self, logits: &[f64], mut of: impl FnMut(usize, usize, f64, &dyn Fn(f64, f64) -> f64)) {
        let Self { world, objective, weights, preferences } = self;
        let log_policy = normalise(logits);
        let completion = |log: f64, i: usize| Completion::new(log * weights[i], log, world.lengths[i] as f64);
        let shares = |i: usize, j: usize| preferences.frequency[i][j] * preferences.probability[i][j];
        let count = logits.len();
        let pairs = || (0..count).flat_map(|i| (0..count).filter(move |j| *j != i).map(move |j| (i, j)));
        let total: f64 = pairs().map(|(i, j)| shares(i, j)).sum();
        for (i, j) in pairs().filter(|(i, j)| shares(*i, *j) != 0.0) {
            let reference = Pair::new(completion(world.log_reference[i], i), completion(world.log_reference[j], j));
            let totals = Totals { pairs: 1, chosen_tokens: world.lengths[i] };
            of(i, j, shares(i, j) / total, &|a, b| {
                let policy = Pair::new(completion(log_policy[i] + a, i), completion(log_policy[j] + b, j));
                objective.evaluate(&policy, &reference, totals).loss
            });
        }
    }
}

impl<A: AnyAveraging, O: AnyOptimality, L: AnyLoss> CostFunction for &Exhaustive<'_, A, O, L> {
    type Param = Vec<f64>;
    type Output = f64;
    fn cost(&self, logits: &Vec<f64>) -> Result<f64, argmin::core::Error> {
        let mut loss = 0.0;
        self.mean(logits, |_, _, share, at| loss += share * at(0.0, 0.0));
        Ok(loss)
    }
}

impl<A: AnyAveraging, O: AnyOptimality, L: AnyLoss> Gradient for &Exhaustive<'_, A, O, L> {
    type Param = Vec<f64>;
    type Gradient = Vec<f64>;
    fn gradient(&self, logits: &Vec<f64>) -> Result<Vec<f64>, argmin::core::Error> {
        const STEP: f64 = 1e-5;
        let mut slope = vec![0.0; logits.len()];
        self.mean(logits, |i, j, share, at| {
            slope[i] += share * (at(STEP, 0.0) - at(-STEP, 0.0)) / (2.0 * STEP);
            slope[j] += share * (at(0.0, STEP) - at(0.0, -STEP)) / (2.0 * STEP);
        });
        // d ln π_i / d logit_k = [i = k] − π_k.
        let sum: f64 = slope.iter().sum();
        Ok(slope.iter().zip(normalise(logits)).map(|(g, p)| g - sum * p.exp()).collect())
    }
}

#[cfg(test)]
mod tests {
    use approx::{abs_diff_eq, assert_abs_diff_eq};

    use super::*;
    use crate::averaging::{LengthDesensitised, Mean, Power, Sum};
    use crate::loss::{Hinge, Logistic, Squared};
    use crate::objective::{AveragedDpo, AveragedIpo, AveragedSlic};
    use crate::optimality::{ForwardKl, JensenShannon, LengthPenalised, NoReference, Odds, ReverseKl};

    /// Six completions of many lengths; the reward grows with neither length nor reference.
    fn world() -> (World, Vec<f64>) {
        let log_reference = [0.3, 0.05, 0.15, 0.2, 0.1, 0.2].map(f64::ln).to_vec();
        let reward = vec![0.4, 1.3, -0.2, 0.9, 0.1, -0.6];
        (World::new(vec![3, 5, 2, 9, 12, 4], log_reference).unwrap(), reward)
    }

    fn distance(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| (a.exp() - b.exp()).abs()).fold(0.0, f64::max)
    }

    // ANCHOR: averaging_and_its_inverse_undo_each_other
    #[test]
    fn averaging_and_its_inverse_undo_each_other() {
        let (world, _) = world();
        let operators: [&dyn AnyAveraging; 3] = [&Mean {}, &Sum {}, &Power { alpha: 0.5 }];
        for operator in operators {
            let there = operator.average(world.log_reference(), world.lengths()).unwrap();
            assert_abs_diff_eq!(log_sum_exp(&there), 0.0, epsilon = 1e-14);
            let back = operator.unaverage(&there, world.lengths()).unwrap();
            assert!(distance(&back, world.log_reference()) < 1e-14, "{operator:?}");
        }
    }
    // ANCHOR_END: averaging_and_its_inverse_undo_each_other

    // ANCHOR: the_composition_is_the_closed_form
    #[test]
    fn the_composition_is_the_closed_form() {
        let (world, reward) = world();
        let operators: [&dyn AnyAveraging; 3] = [&Mean {}, &Sum {}, &Power { alpha: 0.3 }];
        for operator in operators {
            let composed = world.optimum(operator, &ReverseKl { beta: 0.7 }, &reward).unwrap();
            let closed = world.closed_form(0.7, &world.weights(operator).unwrap(), &reward);
            assert!(distance(&composed.log_policy, &closed.log_policy) < 1e-13);
            assert_abs_diff_eq!(composed.bar, closed.bar, epsilon = 1e-12);
        }
    }
    // ANCHOR_END: the_composition_is_the_closed_form

    // ANCHOR: the_summed_bar_is_beta_ln_z
    #[test]
    fn the_summed_bar_is_beta_ln_z() {
        let (world, reward) = world();
        let z: f64 = world.log_reference().iter().zip(&reward).map(|(m, r)| (m + r / 0.7).exp()).sum();
        assert_abs_diff_eq!(world.closed_form(0.7, &[1.0; 6], &reward).bar, 0.7 * z.ln(), epsilon = 1e-14);
    }
    // ANCHOR_END: the_summed_bar_is_beta_ln_z

    // ANCHOR: the_optimum_maximises_the_regularised_reward
    #[test]
    fn the_optimum_maximises_the_regularised_reward() {
        // max E_π[R] − β KL(π‖μ) by definition: no policy nearby does better.
        let (world, reward) = world();
        let value = |p: &[f64]| -> f64 {
            let each = p.iter().zip(&reward).zip(world.log_reference());
            each.map(|((p, r), m)| p.exp() * (r - 0.7 * (p - m))).sum()
        };
        let best = world.best(&ReverseKl { beta: 0.7 }, world.log_reference(), &reward).unwrap().log_policy;
        for i in 0..6 {
            for d in [-1e-2, 1e-2] {
                let mut near = best.clone();
                near[i] += d;
                assert!(value(&normalise(&near)) < value(&best));
            }
        }
        // The f-divergences likewise: E_π[R] − β E_μ[f(π/μ)], f of the forward KL −ln u and of JS by its definition.
        let f_value = |p: &[f64], f: fn(f64) -> f64| -> f64 {
            let each = p.iter().zip(&reward).zip(world.log_reference());
            each.map(|((p, r), m)| p.exp() * r - 0.7 * m.exp() * f((p - m).exp())).sum()
        };
        type Generator = fn(f64) -> f64;
        let operators: [(&dyn AnyOptimality, Generator); 2] = [
            (&ForwardKl { beta: 0.7 }, |u| -u.ln()),
            (&JensenShannon { beta: 0.7 }, |u| u * u.ln() - (1.0 + u) * ((1.0 + u) / 2.0).ln()),
        ];
        for (operator, f) in operators {
            let best = world.best(operator, world.log_reference(), &reward).unwrap().log_policy;
            for i in 0..6 {
                for d in [-1e-2, 1e-2] {
                    let mut near = best.clone();
                    near[i] += d;
                    assert!(f_value(&normalise(&near), f) < f_value(&best, f), "{operator:?}");
                }
            }
        }
    }
    // ANCHOR_END: the_optimum_maximises_the_regularised_reward

    // ANCHOR: the_implicit_reward_of_the_optimum_is_the_reward_above_the_bar
    #[test]
    fn the_implicit_reward_of_the_optimum_is_the_reward_above_the_bar() {
        let (world, reward) = world();
        let operators: [&dyn AnyOptimality; 6] = [
            &ReverseKl { beta: 0.7 },
            &NoReference { beta: 0.7 },
            &ForwardKl { beta: 0.7 },
            &JensenShannon { beta: 2.0 },
            &Odds { beta: 0.7 },
            &LengthPenalised { beta: 0.7, alpha: 0.05 },
        ];
        for operator in operators {
            let best = world.best(operator, world.log_reference(), &reward).unwrap();
            for (i, wanted) in reward.iter().enumerate() {
                let scores = crate::Scores {
                    policy: best.log_policy[i],
                    reference: world.log_reference()[i],
                    tokens: world.lengths()[i] as f64,
                };
                let back: f64 = operator.reward(&scores);
                assert!(abs_diff_eq!(back, wanted - best.bar, epsilon = 1e-10), "{operator:?}: {back} {wanted}");
            }
        }
    }
    // ANCHOR_END: the_implicit_reward_of_the_optimum_is_the_reward_above_the_bar

    // ANCHOR: a_constant_reward_leaves_the_reference
    #[test]
    fn a_constant_reward_leaves_the_reference() {
        let (world, _) = world();
        let found = world.closed_form(0.7, &world.weights(&Mean {}).unwrap(), &[0.8; 6]);
        assert!(distance(&found.log_policy, world.log_reference()) < 1e-14);
        assert_abs_diff_eq!(found.bar, 0.8, epsilon = 1e-14);
    }
    // ANCHOR_END: a_constant_reward_leaves_the_reference

    // ANCHOR: above_the_bar_length_gains_and_below_it_loses
    #[test]
    fn above_the_bar_length_gains_and_below_it_loses() {
        // Two pairs of equal reward and reference, one pair above the bar and one below.
        let world = World::new(vec![3, 9, 3, 9], vec![0.25f64.ln(); 4]).unwrap();
        let reward = [1.0, 1.0, 0.0, 0.0];
        let mean = world.closed_form(5.0, &world.weights(&Mean {}).unwrap(), &reward);
        assert!(mean.bar > 0.0 && mean.bar < 1.0);
        assert!(mean.log_policy[1] > mean.log_policy[0] && mean.log_policy[3] < mean.log_policy[2]);
        // d/dn ln(π*/μ) = (R − λ)/β
        assert_abs_diff_eq!(mean.log_policy[1] - mean.log_policy[0], 6.0 * (1.0 - mean.bar) / 5.0, epsilon = 1e-12);
        let sum = world.closed_form(5.0, &[1.0; 4], &reward);
        assert_abs_diff_eq!(sum.log_policy[1], sum.log_policy[0], epsilon = 1e-14);
    }
    // ANCHOR_END: above_the_bar_length_gains_and_below_it_loses

    /// What the loss leads to on those preferences, under any average, is the optimum for `reward`.
    fn lands_on_the_closed_form<A: AnyAveraging, L: AnyLoss>(
        averaging: A,
        loss: L,
        preferences: &Preferences,
        reward: &[f64],
    ) {
        let (world, _) = world();
        let exact = world.closed_form(0.7, &world.weights(&averaging).unwrap(), reward);
        let objective = Objective::new(averaging, ReverseKl { beta: 0.7 }, loss).unwrap();
        let fit = world.fit(&objective, preferences, 1e-10, 2_000).unwrap();
        let off = distance(&fit.log_policy, &exact.log_policy);
        assert!(off < 1e-8, "{objective:?}: off by {off:e} after {} steps, gradient {:e}", fit.steps, fit.gradient);
    }

    // ANCHOR: dpo_and_averaged_dpo_land_on_the_closed_form
    #[test]
    fn dpo_and_averaged_dpo_land_on_the_closed_form() {
        // Under Bradley–Terry preferences the logistic loss is least where r⁺ − r⁻ = R⁺ − R⁻ for every pair that is
        // drawn: any sampling that connects all completions will do, here one that prefers pairs of unlike length.
        let (world, reward) = world();
        let mut preferences = world.bradley_terry(&reward);
        for i in 0..6 {
            for j in 0..6 {
                preferences.frequency[i][j] = world.lengths()[i].abs_diff(world.lengths()[j]) as f64;
            }
        }
        lands_on_the_closed_form(Sum {}, Logistic {}, &preferences, &reward);
        lands_on_the_closed_form(Mean {}, Logistic {}, &preferences, &reward);
    }
    // ANCHOR_END: dpo_and_averaged_dpo_land_on_the_closed_form

    // ANCHOR: ipo_and_averaged_ipo_land_on_the_closed_form_of_the_win_rate
    #[test]
    fn ipo_and_averaged_ipo_land_on_the_closed_form_of_the_win_rate() {
        // Whatever the preference model, here one that no reward explains (0 ≻ 1 ≻ 2 ≻ 0), pairs drawn independently
        // from one sampler ρ make the squared loss least where r = P + const, P the win rate against ρ.
        let (world, reward) = world();
        let mut preferences = world.bradley_terry(&reward);
        for (i, j) in [(0, 1), (1, 2), (2, 0)] {
            (preferences.probability[i][j], preferences.probability[j][i]) = (0.9, 0.1);
        }
        let sampler = [0.1, 0.2, 0.3, 0.1, 0.2, 0.1];
        for i in 0..6 {
            for j in 0..6 {
                preferences.frequency[i][j] = sampler[i] * sampler[j];
            }
        }
        let win_rates = world.win_rates(&preferences, &sampler);
        lands_on_the_closed_form(Sum {}, Squared {}, &preferences, &win_rates);
        lands_on_the_closed_form(Mean {}, Squared {}, &preferences, &win_rates);
    }
    // ANCHOR_END: ipo_and_averaged_ipo_land_on_the_closed_form_of_the_win_rate

    #[test]
    fn where_the_theory_does_not_say_so_they_land_elsewhere() {
        let (world, reward) = world();
        // DPO with preferences that no reward explains; IPO against the Bradley–Terry reward itself; the hinge at all.
        let mut cyclic = world.bradley_terry(&reward);
        for (i, j) in [(0, 1), (1, 2), (2, 0)] {
            (cyclic.probability[i][j], cyclic.probability[j][i]) = (0.9, 0.1);
        }
        let exact = world.closed_form(0.7, &world.weights(&Mean {}).unwrap(), &reward).log_policy;
        let bradley_terry = world.bradley_terry(&reward);
        let reverse_kl = ReverseKl { beta: 0.7 };
        let logistic = AveragedDpo::new(Mean {}, reverse_kl, Logistic {}).unwrap();
        let squared = AveragedIpo::new(Mean {}, reverse_kl, Squared {}).unwrap();
        let hinge = AveragedSlic::new(Mean {}, reverse_kl, Hinge::default()).unwrap();
        let landed = [
            world.fit(&logistic, &cyclic, 1e-9, 2_000).unwrap(),
            world.fit(&squared, &bradley_terry, 1e-9, 2_000).unwrap(),
            world.fit(&hinge, &bradley_terry, 1e-9, 2_000).unwrap(),
        ];
        for fit in landed {
            assert!(distance(&fit.log_policy, &exact) > 1e-3, "{fit:?}");
        }
    }

    #[test]
    fn faults_are_named() {
        let said = |r: Result<World, Error>| r.unwrap_err().to_string();
        assert!(said(World::new(vec![1], vec![0.0])).contains("two or more completions"));
        assert_eq!(said(World::new(vec![1, 0], vec![0.0, 0.0])), "world: completion 1 has no tokens");
        let (world, _) = world();
        let refused = world.weights(&LengthDesensitised { alpha: 0.5, mean: false }).unwrap_err().to_string();
        assert!(
            refused.contains("\"length_desensitised\" is not a function of a completion's own length"),
            "{refused}"
        );
        let said = world.best(&ReverseKl { beta: 1.0 }, world.log_reference(), &[f64::NAN; 6]).unwrap_err().to_string();
        assert_eq!(said, "world: completion 0 has a reward of NaN");
    }
}
