//! What is said of a backend is so: its capabilities by what its devices do, and the page by what the code says.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, Output};

use burn::tensor::{DType, Device, Tensor, TensorData};
use collimate::backend::Backend;
use collimate::backend::kernels::Kernels;
use serde_json::Value;

fn collimate(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_collimate")).args(args).output().unwrap()
}

fn page() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/src/backends.md")).unwrap()
}

/// Σ exp((x·x) · 1/10 − 1) for x = [[1, 2], [3, 4]], all of it in `dtype`: a product, an elementwise function and a sum.
fn small_sum(device: &Device, dtype: DType) -> f64 {
    let x: Tensor<2> = Tensor::from_data(TensorData::from([[1.0f32, 2.0], [3.0, 4.0]]), (device, dtype));
    let sum = (x.clone().matmul(x) * 0.1 - 1.0).exp().sum().into_data();
    assert_eq!(sum.dtype(), dtype, "it fell out of {dtype:?}");
    sum.convert::<f64>().try_to_vec::<f64>().unwrap()[0]
}

#[test]
fn a_declared_data_type_computes_and_another_is_refused() {
    // x·x = [[7, 10], [15, 22]]: e^-0.3 + e^0 + e^0.5 + e^1.2
    let wanted = 0.740_818_220_681_718 + 1.0 + 1.648_721_270_700_128 + 3.320_116_922_736_547;
    for (name, device) in common::devices() {
        let declared = Backend::find(name).unwrap().capabilities;
        // Half a unit in the last place for each of a handful of operations, doubled.
        let types =
            [(DType::F64, declared.f64, 1e-14), (DType::BF16, declared.bf16, 0.04), (DType::F16, declared.f16, 5e-3)];
        for (dtype, has, tolerance) in types.into_iter().chain([(DType::F32, true, 1e-6)]) {
            assert_eq!(device.supports_dtype(dtype), has, "{name} declares {dtype:?} otherwise than its device does");
            match catch_unwind(AssertUnwindSafe(|| small_sum(&device, dtype))) {
                Ok(got) => {
                    assert!(has, "{name} computes in {dtype:?}, but doesn't declare it");
                    assert!((got / wanted - 1.0).abs() < tolerance, "{name}, {dtype:?}: {got} is not {wanted}");
                }
                Err(_) => assert!(!has, "{name} declares {dtype:?}, but can't compute in it"),
            }
        }
    }
}

#[test]
fn a_declared_kernel_runs_and_devices_are_as_many_as_declared() {
    for (name, device) in common::devices() {
        let backend = Backend::find(name).unwrap();
        assert_eq!(Kernels::on(&device).any(), backend.capabilities.kernels, "{name}");
        let found = (backend.devices)().unwrap();
        assert!(found.len() == 1 || backend.capabilities.several, "{name}: {found:?}");
        for (i, one) in found.iter().enumerate() {
            let (base, index) = one.name.split_once(':').unwrap_or((&one.name, "0"));
            assert_eq!((base, index.parse()), (name, Ok(i)), "{one:?}");
        }
    }
}

#[test]
fn the_page_has_every_backend_as_it_is() {
    let page = page();
    let listing = collimate(&["backends", "--capabilities", "--json"]);
    let listing: Value = serde_json::from_slice(&listing.stdout).unwrap();
    let listing = listing.as_array().unwrap();
    assert!(!listing.is_empty());
    for b in listing {
        let able = b["capabilities"].as_object().unwrap();
        let head = format!("| | {} |", able.keys().map(String::as_str).collect::<Vec<_>>().join(" | "));
        assert!(page.contains(&head), "docs/src/backends.md lacks the head:\n{head}");
        let cells: Vec<_> = able.values().map(|has| if has.as_bool().unwrap() { "yes" } else { "no" }).collect();
        let row = format!("| `{}` | {} |", b["name"].as_str().unwrap(), cells.join(" | "));
        assert!(page.contains(&row), "docs/src/backends.md lacks the row:\n{row}");
        let device = Backend::device(b["name"].as_str().unwrap()).ok();
        let kernels = device.map(|d| Kernels::on(&d));
        assert_eq!(b["bf16_unit"].as_str(), kernels.and_then(|k| k.linear.half_unit()), "{}", b["name"]);
        assert_eq!(b["vectors"].as_str(), kernels.and_then(|k| k.vectors), "{}", b["name"]);
    }
    for name in ["flex", "ndarray", "libtorch", "cuda", "libtorch-cuda", "cube-cpu"] {
        assert!(page.contains(&format!("\n| `{name}` | ")), "docs/src/backends.md lacks {name}");
    }
    let table = collimate(&["backends", "--capabilities"]);
    let table = String::from_utf8(table.stdout).unwrap();
    for (what, _) in Backend::all()[0].capabilities.each() {
        assert!(table.contains(what), "{what} is not in {table}");
    }
    let unit = |b: &Backend| Backend::device(b.name).ok().and_then(|d| Kernels::on(&d).linear.half_unit());
    assert_eq!(table.contains("yes, by "), Backend::all().into_iter().any(|b| unit(b).is_some()), "{table}");
    let Ok(flex) = Backend::device("flex") else { return };
    // What the processor says of itself, by another way than the kernels'.
    let expected = match std::env::consts::ARCH {
        #[cfg(target_arch = "x86_64")]
        "x86_64" if is_x86_feature_detected!("avx512bw") => "AVX-512",
        #[cfg(target_arch = "x86_64")]
        "x86_64" if is_x86_feature_detected!("fma") => "AVX2",
        "aarch64" => "NEON",
        _ => "scalar",
    };
    assert_eq!(Kernels::on(&flex).vectors, Some(expected));
    assert!(table.contains(&format!("yes, {expected}")), "{table}");
}

