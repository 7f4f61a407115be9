//! The `cube-cpu` backend: CubeCL's tensors and the kernels for GPUs, compiled for this machine's CPU. It is there to test
//! them where there is no GPU; `flex` is faster.

use burn::tensor::Device;
use collimate_backend::kernels::{Kernels, Plugin};
use collimate_backend::{Backend, Capabilities, Found};

inventory::submit! { Backend {
    name: "cube-cpu",
    about: "the GPU kernels on this machine's CPU, to test them; flex is faster",
    rank: 60,
    capabilities: Capabilities {
        kernels: true,
        f64: true,
        bf16: true,
        f16: true,
        several: false,
        deterministic: true,
    },
    devices: || Ok(vec![Found { name: "cube-cpu".into(), about: "this machine's CPU".into() }]),
    open: |_| Device::cpu(),
} }

inventory::submit! { Plugin {
    name: "cube-cpu",
    rank: 0,
    by_hand: true,
    // A tape wants tensor operations.
    serves: |device| *device == Device::cpu() && !device.is_autodiff(),
    install: |kernels: &mut Kernels| collimate_kernels_cube::install(kernels),
} }
