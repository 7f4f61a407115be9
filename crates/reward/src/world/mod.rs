//! A world of texts whose reward is known, in which length and quality pull apart.
//!
//! A [`Question`] asks for two or three properties of a thing; an answer is made of sentences: facts, falsehoods, what
//! wasn't asked, and fillers. [`Quality`] is what an answer is worth, in one formula. Answers are drawn from a distribution
//! that is known, so that the best policy for any reward, under the sum or the mean, is too: [`World::exact`].
//!
//! Two dials are apart: how long the reference's answers are ([`World::sentences`]), and how much labels like length
//! ([`World::length_bias`]).

mod base;
mod exact;
mod generator;
mod grammar;
mod quality;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use collimate_core::tabular;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::labels::Labels;
use crate::{AnyReward, Error, Reward, Sample};

pub use base::{MAX_POSITIONS, base_files};
pub use exact::{Enumerated, Exact, Point, Rewards};
pub use generator::{MOST, OFF_TOPIC, RIGHT, WRONG};
pub use grammar::{Question, words};
pub use quality::{Counts, Quality};

/// What `world.json` calls the world of this version: another grammar, generator or formula is another world.
const NAME: &str = "things-1";
const FILE: &str = "world.json";

/// The dials of a world, from which all else follows to the byte.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct World {
    /// Sentences of the reference's answers, in the mean before they are cut at [`MOST`]; 1 or more.
    pub sentences: f64,
    /// c: labels come from q + c n. Above 0 they like length, below they dislike it.
    pub length_bias: f64,
    /// The noise of labels, in units of q; above 0.
    pub label_noise: f64,
    /// Rows of `sft.jsonl`.
    pub sft: usize,
    /// Rows of `pairs.jsonl`.
    pub pairs: usize,
    /// Rows of `prompts.jsonl`: questions that are in neither of the other two.
    pub prompts: usize,
    /// What all draws come from.
    pub seed: u64,
    /// What an answer is worth.
    pub quality: Quality,
}

impl Default for World {
    fn default() -> Self {
        Self {
            sentences: 4.0,
            length_bias: 0.1,
            label_noise: 1.0,
            sft: 4096,
            pairs: 2048,
            prompts: 64,
            seed: 42,
            quality: Quality::default(),
        }
    }
}

impl World {
    /// Checks the dials.
    ///
    /// # Errors
    /// A dial out of its range, by name.
    pub fn validate(&self) -> Result<(), Error> {
        let most = Question::all().len() / 2;
        let fault = |key, rule: &str, value: f64| {
            Err(Error::Configuration(format!("world: {key} must be {rule}, got {value}")))
        };
        let (q, finite) = (&self.quality, f64::is_finite);
        for (key, value) in [("wrong", q.wrong), ("off_topic", q.off_topic), ("padding", q.padding)] {
            if !(value >= 0.0 && finite(value)) {
                return fault(key, "0 or more", value);
            }
        }
        match self {
            w if !(w.sentences >= 1.0 && finite(w.sentences)) => fault("sentences", "1 or more", w.sentences),
            w if !finite(w.length_bias) => fault("length_bias", "a finite number", w.length_bias),
            w if !(w.label_noise > 0.0 && finite(w.label_noise)) => fault("label_noise", "above 0", w.label_noise),
            w if w.sft == 0 || w.pairs == 0 => fault(if w.sft == 0 { "sft" } else { "pairs" }, "1 or more", 0.0),
            w if !(1..=most).contains(&w.prompts) => fault("prompts", &format!("1 to {most}"), w.prompts as f64),
            _ => Ok(()),
        }
    }

