//! The steps from the regularised problem to the closed form, each on a finite world: the equations of docs/src/theory.md
//! that no other test holds.

use approx::assert_abs_diff_eq;
use collimate_core::Pair;
use collimate_core::averaging::{AnyAveraging, Mean, Power, Sum};
use collimate_core::loss::Logistic;
use collimate_core::objective::{Completion, Dpo, Totals};
use collimate_core::optimality::ReverseKl;
use collimate_core::tabular::{World, normalise};

const BETA: f64 = 0.7;

/// Completions of 1 to 9 tokens, and rewards that depend on more than their lengths.
fn world() -> (World, Vec<f64>) {
    let log_reference = (0..9).map(|i| -0.3 * f64::from(i) + (f64::from(i) * 1.7).sin()).collect();
    let reward = (0..9).map(|i| (f64::from(i) * 2.3).cos()).collect();
    (World::new((1..=9).collect(), log_reference).unwrap(), reward)
}

fn averagings() -> [Box<dyn AnyAveraging>; 3] {
    [Box::new(Sum {}), Box::new(Mean {}), Box::new(Power { alpha: 0.5 })]
}

/// What the composition says of a pair of completions, from their log-likelihoods.
fn rewards(averaging: &dyn AnyAveraging, world: &World, log_policy: &[f64], pair: Pair<usize>) -> Pair<f64> {
    let side = |log: &[f64], i: usize| {
        let n = world.lengths()[i];
        Completion::new(averaging.weight(n).unwrap() * log[i], log[i], n as f64)
    };
    let objective = Dpo::new(Sum {}, ReverseKl { beta: BETA }, Logistic {}).unwrap();
    let totals = Totals { pairs: 1, chosen_tokens: 1 };
    let of = |log: &[f64]| pair.map(|i| side(log, i));
    objective.evaluate(&of(log_policy), &of(world.log_reference()), totals).reward
}

// ANCHOR: the_optimum_is_the_reference_tilted_by_the_reward
#[test]
fn the_optimum_is_the_reference_tilted_by_the_reward() {
    let (world, reward) = world();
    let best = world.best(&ReverseKl { beta: BETA }, world.log_reference(), &reward).unwrap();
    let tilted: Vec<f64> = world.log_reference().iter().zip(&reward).map(|(m, r)| m + r / BETA).collect();
    assert_abs_diff_eq!(best.log_policy[..], normalise(&tilted)[..], epsilon = 1e-12);
    // λ = β ln Z
    let z: f64 = tilted.iter().map(|t| t.exp()).sum();
    assert_abs_diff_eq!(best.bar, BETA * z.ln(), epsilon = 1e-12);
}
// ANCHOR_END: the_optimum_is_the_reference_tilted_by_the_reward

// ANCHOR: in_a_margin_the_bar_cancels
#[test]
fn in_a_margin_the_bar_cancels() {
    let (world, reward) = world();
    let optimum = world.optimum(&Sum {}, &ReverseKl { beta: BETA }, &reward).unwrap();
    for (i, j) in [(0, 8), (3, 1), (5, 6)] {
        let r = rewards(&Sum {}, &world, &optimum.log_policy, Pair::new(i, j));
        assert_abs_diff_eq!(r.chosen - r.rejected, reward[i] - reward[j], epsilon = 1e-12);
    }
}
// ANCHOR_END: in_a_margin_the_bar_cancels

// ANCHOR: with_weights_of_one_the_score_is_the_log_likelihood
#[test]
fn with_weights_of_one_the_score_is_the_log_likelihood() {
    let log_probs = [-0.5, -1.25, -0.25, -3.0];
    let score = |averaging: &dyn AnyAveraging| -> f64 {
        let weights = averaging.weights(Pair::new(4, 7), 0).chosen;
        weights.iter().zip(log_probs).map(|(w, l)| w * l).sum()
    };
    assert_eq!(score(&Sum {}), -5.0);
    assert_eq!(score(&Mean {}), -1.25);
}
// ANCHOR_END: with_weights_of_one_the_score_is_the_log_likelihood

// ANCHOR: in_logarithms_all_but_the_reward_depends_on_the_prompt_alone
#[test]
fn in_logarithms_all_but_the_reward_depends_on_the_prompt_alone() {
    let (world, reward) = world();
    for averaging in averagings() {
        let optimum = world.optimum(&averaging, &ReverseKl { beta: BETA }, &reward).unwrap().log_policy;
        let weights = world.weights(&averaging).unwrap();
        let rest = |i: usize| weights[i] * (optimum[i] - world.log_reference()[i]) - reward[i] / BETA;
        (1..9).for_each(|i| assert_abs_diff_eq!(rest(i), rest(0), epsilon = 1e-11));
    }
}
// ANCHOR_END: in_logarithms_all_but_the_reward_depends_on_the_prompt_alone

