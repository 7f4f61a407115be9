//! What networks are made of: one block, one file, with its forward pass, its backward pass, what it keeps between them
//! and how much that is.
//!
//! A block's input is handed to its backward pass by whoever called the block: so that its holder decides whether it
//! was stored or is computed anew, and no two blocks keep the same tensor twice.

mod adapter;
mod attention;
mod balance;
mod embedding;
mod experts;
mod linear;
mod mlp;
mod norm;
mod parallel;
mod recompute;
mod residual;
mod shared;

pub use adapter::Adapter;
pub use attention::{Attention, Qkv};
pub use balance::Balance;
pub use embedding::Embedding;
pub use experts::Experts;
pub use linear::Linear;
pub use mlp::{GateUp, GatedMlp, Mlp};
pub use norm::{Norm, Normed};
pub use parallel::Parallel;
pub use recompute::Recompute;
pub use residual::Residual;
pub use shared::Shared;

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Debug;

use burn::tensor::{DType, Device, IndexingUpdateOp, Int, Tensor, TensorData};
use collimate_backend::kernels::{self, Growth, Kernels, Mask, Packed};

use crate::layout::Layout;
use crate::memory::Load;
use crate::params::{Grads, ParamId, Params};
use crate::profile::Profile;
use crate::rotary::Rotary;

/// What every block may ask for while it runs: parameters, kernels, and what the batch has in common for all layers.
#[derive(Clone, Copy, Debug)]
pub struct Cx<'a> {
    /// The parameters.
    pub params: &'a Params,
    /// The kernels of the device.
    pub kernels: &'a Kernels,
    /// The batch.
    pub batch: &'a Batch,
    /// Where the batch has the newest tokens of texts in progress: what the kernels made of each parameter.
    pub packed: Option<&'a [Option<Packed>]>,
    /// Whether this layer is to be recomputed in the backward pass.
    pub recompute: bool,
    /// While training: what dropout in this pass is drawn from.
    pub dropout: Option<u64>,
    /// What measures the pieces.
    pub profile: &'a Profile,
    /// Where all of it lies.
    pub device: &'a Device,
}

impl<'a> Cx<'a> {
    /// What is computed with for that parameter.
    pub fn p(&self, id: ParamId) -> &'a Tensor<2> {
        self.params.get(id)
    }

    /// Runs a piece under the profile's stopwatch.
    pub fn timed<R>(&self, piece: &'static str, run: impl FnOnce() -> R) -> R {
        self.profile.timed(piece, self.device, run)
    }
}

/// What all layers share for one batch.
#[derive(Debug)]
pub struct Batch {
    /// What the tokens' positions turn by, for each rotary embedding of the network.
    pub rotary: Vec<Turns>,
    /// Who attends to whom, by window.
    pub masks: BTreeMap<Option<usize>, Mask>,
    /// The inputs whose last hidden state is read, in rising order: behind the last attention only they go on.
    pub kept: Tensor<1, Int>,
    /// For each scored token, its predictor among `kept`.
    pub readers: Tensor<1, Int>,
    /// Input token ids.
    pub ids: Tensor<1, Int>,
    /// The position of each in its text.
    pub positions: Tensor<1, Int>,
    /// The number of input tokens.
    pub tokens: usize,
    /// Where the loss that balances experts is wanted: what they tell it.
    pub balance: Option<Balance>,
}

impl Batch {
    /// What layers of these rotary embeddings and windows share on a batch.
    pub fn new(layout: &Layout, rotary: &[Rotary], windows: &[Option<usize>], device: &Device) -> Self {
        let masks = windows.iter().map(|w| (*w, Mask::new(&layout.rows, *w, device)));
        let mut kept = match layout.whole {
            true => (0..layout.tokens() as u32).collect(),
            false => layout.predictors.clone(),
        };
        kept.sort_unstable();
        kept.dedup();
        let readers = layout.predictors.iter().map(|p| kept.binary_search(p).expect("kept holds all") as u32).collect();
        Self {
            rotary: tables(rotary, &layout.positions, device),
            masks: masks.collect(),
            kept: ints(kept, device),
            readers: ints(readers, device),
            ids: ints(layout.ids.clone(), device),
            positions: ints(layout.positions.clone(), device),
            tokens: layout.tokens(),
            balance: None,
        }
    }

    /// Texts in progress: the newest tokens of each, and the position of their first. The last of each is read.
    pub(crate) fn extending(texts: &[(&[u32], usize)], rotary: &[Rotary], device: &Device) -> Self {
        let positions = texts.iter().flat_map(|(new, at)| (*at..at + new.len()).map(|p| p as u32)).collect::<Vec<_>>();
        let ends = texts.iter().scan(0, |end, (new, _)| {
            *end += new.len() as u32;
            Some(*end - 1)
        });
        Self {
            rotary: tables(rotary, &positions, device),
            masks: BTreeMap::new(),
            kept: ints(ends.collect(), device),
            readers: ints((0..texts.len() as u32).collect(), device),
            ids: ints(texts.iter().flat_map(|(new, _)| new.iter().copied()).collect(), device),
            tokens: positions.len(),
            positions: ints(positions, device),
            balance: None,
        }
    }

