//! What workers tell each other of a step: each has computed its share of the units, and all are to know all of it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::mpsc::Receiver;

use burn::tensor::{DType, Device, Tensor, TensorData};
use collimate_backend::read;
use collimate_model::{Decoder, Moments, ParamId, Ready};
use collimate_workers::{Workers, of_all, part, share};

use crate::error::Error;
use crate::step;

/// Numbers of a message about gradients: large enough to fill a network, small beside a model.
const ROOM: usize = if cfg!(test) { 100 } else { 25 << 18 };

/// Whether it is so on any of them.
pub(crate) fn any(workers: &dyn Workers, here: bool) -> Result<bool, Error> {
    Ok(of_all(workers, vec![here])?.contains(&true))
}

/// What goes over the wire of a parameter at a time: all of it, or, where it is large, one of several parts of each worker's
/// rows.
#[derive(Clone, Copy, Debug)]
struct Piece {
    id: ParamId,
    shape: [usize; 2],
    /// Which part, of how many.
    at: usize,
    of: usize,
}

impl Piece {
    /// The numbers of the parameter that are worker `rank`'s, of so many.
    fn numbers(&self, rank: usize, size: usize) -> Range<usize> {
        let [rows, columns] = self.shape;
        let own = part(rows, rank, size);
        let part = part(own.len(), self.at, self.of);
        (own.start + part.start) * columns..(own.start + part.end) * columns
    }

    fn is_last(&self) -> bool {
        self.at + 1 == self.of
    }
}

/// Pieces that go together: first what is worker 0's of each, and so on.
struct Message<'a> {
    workers: &'a dyn Workers,
    pieces: &'a [Piece],
    /// Numbers that stand before each worker's.
    ahead: usize,
}

/// Parameters in pieces, some for each message of about [`ROOM`] numbers.
fn messages(parameters: &[(ParamId, [usize; 2])]) -> Vec<Vec<Piece>> {
    let cut = |(id, shape): &(ParamId, [usize; 2])| {
        let (id, shape) = (*id, *shape);
        let of = (shape[0] * shape[1]).div_ceil(ROOM).max(1);
        (0..of).map(move |at| Piece { id, shape, at, of })
    };
    let pieces: Vec<Piece> = parameters.iter().flat_map(cut).collect();
    // Two pieces of one parameter are never in one message.
    let sizes: Vec<usize> = pieces.iter().map(|p| (p.shape[0] * p.shape[1]).div_ceil(p.of)).collect();
    step::cut(&sizes, usize::MAX, ROOM).into_iter().map(|range| pieces[range].to_vec()).collect()
}

impl Message<'_> {
    /// How many numbers are each worker's.
    fn counts(&self) -> Vec<usize> {
        let of = |rank| self.pieces.iter().map(|p| p.numbers(rank, self.workers.size()).len()).sum::<usize>();
        (0..self.workers.size()).map(|rank| self.ahead + of(rank)).collect()
    }

    /// Tells `visit` of the numbers of each piece that are worker `rank`'s, and where they lie in its part of the message.
    fn each(&self, rank: usize, mut visit: impl FnMut(usize, Range<usize>, Range<usize>)) {
        let mut at = self.ahead;
        for (i, piece) in self.pieces.iter().enumerate() {
            let numbers = piece.numbers(rank, self.workers.size());
            let here = at..at + numbers.len();
            at = here.end;
            visit(i, numbers, here);
        }
    }

    /// Gives each its part of the message, and hands the numbers of each piece to `put`, with where they belong.
    fn all_gather(&self, part: &[f32], mut put: impl FnMut(usize, Range<usize>, &[f32])) {
        let counts = self.counts();
        let all = self.workers.all_gather(part, &counts);
        let mut rest = &all[..];
        for (rank, count) in counts.into_iter().enumerate() {
            let (part, behind) = rest.split_at(count);
            rest = behind;
            self.each(rank, |i, numbers, here| put(i, numbers, &part[here]));
        }
    }
}

