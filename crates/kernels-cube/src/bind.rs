//! The kernels on the tensors of CubeCL's devices. What lies elsewhere or is on a tape goes through tensor operations, as
//! do products, which the tensor library tunes itself.

// A launch says itself why it stays within its buffers.
#![allow(unsafe_code)]

use burn::tensor::{DType, Tensor};
use collimate_backend::kernels::{
    Activation, AdamW, Attention, Gated, Head, HeadPass, Heads, Kernels, Mask, Plain, RmsNorm, Rope, Scores, Step, Sum,
};
use collimate_backend::read;
use cubecl::calculate_cube_count_elemwise;
use cubecl::client::Client;
use cubecl::prelude::{BufferArg, CubeCount, CubeDim, CubeElement};
use cubecl::server::Handle;

use crate::attention::{self, KEY_FIELDS, QUERY_FIELDS, Shape, Tiles};
use crate::device::{Buffer, is_processor, line, units};
use crate::rows::{self, Curve};

/// All of them.
#[derive(Debug)]
struct Cube;

/// Puts the kernels in the place of the tensor operations that they are faster than.
pub fn install(kernels: &mut Kernels) {
    kernels.norm = &Cube;
    kernels.rope = &Cube;
    kernels.gated = &Cube;
    kernels.attention = &Cube;
    kernels.head = &Cube;
    kernels.adamw = &Cube;
}

/// Units of a cube for a row, and numbers of a launch where each unit has one.
const ROW: usize = 256;
/// Rows that one sum of a norm's weight goes over: fewer are more cubes, and a longer sum of their parts.
const CHUNK: usize = 64;

/// A unit for each of so many numbers.
fn each(buffer: &Buffer, numbers: usize) -> (CubeCount, CubeDim) {
    let dim = CubeDim::new(buffer.client(), numbers);
    (calculate_cube_count_elemwise(buffer.client(), numbers, dim), dim)
}

impl RmsNorm for Cube {
    fn forward(&self, x: &Tensor<2>, weight: &Tensor<2>, eps: f64) -> (Tensor<2>, Tensor<2>) {
        let Some([xs, w]) = Buffer::all([x, weight]) else { return RmsNorm::forward(&Plain, x, weight, eps) };
        let [n, width] = x.dims();
        let (y, r) = (Buffer::new(&xs, [n, width], xs.dtype()), Buffer::new(&xs, [n, 1], DType::F32));
        if n > 0 {
            let units = units(xs.client(), ROW);
            // SAFETY: a cube a row, and each stays within its row.
            unsafe {
                rows::rms_forward::launch_unchecked(
                    xs.client(),
                    CubeCount::new_1d(n as u32),
                    line(units),
                    xs.arg(),
                    w.arg(),
                    y.arg(),
                    r.arg(),
                    width,
                    eps as f32,
                    units,
                    [xs.kind(), w.kind()],
                );
            }
        }
        (y.tensor(), r.tensor())
    }

    fn backward(&self, dy: &Tensor<2>, x: &Tensor<2>, weight: &Tensor<2>, r: &Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let buffers = Buffer::all([dy, x, weight, r]).filter(|[g, xs, ..]| g.dtype() == xs.dtype());
        let [n, width] = x.dims();
        let Some([g, xs, w, rs]) = buffers.filter(|_| n > 0) else {
            return RmsNorm::backward(&Plain, dy, x, weight, r);
        };
        let units = units(xs.client(), ROW);
        let dx = Buffer::new(&xs, [n, width], xs.dtype());
        let chunks = n.div_ceil(CHUNK);
        let parts = Buffer::new(&xs, [chunks, width], DType::F32);
        // SAFETY: a cube a row, and each stays within its row; and cubes over all columns and chunks of rows, whose ends the
        // kernel keeps to.
        unsafe {
            rows::rms_backward_input::launch_unchecked(
                xs.client(),
                CubeCount::new_1d(n as u32),
                line(units),
                g.arg(),
                xs.arg(),
                w.arg(),
                rs.arg(),
                dx.arg(),
                width,
                units,
                [xs.kind(), w.kind()],
            );
            rows::rms_backward_weight::launch_unchecked(
                xs.client(),
                CubeCount::new_2d(width.div_ceil(units) as u32, chunks as u32),
                line(units),
                g.arg(),
                xs.arg(),
                rs.arg(),
                parts.arg(),
                n,
                CHUNK,
                width,
                xs.kind(),
            );
        }
        (dx.tensor(), parts.tensor::<2>().sum_dim(0))
    }
}

