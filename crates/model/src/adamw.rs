//! AdamW: Adam with decoupled weight decay (arXiv:1711.05101, algorithm 2).

use std::ops::Range;

use burn::tensor::{DType, Tensor};
use collimate_backend::kernels::Step;
use collimate_backend::read;

use crate::decoder::{Decoder, pooled};
use crate::params::{Grads, Tensors};

/// The constants of the optimiser, under the names that transformers gives them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// β₁, the decay of the mean of gradients.
    pub beta1: f64,
    /// β₂, the decay of the mean of their squares.
    pub beta2: f64,
    /// ε, beside the root.
    pub epsilon: f64,
    /// λ, times the learning rate: how much of a weight is taken away each step.
    pub weight_decay: f64,
}

/// The two moments of each trained parameter, in f32, in the order of the inventory, and how many steps they have seen.
#[derive(Clone, Debug)]
pub struct Moments {
    /// Means of gradients; none where a parameter is frozen.
    pub first: Vec<Option<Tensor<2>>>,
    /// Means of squared gradients; none where a parameter is frozen.
    pub second: Vec<Option<Tensor<2>>>,
    /// Optimiser steps taken.
    pub steps: u64,
}

impl Moments {
    /// Rows `of(n)` of those of each parameter of n rows; where that is none of them, there is no state.
    pub fn rows(self, of: impl Fn(usize) -> Range<usize>) -> Self {
        let part = |all: Vec<Option<Tensor<2>>>| {
            // A copy: a view would hold all of it.
            let copy = |t: Tensor<2>| Tensor::from_data(read(t.clone()), (&t.device(), t.dtype()));
            let part = |t: Tensor<2>| rows(&t, of(t.dims()[0])).map(copy);
            all.into_iter().map(|t| t.and_then(part)).collect()
        };
        Self { first: part(self.first), second: part(self.second), steps: self.steps }
    }

    /// No steps taken.
    pub fn new(decoder: &Decoder) -> Self {
        Self::new_rows(decoder, |n| 0..n)
    }

    /// No steps taken, of rows `of(n)` of each parameter of n rows.
    pub fn new_rows(decoder: &Decoder, of: impl Fn(usize) -> Range<usize>) -> Self {
        let params = decoder.parameters().0.iter().zip(decoder.params().trainable());
        let zero = |(p, trained): (&Tensor<2>, &bool)| {
            let [rows, columns] = p.dims();
            let rows = of(rows).len();
            (*trained && rows > 0).then(|| Tensor::zeros([rows, columns], (&p.device(), DType::F32)))
        };
        let zeros: Vec<_> = params.map(zero).collect();
        Self { first: zeros.clone(), second: zeros, steps: 0 }
    }
}

/// Those rows, if they are any.
pub(crate) fn rows(t: &Tensor<2>, range: Range<usize>) -> Option<Tensor<2>> {
    (!range.is_empty()).then(|| t.clone().narrow(0, range.start, range.len()))
}

impl AdamW {
    /// One step at learning rate η on all parameters that have a gradient, each gradient multiplied by `scale` first
    /// ([`Step`] has the formula). Norms and biases don't decay.
    pub fn step(&self, decoder: &mut Decoder, moments: &mut Moments, gradients: Grads, rate: f64, scale: f64) {
        let (profile, device) = (decoder.profile().clone(), decoder.device.clone());
        let kernels = decoder.kernels;
        let update = || self.update(decoder, moments, gradients, rate, scale);
        pooled(&kernels, || profile.timed("optimiser", &device, update));
    }

    /// The same, of the rows `of(n)` of each parameter of n rows, to which gradients and moments belong: what these become.
    /// The network stays as it is until it has [all rows](Decoder::set_value).
    pub fn step_rows(
        &self,
        decoder: &Decoder,
        moments: &mut Moments,
        gradients: Grads,
        (rate, scale): (f64, f64),
        of: impl Fn(usize) -> Range<usize>,
    ) -> Vec<Option<Tensor<2>>> {
        let mut own: Vec<_> = decoder.parameters().0.iter().map(|p| rows(p, of(p.dims()[0]))).collect();
        let has: Vec<bool> = gradients.all().iter().map(Option::is_some).collect();
        let update = || self.update_each(decoder, own.iter_mut().map(Option::as_mut), moments, gradients, rate, scale);
        decoder.pooled(|| decoder.timed("optimiser", update));
        own.into_iter().zip(has).map(|(p, has)| p.filter(|_| has)).collect()
    }

    fn update(&self, decoder: &mut Decoder, moments: &mut Moments, gradients: Grads, rate: f64, scale: f64) {
        // Taken out, so that they are written where they are.
        let mut values = std::mem::replace(decoder.params.values_mut(), Tensors(Vec::new()));
        self.update_each(decoder, values.0.iter_mut().map(Some), moments, gradients, rate, scale);
        *decoder.params.values_mut() = values;
        decoder.params.refresh();
    }

