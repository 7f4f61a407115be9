//! Part of a network: which parameters are trained, by their names.

use crate::error::Error;
use crate::params::{Inventory, Spec};

/// What a pattern picked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picked {
    /// The pattern, as it was given.
    pub pattern: String,
    /// Parameters that it names.
    pub tensors: usize,
    /// Their elements.
    pub elements: usize,
}

/// Which parameters are trained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// A flag a parameter, in the order of the inventory.
    pub trained: Vec<bool>,
    /// Of each pattern of `trainable`, what it picked.
    pub trainable: Vec<Picked>,
    /// Of each pattern of `freeze`, what it picked.
    pub frozen: Vec<Picked>,
}

/// Whether `text` is what `pattern` says, where `*` stands for any characters but a dot.
fn is_like(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text
            .strip_prefix(start)
            .is_some_and(|left| (0..=left.len()).any(|n| left.is_char_boundary(n) && is_like(rest, &left[n..]))),
    }
}

/// Whether a pattern names a parameter: whether its parts, between dots, are some of the name's that stand together.
fn names(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), name.split('.').collect());
    name.windows(pattern.len()).any(|w| w.iter().zip(&pattern).all(|(part, p)| is_like(p, part)))
}

impl Selection {
    /// What `trainable` names (all where it is empty), without what `freeze` names.
    ///
    /// # Errors
    /// A pattern that names nothing, or a choice that leaves nothing to train.
    pub fn new(inventory: &Inventory, trainable: &[String], freeze: &[String]) -> Result<Self, Error> {
        let pick = |key: &str, pattern: &String| {
            let picked: Vec<&Spec> = inventory.specs.iter().filter(|s| names(pattern, &s.name)).collect();
            if picked.is_empty() {
                let tied = pattern.contains("lm_head") && !inventory.specs.iter().any(|s| s.name.contains("lm_head"));
                let hint = if tied { "; the head is the embedding here (tie_word_embeddings)" } else { "" };
                let first = inventory.specs.iter().map(|s| s.name.as_str()).take(8).collect::<Vec<_>>().join(", ");
                return Err(Error::Part(format!(
                    "{key}: \"{pattern}\" names no parameter{hint}; expected parts of names between dots, with * for any \
                     characters, such as \"norm\", \"layers.0\" or \"*_proj\". The parameters are {first}, …"
                )));
            }
            let elements = picked.iter().map(|s| s.len()).sum();
            Ok(Picked { pattern: pattern.clone(), tensors: picked.len(), elements })
        };
        let picked = |key: &str, all: &[String]| all.iter().map(|p| pick(key, p)).collect::<Result<Vec<_>, _>>();
        let of = |all: &[String], s: &Spec| all.iter().any(|p| names(p, &s.name));
        let trained =
            inventory.specs.iter().map(|s| (trainable.is_empty() || of(trainable, s)) && !of(freeze, s)).collect();
        let new = Self { trained, trainable: picked("trainable", trainable)?, frozen: picked("freeze", freeze)? };
        if !new.trained.contains(&true) {
            return Err(Error::Part("freeze: nothing is left to train".into()));
        }
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::Role;

    fn inventory() -> Inventory {
        let mut inventory = Inventory::default();
        for (i, name) in
            ["model.embed_tokens", "model.layers.1.q_proj", "model.layers.11.input_layernorm", "model.norm"]
                .into_iter()
                .enumerate()
        {
            inventory.add(format!("{name}.weight"), &[2, i + 1], Role::Weight);
        }
        inventory
    }

    #[test]
    fn patterns_name_parts_between_dots() {
        let trained = |trainable: &[&str], freeze: &[&str]| {
            let own = |all: &[&str]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
            Selection::new(&inventory(), &own(trainable), &own(freeze))
        };
        assert_eq!(trained(&["norm"], &[]).unwrap().trained, [false, false, false, true]);
        assert_eq!(trained(&["*norm"], &[]).unwrap().trained, [false, false, true, true]);
        assert_eq!(trained(&["layers.1"], &[]).unwrap().trained, [false, true, false, false]);
        assert_eq!(trained(&["layers.1*"], &[]).unwrap().trained, [false, true, true, false]);
        assert_eq!(trained(&[], &["embed_tokens", "model.norm.weight"]).unwrap().trained, [false, true, true, false]);
        let one = trained(&["layers"], &["q_proj"]).unwrap();
        assert_eq!(
            (one.trained, one.trainable[0].elements, one.frozen[0].tensors),
            (vec![false, false, true, false], 10, 1)
        );
        let said = trained(&["norm", "mlp"], &[]).unwrap_err().to_string();
        assert!(said.starts_with("trainable: \"mlp\" names no parameter"), "{said}");
        let said = trained(&["lm_head"], &[]).unwrap_err().to_string();
        assert!(said.contains("the head is the embedding here"), "{said}");
        assert!(trained(&["norm"], &["model"]).unwrap_err().to_string().contains("nothing is left"));
    }
}
