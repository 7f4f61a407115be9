//! n Σ_e f_e P_e: the loss that balances experts (arXiv:2101.03961, eqs. 4 to 6), as transformers computes it: over the
//! tokens of all layers with experts taken together, f_e how many of them go through expert e, P_e its mean probability.

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::layout::Layout;

/// What the routers of one batch have in common.
#[doc = include_str!("../../equations/block-balance.html")]
#[derive(Debug)]
pub struct Balance {
    /// How many texts each token is a part of, `[tokens]`.
    weights: Vec<f32>,
    sums: Mutex<Sums>,
    /// The derivative of what is added to the loss with respect to any one probability of each expert; there in the
    /// backward pass, where layers that are computed anew add nothing any more.
    slopes: Option<Vec<f32>>,
}

/// Over the tokens of all layers, by their weights.
#[derive(Debug, Default)]
struct Sums {
    /// How many go through each expert.
    chosen: Vec<f64>,
    /// The probability of each.
    probabilities: Vec<f64>,
    /// The tokens.
    tokens: f64,
}

impl Balance {
    /// That of a batch: a prompt that is laid once for several completions is a part of each of these texts.
    pub fn new(layout: &Layout) -> Self {
        let mut weights = vec![1.0; layout.tokens()];
        for row in &layout.rows {
            weights[row.start..row.start + row.prefix].fill(row.branches.len().max(1) as f32);
        }
        Self { weights, sums: Mutex::default(), slopes: None }
    }

    fn sums(&self) -> MutexGuard<'_, Sums> {
        // Sums are whole between any two statements.
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a layer: its probabilities `[tokens, experts]`, and of each expert the rows of its tokens.
    // ANCHOR: formula
    pub(super) fn add(&self, probabilities: &[f32], rows: &[Vec<u32>]) {
        if self.slopes.is_some() {
            return;
        }
        let (n, mut sums) = (rows.len(), self.sums());
        sums.chosen.resize(n, 0.0);
        sums.probabilities.resize(n, 0.0);
        for (e, rows) in rows.iter().enumerate() {
            sums.chosen[e] += rows.iter().map(|row| f64::from(self.weights[*row as usize])).sum::<f64>();
        }
        for (p, w) in probabilities.chunks_exact(n).zip(&self.weights) {
            sums.probabilities.iter_mut().zip(p).for_each(|(sum, p)| *sum += f64::from(w * p));
        }
        sums.tokens += self.weights.iter().copied().map(f64::from).sum::<f64>();
    }

    /// The loss, of all layers that were added.
    pub fn loss(&self) -> f64 {
        let Sums { chosen, probabilities, tokens } = &*self.sums();
        let dot: f64 = chosen.iter().zip(probabilities).map(|(f, p)| (f / tokens) * (p / tokens)).sum();
        chosen.len() as f64 * dot
    }

    /// Begins the backward pass, in which the loss counts `coefficient` times: f_e has no derivative.
    pub(crate) fn weigh(&mut self, coefficient: f64) {
        let slopes = {
            let Sums { chosen, tokens, .. } = &*self.sums();
            let slope = |f: &f64| (coefficient * chosen.len() as f64 * f / (tokens * tokens)) as f32;
            chosen.iter().map(slope).collect()
        };
        self.slopes = Some(slopes);
    }

    /// The derivative with respect to each probability of a layer, `[tokens, experts]`.
    pub(super) fn slope(&self, device: &Device) -> Option<Tensor<2>> {
        let slopes = self.slopes.as_ref()?;
        let all = self.weights.iter().flat_map(|w| slopes.iter().map(move |s| w * s)).collect();
        let all = TensorData::new::<f32, _>(all, [self.weights.len(), slopes.len()]);
        Some(Tensor::from_data(all, (device, DType::F32)))
    }
    // ANCHOR_END: formula
}
