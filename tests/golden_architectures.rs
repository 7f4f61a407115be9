//! What transformers and TRL compute for every model type beyond those of golden_forward: logits, greedy tokens with and
//! without a cache, and four steps of DPO, of the whole model and of PEFT's adapters; on every backend. And that a step's memory is as predicted, and that a saved
//! folder has the names and shapes that were read. docs/src/architectures.md has the table of what was measured.

#[path = "common/forward.rs"]
mod forward;
#[path = "common/golden.rs"]
mod golden;

use std::alloc::{GlobalAlloc, Layout as Bytes, System};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex};

use burn::tensor::Device;
use collimate::core::trl;
use collimate::data::{Options as DataOptions, Source, Tokenizer};
use collimate::model::{Checkpoint, Decoder, Layout, Load, Options, Row, Scores, Text, model_types};
use collimate::train::{Event, Part, Preference, Settings, Trainer};
use forward::Case;
use libtest_mimic::{Arguments, Failed};
use safetensors::Dtype;
use safetensors::tensor::{SafeTensors, TensorView};
use serde_json::{Map, Value};

/// The bytes that are held, and the most that were.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Bytes) -> *mut u8 {
        MOST.fetch_max(HELD.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: as the caller says.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Bytes) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller says.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A file of tests/fixtures/architectures.
struct Golden {
    case: Case,
    model_type: String,
    curve: Option<Value>,
    lora: Option<Value>,
}

impl Golden {
    fn read(path: &Path) -> Self {
        let all = json(path);
        let model_type = all["config"]["model_type"].as_str().unwrap().to_owned();
        Self { case: Case::read(path), model_type, curve: all.get("curve").cloned(), lora: all.get("lora").cloned() }
    }
}

/// The texts of the reference, and the tokenizer.
struct Texts {
    file: tempfile::NamedTempFile,
    tokenizer: Tokenizer,
}

impl Texts {
    fn read() -> Self {
        let golden = json(&golden::fixture("golden-trl/shared_trl_dpo_stories260k.json"));
        let mut file = tempfile::Builder::new().suffix(".jsonl").tempfile().unwrap();
        for example in golden["examples"].as_array().unwrap() {
            writeln!(file, "{}", example["text"]).unwrap();
        }
        Self { file, tokenizer: Tokenizer::from_folder(&golden::fixture("stories260k-hf")).unwrap() }
    }

    fn data(&self) -> collimate::data::Dataset {
        let sources = [Source::from(self.file.path())];
        collimate::data::load(&sources, &self.tokenizer, &DataOptions::default()).unwrap().0
    }
}

/// How far the losses of a run of the whole model are off, relative to them.
fn curve(curve: &Value, texts: &Texts, device: &Device) -> Result<f64, Failed> {
    let folder = tempfile::tempdir()?;
    golden::seeded_checkpoint(folder.path(), &curve["config"], &curve["shapes"]);
    replay(&Checkpoint::open(folder.path())?, curve, &curve["loss"], texts, device)
}

/// The same of adapters, beside the linear maps that PEFT takes; their weights are those that the
/// fixtures' maker gives them.
fn lora(curve: &Value, lora: &Value, texts: &Texts, device: &Device) -> Result<f64, Failed> {
    let (base, folder) = (tempfile::tempdir()?, tempfile::tempdir()?);
    golden::seeded_checkpoint(base.path(), &curve["config"], &curve["shapes"]);
    let config = serde_json::json!({"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8,
        "lora_dropout": 0.0, "target_modules": lora["target_modules"]});
    std::fs::write(folder.path().join("adapter_config.json"), config.to_string())?;
    let specs = Checkpoint::open(base.path())?.config.inventory.specs;
    let mut tensors = Vec::new();
    for module in lora["modules"].as_array().unwrap() {
        let module = module.as_str().unwrap();
        let spec = specs.iter().find(|s| s.name == format!("{module}.weight")).ok_or(format!("{module} is no map"))?;
        let [out, inp] = spec.dims();
        for (part, shape, by) in [("lora_A", [4, inp], 0.2), ("lora_B", [out, 4], 0.0)] {
            let name = format!("base_model.model.{module}.{part}.weight");
            let values = golden::seeded(&name, shape[0] * shape[1]).map(|v| v * by);
            let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
            tensors.push((name, shape, bytes));
        }
    }
    let views = tensors.iter().map(|(n, s, b)| (n, TensorView::new(Dtype::F32, s.to_vec(), b).unwrap()));
    std::fs::write(folder.path().join("adapter_model.safetensors"), safetensors::serialize(views, None)?)?;
    replay(&Checkpoint::open_with(folder.path(), Some(base.path()))?, lora, &curve["loss"], texts, device)
}

