//! Every architecture against automatic differentiation, in every way of going about it.

use super::*;
use crate::layout::Text;
use crate::oracle::{assert_close, elsewhere};
use crate::params::Role;
use crate::readout::{ALL, Options, Scores};
use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Int, TensorData};
use serde_json::{Value, json};
use std::path::Path;

/// A small model of each architecture, with whatever sets it apart.
pub(crate) fn architectures() -> Vec<(&'static str, ModelConfig)> {
    let base = json!({
        "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_hidden_layers": 3, "vocab_size": 40, "max_position_embeddings": 64, "rms_norm_eps": 1e-5
    });
    let with = |name, more: Value| {
        let mut table = base.clone();
        table.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        (name, ModelConfig::from_value(&table, Path::new("config.json")).unwrap())
    };
    vec![
        with("llama, tied", json!({"model_type": "llama", "tie_word_embeddings": true})),
        with("llama, biases", json!({"model_type": "llama", "attention_bias": true, "mlp_bias": true})),
        with("mistral, windows", json!({"model_type": "mistral", "sliding_window": 4, "head_dim": 6})),
        with("qwen2", json!({"model_type": "qwen2", "tie_word_embeddings": true})),
        with("qwen3", json!({"model_type": "qwen3", "head_dim": 8})),
        with("smollm3", json!({"model_type": "smollm3", "no_rope_layers": [1, 0, 1]})),
        with("toy", json!({"model_type": "toy", "hidden_act": "relu"})),
    ]
}

fn layout(share: bool) -> Layout {
    let mut l = Layout::default();
    l.push(&[1, 7, 9, 30, 4], &[Text::whole(&[5, 6, 2]), Text::whole(&[8, 11, 12, 13, 2])], share).unwrap();
    l.push(&[1], &[Text::whole(&[2]), Text::whole(&[39, 38, 2])], share).unwrap();
    l
}

fn coefficients(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7 % 5) as f32 - 1.5) / 3.0).collect()
}

/// Gradients by automatic differentiation of the same forward pass, run as tensor operations.
fn on_tape(decoder: &Decoder, layout: &Layout) -> Vec<Tensor<2>> {
    let device = decoder.device.clone().autodiff();
    let leaves = decoder.parameters().0.iter().map(|p| p.clone().autodiff().require_grad());
    let taped = Decoder::new(decoder.config.clone(), Tensors(leaves.collect()), &device);
    assert!(!taped.has_kernels());
    let body = taped.body(layout, false, Options::default()).unwrap();
    let logits = taped.hidden(&body).matmul(taped.params.get(taped.config.network.head).clone().transpose());
    let logits = taped.capped(logits);
    let n = layout.targets.len();
    let ids: Vec<i32> = layout.targets.iter().map(|t| *t as i32).collect();
    let ids: Tensor<2, Int> = Tensor::from_data(TensorData::new(ids, [n, 1]), &device);
    let c: Tensor<2> = Tensor::from_data(TensorData::new(coefficients(n), [n, 1]), &device);
    let gradients = (log_softmax(logits, 1).gather(1, ids) * c).sum().backward();
    taped.parameters().0.iter().map(|p| p.grad(&gradients).expect("every parameter has a gradient")).collect()
}

/// Gradients of the same, by the decoder's own backward pass.
fn gradients(d: &Decoder, layout: &Layout, options: Options, size: f32) -> Grads {
    let mut sum = d.no_gradients();
    let all: Vec<f32> = coefficients(layout.targets.len()).iter().map(|c| c * size).collect();
    let units = layout.scored_by_unit();
    let mut judge = |group: std::ops::Range<usize>, scores: &Scores| {
        let tokens = units[group.start].start..units[group.end - 1].end;
        assert_eq!(scores.log_probs.len(), tokens.len());
        all[tokens].to_vec()
    };
    d.learn(layout, options, &mut judge, &mut sum).unwrap();
    sum
}

