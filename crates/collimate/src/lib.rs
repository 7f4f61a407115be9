//! Collimate aligns language models from preference pairs, on summed or on length-averaged log-likelihoods.
//!
//! This crate joins the parts: [`core`] (the formalism), [`data`] (preference files to tokens), [`model`] (checkpoints
//! and the log-prob engine), [`train`] (the loop), [`reward`] (scores and labels), [`backend`] (the plug-in point for tensors), and [`cli`], the
//! `collimate` command. A program that links further losses, operators or backends and calls [`cli::main`] has them all
//! by name.

#[macro_use]
mod say;

mod card;

pub mod cli;
mod commands;
pub mod config;
pub mod from_trl;
mod generations;
mod measure;
mod output;
mod progress;
mod reward_model;
mod signals;
mod tensorboard;

pub use collimate_backend as backend;
pub use collimate_core as core;
pub use collimate_data as data;
pub use collimate_model as model;
pub use collimate_reward as reward;
pub use collimate_train as train;

// A plug-in that nobody names is dropped by the linker.
#[cfg(feature = "cube-cpu")]
use collimate_backend_cube_cpu as _;
#[cfg(feature = "cuda-untuned")]
use collimate_backend_cuda as _;
#[cfg(feature = "flex")]
use collimate_backend_flex as _;
#[cfg(feature = "libtorch")]
use collimate_backend_libtorch as _;
#[cfg(feature = "ndarray")]
use collimate_backend_ndarray as _;
#[cfg(feature = "mpi")]
use collimate_workers_mpi as _;
