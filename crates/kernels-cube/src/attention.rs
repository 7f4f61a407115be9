//! Attention over rows whose branches share a prefix, in tiles: scores exist for one tile at a time in a cube's shared
//! memory, and of the forward pass ln Σ exp is kept (arXiv:2205.14135, algorithms 1 and 4).
//!
//! A tile is up to `block` tokens in a line: of a row's prefix, or of one of its branches. The forward pass and dq have a
//! cube for each tile of queries and head, which goes over what its tokens see: a stretch of the prefix, and one of their own
//! branch. dk and dv have a cube for each tile of keys and key head, which goes over the tokens that see it; so nothing is
//! added up by two cubes, and the order of each sum is fixed.
//!
//! Products are made in pieces of 4×4 numbers that a unit holds in registers, of factors in shared memory. Its lines are one
//! number longer than they need be: so the lines that units read at a time lie in different banks.

// What `#[cube]` makes of a function takes arguments that the function does not show.
#![allow(missing_docs, clippy::too_many_arguments)]

use collimate_backend::kernels::{Row, places};
use cubecl::prelude::*;

use crate::rows::{LOWEST, under_cap};

/// Numbers that describe a tile of queries: its first token, how many they are, and the position of the first; then twice
/// (prefix, own branch) the first token of what they see, how many those are, and the position of the first.
pub(crate) const QUERY_FIELDS: usize = 9;
/// Numbers that describe a tile of keys: its first token, how many they are, the position of the first, and the token behind
/// the last that sees them.
pub(crate) const KEY_FIELDS: usize = 4;
/// Rows and columns of the piece of a product that a unit holds.
const PIECE: usize = 4;

/// What kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    /// Width of a head.
    pub dim: usize,
    /// Tokens of a tile, a multiple of [`PIECE`].
    pub block: usize,
    /// Units of a cube.
    pub units: usize,
    /// Whether scores have a cap.
    pub capped: bool,
}

impl Shape {
    /// A head's width in whole pieces.
    fn depth(self) -> usize {
        self.dim.next_multiple_of(PIECE)
    }

    /// Length of a line of queries, keys or values in shared memory.
    fn pitch(self) -> usize {
        self.depth() + 1
    }

    /// Length of a line of scores there.
    fn line(self) -> usize {
        self.block + 1
    }

    /// Pieces of a tile of scores.
    fn score_pieces(self) -> usize {
        (self.block / PIECE) * (self.block / PIECE)
    }

    /// Pieces of a tile of outputs.
    fn pieces(self) -> usize {
        (self.block / PIECE) * (self.depth() / PIECE)
    }

    /// How many of those a unit holds.
    fn held(self) -> usize {
        self.pieces().div_ceil(self.units)
    }

    /// Shared memory of the kernel that wants the most, in bytes.
    pub(crate) fn shared(self) -> usize {
        4 * (4 * self.block * self.pitch() + 2 * self.block * self.line() + 2 * self.block)
    }
}

/// Brings `count` tokens of one head from `first` on into shared memory; what is beyond them or the head's width is 0.
#[cube]
fn load<F: Float>(
    from: &[F],
    to: &mut Shared<[f32]>,
    first: usize,
    count: usize,
    heads: usize,
    head: usize,
    #[comptime] s: Shape,
) {
    let (dim, depth, pitch) = comptime![(s.dim, s.depth(), s.pitch())];
    let mut i = UNIT_POS as usize;
    while i < comptime![s.block * depth] {
        let token = i / depth;
        let c = i % depth;
        let mut x = 0f32;
        if token < count && c < dim {
            x = f32::cast_from(from[((first + token) * heads + head) * dim + c]);
        }
        to[token * pitch + c] = x;
        i += comptime![s.units];
    }
}

/// As [`load`], one number a token.
#[cube]
fn load_line(
    from: &[f32],
    to: &mut Shared<[f32]>,
    first: usize,
    count: usize,
    heads: usize,
    head: usize,
    #[comptime] s: Shape,
) {
    let mut i = UNIT_POS as usize;
    while i < comptime![s.block] {
        let mut x = 0f32;
        if i < count {
            x = from[(first + i) * heads + head];
        }
        to[i] = x;
        i += comptime![s.units];
    }
}

