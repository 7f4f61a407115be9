//! The `flex` backend: pure-Rust CPU tensors with SIMD; nothing to install.

use burn::tensor::Device;
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
