//! The pieces of a network, each with its arithmetic as tensor operations, and the place where a backend puts a faster
//! kernel for one of them.
//!
//! A piece is a trait whose methods have default bodies: tensor operations, right on every backend, and the oracle of
//! every kernel. [`Kernels`] holds one implementation a piece; [`Kernels::on`] asks every [`Plugin`] that serves the
//! device to put its own in. A crate may bring a kernel for one piece on one backend, and leaves the others as they are:
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use collimate_backend::kernels::{Kernels, Plain, Plugin, RmsNorm};
//!
//! #[derive(Debug)]
//! struct Mine;
//!
//! impl RmsNorm for Mine {
//!     fn forward(&self, x: &Tensor<2>, weight: &Tensor<2>, eps: f64) -> (Tensor<2>, Tensor<2>) {
//!         // … something faster …
//!         RmsNorm::forward(&Plain, x, weight, eps)
//!     }
//! }
//!
//! inventory::submit! { Plugin {
//!     name: "my-norm",
//!     // Behind the backend's own set, which has rank 0.
//!     rank: 1,
//!     by_hand: true,
//!     serves: |_device: &Device| true,
//!     install: |kernels: &mut Kernels| kernels.norm = &Mine,
//! } }
//! # fn main() {}
//! ```
//!
//! Gradients are written by hand, not recorded on a tape: so memory is what a piece says it keeps, a layer can be
//! recomputed instead of stored, and a kernel can replace one piece. Sums and everything that is sensitive to rounding
//! are f32 whatever the activations are.

mod adamw;
mod attention;
mod cap;
mod gated;
mod head;
mod linear;
mod rms_norm;
mod rope;
mod sum;

pub use adamw::{AdamW, Step};
pub use attention::{Attention, BLOCK, Cache, Growing, Growth, Heads, Mask, Row, SCORES, places};
pub use cap::capped;
pub use gated::{Activation, Gated};
pub use head::{Head, HeadPass, Scores};
pub use linear::{Linear, Map, Packed};
pub use rms_norm::RmsNorm;
pub use rope::Rope;
pub use sum::Sum;

use burn::tensor::Device;

/// The set without kernels: every piece as tensor operations.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

/// One implementation a piece.
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    /// y = x Wᵀ + b.
    pub linear: &'static dyn Linear,
    /// RMSNorm.
    pub norm: &'static dyn RmsNorm,
    /// Rotary positions.
    pub rope: &'static dyn Rope,
    /// Gated activations.
    pub gated: &'static dyn Gated,
    /// Attention over rows whose branches share a prefix.
    pub attention: &'static dyn Attention,
    /// Log-probabilities of targets, and the gradient through them.
    pub head: &'static dyn Head,
    /// The optimiser.
    pub adamw: &'static dyn AdamW,
    /// The vectors of this processor that hand-made kernels run on, as the plug-in that put them in names them.
    pub vectors: Option<&'static str>,
    /// Whether a plug-in by hand serves the device.
    by_hand: bool,
}

impl Default for Kernels {
    fn default() -> Self {
        Self {
            linear: &Plain,
            norm: &Plain,
            rope: &Plain,
            gated: &Plain,
            attention: &Plain,
            head: &Plain,
            adamw: &Plain,
            vectors: None,
            by_hand: false,
        }
    }
}

/// Kernels for some pieces on some devices, registered at link time.
#[derive(Clone, Copy, Debug)]
pub struct Plugin {
    /// What it is called.
    pub name: &'static str,
    /// Plug-ins are asked in the order of their ranks, then of their names; a backend's own has rank 0.
    pub rank: u32,
    /// Whether its arithmetic is written by hand, or calls a library that has it.
    pub by_hand: bool,
    /// Whether it works on that device.
    pub serves: fn(&Device) -> bool,
    /// Puts its kernels in.
    pub install: fn(&mut Kernels),
}

inventory::collect!(Plugin);

impl Kernels {
    /// The set for a device: tensor operations, and whatever the plug-ins that serve it put in their place.
    pub fn on(device: &Device) -> Self {
        let mut plugins: Vec<_> = inventory::iter::<Plugin>.into_iter().filter(|p| (p.serves)(device)).collect();
        plugins.sort_by_key(|p| (p.rank, p.name));
        let mut set = Self { by_hand: plugins.iter().any(|p| p.by_hand), ..Self::default() };
        plugins.iter().for_each(|p| (p.install)(&mut set));
        set
    }

    /// Whether some pieces run on hand-made kernels.
    pub fn any(&self) -> bool {
        self.by_hand
    }
}
