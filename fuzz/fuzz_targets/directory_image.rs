#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::Target::named("directory_image").run(bytes));
