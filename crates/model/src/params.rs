//! The parameters of a decoder: one id each, by which values, gradients and optimiser state are found.

use std::sync::mpsc::Sender;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use collimate_backend::kernels::{AdamW as Optimiser, Sum};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::blocks::Adapter;
use crate::error::Error;
use crate::precision::Precision;

/// A parameter's place in its [`Inventory`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId(pub(crate) usize);

impl ParamId {
    /// Its place in the inventory's order.
    pub fn index(self) -> usize {
        self.0
    }
}

/// What a parameter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A row for each entry of the vocabulary.
    Embedding,
    /// The matrix of a linear map.
    Weight,
    /// That of a router or of one of its experts: trained as any other, and no adapter stands beside it.
    Routed,
    /// What a linear map adds.
    Bias,
    /// What a norm multiplies by.
    Norm,
}

/// A name and a shape: what a checkpoint must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The name in the checkpoint.
    pub name: String,
    /// The shape in the checkpoint, of one or two dimensions.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: Role,
    /// Whether the checkpoint has a matrix the other way round, `[in, out]`.
    pub transposed: bool,
    /// Where the checkpoint has it stacked with others of its shape in one tensor.
    pub stacked: Option<Stacked>,
}

/// A place in a tensor of one dimension more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stacked {
    /// The name of that in the checkpoint.
    pub name: String,
    /// How many there are in it.
    pub of: usize,
    /// Which of them it is.
    pub at: usize,
}

impl Spec {
    /// Rows and columns of the tensor that holds it: a vector is one row.
    pub fn dims(&self) -> [usize; 2] {
        match self.shape[..] {
            [n] => [1, n],
            [r, c] if self.transposed => [c, r],
            [r, c] => [r, c],
            _ => unreachable!("a decoder's parameters have one or two dimensions"),
        }
    }

    /// The f32 tensor of it, from host values in the order of the checkpoint.
    pub(crate) fn tensor(&self, mut values: Vec<f32>, device: &Device) -> Tensor<2> {
        if self.transposed {
            let [rows, columns] = self.dims();
            values = (0..rows * columns).map(|i| values[i % columns * rows + i / columns]).collect();
        }
        Tensor::from_data(TensorData::new(values, self.dims()), (device, DType::F32))
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether weight decay applies: norms and biases are left alone, as transformers leaves them.
    pub fn decays(&self) -> bool {
        matches!(self.role, Role::Embedding | Role::Weight | Role::Routed)
    }
}

/// All parameters of an architecture, in the order in which they are kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inventory {
    /// Name, shape and role of each.
    pub specs: Vec<Spec>,
    /// The adapters of linear maps, whose parameters then stand behind all others.
    pub adapted: Option<Adapted>,
}

/// What an adapted network has beside its own parameters, which are frozen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Adapted {
    /// Where the parameters of adapters begin.
    pub first: usize,
    /// Weights with their adapters.
    pub linear: Vec<(ParamId, Adapter)>,
    /// Parameters with the copies that are trained and read in their place.
    pub replaced: Vec<(ParamId, ParamId)>,
}

impl Inventory {
    /// Declares the next parameter, of a shape of one or two dimensions.
    pub fn add(&mut self, name: String, shape: &[usize], role: Role) -> ParamId {
        self.specs.push(Spec { name, shape: shape.to_vec(), role, transposed: false, stacked: None });
        ParamId(self.specs.len() - 1)
    }

    /// Declares the next parameter, a matrix that the checkpoint has the other way round: of the shape `[in, out]` there.
    pub fn add_transposed(&mut self, name: String, shape: [usize; 2], role: Role) -> ParamId {
        self.specs.push(Spec { name, shape: shape.to_vec(), role, transposed: true, stacked: None });
        ParamId(self.specs.len() - 1)
    }

    /// Declares the next parameter, a matrix that the checkpoint has in a stack: those of one stack follow each other.
    pub fn add_stacked(&mut self, name: String, shape: [usize; 2], role: Role, stacked: Stacked) -> ParamId {
        self.specs.push(Spec { name, shape: shape.to_vec(), role, transposed: false, stacked: Some(stacked) });
        ParamId(self.specs.len() - 1)
    }

