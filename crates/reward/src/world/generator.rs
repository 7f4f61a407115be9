//! How answers are drawn, and how likely each is: the ideal reference μ of the world.
//!
//! An answer has 1 to [`MOST`] sentences; behind each but the last that there may be, another follows with probability
//! ρ = 1 − 1/sentences. Sentences are independent. With probability [`RIGHT`] one says rightly one of the properties that
//! are asked, each as likely; with [`WRONG`] it says wrongly one of them, each false value as likely; with [`OFF_TOPIC`] it
//! says rightly one that isn't asked; else it is one of the fillers, each as likely.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, RngExt};

use super::grammar::{FILLERS, Question, STATEMENT_WORDS, say};
use super::quality::Counts;

/// Sentences of an answer at most.
pub const MOST: usize = 10;
/// The probability that a sentence says rightly what was asked.
pub const RIGHT: f64 = 0.4;
/// That it says it wrongly.
pub const WRONG: f64 = 0.15;
/// That it says what wasn't asked.
pub const OFF_TOPIC: f64 = 0.05;
const FILLER: f64 = 1.0 - RIGHT - WRONG - OFF_TOPIC;

fn one<'a, T>(rng: &mut impl Rng, of: &'a [T]) -> &'a T {
    &of[rng.random_range(0..of.len())]
}

/// An answer drawn from μ; each sentence begins with a space.
pub(super) fn answer(rng: &mut StdRng, question: &Question, more: f64) -> String {
    let mut answer = String::new();
    for i in 0..MOST {
        if i > 0 && rng.random::<f64>() >= more {
            break;
        }
        let kind = rng.random::<f64>();
        let asked = one(rng, question.asked());
        answer.push(' ');
        if kind < RIGHT {
            answer += &say(question.truth(*asked));
        } else if kind < RIGHT + WRONG {
            answer += &say(*one(rng, &question.falsehoods(*asked)));
        } else if kind < RIGHT + WRONG + OFF_TOPIC {
            answer += &say(question.truth(*one(rng, &question.unasked())));
        } else {
            answer += *one(rng, &FILLERS[..]);
        }
    }
    answer
}

/// The answers to a question that asks for `asked` properties, in classes of one length and the same counts, with the
/// probability of each class under μ: `((n, counts), probability)`, n with the stop token. What a class is worth and how
/// long it is depends on nothing else.
pub(super) fn classes(asked: usize, more: f64) -> BTreeMap<(usize, Counts), f64> {
    let mut all = BTreeMap::new();
    let mut open = BTreeMap::from([((1, Counts::default()), 1.0)]);
    for sentences in 1..=MOST {
        let mut longer = BTreeMap::new();
        for ((n, counts), probability) in open {
            let mut add = |words: usize, change: &dyn Fn(&mut Counts), share: f64| {
                let mut counts: Counts = counts;
                change(&mut counts);
                if share > 0.0 {
                    *longer.entry((n + words, counts)).or_insert(0.0) += probability * share;
                }
            };
            let new = (asked - counts.right) as f64 / asked as f64;
            add(STATEMENT_WORDS, &|c| c.right += 1, RIGHT * new);
            add(STATEMENT_WORDS, &|c| c.padding += 1, RIGHT * (1.0 - new));
            add(STATEMENT_WORDS, &|c| c.wrong += 1, WRONG);
            add(STATEMENT_WORDS, &|c| c.off_topic += 1, OFF_TOPIC);
            for filler in FILLERS {
                add(filler.split(' ').count(), &|c| c.padding += 1, FILLER / FILLERS.len() as f64);
            }
        }
        let goes_on = if sentences == MOST { 0.0 } else { more };
        for (class, probability) in &longer {
            *all.entry(*class).or_insert(0.0) += probability * (1.0 - goes_on);
        }
        open = longer.into_iter().map(|(class, probability)| (class, probability * goes_on)).collect();
        open.retain(|_, probability| *probability > 0.0);
    }
    all.retain(|_, probability| *probability > 0.0);
    all
}

