//! Preference data: files to pairs to tokens to laid-out batches.