    /// The number of elements of all parameters.
    pub fn elements(&self) -> usize {
        self.specs.iter().map(Spec::len).sum()
    }

    /// How many numbers the adapters hold at the widest point of the backward pass on so many tokens.
    pub(crate) fn held_by_adapters(&self, tokens: usize) -> usize {
        let held = |(weight, adapter): &(ParamId, Adapter)| {
            let ([out, inp], [rank, _]) = (self.specs[weight.0].dims(), self.specs[adapter.a.0].dims());
            let dropped = if adapter.dropout > 0.0 { 3 * inp } else { 0 };
            let stretched = if adapter.magnitude.is_some() { 2 * out } else { 0 };
            tokens * (2 * rank + dropped + stretched) + if adapter.magnitude.is_some() { out * inp } else { 0 }
        };
        self.adapted.iter().flat_map(|a| &a.linear).map(held).max().unwrap_or(0)
    }

    /// The adapter of each weight that has one.
    fn adapters(&self) -> Vec<Option<Adapter>> {
        let mut all = vec![None; self.specs.len()];
        self.adapted.iter().flat_map(|a| &a.linear).for_each(|(weight, adapter)| all[weight.0] = Some(*adapter));
        all
    }

    /// The parameter of that name.
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.specs.iter().position(|s| s.name == name).map(ParamId)
    }
}

/// One tensor per entry of an [`Inventory`], in its order.
#[derive(Clone, Debug)]
pub struct Tensors(pub Vec<Tensor<2>>);

impl Tensors {
    /// From host values, in the order of an inventory.
    pub fn from_host(inventory: &Inventory, values: Vec<Vec<f32>>, device: &Device) -> Self {
        let tensors = inventory.specs.iter().zip(values);
        Self(tensors.map(|(s, v)| s.tensor(v, device)).collect())
    }

    /// Rounded to another type.
    #[cfg(test)]
    pub(crate) fn cast(&self, precision: Precision) -> Self {
        Self(self.0.iter().map(|t| t.clone().cast(precision.dtype())).collect())
    }
}

/// Normal numbers of mean 0 and this deviation, without end.
pub(crate) fn normal(seed: u64, deviation: f64) -> impl Iterator<Item = f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    std::iter::repeat_with(move || {
        // Box and Muller's transform, one half of it.
        let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos() * deviation) as f32
    })
}

/// The parameters of one decoder: their values, the rounded copies that are computed with if there are any, and which of
/// them are trained.
#[derive(Clone, Debug)]
pub struct Params {
    values: Tensors,
    /// What is computed with, where that is not the value itself: f32 masters rounded to fewer bits.
    working: Vec<Option<Tensor<2>>>,
    precision: Precision,
    trainable: Vec<bool>,
    /// By the weight of their linear map.
    adapters: Vec<Option<Adapter>>,
    /// Which parameter is read where this one is asked for.
    reads: Vec<usize>,
    /// Whether what is frozen is kept as it is computed with: the adapters alone are results.
    lean: bool,
}

impl Params {
    /// Values in the order of their inventory, all of them trained, computed with as they are.
    pub fn new(values: Tensors) -> Self {
        let n = values.0.len();
        Self {
            values,
            working: vec![None; n],
            precision: Precision::F32,
            trainable: vec![true; n],
            adapters: vec![None; n],
            reads: (0..n).collect(),
            lean: false,
        }
    }

    /// The same with the adapters of an inventory, if it has any: these are then trained, and nothing else.
    pub fn with_adapters(mut self, inventory: &Inventory) -> Self {
        let Some(adapted) = &inventory.adapted else { return self };
        self.adapters = inventory.adapters();
        adapted.replaced.iter().for_each(|(old, new)| self.reads[old.0] = new.0);
        self.trainable = (0..self.values.0.len()).map(|i| i >= adapted.first).collect();
        self.lean = true;
        self
    }

    /// The same with all adapters off: what they were put beside. The values are shared.
    pub fn without_adapters(mut self) -> Self {
        let n = self.values.0.len();
        (self.adapters, self.reads) = (vec![None; n], (0..n).collect());
        self
    }

