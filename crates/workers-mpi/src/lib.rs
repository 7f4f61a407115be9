//! Workers that talk by MPI, whose launcher is `mpirun`, or Slurm's `srun` where Slurm speaks its protocol.

use std::sync::Arc;

use collimate_workers::{Joined, Link, Workers};
use mpi::Threading;
use mpi::datatype::{Partition, PartitionMut};
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;

inventory::submit! { Link { name: "MPI", join } }

/// All processes that the launcher has started.
#[derive(Debug)]
struct World {
    rank: usize,
    size: usize,
}

fn join() -> Result<Joined, String> {
    let (universe, had) = mpi::initialize_with_threading(Threading::Serialized).ok_or("MPI was begun before")?;
    if had < Threading::Serialized {
        return Err("this MPI can't be called from more than one thread".into());
    }
    let world = universe.world();
    let workers = Arc::new(World { rank: world.rank() as usize, size: world.size() as usize });
    // Kept from being dropped: a worker that fails leaves without a word, by which the launcher knows that it failed.
    let universe = std::mem::ManuallyDrop::new(universe);
    Ok(Joined { workers, leave: Box::new(move || drop(std::mem::ManuallyDrop::into_inner(universe))) })
}

/// Where parts of these lengths begin, one behind the other; MPI counts in 32 bits.
fn starts(counts: &[i32]) -> Vec<i32> {
    let mut at = 0i32;
    let start = |n: &i32| {
        let here = at;
        at = at.checked_add(*n).expect("MPI counts to 2^31");
        here
    };
    counts.iter().map(start).collect()
}

fn count(n: usize) -> i32 {
    n.try_into().expect("MPI counts to 2^31")
}

impl World {
    /// The numbers of a piece that each worker adds up.
    fn owned(&self, numbers: usize) -> Vec<i32> {
        (0..self.size).map(|r| count(numbers * (r + 1) / self.size - numbers * r / self.size)).collect()
    }
}

impl Workers for World {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let world = SimpleCommunicator::world();
        let mut counts = vec![0i32; self.size];
        world.all_gather_into(&count(bytes.len()), &mut counts[..]);
        let starts = starts(&counts);
        let mut all = vec![0u8; counts.iter().map(|n| *n as usize).sum()];
        world.all_gather_varcount_into(bytes, &mut PartitionMut::new(&mut all[..], &counts[..], &starts[..]));
        let mut rest = &all[..];
        let each = counts.iter().map(|n| {
            let (own, behind) = rest.split_at(*n as usize);
            rest = behind;
            own.to_vec()
        });
        each.collect()
    }

    /// Each worker is sent its part of the numbers by all, adds them in the order of ranks, and sends the sums to all. An
    /// implementation's own reduction may add in another order, and in another one the next time.
    fn sum(&self, numbers: &mut [f32]) {
        let world = SimpleCommunicator::world();
        let counts = self.owned(numbers.len());
        let places = starts(&counts);
        let own = counts[self.rank];
        let (from_each, from) = (vec![own; self.size], starts(&vec![own; self.size]));
        let mut parts = vec![0f32; own as usize * self.size];
        world.all_to_all_varcount_into(
            &Partition::new(&*numbers, &counts[..], &places[..]),
            &mut PartitionMut::new(&mut parts[..], &from_each[..], &from[..]),
        );
        let mut sums = vec![0f32; own as usize];
        for part in parts.chunks_exact((own as usize).max(1)) {
            sums.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
        }
        world.all_gather_varcount_into(&sums[..], &mut PartitionMut::new(numbers, &counts[..], &places[..]));
    }
}
