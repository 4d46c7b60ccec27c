//! Sessions: any order of events, those too that no peer and no engine would cause.
//!
//! Holds: nothing panics; `next` comes to rest; a live session has a deadline that is not due, and
//! left alone it ends; memory is bounded; a closed session stays closed. Not here: whether the bytes
//! that arrive are the right ones (`differential`, and the simulation of balancebeam).
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| balancebeam_fuzz::session::check(input));

#[cfg(not(fuzzing))]
fn main() {
    balancebeam_fuzz::replay(balancebeam_fuzz::session::check);
}