    /// Normal with deviation 0.02, norms 1, biases 0; the same on every backend.
    pub(crate) fn random(inventory: &Inventory, seed: u64, device: &Device) -> Self {
        let mut normal = normal(seed, 0.02);
        let values = inventory.specs.iter().map(|s| match s.role {
            Role::Norm => vec![1.0; s.len()],
            Role::Bias => vec![0.0; s.len()],
            Role::Embedding | Role::Weight | Role::Routed => normal.by_ref().take(s.len()).collect(),
        });
        Self::new(Tensors::from_host(inventory, values.collect(), device)).with_adapters(inventory)
    }

    pub(crate) fn set_precision(&mut self, precision: Precision, masters: bool, device: &Device) -> Result<(), Error> {
        precision.check(device)?;
        self.precision = precision;
        for (value, trained) in self.values.0.iter_mut().zip(&self.trainable) {
            let master = masters && (*trained || !self.lean);
            *value = value.clone().cast(if master { Precision::F32 } else { precision }.dtype());
        }
        self.round(|_| true);
        Ok(())
    }

    /// Rounds the values of trained parameters anew, where they are not computed with themselves.
    pub(crate) fn refresh(&mut self) {
        let trainable = std::mem::take(&mut self.trainable);
        self.round(|i| trainable[i]);
        self.trainable = trainable;
    }

    fn round(&mut self, which: impl Fn(usize) -> bool) {
        (0..self.working.len()).filter(|i| which(*i)).for_each(|i| self.round_one(i));
    }

    fn round_one(&mut self, i: usize) {
        let (value, dtype) = (&self.values.0[i], self.precision.dtype());
        self.working[i] = (value.dtype() != dtype).then(|| value.clone().cast(dtype));
    }

    pub(crate) fn set(&mut self, id: ParamId, value: Tensor<2>) {
        self.values.0[id.0] = value;
        self.round_one(id.0);
    }

    /// What is computed in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// What the values that are trained are kept in.
    pub fn kept_in(&self) -> Precision {
        if self.working.iter().any(Option::is_some) { Precision::F32 } else { self.precision }
    }

    /// The values, as they are kept.
    pub fn values(&self) -> &Tensors {
        &self.values
    }

    pub(crate) fn values_mut(&mut self) -> &mut Tensors {
        &mut self.values
    }

    /// What is computed with.
    pub fn get(&self, id: ParamId) -> &Tensor<2> {
        let at = self.reads[id.0];
        self.working[at].as_ref().unwrap_or(&self.values.0[at])
    }

    /// The parameter that is read where that one is asked for.
    pub(crate) fn read_for(&self, id: ParamId) -> ParamId {
        ParamId(self.reads[id.0])
    }

    /// The adapter of the linear map of that weight, if it has one.
    pub fn adapter(&self, weight: ParamId) -> Option<&Adapter> {
        self.adapters[weight.0].as_ref()
    }

    /// Whether anything is dropped out while training.
    pub fn has_dropout(&self) -> bool {
        self.adapters.iter().flatten().any(|a| a.dropout > 0.0)
    }

    /// Whether a parameter is trained.
    pub fn is_trainable(&self, id: ParamId) -> bool {
        self.trainable[self.reads[id.0]]
    }

    /// Says which parameters are trained.
    pub fn set_trainable(&mut self, inventory: &Inventory, trained: impl Fn(&Spec) -> bool) {
        self.trainable = inventory.specs.iter().map(trained).collect();
    }

    /// One flag a parameter.
    pub fn trainable(&self) -> &[bool] {
        &self.trainable
    }
}

/// The gradient of a parameter that nothing is added to any more; none if nothing ever was.
pub type Ready = (ParamId, Option<Tensor<2>>);

/// Gradients of the trained parameters, by id, in f32.
#[derive(Clone, Debug)]
pub struct Grads {
    sums: Vec<Option<Tensor<2>>>,
    trainable: Vec<bool>,
    /// Which parameter a gradient is of.
    reads: Vec<usize>,
    /// What terms are multiplied by on their way in: 1 over the loss scale of the pass that adds them.
    by: f64,
    /// Who gets gradients as soon as they are ready, and which are gone.
    receiver: Option<(Sender<Ready>, Vec<bool>)>,
}

