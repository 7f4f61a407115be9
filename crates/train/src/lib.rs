//! Training: reference scores, optimiser, schedules, metrics and the loop that joins them.

pub mod content;
mod error;
mod metrics;
mod part;
mod reference;
mod schedule;
mod settings;
mod step;
mod supervised;
mod trainer;

pub use error::Error;
pub use part::Part;
pub use reference::file_name as reference_file_name;
pub use schedule::Schedule;
pub use settings::{Dtype, Settings};
pub use supervised::{Lesson, Supervised};
pub use trainer::{Event, Observer, Progress, State, StepInfo, Trainer, loss_and_gradients};