/// Random weights, spread wide enough that no piece is nearly linear.
fn decoder(config: &ModelConfig, device: &Device) -> Decoder {
    let random = Decoder::random(config.clone(), 5, &Device::flex());
    let wide = random.specs().iter().zip(&random.parameters().0).enumerate().map(|(i, (spec, p))| {
        let p = match spec.role {
            Role::Norm => p.clone() + 0.02 * i as f64,
            _ => p.clone() * 8.0 + 0.001 * i as f64,
        };
        Tensor::from_data(p.into_data(), device)
    });
    Decoder::new(config.clone(), Tensors(wide.collect()), device)
}

/// All units in one group; each in its own; the logits of one token at a time, so that units don't fit.
const HEADS: [usize; 4] = [1 << 24, 8 * 40, 3 * 40, 1];

#[test]
fn gradients_are_those_of_the_tape() {
    for (name, config) in architectures() {
        for device in [Device::flex(), elsewhere()] {
            let d = decoder(&config, &device);
            let l = layout(true);
            let expected = on_tape(&d, &l);
            for recomputed in [0, 1, ALL] {
                for logits in HEADS {
                    let options = Options { recomputed, logits, ..Options::default() };
                    let got = gradients(&d, &l, options, 1.0);
                    for ((spec, got), expected) in d.specs().iter().zip(got.all()).zip(&expected) {
                        eprintln!("{name}, {}", spec.name);
                        assert_close(got.as_ref().unwrap(), expected);
                    }
                }
            }
        }
    }
}

#[test]
fn kernels_and_tensor_operations_agree() {
    for (name, config) in architectures() {
        let d = decoder(&config, &Device::flex());
        let plain = d.clone().with_kernels(Kernels::default());
        assert!(d.has_kernels() && !plain.has_kernels());
        let off = distance(
            &gradients(&d, &layout(true), Options::default(), 1.0),
            &gradients(&plain, &layout(true), Options::default(), 1.0),
        );
        assert!(off < 1e-5, "{name}: {off}");
    }
}

/// Handed over as a pass is done with them, gradients are what they would have been, each once, frozen layers or not.
#[test]
fn gradients_are_whole_when_they_are_handed_over() {
    for (name, config) in architectures() {
        let whole = decoder(&config, &Device::flex());
        let layers = config.network.layers.len();
        let last = format!("layers.{}.", layers - 1);
        let part = whole.clone().with_trainable(|spec| spec.name.contains(&last) || spec.role == Role::Embedding);
        let top = whole.clone().with_trainable(|spec| spec.name.contains(&last));
        for d in [whole, part, top] {
            let l = layout(true);
            let expected = gradients(&d, &l, Options::default(), 1.0);
            let (send, receive) = std::sync::mpsc::channel();
            let mut sum = d.no_gradients();
            // Not of the passes before the last.
            let mut judge = |_: std::ops::Range<usize>, scores: &Scores| coefficients(scores.log_probs.len());
            d.learn(&l, Options::default(), &mut judge, &mut sum).unwrap();
            sum.hand_over(send);
            d.learn(&l, Options::default(), &mut judge, &mut sum).unwrap();
            d.hand_over_rest(&mut sum);
            assert!(sum.all().iter().all(Option::is_none), "{name}: none stays behind");
            sum.take_back([]);
            let handed: Vec<_> = receive.iter().collect();
            let order = d.backward_order();
            assert_eq!(handed.iter().map(|(id, _)| *id).collect::<Vec<_>>(), order);
            assert_eq!(order.len(), d.params().trainable().iter().filter(|t| **t).count());
            for (id, gradient) in &handed {
                assert_close(gradient.as_ref().unwrap(), &(expected.get(*id).unwrap().clone() * 2.0));
            }
            sum.take_back(handed);
            assert!(distance(&sum, &expected) > 0.0);
        }
    }
}

