//! Where the gradient of a parameter is added up.

use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor};

/// The sum so far of a parameter's gradient, f32 in the parameter's shape: none where nothing was added yet.
///
/// What is added was computed from cotangents that were multiplied by a loss scale: it is divided by that on the way in.
#[derive(Debug)]
pub struct Sum<'a> {
    slot: &'a mut Option<Tensor<2>>,
    by: f64,
}

impl<'a> Sum<'a> {
    /// A sum in `slot`, whose terms are multiplied by `by`, which is 1 unless a loss scale is undone.
    pub fn new(slot: &'a mut Option<Tensor<2>>, by: f64) -> Self {
        Self { slot, by }
    }

    /// The slot itself, for a kernel that adds in place; none where terms are to be multiplied first.
    pub fn in_place(&mut self) -> Option<&mut Option<Tensor<2>>> {
        (self.by == 1.0).then_some(&mut *self.slot)
    }

    fn unscaled(&self, more: Tensor<2>) -> Tensor<2> {
        let more = more.cast(DType::F32);
        if self.by == 1.0 { more } else { more * self.by }
    }

    /// Adds a term of the parameter's shape.
    pub fn add(&mut self, more: Tensor<2>) {
        let more = self.unscaled(more);
        *self.slot = Some(match self.slot.take() {
            None => more,
            Some(sum) => sum + more,
        });
    }

    /// Adds the rows of `more` at `places` of a parameter `[rows, width]`.
    pub fn add_rows(&mut self, rows: usize, places: Tensor<1, Int>, more: Tensor<2>) {
        let more = self.unscaled(more);
        let zeros = || Tensor::zeros([rows, more.dims()[1]], (&more.device(), DType::F32));
        let sum = self.slot.take().unwrap_or_else(zeros);
        *self.slot = Some(sum.select_assign(0, places, more, IndexingUpdateOp::Add));
    }
}