    /// The world of a folder that `collimate world` wrote.
    ///
    /// # Errors
    /// A folder without a `world.json`, one of another world, or dials out of range.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(FILE);
        let fault = |why: String| Error::World { path: path.clone(), why };
        let text = std::fs::read_to_string(&path).map_err(|e| fault(format!("{e}; expected a folder of a world")))?;
        let mut dials: Value = serde_json::from_str(&text).map_err(|e| fault(e.to_string()))?;
        let name = dials.as_object_mut().and_then(|d| d.remove("world")).unwrap_or_default();
        if name != NAME {
            return Err(fault(format!("expected the world \"{NAME}\", got {name}")));
        }
        let world: Self = serde_json::from_value(dials).map_err(|e| fault(e.to_string()))?;
        world.validate().map_err(|e| fault(e.to_string()))?;
        Ok(world)
    }

    /// The probability that a further sentence follows, 1 − 1/sentences.
    fn more(&self) -> f64 {
        1.0 - 1.0 / self.sentences
    }

    /// The question that a prompt is.
    ///
    /// # Errors
    /// A text that is no question of this world.
    pub fn question(&self, prompt: &str, row: usize) -> Result<Question, Error> {
        Question::parse(prompt).ok_or_else(|| Error::Sample {
            row,
            why: format!("the prompt {prompt:?} is no question of the world, as in \"{}\"", Question::all()[0]),
        })
    }

    /// q(x, y).
    pub fn quality(&self, question: &Question, answer: &str) -> f64 {
        self.quality.of(&question.counts(answer))
    }

    /// ln μ(y|x) of an answer under the distribution of the supervised texts, if it can be drawn from it.
    pub fn log_reference(&self, question: &Question, answer: &str) -> Option<f64> {
        generator::log_probability(question, answer, self.more())
    }

    /// What labels come from, q + c n.
    fn labelled(&self, question: &Question, answer: &str) -> f64 {
        self.quality(question, answer) + self.length_bias * tokens(answer) as f64
    }

    fn rng(&self, what: &str) -> StdRng {
        StdRng::seed_from_u64(xxh3_64_with_seed(what.as_bytes(), self.seed))
    }

    /// The questions to train on, and those kept apart.
    pub fn questions(&self) -> (Vec<Question>, Vec<Question>) {
        let mut all = Question::all();
        all.shuffle(&mut self.rng("questions"));
        let apart = all.split_off(all.len() - self.prompts);
        (all, apart)
    }

    /// The files of the world but for the model, with their names in the folder:
    ///
    /// - `sft.jsonl`: `prompt`, `completion`, drawn from μ;
    /// - `pairs.jsonl`: `prompt`, `chosen`, `rejected`, `chosen_score`, `rejected_score`: two answers drawn from μ that
    ///   differ, labelled from q + c n; the scores are q;
    /// - `prompts.jsonl`: `prompt`, `chosen`, `chosen_score`: a question kept apart with the best of four answers;
    /// - `world.json`: the dials.
    pub fn files(&self) -> [(&'static str, String); 4] {
        let (train, apart) = self.questions();
        let more = self.more();
        let lines = |rows: Vec<Value>| rows.iter().map(|row| format!("{row}\n")).collect::<String>();

        let mut rng = self.rng("sft");
        let sft = train
            .iter()
            .cycle()
            .take(self.sft)
            .map(|q| json!({"prompt": q.to_string(), "completion": generator::answer(&mut rng, q, more)}));
        let sft = lines(sft.collect());

        let (mut rng, labels) = (self.rng("pairs"), Labels { noise: self.label_noise, seed: self.seed });
        let pairs = train.iter().cycle().take(self.pairs).map(|q| {
            let prompt = q.to_string();
            let a = generator::answer(&mut rng, q, more);
            let b = loop {
                let b = generator::answer(&mut rng, q, more);
                if b != a {
                    break b;
                }
            };
            let of = |y: &str| self.labelled(q, y);
            let (chosen, rejected) = match labels.prefers(&prompt, (&a, of(&a)), (&b, of(&b))) {
                true => (a, b),
                false => (b, a),
            };
            let scores = [&chosen, &rejected].map(|y| self.quality(q, y));
            json!({"prompt": prompt, "chosen": chosen, "rejected": rejected, "chosen_score": scores[0],
                "rejected_score": scores[1]})
        });
        let pairs = lines(pairs.collect());

        let mut rng = self.rng("prompts");
        let prompts = apart.iter().map(|q| {
            let answers = (0..4).map(|_| generator::answer(&mut rng, q, more));
            let scored = answers.map(|y| (self.quality(q, &y), y));
            // The first of equals.
            let best = scored.reduce(|best, next| if next.0 > best.0 { next } else { best });
            let (score, chosen) = best.expect("four of them");
            json!({"prompt": q.to_string(), "chosen": chosen, "chosen_score": score})
        });
        let prompts = lines(prompts.collect());

        let mut dials = json!({ "world": NAME });
        let Ok(Value::Object(own)) = serde_json::to_value(self) else { unreachable!("dials are a table") };
        dials.as_object_mut().expect("a table").extend(own);
        let dials = format!("{dials:#}\n");
        [("sft.jsonl", sft), ("pairs.jsonl", pairs), ("prompts.jsonl", prompts), (FILE, dials)]
    }

    /// The held-out questions with all their answers, in classes: the best policy and where each β leads.
    pub fn exact(&self) -> Exact {
        let mut kinds: BTreeMap<usize, f64> = BTreeMap::new();
        for question in self.questions().1 {
            *kinds.entry(question.asked().len()).or_default() += 1.0;
        }
        let kind = |(asked, share): (usize, f64)| self.enumerated(asked, share);
        Exact::new(kinds.into_iter().map(kind).collect()).expect("there are prompts, each with answers")
    }

    /// The answers to questions that ask for so many properties, in classes of one length and quality.
    fn enumerated(&self, asked: usize, share: f64) -> Enumerated {
        let mut classes: BTreeMap<(usize, u64), f64> = BTreeMap::new();
        for ((n, counts), probability) in generator::classes(asked, self.more()) {
            // Equal up to rounding: q in steps of 1e-9, and never −0.
            let q = (self.quality.of(&counts) * 1e9).round() / 1e9 + 0.0;
            *classes.entry((n, q.to_bits())).or_default() += probability;
        }
        let lengths = classes.keys().map(|(n, _)| *n).collect();
        let quality = classes.keys().map(|(_, q)| f64::from_bits(*q)).collect();
        let log_reference = classes.values().map(|p| p.ln()).collect();
        let world = tabular::World::new(lengths, log_reference).expect("answers have tokens and probabilities");
        Enumerated { share, world, quality }
    }

    /// What the labels express, as the logistic loss learns it: (q + c n)/noise.
    pub fn label_rewards(&self, exact: &Exact) -> Rewards {
        exact.rewards(|q, n| (q + self.length_bias * n as f64) / self.label_noise)
    }
}