fn replay(checkpoint: &Checkpoint, curve: &Value, loss: &Value, texts: &Texts, device: &Device) -> Result<f64, Failed> {
    let policy = Decoder::load(checkpoint, device)?;
    let settings: Settings = serde_json::from_value(curve["settings"].clone())?;
    let settings = Settings { logging_steps: 1, shuffle: false, ..settings };
    let objective = trl::objective(loss.as_object().unwrap())?;
    let train = Part::whole(texts.data());
    let mut trainer = Trainer::<Preference>::new(policy, objective, settings, train, None)?;
    let mut lines: Vec<Map<String, Value>> = Vec::new();
    trainer.run(&mut |event| {
        if let Event::Metrics(line) = event {
            lines.push(line.clone());
        }
        Ok(())
    })?;
    let steps = curve["steps"].as_array().unwrap();
    assert_eq!(lines.len(), steps.len());
    let mut worst: f64 = 0.0;
    for (got, expected) in lines.iter().zip(steps) {
        let logged = [("loss", 1e-4), ("grad_norm", 1e-3), ("logps/chosen", 1e-4), ("logps/rejected", 1e-4)];
        // Where there are experts.
        let balance = expected.get("aux_loss").map(|_| ("aux_loss", 1e-4));
        assert_eq!(got.contains_key("aux_loss"), balance.is_some());
        for (key, tolerance) in logged.into_iter().chain(balance) {
            let (g, e) = (got[key].as_f64().unwrap(), expected[key].as_f64().unwrap());
            let off = ((g - e) / e).abs();
            if off.is_nan() || off > tolerance {
                return Err(format!("step {}: {key} {g} is not {e}", expected["step"]).into());
            }
            worst = if key == "loss" { worst.max(off) } else { worst };
        }
    }
    Ok(worst)
}

/// A checkpoint is saved under the names and in the shapes that transformers gave it, with the same values.
fn saved(folder: &Path, device: &Device) -> Result<(), Failed> {
    let checkpoint = Checkpoint::open(folder)?;
    let out = tempfile::tempdir()?;
    checkpoint.save(&checkpoint.load(device)?, out.path())?;
    let bytes = [folder, out.path()].map(|f| std::fs::read(f.join("model.safetensors")).unwrap());
    let [read, written] = bytes.each_ref().map(|b| {
        let file = SafeTensors::deserialize(b).unwrap();
        let all = file.tensors().into_iter().map(|(name, t)| (name, (t.shape().to_vec(), t.data().to_vec())));
        all.collect::<BTreeMap<_, _>>()
    });
    assert!(read == written, "{:?} is not {:?}", written.keys(), read.keys());
    Ok(())
}

/// A stack of experts of another height is refused, were there as many numbers in it.
fn another_height(folder: &Path, device: &Device) -> Result<(), Failed> {
    let other = tempfile::tempdir()?;
    std::fs::copy(folder.join("config.json"), other.path().join("config.json"))?;
    let bytes = std::fs::read(folder.join("model.safetensors"))?;
    let file = SafeTensors::deserialize(&bytes)?;
    let tensors = file.tensors().into_iter().map(|(name, t)| {
        let mut shape = t.shape().to_vec();
        if let [of, rows, _] = &mut shape[..] {
            (*of, *rows) = (*of * 2, *rows / 2);
        }
        (name, TensorView::new(t.dtype(), shape, t.data()).unwrap())
    });
    std::fs::write(other.path().join("model.safetensors"), safetensors::serialize(tensors, None)?)?;
    let said = Checkpoint::open(other.path())?.load(device).unwrap_err().to_string();
    assert!(
        said.contains("input_linear.weight") && said.contains("expects shape [4, 48, 32], the file has [8, 24"),
        "{said}"
    );
    Ok(())
}

