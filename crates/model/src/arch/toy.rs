//! What adding an architecture takes: this file, and a line in `ARCHITECTURES`. A Llama whose gate is ReLU, for the tests
//! alone.

use collimate_backend::kernels::Activation;

use super::Architecture;
use super::llama::Relative;

pub(super) const ARCHITECTURE: Architecture =
    Architecture { model_type: "toy", family: "Toy", read: |r| RELATIVE.read(r)?.config(r) };

const RELATIVE: Relative = Relative { activation: Activation::Relu, hidden_act: "relu", ..Relative::LLAMA };
