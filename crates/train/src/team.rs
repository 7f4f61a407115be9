//! What workers tell each other of a step: each has computed its share of the units, and all are to know all of it.

use std::ops::Range;
use std::sync::mpsc::Receiver;

use burn::tensor::{DType, Device, Tensor, TensorData};
use collimate_backend::read;
use collimate_model::{Decoder, Moments, ParamId, Ready};
use collimate_workers::{Workers, exchange, part};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::step;

/// Numbers of a message about gradients: large enough to fill a network, small beside a model.
const ROOM: usize = if cfg!(test) { 100 } else { 25 << 18 };

/// What was said of all units, or their metrics, from what each worker has of its own.
pub(crate) fn of_all<X: Serialize + DeserializeOwned>(workers: &dyn Workers, own: Vec<X>) -> Result<Vec<X>, Error> {
    match workers.size() {
        1 => Ok(own),
        _ => Ok(exchange(workers, &own)?.into_iter().flatten().collect()),
    }
}

/// Whether it is so on any of them.
pub(crate) fn any(workers: &dyn Workers, here: bool) -> Result<bool, Error> {
    Ok(of_all(workers, vec![here])?.contains(&true))
}

/// Which rows of each parameter a worker adds up, and (under ZeRO) keeps the optimiser's state of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    rank: usize,
    size: usize,
}

impl Share {
    pub fn of(workers: &dyn Workers) -> Self {
        Self { rank: workers.rank(), size: workers.size() }
    }

    /// Of a parameter of so many rows.
    pub fn rows(&self, rows: usize) -> Range<usize> {
        self.rows_of(self.rank, rows)
    }

    fn rows_of(&self, rank: usize, rows: usize) -> Range<usize> {
        part(rows, rank, self.size)
    }
}

/// Some parameters whose rows go over the wire together: first all that are worker 0's, and so on.
struct Bucket<'a> {
    share: Share,
    parameters: &'a [(ParamId, [usize; 2])],
    /// Numbers that each worker's rows stand behind.
    ahead: usize,
}

/// Cuts parameters into messages of at most [`ROOM`] numbers, or one parameter.
fn buckets(parameters: &[(ParamId, [usize; 2])]) -> Vec<&[(ParamId, [usize; 2])]> {
    let sizes: Vec<usize> = parameters.iter().map(|(_, [rows, columns])| rows * columns).collect();
    step::cut(&sizes, usize::MAX, ROOM).into_iter().map(|range| &parameters[range]).collect()
}

impl Bucket<'_> {
    fn numbers_of(&self, rank: usize) -> usize {
        self.parameters.iter().map(|(_, [rows, columns])| self.share.rows_of(rank, *rows).len() * columns).sum()
    }

    /// How many numbers are each worker's.
    fn counts(&self) -> Vec<usize> {
        (0..self.share.size).map(|rank| self.ahead + self.numbers_of(rank)).collect()
    }

    /// What a worker's part holds of each parameter, in its rows.
    fn split<'b>(&self, rank: usize, part: &'b [f32]) -> Vec<&'b [f32]> {
        let mut rest = &part[self.ahead..];
        let each = self.parameters.iter().map(|(_, [rows, columns])| {
            let (own, behind) = rest.split_at(self.share.rows_of(rank, *rows).len() * columns);
            rest = behind;
            own
        });
        each.collect()
    }

    /// Each parameter as a whole, from the parts of all.
    fn join(&self, all: &[f32]) -> Vec<Vec<f32>> {
        let mut whole: Vec<Vec<f32>> = self.parameters.iter().map(|(_, [r, c])| Vec::with_capacity(r * c)).collect();
        let mut rest = all;
        for (rank, count) in self.counts().into_iter().enumerate() {
            let (part, behind) = rest.split_at(count);
            rest = behind;
            whole.iter_mut().zip(self.split(rank, part)).for_each(|(whole, rows)| whole.extend(rows));
        }
        whole
    }
}

