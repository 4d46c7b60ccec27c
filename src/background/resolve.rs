//! Names of upstreams turned into addresses, at the start and from time to time after it.
//!
//! Not here: which of an upstream's addresses is tried (`upstream/`, `engine/`). The system's
//! resolver blocks, perhaps for many seconds, so it is never called by a thread that serves
//! anybody.

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Background, Stop};
use crate::config::Authority;
use crate::state::ProxyState;
use crate::upstream::{Upstream, UpstreamId};

/// Time between two looks at the names. The resolver does not tell how long an answer holds; this
/// is about as long as short-lived records do.
pub const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);

/// The addresses of `authority`, each once, in the resolver's order. Never empty. May block.
pub fn resolve(authority: &Authority) -> io::Result<Vec<SocketAddr>> {
    if let Some(address) = authority.address() {
        return Ok(vec![address]);
    }
    let mut addresses = Vec::new();
    for address in (authority.host(), authority.port()).to_socket_addrs()? {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses)
}

/// The running thread; there is none if no upstream is a name. Dropping it stops it; if it is in
/// the resolver just then, it is left to itself and ends when the resolver returns.
pub struct ResolveThread {
    _thread: Option<Background>,
}

impl ResolveThread {
    /// Starts to resolve; the first time one interval from now, since the start has just done it.
    pub fn start(state: Arc<ProxyState>) -> io::Result<Self> {
        let thread = Names::of(&state).is_some().then(|| {
            Background::start("resolve", move |stop| {
                if let Some(names) = Names::of(&state) {
                    names.keep_resolved(stop);
                }
            })
        });
        Ok(ResolveThread { _thread: thread.transpose()? })
    }

    /// Ends the thread; waits for its end, but not for the resolver.
    pub fn stop(self) {}
}

/// The upstreams that are names.
struct Names {
    upstreams: Vec<Arc<Upstream>>,
    /// Those that could not be resolved the last time, so that it is told once.
    failing: HashSet<UpstreamId>,
}

impl Names {
    /// `None` if there are none.
    fn of(state: &ProxyState) -> Option<Self> {
        let is_name = |upstream: &&Arc<Upstream>| upstream.authority().address().is_none();
        let upstreams: Vec<_> = state.upstreams.all().iter().filter(is_name).cloned().collect();
        (!upstreams.is_empty()).then(|| Names { upstreams, failing: HashSet::new() })
    }

    fn keep_resolved(mut self, stop: &Stop) {
        while !stop.wait(Instant::now() + RESOLVE_INTERVAL) {
            for i in 0..self.upstreams.len() {
                let answer = resolve(self.upstreams[i].authority());
                self.take_answer(i, answer);
                if stop.wait(Instant::now()) {
                    return;
                }
            }
        }
    }

    /// Replaces the addresses of the `i`th name if they are others; a failure leaves them as they
    /// are.
    fn take_answer(&mut self, i: usize, answer: io::Result<Vec<SocketAddr>>) {
        let upstream = &self.upstreams[i];
        let name = upstream.name();
        match answer {
            Ok(new) => {
                if self.failing.remove(&upstream.id()) {
                    log::info!("upstream {name} can be resolved again");
                }
                let old = upstream.addresses();
                if !is_same_set(&old, &new) {
                    log::info!("upstream {name} has moved from {old:?} to {new:?}");
                    upstream.set_addresses(new);
                }
            }
            Err(error) if self.failing.insert(upstream.id()) => {
                let old = upstream.addresses();
                log::warn!("cannot resolve upstream {name}: {error}; {old:?} are still used");
            }
            Err(_) => {}
        }
    }
}

/// Whether both hold the same addresses. Resolvers change the order with each answer, on purpose.
fn is_same_set(old: &[SocketAddr], new: &[SocketAddr]) -> bool {
    old.iter().collect::<HashSet<_>>() == new.iter().collect::<HashSet<_>>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::upstream::Upstreams;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn state(upstreams: &[&str]) -> Arc<ProxyState> {
        let upstreams = upstreams.iter().map(|text| text.parse().unwrap()).collect();
        let config = Config { upstreams, ..Config::default() };
        let known = vec![addresses(&["192.0.2.1:80", "192.0.2.2:80"]); config.upstreams.len()];
        let upstreams = Upstreams::new(&config, known, 1);
        Arc::new(ProxyState::new(config, upstreams, Instant::now()))
    }

    #[test]
    fn addresses_resolve_to_themselves_and_names_to_some() {
        for text in ["192.0.2.1:80", "[2001:db8::1]:80"] {
            assert_eq!(resolve(&text.parse().unwrap()).unwrap(), addresses(&[text]));
        }
        let local = resolve(&"localhost:80".parse().unwrap()).unwrap();
        assert!(local.iter().all(|address| address.ip().is_loopback() && address.port() == 80));
        assert_eq!(local.len(), local.iter().collect::<HashSet<_>>().len(), "each once");
        let too_long = format!("{}:80", "a".repeat(64)); // a label that no server need be asked for
        assert!(resolve(&too_long.parse().unwrap()).is_err());
    }

    #[test]
    fn a_name_moves_when_its_set_of_addresses_changes_and_only_then() {
        let state = state(&["app.example:80"]);
        let upstream = &state.upstreams.all()[0];
        let mut names = Names::of(&state).unwrap();
        let before = upstream.addresses();
        names.take_answer(0, Ok(addresses(&["192.0.2.2:80", "192.0.2.1:80"])));
        assert!(Arc::ptr_eq(&before, &upstream.addresses()), "another order is no change");
        names.take_answer(0, Err(io::Error::other("no answer")));
        assert_eq!(upstream.addresses(), before, "the last good set is kept");
        names.take_answer(0, Ok(addresses(&["192.0.2.3:80"])));
        assert_eq!(upstream.addresses()[..], addresses(&["192.0.2.3:80"])[..]);
    }

    #[test]
    fn a_failing_name_is_told_of_once_until_it_recovers() {
        let state = state(&["app.example:80"]);
        let mut names = Names::of(&state).unwrap();
        let id = state.upstreams.all()[0].id();
        names.take_answer(0, Err(io::Error::other("no answer")));
        assert!(names.failing.contains(&id));
        names.take_answer(0, Ok(addresses(&["192.0.2.1:80"])));
        assert!(names.failing.is_empty());
    }

    #[test]
    fn only_names_are_resolved_anew() {
        let mixed = state(&["192.0.2.1:80", "app.example:80", "[2001:db8::1]:80"]);
        let ids: Vec<_> =
            Names::of(&mixed).unwrap().upstreams.iter().map(|upstream| upstream.id()).collect();
        assert_eq!(ids, [UpstreamId(1)]);
        let thread = ResolveThread::start(mixed.clone()).unwrap();
        assert_eq!(Arc::strong_count(&mixed), 2);
        thread.stop();
        assert_eq!(Arc::strong_count(&mixed), 1, "the thread has ended");
        let literal = state(&["192.0.2.1:80"]);
        let _none = ResolveThread::start(literal.clone()).unwrap();
        assert_eq!(Arc::strong_count(&literal), 1, "there is no thread");
    }
}
