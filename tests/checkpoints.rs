//! Checkpoint folders as they come: shards, half precision, tied heads stored either way.

mod common;
#[path = "fuzz/src/checkpoint.rs"]
mod fuzz;
#[path = "common/golden.rs"]
mod golden;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use collimate::model::{Checkpoint, Tensors};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use safetensors::tensor::{SafeTensors, TensorView};
use safetensors::{Dtype, serialize};

/// A tensor file as name, type, shape and bytes.
type Held = Vec<(String, Dtype, Vec<usize>, Vec<u8>)>;

fn read(path: &Path) -> Held {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut all: Held =
        file.tensors().into_iter().map(|(n, t)| (n, t.dtype(), t.shape().to_vec(), t.data().to_vec())).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

fn write(path: &Path, held: &Held) {
    let views = held.iter().map(|(n, d, s, b)| (n.clone(), TensorView::new(*d, s.clone(), b).unwrap()));
    fs::write(path, serialize(views, None).unwrap()).unwrap();
}

fn values(t: &Tensors) -> Vec<Vec<f32>> {
    t.0.iter().map(|t| t.to_data().try_to_vec().unwrap()).collect()
}

fn load(folder: &Path) -> Result<Vec<Vec<f32>>, String> {
    let checkpoint = Checkpoint::open(folder).map_err(|e| e.to_string())?;
    checkpoint.load(&common::any_device()).map(|t| values(&t)).map_err(|e| e.to_string())
}

/// A small checkpoint, its weights file, and its values.
fn small() -> (tempfile::TempDir, std::path::PathBuf, Vec<Vec<f32>>) {
    let root = tempfile::tempdir().unwrap();
    common::small_checkpoint(root.path(), 4);
    let (file, values) = (root.path().join("model.safetensors"), load(root.path()).unwrap());
    (root, file, values)
}

#[test]
fn shards_are_joined_by_their_index() {
    let (root, file, whole) = small();
    let held = read(&file);
    let (a, b) = held.split_at(7);
    write(&root.path().join("model-00001-of-00002.safetensors"), &a.to_vec());
    write(&root.path().join("model-00002-of-00002.safetensors"), &b.to_vec());
    fs::remove_file(&file).unwrap();
    let place = |part: &[(String, Dtype, Vec<usize>, Vec<u8>)], n: usize| {
        part.iter().map(|t| (t.0.clone(), format!("model-0000{n}-of-00002.safetensors"))).collect::<HashMap<_, _>>()
    };
    let mut map = place(a, 1);
    map.extend(place(b, 2));
    let index = root.path().join("model.safetensors.index.json");
    fs::write(&index, serde_json::json!({"metadata": {}, "weight_map": map}).to_string()).unwrap();
    assert_eq!(load(root.path()).unwrap(), whole);

    map.insert("model.norm.weight".into(), "model-00001-of-00002.safetensors".into());
    map.insert(a[0].0.clone(), "model-00002-of-00002.safetensors".into());
    fs::write(&index, serde_json::json!({"weight_map": map}).to_string()).unwrap();
    let said = load(root.path()).unwrap_err();
    assert!(said.contains("index") && said.contains("which lacks it"), "{said}");
}

#[test]
fn pickled_weights_are_those_of_safetensors() {
    for part in ["whole", "shards"] {
        let folder = golden::fixture("pickled").join(part);
        let checkpoint = Checkpoint::open(&folder).unwrap();
        // The weights follow from the names.
        let specs = checkpoint.inventory.specs.iter();
        let expected: Vec<Vec<f32>> = specs.map(|s| golden::seeded(&s.name, s.len()).collect()).collect();
        assert_eq!(load(&folder).unwrap(), expected, "{part}");
        let prefix = (part == "whole").then(|| "module.".to_owned());
        assert_eq!(checkpoint.stripped().unwrap(), prefix);
    }
    let said = load(&golden::fixture("pickled").join("hostile")).unwrap_err();
    assert!(said.contains("pytorch_model.bin: the pickle asks for posix.system, which no tensor wants"), "{said}");
    assert!(!Path::new("collimate-was-owned").exists());
}

#[test]
fn pickled_weights_that_are_broken_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let from = golden::fixture("pickled").join("whole");
    fs::copy(from.join("config.json"), folder.path().join("config.json")).unwrap();
    let whole = fs::read(from.join("pytorch_model.bin")).unwrap();
    let file = folder.path().join("pytorch_model.bin");
    let mut rng = StdRng::seed_from_u64(3);
    for round in 0..300 {
        let mut bytes = whole.clone();
        if round % 2 == 0 {
            bytes.truncate(rng.random_range(0..whole.len()));
        } else {
            for _ in 0..4 {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = rng.random();
            }
        }
        fs::write(&file, bytes).unwrap();
        // A value may be another; a panic, or a read beyond the file, may not be.
        if let Err(said) = load(folder.path()) {
            assert!(round % 2 == 1 || said.contains("pytorch_model.bin"), "{said}");
        }
    }
}