/// The text part of a vision-language model, in the names of both generations, is the text model, and is saved as one.
fn text_part(text: &Path, device: &Device) -> Result<(), Failed> {
    let config = json(&text.join("config.json"));
    let bytes = std::fs::read(text.join("model.safetensors"))?;
    let file = SafeTensors::deserialize(&bytes)?;
    for (from, to, vision) in [
        ("model.", "language_model.model.", "vision_tower.patch.weight"),
        ("model.", "model.language_model.", "model.vision_tower.patch.weight"),
    ] {
        let folder = tempfile::tempdir()?;
        let whole = serde_json::json!({"model_type": "gemma3", "text_config": config, "vision_config": {"depth": 1}});
        std::fs::write(folder.path().join("config.json"), whole.to_string())?;
        let mut tensors: Vec<_> = file.tensors().into_iter().map(|(n, t)| (n.replacen(from, to, 1), t)).collect();
        tensors.push((vision.into(), file.tensors()[0].1.clone()));
        std::fs::write(folder.path().join("model.safetensors"), safetensors::serialize(tensors, None)?)?;
        let checkpoint = Checkpoint::open(folder.path())?;
        assert_eq!(checkpoint.config.text_of.as_deref(), Some("gemma3"));
        let out = tempfile::tempdir()?;
        checkpoint.save(&checkpoint.load(device)?, out.path())?;
        let saved = std::fs::read(out.path().join("model.safetensors"))?;
        let saved = SafeTensors::deserialize(&saved)?;
        assert_eq!(saved.names().len(), file.names().len());
        for (name, t) in file.tensors() {
            assert_eq!(saved.tensor(&name)?.data(), t.data(), "{name}");
        }
        assert_eq!(json(&out.path().join("config.json"))["model_type"], "gemma3_text");
    }
    Ok(())
}

/// What a step held beyond the model, over what was predicted.
fn memory(curve: &Value, device: &Device) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    golden::seeded_checkpoint(folder.path(), &curve["config"], &curve["shapes"]);
    let d = Decoder::load(&Checkpoint::open(folder.path()).unwrap(), device).unwrap();
    let mut layout = Layout::default();
    let text = |n: u32| (0..96).map(|i| 3 + (i * 7 + n * 31) % 500).collect::<Vec<u32>>();
    for n in 0..12 {
        layout.push(&text(n)[..20], &[Text::whole(&text(n + 50)), Text::whole(&text(n + 90))], true).unwrap();
    }
    let longest = layout.rows.iter().map(Row::tokens).max().unwrap();
    let load = Load { tokens: layout.tokens(), scored: layout.targets.len(), rows: layout.rows.len(), longest };
    let options = Options { logits: 64 * 512, ..Options::default() };
    let m = d.memory(load, options);
    let units = layout.scored_by_unit();
    let mut judge =
        |group: std::ops::Range<usize>, _: &Scores| vec![0.1; units[group.end - 1].end - units[group.start].start];
    // What threads keep for good is there before.
    d.learn(&layout, options, &mut judge, &mut d.no_gradients()).unwrap();
    let mut sum = d.no_gradients();
    let before = HELD.load(Relaxed);
    MOST.store(before, Relaxed);
    d.learn(&layout, options, &mut judge, &mut sum).unwrap();
    let held = MOST.load(Relaxed) - before;
    held as f64 / (m.gradients + m.activations + m.attention + m.logits) as f64
}

/// What was measured of a model type, the largest of its cases and backends.
#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    logits: f64,
    curve: f64,
    lora: f64,
    greedy: bool,
}

/// The power of ten that a number is below.
fn bound(x: f64) -> String {
    if x == 0.0 { "1e-9".into() } else { format!("1e{}", (x.log10().floor() as i32 + 1).max(-9)) }
}

/// The page's table names every model type, and its bounds hold.
fn compare_with_page(measured: &BTreeMap<String, Measured>, memory: &BTreeMap<String, f64>) -> Result<(), String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/src/architectures.md");
    let page = std::fs::read_to_string(path).unwrap();
    let mut faults = Vec::new();
    let mut rows = Vec::new();
    for (name, m) in measured {
        let greedy = if m.greedy { "equal" } else { "differ" };
        let ratio = memory.get(name).map_or("–".into(), |r| format!("{:.1}", (r * 5.0).ceil() / 5.0));
        let bounds = [m.logits, m.curve, m.lora].map(bound);
        rows.push(format!("| `{name}` | {} | {greedy} | {} | {} | {ratio} |", bounds[0], bounds[1], bounds[2]));
        let said = page.lines().find_map(|l| l.strip_prefix(&format!("| `{name}` | ")));
        let Some(said) = said else {
            faults.push(format!("{name} is not in the table"));
            continue;
        };
        let cells: Vec<&str> = said.trim_end_matches('|').split('|').map(str::trim).collect();
        let number = |i: usize| cells.get(i).and_then(|c: &&str| c.parse::<f64>().ok()).unwrap_or(0.0);
        // Another machine rounds otherwise: a table is wrong that is off by more than that.
        let beyond = [(m.logits, 0), (m.curve, 2), (m.lora, 3)].iter().any(|(off, i)| *off > 3.0 * number(*i));
        if beyond || cells.get(1) != Some(&greedy) {
            faults.push(format!("{name}: {m:?} is beyond what the table says: {said}"));
        }
        if let Some(r) = memory.get(name).filter(|r| **r > 1.1 * number(4)) {
            faults.push(format!("{name}: {r} of the memory that was predicted is beyond what the table says: {said}"));
        }
    }
    let absent = model_types().into_iter().filter(|t| !page.contains(&format!("`{t}`")));
    faults.extend(absent.map(|t| format!("{t} is not on the page")));
    let table = rows.join("\n");
    match faults.is_empty() {
        true => Ok(()),
        false => Err(format!("docs/src/architectures.md: {}\nIts table is to have:\n{table}", faults.join("\n"))),
    }
}

