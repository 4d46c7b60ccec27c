//! Command lines and values of a configuration: any arguments.
//!
//! Holds: nothing panics; a refusal is one line; what is accepted is a configuration within the
//! documented ranges, which the library accepts, too; what a value is shown as can be typed. Not
//! here: what a flag means (`src/cli/` of balancebeam tests that), starting a server.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| balancebeam_fuzz::flags::check(input));

#[cfg(not(fuzzing))]
fn main() {
    balancebeam_fuzz::replay(balancebeam_fuzz::flags::check);
}
