//! A data set, or a part of one that was kept for evaluation.

use std::sync::Arc;

use collimate_data::{Dataset, Lengths, Tokens};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::task::{Size, Source};
use crate::tasks::pair_size;

/// Pairs of a data set, in a fixed order.
#[derive(Clone, Debug)]
pub struct Part {
    data: Arc<Dataset>,
    pairs: Vec<usize>,
}

impl Part {
    /// All pairs.
    pub fn whole(data: Dataset) -> Self {
        let pairs = (0..data.len()).collect();
        Self { data: Arc::new(data), pairs }
    }

    /// Two parts without a pair in common: the second is a random `share` of all pairs, drawn from `seed`.
    pub fn split(data: Dataset, share: f64, seed: u64) -> (Self, Self) {
        let mut order: Vec<usize> = (0..data.len()).collect();
        order.shuffle(&mut StdRng::seed_from_u64(seed));
        let kept = (share * data.len() as f64).round() as usize;
        let (mut eval, mut train) = (order[..kept].to_vec(), order[kept..].to_vec());
        eval.sort_unstable();
        train.sort_unstable();
        let data = Arc::new(data);
        (Self { data: data.clone(), pairs: train }, Self { data, pairs: eval })
    }
}

impl Source<Tokens> for Part {
    fn len(&self) -> usize {
        self.pairs.len()
    }

    fn get(&self, i: usize) -> Tokens {
        self.data.get(self.pairs[i])
    }

    fn size(&self, i: usize, share: bool) -> Size {
        let Lengths { prompt, chosen, rejected } = self.data.lengths(self.pairs[i]);
        pair_size(prompt, chosen, rejected, share)
    }
}
