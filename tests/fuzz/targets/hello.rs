#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| flowforge_server::fuzzing::hello(input));