/// The piece of a bᵀ at line `i` of a and line `j` of b.
#[cube]
fn dots(a: &Shared<[f32]>, b: &Shared<[f32]>, i: usize, j: usize, #[comptime] s: Shape) -> Array<f32> {
    let (depth, pitch) = comptime![(s.depth(), s.pitch())];
    let mut piece = Array::<f32>::new(comptime![PIECE * PIECE]);
    for c in 0..depth {
        #[unroll]
        for row in 0..PIECE {
            let x = a[(i + row) * pitch + c];
            #[unroll]
            for column in 0..PIECE {
                piece[row * PIECE + column] += x * b[(j + column) * pitch + c];
            }
        }
    }
    piece
}

/// o = softmax(q kᵀ/√d) v and ln Σ exp, over what `tiles` says that each tile of queries sees.
#[cube(launch_unchecked, create_dummy_kernel)]
pub(crate) fn forward<F: Float>(
    q: &[F],
    k: &[F],
    v: &[F],
    tiles: &[u32],
    out: &mut [F],
    log_sum_exp: &mut [f32],
    heads: usize,
    group: usize,
    window: usize,
    scale: f32,
    cap: f32,
    #[comptime] s: Shape,
    #[define(F)] _type: ElemType,
) {
    let (dim, block, units, pitch, line) = comptime![(s.dim, s.block, s.units, s.pitch(), s.line())];
    let mut qs = Shared::<[f32]>::new_slice(comptime![block * pitch]);
    let mut ks = Shared::<[f32]>::new_slice(comptime![block * pitch]);
    let mut vs = Shared::<[f32]>::new_slice(comptime![block * pitch]);
    let mut scores = Shared::<[f32]>::new_slice(comptime![block * line]);
    let mut tops = Shared::<[f32]>::new_slice(block);
    let mut sums = Shared::<[f32]>::new_slice(block);
    let mut shrink = Shared::<[f32]>::new_slice(block);
    let unit = UNIT_POS as usize;
    let at = CUBE_POS_X as usize * QUERY_FIELDS;
    let head = CUBE_POS_Y as usize;
    let first = tiles[at] as usize;
    let count = tiles[at + 1] as usize;
    let position = tiles[at + 2] as usize;

    load(q, &mut qs, first, count, heads, head, s);
    let mut i = unit;
    while i < block {
        tops[i] = f32::new(LOWEST);
        sums[i] = 0f32;
        i += units;
    }
    let mut acc = Array::<f32>::new(comptime![s.held() * PIECE * PIECE]);
    for span in 0..2usize {
        let seen = tiles[at + 3 + span * 3] as usize;
        let many = tiles[at + 4 + span * 3] as usize;
        let start = tiles[at + 5 + span * 3] as usize;
        let mut done = 0usize;
        while done < many {
            let n = min(many - done, block);
            // Nobody reads the last tile any more.
            sync_cube();
            load(k, &mut ks, seen + done, n, heads / group, head / group, s);
            load(v, &mut vs, seen + done, n, heads / group, head / group, s);
            sync_cube();
            let mut p = unit;
            while p < comptime![s.score_pieces()] {
                let i = p / comptime![block / PIECE] * PIECE;
                let j = p % comptime![block / PIECE] * PIECE;
                let piece = dots(&qs, &ks, i, j, s);
                #[unroll]
                for row in 0..PIECE {
                    #[unroll]
                    for column in 0..PIECE {
                        let own = position + i + row;
                        let other = start + done + j + column;
                        let sees = i + row < count && j + column < n && other <= own && own - other < window;
                        let x = under_cap(piece[row * PIECE + column] * scale, cap, comptime![s.capped]);
                        scores[(i + row) * line + j + column] = select(sees, x, f32::new(LOWEST));
                    }
                }
                p += units;
            }
            sync_cube();
            let mut i = unit;
            while i < block {
                let mut top = tops[i];
                for j in 0..block {
                    top = max(top, scores[i * line + j]);
                }
                shrink[i] = (tops[i] - top).exp();
                tops[i] = top;
                i += units;
            }
            sync_cube();
            let mut e = unit;
            while e < comptime![block * block] {
                let i = e / block;
                let place = i * line + e % block;
                scores[place] = (scores[place] - tops[i]).exp();
                e += units;
            }
            sync_cube();
            let mut i = unit;
            while i < block {
                let mut sum = sums[i] * shrink[i];
                for j in 0..block {
                    sum += scores[i * line + j];
                }
                sums[i] = sum;
                i += units;
            }
            for held in 0..comptime![s.held()] {
                let p = unit + held * units;
                if p < comptime![s.pieces()] {
                    let i = p / comptime![s.depth() / PIECE] * PIECE;
                    let c = p % comptime![s.depth() / PIECE] * PIECE;
                    #[unroll]
                    for row in 0..PIECE {
                        #[unroll]
                        for column in 0..PIECE {
                            acc[(held * PIECE + row) * PIECE + column] *= shrink[i + row];
                        }
                    }
                    for j in 0..block {
                        #[unroll]
                        for row in 0..PIECE {
                            let x = scores[(i + row) * line + j];
                            #[unroll]
                            for column in 0..PIECE {
                                acc[(held * PIECE + row) * PIECE + column] += x * vs[j * pitch + c + column];
                            }
                        }
                    }
                }
            }
            done += block;
        }
    }
    sync_cube();
    for held in 0..comptime![s.held()] {
        let p = unit + held * units;
        if p < comptime![s.pieces()] {
            let i = p / comptime![s.depth() / PIECE] * PIECE;
            let c = p % comptime![s.depth() / PIECE] * PIECE;
            #[unroll]
            for row in 0..PIECE {
                #[unroll]
                for column in 0..PIECE {
                    if i + row < count && c + column < dim {
                        let place = ((first + i + row) * heads + head) * dim + c + column;
                        out[place] = F::cast_from(acc[(held * PIECE + row) * PIECE + column] / sums[i + row]);
                    }
                }
            }
        }
    }
    let mut i = unit;
    while i < count {
        log_sum_exp[(first + i) * heads + head] = tops[i] + sums[i].ln();
        i += units;
    }
}