/// A rotation as tensor operations.
type Rotation = fn(&Plain, Tensor<2>, &Tensor<2>, &Tensor<2>) -> Tensor<2>;

/// Turned in place, or as `otherwise` has it where that can't be.
fn turned(x: Tensor<2>, cos: &Tensor<2>, sin: &Tensor<2>, sign: f32, otherwise: Rotation) -> Tensor<2> {
    let tables = Buffer::all([cos, sin]).filter(|t| t.iter().all(|t| t.dtype() == DType::F32));
    let Some([c, s]) = tables.filter(|_| Buffer::of(&x).is_some()) else {
        return otherwise(&Plain, x, cos, sin);
    };
    let ([n, width], half) = (x.dims(), cos.dims()[1]);
    let xs = Buffer::taken(x);
    let pairs = n * width / 2;
    if pairs > 0 {
        let (count, dim) = each(&xs, pairs);
        // SAFETY: the kernel keeps to the pairs; what it reads of one it reads before it writes it.
        unsafe {
            rows::rotate::launch_unchecked(
                xs.client(),
                count,
                dim,
                xs.arg(),
                c.arg(),
                s.arg(),
                pairs,
                half,
                width / (2 * half),
                sign,
                xs.kind(),
            );
        }
    }
    xs.tensor()
}

impl Rope for Cube {
    fn forward(&self, x: Tensor<2>, cos: &Tensor<2>, sin: &Tensor<2>) -> Tensor<2> {
        turned(x, cos, sin, 1.0, Rope::forward)
    }

    fn backward(&self, dy: Tensor<2>, cos: &Tensor<2>, sin: &Tensor<2>) -> Tensor<2> {
        turned(dy, cos, sin, -1.0, Rope::backward)
    }
}

fn curve(activation: Activation) -> Curve {
    match activation {
        Activation::Silu => Curve::Silu,
        Activation::Gelu => Curve::Gelu,
        Activation::GeluTanh => Curve::GeluTanh,
        Activation::Relu => Curve::Relu,
    }
}

impl Gated for Cube {
    fn forward(&self, activation: Activation, gate: &Tensor<2>, up: &Tensor<2>) -> Tensor<2> {
        let buffers = Buffer::all([gate, up]).filter(|[g, u]| g.dtype() == u.dtype());
        let Some([g, u]) = buffers else { return Gated::forward(&Plain, activation, gate, up) };
        let y = Buffer::new(&g, gate.dims(), g.dtype());
        let len = gate.dims().iter().product();
        if len > 0 {
            let (count, dim) = each(&g, len);
            // SAFETY: the kernel keeps to the numbers.
            unsafe {
                let kind = g.kind();
                rows::gated_forward::launch_unchecked(
                    g.client(),
                    count,
                    dim,
                    g.arg(),
                    u.arg(),
                    y.arg(),
                    len,
                    curve(activation),
                    kind,
                );
            }
        }
        y.tensor()
    }

    fn backward(
        &self,
        activation: Activation,
        dy: &Tensor<2>,
        gate: Tensor<2>,
        up: Tensor<2>,
    ) -> (Tensor<2>, Tensor<2>) {
        let same = |b: &[Buffer; 3]| b.iter().all(|x| x.dtype() == b[0].dtype());
        let Some([d, ..]) = Buffer::all([dy, &gate, &up]).filter(same) else {
            return Gated::backward(&Plain, activation, dy, gate, up);
        };
        let len = gate.dims().iter().product();
        let (g, u) = (Buffer::taken(gate), Buffer::taken(up));
        if len > 0 {
            let (count, dim) = each(&d, len);
            // SAFETY: the kernel keeps to the numbers.
            unsafe {
                rows::gated_backward::launch_unchecked(
                    d.client(),
                    count,
                    dim,
                    d.arg(),
                    g.arg(),
                    u.arg(),
                    len,
                    curve(activation),
                    d.kind(),
                );
            }
        }
        (g.tensor(), u.tensor())
    }