fn main() {
    let arguments = Arguments::from_args();
    let folder = golden::fixture("architectures");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    let whole = arguments.filter.is_none() && !arguments.list;
    // First, while nothing else allocates.
    let mut ratios: BTreeMap<String, f64> = BTreeMap::new();
    for place in golden::places().iter().filter(|_| whole) {
        let Ok(device) = &place.device else { continue };
        for golden in files.iter().map(|f| json(f)).filter(|g| g.get("curve").is_some()) {
            let ratio = memory(&golden["curve"], device);
            println!("{}, {}: {ratio:.2} of the memory predicted", golden["config"]["model_type"], place.backend);
            let worst = ratios.entry(golden["config"]["model_type"].as_str().unwrap().to_owned()).or_insert(0.0);
            *worst = worst.max(ratio);
        }
    }
    let measured: Arc<Mutex<BTreeMap<String, Measured>>> = Arc::default();
    let texts = Arc::new(LazyLock::new(Texts::read));
    let mut trials = Vec::new();
    for file in &files {
        let name = file.file_stem().unwrap().to_string_lossy();
        let has_curve = json(file).get("curve").is_some();
        let golden = Arc::new(LazyLock::new({
            let file = file.clone();
            move || Golden::read(&file)
        }));
        for place in golden::places() {
            let note = |golden: &Golden, put: &dyn Fn(&mut Measured), to: &Mutex<BTreeMap<String, Measured>>| {
                let start = Measured { greedy: true, ..Measured::default() };
                put(to.lock().unwrap().entry(golden.model_type.clone()).or_insert(start));
            };
            let (g, to) = (golden.clone(), measured.clone());
            trials.push(place.trial(&format!("{name}::logits"), move |device| {
                let off = g.case.logits(device)?;
                note(&g, &|m| m.logits = m.logits.max(off), &to);
                Ok(())
            }));
            let (g, to) = (golden.clone(), measured.clone());
            trials.push(place.trial(&format!("{name}::greedy tokens"), move |device| {
                let done = g.case.tokens(device);
                note(&g, &|m| m.greedy &= done.is_ok(), &to);
                done
            }));
            if name == "gemma3_text" {
                let g = golden.clone();
                let run = move |device: &Device| text_part(g.case.folder.path(), device);
                trials.push(place.trial("gemma3_text::inside gemma3", run));
            }
            if name == "granitemoe" {
                let g = golden.clone();
                let run = move |device: &Device| another_height(g.case.folder.path(), device);
                trials.push(place.trial("granitemoe::stacks of another height", run));
            }
            let g = golden.clone();
            trials.push(
                place.trial(&format!("{name}::saved as read"), move |device| saved(g.case.folder.path(), device)),
            );
            if has_curve {
                let (g, to, read) = (golden.clone(), measured.clone(), texts.clone());
                trials.push(place.trial(&format!("{name}::curve"), move |device| {
                    let off = curve(g.curve.as_ref().unwrap(), &read, device)?;
                    note(&g, &|m| m.curve = m.curve.max(off), &to);
                    Ok(())
                }));
                let (g, to, read) = (golden.clone(), measured.clone(), texts.clone());
                trials.push(place.trial(&format!("{name}::lora"), move |device| {
                    let off = lora(g.curve.as_ref().unwrap(), g.lora.as_ref().unwrap(), &read, device)?;
                    note(&g, &|m| m.lora = m.lora.max(off), &to);
                    Ok(())
                }));
            }
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if whole {
        println!("golden tests of architectures, of {} cases: {} passed", files.len(), conclusion.num_passed);
        if let Err(why) = compare_with_page(&measured.lock().unwrap(), &ratios) {
            eprintln!("{why}");
            std::process::exit(1);
        }
    }
    conclusion.exit()
}