impl Grads {
    /// No gradients yet, for the parameters that are trained.
    pub fn new(params: &Params) -> Self {
        let (trainable, reads) = (params.trainable.clone(), params.reads.clone());
        Self { sums: vec![None; trainable.len()], trainable, reads, by: 1.0, receiver: None }
    }

    /// What is added until the next call comes from cotangents that were multiplied by `scale`.
    pub(crate) fn divide_by(&mut self, scale: f64) {
        self.by = 1.0 / scale;
    }

    /// Has one more backward pass, the last: gradients go to `receiver` as soon as the pass is done with their parameters, in
    /// the order of [`Decoder::backward_order`](crate::Decoder::backward_order).
    pub fn hand_over(&mut self, receiver: Sender<Ready>) {
        self.receiver = Some((receiver, vec![false; self.sums.len()]));
    }

    pub(crate) fn are_handed_over(&self) -> bool {
        self.receiver.is_some()
    }

    /// Nothing is added any more to those of `ids` that are trained.
    pub(crate) fn done(&mut self, ids: &[ParamId]) {
        let Some((receiver, gone)) = &mut self.receiver else { return };
        for id in ids.iter().filter(|id| self.trainable[id.0]) {
            if !std::mem::replace(&mut gone[id.0], true) {
                // Whoever has stopped listening has failed, and says why.
                let _ = receiver.send((*id, self.sums[id.0].take()));
            }
        }
    }

    /// Gradients that were made of those that were handed over.
    pub fn take_back(&mut self, all: impl IntoIterator<Item = Ready>) {
        self.receiver = None;
        all.into_iter().for_each(|(id, gradient)| self.sums[id.0] = gradient);
    }

    /// Where the gradient of a parameter is added up; none if it is frozen.
    pub fn sum(&mut self, id: ParamId) -> Option<Sum<'_>> {
        let at = self.reads[id.0];
        debug_assert!(self.receiver.as_ref().is_none_or(|(_, gone)| !gone[at]), "parameter {at} was done with");
        self.trainable[at].then(|| Sum::new(&mut self.sums[at], self.by))
    }

    /// Adds to a gradient, if the parameter is trained.
    pub fn add(&mut self, id: ParamId, more: Tensor<2>) {
        if let Some(mut sum) = self.sum(id) {
            sum.add(more);
        }
    }

    /// Adds rows at `places` of a parameter of `rows` rows, if it is trained.
    pub(crate) fn add_rows(&mut self, id: ParamId, rows: usize, places: Tensor<1, Int>, more: Tensor<2>) {
        if let Some(mut sum) = self.sum(id) {
            sum.add_rows(rows, places, more);
        }
    }

    /// The gradient of a parameter, if it has one.
    pub fn get(&self, id: ParamId) -> Option<&Tensor<2>> {
        self.sums[id.0].as_ref()
    }

    /// All of them, in the order of the inventory.
    pub fn all(&self) -> &[Option<Tensor<2>>] {
        &self.sums
    }

    pub(crate) fn into_all(self) -> Vec<Option<Tensor<2>>> {
        self.sums
    }

    /// √Σ g² over all of them.
    pub(crate) fn norm(&self, kernel: &dyn Optimiser) -> f64 {
        kernel.sum_of_squares(&self.sums.iter().flatten().collect::<Vec<_>>()).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_are_f32_whatever_was_given() {
        let mut inventory = Inventory::default();
        let id = inventory.add("w".into(), &[2, 3], Role::Weight);
        let device = Device::flex();
        let mut params = Params::random(&inventory, 1, &device);
        params.set_precision(Precision::Bf16, false, &device).unwrap();
        params.set_precision(Precision::Bf16, true, &device).unwrap();
        assert_eq!((params.values().0[0].dtype(), params.get(id).dtype()), (DType::F32, DType::BF16));
        params.set_precision(Precision::F32, true, &device).unwrap();
        assert_eq!((params.get(id).dtype(), params.kept_in()), (DType::F32, Precision::F32));
    }
}