    fn held(&self) -> usize {
        0
    }
}

/// Rows of a mask as tiles of some size, on the device.
#[derive(Debug)]
struct Tiled {
    block: usize,
    queries: (Handle, usize),
    keys: (Handle, usize),
    positions: (Handle, usize),
}

impl Tiled {
    fn new(client: &Client, mask: &Mask, block: usize) -> Self {
        let Tiles { queries, keys, positions } = Tiles::new(mask.rows(), mask.window(), block);
        let up = |x: Vec<u32>| (client.create_from_slice(u32::as_bytes(&x)), x.len());
        Self { block, queries: up(queries), keys: up(keys), positions: up(positions) }
    }
}

fn numbers((handle, len): &(Handle, usize)) -> BufferArg {
    // SAFETY: it was made of so many.
    unsafe { BufferArg::from_raw_parts(handle.clone(), *len) }
}

/// What attention on a device is compiled for: the largest tiles whose kernels have room in a cube's shared memory; none if
/// the heads are too wide for any.
fn shape(client: &Client, heads: Heads) -> Option<Shape> {
    let hardware = &client.properties().hardware;
    // A processor keeps what is shared in its nearest cache.
    let most = if is_processor(client) { 16 } else { 64 };
    let shapes = [64, 32, 16, 8].into_iter().filter(|b| *b <= most).map(|block| Shape {
        dim: heads.dim,
        block,
        units: units(client, block * block / 16),
        capped: heads.cap.is_some(),
    });
    shapes.into_iter().find(|s| s.shared() <= hardware.max_shared_memory_size)
}

/// Runs with the tiles of a mask, made once for all layers of one shape.
fn with_tiles<R>(client: &Client, mask: &Mask, block: usize, run: impl FnOnce(&Tiled) -> R) -> R {
    match mask.prepared(|| Tiled::new(client, mask, block)).filter(|t| t.block == block) {
        Some(tiled) => run(tiled),
        None => run(&Tiled::new(client, mask, block)),
    }
}

impl Attention for Cube {
    fn forward(&self, [q, k, v]: [&Tensor<2>; 3], mask: &Mask, heads: Heads) -> (Tensor<2>, Option<Tensor<2>>) {
        let [n, width] = q.dims();
        let same = |b: &[Buffer; 3]| n > 0 && b.iter().all(|x| x.dtype() == b[0].dtype());
        let buffers = Buffer::all([q, k, v]).filter(same);
        let Some(([qs, ks, vs], s)) = buffers.and_then(|b| shape(b[0].client(), heads).map(|s| (b, s))) else {
            return Attention::forward(&Plain, [q, k, v], mask, heads);
        };
        let client = qs.client();
        let (out, lse) = (Buffer::new(&qs, [n, width], qs.dtype()), Buffer::new(&qs, [n, heads.queries], DType::F32));
        // SAFETY: tiles are of tokens that there are, heads are as many as the widths say, and the kernel keeps to both.
        with_tiles(client, mask, s.block, |tiled| unsafe {
            attention::forward::launch_unchecked(
                client,
                CubeCount::new_2d((tiled.queries.1 / QUERY_FIELDS) as u32, heads.queries as u32),
                line(s.units),
                qs.arg(),
                ks.arg(),
                vs.arg(),
                numbers(&tiled.queries),
                out.arg(),
                lse.arg(),
                heads.queries,
                heads.group(),
                window(mask),
                heads.scale() as f32,
                heads.cap.unwrap_or(1.0) as f32,
                s,
                qs.kind(),
            );
        });
        (out.tensor(), Some(lse.tensor()))
    }

