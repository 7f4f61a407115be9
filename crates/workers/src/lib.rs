//! Several processes that train one model together.
//!
//! Each of the [`Workers`] computes its share of a step's units; loss and gradients are sums over all of them. A way for
//! them to talk registers itself at link time, as a [`Link`]; a launcher (`mpirun`, `srun`) starts the same command as often
//! as there are to be workers, and says so in the environment ([`Launch`]).

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The processes of a run, as one of them sees them. All of them make the same calls in the same order.
pub trait Workers: Debug + Send + Sync {
    /// Which one this is, from 0 on; 0 is the one that writes.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// What each of them gives, in the order of their ranks.
    fn gather(&self, bytes: &[u8]) -> Vec<Vec<u8>>;

    /// Numbers, as many on each, of which the first `counts[0]` are for worker 0, and so on: what is for this one, summed over
    /// all in the order of ranks, so that the bits are the same each time.
    fn reduce_scatter(&self, numbers: &[f32], counts: &[usize]) -> Vec<f32>;

    /// What each has, one behind the other: `counts[r]` numbers of worker r.
    fn all_gather(&self, own: &[f32], counts: &[usize]) -> Vec<f32>;

    /// Bytes that this worker has sent so far.
    fn sent(&self) -> u64;
}

/// What a worker has of `rows` rows, where each has a part of its own.
pub fn part(rows: usize, rank: usize, size: usize) -> std::ops::Range<usize> {
    rows * rank / size..rows * (rank + 1) / size
}

/// What each says, in the order of their ranks.
///
/// # Errors
/// What one of them says can't be read as this: it is at another place of its work.
pub fn exchange<T: Serialize + DeserializeOwned>(workers: &dyn Workers, own: &T) -> Result<Vec<T>, Error> {
    let mut bytes = Vec::new();
    ciborium::into_writer(own, &mut bytes).expect("memory takes all that is written");
    let said = workers.gather(&bytes).into_iter().enumerate();
    said.map(|(rank, bytes)| ciborium::from_reader(&bytes[..]).map_err(|_| Error::Astray { rank })).collect()
}

/// All of a list of which each has a part, in the order of their ranks.
///
/// # Errors
/// As [`exchange`].
pub fn of_all<T: Serialize + DeserializeOwned>(workers: &dyn Workers, own: Vec<T>) -> Result<Vec<T>, Error> {
    match workers.size() {
        1 => Ok(own),
        _ => Ok(exchange(workers, &own)?.into_iter().flatten().collect()),
    }
}

/// The units `from .. to` of `units` that a worker computes.
pub fn share(units: usize, workers: &dyn Workers) -> std::ops::Range<usize> {
    part(units, workers.rank(), workers.size())
}

/// One process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Solo;

impl Workers for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        vec![bytes.to_vec()]
    }

    fn reduce_scatter(&self, numbers: &[f32], _counts: &[usize]) -> Vec<f32> {
        numbers.to_vec()
    }

    fn all_gather(&self, own: &[f32], _counts: &[usize]) -> Vec<f32> {
        own.to_vec()
    }

    fn sent(&self) -> u64 {
        0
    }
}

/// What a launcher has told this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Who started it.
    pub launcher: &'static str,
    /// How many processes it has started.
    pub size: usize,
}

impl Launch {
    /// As the environment says; none if no launcher has started more than one.
    pub fn of(environment: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let number = |key: &str| environment(key)?.parse::<usize>().ok();
        // Slurm sets the number of tasks for a batch script too, which runs once: a step has a rank and a launch node.
        let slurm =
            || environment("SLURM_PROCID").and(environment("SLURM_STEP_NUM_TASKS")).and(number("SLURM_STEP_NUM_TASKS"));
        let said = [
            ("Open MPI's mpirun", number("OMPI_COMM_WORLD_SIZE")),
            ("a launcher that speaks PMI", number("PMI_SIZE")),
            ("Slurm's srun", slurm()),
        ];
        let mut launches = said.into_iter().filter_map(|(launcher, size)| Some(Self { launcher, size: size? }));
        launches.find(|launch| launch.size > 1)
    }
}

/// A way for workers to talk, registered at link time.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// What it is called.
    pub name: &'static str,
    /// Joins the others, once in a process: the workers, and what ends the conversation when all is done.
    pub join: fn() -> Result<Joined, String>,
}

inventory::collect!(Link);

/// Workers that have found each other.
pub struct Joined {
    /// The others, and this one.
    pub workers: Arc<dyn Workers>,
    /// Ends the conversation; left out where a worker fails, so that its launcher ends the others.
    pub leave: Box<dyn FnOnce()>,
}

/// Processes that can't work together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing is linked by which they could talk.
    #[error(
        "{launcher} has started {size} of this command, and each would write the same output_dir: this program is built \
         without the feature `mpi`, by which they would work together"
    )]
    Unlinked {
        /// Who started them.
        launcher: &'static str,
        /// How many there are.
        size: usize,
    },
    /// They don't do the same.
    #[error("worker {rank} does something else than this one: all must be the same program, and read the same files")]
    Astray {
        /// Which one.
        rank: usize,
    },
    /// They don't find each other.
    #[error("{launcher} has started {size} of this command, but {link} finds {found} of them{why}")]
    Apart {
        /// Who started them.
        launcher: &'static str,
        /// How many there are.
        size: usize,
        /// By what they were to talk.
        link: &'static str,
        /// How many it finds.
        found: usize,
        /// What it says, behind a colon.
        why: String,
    },
}

