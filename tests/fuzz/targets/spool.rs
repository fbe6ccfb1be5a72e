#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| flowforge_client::fuzzing::spool(input));
