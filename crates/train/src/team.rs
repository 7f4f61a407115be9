//! What workers tell each other of a step: each has computed its share of the units, and all are to know all of it.

use collimate_model::{Decoder, Grads};
use collimate_workers::Workers;

use crate::task::Said;

/// Numbers of a message about gradients: large enough to fill a network, small beside a model.
const ROOM: usize = 25 << 18;

/// Bytes to send, written one behind the other.
#[derive(Default)]
struct Parcel(Vec<u8>);

impl Parcel {
    fn number(&mut self, n: usize) {
        self.0.extend((n as u64).to_le_bytes());
    }

    fn singles(&mut self, x: &[f32]) {
        self.number(x.len());
        self.0.extend(x.iter().flat_map(|x| x.to_le_bytes()));
    }

    fn doubles(&mut self, x: &[f64]) {
        self.number(x.len());
        self.0.extend(x.iter().flat_map(|x| x.to_le_bytes()));
    }
}

/// The same, read in the order in which it was written.
struct Opened<'a>(&'a [u8]);

impl Opened<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (now, later) = self.0.split_first_chunk().expect("workers of one program write alike");
        self.0 = later;
        *now
    }

    fn number(&mut self) -> usize {
        u64::from_le_bytes(self.take()) as usize
    }

    fn singles(&mut self) -> Vec<f32> {
        (0..self.number()).map(|_| f32::from_le_bytes(self.take())).collect()
    }

    fn doubles(&mut self) -> Vec<f64> {
        (0..self.number()).map(|_| f64::from_le_bytes(self.take())).collect()
    }
}

/// What was said of all units, from what each worker says of its own.
pub(crate) fn all_said(workers: &dyn Workers, own: Vec<Vec<Said>>) -> Vec<Vec<Said>> {
    if workers.size() == 1 {
        return own;
    }
    let mut parcel = Parcel::default();
    parcel.number(own.len());
    for unit in &own {
        parcel.number(unit.len());
        for said in unit {
            parcel.singles(&said.log_probs);
            parcel.number(usize::from(said.log_collisions.is_some()));
            parcel.singles(said.log_collisions.as_deref().unwrap_or_default());
        }
    }
    let mut all = Vec::new();
    for bytes in workers.gather(&parcel.0) {
        let mut opened = Opened(&bytes);
        for _ in 0..opened.number() {
            let one = |opened: &mut Opened<'_>| {
                let (log_probs, has) = (opened.singles(), opened.number() == 1);
                let log_collisions = Some(opened.singles()).filter(|_| has);
                Said { log_probs, log_collisions }
            };
            all.push((0..opened.number()).map(|_| one(&mut opened)).collect());
        }
    }
    all
}

/// The metrics of all units, from each worker's own.
pub(crate) fn all_rows(workers: &dyn Workers, own: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    if workers.size() == 1 {
        return own;
    }
    let mut parcel = Parcel::default();
    parcel.number(own.len());
    own.iter().for_each(|row| parcel.doubles(row));
    let mut all = Vec::new();
    for bytes in workers.gather(&parcel.0) {
        let mut opened = Opened(&bytes);
        all.extend((0..opened.number()).map(|_| opened.doubles()).collect::<Vec<_>>());
    }
    all
}

/// Whether it is so on any of them.
pub(crate) fn any(workers: &dyn Workers, here: bool) -> bool {
    workers.size() > 1 && workers.gather(&[u8::from(here)]).concat().contains(&1) || here
}

/// Gradients become their sums over all workers.
pub(crate) fn sum(workers: &dyn Workers, policy: &Decoder, gradients: &mut Grads) {
    if workers.size() == 1 {
        return;
    }
    let mut wanted = policy.has_gradients(gradients);
    let own: Vec<u8> = wanted.iter().map(|has| u8::from(*has)).collect();
    for other in workers.gather(&own) {
        wanted.iter_mut().zip(other).for_each(|(wanted, has)| *wanted |= has == 1);
    }
    policy.exchange_gradients(gradients, &wanted, ROOM, |numbers| workers.sum(numbers));
}

#[cfg(test)]
mod tests {
    use super::*;
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
                    assert_eq!(all_said(&worker, said[own.clone()].to_vec()), *said);
                    assert_eq!(all_rows(&worker, rows[own].to_vec()), *rows);
                    assert!(any(&worker, worker.rank() == 1) && !any(&worker, false));
                });
            }
        });
    }
}
