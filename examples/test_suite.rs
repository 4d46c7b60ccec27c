//! A balancer in a test: two upstreams, one of them dies, and no client sees it.
//!
//! `cargo test --example test_suite` runs it as a test, `cargo run --example test_suite` as a
//! program. In a test crate, leave out what only the program needs:
//! `balancebeam = { version = "0.1", default-features = false }` under `[dev-dependencies]`.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use balancebeam::Server;

const PATIENCE: Duration = Duration::from_secs(10);

/// Your own server in place of this one: it answers `answers` connections, and is gone.
fn upstream(name: &'static str, answers: usize) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || -> io::Result<()> {
        for stream in listener.incoming().take(answers) {
            let mut stream = stream?;
            let _ = stream.read(&mut [0; 4096])?;
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", name.len())?;
            write!(stream, "Connection: close\r\n\r\n{name}")?;
        }
        Ok(())
    });
    Ok(address)
}

fn get(address: SocketAddr) -> io::Result<String> {
    let mut client = TcpStream::connect(address)?;
    client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    Ok(answer)
}

fn a_dead_upstream_is_noticed_by_no_client() -> Result<(), Box<dyn std::error::Error>> {
    let (mortal, lasting) = (upstream("mortal", 1)?, upstream("lasting", usize::MAX)?);
    let server = Server::builder()
        .upstream(mortal)
        .upstream(format!("localhost:{}", lasting.port()))
        .configure(|config| config.health.interval = None)
        .start()?;

    for _ in 0..6 {
        assert!(get(server.address())?.starts_with("HTTP/1.1 200 OK\r\n"));
    }
    assert!(server.wait_until_ejected(&mortal.to_string(), PATIENCE), "{server:?}");
    let stats = server.stats();
    assert_eq!((stats.own_502, stats.own_503), (0, 0), "{stats}");
    assert_eq!(server.stop().cut, 0);
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    a_dead_upstream_is_noticed_by_no_client()?;
    println!("an upstream died, and every request was answered");
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_dead_upstream_is_noticed_by_no_client() {
        super::a_dead_upstream_is_noticed_by_no_client().unwrap();
    }
}
