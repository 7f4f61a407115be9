//! The `ndarray` backend: CPU tensors on the ndarray crate.

use burn::tensor::Device;
use collimate_backend::{Backend, Capabilities, Found};

// The tensor library is about to drop this backend; until it does, it is a second opinion on every number.
#[allow(deprecated)]
fn open(_index: usize) -> Device {
    Device::ndarray()
}

inventory::submit! { Backend {
    name: "ndarray",
    about: "CPU tensors on the ndarray crate",
    rank: 20,
    capabilities: Capabilities {
        kernels: false,
        f64: true,
        bf16: false,
        f16: false,
        several: false,
        deterministic: true,
    },
    devices: || Ok(vec![Found { name: "ndarray".into(), about: "this machine's CPU".into() }]),
    open,
} }
