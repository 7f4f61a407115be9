//! Kernels that go over rows, or number by number.

// What `#[cube]` makes of a function takes arguments that the function does not show.
#![allow(missing_docs, clippy::too_many_arguments)]

use cubecl::prelude::*;

/// √(2/π), of the tanh that stands for a normal distribution (arXiv:1606.08415).
const BENT: f32 = 0.797_884_6;
/// The factor of g³ in it.
const CUBIC: f32 = 0.044_715;
const HALF_ROOT: f32 = std::f32::consts::FRAC_1_SQRT_2;
/// 1/√(2π).
const DENSITY: f32 = 0.398_942_3;
/// Below any logit or score, yet finite: its exponential is exactly 0.
pub(crate) const LOWEST: f32 = -1e30;

/// Σ over the units of a cube, each of which gets it. `place` has one number a unit.
#[cube]
fn total(x: f32, place: &mut Shared<[f32]>) -> f32 {
    let unit = UNIT_POS as usize;
    place[unit] = x;
    sync_cube();
    let mut half = CUBE_DIM as usize / 2;
    while half > 0 {
        if unit < half {
            let more = place[unit + half];
            place[unit] += more;
        }
        sync_cube();
        half /= 2;
    }
    let sum = place[0];
    // Nobody writes the next sum before all have read this one.
    sync_cube();
    sum
}

/// The largest over the units of a cube, as [`total`].
#[cube]
fn largest(x: f32, place: &mut Shared<[f32]>) -> f32 {
    let unit = UNIT_POS as usize;
    place[unit] = x;
    sync_cube();
    let mut half = CUBE_DIM as usize / 2;
    while half > 0 {
        if unit < half {
            let other = place[unit + half];
            place[unit] = max(place[unit], other);
        }
        sync_cube();
        half /= 2;
    }
    let top = place[0];
    sync_cube();
    top
}

/// RMSNorm, a cube a row: y = x·r·w and r.
#[cube(launch_unchecked, create_dummy_kernel)]
pub(crate) fn rms_forward<F: Float, W: Float>(
    x: &[F],
    weight: &[W],
    y: &mut [F],
    r: &mut [f32],
    width: usize,
    eps: f32,
    #[comptime] units: usize,
    #[define(F, W)] _types: [ElemType; 2],
) {
    let mut place = Shared::new_slice(units);
    let row = CUBE_POS_X as usize;
    let from = row * width;
    let mut sum = 0f32;
    let mut i = UNIT_POS as usize;
    while i < width {
        let v = f32::cast_from(x[from + i]);
        sum += v * v;
        i += units;
    }
    let mean = total(sum, &mut place) / f32::cast_from(width as u32);
    let scale = 1f32 / (mean + eps).sqrt();
    let mut i = UNIT_POS as usize;
    while i < width {
        y[from + i] = F::cast_from(f32::cast_from(x[from + i]) * scale * f32::cast_from(weight[i]));
        i += units;
    }
    if UNIT_POS == 0 {
        r[row] = scale;
    }
}

/// dx of RMSNorm, a cube a row: with x̂ = x·r, dx = r (dy·w − x̂ mean(dy·w·x̂)).
#[cube(launch_unchecked, create_dummy_kernel)]
pub(crate) fn rms_backward_input<F: Float, W: Float>(
    dy: &[F],
    x: &[F],
    weight: &[W],
    r: &[f32],
    dx: &mut [F],
    width: usize,
    #[comptime] units: usize,
    #[define(F, W)] _types: [ElemType; 2],
) {
    let mut place = Shared::new_slice(units);
    let row = CUBE_POS_X as usize;
    let from = row * width;
    let scale = r[row];
    let mut sum = 0f32;
    let mut i = UNIT_POS as usize;
    while i < width {
        sum += f32::cast_from(dy[from + i]) * f32::cast_from(weight[i]) * f32::cast_from(x[from + i]) * scale;
        i += units;
    }
    let along = total(sum, &mut place) / f32::cast_from(width as u32);
    let mut i = UNIT_POS as usize;
    while i < width {
        let own = f32::cast_from(dy[from + i]) * f32::cast_from(weight[i]);
        dx[from + i] = F::cast_from((own - f32::cast_from(x[from + i]) * scale * along) * scale);
        i += units;
    }
}