    /// The rows of `x` that are read.
    pub fn narrow(&self, x: Tensor<2>) -> Tensor<2> {
        x.select(0, self.kept.clone())
    }

    /// The way back of [`narrow`](Self::narrow): 0 in the rows that were left out.
    pub fn widen(&self, dy: Tensor<2>) -> Tensor<2> {
        scatter(dy, &self.kept, self.tokens)
    }
}

/// A rotary embedding of a batch's positions.
#[derive(Debug)]
pub struct Turns {
    /// Cosines and sines `[tokens, d/2]`.
    cos: Tensor<2>,
    sin: Tensor<2>,
    /// Where a head's columns are not paired as halves, or do not all turn: the order that pairs them so, and its inverse.
    order: Option<[Tensor<1, Int>; 2]>,
}

impl Turns {
    /// Queries or keys `[tokens, heads·d]`, turned. Both have their columns in the same order, which no product of them sees.
    pub fn turn(&self, cx: &Cx<'_>, x: Tensor<2>) -> Tensor<2> {
        let x = match &self.order {
            Some([order, _]) => arranged(x, order),
            None => x,
        };
        cx.kernels.rope.forward(x, &self.cos, &self.sin)
    }

    /// The way back of [`turn`](Self::turn).
    pub fn turn_back(&self, cx: &Cx<'_>, dy: Tensor<2>) -> Tensor<2> {
        let dx = cx.kernels.rope.backward(dy, &self.cos, &self.sin);
        match &self.order {
            Some([_, inverse]) => arranged(dx, inverse),
            None => dx,
        }
    }
}

/// The columns of each head in another order.
fn arranged(x: Tensor<2>, order: &Tensor<1, Int>) -> Tensor<2> {
    let ([tokens, width], [d]) = (x.dims(), order.dims());
    x.reshape([tokens * width / d, d]).select(1, order.clone()).reshape([tokens, width])
}

fn tables(rotary: &[Rotary], positions: &[u32], device: &Device) -> Vec<Turns> {
    let of = |r: &Rotary| {
        let (cos, sin) = r.tables(positions);
        let shape = [positions.len(), cos.len() / positions.len().max(1)];
        let on_device = |v| Tensor::from_data(TensorData::new(v, shape), (device, DType::F32));
        let order = r.order().map(|order| {
            let mut inverse = vec![0; order.len()];
            order.iter().enumerate().for_each(|(to, from)| inverse[*from as usize] = to as u32);
            [order.to_vec(), inverse].map(|o| ints(o, device))
        });
        Turns { cos: on_device(cos), sin: on_device(sin), order }
    };
    rotary.iter().map(of).collect()
}

fn ints(values: Vec<u32>, device: &Device) -> Tensor<1, Int> {
    let n = values.len();
    let values: Vec<i32> = values.into_iter().map(|v| v as i32).collect();
    Tensor::from_data(TensorData::new(values, [n]), device)
}

/// Rows of `x` added at `places` of a zero matrix of `rows` rows.
pub(crate) fn scatter(x: Tensor<2>, places: &Tensor<1, Int>, rows: usize) -> Tensor<2> {
    let zeros = Tensor::zeros([rows, x.dims()[1]], (&x.device(), x.dtype()));
    zeros.select_assign(0, places.clone(), x, IndexingUpdateOp::Add)
}

/// Keys and values of texts in progress, by the slot of their attention, and the step that is under way.
#[derive(Debug, Default)]
pub struct Cache {
    pub(crate) slots: Vec<Option<Box<dyn kernels::Cache>>>,
    pub(crate) growth: Growth,
}

impl Cache {
    /// An empty one.
    pub(crate) fn new(slots: usize) -> Self {
        Self { slots: (0..slots).map(|_| None).collect(), growth: Growth::default() }
    }
}

/// Where a block would run, for a prediction.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// The batch.
    pub load: &'a Load,
    /// Width of the residual stream.
    pub width: usize,
    /// The kernels of the device.
    pub kernels: &'a Kernels,
}

/// How many numbers a block keeps for its backward pass, and how many it holds there beside them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Kept from the forward to the backward pass, in the type that is computed in.
    pub kept: usize,
    /// Held at the widest point of the backward pass, in f32.
    pub held: usize,
    /// Bytes of attention scores at a time.
    pub scores: usize,
}

impl Numbers {
    /// Two blocks one after the other.
    pub fn then(self, next: Self) -> Self {
        Self { kept: self.kept + next.kept, held: self.held.max(next.held), scores: self.scores.max(next.scores) }
    }
}

/// A piece of a network that maps rows to rows: x `[tokens, in]` to y `[tokens, out]` (in the last layer, to the rows that
/// are read).
pub trait Block: Debug + Send + Sync {
    /// What the forward pass keeps for the backward pass, the input aside.
    type Saved: Send + 'static;

