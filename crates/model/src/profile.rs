//! Where the time of a step goes, piece by piece.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use burn::tensor::Device;
use collimate_backend::readings;

/// A stopwatch for the pieces of a step. Off, as it is by default, it costs nothing; on, the device is waited for before
/// and after each piece, which takes some speed from devices that work ahead.
#[derive(Clone, Debug, Default)]
pub struct Profile(Option<Arc<Mutex<Pieces>>>);

type Pieces = BTreeMap<&'static str, Piece>;

/// What was measured of a piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// How often it ran.
    pub calls: u64,
    /// How long, in all.
    pub time: Duration,
    /// How often it read from the device, which is waited for then whether or not anybody measures.
    pub readings: u64,
}

impl Profile {
    /// A stopwatch that runs; its clones add to the same account.
    pub fn on() -> Self {
        Self(Some(Arc::default()))
    }

    /// Runs a piece and notes how long it took.
    pub fn timed<R>(&self, piece: &'static str, device: &Device, run: impl FnOnce() -> R) -> R {
        let Some(pieces) = &self.0 else { return run() };
        let wait = || device.sync().expect("the device answers");
        wait();
        let (begun, read) = (Instant::now(), readings());
        let result = run();
        wait();
        let mut pieces = pieces.lock().expect("nothing panics under the lock");
        let entry = pieces.entry(piece).or_default();
        entry.calls += 1;
        entry.time += begun.elapsed();
        entry.readings += readings() - read;
        result
    }

    /// The pieces, the longest first; none if it is off.
    pub fn pieces(&self) -> Vec<(&'static str, Piece)> {
        let Some(pieces) = &self.0 else { return Vec::new() };
        let mut all: Vec<_> = pieces.lock().expect("nothing panics under the lock").clone().into_iter().collect();
        all.sort_by_key(|(_, p)| std::cmp::Reverse(p.time));
        all
    }

    /// Forgets what was measured.
    pub fn clear(&self) {
        if let Some(pieces) = &self.0 {
            pieces.lock().expect("nothing panics under the lock").clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_added_up_by_name() {
        let device = Device::flex();
        let profile = Profile::on();
        let clone = profile.clone();
        for _ in 0..2 {
            assert_eq!(clone.timed("short", &device, || 7), 7);
        }
        profile.timed("long", &device, || std::thread::sleep(Duration::from_millis(20)));
        let pieces = profile.pieces();
        assert_eq!(pieces.iter().map(|(n, p)| (*n, p.calls)).collect::<Vec<_>>(), [("long", 1), ("short", 2)]);
        assert!(pieces[0].1.time >= Duration::from_millis(20));
        profile.clear();
        assert!(profile.pieces().is_empty());
        assert!(Profile::default().pieces().is_empty());
    }
}
