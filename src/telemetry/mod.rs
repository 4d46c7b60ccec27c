//! What the balancer tells its operator. Not here: where the text goes (`logging.rs`).

pub mod error_log;