/// Numbers of a tensor, in f32 on the host.
fn on_host(t: Tensor<2>) -> Vec<f32> {
    read(t).convert::<f32>().try_into_vec::<f32>().expect("it was converted")
}

fn on_device(numbers: Vec<f32>, shape: [usize; 2], device: &Device, dtype: DType) -> Tensor<2> {
    Tensor::<2>::from_data(TensorData::new(numbers, shape), (device, DType::F32)).cast(dtype)
}

pub(crate) fn shaped(policy: &Decoder, ids: impl IntoIterator<Item = ParamId>) -> Vec<(ParamId, [usize; 2])> {
    let shape = |id: ParamId| policy.parameters().0[id.index()].dims();
    ids.into_iter().map(|id| (id, shape(id))).collect()
}

/// What the workers' gradients come to.
pub(crate) struct Sums {
    pub gradients: Vec<Ready>,
    /// The parameters that any of them has a gradient of.
    pub given: Vec<ParamId>,
}

/// Adds gradients up over all workers as they come from `receiver`, in the order of `parameters`: of each the whole, or, if
/// `own` says so, this worker's rows. What a worker has none of counts for 0; what none has there is none of. Gradients that
/// stop coming, where this worker has failed, are left alone.
pub(crate) fn add_up(
    workers: &dyn Workers,
    parameters: &[(ParamId, [usize; 2])],
    receiver: Receiver<Ready>,
    own: bool,
    device: &Device,
) -> Sums {
    let mut sums = Sums { gradients: Vec::new(), given: Vec::new() };
    // The gradient of each parameter that is under way, if there is one, and what the sums are so far.
    let mut held: VecDeque<(Option<Vec<f32>>, Vec<f32>)> = VecDeque::new();
    for pieces in messages(parameters) {
        // Before the rows stands how many workers have a gradient of each parameter.
        let message = Message { workers, pieces: &pieces, ahead: pieces.len() };
        for piece in pieces.iter().filter(|p| p.at == 0) {
            let Ok((ready, gradient)) = receiver.recv() else { return sums };
            assert_eq!(ready, piece.id, "gradients come in the order of a backward pass");
            let [rows, columns] = piece.shape;
            let sum = if own { Vec::new() } else { vec![0.0; rows * columns] };
            held.push_back((gradient.map(on_host), sum));
        }
        let counts = message.counts();
        let mut numbers = vec![0f32; counts.iter().sum()];
        let mut rest = &mut numbers[..];
        for (rank, count) in counts.iter().enumerate() {
            let (part, behind) = rest.split_at_mut(*count);
            rest = behind;
            message.each(rank, |i, numbers, here| {
                if let (Some(gradient), _) = &held[i] {
                    part[i] = 1.0;
                    part[here].copy_from_slice(&gradient[numbers]);
                }
            });
        }
        let part = workers.reduce_scatter(&numbers, &counts);
        drop(numbers);
        if own {
            message.each(workers.rank(), |i, _, here| held[i].1.extend_from_slice(&part[here]));
        } else {
            message.all_gather(&part, |i, numbers, sums| held[i].1[numbers].copy_from_slice(sums));
        }
        for (piece, given) in pieces.iter().zip(&part).filter(|(p, _)| p.is_last()) {
            let (_, sum) = held.pop_front().expect("what has begun ends");
            let given = *given > 0.0;
            if given {
                sums.given.push(piece.id);
            }
            let shape = [sum.len() / piece.shape[1], piece.shape[1]];
            let some = given && !sum.is_empty();
            sums.gradients.push((piece.id, some.then(|| on_device(sum, shape, device, DType::F32))));
        }
    }
    sums
}

