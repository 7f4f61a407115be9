//! The language of the world: what can be asked, what can be said, and what is true.

use std::fmt;

use super::quality::Counts;

/// What is known of each thing: one value for each of [`PROPERTIES`].
const THINGS: [(&str, [&str; 4]); 16] = [
    ("lemon", ["yellow", "small", "tree", "fruit"]),
    ("cherry", ["red", "tiny", "tree", "fruit"]),
    ("pear", ["green", "small", "tree", "fruit"]),
    ("melon", ["green", "big", "farm", "fruit"]),
    ("rose", ["red", "small", "garden", "flower"]),
    ("daisy", ["white", "tiny", "garden", "flower"]),
    ("lotus", ["white", "big", "water", "flower"]),
    ("crow", ["black", "small", "forest", "bird"]),
    ("swan", ["white", "big", "water", "bird"]),
    ("canary", ["yellow", "tiny", "house", "bird"]),
    ("frog", ["green", "tiny", "water", "animal"]),
    ("whale", ["black", "huge", "water", "animal"]),
    ("bear", ["brown", "huge", "forest", "animal"]),
    ("horse", ["brown", "big", "farm", "animal"]),
    ("ant", ["black", "tiny", "garden", "insect"]),
    ("bee", ["yellow", "tiny", "garden", "insect"]),
];

/// The properties that can be asked for, each with the values that things have.
const PROPERTIES: [(&str, &[&str]); 4] = [
    ("colour", &["yellow", "red", "green", "white", "black", "brown"]),
    ("size", &["tiny", "small", "big", "huge"]),
    ("home", &["tree", "farm", "garden", "water", "forest", "house"]),
    ("kind", &["fruit", "flower", "bird", "animal", "insect"]),
];

/// Sentences that say nothing, of 4 to 7 words.
pub(super) const FILLERS: [&str; 4] =
    ["i am sure .", "many people ask that .", "it is good to know .", "there is more to say here ."];

/// Words of a statement, "its colour is red .".
pub(super) const STATEMENT_WORDS: usize = 5;
/// A question asks for so many properties.
pub(super) const ASKED: std::ops::RangeInclusive<usize> = 2..=3;

/// A question: a thing, and the properties that are asked for, in the order of the question.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    thing: usize,
    asked: Vec<usize>,
}

/// A property by its place, and the place of one of its values.
pub(super) type Statement = (usize, usize);

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let asked: Vec<_> = self.asked.iter().map(|p| format!("the {}", PROPERTIES[*p].0)).collect();
        write!(f, "what is {} of the {} ?", asked.join(" and "), THINGS[self.thing].0)
    }
}

/// A statement as it is said.
pub(super) fn say((property, value): Statement) -> String {
    let (name, values) = PROPERTIES[property];
    format!("its {name} is {} .", values[value])
}

fn property(name: &str) -> Option<usize> {
    PROPERTIES.iter().position(|(p, _)| *p == name)
}

fn statement(words: &[&str]) -> Option<Statement> {
    let ["its", name, "is", value] = *words else { return None };
    let property = property(name)?;
    let value = PROPERTIES[property].1.iter().position(|v| *v == value)?;
    Some((property, value))
}

impl Question {
    /// Every question there is: each thing, each order of two or three of the four properties.
    pub fn all() -> Vec<Self> {
        let orders = |n: usize| {
            let mut orders = vec![Vec::new()];
            for _ in 0..n {
                orders = orders
                    .iter()
                    .flat_map(|o: &Vec<usize>| {
                        let others = (0..PROPERTIES.len()).filter(|p| !o.contains(p));
                        others.map(|p| [o.as_slice(), &[p]].concat()).collect::<Vec<_>>()
                    })
                    .collect();
            }
            orders
        };
        let orders: Vec<_> = ASKED.flat_map(orders).collect();
        let of = |thing| orders.iter().map(move |asked| Self { thing, asked: asked.clone() });
        (0..THINGS.len()).flat_map(of).collect()
    }