    fn backward(
        &self,
        d_out: &Tensor<2>,
        [q, k, v]: [&Tensor<2>; 3],
        (out, lse): (&Tensor<2>, Option<&Tensor<2>>),
        mask: &Mask,
        heads: Heads,
    ) -> [Tensor<2>; 3] {
        let n = q.dims()[0];
        let buffers = lse.filter(|_| n > 0).and_then(|lse| Buffer::all([d_out, q, k, v, out, lse]));
        let same = |b: &[Buffer; 6]| b[..5].iter().all(|x| x.dtype() == b[0].dtype());
        let buffers = buffers.filter(same);
        let Some(([g, qs, ks, vs, o, l], s)) = buffers.and_then(|b| shape(b[0].client(), heads).map(|s| (b, s))) else {
            return Attention::backward(&Plain, d_out, [q, k, v], (out, lse), mask, heads);
        };
        let client = qs.client();
        let [dq, dk, dv] = [q, k, v].map(|t| Buffer::new(&qs, t.dims(), qs.dtype()));
        let along = Buffer::new(&qs, [n, heads.queries], DType::F32);
        let places = n * heads.queries;
        let (count, dim) = each(&qs, places);
        let (scale, cap) = (heads.scale() as f32, heads.cap.unwrap_or(1.0) as f32);
        // SAFETY: as in the forward pass; and dk and dv are written by the one cube that has their tile and head.
        with_tiles(client, mask, s.block, |tiled| unsafe {
            attention::along::launch_unchecked(
                client,
                count,
                dim,
                g.arg(),
                o.arg(),
                along.arg(),
                places,
                heads.dim,
                qs.kind(),
            );
            attention::backward_queries::launch_unchecked(
                client,
                CubeCount::new_2d((tiled.queries.1 / QUERY_FIELDS) as u32, heads.queries as u32),
                line(s.units),
                g.arg(),
                qs.arg(),
                ks.arg(),
                vs.arg(),
                l.arg(),
                along.arg(),
                numbers(&tiled.queries),
                dq.arg(),
                heads.queries,
                heads.group(),
                window(mask),
                scale,
                cap,
                s,
                qs.kind(),
            );
            attention::backward_keys::launch_unchecked(
                client,
                CubeCount::new_2d((tiled.keys.1 / KEY_FIELDS) as u32, heads.keys as u32),
                line(s.units),
                g.arg(),
                qs.arg(),
                ks.arg(),
                vs.arg(),
                l.arg(),
                along.arg(),
                numbers(&tiled.keys),
                numbers(&tiled.positions),
                dk.arg(),
                dv.arg(),
                heads.queries,
                heads.group(),
                window(mask),
                scale,
                cap,
                s,
                qs.kind(),
            );
        });
        [dq.tensor(), dk.tensor(), dv.tensor()]
    }

    fn held(&self, _rows: usize, _longest: usize, _heads: Heads) -> usize {
        0
    }
}

/// How many positions back a token sees: more than there are, where no window bounds it.
fn window(mask: &Mask) -> usize {
    mask.window().unwrap_or(i32::MAX as usize)
}

impl AdamW for Cube {
    fn step(&self, s: &Step, [p, m, v]: [&mut Tensor<2>; 3], gradient: Tensor<2>) {
        let moments = |b: &[Buffer; 4]| b[1].dtype() == DType::F32 && b[2].dtype() == DType::F32;
        let Some([.., g]) = Buffer::all([&*p, m, v, &gradient]).filter(moments) else {
            return AdamW::step(&Plain, s, [p, m, v], gradient);
        };
        let len = p.dims().iter().product();
        let [ps, ms, vs] = [&mut *p, &mut *m, &mut *v].map(|t| Buffer::taken(t.extract()));
        if len > 0 {
            let t = s.number as f64;
            let (count, dim) = each(&g, len);
            // SAFETY: the kernel keeps to the numbers.
            unsafe {
                rows::adamw::launch_unchecked(
                    g.client(),
                    count,
                    dim,
                    ps.arg(),
                    ms.arg(),
                    vs.arg(),
                    g.arg(),
                    len,
                    s.beta1 as f32,
                    s.beta2 as f32,
                    (1.0 - s.beta1) as f32,
                    (1.0 - s.beta2) as f32,
                    s.scale as f32,
                    (1.0 - s.rate * s.weight_decay) as f32,
                    (s.rate / (1.0 - s.beta1.powf(t))) as f32,
                    (1.0 / (1.0 - s.beta2.powf(t))) as f32,
                    s.epsilon as f32,
                    [ps.kind(), g.kind()],
                );
            }
        }
        [*p, *m, *v] = [ps, ms, vs].map(Buffer::tensor);
    }
}

