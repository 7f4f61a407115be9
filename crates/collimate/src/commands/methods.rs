//! `collimate methods`.

use anyhow::Result;
use collimate_core::averaging::AnyAveraging;
use collimate_core::loss::AnyLoss;
use collimate_core::objective::Method;
use collimate_core::optimality::AnyOptimality;
use collimate_core::registry::names;
use comfy_table::{ContentArrangement, Table, presets::UTF8_HORIZONTAL_ONLY};
use serde_json::json;

pub(crate) fn run(as_json: bool) -> Result<()> {
    let parts = [
        ("averaging", names::<Box<dyn AnyAveraging>>()),
        ("optimality", names::<Box<dyn AnyOptimality>>()),
        ("loss", names::<Box<dyn AnyLoss>>()),
    ];
    if as_json {
        let methods: Vec<_> = Method::all()
            .iter()
            .map(|m| {
                let parameters: Vec<_> =
                    m.parameters.iter().map(|p| json!({"key": p.key, "default": p.default, "about": p.about})).collect();
                json!({
                    "name": m.name, "about": m.about, "formula": m.formula, "paper": m.paper,
                    "averaging": m.triple.0, "optimality": m.triple.1, "loss": m.triple.2, "parameters": parameters,
                })
            })
            .collect();
        let parts: serde_json::Map<_, _> = parts.into_iter().map(|(k, v)| (k.to_owned(), json!(v))).collect();
        println!("{}", serde_json::to_string_pretty(&json!({"methods": methods, "registered": parts}))?);
        return Ok(());
    }
    let mut table = Table::new();
    table
        .load_style(UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(["method", "averaging", "optimality", "loss", "formula", "parameters", "source"]);
    for m in Method::all() {
        let parameters = m.parameters.iter().map(|p| format!("{} = {}", p.key, p.default)).collect::<Vec<_>>().join("\n");
        table.add_row([m.name, m.triple.0, m.triple.1, m.triple.2, m.formula, &parameters, m.paper]);
    }
    println!("{table}");
    println!("a, b: ln π(y)/μ(y) of the chosen and the rejected completion; n⁺, n⁻: their lengths in tokens");
    for (kind, names) in parts {
        println!("{kind}: {}", names.join(", "));
    }
    Ok(())
}
