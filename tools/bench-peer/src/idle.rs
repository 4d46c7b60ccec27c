//! Clients that have made one request and keep their connection, to see what one costs in memory.
//!
//! Prints `ready` once all have their answer, and, when stdin has ended, how many connections were
//! still open: a proxy that closed some would look too small. Not here: who looks at the memory
//! (`bench/compare`).

use std::rc::Rc;

use clap::Args;

use crate::client::{self, Client, Target};
use crate::{Failure, allow_descriptors, stdin_to_end};

#[derive(Args)]
pub struct Options {
    /// Connections to open and to hold
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    clients: u32,
    /// Such as http://127.0.0.1:8080/path
    url: String,
}

pub async fn run(options: Options) -> Result<(), Failure> {
    allow_descriptors(options.clients as usize)?;
    let target = Rc::new(Target::of(&options.url, false)?);
    let mut held = client::warm(options.clients, &target).await?;
    held.iter_mut().for_each(Client::rest);
    println!("ready");
    stdin_to_end().await;
    println!("{}", held.iter().filter(|client| client.is_idle()).count());
    Ok(())
}
