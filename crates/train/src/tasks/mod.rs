//! The tasks that come with the trainer: one task, one file.

mod preference;
mod reward;
mod supervised;

pub use preference::Preference;
pub(crate) use preference::pair_size;
pub use reward::Reward;
pub(crate) use reward::rated_size;
pub use supervised::Supervised;
pub(crate) use supervised::lesson_size;
