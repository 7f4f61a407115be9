//! The formalism on finite sets of completions, exactly, in f64.
//!
//! A [`World`] is one prompt with a finite set of completions: their lengths, and the reference's log-probabilities.
//! Policies are vectors of log-probabilities `[completions]`, in nats. Averaging operators enter as one weight per
//! completion, w(n) = ω_t, so those that look at both lengths of a pair (`length_desensitised`, `down_sampled`) have no
//! place here.
//!
//! ```
//! use collimate_core::{optimality::ReverseKl, tabular::World};
//!
//! // Two completions of one reward, the second twice as long, and a third that is worse.
//! let world = World::new(vec![4, 8, 6], vec![0.25f64.ln(), 0.25f64.ln(), 0.5f64.ln()]).unwrap();
//! let reward = [1.0, 1.0, 0.0];
//! let sum = world.optimum(&ReverseKl { beta: 1.0 }, &[1.0; 3], &reward).unwrap();
//! let mean = world.optimum(&ReverseKl { beta: 1.0 }, &world.mean(), &reward).unwrap();
//! // The sum keeps their ratio; the mean pays the reward above the bar once per token.
//! assert!((sum.log_policy[0] - sum.log_policy[1]).abs() < 1e-12);
//! assert!(mean.log_policy[1] > mean.log_policy[0] && reward[0] > mean.bar);
//! ```

use crate::averaging::AnyAveraging;
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
fn log_sum_exp(x: &[f64]) -> f64 {
    let top = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if top.is_infinite() { top } else { top + x.iter().map(|v| (v - top).exp()).sum::<f64>().ln() }
}

/// Log-probabilities from scores: x − ln Σ exp x.
pub fn normalise(scores: &[f64]) -> Vec<f64> {
    let z = log_sum_exp(scores);
    scores.iter().map(|s| s - z).collect()
}

/// 𝒜: the averaged policy, (𝒜π)(y) = π(y)^w(y) / Z.
pub fn average(log_policy: &[f64], weights: &[f64]) -> Vec<f64> {
    normalise(&log_policy.iter().zip(weights).map(|(p, w)| p * w).collect::<Vec<_>>())
}

/// 𝒜⁻¹: the policy whose average is `log_averaged`, (𝒜⁻¹q)(y) = (c q(y))^(1/w(y)) with c the root of Σ = 1.
pub fn unaverage(log_averaged: &[f64], weights: &[f64]) -> Vec<f64> {
    let at = |log_c: f64| log_averaged.iter().zip(weights).map(|(q, w)| (q + log_c) / w).collect::<Vec<_>>();
    at(-root(|c| log_sum_exp(&at(-c)), 0.0))
}

