//! KL(π‖μ) = E_π[ln π(y) − ln μ(y)], estimated by the mean over the policy's own answers; a token: over their tokens.

use super::{Observation, mean};

/// Of whole answers, in nats. An estimate: it can fall below 0.
pub fn of(all: &[Observation], weights: &[f64]) -> Option<f64> {
    mean::of(all.iter().zip(weights).map(|(o, w)| (o.log_ratio, *w)))
}

/// Σ ln π/μ over Σ tokens.
pub fn per_token(all: &[Observation], weights: &[f64]) -> Option<f64> {
    mean::of(
        all.iter().zip(weights).filter(|(o, _)| o.length > 0.0).map(|(o, w)| (o.log_ratio / o.length, w * o.length)),
    )
}