#[test]
fn what_is_not_usable_is_refused_with_its_reason() {
    let desk = tempfile::tempdir().unwrap();
    let place = |name: &str| desk.path().join(name).display().to_string();
    let (model, pairs, out) = (place("model"), place("pairs.jsonl"), place("out"));
    common::small_checkpoint(desk.path().join("model").as_path(), 1);
    std::fs::write(&pairs, common::small_pairs(8)).unwrap();
    let refused = |backend: &str, why: &str| {
        let generate = ["generate", "--model", &model, "--prompt", "a", "--backend", backend];
        let align = ["align", "--model", &model, "--data", &pairs, "--output_dir", &out, "--backend", backend];
        for run in [collimate(&generate), collimate(&align)] {
            let said = String::from_utf8(run.stderr).unwrap();
            assert_eq!(run.status.code(), Some(1), "{backend}: {said}");
            assert!(said.contains(why) && !said.contains("panicked"), "{backend}: {said}");
        }
        assert!(!Path::new(&out).exists(), "{backend}: something was written");
    };
    let listed = collimate(&["backends"]);
    assert!(listed.status.success());
    let listed = String::from_utf8(listed.stdout).unwrap();
    // Reasons are sentences: they are wrapped, not cut.
    let words = listed.split(|c: char| c.is_whitespace() || "│┆".contains(c)).filter(|w| !w.is_empty());
    let words: Vec<_> = words.collect();
    for line in listed.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
    for b in Backend::all() {
        assert!(listed.contains(b.name), "{} is not in {listed}", b.name);
        let why = (b.devices)().err().unwrap_or_default();
        let cut = why.split_whitespace().find(|word| !words.contains(word));
        assert_eq!(cut, None, "{} of {} is not in {listed}", cut.unwrap_or_default(), b.name);
        match (b.devices)() {
            Ok(found) => refused(&format!("{}:{}", b.name, found.len()), "has no device"),
            Err(why) => refused(b.name, &why),
        }
    }
    if Backend::find("cuda").is_err() {
        refused("cuda", "unknown backend \"cuda\"; this program has: flex");
    }
}

#[test]
fn a_step_reads_from_its_device_no_oftener_than_it_must() {
    let desk = tempfile::tempdir().unwrap();
    let place = |name: &str| desk.path().join(name).display().to_string();
    let (model, pairs) = (place("model"), place("pairs.jsonl"));
    common::small_checkpoint(desk.path().join("model").as_path(), 1);
    std::fs::write(&pairs, common::small_pairs(8)).unwrap();
    for (name, _) in common::devices() {
        let out = place(name);
        let run = ["align", "--model", &model, "--data", &pairs, "--output_dir", &out, "--backend", name];
        let run =
            collimate(&[&run[..], &["--max_steps", "2", "--per_device_train_batch_size", "4", "--profile"]].concat());
        assert!(run.status.success(), "{name}: {}", String::from_utf8_lossy(&run.stderr));
        assert!(String::from_utf8(run.stdout).unwrap().contains("readings a step"), "{name}");
        let profile: Value =
            serde_json::from_slice(&std::fs::read(Path::new(&out).join("profile.json")).unwrap()).unwrap();
        for piece in profile["pieces"].as_array().unwrap() {
            // What the loss is made of, its derivative, and the norm that clips it: one reading each. Flex's lie here.
            let wanted = match piece["piece"].as_str().unwrap() {
                "head forward" | "gradient norm" if name == "flex" => 0,
                "head forward" | "loss" | "gradient norm" => piece["calls"].as_u64().unwrap(),
                _ => 0,
            };
            assert_eq!(piece["readings"], wanted, "{name}: {piece}");
        }
    }
}