/// ln μ(y|x) of one answer, if it can be drawn at all.
pub(super) fn log_probability(question: &Question, answer: &str, more: f64) -> Option<f64> {
    let mut rest = answer;
    let (mut sentences, mut log) = (0, 0.0);
    while !rest.is_empty() {
        let end = rest.find(" .")? + 2;
        let sentence = rest[..end].strip_prefix(' ')?;
        rest = &rest[end..];
        if sentences > 0 {
            log += more.ln();
        }
        sentences += 1;
        let (asked, unasked) = (question.asked(), question.unasked());
        let mut probability = 0.0;
        for p in asked {
            let share = 1.0 / asked.len() as f64;
            let falsehoods = question.falsehoods(*p);
            if say(question.truth(*p)) == sentence {
                probability += RIGHT * share;
            } else if falsehoods.iter().any(|s| say(*s) == sentence) {
                probability += WRONG * share / falsehoods.len() as f64;
            }
        }
        if unasked.iter().any(|p| say(question.truth(*p)) == sentence) {
            probability += OFF_TOPIC / unasked.len() as f64;
        }
        if FILLERS.contains(&sentence) {
            probability += FILLER / FILLERS.len() as f64;
        }
        if probability == 0.0 {
            return None;
        }
        log += f64::ln(probability);
    }
    match sentences {
        1..MOST => Some(log + (1.0 - more).ln()),
        MOST => Some(log),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;
    use rand::SeedableRng;

    use super::*;

    fn question() -> Question {
        Question::parse("what is the size and the colour of the frog ?").unwrap()
    }

    /// Every sentence that can be drawn.
    fn sentences(q: &Question) -> Vec<String> {
        let mut all: Vec<_> = q.asked().iter().flat_map(|p| q.falsehoods(*p)).collect();
        all.extend((0..4).map(|p| q.truth(p)));
        all.into_iter().map(say).chain(FILLERS.map(String::from)).map(|s| format!(" {s}")).collect()
    }

    #[test]
    fn classes_are_the_sums_of_their_completions() {
        // All answers of up to three sentences, one by one.
        let (q, more) = (question(), 0.6);
        let sentences = sentences(&q);
        // 3 false sizes, 5 false colours, 4 truths, 4 fillers.
        assert_eq!(sentences.len(), 16);
        let mut answers = vec![String::new()];
        let mut sums: BTreeMap<(usize, Counts), f64> = BTreeMap::new();
        for _ in 0..3 {
            answers = answers.iter().flat_map(|a| sentences.iter().map(move |s| format!("{a}{s}"))).collect();
            for answer in &answers {
                let class = (answer.split_whitespace().count() + 1, q.counts(answer));
                *sums.entry(class).or_insert(0.0) += log_probability(&q, answer, more).unwrap().exp();
            }
        }
        let classes = classes(2, more);
        let said = |c: &Counts| c.right + c.wrong + c.off_topic + c.padding;
        let short: BTreeMap<_, _> = classes.iter().filter(|((_, c), _)| said(c) <= 3).collect();
        assert_eq!(short.len(), sums.len());
        for (class, probability) in short {
            assert_abs_diff_eq!(*probability, sums[class], epsilon = 1e-14);
        }
        assert_abs_diff_eq!(classes.values().sum::<f64>(), 1.0, epsilon = 1e-12);
    }

    #[test]
    fn answers_are_drawn_as_likely_as_they_are_said_to_be() {
        let (q, more) = (question(), 0.75);
        let classes = classes(2, more);
        let mut rng = StdRng::seed_from_u64(1);
        let draws = 20_000;
        let (mut length, mut right) = (0, 0);
        for _ in 0..draws {
            let answer = answer(&mut rng, &q, more);
            let counts = q.counts(&answer);
            let n = answer.split_whitespace().count() + 1;
            assert!(classes.contains_key(&(n, counts)) && log_probability(&q, &answer, more).is_some(), "{answer:?}");
            length += n;
            right += counts.right;
        }
        let expected = |of: &dyn Fn(&(usize, Counts)) -> f64| classes.iter().map(|(c, p)| p * of(c)).sum::<f64>();
        let n = draws as f64;
        // Five standard errors, of 14.5 tokens and 0.8 facts each.
        assert!((length as f64 / n - expected(&|c| c.0 as f64)).abs() < 5.0 * 14.5 / n.sqrt());
        assert!((right as f64 / n - expected(&|c| c.1.right as f64)).abs() < 5.0 * 0.8 / n.sqrt());
    }

    #[test]
    fn what_cannot_be_drawn_has_no_probability() {
        let q = question();
        let best = q.best_answer();
        // ln(0.2² · ρ (1 − ρ)): each truth 0.4/2.
        assert_abs_diff_eq!(
            log_probability(&q, &best, 0.75).unwrap(),
            (0.2f64 * 0.2 * 0.75 * 0.25).ln(),
            epsilon = 1e-12
        );
        for no in ["", "its size is tiny .", " its size is tiny", " its home is tree .", &best.repeat(6)] {
            assert_eq!(log_probability(&q, no, 0.75), None, "{no:?}");
        }
        assert!(log_probability(&q, &best.repeat(5), 0.75).is_some());
    }
}