/// Hands the whole of each of `parameters` to `whole`, from the rows that each worker has of it.
fn gather(
    workers: &dyn Workers,
    parameters: &[(ParamId, [usize; 2])],
    mut own: impl FnMut(ParamId) -> Option<Tensor<2>>,
    mut whole: impl FnMut(ParamId, Vec<f32>, [usize; 2]),
) {
    let mut held: VecDeque<(Vec<f32>, Vec<f32>)> = VecDeque::new();
    for pieces in messages(parameters) {
        let message = Message { workers, pieces: &pieces, ahead: 0 };
        for piece in pieces.iter().filter(|p| p.at == 0) {
            let [rows, columns] = piece.shape;
            held.push_back((own(piece.id).map(on_host).unwrap_or_default(), vec![0.0; rows * columns]));
        }
        let mut part = Vec::new();
        message.each(workers.rank(), |i, numbers, _| {
            let [rows, columns] = pieces[i].shape;
            let begin = share(rows, workers).start * columns;
            part.extend_from_slice(&held[i].0[numbers.start - begin..numbers.end - begin]);
        });
        message.all_gather(&part, |i, numbers, rows| held[i].1[numbers].copy_from_slice(rows));
        for piece in pieces.iter().filter(|p| p.is_last()) {
            let (_, numbers) = held.pop_front().expect("what has begun ends");
            whole(piece.id, numbers, piece.shape);
        }
    }
}

/// Puts the parameters `given`, of which each worker has changed its rows, in their place on all.
pub(crate) fn share_values(
    workers: &dyn Workers,
    policy: &mut Decoder,
    given: &[ParamId],
    mut own: Vec<Option<Tensor<2>>>,
) {
    let parameters = shaped(policy, given.iter().copied());
    let device = policy.device().clone();
    let take = |id: ParamId| own[id.index()].take();
    gather(workers, &parameters, take, |id, numbers, shape| {
        let kept = policy.parameters().0[id.index()].dtype();
        policy.set_value(id, on_device(numbers, shape, &device, kept));
    });
}

/// The moments of all parameters, on the worker that writes; each has those of its rows.
pub(crate) fn whole_moments(workers: &dyn Workers, policy: &Decoder, own: &Moments) -> Moments {
    let none = || vec![None; own.first.len()];
    let mut all = Moments { first: none(), second: none(), steps: own.steps };
    let parameters = shaped(policy, policy.backward_order());
    for (own, all) in [(&own.first, &mut all.first), (&own.second, &mut all.second)] {
        gather(
            workers,
            &parameters,
            |id| own[id.index()].clone(),
            |id, numbers, shape| {
                if workers.rank() == 0 {
                    all[id.index()] = Some(on_device(numbers, shape, policy.device(), DType::F32));
                }
            },
        );
    }
    all
}

/// √Σ g² of gradients of which each worker has its rows, from that of its own.
pub(crate) fn norm(workers: &dyn Workers, own: f64) -> Result<f64, Error> {
    Ok(of_all(workers, vec![own * own])?.iter().sum::<f64>().sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Said;
    use collimate_workers::Threads;

    #[test]
    fn what_is_told_arrives_in_the_order_of_units() {
        let unit = |i: usize| {
            vec![
                Said { log_probs: vec![-(i as f32); i], log_collisions: None },
                Said {
                    log_probs: vec![0.5],
                    log_collisions: i.is_multiple_of(2).then(|| vec![-0.25, f32::NEG_INFINITY]),
                },
            ]
        };
        let row = |i: usize| vec![i as f64 + 0.1; i % 3];
        let said: Vec<_> = (0..5).map(unit).collect();
        let rows: Vec<_> = (0..5).map(row).collect();
        std::thread::scope(|scope| {
            for worker in Threads::new(3) {
                let (said, rows) = (&said, &rows);
                scope.spawn(move || {
                    let own = collimate_workers::share(5, &worker);
                    assert_eq!(of_all(&worker, said[own.clone()].to_vec()).unwrap(), *said);
                    assert_eq!(of_all(&worker, rows[own].to_vec()).unwrap(), *rows);
                    assert!(any(&worker, worker.rank() == 1).unwrap() && !any(&worker, false).unwrap());
                });
            }
        });
    }
}
