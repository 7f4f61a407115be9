//! A reward from outside: texts of a wanted number of words.
//!
//! ```sh
//! cargo run --release --example reward
//! ```

use collimate::reward::{AnyReward, Error, Reward, Sample, names, read, scores};
use serde::{Deserialize, Serialize};
use serde_json::json;

// ANCHOR: reward
/// −|number of words − `wanted`|.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Words {
    /// The number of words that is best, 1 or more.
    pub wanted: usize,
}

impl Reward for Words {
    fn scores(&self, samples: &[Sample<'_>]) -> Result<Vec<f64>, Error> {
        let off = |s: &Sample<'_>| s.completion.split_whitespace().count().abs_diff(self.wanted);
        Ok(samples.iter().map(|s| 0.0 - off(s) as f64).collect())
    }
}

#[typetag::serde(name = "words")]
impl AnyReward for Words {
    fn validate(&self) -> Result<(), Error> {
        match self.wanted {
            0 => Err(Error::Configuration("reward.wanted (of \"words\"): must be 1 or more, got 0".into())),
            _ => Ok(()),
        }
    }
}
// ANCHOR_END: reward

fn main() -> Result<(), Error> {
    // By its name, as `--reward` and `reward = { type = "words", wanted = 3 }` find it.
    assert!(names().contains(&"words"));
    let reward = read(&json!({"type": "words", "wanted": 3}))?;
    let sample = |completion| Sample { prompt: "Say three words.", completion, tokens: &[], row: 1 };
    let found = scores(&*reward, &[sample("one two three"), sample("one"), sample("")])?;
    println!("{found:?}");
    assert_eq!(found, [0.0, -2.0, -3.0]);
    // Parameters are checked as those of every reward.
    let said = |table| read(&table).unwrap_err().to_string();
    assert_eq!(said(json!({"type": "words", "wanted": 0})), "reward.wanted (of \"words\"): must be 1 or more, got 0");
    assert!(said(json!({"type": "words"})).contains("missing field `wanted`"));
    assert!(said(json!({"type": "words", "wanted": 3, "most": 4})).contains("unknown field `most`"));
    Ok(())
}

#[test]
fn it_scores_by_its_name() {
    main().unwrap();
}