/// dw of RMSNorm, in parts: a cube takes `units` columns and `rows_each` rows, and writes Σ dy·x̂ of them to its row of
/// `parts` `[chunks, width]`.
#[cube(launch_unchecked, create_dummy_kernel)]
pub(crate) fn rms_backward_weight<F: Float>(
    dy: &[F],
    x: &[F],
    r: &[f32],
    parts: &mut [f32],
    rows: usize,
    rows_each: usize,
    width: usize,
    #[define(F)] _type: ElemType,
) {
    let column = ABSOLUTE_POS_X as usize;
    if column < width {
        let chunk = CUBE_POS_Y as usize;
        let mut row = chunk * rows_each;
        let end = min(row + rows_each, rows);
        let mut sum = 0f32;
        while row < end {
            let at = row * width + column;
            sum += f32::cast_from(dy[at]) * f32::cast_from(x[at]) * r[row];
            row += 1;
        }
        parts[chunk * width + column] = sum;
    }
}

/// Rotary positions, a unit a pair: (x_i, x_{i+d/2}) turned by its angle, or by the opposite one where `sign` is −1.
#[cube(launch_unchecked, create_dummy_kernel)]
pub(crate) fn rotate<F: Float>(
    x: &mut [F],
    cos: &[f32],
    sin: &[f32],
    pairs: usize,
    half: usize,
    heads: usize,
    sign: f32,
    #[define(F)] _type: ElemType,
) {
    let pair = ABSOLUTE_POS;
    if pair < pairs {
        let i = pair % half;
        let head = pair / half;
        let angle = head / heads * half + i;
        let first = head * half * 2 + i;
        let (c, s) = (cos[angle], sin[angle] * sign);
        let a = f32::cast_from(x[first]);
        let b = f32::cast_from(x[first + half]);
        x[first] = F::cast_from(a * c - b * s);
        x[first + half] = F::cast_from(b * c + a * s);
    }
}

/// The activations, as [`Activation`](collimate_backend::kernels::Activation) has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Curve {
    Silu,
    Gelu,
    GeluTanh,
    Relu,
}

/// a(g).
#[cube]
fn value(g: f32, #[comptime] curve: Curve) -> f32 {
    match comptime![curve] {
        Curve::Silu => g / (1f32 + (-g).exp()),
        Curve::Gelu => g * (Erf::erf(g * HALF_ROOT) + 1f32) * 0.5f32,
        Curve::GeluTanh => g * (((g + g * g * g * CUBIC) * BENT).tanh() + 1f32) * 0.5f32,
        Curve::Relu => max(g, 0f32),
    }
}

/// a′(g).
#[cube]
fn slope(g: f32, #[comptime] curve: Curve) -> f32 {
    match comptime![curve] {
        Curve::Silu => {
            let s = 1f32 / (1f32 + (-g).exp());
            s * (g * (1f32 - s) + 1f32)
        }
        Curve::Gelu => (Erf::erf(g * HALF_ROOT) + 1f32) * 0.5f32 + g * (g * g * -0.5f32).exp() * DENSITY,
        Curve::GeluTanh => {
            let t = ((g + g * g * g * CUBIC) * BENT).tanh();
            let inner = (g * g * (3f32 * CUBIC) + 1f32) * BENT;
            (t + 1f32) * 0.5f32 + g * (1f32 - t * t) * inner * 0.5f32
        }
        Curve::Relu => select(g > 0f32, 1f32, 0f32),
    }
}

/// y = a(g)·u, number by number.
#[cube(launch_unchecked, create_dummy_kernel)]
pub(crate) fn gated_forward<F: Float>(
    gate: &[F],
    up: &[F],
    y: &mut [F],
    len: usize,
    #[comptime] curve: Curve,
    #[define(F)] _type: ElemType,
) {
    let i = ABSOLUTE_POS;
    if i < len {
        y[i] = F::cast_from(value(f32::cast_from(gate[i]), curve) * f32::cast_from(up[i]));
    }
}

/// dg = dy·u·a′(g) and du = dy·a(g), where g and u were.
#[cube(launch_unchecked, create_dummy_kernel)]
pub(crate) fn gated_backward<F: Float>(
    dy: &[F],
    gate: &mut [F],
    up: &mut [F],
    len: usize,
    #[comptime] curve: Curve,
    #[define(F)] _type: ElemType,
) {
    let i = ABSOLUTE_POS;
    if i < len {
        let d = f32::cast_from(dy[i]);
        let g = f32::cast_from(gate[i]);
        let u = f32::cast_from(up[i]);
        gate[i] = F::cast_from(d * u * slope(g, curve));
        up[i] = F::cast_from(d * value(g, curve));
    }
}