/// Joins the workers that a launcher has started with this one; alone, [`Solo`].
///
/// # Errors
/// Several were started, and they can't talk.
pub fn join() -> Result<Joined, Error> {
    let Some(Launch { launcher, size }) = Launch::of(|key| std::env::var(key).ok()) else {
        return Ok(Joined { workers: Arc::new(Solo), leave: Box::new(|| ()) });
    };
    let link = inventory::iter::<Link>.into_iter().min_by_key(|link| link.name);
    let Some(link) = link else { return Err(Error::Unlinked { launcher, size }) };
    let apart = |found, why| Error::Apart { launcher, size, link: link.name, found, why };
    let joined = (link.join)().map_err(|why| apart(1, format!(": {why}")))?;
    match joined.workers.size() {
        found if found == size => Ok(joined),
        found => Err(apart(found, String::new())),
    }
}

/// Workers in one process, a thread each: to see what several do without a launcher.
#[derive(Debug)]
pub struct Threads {
    rank: usize,
    table: Arc<Table>,
}

#[derive(Debug)]
struct Table {
    given: Mutex<Vec<Vec<u8>>>,
    meeting: std::sync::Barrier,
}

impl Threads {
    /// So many, each for a thread of its own.
    pub fn new(size: usize) -> Vec<Self> {
        let table = Table { given: Mutex::new(vec![Vec::new(); size]), meeting: std::sync::Barrier::new(size) };
        let table = Arc::new(table);
        (0..size).map(|rank| Self { rank, table: table.clone() }).collect()
    }
}

impl Workers for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.table.given.lock().expect("nothing panics under the lock").len()
    }

    fn gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let lock = || self.table.given.lock().expect("nothing panics under the lock");
        lock()[self.rank] = bytes.to_vec();
        self.table.meeting.wait();
        let all = lock().clone();
        // Nobody gives anew before everybody has taken.
        self.table.meeting.wait();
        all
    }

    fn reduce_scatter(&self, numbers: &[f32], counts: &[usize]) -> Vec<f32> {
        let own = counts[..self.rank].iter().sum::<usize>()..counts[..=self.rank].iter().sum();
        let mut sums = vec![0.0; own.len()];
        for given in self.gather(&bytes(numbers)) {
            sums.iter_mut().zip(&floats(&given)[own.clone()]).for_each(|(sum, x)| *sum += x);
        }
        sums
    }

    fn all_gather(&self, own: &[f32], counts: &[usize]) -> Vec<f32> {
        let all = self.gather(&bytes(own));
        assert!(all.iter().map(|x| x.len() / 4).eq(counts.iter().copied()), "each gives what it has");
        floats(&all.concat())
    }

    /// Nothing leaves the process.
    fn sent(&self) -> u64 {
        0
    }
}

fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(set: &[(&str, &str)]) -> Option<Launch> {
        Launch::of(|key| set.iter().find(|(k, _)| *k == key).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn a_launcher_is_known_by_what_it_sets() {
        assert_eq!(launch(&[]), None);
        assert_eq!(launch(&[("OMPI_COMM_WORLD_SIZE", "1")]), None);
        let found = launch(&[("OMPI_COMM_WORLD_SIZE", "3")]).unwrap();
        assert_eq!((found.size, found.launcher), (3, "Open MPI's mpirun"));
        assert_eq!(launch(&[("PMI_SIZE", "2")]).unwrap().size, 2);
        // A batch script of two tasks runs once; its step runs twice.
        assert_eq!(launch(&[("SLURM_NTASKS", "2"), ("SLURM_PROCID", "0")]), None);
        let step = [("SLURM_NTASKS", "2"), ("SLURM_PROCID", "1"), ("SLURM_STEP_NUM_TASKS", "2")];
        assert_eq!(launch(&step).unwrap().launcher, "Slurm's srun");
    }

    #[test]
    fn every_unit_has_one_worker() {
        for size in 1..6 {
            for units in 0..13 {
                let shares: Vec<_> = Threads::new(size).iter().flat_map(|w| share(units, w)).collect();
                assert_eq!(shares, (0..units).collect::<Vec<_>>(), "{units} units, {size} workers");
            }
        }
    }

    #[test]
    fn sums_are_of_all_and_the_same_bits_on_each() {
        let sums: Vec<Vec<f32>> = std::thread::scope(|scope| {
            let work = |w: Threads| {
                move || {
                    let mut x = vec![1e8 * w.rank() as f32 + 0.1, 1.0];
                    for counts in [[2, 0, 0], [1, 0, 1], [0, 1, 1]] {
                        x = w.all_gather(&w.reduce_scatter(&x, &counts), &counts);
                    }
                    x
                }
            };
            let threads: Vec<_> = Threads::new(3).into_iter().map(|w| scope.spawn(work(w))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(sums.iter().all(|s| *s == sums[0]));
        assert_eq!(sums[0][1], 27.0);
        assert_eq!(Solo.gather(&[1, 2]), [[1, 2]]);
    }
}
