//! The `cuda` backend: NVIDIA GPUs, by kernels that are compiled as they are needed. It wants the driver, and of the toolkit
//! one file: libdevice, where exp, log and the like are.

use std::ffi::OsString;
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use burn::backend::{CubeDevice, DispatchDevice};
use burn::tensor::{Device, DeviceType};
use collimate_backend::kernels::{Kernels, Plugin};
use collimate_backend::{Backend, Capabilities, Found};
use cudarc::driver::result as driver;

inventory::submit! { Backend {
    name: "cuda",
    about: "NVIDIA GPUs, by kernels compiled as they are needed",
    rank: 40,
    capabilities: Capabilities {
        kernels: true,
        f64: true,
        bf16: true,
        f16: true,
        several: true,
        // Sums into one place, as of an embedding's gradient, come in any order.
        deterministic: false,
    },
    devices,
    open: |index| Device::cuda(index),
} }

inventory::submit! { Plugin {
    name: "cuda",
    rank: 0,
    by_hand: true,
    // Devices with a tape, which wants tensor operations, are of another kind.
    serves: |device| matches!(device.as_dispatch(), DispatchDevice::Cube(CubeDevice::Cuda(_))),
    install: |kernels: &mut Kernels| collimate_kernels_cube::install(kernels),
} }

fn devices() -> Result<Vec<Found>, String> {
    let count = quietly(|| Device::enumerate(DeviceType::Cuda).into_vec().len()).map_err(no_driver)?;
    if count > 0 {
        libdevice(std::env::var_os("CUDA_PATH"), &ROOTS)?;
        return Ok(Found::numbered("cuda", (0..count).map(name)));
    }
    // Only now is it known that there is something to explain.
    quietly(driver::init)
        .map_err(no_driver)?
        .map_err(|e| format!("the NVIDIA driver doesn't start ({e}); does `nvidia-smi` work?"))?;
    Err("the NVIDIA driver sees no GPU; does `nvidia-smi` list one, and does CUDA_VISIBLE_DEVICES hide it?".into())
}

/// Where the kernels' compiler looks for a toolkit without CUDA_PATH.
const ROOTS: [&str; 4] = ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda", "/usr"];

/// NVIDIA's bitcode of functions that a GPU has no instruction for, where the kernels' compiler looks for it.
fn libdevice(cuda_path: Option<OsString>, roots: &[&str]) -> Result<PathBuf, String> {
    let below = |root: &Path| root.join("nvvm/libdevice/libdevice.10.bc");
    let found = match &cuda_path {
        // Set, it is the only place.
        Some(root) => Some(below(Path::new(root))),
        None => roots.iter().map(|root| below(Path::new(root))).find(|file| file.is_file()),
    };
    found.filter(|file| file.is_file()).ok_or_else(|| {
        let looked = match cuda_path {
            Some(root) => format!("CUDA_PATH, {}", root.display()),
            None => roots.join(", "),
        };
        format!(
            "NVIDIA's libdevice, which kernels want for exp and log, is not below {looked}: install CUDA's toolkit, or run \
             scripts/setup-llvm.sh in Collimate's repository; then set CUDA_PATH to the folder with \
             nvvm/libdevice/libdevice.10.bc"
        )
    })
}

fn name(index: usize) -> String {
    let name = quietly(|| driver::device::get(index as i32).and_then(driver::device::get_name));
    name.ok().and_then(Result::ok).unwrap_or_else(|| format!("NVIDIA GPU {index}"))
}

fn no_driver(panic: String) -> String {
    // Behind it come all names that were tried.
    let first = panic.split(" - ").next().unwrap_or_default().lines().next().unwrap_or_default();
    format!("there is no NVIDIA driver here ({first}); install it and see that `nvidia-smi` works")
}

/// Without a driver its library's loader panics: what it says, without the noise.
fn quietly<R>(ask: impl FnOnce() -> R) -> Result<R, String> {
    // The hook belongs to the whole process.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let answer = panic::catch_unwind(panic::AssertUnwindSafe(ask));
    panic::set_hook(hook);
    answer.map_err(|said| {
        let text = said.downcast_ref::<String>().map(String::as_str).or_else(|| said.downcast_ref::<&str>().copied());
        text.unwrap_or("it doesn't say why").to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_gpu_is_a_reason() {
        match devices() {
            Ok(found) => assert!(found[0].name.starts_with("cuda")),
            Err(why) => assert!(why.contains("nvidia-smi") || why.contains("libdevice"), "{why}"),
        }
    }

    #[test]
    fn libdevice_is_looked_for_where_the_compiler_does() {
        let desk = std::env::temp_dir().join(format!("collimate-cuda-{}", std::process::id()));
        let root = desk.join("toolkit");
        let file = root.join("nvvm/libdevice/libdevice.10.bc");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let (toolkit, other) = (root.display().to_string(), desk.join("other").display().to_string());
        let why = libdevice(None, &[&other, &toolkit]).unwrap_err();
        assert!(why.contains(&other) && why.contains("scripts/setup-llvm.sh"), "{why}");
        std::fs::write(&file, "").unwrap();
        assert_eq!(libdevice(None, &[&other, &toolkit]), Ok(file.clone()));
        assert_eq!(libdevice(Some(root.into()), &[]), Ok(file));
        // Where CUDA_PATH is set, nothing else counts.
        let why = libdevice(Some(other.clone().into()), &[&toolkit]).unwrap_err();
        assert!(why.contains("CUDA_PATH") && why.contains(&other), "{why}");
        std::fs::remove_dir_all(desk).unwrap();
    }

    #[test]
    fn a_panic_is_caught_and_told() {
        assert_eq!(quietly(|| 1), Ok(1));
        assert_eq!(quietly(|| -> i32 { panic!("no lib{}", "cuda") }), Err("no libcuda".to_owned()));
    }
}