/// One step of AdamW in place. `scale` is what the gradient is multiplied by, `kept` = 1 − ηλ, `rate` = η/(1−β₁ᵗ) and `root`
/// = 1/(1−β₂ᵗ).
#[cube(launch_unchecked, create_dummy_kernel)]
pub(crate) fn adamw<P: Float, G: Float>(
    p: &mut [P],
    m: &mut [f32],
    v: &mut [f32],
    gradient: &[G],
    len: usize,
    beta1: f32,
    beta2: f32,
    one_less_beta1: f32,
    one_less_beta2: f32,
    scale: f32,
    kept: f32,
    rate: f32,
    root: f32,
    epsilon: f32,
    #[define(P, G)] _types: [ElemType; 2],
) {
    let i = ABSOLUTE_POS;
    if i < len {
        let g = f32::cast_from(gradient[i]) * scale;
        let mean = m[i] * beta1 + g * one_less_beta1;
        let square = v[i] * beta2 + g * g * one_less_beta2;
        m[i] = mean;
        v[i] = square;
        p[i] = P::cast_from(f32::cast_from(p[i]) * kept - mean / ((square * root).sqrt() + epsilon) * rate);
    }
}

/// z under a cap c, c·tanh(z/c).
#[cube]
pub(crate) fn under_cap(z: f32, cap: f32, #[comptime] capped: bool) -> f32 {
    if comptime![capped] { (z / cap).tanh() * cap } else { z }
}

/// The head's softmax, a cube a token: ln p of its target, ln Σ p² and ln Σ exp of its logits, each `[tokens]`, one after the
/// other.
#[cube(launch_unchecked, create_dummy_kernel)]
pub(crate) fn head_scores<F: Float>(
    logits: &[F],
    targets: &[u32],
    out: &mut [f32],
    tokens: usize,
    vocab: usize,
    cap: f32,
    #[comptime] capped: bool,
    #[comptime] units: usize,
    #[define(F)] _type: ElemType,
) {
    let mut place = Shared::new_slice(units);
    let token = CUBE_POS_X as usize;
    let from = token * vocab;
    let mut top = f32::new(LOWEST);
    let mut sum = 0f32;
    let mut squares = 0f32;
    let mut i = UNIT_POS as usize;
    while i < vocab {
        let z = under_cap(f32::cast_from(logits[from + i]), cap, capped);
        if z > top {
            let less = (top - z).exp();
            sum = sum * less + 1f32;
            squares = squares * less * less + 1f32;
            top = z;
        } else {
            let e = (z - top).exp();
            sum += e;
            squares += e * e;
        }
        i += units;
    }
    let all = largest(top, &mut place);
    let less = (top - all).exp();
    let sum = total(sum * less, &mut place);
    let squares = total(squares * less * less, &mut place);
    if UNIT_POS == 0 {
        let target = under_cap(f32::cast_from(logits[from + targets[token] as usize]), cap, capped);
        let log_sum = sum.ln();
        out[token] = target - all - log_sum;
        out[tokens + token] = squares.ln() - log_sum * 2f32;
        out[tokens * 2 + token] = all + log_sum;
    }
}

/// dz = c (onehot − softmax(z)) where the logits were, a cube a token; under a cap, times its slope. `scores` are those of
/// [`head_scores`].
#[cube(launch_unchecked, create_dummy_kernel)]
pub(crate) fn head_gradient<F: Float>(
    logits: &mut [F],
    targets: &[u32],
    scores: &[f32],
    coefficients: &[f32],
    tokens: usize,
    vocab: usize,
    cap: f32,
    #[comptime] capped: bool,
    #[comptime] units: usize,
    #[define(F)] _type: ElemType,
) {
    let token = CUBE_POS_X as usize;
    let from = token * vocab;
    let log_sum_exp = scores[tokens * 2 + token];
    let c = coefficients[token];
    let target = targets[token] as usize;
    let mut i = UNIT_POS as usize;
    while i < vocab {
        let z = under_cap(f32::cast_from(logits[from + i]), cap, capped);
        let mut d = (z - log_sum_exp).exp() * -c;
        if i == target {
            d += c;
        }
        if comptime![capped] {
            d *= 1f32 - (z / cap) * (z / cap);
        }
        logits[from + i] = F::cast_from(d);
        i += units;
    }
}
