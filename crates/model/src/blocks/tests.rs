//! Every block against automatic differentiation of its own forward pass.

use super::*;
use crate::arch::Builder;
use crate::layout::Text;
use crate::oracle::{assert_close, elsewhere, random};
use crate::params::{Inventory, Role, Tensors};
use crate::rotary::RopeScaling;
use collimate_backend::kernels::{Activation, Heads};

const WIDTH: usize = 8;
const HEADS: Heads = Heads { queries: 4, keys: 2, dim: 4 };
const WINDOWS: [Option<usize>; 2] = [None, Some(3)];

/// Every block that a network may be made of, at least once, each with its parameters and the width of its input.
fn blocks() -> Vec<(&'static str, Inventory, Box<dyn AnyBlock>)> {
    let mut all: Vec<(&'static str, Inventory, Box<dyn AnyBlock>)> = Vec::new();
    let mut add = |name, make: &dyn Fn(&mut Builder) -> Box<dyn AnyBlock>| {
        let mut b = Builder::default();
        let block = make(&mut b);
        all.push((name, b.0, block));
    };
    add("linear", &|b| Box::new(b.linear("l", 5, WIDTH, true)));
    add("norm", &|b| Box::new(b.norm("n", WIDTH, 1e-5)));
    add("norm of each head", &|b| Box::new(b.norm("n", WIDTH / 2, 1e-5)));
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
        add("gated feed-forward", &|b| Box::new(mlp(b, activation)));
    }
    add("attention", &|b| Box::new(attention(b, None, false, false)));
    add("attention with norms and a window", &|b| Box::new(attention(b, Some(3), true, false)));
    add("the last attention", &|b| Box::new(attention(b, None, false, true)));
    add("residual", &|b| Box::new(Residual { inner: mlp(b, Activation::Silu), narrows: false }));
    add("the last residual", &|b| Box::new(Residual { inner: attention(b, None, false, true), narrows: true }));
    add("behind a norm", &|b| Box::new(Normed { norm: b.norm("n", WIDTH, 1e-5), inner: mlp(b, Activation::Silu) }));
    add("one after the other", &|b| Box::new(Then(mlp(b, Activation::Silu), b.norm("n", WIDTH, 1e-5))));
    add("recomputed", &|b| Box::new(Recompute(attention(b, Some(3), true, false))));
    all
}

fn mlp(b: &mut Builder, activation: Activation) -> GatedMlp {
    let [gate, up] = ["gate", "up"].map(|name| b.linear(name, 6, WIDTH, true));
    GatedMlp { gate, up, down: b.linear("down", WIDTH, 6, false), activation, inner: 6 }
}

fn attention(b: &mut Builder, window: Option<usize>, normed: bool, narrows: bool) -> Attention {
    let (q, kv) = (HEADS.queries * HEADS.dim, HEADS.keys * HEADS.dim);
    Attention {
        q: b.linear("q", q, WIDTH, true),
        k: b.linear("k", kv, WIDTH, false),
        v: b.linear("v", kv, WIDTH, true),
        o: b.linear("o", WIDTH, q, false),
        norms: normed.then(|| ["q_norm", "k_norm"].map(|name| b.norm(name, HEADS.dim, 1e-5))),
        rotary: (!narrows).then_some(0),
        window,
        heads: HEADS,
        narrows,
        slot: 0,
    }
}

fn batch(device: &Device) -> Batch {
    let mut layout = Layout::default();
    layout.push(&[1, 2, 3], &[Text::whole(&[4, 5]), Text::whole(&[6, 7, 8])], true).unwrap();
    layout.push(&[1], &[Text::whole(&[2, 3])], true).unwrap();
    Batch::new(&layout, &[Rotary::new(HEADS.dim, 100.0, &RopeScaling::None)], &WINDOWS, device)
}

fn params(inventory: &Inventory, device: &Device) -> Params {
    let values = inventory.specs.iter().enumerate();
    Params::new(Tensors(values.map(|(i, spec)| random(spec.dims(), 10 + i as u64, device)).collect()))
}

/// Runs `f` with all that a block may ask for.
fn with_cx<R>(params: &Params, device: &Device, recompute: bool, f: impl FnOnce(&Cx<'_>) -> R) -> R {
    let (kernels, batch, profile) = (Kernels::on(device), batch(device), Profile::default());
    f(&Cx { params, kernels: &kernels, batch: &batch, recompute, profile: &profile, device })
}

#[test]
fn backward_is_that_of_forward() {
    for (name, inventory, block) in blocks() {
        for device in [Device::flex(), elsewhere()] {
            let tape = device.clone().autodiff();
            let tokens = batch(&device).tokens;
            let x = random([tokens, WIDTH], 1, &device);
            // On the tape, where tensor operations do everything.
            let values = params(&inventory, &device);
            let leaves: Vec<_> = values.values().0.iter().map(|t| t.clone().autodiff().require_grad()).collect();
            let input = x.clone().autodiff().require_grad();
            let y = with_cx(&Params::new(Tensors(leaves.clone())), &tape, false, |cx| {
                AnyBlock::forward(&*block, cx, input.clone()).0
            });
            let dy = random(y.dims(), 2, &device);
            let expected = (y.clone() * dy.clone().autodiff()).sum().backward();
            for recompute in [false, true] {
                let mut grads = Grads::new(&values);
                let dx = with_cx(&values, &device, recompute, |cx| {
                    let (got, saved) = AnyBlock::forward(&*block, cx, x.clone());
                    assert_close(&got, &y.clone().inner());
                    AnyBlock::backward(&*block, cx, x.clone(), saved, dy.clone(), &mut grads)
                });
                eprintln!("{name} on {device:?}");
                assert_close(&dx, &input.grad(&expected).unwrap());
                AnyBlock::params(&*block, &mut |id| {
                    assert_close(grads.get(id).unwrap(), &leaves[id.index()].grad(&expected).unwrap());
                });
            }
        }
    }
}

#[test]
fn a_frozen_parameter_gets_no_gradient_and_the_others_the_same() {
    for (name, inventory, block) in blocks() {
        let device = Device::flex();
        let all = params(&inventory, &device);
        let mut some = all.clone();
        some.set_trainable(&inventory, |spec| spec.role != Role::Weight);
        let x = random([batch(&device).tokens, WIDTH], 1, &device);
        let run = |params: &Params| {
            let mut grads = Grads::new(params);
            let dx = with_cx(params, &device, false, |cx| {
                let (y, saved) = AnyBlock::forward(&*block, cx, x.clone());
                let dy = random(y.dims(), 2, &device);
                AnyBlock::backward(&*block, cx, x.clone(), saved, dy, &mut grads)
            });
            (dx, grads)
        };
        let ((dx, expected), (same, got)) = (run(&all), run(&some));
        assert_eq!(dx.to_data(), same.to_data(), "{name}");
        for (i, spec) in inventory.specs.iter().enumerate() {
            let (got, expected) = (got.get(ParamId(i)), expected.get(ParamId(i)).unwrap());
            match spec.role {
                Role::Weight => assert!(got.is_none(), "{name}: {}", spec.name),
                _ => assert_eq!(got.unwrap().to_data(), expected.to_data(), "{name}: {}", spec.name),
            }
        }
    }
}

#[test]
fn every_parameter_is_somebodys() {
    for (name, inventory, block) in blocks() {
        let mut seen = vec![0; inventory.specs.len()];
        AnyBlock::params(&*block, &mut |id| seen[id.index()] += 1);
        assert!(seen.iter().all(|n| *n == 1), "{name}: {seen:?}");
    }
}
