//! The `ndarray` backend: CPU tensors on the ndarray crate.

use burn::tensor::Device;
use collimate_backend::{Backend, Found};

inventory::submit! { Backend {
    name: "ndarray",
    about: "CPU tensors on the ndarray crate",
    rank: 20,
    devices: || Ok(vec![Found { name: "ndarray".into(), about: "this machine's CPU".into() }]),
    open: |_| Device::ndarray(),
} }
