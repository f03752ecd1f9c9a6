#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::Target::named("peer_message").run(bytes));
