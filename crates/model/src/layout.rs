//! How completions lie on one flat axis of tokens, without padding.

use std::ops::Range;

pub use collimate_backend::kernels::Row;
use collimate_backend::kernels::places;

use crate::error::Error;

/// A completion to lay out: its tokens, and which of them are scored (none given: all).
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// Token ids, EOS included where it is scored.
    pub tokens: &'a [u32],
    /// One flag per token; a token that is not scored is still read.
    pub scored: Option<&'a [bool]>,
}

impl<'a> Text<'a> {
    /// A completion of which every token is scored.
    pub fn whole(tokens: &'a [u32]) -> Self {
        Self { tokens, scored: None }
    }

    /// The indices of the scored tokens.
    fn scored(self) -> impl Iterator<Item = usize> + 'a {
        (0..self.tokens.len()).filter(move |i| self.scored.is_none_or(|s| s[*i]))
    }
}

/// A batch for the log-prob engine: inputs, who attends to whom, and what is scored.
///
/// The last scored token of a completion predicts nothing that is asked for, so it is a target but not an input, unless the
/// layout is [`whole`](Self::whole).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Input token ids, `[tokens]`.
    pub ids: Vec<u32>,
    /// Position of each input in its text, `[tokens]`.
    pub positions: Vec<u32>,
    /// The rows that the token axis is made of.
    pub rows: Vec<Row>,
    /// For each scored token, the input whose hidden state predicts it, `[scored]`.
    pub predictors: Vec<u32>,
    /// Each scored token, `[scored]`.
    pub targets: Vec<u32>,
    /// For each completion, in the order added, its range on the scored axis.
    pub completions: Vec<Range<usize>>,
    /// For each unit (what one call of [`push`](Self::push) added), its range of completions.
    pub units: Vec<Range<usize>>,
    /// Whether every token is an input that goes through all layers, the last of a completion too.
    pub whole: bool,
}

impl Layout {
    /// An empty one whose tokens all go through all layers: what the loss that balances experts is computed of.
    pub fn whole() -> Self {
        Self { whole: true, ..Self::default() }
    }

    /// Adds a unit: completions of one prompt. With `share`, the prompt is laid once and the completions branch off it;
    /// without, each completion has a row with the prompt in it. Scores are the same.
    ///
    /// # Errors
    /// A prompt without tokens, no completions, or one without scored tokens.
    pub fn push(&mut self, prompt: &[u32], completions: &[Text<'_>], share: bool) -> Result<(), Error> {
        if prompt.is_empty() {
            return Err(Error::Sequence(
                "a prompt has no tokens: nothing predicts the first token of its completions".into(),
            ));
        }
        if completions.is_empty() || completions.iter().any(|c| c.scored().next().is_none()) {
            return Err(Error::Sequence("a completion has no scored tokens: there is nothing to score".into()));
        }
        let first = self.completions.len();
        self.units.push(first..first + completions.len());
        if share {
            self.push_row(prompt, completions);
        } else {
            for c in completions {
                self.push_row(prompt, &[*c]);
            }
        }
        Ok(())
    }

    /// Adds a unit whose completions are read at their last tokens, one number each: what a value head says there.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn push_to_read(&mut self, prompt: &[u32], completions: &[&[u32]], share: bool) -> Result<(), Error> {
        // What is scored is said by the token before it: here by the last one, of a place behind it that nobody reads.
        let behind = completions.iter().map(|tokens| {
            let scored: Vec<bool> = (0..=tokens.len()).map(|i| i == tokens.len()).collect();
            ([*tokens, &[0]].concat(), scored)
        });
        let behind: Vec<_> = behind.collect();
        let texts: Vec<_> = behind.iter().map(|(tokens, scored)| Text { tokens, scored: Some(scored) }).collect();
        self.push(prompt, &texts, share)
    }