    /// The question that a text is, whatever space is around its words.
    pub fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let ["what", "is", asked @ .., "of", "the", thing, "?"] = words.as_slice() else { return None };
        let thing = THINGS.iter().position(|(t, _)| t == thing)?;
        let asked = asked
            .split(|w| *w == "and")
            .map(|words| match words {
                ["the", name] => property(name),
                _ => None,
            })
            .collect::<Option<Vec<_>>>()?;
        let distinct = asked.iter().enumerate().all(|(i, p)| !asked[..i].contains(p));
        (distinct && ASKED.contains(&asked.len())).then_some(Self { thing, asked })
    }

    /// The properties asked for.
    pub(super) fn asked(&self) -> &[usize] {
        &self.asked
    }

    /// The properties that aren't.
    pub(super) fn unasked(&self) -> Vec<usize> {
        (0..PROPERTIES.len()).filter(|p| !self.asked.contains(p)).collect()
    }

    /// What is true of the thing.
    pub(super) fn truth(&self, property: usize) -> Statement {
        let fact = THINGS[self.thing].1[property];
        let value = PROPERTIES[property].1.iter().position(|v| *v == fact);
        (property, value.expect("every fact is a value"))
    }

    /// What is false of it.
    pub(super) fn falsehoods(&self, property: usize) -> Vec<Statement> {
        let truth = self.truth(property);
        (0..PROPERTIES[property].1.len()).map(|v| (property, v)).filter(|s| *s != truth).collect()
    }

    /// The whole answer and nothing else: the best there is.
    pub fn best_answer(&self) -> String {
        self.asked.iter().map(|p| format!(" {}", say(self.truth(*p)))).collect()
    }

    /// What a text says in answer to the question. Sentences end in " ."; any text has counts.
    pub fn counts(&self, answer: &str) -> Counts {
        let words: Vec<&str> = answer.split_whitespace().collect();
        let mut counts = Counts::default();
        let mut said = [false; PROPERTIES.len()];
        let sentences = words.split(|w| *w == ".");
        // Behind the last full stop is nothing, or a sentence without an end.
        let ended = words.iter().filter(|w| **w == ".").count();
        for (i, sentence) in sentences.enumerate() {
            if i == ended {
                counts.wrong += usize::from(!sentence.is_empty());
                continue;
            }
            match statement(sentence) {
                Some(s) if s != self.truth(s.0) => counts.wrong += 1,
                Some((p, _)) if !self.asked.contains(&p) => counts.off_topic += 1,
                Some((p, _)) if said[p] => counts.padding += 1,
                Some((p, _)) => {
                    said[p] = true;
                    counts.right += 1;
                }
                None if is_filler(sentence) => counts.padding += 1,
                None => counts.wrong += 1,
            }
        }
        counts
    }
}

fn is_filler(words: &[&str]) -> bool {
    FILLERS.iter().any(|f| f.split(' ').take_while(|w| *w != ".").eq(words.iter().copied()))
}

/// Every word of the world, each once: those of questions, statements and fillers.
pub fn words() -> Vec<&'static str> {
    let mut words = vec!["what", "is", "the", "and", "of", "?", "its", "."];
    words.extend(THINGS.iter().map(|(thing, _)| *thing));
    for (name, values) in PROPERTIES {
        words.push(name);
        words.extend(values);
    }
    for word in FILLERS.iter().flat_map(|f| f.split(' ')) {
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_question_is_read_as_it_is_written() {
        let all = Question::all();
        // 16 things, 4 · 3 orders of two and 4 · 3 · 2 of three.
        assert_eq!(all.len(), 16 * (12 + 24));
        let texts: HashSet<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), all.len());
        for q in &all {
            assert_eq!(Question::parse(&q.to_string()).as_ref(), Some(q));
        }
        for no in [
            "",
            "what is the colour of the lemon ?",
            "what is the colour and the colour of the lemon ?",
            "what is the colour and the size of the moon ?",
            "what is the colour and size of the lemon ?",
            "what is the colour and the size of the lemon",
        ] {
            assert_eq!(Question::parse(no), None, "{no:?}");
        }
    }

    #[test]
    fn words_are_few_and_of_the_world() {
        let words = words();
        assert!(words.len() < 97, "{}", words.len());
        assert_eq!(words.iter().collect::<HashSet<_>>().len(), words.len());
        let texts = Question::all().into_iter().flat_map(|q| [q.to_string(), q.best_answer()]);
        for text in texts.chain(FILLERS.map(String::from)) {
            assert!(text.split_whitespace().all(|w| words.contains(&w)), "{text}");
        }
    }

    #[test]
    fn an_answer_is_counted_sentence_by_sentence() {
        let q = Question::parse("what is the size and the colour of the frog ?").unwrap();
        let counts = |right, wrong, off_topic, padding| Counts { right, wrong, off_topic, padding };
        assert_eq!(q.best_answer(), " its size is tiny . its colour is green .");
        for (answer, expected) in [
            (q.best_answer().as_str(), counts(2, 0, 0, 0)),
            ("", counts(0, 0, 0, 0)),
            ("its colour is green . its colour is green .", counts(1, 0, 0, 1)),
            (" its colour is red . its home is water . i am sure .", counts(0, 1, 1, 1)),
            ("its home is tree . its size is tiny", counts(0, 2, 0, 0)),
            ("its size is green . frog . .", counts(0, 3, 0, 0)),
            ("its colour is green . its colour is black .", counts(1, 1, 0, 0)),
        ] {
            assert_eq!(q.counts(answer), expected, "{answer:?}");
        }
    }
}