#[test]
fn half_precision_is_read_as_f32() {
    let (root, file, whole) = small();
    let held = read(&file);
    for (dtype, bits) in [(Dtype::BF16, 8), (Dtype::F16, 11)] {
        let narrow = held.iter().map(|(n, _, s, b)| {
            let half = b.chunks_exact(4).flat_map(|c| {
                let x = f32::from_le_bytes([c[0], c[1], c[2], c[3]]);
                match dtype {
                    Dtype::BF16 => half::bf16::from_f32(x).to_le_bytes(),
                    _ => half::f16::from_f32(x).to_le_bytes(),
                }
            });
            (n.clone(), dtype, s.clone(), half.collect())
        });
        write(&file, &narrow.collect());
        let got = load(root.path()).unwrap();
        for (g, w) in got.iter().flatten().zip(whole.iter().flatten()) {
            assert!((g - w).abs() <= w.abs() * 2f32.powi(-bits) + 1e-7, "{dtype:?}: {g} is not {w}");
        }
    }
    let odd = held.iter().map(|(n, _, s, b)| (n.clone(), Dtype::I32, s.clone(), b.clone())).collect();
    write(&file, &odd);
    assert!(load(root.path()).unwrap_err().contains("expected f32, f16 or bf16, got I32"));
}

#[test]
fn a_tied_head_may_be_stored_under_either_name() {
    let (root, file, whole) = small();
    let held = read(&file);
    let renamed = |from: &str, to: &str| -> Held {
        held.iter()
            .cloned()
            .map(|mut t| {
                if t.0 == from {
                    t.0 = to.into()
                }
                t
            })
            .collect()
    };
    write(&file, &renamed("model.embed_tokens.weight", "lm_head.weight"));
    assert_eq!(load(root.path()).unwrap(), whole);
    let mut both = held.clone();
    both.extend(renamed("model.embed_tokens.weight", "lm_head.weight").into_iter().filter(|t| t.0 == "lm_head.weight"));
    write(&file, &both);
    assert_eq!(load(root.path()).unwrap(), whole);
    both.last_mut().unwrap().3[0] ^= 1;
    write(&file, &both);
    assert!(load(root.path()).unwrap_err().contains("says that they are tied"));
}

#[test]
fn a_value_that_is_not_a_number_is_refused() {
    let (root, file, _) = small();
    let mut held = read(&file);
    held[3].3[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    write(&file, &held);
    let said = load(root.path()).unwrap_err();
    assert!(said.contains(&held[3].0) && said.contains("not finite"), "{said}");
}

#[test]
fn what_is_saved_is_what_was_read() {
    golden::assert_saved_as_read(&golden::fixture("stories260k-hf"));
}

#[test]
fn configurations_of_known_models_are_understood() {
    let folder = golden::fixture("configs");
    let mut seen = 0;
    let files = fs::read_dir(folder).unwrap().map(|f| f.unwrap().path());
    for path in files.filter(|p| p.extension().is_some_and(|e| e == "json")) {
        let value: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let config = collimate::model::ModelConfig::from_value(&value, &path).unwrap();
        match config.model_type.as_str() {
            // Qwen2.5-0.5B: 494,032,768 parameters, tied; SmolLM2-135M: 134,515,008, tied.
            "qwen2" => assert_eq!(config.inventory.elements(), 494_032_768),
            "llama" => assert_eq!(config.inventory.elements(), 134_515_008),
            other => panic!("{other}"),
        }
        seen += 1;
    }
    assert_eq!(seen, 2);
}

/// The fuzzer's target without the fuzzer: its seeds, and a fixed series of changes to them.
#[test]
fn whatever_a_checkpoint_holds_is_read_or_refused() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/seeds/checkpoint");
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let seeds: Vec<_> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(seeds.len() > 5, "{} seeds", seeds.len());
    let run = |bytes: &[u8]| {
        let begun = Instant::now();
        let read = fuzz::checkpoint(bytes);
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}: {}", begun.elapsed(), bytes.escape_ascii());
        read
    };
    let read = seeds.iter().filter(|seed| run(seed)).count();
    assert_eq!(read, seeds.len() - 2, "all but those that lie about their lengths");
    // Numbers that no configuration has, and pieces of other seeds.
    let words = ["0", "-1", "1e999", "null", "[]", "{}", "true", "\"\"", "2147483648", "9223372036854775808", "1e-400"];
    let mut rng = StdRng::seed_from_u64(7);
    for _ in 0..600 {
        let mut bytes = seeds[rng.random_range(0..seeds.len())].clone();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..bytes.len());
            let other = &seeds[rng.random_range(0..seeds.len())];
            let from = rng.random_range(0..other.len());
            let digits = bytes[at..].iter().position(u8::is_ascii_digit).map_or(bytes.len(), |n| at + n);
            let rest = bytes[digits..].iter().take_while(|b| b.is_ascii_digit() || b".e-".contains(b)).count();
            match rng.random_range(0..4) {
                0 => bytes[at] = rng.random(),
                1 => drop(bytes.splice(digits..digits + rest, words[rng.random_range(0..words.len())].bytes())),
                2 => drop(bytes.splice(at..(at + 8).min(bytes.len()), other[from..].iter().take(24).copied())),
                _ => bytes.truncate(at.max(1)),
            }
        }
        run(&bytes);
    }
}
