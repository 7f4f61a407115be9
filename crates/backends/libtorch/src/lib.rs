//! The `libtorch` and `libtorch-cuda` backends: PyTorch's tensors, on this machine's CPU and on its NVIDIA GPUs.

mod attention;

use burn::tensor::{Device, DeviceType};
use collimate_backend::kernels::{Kernels, Plugin};
use collimate_backend::{Backend, Capabilities, Found};

const CPU: Capabilities =
    Capabilities { kernels: false, f64: true, bf16: true, f16: true, several: false, deterministic: true };

inventory::submit! { Backend {
    name: "libtorch",
    about: "PyTorch's CPU tensors",
    rank: 30,
    capabilities: CPU,
    devices: || Ok(vec![Found { name: "libtorch".into(), about: "this machine's CPU".into() }]),
    open: cpu,
} }

inventory::submit! { Backend {
    name: "libtorch-cuda",
    about: "PyTorch's tensors on NVIDIA GPUs",
    rank: 50,
    // Sums into one place, as of an embedding's gradient, come in any order.
    capabilities: Capabilities { several: true, deterministic: false, ..CPU },
    devices: gpus,
    open: gpu,
} }

inventory::submit! { Plugin {
    name: "libtorch",
    rank: 0,
    by_hand: false,
    // A tape wants tensor operations.
    serves: |device| *device == cpu(0) && !device.is_autodiff(),
    install: |kernels: &mut Kernels| kernels.attention = &attention::Fused,
} }

// The tensor library is about to drop this backend; until it does, it is a second road to a GPU, and what other trainers
// compute with.
#[allow(deprecated)]
fn cpu(_index: usize) -> Device {
    Device::libtorch()
}

#[allow(deprecated)]
fn gpu(index: usize) -> Device {
    Device::libtorch_cuda(index)
}

fn gpus() -> Result<Vec<Found>, String> {
    if !cfg!(cuda_build) {
        return Err("this program is built with libtorch for CPUs; build it with LIBTORCH set to one for CUDA \
                    (scripts/setup-libtorch.sh cuda)"
            .into());
    }
    // Of this backend, the devices that are counted are the GPUs.
    match Device::enumerate(DeviceType::LibTorch).into_vec().len() {
        0 => Err("libtorch sees no NVIDIA GPU; does `nvidia-smi` list one, and is its driver as new as libtorch's \
                  CUDA?"
            .into()),
        n => Ok(Found::numbered("libtorch-cuda", (0..n).map(|i| format!("NVIDIA GPU {i}")))),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_gpu_is_a_reason() {
        match super::gpus() {
            Ok(found) => assert!(found[0].name.starts_with("libtorch-cuda")),
            Err(why) => assert!(why.contains(if cfg!(cuda_build) { "nvidia-smi" } else { "LIBTORCH" }), "{why}"),
        }
    }
}
