//! Decoder-only transformers read from and written to Hugging Face folders, and the log-prob engine.
