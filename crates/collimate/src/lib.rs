//! Align language models from preference pairs, fair to length.
