//! Workers that talk by MPI, whose launcher is `mpirun`, or Slurm's `srun` where Slurm speaks its protocol.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
    sent: AtomicU64,
}

fn join() -> Result<Joined, String> {
    let (universe, had) = mpi::initialize_with_threading(Threading::Serialized).ok_or("MPI was begun before")?;
    if had < Threading::Serialized {
        return Err("this MPI can't be called from more than one thread".into());
    }
    let world = universe.world();
    let workers = Arc::new(World { rank: world.rank() as usize, size: world.size() as usize, sent: AtomicU64::new(0) });
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
    /// Counts what goes out.
    fn sends(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// As MPI counts.
fn counted(counts: &[usize]) -> Vec<i32> {
    counts.iter().map(|n| count(*n)).collect()
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
        self.sends((4 + bytes.len()) * (self.size - 1));
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

    /// Each is sent its own by all, and adds. An implementation's own reduction may add in another order, and in another one
    /// the next time.
    fn reduce_scatter(&self, numbers: &[f32], counts: &[usize]) -> Vec<f32> {
        let world = SimpleCommunicator::world();
        let counts = counted(counts);
        let (places, own) = (starts(&counts), counts[self.rank]);
        let (from_each, from) = (vec![own; self.size], starts(&vec![own; self.size]));
        let mut parts = vec![0f32; own as usize * self.size];
        self.sends(4 * (numbers.len() - own as usize));
        world.all_to_all_varcount_into(
            &Partition::new(numbers, &counts[..], &places[..]),
            &mut PartitionMut::new(&mut parts[..], &from_each[..], &from[..]),
        );
        let mut parts = parts.chunks_exact((own as usize).max(1));
        let mut sums = parts.next().unwrap_or_default().to_vec();
        for part in parts {
            sums.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
        }
        sums
    }

    fn all_gather(&self, own: &[f32], counts: &[usize]) -> Vec<f32> {
        let world = SimpleCommunicator::world();
        let counts = counted(counts);
        let places = starts(&counts);
        let mut all = vec![0f32; counts.iter().map(|n| *n as usize).sum()];
        self.sends(4 * own.len() * (self.size - 1));
        world.all_gather_varcount_into(own, &mut PartitionMut::new(&mut all[..], &counts[..], &places[..]));
        all
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}