// ANCHOR: the_bar_is_the_one_root
#[test]
fn the_bar_is_the_one_root() {
    let (world, reward) = world();
    for averaging in averagings() {
        let weights = world.weights(&averaging).unwrap();
        let sum = |bar: f64| -> f64 {
            let each = world.log_reference().iter().zip(&weights).zip(&reward);
            each.map(|((m, w), r)| (m + (r - bar) / (BETA * w)).exp()).sum()
        };
        let bar = world.closed_form(BETA, &weights, &reward).bar;
        assert_abs_diff_eq!(sum(bar), 1.0, epsilon = 1e-12);
        let falls: Vec<f64> = (-20..=20).map(|step| sum(bar + 0.1 * f64::from(step))).collect();
        assert!(falls.windows(2).all(|pair| pair[0] > pair[1]), "{falls:?}");
    }
}
// ANCHOR_END: the_bar_is_the_one_root

// ANCHOR: the_averaged_reward_of_the_optimum_is_the_reward_above_the_bar
#[test]
fn the_averaged_reward_of_the_optimum_is_the_reward_above_the_bar() {
    let (world, reward) = world();
    for averaging in averagings() {
        let optimum = world.optimum(&averaging, &ReverseKl { beta: BETA }, &reward).unwrap();
        for (i, j) in [(0, 8), (3, 1), (5, 6)] {
            let r = rewards(&averaging, &world, &optimum.log_policy, Pair::new(i, j));
            assert_abs_diff_eq!(r.chosen, reward[i] - optimum.bar, epsilon = 1e-11);
            assert_abs_diff_eq!(r.rejected, reward[j] - optimum.bar, epsilon = 1e-11);
        }
    }
}
// ANCHOR_END: the_averaged_reward_of_the_optimum_is_the_reward_above_the_bar

// ANCHOR: at_equal_lengths_the_mean_is_the_sum_at_a_smaller_beta
#[test]
fn at_equal_lengths_the_mean_is_the_sum_at_a_smaller_beta() {
    let log_reference: Vec<f64> = (0..6).map(|i| -0.4 * f64::from(i)).collect();
    let world = World::new(vec![5; 6], log_reference).unwrap();
    let reward: Vec<f64> = (0..6).map(|i| f64::from(i * i) * 0.1).collect();
    let mean = world.optimum(&Mean {}, &ReverseKl { beta: BETA }, &reward).unwrap();
    let sum = world.optimum(&Sum {}, &ReverseKl { beta: BETA / 5.0 }, &reward).unwrap();
    assert_abs_diff_eq!(mean.log_policy[..], sum.log_policy[..], epsilon = 1e-12);
}
// ANCHOR_END: at_equal_lengths_the_mean_is_the_sum_at_a_smaller_beta

// ANCHOR: length_responds_as_a_covariance
#[test]
fn length_responds_as_a_covariance() {
    let (world, reward) = world();
    let beta = 1e5;
    let under = |log: &[f64], x: &[f64]| -> f64 { log.iter().zip(x).map(|(l, x)| l.exp() * x).sum() };
    let length: Vec<f64> = world.lengths().iter().map(|n| *n as f64).collect();
    for averaging in averagings() {
        let weights = world.weights(&averaging).unwrap();
        let at_reference = |x: &[f64]| under(world.log_reference(), x);
        let over = |x: &[f64]| -> Vec<f64> { x.iter().zip(&weights).map(|(x, w)| x / w).collect() };
        let bar = at_reference(&over(&reward)) / at_reference(&over(&[1.0; 9]));
        let above: Vec<f64> = reward.iter().map(|r| r - bar).collect();
        let both: Vec<f64> = over(&above).iter().zip(&length).map(|(a, n)| a * n).collect();
        let covariance = at_reference(&both) - at_reference(&over(&above)) * at_reference(&length);
        let optimum = world.closed_form(beta, &weights, &reward);
        let response = beta * (under(&optimum.log_policy, &length) - at_reference(&length));
        assert_abs_diff_eq!(response, covariance, epsilon = 1e-3 * covariance.abs());
        assert_abs_diff_eq!(optimum.bar, bar, epsilon = 1e-3);
    }
}
// ANCHOR_END: length_responds_as_a_covariance
