//! Intervals by resampling: prompts and seeds are drawn anew, each with replacement and apart from the other, and all
//! answers of a drawn prompt under a drawn seed go with it (a crossed cluster bootstrap, arXiv:0711.4028). The interval is
//! that between percentiles, interpolated linearly as numpy does.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::Observation;

/// A value with its interval.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Interval {
    /// On all observations.
    pub value: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// How often each seed and each prompt is drawn, in each resample.
#[derive(Clone, Debug)]
pub struct Resamples {
    seeds: Vec<Vec<f64>>,
    prompts: Vec<Vec<f64>>,
    confidence: f64,
}

fn draw(rng: &mut StdRng, n: usize) -> Vec<f64> {
    let mut counts = vec![0.0; n];
    (0..n).for_each(|_| counts[rng.random_range(0..n)] += 1.0);
    counts
}

impl Resamples {
    /// `count` resamples of `seeds` seeds and `prompts` prompts.
    pub fn new(seeds: usize, prompts: usize, count: usize, confidence: f64, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let (seeds, prompts) = (0..count).map(|_| (draw(&mut rng, seeds), draw(&mut rng, prompts))).unzip();
        Self { seeds, prompts, confidence }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.seeds.len()
    }

    /// The weights of observations in resample `r`.
    pub fn weights(&self, r: usize, all: &[Observation]) -> Vec<f64> {
        all.iter().map(|o| self.seeds[r][o.seed] * self.prompts[r][o.prompt]).collect()
    }

    /// The interval of a statistic; none where it is not defined on the observations, or on half of the resamples.
    pub fn interval(
        &self,
        all: &[Observation],
        statistic: impl Fn(&[Observation], &[f64]) -> Option<f64>,
    ) -> Option<Interval> {
        let value = statistic(all, &vec![1.0; all.len()])?;
        self.around(value, (0..self.count()).filter_map(|r| statistic(all, &self.weights(r, all))).collect())
    }

    /// The interval of a value from its resampled values.
    pub fn around(&self, value: f64, mut resampled: Vec<f64>) -> Option<Interval> {
        if 2 * resampled.len() < self.count() || resampled.is_empty() {
            return None;
        }
        resampled.sort_by(f64::total_cmp);
        let tail = (1.0 - self.confidence) / 2.0;
        Some(Interval { value, low: percentile(&resampled, tail), high: percentile(&resampled, 1.0 - tail) })
    }
}

/// The value below which a share `p` of sorted values lies.
fn percentile(sorted: &[f64], p: f64) -> f64 {
    let at = p * (sorted.len() - 1) as f64;
    let (i, part) = (at.floor() as usize, at.fract());
    let next = sorted[(i + 1).min(sorted.len() - 1)];
    sorted[i] + part * (next - sorted[i])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Metric;

    #[test]
    fn percentiles_are_numpys() {
        let values = [1.0, 2.0, 4.0, 8.0, 16.0];
        // numpy.percentile(values, [2.5, 50, 97.5])
        assert!((percentile(&values, 0.025) - 1.1).abs() < 1e-12);
        assert_eq!(percentile(&values, 0.5), 4.0);
        assert!((percentile(&values, 0.975) - 15.2).abs() < 1e-12);
    }

    fn observations(seeds: usize, prompts: usize, of_seed: f64) -> Vec<Observation> {
        let mut rng = StdRng::seed_from_u64(5);
        let mut all = Vec::new();
        for seed in 0..seeds {
            for prompt in 0..prompts {
                // Answers to a prompt are alike: its own mean, and little about it.
                let mean = 10.0 + (prompt % 10) as f64 + of_seed * seed as f64;
                for _ in 0..4 {
                    let length = mean + rng.random::<f64>() - 0.5;
                    all.push(Observation {
                        seed,
                        prompt,
                        length,
                        score: 0.0,
                        ended: true,
                        repetition: 0.0,
                        log_ratio: 0.0,
                        implicit_reward: None,
                        sft_length: 0.0,
                        sft_score: 0.0,
                        chosen_score: None,
                    });
                }
            }
        }
        all
    }

    #[test]
    fn prompts_are_the_clusters() {
        // The means of prompts are 10 … 19, evenly: their variance is 8.25, and that of a mean over 100 of them 0.0825.
        let all = observations(1, 100, 0.0);
        let resamples = Resamples::new(1, 100, 2000, 0.95, 1);
        let i = resamples.interval(&all, |o, w| Metric::Length.of(o, w)).unwrap();
        let half = 1.96 * 0.0825_f64.sqrt();
        assert!((i.value - 14.5).abs() < 0.1, "{i:?}");
        assert!(((i.high - i.low) / 2.0 - half).abs() < 0.08 * half, "{i:?}, {half}");
    }

    #[test]
    fn seeds_widen_it() {
        let wide = |of_seed| {
            let all = observations(3, 100, of_seed);
            let i = Resamples::new(3, 100, 500, 0.95, 1).interval(&all, |o, w| Metric::Length.of(o, w)).unwrap();
            i.high - i.low
        };
        assert!(wide(4.0) > 3.0 * wide(0.0));
    }

    #[test]
    fn the_same_seed_draws_the_same() {
        let all = observations(2, 20, 1.0);
        let interval = |seed| Resamples::new(2, 20, 100, 0.9, seed).interval(&all, |o, w| Metric::Length.of(o, w));
        assert_eq!(interval(3), interval(3));
        assert_ne!(interval(3), interval(4));
    }
}
