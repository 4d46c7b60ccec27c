//! One client's bytes as a session reads them, as hyper does, and as a simple reader built on httparse.
//!
//! Holds: there are never two requests where the others see one. Which differences are allowed stands
//! at the top of `src/differential.rs`. Not here: responses (`head`), misbehaving upstreams and
//! engines (`session`), whether what is refused had to be.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| balancebeam_fuzz::differential::check(input));

#[cfg(not(fuzzing))]
fn main() {
    balancebeam_fuzz::replay(balancebeam_fuzz::differential::check);
}