/// Numbers of a tensor, in f32 on the host.
fn on_host(t: Tensor<2>) -> Vec<f32> {
    read(t).convert::<f32>().try_to_vec::<f32>().expect("it was converted")
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
    let share = Share::of(workers);
    let mut sums = Sums { gradients: Vec::new(), given: Vec::new() };
    for parameters in buckets(parameters) {
        // Before the rows stands how many workers have a gradient of each parameter.
        let bucket = Bucket { share, parameters, ahead: parameters.len() };
        let counts = bucket.counts();
        let starts: Vec<usize> = counts.iter().scan(0, |at, n| Some(std::mem::replace(at, *at + n))).collect();
        let mut at: Vec<usize> = starts.iter().map(|start| start + bucket.ahead).collect();
        let mut numbers = vec![0f32; counts.iter().sum()];
        for (i, (id, [rows, columns])) in parameters.iter().enumerate() {
            let Ok((ready, gradient)) = receiver.recv() else { return sums };
            assert_eq!(ready, *id, "gradients come in the order of a backward pass");
            let gradient = gradient.map(on_host);
            for (rank, at) in at.iter_mut().enumerate() {
                let rows = share.rows_of(rank, *rows);
                let rows = rows.start * columns..rows.end * columns;
                let here = *at..*at + rows.len();
                *at = here.end;
                if let Some(gradient) = &gradient {
                    numbers[starts[rank] + i] = 1.0;
                    numbers[here].copy_from_slice(&gradient[rows]);
                }
            }
        }
        let part = workers.reduce_scatter(&numbers, &counts);
        drop(numbers);
        let given: Vec<bool> = part[..bucket.ahead].iter().map(|n| *n > 0.0).collect();
        sums.given.extend(parameters.iter().zip(&given).filter(|(_, given)| **given).map(|((id, _), _)| *id));
        let whole = if own {
            bucket.split(share.rank, &part).into_iter().map(<[f32]>::to_vec).collect()
        } else {
            bucket.join(&workers.all_gather(&part, &counts))
        };
        for (((id, [_, columns]), numbers), given) in parameters.iter().zip(whole).zip(given) {
            let shape = [numbers.len() / columns, *columns];
            let some = given && !numbers.is_empty();
            sums.gradients.push((*id, some.then(|| on_device(numbers, shape, device, DType::F32))));
        }
    }
    sums
}
/// Hands the whole of each of `parameters` to `whole`, from the rows that each worker has of it.
fn gather(
    workers: &dyn Workers,
    parameters: &[(ParamId, [usize; 2])],
    own: impl Fn(ParamId) -> Option<Tensor<2>>,
    mut whole: impl FnMut(ParamId, Vec<f32>, [usize; 2]),
) {
    for parameters in buckets(parameters) {
        let bucket = Bucket { share: Share::of(workers), parameters, ahead: 0 };
        let part: Vec<f32> = parameters.iter().filter_map(|(id, _)| own(*id)).flat_map(on_host).collect();
        let all = workers.all_gather(&part, &bucket.counts());
        parameters.iter().zip(bucket.join(&all)).for_each(|((id, shape), numbers)| whole(*id, numbers, *shape));
    }
}

/// Puts the parameters `given`, of which each worker has changed its rows, in their place on all.
pub(crate) fn share_values(workers: &dyn Workers, policy: &mut Decoder, given: &[ParamId], own: &[Option<Tensor<2>>]) {
    let parameters = shaped(policy, given.iter().copied());
    let device = policy.device().clone();
    let mut values = Vec::with_capacity(parameters.len());
    let kept = |id: ParamId| policy.parameters().0[id.index()].dtype();
    gather(
        workers,
        &parameters,
        |id| own[id.index()].clone(),
        |id, numbers, shape| {
            values.push((id, on_device(numbers, shape, &device, kept(id))));
        },
    );
    policy.set_values(values);
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
