//! Reference material and the tests of it, which are run, or ignored by name and with the reason.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use collimate::backend::Backend;
use collimate::model::Checkpoint;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use safetensors::Dtype;
use safetensors::tensor::{SafeTensors, TensorView};
use serde_json::Value;

/// Reference material of this repository, from tests/fixtures.
pub fn fixture(what: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(what);
    assert!(path.exists(), "{} is part of this repository, and absent", path.display());
    path
}

/// A test of reference material that is not part of this repository, `wanted` below COLLIMATE_SHARED; where some of it
/// is absent, the test is ignored, by name and with the reason.
pub fn shared_or_ignored<const N: usize>(
    name: &str,
    wanted: [&str; N],
    test: impl FnOnce([PathBuf; N]) + Send + 'static,
) -> Trial {
    let root = std::env::var_os("COLLIMATE_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let paths = wanted.map(|what| root.join(what));
    match paths.iter().find(|p| !p.exists()) {
        Some(absent) => ignored(name, format!("{} is absent: set COLLIMATE_SHARED", absent.display())),
        None => Trial::test(name, move || {
            test(paths);
            Ok(())
        }),
    }
}

fn ignored(name: &str, why: String) -> Trial {
    Trial::ignorable_test(name, move || Ok(Completion::ignored_with(why)))
}

/// A backend that is linked, with its first device or the reason why there is none.
pub struct Place {
    pub backend: &'static str,
    pub device: Result<Device, String>,
}

/// Every backend that is linked.
pub fn places() -> Vec<Place> {
    let place = |b: &Backend| Place { backend: b.name, device: (b.devices)().map(|_| (b.open)(0)) };
    Backend::all().into_iter().map(place).collect()
}

/// The first device that is usable: what is read from a file is the same on all.
fn any_device() -> Device {
    places().into_iter().find_map(|p| p.device.ok()).expect("a backend is linked")
}

impl Place {
    /// A test on this backend; ignored, by name and with the reason, where it can't be used.
    pub fn trial(&self, name: &str, test: impl FnOnce(&Device) -> Result<(), Failed> + Send + 'static) -> Trial {
        let name = format!("{}::{name}", self.backend);
        match self.device.clone() {
            Ok(device) => Trial::test(name, move || test(&device)),
            // .ci/run lets a test be ignored for this reason alone, and knows it by its first word.
            Err(why) => ignored(&name, format!("backend {} can't be used: {why}", self.backend)),
        }
    }
}

/// Tests by their names.
pub fn trials<const N: usize>(tests: [(&str, fn()); N]) -> Vec<Trial> {
    let trial = |(name, test): (&str, fn())| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    tests.map(trial).into()
}

/// Runs the trials, says how many ran, and ends the process.
pub fn run(arguments: &Arguments, trials: Vec<Trial>, what: &str) -> ! {
    let conclusion = libtest_mimic::run(arguments, trials);
    if !arguments.list {
        let ran = conclusion.num_passed + conclusion.num_failed;
        println!("{what}: {ran} ran, {} failed, {} ignored", conclusion.num_failed, conclusion.num_ignored);
    }
    conclusion.exit()
}

/// Token ids of a JSON array.
pub fn ids(v: &Value) -> Vec<u32> {
    v.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect()
}

/// The values of a weight that follow from its name: see [`seeded_checkpoint`].
pub fn seeded(name: &str, n: usize) -> impl Iterator<Item = f32> + use<> {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let lowest = if name.contains("norm") { 0.5 } else { -0.5 };
    (1..=n as u64).map(move |i| {
        let mut z = hash.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((z ^ (z >> 31)) >> 48) as f32) / 65536.0 + lowest
    })
}

/// Writes a checkpoint whose weights follow from their names, as tests/fixtures/make/forward.py
/// has them: the upper 16 bits of each output of SplitMix64, from the FNV-1a hash of the name, as a number in [−1/2, 1/2), or
/// [1/2, 3/2) for norms.
pub fn seeded_checkpoint(folder: &Path, config: &Value, shapes: &Value) {
    let tensors = shapes.as_object().unwrap().iter().map(|(name, shape)| {
        let shape: Vec<usize> = ids(shape).into_iter().map(|n| n as usize).collect();
        let bytes: Vec<u8> = seeded(name, shape.iter().product()).flat_map(f32::to_le_bytes).collect();
        (name.clone(), shape, bytes)
    });
    let tensors: Vec<_> = tensors.collect();
    let views = tensors.iter().map(|(n, s, b)| (n, TensorView::new(Dtype::F32, s.clone(), b).unwrap()));
    std::fs::write(folder.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

/// Saves what a checkpoint folder loads as, and asserts that it reads back with the same values, names and shapes.
pub fn assert_saved_as_read(folder: &Path) {
    let load = |folder: &Path| {
        let checkpoint = Checkpoint::open(folder).unwrap();
        let tensors = checkpoint.load(&any_device()).unwrap();
        let values: Vec<Vec<f32>> = tensors.0.iter().map(|t| t.to_data().try_to_vec().unwrap()).collect();
        (checkpoint, tensors, values)
    };
    let (checkpoint, tensors, values) = load(folder);
    let out = tempfile::tempdir().unwrap();
    checkpoint.save(&tensors, out.path()).unwrap();
    assert_eq!(load(out.path()).2, values);
    let read = |folder: &Path, file: &str| std::fs::read(folder.join(file)).unwrap();
    let names = |folder: &Path| {
        let bytes = read(folder, "model.safetensors");
        let file = SafeTensors::deserialize(&bytes).unwrap();
        file.tensors().into_iter().map(|(n, t)| (n, t.shape().to_vec())).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(names(folder), names(out.path()));
    for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json"] {
        assert_eq!(read(folder, file), read(out.path(), file), "{file}");
    }
    let config: Value = serde_json::from_slice(&read(out.path(), "config.json")).unwrap();
    assert_eq!(config["torch_dtype"], "float32");
    assert_eq!(config["vocab_size"], checkpoint.raw_config["vocab_size"]);
}
