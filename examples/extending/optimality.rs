//! An optimality operator from outside: a reference that counts less.
//!
//! ```sh
//! cargo run --release --example optimality
//! ```

use std::error::Error;

use collimate::backend::Backend;
use collimate::core::averaging::Mean;
use collimate::core::optimality::{AnyOptimality, NoReference, OptimalityOperator, ReverseKl, Scores, by_bisection};
use collimate::core::tabular::World;
use collimate::core::{Error as CoreError, Number, Objective};
use collimate::data::Tokens;
use collimate::model::{Decoder, ModelConfig};
use collimate::train::{Event, Preference, Settings, Trainer};
use serde::{Deserialize, Serialize};
use serde_json::json;

// ANCHOR: operator
/// D = −H(π) − κ E ln μ, the reverse KL to a flattened reference μ^κ: r = β (s(π) − κ s(μ)), and
/// 𝓑\[R\] = μ^κ exp((R − λ)/β). At κ = 1 it is `reverse_kl`, at κ = 0 it is `none`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flattened {
    /// β > 0, the strength of the regularisation.
    pub beta: f64,
    /// κ, from 0 to 1.
    pub kappa: f64,
}

impl<T: Number> OptimalityOperator<T> for Flattened {
    fn reward(&self, scores: &Scores<T>) -> T {
        (scores.policy.clone() - scores.reference.clone() * self.kappa) * self.beta
    }
    // May be left out: the default finds it by bisection.
    fn score(&self, reward: T, reference: T, _tokens: T) -> T {
        reference * self.kappa + reward * (1.0 / self.beta)
    }
}

#[typetag::serde(name = "flattened")]
impl AnyOptimality for Flattened {
    fn beta(&self) -> f64 {
        self.beta
    }
    fn uses_reference(&self) -> bool {
        self.kappa > 0.0
    }
    fn validate(&self) -> Result<(), CoreError> {
        match self.beta > 0.0 && (0.0..=1.0).contains(&self.kappa) {
            true => Ok(()),
            false => Err(CoreError::Configuration("flattened: beta must be above 0, kappa from 0 to 1".into())),
        }
    }
}
// ANCHOR_END: operator

/// The two directions undo each other, and the ends are the operators that they should be.
fn laws() {
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} is not {b}");
    for kappa in [0.0, 0.3, 1.0] {
        let o = Flattened { beta: 0.4, kappa };
        for (policy, reference) in [(-7.0, -5.0), (-0.3, -1.0), (-2.5, -2.5)] {
            let reward = o.reward(&Scores { policy, reference, tokens: 4.0 });
            close(o.score(reward, reference, 4.0), policy);
            close(by_bisection(&o, reward, reference, 4.0), policy);
        }
    }
    // On a finite set: the best policy of a reward, averaged by token, beside those of its neighbours.
    let world = World::new(vec![4, 8, 6], vec![-1.0, -2.0, -0.5]).unwrap();
    let best = |o: &dyn AnyOptimality| world.optimum(&Mean {}, o, &[1.0, 0.6, 0.0]).unwrap().log_policy;
    let ends: [(f64, &dyn AnyOptimality); 2] = [(1.0, &ReverseKl { beta: 0.4 }), (0.0, &NoReference { beta: 0.4 })];
    for (kappa, end) in ends {
        let policy = best(&Flattened { beta: 0.4, kappa });
        policy.iter().zip(best(end)).for_each(|(a, b)| close(*a, b));
        close(policy.iter().map(|p| p.exp()).sum(), 1.0);
    }
}

/// Trains a small random model on pairs whose chosen side begins with an even token; the losses of the steps.
fn train() -> Result<Vec<f64>, Box<dyn Error>> {
    // What a TOML file says under `[objective]`.
    let objective = Objective::from_value(&json!({
        "averaging": {"type": "mean"},
        "optimality": {"type": "flattened", "beta": 2.0, "kappa": 0.5},
        "loss": {"type": "logistic"},
    }))?;
    let config = json!({
        "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4,
        "num_hidden_layers": 2, "vocab_size": 20, "max_position_embeddings": 16
    });
    let config = ModelConfig::from_value(&config, std::path::Path::new("config.json"))?;
    let pair = |i: u32| Tokens {
        prompt: vec![1, 3],
        chosen: vec![4 + 2 * (i % 8), 2],
        rejected: vec![5 + 2 * (i % 8), 4 + i % 16, 2],
        chosen_mask: None,
        rejected_mask: None,
        key: i.into(),
        file: 0,
        row: i as usize + 1,
    };
    let settings = Settings { learning_rate: 1e-2, max_steps: 10, logging_steps: 1, ..Settings::default() };
    let device = (Backend::preferred().ok_or("no backend is usable")?.open)(0);
    let pairs: Vec<_> = (0..16).map(pair).collect();
    let mut trainer =
        Trainer::<Preference>::new(Decoder::random(config, 1, &device), objective, settings, pairs, None)?;
    let mut losses = Vec::new();
    trainer.run(&mut |event| {
        if let Event::Metrics(line) = event {
            losses.extend(line["loss"].as_f64());
        }
        Ok(())
    })?;
    Ok(losses)
}

fn main() -> Result<(), Box<dyn Error>> {
    laws();
    let losses = train()?;
    println!("loss of the first step {:.4}, of the last {:.4}", losses[0], losses[losses.len() - 1]);
    assert_eq!(losses.len(), 10);
    assert!(losses[9] < 0.5 * losses[0], "{losses:?}");
    Ok(())
}

#[test]
fn it_keeps_the_laws_and_trains() {
    main().unwrap();
}
