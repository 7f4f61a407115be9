//! `collimate backends`.

use anyhow::Result;
use burn::tensor::{DType, Device};
use collimate_backend::kernels::Kernels;
use collimate_backend::{Backend, Capabilities};
use collimate_model::Precision;
use comfy_table::{ContentArrangement, Table, presets::UTF8_HORIZONTAL_ONLY};
use serde_json::{Map, Value, json};

use crate::say::print;

/// Columns of a table whose cells are sentences: those of the terminal, or what a page takes where there is none.
fn columns() -> u16 {
    console::Term::stdout().size_checked().map_or(100, |(_, columns)| columns.max(60))
}

/// The first device, where there is one.
fn first(b: &Backend) -> Option<Device> {
    (b.devices)().is_ok_and(|d| !d.is_empty()).then(|| (b.open)(0))
}

/// What the first device can do, where there is one: data types differ between cards. Else what the plug-in declares.
fn capabilities(b: &Backend) -> Capabilities {
    let Some(device) = first(b) else { return b.capabilities };
    Capabilities {
        kernels: Kernels::on(&device).any(),
        f64: device.supports_dtype(DType::F64),
        bf16: Precision::Bf16.supported_by(&device),
        f16: Precision::F16.supported_by(&device),
        ..b.capabilities
    }
}

/// The vectors that hand-made kernels run on, on the first device, where there are such kernels.
fn vectors(b: &Backend) -> Option<&'static str> {
    first(b).and_then(|device| Kernels::on(&device).vectors)
}

/// What multiplies bf16 faster than f32 on the first device, where there is such a unit.
fn half_unit(b: &Backend) -> Option<&'static str> {
    first(b).and_then(|device| Kernels::on(&device).linear.half_unit())
}

pub(crate) fn run(with_capabilities: bool, as_json: bool) -> Result<()> {
    let preferred = Backend::preferred().map(|b| b.name);
    if as_json {
        let all: Vec<_> = Backend::all()
            .into_iter()
            .map(|b| {
                let devices = (b.devices)();
                let names = devices
                    .as_ref()
                    .map(|d| d.iter().map(|f| json!({"name": f.name, "about": f.about})).collect::<Vec<_>>());
                let able: Map<_, _> =
                    capabilities(b).each().into_iter().map(|(what, has)| (what.to_owned(), Value::Bool(has))).collect();
                json!({
                    "name": b.name,
                    "about": b.about,
                    "default": Some(b.name) == preferred,
                    "devices": names.clone().unwrap_or_default(),
                    "unusable": devices.err(),
                    "capabilities": able,
                    "bf16_unit": half_unit(b),
                    "vectors": vectors(b),
                })
            })
            .collect();
        return print(&serde_json::to_string_pretty(&all)?);
    }
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    if with_capabilities {
        for b in Backend::all() {
            let (able, unit, vectors) = (capabilities(b).each(), half_unit(b), vectors(b));
            table.set_header(["backend"].into_iter().chain(able.map(|(what, _)| what)));
            let cell = |(what, has): (&str, bool)| match (what, unit, vectors) {
                ("bf16", Some(unit), _) if has => format!("yes, by {unit}"),
                ("hand-made kernels", _, Some(vectors)) if has => format!("yes, {vectors}"),
                _ => (if has { "yes" } else { "no" }).to_owned(),
            };
            table.add_row([b.name.to_owned()].into_iter().chain(able.map(cell)));
        }
        return print(&table.to_string());
    }
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(columns());
    table.set_header(["backend", "what it is", "here"]);
    for b in Backend::all() {
        let here = match (b.devices)() {
            Ok(found) => found.iter().map(|f| format!("{}: {}", f.name, f.about)).collect::<Vec<_>>().join("\n"),
            Err(why) => format!("not usable: {why}"),
        };
        let name = if Some(b.name) == preferred { format!("{} (default)", b.name) } else { b.name.to_owned() };
        table.add_row([name, b.about.to_owned(), here]);
    }
    print(&table.to_string())
}