/// n of an answer that ends by itself: one token a word, and the stop token.
fn tokens(answer: &str) -> usize {
    answer.split_whitespace().count() + 1
}

/// `world`: q(x, y) + c n of answers in a world that `collimate world` wrote; c is 0 unless it is given.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InWorld {
    folder: PathBuf,
    #[serde(default)]
    length_bias: f64,
    #[serde(skip)]
    world: OnceLock<World>,
}

impl Reward for InWorld {
    fn scores(&self, samples: &[Sample<'_>]) -> Result<Vec<f64>, Error> {
        let world = match self.world.get() {
            Some(world) => world,
            None => {
                let world = World::open(&self.folder)?;
                self.world.get_or_init(|| world)
            }
        };
        let score = |s: &Sample<'_>| {
            let n = if s.tokens.is_empty() { tokens(s.completion) } else { s.tokens.len() };
            Ok(world.quality(&world.question(s.prompt, s.row)?, s.completion) + self.length_bias * n as f64)
        };
        samples.iter().map(score).collect()
    }
}

#[typetag::serde(name = "world")]
impl AnyReward for InWorld {
    fn validate(&self) -> Result<(), Error> {
        match self.length_bias.is_finite() {
            true => Ok(()),
            false => Err(crate::error::parameter("world", "length_bias", "a finite number", self.length_bias)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use approx::assert_abs_diff_eq;
    use collimate_core::averaging::{AnyAveraging, Mean, Sum};

    use super::*;

    fn rows(text: &str) -> Vec<Value> {
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    fn biased(length_bias: f64) -> World {
        World { length_bias, ..World::default() }
    }

    #[test]
    fn files_follow_from_the_dials() {
        let world = World { sft: 600, pairs: 600, prompts: 60, ..World::default() };
        let [(_, sft), (_, pairs), (_, prompts), (_, dials)] = world.files();
        assert_eq!(world.files().map(|(_, text)| text), [sft.clone(), pairs.clone(), prompts.clone(), dials]);
        let other = World { seed: 43, ..world.clone() }.files();
        assert!(other[0].1 != sft && other[1].1 != pairs && other[2].1 != prompts);
        let (sft, pairs, prompts) = (rows(&sft), rows(&pairs), rows(&prompts));
        assert_eq!((sft.len(), pairs.len(), prompts.len()), (600, 600, 60));
        let texts =
            |rows: &[Value]| rows.iter().map(|r| r["prompt"].as_str().unwrap().to_owned()).collect::<HashSet<_>>();
        let apart = texts(&prompts);
        assert_eq!(apart.len(), 60);
        assert!(apart.is_disjoint(&texts(&sft)) && apart.is_disjoint(&texts(&pairs)));
        for row in &pairs {
            let question = world.question(row["prompt"].as_str().unwrap(), 1).unwrap();
            for side in ["chosen", "rejected"] {
                let text = row[side].as_str().unwrap();
                assert!(world.log_reference(&question, text).is_some(), "{text:?}");
                assert_eq!(row[format!("{side}_score")], world.quality(&question, text));
            }
            assert_ne!(row["chosen"], row["rejected"]);
        }
        let best: f64 = prompts.iter().map(|r| r["chosen_score"].as_f64().unwrap()).sum::<f64>() / 60.0;
        assert!(best > world.exact().reference().quality + 0.3, "{best}");
    }

    #[test]
    fn labels_like_the_length_that_they_are_told_to() {
        let longer = |length_bias: f64| {
            let [_, (_, pairs), _, _] = biased(length_bias).files();
            let rows = rows(&pairs);
            let n = |row: &Value, side: &str| tokens(row[side].as_str().unwrap());
            let unequal = rows.iter().filter(|r| n(r, "chosen") != n(r, "rejected")).count();
            rows.iter().filter(|r| n(r, "chosen") > n(r, "rejected")).count() as f64 / unequal as f64
        };
        let (disliked, none, liked) = (longer(-0.1), longer(0.0), longer(0.1));
        assert!(disliked < 0.35 && liked > 0.65, "{disliked} {none} {liked}");
        assert!((0.35..0.6).contains(&none), "{none}");
    }

    #[test]
    fn the_reference_is_as_long_as_it_is_told_to_be() {
        for (sentences, length) in [(1.0, 6.15), (4.0, 20.0)] {
            let world = World { sentences, ..World::default() };
            let exact = world.exact().reference().length;
            let [(_, sft), ..] = world.files();
            let rows = rows(&sft);
            let drawn: usize = rows.iter().map(|r| tokens(r["completion"].as_str().unwrap())).sum();
            let drawn = drawn as f64 / rows.len() as f64;
            // 4096 draws of a standard deviation of 14.5 tokens at most.
            assert!((drawn - exact).abs() < 5.0 * 14.5 / 64.0, "{drawn} {exact}");
            assert!((exact - length).abs() < 1.0, "{exact}");
        }
    }

    #[test]
    fn length_and_quality_pull_apart() {
        let exact = biased(0.0).exact();
        let reference = exact.reference();
        // Quality over length under μ: it rises, then falls.
        let mean_quality = |from: usize, to: usize| {
            let p = &exact.prompts()[1];
            let each = p.world.lengths().iter().zip(p.world.log_reference()).zip(&p.quality);
            let within = each.filter(|((n, _), _)| (from..to).contains(*n));
            let (mass, sum) = within.fold((0.0, 0.0), |(m, s), ((_, l), q)| (m + l.exp(), s + l.exp() * q));
            sum / mass
        };
        let (short, middle, long) = (mean_quality(5, 9), mean_quality(15, 26), mean_quality(45, 80));
        assert!(middle > short + 0.1 && long < short - 0.2, "{short} {middle} {long}");
        // Labels that like length cost quality at equal KL, and lengthen; those that dislike it shorten.
        for averaging in [&Sum {} as &dyn AnyAveraging, &Mean {}] {
            let at = |c: f64| exact.at_kl(averaging, 0.2, &exact.rewards(|q, n| q + c * n as f64)).unwrap();
            let (disliked, none, liked) = (at(-0.1), at(0.0), at(0.1));
            assert!(liked.length > reference.length + 5.0 && disliked.length < reference.length - 5.0);
            assert!(none.quality > liked.quality + 0.2 && none.quality > disliked.quality + 0.1);
            assert!(none.quality > reference.quality + 0.2);
        }
    }

    #[test]
    fn at_equal_kl_the_mean_follows_a_length_bias_less_and_pays_in_quality() {
        for c in [0.05, 0.1, -0.05, -0.1] {
            let world = biased(c);
            let exact = world.exact();
            let (reference, rewards) = (exact.reference(), world.label_rewards(&exact));
            for kl in [0.1, 0.2, 0.5] {
                let sum = exact.at_kl(&Sum {}, kl, &rewards).unwrap();
                let mean = exact.at_kl(&Mean {}, kl, &rewards).unwrap();
                let drift = |p: Point| (p.length - reference.length) * c.signum();
                assert!(drift(mean) > 0.0 && drift(mean) < drift(sum), "c {c}, KL {kl}: {sum:?} {mean:?}");
                assert!(mean.quality < sum.quality, "c {c}, KL {kl}: {sum:?} {mean:?}");
            }
        }
    }

    #[test]
    fn noise_scales_what_is_learnt() {
        let world = World { label_noise: 2.0, ..World::default() };
        let exact = world.exact();
        let noisy = exact.optimum(&Mean {}, 10.0, &world.label_rewards(&exact)).unwrap();
        let clear = exact.optimum(&Mean {}, 20.0, &biased(0.1).label_rewards(&exact)).unwrap();
        assert_abs_diff_eq!(noisy.length, clear.length, epsilon = 1e-9);
    }

    #[test]
    fn a_world_scores_from_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let world = World { quality: Quality { wrong: 0.75, ..Quality::default() }, ..World::default() };
        std::fs::write(folder.path().join(FILE), &world.files()[3].1).unwrap();
        assert_eq!(World::open(folder.path()).unwrap(), world);
        let score = |more: Value| {
            let mut table = json!({"type": "world", "folder": folder.path()});
            table.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let prompt = "what is the size and the colour of the frog ?";
            let sample = |completion| Sample { prompt, completion, tokens: &[], row: 1 };
            let samples = [sample("its size is tiny . its colour is red . </s>"), sample(" i am sure .")];
            crate::scores(&*crate::read(&table).unwrap(), &samples)
        };
        // A stop token spelled out is a sentence without an end.
        assert_eq!(score(json!({})).unwrap(), [1.0 - 2.0 * 0.75, 0.0]);
        assert_eq!(score(json!({"length_bias": 0.5})).unwrap(), [1.0 - 1.5 + 6.0, 2.5]);
    }

    #[test]
    fn another_world_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let said = |text: Option<&str>| {
            if let Some(text) = text {
                std::fs::write(folder.path().join(FILE), text).unwrap();
            }
            let reward = crate::read(&json!({"type": "world", "folder": folder.path()})).unwrap();
            let sample = Sample { prompt: "how are you ?", completion: " well", tokens: &[], row: 12 };
            reward.scores(&[sample]).unwrap_err().to_string()
        };
        assert!(said(None).contains("expected a folder of a world"));
        let other = said(Some(r#"{"world": "things-0", "seed": 1}"#));
        assert!(other.ends_with("world.json: expected the world \"things-1\", got \"things-0\""), "{other}");
        assert!(said(Some(r#"{"seed": 1}"#)).ends_with("got null"));
        assert!(said(Some(r#"{"world": "things-1", "sead": 1}"#)).contains("unknown field `sead`"));
        let low = said(Some(r#"{"world": "things-1", "sentences": 0.5}"#));
        assert!(low.ends_with("world: sentences must be 1 or more, got 0.5"), "{low}");
        let prompt = said(Some(r#"{"world": "things-1"}"#));
        assert!(prompt.starts_with("row 12: the prompt \"how are you ?\" is no question of the world"), "{prompt}");
    }

    #[test]
    fn the_words_of_the_base_are_those_of_the_world() {
        let [(_, config), (_, tokenizer), _] = base_files();
        let vocab = tokenizer["model"]["vocab"].as_object().unwrap();
        assert_eq!(config["vocab_size"], vocab.len());
        assert!(vocab.len() <= 100);
        // The longest prompt, and an answer of the most and longest sentences.
        const { assert!(1 + 18 + MOST * 7 < MAX_POSITIONS) };
    }
}
