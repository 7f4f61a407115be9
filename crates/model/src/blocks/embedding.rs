//! A row of a table for each token, and one for its position where the architecture learns positions.

use burn::tensor::{Int, Tensor};

use super::Cx;
use crate::params::{Grads, ParamId};

/// The embedding of token ids. It is no [`Block`](super::Block): tokens go in, and nothing comes back.
#[doc = include_str!("../../equations/block-embedding.html")]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Embedding {
    /// The table `[vocab, hidden]`.
    pub table: ParamId,
    /// What its rows are multiplied by.
    pub scale: f64,
    /// A row `[positions, hidden]` for each position, which is added.
    pub positions: Option<ParamId>,
    /// The row of the first position.
    pub offset: usize,
}

impl Embedding {
    /// The rows of the batch's positions.
    fn rows(&self, cx: &Cx<'_>) -> Tensor<1, Int> {
        let positions = cx.batch.positions.clone();
        if self.offset == 0 { positions } else { positions + self.offset as i64 }
    }

    /// h `[tokens, hidden]` of the batch's ids.
    // ANCHOR: formula
    pub fn forward(&self, cx: &Cx<'_>) -> Tensor<2> {
        cx.timed("embedding", || {
            let h = cx.p(self.table).clone().select(0, cx.batch.ids.clone());
            let h = if self.scale == 1.0 { h } else { h * self.scale };
            match self.positions {
                Some(table) => h + cx.p(table).clone().select(0, self.rows(cx)),
                None => h,
            }
        })
    }

    /// Adds the table's gradient, a sum of rows, tied to a head or not.
    pub fn backward(&self, cx: &Cx<'_>, dh: Tensor<2>, grads: &mut Grads) {
        let rows = |table: ParamId| cx.p(table).dims()[0];
        cx.timed("embedding", || {
            if let Some(table) = self.positions {
                grads.add_rows(table, rows(table), self.rows(cx), dh.clone());
            }
            let dh = if self.scale == 1.0 { dh } else { dh * self.scale };
            grads.add_rows(self.table, rows(self.table), cx.batch.ids.clone(), dh);
        });
    }
    // ANCHOR_END: formula
}
