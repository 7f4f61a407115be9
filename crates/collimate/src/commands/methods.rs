//! `collimate methods`.

use anyhow::Result;
use collimate_core::methods::{Setting, describe, vocabulary};
use comfy_table::{ContentArrangement, Table, presets::UTF8_HORIZONTAL_ONLY};
use serde_json::json;

use crate::say::print;

pub(crate) fn run(as_json: bool) -> Result<()> {
    let (methods, vocabulary) = (describe()?, vocabulary());
    let rewards = collimate_reward::names();
    if as_json {
        let all = json!({"methods": methods, "registered": vocabulary, "rewards": rewards});
        return print(&serde_json::to_string_pretty(&all)?);
    }
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic).set_header([
        "method",
        "averaging, optimality, loss",
        "formula",
        "parameters",
        "source",
    ]);
    for m in methods {
        let parameters = m.parameters.iter().map(|p| match p.default {
            Setting::Unset => p.key.to_owned(),
            default => format!("{} = {default}", p.key),
        });
        let parameters = parameters.collect::<Vec<_>>().join("\n");
        let triple = format!("{}, {}, {}", m.averaging, m.optimality, m.loss);
        table.add_row([m.name, &triple, m.formula, &parameters, m.paper]);
    }
    print(&format!(
        "{table}\n\
         a, b: ln π(y)/μ(y) of the chosen and the rejected completion; n⁺, n⁻: their lengths in tokens.\n\
         With `objective` in a configuration file, any of these go together:\n  averaging: {}\n  optimality: {}\n  loss: {}\n\
         Rewards, for `score`, `label`, `measure` and `eval_generations`: {}",
        vocabulary.averaging.join(", "),
        vocabulary.optimality.join(", "),
        vocabulary.loss.join(", "),
        rewards.join(", ")
    ))
}