impl Head for Cube {
    fn begin(&self, cap: Option<f64>) -> Box<dyn HeadPass> {
        Box::new(Pass { cap, group: None, plain: Head::begin(&Plain, cap) })
    }

    fn held(&self, _cap: Option<f64>) -> usize {
        1
    }
}

struct Pass {
    cap: Option<f64>,
    group: Option<Group>,
    plain: Box<dyn HeadPass>,
}

struct Group {
    hidden: Tensor<2>,
    weight: Tensor<2>,
    /// As the product made them: not capped.
    logits: Tensor<2>,
    targets: Vec<u32>,
    /// What the kernel of scores said.
    scores: Buffer,
}

impl HeadPass for Pass {
    fn scores(&mut self, hidden: &Tensor<2>, weight: &Tensor<2>, targets: &[u32], collision: bool) -> Scores {
        self.group = None;
        let (n, vocab) = (targets.len(), weight.dims()[0]);
        if n == 0 || Buffer::all([hidden, weight]).is_none() {
            return self.plain.scores(hidden, weight, targets, collision);
        }
        let logits = hidden.clone().matmul(weight.clone().transpose());
        let z = Buffer::of(&logits).expect("it lies where its factors lie");
        let scores = Buffer::new(&z, [3, n], DType::F32);
        let units = units(z.client(), ROW);
        // SAFETY: a cube a token, and each stays within its row, as the targets do.
        unsafe {
            rows::head_scores::launch_unchecked(
                z.client(),
                CubeCount::new_1d(n as u32),
                line(units),
                z.arg(),
                Buffer::upload(z.client(), targets),
                scores.arg(),
                n,
                vocab,
                self.cap.unwrap_or(1.0) as f32,
                self.cap.is_some(),
                units,
                z.kind(),
            );
        }
        drop(z);
        // One reading for all that is asked.
        let said = read(scores.clone().tensor::<2>()).try_into_vec::<f32>().expect("scores are f32");
        let part = |i: usize| said[i * n..][..n].to_vec();
        let (hidden, weight, targets) = (hidden.clone(), weight.clone(), targets.to_vec());
        self.group = Some(Group { hidden, weight, logits, targets, scores });
        Scores { log_probs: part(0), log_collisions: collision.then(|| part(1)) }
    }

    fn gradient(&mut self, coefficients: &[f32], weight_sum: Option<Sum<'_>>) -> Tensor<2> {
        let Some(Group { hidden, weight, logits, targets, scores }) = self.group.take() else {
            return self.plain.gradient(coefficients, weight_sum);
        };
        let n = targets.len();
        assert_eq!(n, coefficients.len(), "a coefficient a token");
        let z = Buffer::taken(logits);
        let units = units(z.client(), ROW);
        // SAFETY: a cube a token, and each stays within its row.
        unsafe {
            rows::head_gradient::launch_unchecked(
                z.client(),
                CubeCount::new_1d(n as u32),
                line(units),
                z.arg(),
                Buffer::upload(z.client(), &targets),
                scores.arg(),
                Buffer::upload(z.client(), coefficients),
                n,
                weight.dims()[0],
                self.cap.unwrap_or(1.0) as f32,
                self.cap.is_some(),
                units,
                z.kind(),
            );
        }
        let d_logits: Tensor<2> = z.tensor();
        if let Some(mut sum) = weight_sum {
            sum.add(d_logits.clone().transpose().matmul(hidden));
        }
        d_logits.matmul(weight)
    }
}