/// Σ do·o of each token and head, a unit each.
#[cube(launch_unchecked, create_dummy_kernel)]
pub(crate) fn along<F: Float>(
    d_out: &[F],
    out: &[F],
    sums: &mut [f32],
    places: usize,
    dim: usize,
    #[define(F)] _type: ElemType,
) {
    let place = ABSOLUTE_POS;
    if place < places {
        let mut sum = 0f32;
        for c in 0..dim {
            sum += f32::cast_from(d_out[place * dim + c]) * f32::cast_from(out[place * dim + c]);
        }
        sums[place] = sum;
    }
}

/// p and ds = p (dp − Σ do·o)/√d of one score: under a cap, times its slope.
#[cube]
fn slopes(
    product: f32,
    d_probability: f32,
    log_sum_exp: f32,
    along: f32,
    sees: bool,
    scale: f32,
    cap: f32,
    #[comptime] s: Shape,
) -> (f32, f32) {
    let x = under_cap(product * scale, cap, comptime![s.capped]);
    let p = select(sees, (x - log_sum_exp).exp(), 0f32);
    let mut ds = p * (d_probability - along) * scale;
    if comptime![s.capped] {
        ds *= 1f32 - (x / cap) * (x / cap);
    }
    (p, ds)
}

/// dq = ds k, a cube for each tile of queries and head.
#[cube(launch_unchecked, create_dummy_kernel)]
pub(crate) fn backward_queries<F: Float>(
    d_out: &[F],
    q: &[F],
    k: &[F],
    v: &[F],
    log_sum_exp: &[f32],
    along: &[f32],
    tiles: &[u32],
    dq: &mut [F],
    heads: usize,
    group: usize,
    window: usize,
    scale: f32,
    cap: f32,
    #[comptime] s: Shape,
    #[define(F)] _type: ElemType,
) {
    let (dim, block, units, pitch, line) = comptime![(s.dim, s.block, s.units, s.pitch(), s.line())];
    let mut qs = Shared::<[f32]>::new_slice(comptime![block * pitch]);
    let mut ds = Shared::<[f32]>::new_slice(comptime![block * pitch]);
    let mut ks = Shared::<[f32]>::new_slice(comptime![block * pitch]);
    let mut vs = Shared::<[f32]>::new_slice(comptime![block * pitch]);
    let mut scores = Shared::<[f32]>::new_slice(comptime![block * line]);
    let mut log_sums = Shared::<[f32]>::new_slice(block);
    let mut alongs = Shared::<[f32]>::new_slice(block);
    let unit = UNIT_POS as usize;
    let at = CUBE_POS_X as usize * QUERY_FIELDS;
    let head = CUBE_POS_Y as usize;
    let first = tiles[at] as usize;
    let count = tiles[at + 1] as usize;
    let position = tiles[at + 2] as usize;

    load(q, &mut qs, first, count, heads, head, s);
    load(d_out, &mut ds, first, count, heads, head, s);
    load_line(log_sum_exp, &mut log_sums, first, count, heads, head, s);
    load_line(along, &mut alongs, first, count, heads, head, s);
    let mut acc = Array::<f32>::new(comptime![s.held() * PIECE * PIECE]);
    for span in 0..2usize {
        let seen = tiles[at + 3 + span * 3] as usize;
        let many = tiles[at + 4 + span * 3] as usize;
        let start = tiles[at + 5 + span * 3] as usize;
        let mut done = 0usize;
        while done < many {
            let n = min(many - done, block);
            sync_cube();
            load(k, &mut ks, seen + done, n, heads / group, head / group, s);
            load(v, &mut vs, seen + done, n, heads / group, head / group, s);
            sync_cube();
            let mut p = unit;
            while p < comptime![s.score_pieces()] {
                let i = p / comptime![block / PIECE] * PIECE;
                let j = p % comptime![block / PIECE] * PIECE;
                let products = dots(&qs, &ks, i, j, s);
                let d_probabilities = dots(&ds, &vs, i, j, s);
                #[unroll]
                for row in 0..PIECE {
                    #[unroll]
                    for column in 0..PIECE {
                        let own = position + i + row;
                        let other = start + done + j + column;
                        let sees = i + row < count && j + column < n && other <= own && own - other < window;
                        let (x, d) = (products[row * PIECE + column], d_probabilities[row * PIECE + column]);
                        let (_p, ds) = slopes(x, d, log_sums[i + row], alongs[i + row], sees, scale, cap, s);
                        scores[(i + row) * line + j + column] = ds;
                    }
                }
                p += units;
            }
            sync_cube();
            for held in 0..comptime![s.held()] {
                let p = unit + held * units;
                if p < comptime![s.pieces()] {
                    let i = p / comptime![s.depth() / PIECE] * PIECE;
                    let c = p % comptime![s.depth() / PIECE] * PIECE;
                    for j in 0..block {
                        #[unroll]
                        for row in 0..PIECE {
                            let x = scores[(i + row) * line + j];
                            #[unroll]
                            for column in 0..PIECE {
                                acc[(held * PIECE + row) * PIECE + column] += x * ks[j * pitch + c + column];
                            }
                        }
                    }
                }
            }
            done += block;
        }
    }
    for held in 0..comptime![s.held()] {
        let p = unit + held * units;
        if p < comptime![s.pieces()] {
            let i = p / comptime![s.depth() / PIECE] * PIECE;
            let c = p % comptime![s.depth() / PIECE] * PIECE;
            #[unroll]
            for row in 0..PIECE {
                #[unroll]
                for column in 0..PIECE {
                    if i + row < count && c + column < dim {
                        let place = ((first + i + row) * heads + head) * dim + c + column;
                        dq[place] = F::cast_from(acc[(held * PIECE + row) * PIECE + column]);
                    }
                }
            }
        }
    }
}

