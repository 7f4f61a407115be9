//! `path`: the vectors that the kernels run on.
//!
//! A kernel is compiled once for each [`Path`] and takes the widest that the machine has, found once at run time. A narrower
//! one can be taken in its place ([`Path::run`]): so every path of a machine is tested on it, with [`Path::Scalar`], which
//! is plain Rust, as the oracle, and timed beside the others.
//!
//! Not chosen here: the units for products of bf16, which [`half`](crate::half) finds for itself, and which there are on
//! x86-64 only.

use std::cell::Cell;
use std::sync::OnceLock;

use pulp::{Arch, WithSimd};

/// Vectors of f32 that a processor may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// x86-64: 16 lanes and fused multiply-adds; AVX-512 F, BW, CD, DQ and VL.
    Avx512,
    /// x86-64: 8 lanes and fused multiply-adds; AVX2 and FMA.
    Avx2,
    /// AArch64: 4 lanes and fused multiply-adds.
    Neon,
    /// One number at a time, and two roundings to a multiply-add; on any processor.
    Scalar,
}

thread_local! {
    static CHOSEN: Cell<Option<Token>> = const { Cell::new(None) };
}

/// A path that this machine has.
#[derive(Clone, Copy)]
pub(crate) struct Token {
    path: Path,
    pub(crate) arch: Arch,
}

impl Path {
    /// The widest that the processor and the system have.
    pub fn here() -> Self {
        here().path
    }

    /// All that there are, the widest first.
    pub fn all() -> impl Iterator<Item = Self> {
        tokens().map(|token| token.path)
    }

    /// What kernels take that are called here.
    pub fn current() -> Self {
        token().path
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "AVX-512",
            Self::Avx2 => "AVX2",
            Self::Neon => "NEON",
            Self::Scalar => "scalar",
        }
    }

    /// Runs `work` with its kernels on this path, whichever threads they take.
    ///
    /// # Panics
    /// When the machine lacks it.
    pub fn run<R>(self, work: impl FnOnce() -> R) -> R {
        let token = tokens().find(|token| token.path == self);
        assert!(token.is_some(), "{} is not on this processor", self.name());
        with(token, work)
    }

    fn arch(self) -> Option<Arch> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => pulp::x86::V4::try_new().map(Arch::V4),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => pulp::x86::V3::try_new().map(Arch::V3),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512 | Self::Avx2 => None,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => pulp::aarch64::Neon::try_new().map(Arch::Neon),
            #[cfg(not(target_arch = "aarch64"))]
            Self::Neon => None,
            Self::Scalar => Some(Arch::Scalar),
        }
    }
}

fn tokens() -> impl Iterator<Item = Token> {
    let all = [Path::Avx512, Path::Avx2, Path::Neon, Path::Scalar].into_iter();
    all.filter_map(|path| path.arch().map(|arch| Token { path, arch }))
}

fn here() -> Token {
    static HERE: OnceLock<Token> = OnceLock::new();
    *HERE.get_or_init(|| tokens().next().expect("the scalar path is anywhere"))
}

/// What kernels take that are called here.
#[inline]
pub(crate) fn token() -> Token {
    CHOSEN.get().unwrap_or_else(here)
}

/// What was chosen on this thread, to be handed to others that work for it.
pub(crate) fn chosen() -> Option<Token> {
    CHOSEN.get()
}

/// Runs `work` with what another thread had [`chosen`].
pub(crate) fn with<R>(token: Option<Token>, work: impl FnOnce() -> R) -> R {
    struct Restore(Option<Token>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CHOSEN.set(self.0);
        }
    }
    // Dropped behind a panic too: threads of a pool outlive it.
    let _restore = Restore(CHOSEN.replace(token));
    work()
}

/// Runs a body that is generic over vectors on the current path.
#[inline(always)]
pub(crate) fn dispatch<Op: WithSimd>(op: Op) -> Op::Output {
    token().arch.dispatch(op)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parallel::map;
    use crate::simd::dispatched;

    dispatched! {
        /// What the bodies are compiled for, and their lanes.
        fn taken<S>(_simd, unused: ()) -> (&'static str, usize) {
            let () = unused;
            (std::any::type_name::<S>(), S::F32_LANES)
        }
    }

    fn expected(path: Path) -> (&'static str, usize) {
        match path {
            Path::Avx512 => ("::V4", 16),
            Path::Avx2 => ("::V3", 8),
            Path::Neon => ("::Neon", 4),
            Path::Scalar => ("::Scalar", 1),
        }
    }

    #[track_caller]
    fn assert_taken(path: Path) {
        let ((name, lanes), (end, wide)) = (taken(()), expected(path));
        assert!(name.ends_with(end) && lanes == wide, "{path:?}: {name} of {lanes}");
        assert_eq!(Path::current(), path);
    }

    #[test]
    fn a_path_is_taken_on_every_thread_that_works_for_it_and_nowhere_else() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        for path in Path::all() {
            path.run(|| {
                assert_taken(path);
                // Two at once on the threads of one pool, one of them inside of the other.
                let _ = map(0..50, |i| {
                    assert_taken(path);
                    if i % 7 == 0 {
                        Path::Scalar.run(|| map(0..5, |_| assert_taken(Path::Scalar)));
                    }
                    assert_taken(path);
                });
            });
            pool.install(|| assert_taken(Path::here()));
            assert_taken(Path::here());
        }
        assert_eq!(Path::all().last(), Some(Path::Scalar));
        assert_eq!(Path::all().next(), Some(Path::here()));
    }

    #[test]
    fn the_processor_has_what_it_says() {
        #[cfg(target_arch = "x86_64")]
        {
            let fma = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            assert_eq!(Path::all().any(|p| p == Path::Avx2), fma);
            assert!(!Path::all().any(|p| p == Path::Avx512) || is_x86_feature_detected!("avx512f"));
        }
        // Part of AArch64 on all systems that Rust's standard library is for.
        assert_eq!(Path::all().any(|p| p == Path::Neon), cfg!(target_arch = "aarch64"));
        // Set where another processor is emulated.
        if let Ok(name) = std::env::var("COLLIMATE_EXPECTED_PATH") {
            assert_eq!(Path::here().name(), name);
        }
    }

    #[test]
    fn a_panic_leaves_the_path_as_it_was() {
        let fault = std::panic::catch_unwind(|| Path::Scalar.run(|| panic!("a fault")));
        assert!(fault.is_err());
        assert_taken(Path::here());
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let foreign = if cfg!(target_arch = "aarch64") { Path::Avx2 } else { Path::Neon };
        let fault = std::panic::catch_unwind(|| foreign.run(|| ())).unwrap_err();
        assert_eq!(*fault.downcast::<String>().unwrap(), format!("{} is not on this processor", foreign.name()));
    }
}
