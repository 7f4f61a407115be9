#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| collimate_fuzz::columnar(bytes));