/// dk = dsᵀ q and dv = pᵀ do, a cube for each tile of keys and key head. `positions` are the tokens' places in their texts.
#[cube(launch_unchecked, create_dummy_kernel)]
pub(crate) fn backward_keys<F: Float>(
    d_out: &[F],
    q: &[F],
    k: &[F],
    v: &[F],
    log_sum_exp: &[f32],
    along: &[f32],
    tiles: &[u32],
    positions: &[u32],
    dk: &mut [F],
    dv: &mut [F],
    heads: usize,
    group: usize,
    window: usize,
    scale: f32,
    cap: f32,
    #[comptime] s: Shape,
    #[define(F)] _type: ElemType,
) {
    let (dim, block, units, pitch, line) = comptime![(s.dim, s.block, s.units, s.pitch(), s.line())];
    let mut qs = Shared::<[f32]>::new_slice(comptime![block * pitch]);
    let mut ds = Shared::<[f32]>::new_slice(comptime![block * pitch]);
    let mut ks = Shared::<[f32]>::new_slice(comptime![block * pitch]);
    let mut vs = Shared::<[f32]>::new_slice(comptime![block * pitch]);
    let mut probabilities = Shared::<[f32]>::new_slice(comptime![block * line]);
    let mut scores = Shared::<[f32]>::new_slice(comptime![block * line]);
    let mut log_sums = Shared::<[f32]>::new_slice(block);
    let mut alongs = Shared::<[f32]>::new_slice(block);
    let unit = UNIT_POS as usize;
    let at = CUBE_POS_X as usize * KEY_FIELDS;
    let key_head = CUBE_POS_Y as usize;
    let key_heads = heads / group;
    let first = tiles[at] as usize;
    let count = tiles[at + 1] as usize;
    let position = tiles[at + 2] as usize;
    let end = tiles[at + 3] as usize;

    load(k, &mut ks, first, count, key_heads, key_head, s);
    load(v, &mut vs, first, count, key_heads, key_head, s);
    let mut d_keys = Array::<f32>::new(comptime![s.held() * PIECE * PIECE]);
    let mut d_values = Array::<f32>::new(comptime![s.held() * PIECE * PIECE]);
    for member in 0..group {
        let head = key_head * group + member;
        let mut from = first;
        while from < end {
            let n = min(end - from, block);
            sync_cube();
            load(q, &mut qs, from, n, heads, head, s);
            load(d_out, &mut ds, from, n, heads, head, s);
            load_line(log_sum_exp, &mut log_sums, from, n, heads, head, s);
            load_line(along, &mut alongs, from, n, heads, head, s);
            sync_cube();
            let mut p = unit;
            while p < comptime![s.score_pieces()] {
                let i = p / comptime![block / PIECE] * PIECE;
                let j = p % comptime![block / PIECE] * PIECE;
                let products = dots(&qs, &ks, i, j, s);
                let d_probabilities = dots(&ds, &vs, i, j, s);
                #[unroll]
                for row in 0..PIECE {
                    // The last token's place, where there is none.
                    let own = positions[min(from + i + row, end - 1)] as usize;
                    #[unroll]
                    for column in 0..PIECE {
                        let other = position + j + column;
                        // Tokens that see a key lie behind it, and so do all that lie there up to the end.
                        let sees = i + row < n
                            && j + column < count
                            && from + i + row >= first + j + column
                            && own - other < window;
                        let (x, d) = (products[row * PIECE + column], d_probabilities[row * PIECE + column]);
                        let (p, ds) = slopes(x, d, log_sums[i + row], alongs[i + row], sees, scale, cap, s);
                        probabilities[(i + row) * line + j + column] = p;
                        scores[(i + row) * line + j + column] = ds;
                    }
                }
                p += units;
            }
            sync_cube();
            for held in 0..comptime![s.held()] {
                let p = unit + held * units;
                if p < comptime![s.pieces()] {
                    let j = p / comptime![s.depth() / PIECE] * PIECE;
                    let c = p % comptime![s.depth() / PIECE] * PIECE;
                    for i in 0..block {
                        #[unroll]
                        for row in 0..PIECE {
                            let x = probabilities[i * line + j + row];
                            let y = scores[i * line + j + row];
                            #[unroll]
                            for column in 0..PIECE {
                                d_values[(held * PIECE + row) * PIECE + column] += x * ds[i * pitch + c + column];
                                d_keys[(held * PIECE + row) * PIECE + column] += y * qs[i * pitch + c + column];
                            }
                        }
                    }
                }
            }
            from += block;
        }
    }
    for held in 0..comptime![s.held()] {
        let p = unit + held * units;
        if p < comptime![s.pieces()] {
            let j = p / comptime![s.depth() / PIECE] * PIECE;
            let c = p % comptime![s.depth() / PIECE] * PIECE;
            #[unroll]
            for row in 0..PIECE {
                #[unroll]
                for column in 0..PIECE {
                    if j + row < count && c + column < dim {
                        let place = ((first + j + row) * key_heads + key_head) * dim + c + column;
                        dk[place] = F::cast_from(d_keys[(held * PIECE + row) * PIECE + column]);
                        dv[place] = F::cast_from(d_values[(held * PIECE + row) * PIECE + column]);
                    }
                }
            }
        }
    }
}

