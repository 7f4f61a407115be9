//! What is left of an advantage at equal length, by regression on the difference of lengths Δn to the SFT policy's answer.
//!
//! Score: Δs = a + b Δn by least squares; a is the difference at Δn = 0. Win rate, as length-controlled AlpacaEval has it
//! (arXiv:2404.04475): P(win) = σ(a + b tanh(Δn / sd Δn)) by maximum likelihood with a penalty λ(a² + b²)/2, λ = 0.01, that
//! keeps it finite where all is won; σ(a) is the win rate at Δn = 0. Ties are half a win. sd is that of the observations
//! and stays the same in resamples.

use super::win_rate::win;
use super::{Observation, mean};

const PENALTY: f64 = 0.01;

/// Least squares of y on x of (x, y, weight), at x = 0. Where x does not vary: the mean, if x is 0 throughout.
pub fn intercept(rows: impl Iterator<Item = (f64, f64, f64)> + Clone) -> Option<f64> {
    let mx = mean::of(rows.clone().map(|(x, _, w)| (x, w)))?;
    let my = mean::of(rows.clone().map(|(_, y, w)| (y, w)))?;
    let (xx, xy) =
        rows.fold((0.0, 0.0), |(xx, xy), (x, y, w)| (xx + w * (x - mx) * (x - mx), xy + w * (x - mx) * (y - my)));
    match xx > 1e-12 {
        true => Some(my - xy / xx * mx),
        false => (mx == 0.0).then_some(my),
    }
}

/// The difference of scores at equal length.
pub fn score(all: &[Observation], weights: &[f64]) -> Option<f64> {
    intercept(all.iter().zip(weights).map(|(o, w)| (o.length - o.sft_length, o.score - o.sft_score, *w)))
}

/// σ(a) of the logistic regression of y in [0, 1] on x, of (x, y, weight).
pub fn logistic(rows: &[(f64, f64, f64)]) -> Option<f64> {
    if rows.iter().map(|r| r.2).sum::<f64>() <= 0.0 {
        return None;
    }
    let sigma = |z: f64| 1.0 / (1.0 + (-z).exp());
    let (mut a, mut b) = (0.0_f64, 0.0_f64);
    for _ in 0..100 {
        let (mut ga, mut gb) = (-PENALTY * a, -PENALTY * b);
        let (mut aa, mut ab, mut bb) = (PENALTY, 0.0, PENALTY);
        for (x, y, w) in rows {
            let p = sigma(a + b * x);
            let (r, v) = (w * (y - p), w * p * (1.0 - p));
            ga += r;
            gb += r * x;
            aa += v;
            ab += v * x;
            bb += v * x * x;
        }
        let det = aa * bb - ab * ab;
        let (da, db) = ((bb * ga - ab * gb) / det, (aa * gb - ab * ga) / det);
        // Newton's step, no longer than where the logistic function is still near its tangent.
        let scale = (4.0 / da.abs().max(db.abs()).max(4.0)).min(1.0);
        (a, b) = (a + scale * da, b + scale * db);
        if da.abs().max(db.abs()) < 1e-10 {
            break;
        }
    }
    Some(sigma(a))
}

/// The win rate against SFT at equal length.
pub fn win_rate(all: &[Observation], weights: &[f64]) -> Option<f64> {
    let n = all.len() as f64;
    let apart = |o: &Observation| o.length - o.sft_length;
    let m = all.iter().map(apart).sum::<f64>() / n;
    let sd = (all.iter().map(|o| (apart(o) - m).powi(2)).sum::<f64>() / n).sqrt();
    let x = |o: &Observation| if sd > 0.0 { (apart(o) / sd).tanh() } else { 0.0 };
    let rows: Vec<_> = all
        .iter()
        .zip(weights)
        .filter(|(_, w)| **w > 0.0)
        .map(|(o, w)| (x(o), win(o.score, o.sft_score), *w))
        .collect();
    logistic(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: [f64; 8] = [-0.9, -0.5, -0.1, 0.0, 0.2, 0.6, 0.8, 0.9];
    const Y: [f64; 8] = [0.0, 0.0, 1.0, 0.5, 0.0, 1.0, 1.0, 1.0];

    fn rows() -> Vec<(f64, f64, f64)> {
        X.iter().zip(Y).map(|(x, y)| (*x, y, 1.0)).collect()
    }

    #[test]
    fn as_numpy_has_it() {
        // numpy.polyfit(X, Y, 1)[1]; Newton's method on the penalised likelihood in numpy
        assert!((intercept(rows().into_iter()).unwrap() - 0.48926654740608216).abs() < 1e-12);
        assert!((logistic(&rows()).unwrap() - 0.48211706669656346).abs() < 1e-9);
    }

    #[test]
    fn all_won_stays_finite() {
        let p = logistic(&[(0.5, 1.0, 100.0), (-0.5, 1.0, 100.0)]).unwrap();
        assert!(p > 0.99 && p < 1.0, "{p}");
        assert_eq!(logistic(&[]), None);
    }

    #[test]
    fn an_advantage_of_length_alone_is_none_at_equal_length() {
        let rows = (0..50).map(|i| (f64::from(i) - 10.0, 0.3 * (f64::from(i) - 10.0), 1.0));
        assert!(intercept(rows).unwrap().abs() < 1e-12);
    }
}
