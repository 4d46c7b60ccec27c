//! Chunked bodies: any bytes, cut anywhere.
//!
//! Holds: nothing panics; no more is consumed than there is; pieces give what the whole gives; a body
//! that is accepted has the content and the end that a simple reader built on httparse finds; the
//! limits hold; what leaves in chunks again has the same content. Not here: which trailer fields may
//! go on, whether what is refused had to be.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| balancebeam_fuzz::chunked::check(input));

#[cfg(not(fuzzing))]
fn main() {
    balancebeam_fuzz::replay(balancebeam_fuzz::chunked::check);
}
