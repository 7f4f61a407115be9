//! A data set, or a part of one that was kept for evaluation.

use std::collections::HashSet;
use std::sync::Arc;

use collimate_data::{Dataset, Lengths, Lesson, LessonLengths, Rated, Record, Tokens};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use xxhash_rust::xxh3::xxh3_128;

use crate::error::Error;
use crate::task::{Size, Source, Unit};
use crate::tasks::{lesson_size, pair_size, rated_size};

/// A unit that data sets hold.
pub trait Stored: Unit + Record {
    /// The same in units that are not to be apart: a hash of the prompt.
    fn group(&self) -> u128;

    /// The completion that a policy is to write.
    fn wanted(&self) -> &[u32];

    /// Its file, and its row there.
    fn origin(&self) -> (usize, usize);

    /// Its sizes, by its token counts; see [`Unit::size`].
    fn size_of(lengths: Self::Lengths, share: bool) -> Size;
}

fn hash(prompt: &[u32]) -> u128 {
    xxh3_128(&prompt.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>())
}

impl Stored for Tokens {
    fn group(&self) -> u128 {
        hash(&self.prompt)
    }

    fn wanted(&self) -> &[u32] {
        &self.chosen
    }

    fn origin(&self) -> (usize, usize) {
        (self.file, self.row)
    }

    fn size_of(Lengths { prompt, chosen, rejected }: Lengths, share: bool) -> Size {
        pair_size(prompt, chosen, rejected, share)
    }
}

impl Stored for Rated {
    fn group(&self) -> u128 {
        self.pair.group()
    }

    fn wanted(&self) -> &[u32] {
        self.pair.wanted()
    }

    fn origin(&self) -> (usize, usize) {
        self.pair.origin()
    }

    fn size_of(Lengths { prompt, chosen, rejected }: Lengths, share: bool) -> Size {
        rated_size(pair_size(prompt, chosen, rejected, share))
    }
}

impl Stored for Lesson {
    fn group(&self) -> u128 {
        // One token is what all texts begin with, or the text's own beginning.
        if self.prompt.len() < 2 { self.key.into() } else { hash(&self.prompt) }
    }

    fn wanted(&self) -> &[u32] {
        &self.completion
    }

    fn origin(&self) -> (usize, usize) {
        (self.file, self.row)
    }

    fn size_of(LessonLengths { prompt, completion }: LessonLengths, _share: bool) -> Size {
        lesson_size(prompt, completion)
    }
}

/// Units of a data set, in a fixed order.
#[derive(Debug)]
pub struct Part<T = Tokens> {
    data: Arc<Dataset<T>>,
    units: Vec<usize>,
}

impl<T> Clone for Part<T> {
    fn clone(&self) -> Self {
        Self { data: self.data.clone(), units: self.units.clone() }
    }
}

impl<T: Stored> Part<T> {
    /// All units.
    pub fn whole(data: Dataset<T>) -> Self {
        let units = (0..data.len()).collect();
        Self { data: Arc::new(data), units }
    }

    /// Two parts without a prompt in common: the second has the units of a random `share` of all distinct prompts, drawn
    /// from `seed`. Rows that a weight repeats are repeated in the first and stand once in the second. Where all units
    /// have one prompt, distinct units take the place of distinct prompts.
    ///
    /// # Errors
    /// A share that leaves one of the parts empty.
    pub fn split(data: Dataset<T>, share: f64, seed: u64) -> Result<(Self, Self), Error> {
        let mut groups: Vec<u128> = data.iter().map(|t| t.group()).collect();
        let one = groups.windows(2).all(|w| w[0] == w[1]);
        if one {
            groups = (0..data.len()).map(|i| data.key(i).into()).collect();
        }
        let mut seen = HashSet::new();
        let mut order: Vec<u128> = groups.iter().copied().filter(|g| seen.insert(*g)).collect();
        order.shuffle(&mut StdRng::seed_from_u64(seed));
        let kept: HashSet<u128> =
            order[..((share * order.len() as f64).round() as usize).min(order.len())].iter().copied().collect();
        let mut rows = HashSet::new();
        let (mut train, mut eval) = (Vec::new(), Vec::new());
        for (i, (group, t)) in groups.iter().zip(data.iter()).enumerate() {
            if !kept.contains(group) {
                train.push(i);
            } else if rows.insert(t.origin()) {
                eval.push(i);
            }
        }
        let (count, of) = (order.len(), if one { "rows of one prompt" } else { "distinct prompts" });
        for (part, what) in [(&eval, "evaluate"), (&train, "train")] {
            if part.is_empty() {
                return Err(Error::Split { share, count, of, what });
            }
        }
        let data = Arc::new(data);
        Ok((Self { data: data.clone(), units: train }, Self { data, units: eval }))
    }

