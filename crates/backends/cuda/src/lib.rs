//! The `cuda` backend: NVIDIA GPUs, by kernels that are compiled as they are needed. It wants the driver, no toolkit.

use std::panic;
use std::sync::Mutex;

use burn::tensor::{Device, DeviceType};
use collimate_backend::{Backend, Capabilities, Found};
use cudarc::driver::result as driver;

inventory::submit! { Backend {
    name: "cuda",
    about: "NVIDIA GPUs, by kernels compiled as they are needed",
    rank: 40,
    capabilities: Capabilities {
        kernels: false,
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

fn devices() -> Result<Vec<Found>, String> {
    let count = quietly(|| Device::enumerate(DeviceType::Cuda).into_vec().len()).map_err(no_driver)?;
    if count > 0 {
        return Ok(Found::numbered("cuda", (0..count).map(name)));
    }
    // Only now is it known that there is something to explain.
    quietly(driver::init)
        .map_err(no_driver)?
        .map_err(|e| format!("the NVIDIA driver doesn't start ({e}); does `nvidia-smi` work?"))?;
    Err("the NVIDIA driver sees no GPU; does `nvidia-smi` list one, and does CUDA_VISIBLE_DEVICES hide it?".into())
}

fn name(index: usize) -> String {
    let name = quietly(|| driver::device::get(index as i32).and_then(driver::device::get_name));
    name.ok().and_then(Result::ok).unwrap_or_else(|| format!("NVIDIA GPU {index}"))
}

fn no_driver(panic: String) -> String {
    let first = panic.split(['.', '\n']).next().unwrap_or_default();
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
            Err(why) => assert!(why.contains("nvidia-smi"), "{why}"),
        }
    }

    #[test]
    fn a_panic_is_caught_and_told() {
        assert_eq!(quietly(|| 1), Ok(1));
        assert_eq!(quietly(|| -> i32 { panic!("no lib{}", "cuda") }), Err("no libcuda".to_owned()));
    }
}
