//! A kernel from outside: RMSNorm whose mean of squares is summed in f64, on any device.
//!
//! ```sh
//! cargo run --release --example kernel
//! ```

use burn::tensor::{DType, Device, Tensor, TensorData};
use collimate::backend::Backend;
use collimate::backend::kernels::{Kernels, Plain, Plugin, RmsNorm};
use collimate::model::{Decoder, Layout, ModelConfig, Options, Text};

// ANCHOR: kernel
/// y = x·r·w with r = 1/√(mean(x²) + ε), the mean in f64. The backward pass stays the default's.
#[derive(Debug)]
struct PreciseNorm;

impl RmsNorm for PreciseNorm {
    fn forward(&self, x: &Tensor<2>, weight: &Tensor<2>, eps: f64) -> (Tensor<2>, Tensor<2>) {
        let [rows, width] = x.dims();
        let host = x.clone().cast(DType::F32).into_data().try_into_vec::<f32>().expect("it was cast to f32");
        let scale = |row: &[f32]| {
            let squares: f64 = row.iter().map(|v| f64::from(*v).powi(2)).sum();
            (squares / width as f64 + eps).sqrt().recip() as f32
        };
        let r = TensorData::new(host.chunks(width).map(scale).collect::<Vec<_>>(), [rows, 1]);
        let r = Tensor::from_data(r, (&x.device(), DType::F32));
        let y = x.clone().cast(DType::F32) * r.clone() * weight.clone().cast(DType::F32);
        (y.cast(x.dtype()), r)
    }
}

inventory::submit! { Plugin {
    name: "precise-norm",
    // Asked after the backend's own set, which has rank 0.
    rank: 1,
    by_hand: true,
    // Where gradients are recorded on a tape, what goes through the host would be lost to it.
    serves: |device| !device.is_autodiff(),
    install: |kernels| kernels.norm = &PreciseNorm,
} }
// ANCHOR_END: kernel

/// The largest difference of a set's norm from its definition in f64, relative.
fn fault(norm: &dyn RmsNorm, device: &Device) -> f64 {
    let width = 4096;
    let values: Vec<f32> = (0..width).map(|i| ((i * i) as f32 * 0.37).sin() * 3.0 + 1.0).collect();
    let of = |v: Vec<f32>| Tensor::<2>::from_data(TensorData::new(v, [1, width]), device);
    let (y, _) = norm.forward(&of(values.clone()), &of(vec![1.0; width]), 1e-6);
    let squares: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
    let r = (squares / width as f64 + 1e-6).sqrt().recip();
    let got = y.into_data().try_into_vec::<f32>().unwrap();
    let each = got.iter().zip(&values).map(|(y, x)| (f64::from(*y) / (f64::from(*x) * r) - 1.0).abs());
    each.fold(0.0, f64::max)
}

fn main() {
    let config = serde_json::json!({
        "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4,
        "num_hidden_layers": 2, "vocab_size": 20, "max_position_embeddings": 16
    });
    let config = ModelConfig::from_value(&config, std::path::Path::new("config.json")).unwrap();
    let mut layout = Layout::default();
    layout.push(&[1, 3], &[Text::whole(&[4, 5, 2])], true).unwrap();
    for backend in Backend::all().into_iter().filter(|b| (b.devices)().is_ok()) {
        let device = (backend.open)(0);
        // The registered kernel is in the device's set, and the rest of the set is as it was.
        let (own, plain) = (fault(Kernels::on(&device).norm, &device), fault(&Plain, &device));
        println!("{}: off by {own:.1e}, tensor operations by {plain:.1e}", backend.name);
        assert!(own < 2e-7 && plain < 1e-5, "{own}, {plain}");
        // A model runs on it, to the same numbers.
        let with = Decoder::random(config.clone(), 1, &device);
        let without = with.clone().with_kernels(Kernels::default());
        let score = |d: &Decoder| d.score(&layout, Options::default()).unwrap().log_probs;
        assert!(score(&with).iter().zip(score(&without)).all(|(a, b)| (a - b).abs() < 1e-5));
    }
}

#[test]
fn it_is_installed_and_right() {
    main();
}
