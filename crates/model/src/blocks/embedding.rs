//! A row of a table for each token.

use burn::tensor::Tensor;

use super::Cx;
use crate::params::{Grads, ParamId};

/// The embedding of token ids. It is no [`Block`](super::Block): tokens go in, and nothing comes back.
#[doc = include_str!("../../equations/block-embedding.html")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Embedding {
    /// The table `[vocab, hidden]`.
    pub table: ParamId,
}

impl Embedding {
    /// h `[tokens, hidden]` of the batch's ids.
    // ANCHOR: formula
    pub fn forward(&self, cx: &Cx<'_>) -> Tensor<2> {
        cx.timed("embedding", || cx.p(self.table).clone().select(0, cx.batch.ids.clone()))
    }

    /// Adds the table's gradient, a sum of rows, tied to a head or not.
    pub fn backward(&self, cx: &Cx<'_>, dh: Tensor<2>, grads: &mut Grads) {
        let rows = cx.p(self.table).dims()[0];
        cx.timed("embedding", || grads.add_rows(self.table, rows, cx.batch.ids.clone(), dh));
    }
    // ANCHOR_END: formula
}