/// The root of a function that falls strictly, found from `start`.
fn root(f: impl Fn(f64) -> f64, start: f64) -> f64 {
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

    /// w(n) of an averaging operator, if all tokens of a completion weigh the same whatever it is compared with.
    ///
    /// # Errors
    /// An operator whose weights depend on the other completion or on the token.
    pub fn weights(&self, averaging: &dyn AnyAveraging) -> Result<Vec<f64>, Error> {
        let weight = |n: usize| {
            let seen = [n, 1, 2 * n + 1].map(|other| averaging.weights(Pair::new(n, other), 0).chosen);
            let first = seen[0][0];
            seen.iter().flatten().all(|w| *w == first).then_some(first)
        };
        let weights: Option<Vec<f64>> = self.lengths.iter().map(|n| weight(*n)).collect();
        weights.filter(|w| w.iter().all(|w| *w > 0.0)).ok_or_else(|| {
            let name = averaging.typetag_name();
            Error::Configuration(format!("averaging \"{name}\" is not a function of a completion's own length"))
        })
    }

    /// w(n) = 1/n.
    pub fn mean(&self) -> Vec<f64> {
        self.lengths.iter().map(|n| 1.0 / *n as f64).collect()
    }

    /// 𝓑_{β,m}\[R\]: the best policy for a reward under the regulariser, for reference log-probabilities m.
    ///
    /// `log_reference` and `reward` are `[completions]`; the bar λ is the root of Σ exp s(R − λ) = 1.
    ///
    /// # Errors
    /// A reward that isn't finite.
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

    /// The composition π* = 𝒜⁻¹ 𝓑_{β,𝒜μ}\[R\] (arXiv:2406.19188), with `weights` w(n).
    ///
    /// The bar is λ(x) of π* = μ exp((R − λ)/(β w(n))), which for `reverse_kl` is the [`closed_form`](Self::closed_form).
    ///
    /// # Errors
    /// A reward that isn't finite.
    pub fn optimum(&self, optimality: &dyn AnyOptimality, weights: &[f64], reward: &[f64]) -> Result<Optimum, Error> {
        let averaged = self.best(optimality, &average(&self.log_reference, weights), reward)?;
        let log_policy = unaverage(&averaged.log_policy, weights);
        // The bar from any completion's own equation: R − λ is its implicit reward.
        let reward_of = |i: usize| {
            optimality.reward(&crate::Scores {
                policy: weights[i] * log_policy[i],
                reference: weights[i] * self.log_reference[i],
                tokens: self.lengths[i] as f64,
            })
        };
        let likeliest = (0..reward.len()).max_by(|a, b| log_policy[*a].total_cmp(&log_policy[*b])).unwrap_or(0);
        let bar = reward[likeliest] - reward_of(likeliest);
        Ok(Optimum { log_policy, bar })
    }

    /// π*(y|x) = μ(y|x) exp((R(x,y) − λ(x))/(β w(n))), with λ(x) the one root of Σ_y π*(y|x) = 1: what
    /// [`optimum`](Self::optimum) is under the reverse KL.
    pub fn closed_form(&self, beta: f64, weights: &[f64], reward: &[f64]) -> Optimum {
        let at = |bar: f64| -> Vec<f64> {
            let each = self.log_reference.iter().zip(weights).zip(reward);
            each.map(|((m, w), r)| m + (r - bar) / (beta * w)).collect()
        };
        let bar = root(|bar| log_sum_exp(&at(bar)), reward.iter().sum::<f64>() / reward.len() as f64);
        Optimum { log_policy: normalise(&at(bar)), bar }
    }

    /// Preferences of the Bradley–Terry model, p(y_i ≻ y_j) = σ(R_i − R_j), every pair equally often.
    pub fn bradley_terry(&self, reward: &[f64]) -> Preferences {
        use crate::Number;
        let probability = reward.iter().map(|a| reward.iter().map(|b| (a - b).sigmoid()).collect()).collect();
        Preferences { probability, frequency: vec![vec![1.0; reward.len()]; reward.len()] }
    }

    /// The reward that the squared loss learns: each completion's chance against one drawn from `sampler`,
    /// P_i = Σ_j ρ_j p(y_i ≻ y_j) (arXiv:2310.12036, section 3), where pairs are drawn as ρ_i ρ_j.
    pub fn win_rates(&self, preferences: &Preferences, sampler: &[f64]) -> Vec<f64> {
        preferences.probability.iter().map(|row| row.iter().zip(sampler).map(|(p, s)| p * s).sum()).collect()
    }

    /// The loss of a policy on exhaustive preference data: every ordered pair, weighed by how often it is drawn and
    /// preferred; and its derivative with respect to each score, by central differences.
    fn loss(
        &self,
        objective: &Objective,
        weights: &[f64],
        preferences: &Preferences,
        log_policy: &[f64],
    ) -> (f64, Vec<f64>) {
        const STEP: f64 = 1e-5;
        let completion = |log: f64, i: usize| Completion::new(log * weights[i], log, self.lengths[i] as f64);
        let count = self.lengths.len();
        let (mut loss, mut gradient, mut total) = (0.0, vec![0.0; count], 0.0);
        for i in 0..count {
            for j in (0..count).filter(|j| *j != i) {
                let share = preferences.frequency[i][j] * preferences.probability[i][j];
                if share == 0.0 {
                    continue;
                }
                let reference = Pair::new(completion(self.log_reference[i], i), completion(self.log_reference[j], j));
                let totals = Totals { pairs: 1, chosen_tokens: self.lengths[i] };
                let at = |a: f64, b: f64| {
                    let policy = Pair::new(completion(log_policy[i] + a, i), completion(log_policy[j] + b, j));
                    objective.evaluate(&policy, &reference, totals).loss
                };
                let slope = |f: &dyn Fn(f64) -> f64| (f(STEP) - f(-STEP)) / (2.0 * STEP);
                loss += share * at(0.0, 0.0);
                gradient[i] += share * slope(&|h| at(h, 0.0));
                gradient[j] += share * slope(&|h| at(0.0, h));
                total += share;
            }
        }
        (loss / total, gradient.into_iter().map(|g| g / total).collect())
    }

    /// Minimises an objective over all policies on exhaustive preference data, from the reference, by gradient descent
    /// on logits with a quasi-Newton step (BFGS), until the gradient is below `tolerance` or `limit` steps are taken.
    ///
    /// Supervised terms over the batch take each pair for a batch of its own.
    ///
    /// # Errors
    /// A coupled loss, and an averaging operator that [`weights`](Self::weights) refuses.
    pub fn fit(
        &self,
        objective: &Objective,
        preferences: &Preferences,
        tolerance: f64,
        limit: usize,
    ) -> Result<Fit, Error> {
        if objective.coupled() {
            let name = objective.loss.typetag_name();
            return Err(Error::Configuration(format!("loss \"{name}\" couples pairs: exhaustive data has no batches")));
        }
        let weights = self.weights(objective.averaging.as_ref())?;
        let evaluate = |logits: &[f64]| {
            let log_policy = normalise(logits);
            let (loss, slope) = self.loss(objective, &weights, preferences, &log_policy);
            // d ln π_i / d logit_k = [i = k] − π_k.
            let sum: f64 = slope.iter().sum();
            let gradient: Vec<f64> = slope.iter().zip(&log_policy).map(|(g, p)| g - sum * p.exp()).collect();
            (loss, gradient)
        };
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let largest = |g: &[f64]| g.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        let count = self.lengths.len();
        let identity = |scale: f64| -> Vec<Vec<f64>> {
            (0..count).map(|i| (0..count).map(|j| if i == j { scale } else { 0.0 }).collect()).collect()
        };
        let mut logits = self.log_reference.clone();
        let (mut loss, mut gradient) = evaluate(&logits);
        let mut inverse = identity(1.0);
        let mut steps = 0;
        while steps < limit && largest(&gradient) > tolerance {
            let mut direction: Vec<f64> = inverse.iter().map(|row| -dot(row, &gradient)).collect();
            if dot(&direction, &gradient) >= 0.0 {
                inverse = identity(1.0);
                direction = gradient.iter().map(|g| -g).collect();
            }
            // Armijo's rule; near the end rounding hides the decrease, and a smaller gradient counts as well.
            let (descent, mut length) = (dot(&direction, &gradient), 1.0);
            let next = loop {
                let tried: Vec<f64> = logits.iter().zip(&direction).map(|(x, d)| x + length * d).collect();
                let (value, slope) = evaluate(&tried);
                let settled =
                    (value - loss).abs() <= 1e-12 * loss.abs().max(1.0) && largest(&slope) < largest(&gradient);
                if value <= loss + 1e-4 * length * descent || settled {
                    break Some((tried, value, slope));
                }
                length *= 0.5;
                if length < 1e-12 {
                    break None;
                }
            };
            let Some((tried, value, slope)) = next else { break };
            let step: Vec<f64> = tried.iter().zip(&logits).map(|(a, b)| a - b).collect();
            let change: Vec<f64> = slope.iter().zip(&gradient).map(|(a, b)| a - b).collect();
            let curvature = dot(&step, &change);
            if curvature > 1e-14 * dot(&step, &step).sqrt() * dot(&change, &change).sqrt() {
                if steps == 0 {
                    inverse = identity(curvature / dot(&change, &change));
                }
                // BFGS: H ← (I − ρ s yᵀ) H (I − ρ y sᵀ) + ρ s sᵀ.
                let rho = 1.0 / curvature;
                let image: Vec<f64> = inverse.iter().map(|row| dot(row, &change)).collect();
                let scale = rho * (1.0 + rho * dot(&change, &image));
                for i in 0..count {
                    for j in 0..count {
                        inverse[i][j] += scale * step[i] * step[j] - rho * (image[i] * step[j] + step[i] * image[j]);
                    }
                }
            }
            (logits, loss, gradient) = (tried, value, slope);
            steps += 1;
        }
        Ok(Fit { log_policy: normalise(&logits), loss, gradient: largest(&gradient), steps })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::averaging::{LengthDesensitised, Mean, Power, Sum};
    use crate::loss::{AnyLoss, Hinge, Logistic, Squared};
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

    #[test]
    fn averaging_and_its_inverse_undo_each_other() {
        let (world, _) = world();
        for weights in [world.mean(), vec![1.0; 6], world.weights(&Power { alpha: 0.5 }).unwrap()] {
            let there = average(world.log_reference(), &weights);
            assert!((log_sum_exp(&there)).abs() < 1e-14);
            assert!(distance(&unaverage(&there, &weights), world.log_reference()) < 1e-14);
        }
    }

    #[test]
    fn the_composition_is_the_closed_form() {
        let (world, reward) = world();
        for weights in [world.mean(), vec![1.0; 6], world.weights(&Power { alpha: 0.3 }).unwrap()] {
            let composed = world.optimum(&ReverseKl { beta: 0.7 }, &weights, &reward).unwrap();
            let closed = world.closed_form(0.7, &weights, &reward);
            assert!(distance(&composed.log_policy, &closed.log_policy) < 1e-13);
            assert!((composed.bar - closed.bar).abs() < 1e-12, "{} {}", composed.bar, closed.bar);
        }
    }

    #[test]
    fn the_summed_bar_is_beta_ln_z() {
        let (world, reward) = world();
        let z: f64 = world.log_reference().iter().zip(&reward).map(|(m, r)| (m + r / 0.7).exp()).sum();
        assert!((world.closed_form(0.7, &[1.0; 6], &reward).bar - 0.7 * z.ln()).abs() < 1e-14);
    }

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
                assert!((back - (wanted - best.bar)).abs() < 1e-10, "{operator:?}: {back} {}", wanted - best.bar);
            }
        }
    }

    #[test]
    fn a_constant_reward_leaves_the_reference() {
        let (world, _) = world();
        let found = world.closed_form(0.7, &world.mean(), &[0.8; 6]);
        assert!(distance(&found.log_policy, world.log_reference()) < 1e-14);
        assert!((found.bar - 0.8).abs() < 1e-14);
    }

    #[test]
    fn above_the_bar_length_gains_and_below_it_loses() {
        // Two pairs of equal reward and reference, one pair above the bar and one below.
        let world = World::new(vec![3, 9, 3, 9], vec![0.25f64.ln(); 4]).unwrap();
        let reward = [1.0, 1.0, 0.0, 0.0];
        let mean = world.closed_form(5.0, &world.mean(), &reward);
        assert!(mean.bar > 0.0 && mean.bar < 1.0);
        assert!(mean.log_policy[1] > mean.log_policy[0] && mean.log_policy[3] < mean.log_policy[2]);
        // d/dn ln(π*/μ) = (R − λ)/β
        assert!((mean.log_policy[1] - mean.log_policy[0] - 6.0 * (1.0 - mean.bar) / 5.0).abs() < 1e-12);
        let sum = world.closed_form(5.0, &[1.0; 4], &reward);
        assert!((sum.log_policy[1] - sum.log_policy[0]).abs() < 1e-14);
    }

    fn objective(averaging: Box<dyn AnyAveraging>, beta: f64, loss: Box<dyn AnyLoss>) -> Objective {
        Objective::new(averaging, Box::new(ReverseKl { beta }), loss).unwrap()
    }

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
        for averaging in [Box::new(Sum {}) as Box<dyn AnyAveraging>, Box::new(Mean {})] {
            let weights = world.weights(averaging.as_ref()).unwrap();
            let fit = world.fit(&objective(averaging, 0.7, Box::new(Logistic {})), &preferences, 1e-10, 2_000).unwrap();
            let exact = world.closed_form(0.7, &weights, &reward);
            let off = distance(&fit.log_policy, &exact.log_policy);
            assert!(off < 1e-6, "off by {off:e} after {} steps, gradient {:e}", fit.steps, fit.gradient);
        }
    }

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
        for averaging in [Box::new(Sum {}) as Box<dyn AnyAveraging>, Box::new(Mean {})] {
            let weights = world.weights(averaging.as_ref()).unwrap();
            let fit = world.fit(&objective(averaging, 0.7, Box::new(Squared {})), &preferences, 1e-10, 2_000).unwrap();
            let exact = world.closed_form(0.7, &weights, &win_rates);
            let off = distance(&fit.log_policy, &exact.log_policy);
            assert!(off < 1e-6, "off by {off:e} after {} steps, gradient {:e}", fit.steps, fit.gradient);
        }
    }

    #[test]
    fn where_the_theory_does_not_say_so_they_land_elsewhere() {
        let (world, reward) = world();
        // DPO with preferences that no reward explains; IPO against the Bradley–Terry reward itself; the hinge at all.
        let mut cyclic = world.bradley_terry(&reward);
        for (i, j) in [(0, 1), (1, 2), (2, 0)] {
            (cyclic.probability[i][j], cyclic.probability[j][i]) = (0.9, 0.1);
        }
        let exact = world.closed_form(0.7, &world.mean(), &reward).log_policy;
        let mean = || Box::new(Mean {});
        let land = |o: Objective, p: &Preferences| world.fit(&o, p, 1e-9, 2_000).unwrap().log_policy;
        let bradley_terry = world.bradley_terry(&reward);
        assert!(distance(&land(objective(mean(), 0.7, Box::new(Logistic {})), &cyclic), &exact) > 1e-3);
        assert!(distance(&land(objective(mean(), 0.7, Box::new(Squared {})), &bradley_terry), &exact) > 1e-3);
        assert!(distance(&land(objective(mean(), 0.7, Box::new(Hinge::default())), &bradley_terry), &exact) > 1e-3);
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
