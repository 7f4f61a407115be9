//! `collimate backends`.

use anyhow::Result;
use collimate_backend::Backend;
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use serde_json::json;

pub(crate) fn run(as_json: bool) -> Result<()> {
    let preferred = Backend::preferred().map(|b| b.name);
    if as_json {
        let all: Vec<_> = Backend::all()
            .into_iter()
            .map(|b| {
                let devices = (b.devices)();
                let names = devices
                    .as_ref()
                    .map(|d| d.iter().map(|f| json!({"name": f.name, "about": f.about})).collect::<Vec<_>>());
                json!({
                    "name": b.name,
                    "about": b.about,
                    "default": Some(b.name) == preferred,
                    "devices": names.clone().unwrap_or_default(),
                    "unusable": devices.err(),
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_header(["backend", "what it is", "here"]);
    for b in Backend::all() {
        let here = match (b.devices)() {
            Ok(found) => found.iter().map(|f| format!("{}: {}", f.name, f.about)).collect::<Vec<_>>().join("\n"),
            Err(why) => format!("not usable: {why}"),
        };
        let name = if Some(b.name) == preferred { format!("{} (default)", b.name) } else { b.name.to_owned() };
        table.add_row([name, b.about.to_owned(), here]);
    }
    println!("{table}");
    Ok(())
}