    /// The hash of the text of unit `i`.
    ///
    /// # Panics
    /// If there is no such unit.
    pub fn key(&self, i: usize) -> u64 {
        self.data.key(self.units[i])
    }
}

impl<T: Stored> Source<T> for Part<T> {
    fn len(&self) -> usize {
        self.units.len()
    }

    fn get(&self, i: usize) -> T {
        self.data.get(self.units[i])
    }

    fn size(&self, i: usize, share: bool) -> Size {
        T::size_of(self.data.lengths(self.units[i]), share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Row `row`, whose prompt is `prompt`.
    fn pair(prompt: u32, row: usize) -> Tokens {
        Tokens {
            prompt: vec![1, prompt],
            chosen: vec![row as u32, 2],
            rejected: vec![9, 2],
            chosen_mask: None,
            rejected_mask: None,
            key: row as u64,
            file: 0,
            row,
        }
    }

    fn rows(part: &Part) -> Vec<usize> {
        (0..part.len()).map(|i| part.get(i).row).collect()
    }

    #[test]
    fn parts_have_no_prompt_in_common_and_evaluate_each_row_once() {
        // Eight prompts of two rows, each row three times, as a weight of 3 has it.
        let data = || Dataset::from_tokens((0..48).map(|i| pair(i as u32 % 16 / 2, i % 16))).unwrap();
        for seed in 0..20 {
            let (train, eval) = Part::split(data(), 0.25, seed).unwrap();
            let (train, eval) = (rows(&train), rows(&eval));
            assert_eq!((train.len(), eval.len()), (36, 4), "{train:?} {eval:?}");
            let prompts = |rows: &[usize]| rows.iter().map(|r| r / 2).collect::<HashSet<_>>();
            assert!(prompts(&train).is_disjoint(&prompts(&eval)), "{train:?} {eval:?}");
            assert_eq!(eval.iter().collect::<HashSet<_>>().len(), 4);
        }
        let draw = |seed| rows(&Part::split(data(), 0.25, seed).unwrap().1);
        assert!((1..20).any(|seed| draw(seed) != draw(0)), "the seed decides");
    }

    #[test]
    fn pairs_of_one_prompt_are_split_by_pair() {
        // Eight rows, each three times; the last two rows are the same pair.
        let data = Dataset::from_tokens((0..24).map(|i| Tokens { key: i as u64 % 8 % 7, ..pair(0, i % 8) })).unwrap();
        let (train, eval) = Part::split(data, 0.3, 3).unwrap();
        let keys = |part: &Part| (0..part.len()).map(|i| part.key(i)).collect::<HashSet<_>>();
        assert_eq!((keys(&train).len(), keys(&eval).len()), (5, 2));
        assert!(keys(&train).is_disjoint(&keys(&eval)));
        assert_eq!(train.len(), 24 - 3 * eval.len());
    }

    #[test]
    fn a_share_that_leaves_nothing_is_refused() {
        let said = |share| {
            let data = Dataset::from_tokens((0..5).map(|i| pair(i as u32, i))).unwrap();
            Part::split(data, share, 0).unwrap_err().to_string()
        };
        assert!(said(0.05).starts_with("eval_split 0.05 of 5 distinct prompts leaves no row to evaluate on"));
        assert!(said(0.95).contains("leaves no row to train on"));
    }
}