    fn update_each<'a>(
        &self,
        decoder: &Decoder,
        parameters: impl Iterator<Item = Option<&'a mut Tensor<2>>>,
        moments: &mut Moments,
        gradients: Grads,
        rate: f64,
        scale: f64,
    ) {
        moments.steps += 1;
        let kernel = decoder.kernels.adamw;
        let parameters = decoder.config.inventory.specs.iter().zip(parameters);
        let state = moments.first.iter_mut().zip(&mut moments.second);
        for (((spec, p), state), g) in parameters.zip(state).zip(gradients.into_all()) {
            let (Some(p), Some(g), (Some(m), Some(v))) = (p, g, state) else { continue };
            let step = Step {
                number: moments.steps,
                rate,
                beta1: self.beta1,
                beta2: self.beta2,
                epsilon: self.epsilon,
                weight_decay: if spec.decays() { self.weight_decay } else { 0.0 },
                scale,
            };
            kernel.step(&step, [p, m, v], g);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelConfig;
    use crate::layout::{Layout, Text};
    use crate::oracle::assert_close;
    use crate::params::{ParamId, Role};
    use crate::precision::Precision;
    use crate::readout::Options;
    use burn::tensor::Device;

    #[test]
    fn masters_keep_what_rounding_loses() {
        let table = serde_json::json!({
            "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2,
            "num_hidden_layers": 1, "vocab_size": 12, "max_position_embeddings": 16
        });
        let config = ModelConfig::from_value(&table, std::path::Path::new("config.json")).unwrap();
        let adamw = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
        let exact = Decoder::random(config, 1, &Device::flex());
        let ones = || {
            let mut g = exact.no_gradients();
            (0..exact.specs().len()).for_each(|i| g.add(ParamId(i), exact.parameters().0[i].ones_like()));
            g
        };
        for (masters, moves) in [(true, true), (false, false)] {
            let mut d = exact.clone().with_precision(Precision::Bf16, masters).unwrap();
            let before = d.clone();
            let mut moments = Moments::new(&d);
            // A norm's weight is 1: a step of 1e-5 is far below the distance of bf16 numbers there.
            adamw.step(&mut d, &mut moments, ones(), 1e-5, 1.0);
            let weight = d.config.network.norm.weight.expect("Llama's norms have weights");
            let norm = |d: &Decoder| d.parameters().0[weight.index()].clone().cast(DType::F32);
            let moved = (norm(&before) - norm(&d)).mean().into_scalar::<f32>();
            assert_eq!(moved > 0.9e-5, moves, "{moved}");
            let computed = d.params.get(weight).clone();
            assert_eq!(computed.dtype(), DType::BF16);
            assert_close(&computed.cast(DType::F32), &norm(&d).cast(DType::BF16).cast(DType::F32));
        }
    }

    #[test]
    fn norms_and_biases_do_not_decay() {
        let table = serde_json::json!({
            "model_type": "qwen2", "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2,
            "num_hidden_layers": 1, "vocab_size": 12, "max_position_embeddings": 16
        });
        let config = ModelConfig::from_value(&table, std::path::Path::new("config.json")).unwrap();
        let adamw = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.5 };
        let mut d = Decoder::random(config, 1, &Device::flex());
        let before = d.clone();
        let mut none = d.no_gradients();
        (0..d.specs().len()).for_each(|i| none.add(ParamId(i), d.parameters().0[i].zeros_like()));
        let mut moments = Moments::new(&d);
        adamw.step(&mut d, &mut moments, none, 0.1, 1.0);
        for ((spec, new), old) in d.specs().iter().zip(&d.parameters().0).zip(&before.parameters().0) {
            let keeps = if spec.name.contains("norm") || spec.name.ends_with("bias") { 1.0 } else { 0.95 };
            assert_close(new, &(old.clone() * keeps));
        }
    }

    #[test]
    fn what_is_frozen_has_no_state_and_stays() {
        let table = serde_json::json!({
            "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2,
            "num_hidden_layers": 2, "vocab_size": 12, "max_position_embeddings": 16
        });
        let config = ModelConfig::from_value(&table, std::path::Path::new("config.json")).unwrap();
        let adamw = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.1 };
        let all = Decoder::random(config, 1, &Device::flex());
        let mut d = all.clone().with_trainable(|spec| spec.role == Role::Norm);
        let mut layout = Layout::default();
        layout.push(&[1, 2], &[Text::whole(&[3, 4])], true).unwrap();
        let gradients = |d: &Decoder| {
            let mut sum = d.no_gradients();
            d.learn(&layout, Options::default(), &mut |_, _| vec![1.0, -0.5], &mut sum).unwrap();
            sum
        };
        let (some, whole) = (gradients(&d), gradients(&all));
        let mut moments = Moments::new(&d);
        let before = d.clone();
        for (i, spec) in d.specs().iter().enumerate() {
            let trained = spec.role == Role::Norm;
            assert_eq!(
                (some.get(ParamId(i)).is_some(), moments.first[i].is_some()),
                (trained, trained),
                "{}",
                spec.name
            );
            if let Some(g) = some.get(ParamId(i)) {
                assert_close(g, whole.get(ParamId(i)).unwrap());
            }
        }
        adamw.step(&mut d, &mut moments, some, 0.1, 1.0);
        for ((spec, new), old) in d.specs().iter().zip(&d.parameters().0).zip(&before.parameters().0) {
            assert_eq!(new.to_data() == old.to_data(), spec.role != Role::Norm, "{}", spec.name);
        }
    }
}
