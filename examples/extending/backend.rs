//! A backend from outside: another name for devices that the tensor library has.
//!
//! ```sh
//! cargo run --release --example backend
//! ```

use burn::tensor::{DType, Device, Tensor, TensorData};
use collimate::backend::kernels::Kernels;
use collimate::backend::{Backend, Capabilities, Found};

// ANCHOR: backend
inventory::submit! { Backend {
    // What `--backend` takes.
    name: "lanes",
    about: "the flex backend, under two names",
    // Behind those that come with the program, so that it is nobody's default.
    rank: 90,
    capabilities: Capabilities {
        kernels: true,
        f64: true,
        bf16: true,
        f16: true,
        several: true,
        deterministic: true,
    },
    // `Err("no driver".into())` says why there are none; nothing here may panic.
    devices: || Ok(Found::numbered("lanes", ["the CPU".into(), "the CPU again".into()])),
    open: |_index| Device::flex(),
} }
// ANCHOR_END: backend

fn main() {
    let names: Vec<_> = Backend::all().iter().map(|b| b.name).collect();
    println!("backends: {}", names.join(", "));
    assert_eq!(names.last(), Some(&"lanes"));
    assert_ne!(Backend::preferred().unwrap().name, "lanes");

    // What it declares is so.
    let device = Backend::device("lanes:1").unwrap();
    let declared = Backend::find("lanes").unwrap().capabilities;
    assert_eq!(Kernels::on(&device).any(), declared.kernels);
    for (dtype, has) in [(DType::F64, declared.f64), (DType::BF16, declared.bf16), (DType::F16, declared.f16)] {
        assert_eq!(device.supports_dtype(dtype), has, "{dtype:?}");
    }
    let x: Tensor<2> = Tensor::from_data(TensorData::from([[1.0f32, 2.0], [3.0, 4.0]]), &device);
    assert_eq!(x.clone().matmul(x).into_data().try_into_vec::<f32>().unwrap(), [7.0, 10.0, 15.0, 22.0]);

    let said = Backend::device("lanes:2").unwrap_err().to_string();
    assert_eq!(said, "backend \"lanes\" has no device 2; there are: lanes:0, lanes:1");
}

#[test]
fn it_is_listed_and_does_what_it_declares() {
    main();
}