/// The tiles of some rows, as [`QUERY_FIELDS`] and [`KEY_FIELDS`] have them, and each token's position.
#[derive(Debug, Default)]
pub(crate) struct Tiles {
    pub queries: Vec<u32>,
    pub keys: Vec<u32>,
    pub positions: Vec<u32>,
}

impl Tiles {
    /// `window` bounds how many positions back a token sees, itself included.
    pub(crate) fn new(rows: &[Row], window: Option<usize>, block: usize) -> Self {
        let mut tiles = Self::default();
        let window = window.unwrap_or(usize::MAX);
        // The first position that the token at `position` sees.
        let back = |position: usize| (position + 1).saturating_sub(window);
        for row in rows {
            tiles.positions.extend(places(row).map(|(position, _)| position as u32));
            let end = row.start + row.tokens();
            // The prefix first; then each branch, of which a token sees the prefix too.
            let mut first = row.start;
            let stretches =
                std::iter::once((row.prefix, 0, end)).chain(row.branches.iter().map(|n| (*n, row.prefix, 0)));
            for (tokens, before, end) in stretches {
                for from in (0..tokens).step_by(block) {
                    let (count, position) = (block.min(tokens - from), before + from);
                    let shared = back(position).min(before);
                    let own = back(position).max(before);
                    let query = [
                        [first + from, count, position],
                        [row.start + shared, before - shared, shared],
                        [first + own - before, position + count - own, own],
                    ];
                    tiles.queries.extend(query.as_flattened().iter().map(|x| *x as u32));
                    let end = if end > 0 { end } else { first + tokens };
                    tiles.keys.extend([first + from, count, position, end].map(|x| x as u32));
                }
                first += tokens;
            }
        }
        tiles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which pairs of tokens the tiles let meet, of queries and of keys, as the kernels go over them.
    fn pairs(tiles: &Tiles, window: Option<usize>) -> [Vec<(usize, usize)>; 2] {
        let window = window.unwrap_or(usize::MAX);
        let at = |x: &[u32], i: usize| x[i] as usize;
        let (mut seen, mut seeing) = (Vec::new(), Vec::new());
        for t in tiles.queries.chunks(QUERY_FIELDS) {
            for i in 0..at(t, 1) {
                for span in [3, 6] {
                    for j in 0..at(t, span + 1) {
                        let (own, other) = (at(t, 2) + i, at(t, span + 2) + j);
                        if other <= own && own - other < window {
                            seen.push((at(t, 0) + i, at(t, span) + j));
                        }
                    }
                }
            }
        }
        for t in tiles.keys.chunks(KEY_FIELDS) {
            for j in 0..at(t, 1) {
                for token in at(t, 0) + j..at(t, 3) {
                    if at(&tiles.positions, token) - (at(t, 2) + j) < window {
                        seeing.push((token, at(t, 0) + j));
                    }
                }
            }
        }
        seen.sort();
        seeing.sort();
        [seen, seeing]
    }

    #[test]
    fn tiles_cover_what_each_token_sees_once() {
        let rows = [
            Row { start: 0, prefix: 3, branches: vec![2, 9] },
            Row { start: 14, prefix: 11, branches: vec![] },
            Row { start: 25, prefix: 0, branches: vec![1, 5, 1] },
        ];
        for window in [None, Some(1), Some(3), Some(8)] {
            // From the definition: a token sees its prefix and its own branch, no further back than the window.
            let mut expected = Vec::new();
            for row in &rows {
                let at: Vec<_> = places(row).collect();
                for (i, (own, first)) in at.iter().enumerate() {
                    for (j, (other, _)) in at.iter().enumerate().take(i + 1) {
                        if (j < row.prefix || j >= *first) && window.is_none_or(|w| own - other < w) {
                            expected.push((row.start + i, row.start + j));
                        }
                    }
                }
            }
            for block in [4, 8, 64] {
                let tiles = Tiles::new(&rows, window, block);
                assert_eq!(tiles.positions.len(), 32);
                let [seen, seeing] = pairs(&tiles, window);
                assert_eq!(seen, expected, "queries, {window:?}, {block}");
                assert_eq!(seeing, expected, "keys, {window:?}, {block}");
            }
        }
    }
}
