//! Training: what a step optimises, reference scores, optimiser, schedules, metrics and the loop that joins them.
//!
//! A [`Task`] says what a step optimises of [`Unit`]s; [`Trainer`] is the one loop for all tasks.

pub mod content;
mod error;
mod fit;
mod metrics;
mod part;
mod reference;
mod schedule;
mod settings;
mod step;
mod task;
mod tasks;
mod team;
mod trainer;

pub use collimate_data::{Lesson, Rated};
pub use error::Error;
pub use fit::Plan;
pub use part::{Part, Stored};
pub use reference::file_name as reference_file_name;
pub use schedule::Schedule;
pub use settings::{Dtype, Settings};
pub use task::{Judgement, Pool, Said, Seen, Size, Source, Task, Unit};
pub use tasks::{Preference, Reward, Supervised};
pub use trainer::{Best, Event, Observer, Progress, State, StepInfo, Trainer, Units, loss_and_gradients};
