//! Clients that have made one request and keep their connection, to see what one costs in memory.
//!
//! Prints `ready` once all have their answer, and, when stdin has ended, how many connections were
//! still open: a proxy that closed some would look too small. Not here: who looks at the memory
//! (`bench/compare`).

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::rc::Rc;

use clap::Args;

use crate::client::{Client, Target};
use crate::{Failure, allow_descriptors, stdin_to_end};

/// Clients that connect at a time: few, so that they need few connections to upstreams.
const AT_A_TIME: u32 = 16;
/// Source addresses that clients come from in turn, so that none runs out of ports.
const SOURCES: u32 = 250;

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
    let next = Rc::new(Cell::new(0));
    let lanes: Vec<_> = (0..AT_A_TIME)
        .map(|_| tokio::task::spawn_local(open(next.clone(), options.clients, target.clone())))
        .collect();
    let mut held = Vec::new();
    for lane in lanes {
        held.extend(lane.await.map_err(|error| format!("a task failed: {error}"))??);
    }
    println!("ready");
    stdin_to_end().await;
    println!("{}", held.iter().filter(|client| client.is_idle()).count());
    Ok(())
}

/// Opens clients one after the other until `all` of them are there.
async fn open(next: Rc<Cell<u32>>, all: u32, target: Rc<Target>) -> Result<Vec<Client>, Failure> {
    let mut held = Vec::new();
    while next.get() < all {
        let number = next.replace(next.get() + 1);
        let mut client = Client::new(Some(Ipv4Addr::new(127, 0, 1, (number % SOURCES + 1) as u8)));
        let answer = client.exchange(&target).await;
        answer.map_err(|wrong| format!("client {number} of {all}: {}", wrong.name()))?;
        client.rest();
        held.push(client);
    }
    Ok(held)
}