#[test]
fn freezing_all_but_the_norms_is_one_line() {
    let (_, config) = architectures().remove(0);
    let d = decoder(&config, &Device::flex()).with_trainable(|spec| spec.role == Role::Norm);
    let (some, all) = (gradients(&d, &layout(true), Options::default(), 1.0), on_tape(&d, &layout(true)));
    for ((spec, got), expected) in d.specs().iter().zip(some.all()).zip(&all) {
        assert_eq!(got.is_some(), spec.role == Role::Norm);
        if let Some(got) = got {
            assert_close(got, expected);
        }
    }
}

/// ‖a − b‖ / ‖b‖ over all parameters.
fn distance(a: &Grads, b: &Grads) -> f64 {
    let square = |t: Tensor<2>| f64::from(t.square().sum().into_scalar::<f32>());
    let (mut off, mut size) = (0.0, 0.0);
    for (a, b) in a.all().iter().flatten().zip(b.all().iter().flatten()) {
        off += square(a.clone() - b.clone());
        size += square(b.clone());
    }
    (off / size).sqrt()
}

#[test]
fn fewer_bits_change_gradients_by_their_rounding() {
    let l = layout(true);
    let gradients = |d: &Decoder, options: Options, size: f32| {
        let sum = gradients(d, &l, options, size);
        assert!(sum.all().iter().flatten().all(|g| g.dtype() == DType::F32));
        sum
    };
    let lean = Options { recomputed: ALL, logits: 3 * 40, ..Options::default() };
    for (name, config) in architectures() {
        let d = decoder(&config, &Device::flex());
        for precision in [Precision::Bf16, Precision::F16] {
            // Coefficients of a millionth would be lost to f16 as they are.
            for size in [1.0, 1e-6] {
                let exact = gradients(&d, Options::default(), size);
                let masters = d.clone().with_precision(precision, true).unwrap();
                let rounded = d.clone().with_precision(precision, false).unwrap();
                assert_eq!((masters.kept_in(), rounded.kept_in()), (Precision::F32, precision));
                let got = gradients(&masters, Options::default(), size);
                let off = distance(&got, &exact);
                assert!(off > 0.0 && off < 16.0 * precision.epsilon(), "{name}, {precision:?}, {size}: {off}");
                // The same numbers are computed with, and recomputed.
                assert_eq!(distance(&gradients(&rounded, Options::default(), size), &got), 0.0);
                assert!(distance(&gradients(&masters, lean, size), &got) < precision.epsilon());
            }
        }
    }
}

#[test]
fn sharing_a_prompt_changes_no_score() {
    for (name, config) in architectures() {
        let d = decoder(&config, &Device::flex());
        let options = Options { collision: true, ..Options::default() };
        let [a, b] = [true, false].map(|share| d.score(&layout(share), options).unwrap());
        for (x, y) in a.log_probs.iter().zip(&b.log_probs) {
            assert!((x - y).abs() < 1e-4, "{name}: {x} is not {y}");
        }
        for (x, y) in a.log_collisions.unwrap().iter().zip(&b.log_collisions.unwrap()) {
            assert!((x - y).abs() < 1e-4, "{name}: {x} is not {y}");
        }
    }
}

#[test]
fn what_the_model_cannot_take_is_named() {
    let (_, mut config) = architectures().remove(0);
    let mut l = Layout::default();
    l.push(&[1; 60], &[Text::whole(&[2; 6])], true).unwrap();
    let d = Decoder::random(config.clone(), 1, &Device::flex());
    assert_eq!(d.score(&l, Options::default()).unwrap().log_probs.len(), 6);
    config.bounded_by = Some("its dynamic rotary scaling sets in, which is not implemented");
    let d = Decoder::random(config, 1, &Device::flex());
    let said = d.score(&l, Options::default()).unwrap_err().to_string();
    assert!(said.contains("65 tokens") && said.contains("max_position_embeddings 64"), "{said}");
    let mut l = Layout::default();
    l.push(&[1, 40], &[Text::whole(&[2])], true).unwrap();
    let said = d.score(&l, Options::default()).unwrap_err().to_string();
    assert!(said.contains("token id 40") && said.contains("vocabulary of 40"), "{said}");
}
