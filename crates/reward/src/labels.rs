//! Preferences drawn from scores.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

/// Bradley–Terry labels: P(a ≻ b) = σ((r_a − r_b)/noise).
///
/// A label is drawn from the seed, the prompt and both texts, so that neither the order of rows nor that of the two
/// changes it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Labels {
    /// In units of the score, 0 or more; at 0 the higher score always wins.
    pub noise: f64,
    /// What labels are drawn from.
    pub seed: u64,
}

/// Which of a prompt's completions are set against each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Which {
    /// Each against each other.
    All,
    /// The highest score against the lowest.
    BestWorst,
    /// Two at random.
    Random,
}

/// A number in [0, 1) that follows from texts alone.
fn uniform(seed: u64, parts: &[&str]) -> f64 {
    let mut hash = Xxh3::with_seed(seed);
    for part in parts {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    (hash.digest() >> 11) as f64 / (1u64 << 53) as f64
}

impl Labels {
    /// Whether `a` is preferred to `b`, each a text and its score.
    pub fn prefers(&self, prompt: &str, a: (&str, f64), b: (&str, f64)) -> bool {
        let swapped = a.0 > b.0;
        let (first, second) = if swapped { (b, a) } else { (a, b) };
        let difference = first.1 - second.1;
        // At equal scores a coin, with and without noise.
        let chance = if difference == 0.0 { 0.5 } else { 1.0 / (1.0 + (-difference / self.noise).exp()) };
        (uniform(self.seed, &[prompt, first.0, second.0]) < chance) != swapped
    }

    /// The pairs of a prompt's completions, `(chosen, rejected)` by their index; completions of equal text are one.
    ///
    /// Best against worst are labelled like any pair: noise may turn them round.
    pub fn pairs(&self, prompt: &str, completions: &[(&str, f64)], which: Which) -> Vec<(usize, usize)> {
        let mut distinct: Vec<usize> = (0..completions.len()).collect();
        distinct.sort_by_key(|i| completions[*i].0);
        distinct.dedup_by_key(|i| completions[*i].0);
        let label = |i: usize, j: usize| match self.prefers(prompt, completions[i], completions[j]) {
            true => (i, j),
            false => (j, i),
        };
        let n = distinct.len();
        if n < 2 {
            return Vec::new();
        }
        match which {
            Which::All => (0..n)
                .flat_map(|a| (a + 1..n).map(move |b| (a, b)))
                .map(|(a, b)| label(distinct[a], distinct[b]))
                .collect(),
            Which::BestWorst => {
                distinct.sort_by(|a, b| completions[*a].1.total_cmp(&completions[*b].1));
                vec![label(distinct[n - 1], distinct[0])]
            }
            Which::Random => {
                let texts: Vec<&str> =
                    std::iter::once(prompt).chain(distinct.iter().map(|i| completions[*i].0)).collect();
                let pairs = n * (n - 1) / 2;
                // The k-th of all pairs (a, b) with a < b.
                let mut k = ((uniform(!self.seed, &texts) * pairs as f64) as usize).min(pairs - 1);
                let mut a = 0;
                while k >= n - 1 - a {
                    k -= n - 1 - a;
                    a += 1;
                }
                vec![label(distinct[a], distinct[a + 1 + k])]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_bradley_terry() {
        let labels = Labels { noise: 0.5, seed: 3 };
        // σ((0.4 − 0)/0.5) = 0.68997
        let n = 20_000;
        let wins = (0..n).filter(|i| labels.prefers(&format!("p{i}"), ("b", 0.4), ("a", 0.0))).count();
        let share = wins as f64 / f64::from(n);
        // Five standard errors of √(0.69 · 0.31/20000) = 0.0033.
        assert!((share - 0.68997).abs() < 0.0165, "{share}");
    }

    #[test]
    fn the_order_of_the_two_does_not_matter_and_the_seed_does() {
        let mut differ = 0;
        for i in 0..500 {
            let (prompt, a, b) = (format!("p{i}"), (" one", 0.1 * f64::from(i % 7)), (" two", 0.3));
            let labels = Labels { noise: 1.0, seed: 1 };
            assert_ne!(labels.prefers(&prompt, a, b), labels.prefers(&prompt, b, a));
            differ += usize::from(labels.prefers(&prompt, a, b) != Labels { seed: 2, ..labels }.prefers(&prompt, a, b));
        }
        assert!((150..350).contains(&differ), "{differ}");
    }

    #[test]
    fn without_noise_the_better_wins_and_equals_toss_a_coin() {
        let labels = Labels { noise: 0.0, seed: 9 };
        assert!((0..100).all(|i| labels.prefers(&format!("p{i}"), ("x", 1e-9), ("a", 0.0))));
        let wins = (0..1000).filter(|i| labels.prefers(&format!("p{i}"), ("x", 1.0), ("a", 1.0))).count();
        assert!((400..600).contains(&wins), "{wins}");
    }

    #[test]
    fn pairs_of_a_prompt() {
        let labels = Labels { noise: 0.0, seed: 5 };
        let texts = [("b", 2.0), ("a", 3.0), ("b", 2.0), ("c", 1.0)];
        assert_eq!(labels.pairs("p", &texts, Which::BestWorst), [(1, 3)]);
        let mut all = labels.pairs("p", &texts, Which::All);
        all.sort_unstable();
        assert_eq!(all, [(0, 3), (1, 0), (1, 3)]);
        assert!(labels.pairs("p", &texts[..1], Which::All).is_empty());
        assert!(labels.pairs("p", &[("b", 1.0), ("b", 1.0)], Which::Random).is_empty());
        // Each of the three comes up, and the order of rows doesn't change which.
        let mut seen = std::collections::HashSet::new();
        for i in 0..60 {
            let prompt = format!("p{i}");
            let named = |texts: &[(&'static str, f64)]| {
                let [(a, b)] = labels.pairs(&prompt, texts, Which::Random)[..] else { panic!("one pair") };
                (texts[a].0, texts[b].0)
            };
            let pair = named(&texts);
            assert_eq!(pair, named(&[texts[3], texts[1], texts[0]]));
            seen.insert(pair);
        }
        assert_eq!(seen, [("a", "b"), ("a", "c"), ("b", "c")].into());
    }
}
