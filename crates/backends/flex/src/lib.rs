//! The `flex` backend: pure-Rust CPU tensors with SIMD; nothing to install.

use burn::tensor::Device;
use collimate_backend::{Backend, Found};

inventory::submit! { Backend {
    name: "flex",
    about: "pure-Rust CPU tensors with SIMD; nothing to install",
    rank: 10,
    devices: || Ok(vec![Found { name: "flex".into(), about: "this machine's CPU".into() }]),
    open: |_| Device::flex(),
} }
