//! Training: reference scores, optimiser, schedules, metrics and checkpoints.