    /// y, and what the backward pass wants.
    fn forward(&self, cx: &Cx<'_>, x: Tensor<2>) -> (Tensor<2>, Self::Saved);

    /// From dy to dx; the gradients of the block's trained parameters are added to `grads`.
    fn backward(&self, cx: &Cx<'_>, x: Tensor<2>, saved: Self::Saved, dy: Tensor<2>, grads: &mut Grads) -> Tensor<2>;

    /// y for the newest tokens of texts in progress. What looks at other tokens finds them in the cache.
    fn extend(&self, cx: &Cx<'_>, x: Tensor<2>, _cache: &mut Cache) -> Tensor<2> {
        self.forward(cx, x).0
    }

    /// Each of its parameters, once for each use.
    fn params(&self, visit: &mut dyn FnMut(ParamId));

    /// What it keeps and holds there.
    fn numbers(&self, on: &Site<'_>) -> Numbers;
}

/// What a layer keeps for its backward pass, whatever it is.
pub type Kept = Box<dyn Any + Send>;

/// A [`Block`] whose kind is known at run time only: what a stack of layers is made of.
pub trait AnyBlock: Debug + Send + Sync {
    /// As [`Block::forward`].
    fn forward(&self, cx: &Cx<'_>, x: Tensor<2>) -> (Tensor<2>, Kept);
    /// As [`Block::backward`].
    fn backward(&self, cx: &Cx<'_>, x: Tensor<2>, saved: Kept, dy: Tensor<2>, grads: &mut Grads) -> Tensor<2>;
    /// As [`Block::extend`].
    fn extend(&self, cx: &Cx<'_>, x: Tensor<2>, cache: &mut Cache) -> Tensor<2>;
    /// As [`Block::params`].
    fn params(&self, visit: &mut dyn FnMut(ParamId));
    /// As [`Block::numbers`].
    fn numbers(&self, on: &Site<'_>) -> Numbers;
}

impl<B: Block> AnyBlock for B {
    fn forward(&self, cx: &Cx<'_>, x: Tensor<2>) -> (Tensor<2>, Kept) {
        let (y, saved) = Block::forward(self, cx, x);
        (y, Box::new(saved))
    }
    fn backward(&self, cx: &Cx<'_>, x: Tensor<2>, saved: Kept, dy: Tensor<2>, grads: &mut Grads) -> Tensor<2> {
        let saved = saved.downcast::<B::Saved>().expect("a block is given back what it kept");
        Block::backward(self, cx, x, *saved, dy, grads)
    }
    fn extend(&self, cx: &Cx<'_>, x: Tensor<2>, cache: &mut Cache) -> Tensor<2> {
        Block::extend(self, cx, x, cache)
    }
    fn params(&self, visit: &mut dyn FnMut(ParamId)) {
        Block::params(self, visit);
    }
    fn numbers(&self, on: &Site<'_>) -> Numbers {
        Block::numbers(self, on)
    }
}

impl Block for Box<dyn AnyBlock> {
    type Saved = Kept;

    fn forward(&self, cx: &Cx<'_>, x: Tensor<2>) -> (Tensor<2>, Self::Saved) {
        (**self).forward(cx, x)
    }
    fn backward(&self, cx: &Cx<'_>, x: Tensor<2>, saved: Self::Saved, dy: Tensor<2>, grads: &mut Grads) -> Tensor<2> {
        (**self).backward(cx, x, saved, dy, grads)
    }
    fn extend(&self, cx: &Cx<'_>, x: Tensor<2>, cache: &mut Cache) -> Tensor<2> {
        (**self).extend(cx, x, cache)
    }
    fn params(&self, visit: &mut dyn FnMut(ParamId)) {
        (**self).params(visit);
    }
    fn numbers(&self, on: &Site<'_>) -> Numbers {
        (**self).numbers(on)
    }
}

/// Two blocks, the second on what the first makes.
#[derive(Debug)]
pub struct Then<A, B>(pub A, pub B);

impl<A: Block, B: Block> Block for Then<A, B> {
    /// What stands between them is kept too.
    type Saved = (A::Saved, Tensor<2>, B::Saved);

    fn forward(&self, cx: &Cx<'_>, x: Tensor<2>) -> (Tensor<2>, Self::Saved) {
        let (middle, first) = self.0.forward(cx, x);
        let (y, second) = self.1.forward(cx, middle.clone());
        (y, (first, middle, second))
    }

    fn backward(&self, cx: &Cx<'_>, x: Tensor<2>, saved: Self::Saved, dy: Tensor<2>, grads: &mut Grads) -> Tensor<2> {
        let (first, middle, second) = saved;
        let dy = self.1.backward(cx, middle, second, dy, grads);
        self.0.backward(cx, x, first, dy, grads)
    }

    fn extend(&self, cx: &Cx<'_>, x: Tensor<2>, cache: &mut Cache) -> Tensor<2> {
        let middle = self.0.extend(cx, x, cache);
        self.1.extend(cx, middle, cache)
    }

    fn params(&self, visit: &mut dyn FnMut(ParamId)) {
        self.0.params(visit);
        self.1.params(visit);
    }

    fn numbers(&self, on: &Site<'_>) -> Numbers {
        let both = self.0.numbers(on).then(self.1.numbers(on));
        Numbers { kept: both.kept + on.load.tokens * on.width, ..both }
    }
}
