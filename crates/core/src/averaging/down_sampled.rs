//! `down_sampled`: as many tokens of the longer completion as the shorter one has, drawn at random.

use serde::{Deserialize, Serialize};

use super::{AnyAveraging, AveragingOperator};
use crate::Pair;

/// ω_t = 1 on min(n⁺, n⁻) tokens drawn without replacement, 0 elsewhere (SamPO, arXiv:2406.10957, eq. 8).
///
/// The draw depends on `seed` and on the pair's key alone: a pair keeps its tokens in every epoch, batch and layout,
/// and policy and reference see the same ones.
#[doc = include_str!("../../equations/averaging-down-sampled.html")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DownSampled {
    /// The seed of the draw.
    #[serde(default)]
    pub seed: u64,
}

/// SplitMix64 (Steele, Lea and Flood, 2014): a good generator in three lines, the same on every machine.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

// ANCHOR: formula
impl AveragingOperator for DownSampled {
    fn weights(&self, lengths: Pair<usize>, key: u64) -> Pair<Vec<f64>> {
        let kept = lengths.chosen.min(lengths.rejected);
        let mut state = self.seed;
        state = next(&mut state) ^ key;
        lengths.map(|n| {
            let mut weights = vec![0.0; n];
            // Selection sampling: token t is kept with probability (still wanted)/(still to come).
            let mut wanted = kept;
            for (t, weight) in weights.iter_mut().enumerate() {
                // The high half of a product is uniform below its second factor.
                let drawn = ((u128::from(next(&mut state)) * (n - t) as u128) >> 64) as usize;
                if drawn < wanted {
                    *weight = 1.0;
                    wanted -= 1;
                }
            }
            weights
        })
    }
}
// ANCHOR_END: formula

#[typetag::serde(name = "down_sampled")]
impl AnyAveraging for DownSampled {}

#[cfg(test)]
mod tests {
    use super::*;

    // ANCHOR: both_completions_keep_the_shorter_length
    #[test]
    fn both_completions_keep_the_shorter_length() {
        for key in 0..50 {
            let w = DownSampled { seed: 7 }.weights(Pair::new(5, 12), key);
            assert_eq!(w.chosen, vec![1.0; 5]);
            assert_eq!((w.rejected.len(), w.rejected.iter().sum::<f64>()), (12, 5.0));
        }
    }
    // ANCHOR_END: both_completions_keep_the_shorter_length

    #[test]
    fn every_token_has_the_same_chance() {
        // 5 of 12 over 12,000 keys: 5,000 draws a token, with a standard deviation of √(12000 · 5/12 · 7/12) = 54.
        let mut counts = [0.0; 12];
        for key in 0..12_000 {
            let w = DownSampled { seed: 1 }.weights(Pair::new(5, 12), key);
            counts.iter_mut().zip(w.rejected).for_each(|(c, w)| *c += w);
        }
        assert!(counts.iter().all(|c| (c - 5_000.0).abs() < 5.0 * 54.0), "{counts:?}");
    }

    #[test]
    fn the_draw_follows_seed_and_key() {
        let at = |seed, key| DownSampled { seed }.weights(Pair::new(3, 40), key).rejected;
        assert_eq!(at(1, 2), at(1, 2));
        assert_ne!(at(1, 2), at(1, 3));
        assert_ne!(at(1, 2), at(2, 2));
    }
}
