//! The `flex` backend: pure-Rust CPU tensors with SIMD, nothing to install; and the hand-made CPU kernels, bound to its
//! buffers.

mod bind;
mod host;

use burn::tensor::Device;
use collimate_backend::kernels::{Kernels, Plugin};
use collimate_backend::{Backend, Capabilities, Found};

inventory::submit! { Backend {
    name: "flex",
    about: "pure-Rust CPU tensors with SIMD; nothing to install",
    rank: 10,
    capabilities: Capabilities {
        kernels: true,
        f64: true,
        bf16: true,
        f16: true,
        several: false,
        deterministic: true,
    },
    devices: || Ok(vec![Found { name: "flex".into(), about: "this machine's CPU".into() }]),
    open: |_| Device::flex(),
} }

inventory::submit! { Plugin {
    name: "flex",
    rank: 0,
    by_hand: true,
    // A tape wants tensor operations.
    serves: |device| *device == Device::flex() && !device.is_autodiff(),
    install: |kernels: &mut Kernels| bind::install(kernels),
} }