    fn push_row(&mut self, prompt: &[u32], completions: &[Text<'_>]) {
        let start = self.ids.len();
        self.ids.extend(prompt);
        let mut branches = Vec::new();
        for c in completions {
            let first = self.ids.len();
            let inputs = match self.whole {
                true => c.tokens,
                false => &c.tokens[..c.scored().last().expect("push has seen one")],
            };
            self.ids.extend(inputs);
            if !inputs.is_empty() {
                branches.push(inputs.len());
            }
            let scored = self.targets.len();
            // The token before the first of a completion is the last of the prompt.
            let before = |i: usize| if i == 0 { start + prompt.len() - 1 } else { first + i - 1 };
            self.predictors.extend(c.scored().map(|i| before(i) as u32));
            self.targets.extend(c.scored().map(|i| c.tokens[i]));
            self.completions.push(scored..self.targets.len());
        }
        // One branch is plain causal attention.
        let row = match branches[..] {
            [only] => Row { start, prefix: prompt.len() + only, branches: Vec::new() },
            _ => Row { start, prefix: prompt.len(), branches },
        };
        self.positions.extend(places(&row).map(|(p, _)| p as u32));
        self.rows.push(row);
    }

    /// For each unit, its range on the scored axis.
    pub fn scored_by_unit(&self) -> Vec<Range<usize>> {
        self.units.iter().map(|u| self.completions[u.start].start..self.completions[u.end - 1].end).collect()
    }

    /// The number of input tokens.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// The longest text, in tokens.
    pub fn longest(&self) -> usize {
        self.positions.iter().max().map_or(0, |p| *p as usize + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_shares_its_prompt() {
        let mut l = Layout::default();
        l.push(&[1, 7, 8], &[Text::whole(&[20, 21, 2]), Text::whole(&[30, 2])], true).unwrap();
        assert_eq!(l.ids, [1, 7, 8, 20, 21, 30]);
        assert_eq!(l.positions, [0, 1, 2, 3, 4, 3]);
        assert_eq!(l.rows, [Row { start: 0, prefix: 3, branches: vec![2, 1] }]);
        assert_eq!(l.targets, [20, 21, 2, 30, 2]);
        // 20 and 30 are both predicted by the last token of the prompt.
        assert_eq!(l.predictors, [2, 3, 4, 2, 5]);
        assert_eq!(l.completions, [0..3, 3..5]);
        l.push(&[1], &[Text::whole(&[2])], true).unwrap();
        assert_eq!((l.units.clone(), l.scored_by_unit()), (vec![0..2, 2..3], vec![0..5, 5..6]));
    }

    #[test]
    fn without_sharing_each_completion_has_its_row() {
        let mut l = Layout::default();
        l.push(&[1, 7], &[Text::whole(&[20, 2]), Text::whole(&[2])], false).unwrap();
        assert_eq!(l.ids, [1, 7, 20, 1, 7]);
        assert_eq!(l.positions, [0, 1, 2, 0, 1]);
        assert_eq!(l.rows.iter().map(Row::tokens).collect::<Vec<_>>(), [3, 2]);
        assert_eq!(l.predictors, [1, 2, 4]);
        assert_eq!(l.completions, [0..2, 2..3]);
    }

    #[test]
    fn a_whole_layout_has_the_last_tokens_too() {
        let mut l = Layout::whole();
        let masked = Text { tokens: &[20, 21, 22], scored: Some(&[false, true, false]) };
        l.push(&[1, 7], &[masked, Text::whole(&[2])], true).unwrap();
        assert_eq!((&*l.ids, &*l.targets), (&[1, 7, 20, 21, 22, 2][..], &[21, 2][..]));
        assert_eq!(l.rows, [Row { start: 0, prefix: 2, branches: vec![3, 1] }]);
        assert_eq!(l.predictors, [2, 1]);
    }

    #[test]
    fn nothing_to_score_is_an_error() {
        let mut l = Layout::default();
        assert!(l.push(&[], &[Text::whole(&[1])], true).is_err());
        assert!(l.push(&[1], &[Text::whole(&[1]), Text::whole(&[])], true).is_err());
        assert!(l.push(&[1], &[Text { tokens: &[1, 2], scored: Some(&[false, false]) }], true).is_err());
    }

    #[test]
    fn last_tokens_are_read_as_they_are() {
        let mut l = Layout::default();
        l.push_to_read(&[1, 7], &[&[20, 2], &[2]], true).unwrap();
        assert_eq!(l.ids, [1, 7, 20, 2, 2]);
        assert_eq!((l.predictors, l.completions), (vec![3, 4], vec![0..1, 1..2]));
    }

    #[test]
    fn what_is_not_scored_is_still_read() {
        let mut l = Layout::default();
        let masked = Text { tokens: &[20, 21, 22, 23], scored: Some(&[false, true, true, false]) };
        l.push(&[1, 7], &[masked], true).unwrap();
        assert_eq!(l.ids, [1, 7, 20, 21]);
        assert_eq!((l.targets, l.predictors), (vec![21, 22], vec![2, 3]));
    }
}
