//! Heads of requests and responses: any bytes, cut anywhere, and what leaves of them.
//!
//! Holds: nothing panics; a head that arrives in pieces is found, or refused, as one that is there at
//! once; what is written of an accepted head means the same to httparse. Not here: bodies
//! (`chunked`), what a session does with a head (`session`), whether what is refused had to be.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| balancebeam_fuzz::head::check(input));

#[cfg(not(fuzzing))]
fn main() {
    balancebeam_fuzz::replay(balancebeam_fuzz::head::check);
}
