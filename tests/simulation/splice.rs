//! Bodies that go past a session: what an engine may do with them, and a pipe in memory.

use balancebeam::session::{Side, Splice, Wants};

use crate::draws::Draws;
use crate::traffic::{Client, Simulation};

/// What an engine does when it may let a body go past the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Whenever it may.
    Splices,
    /// Now and then, as if pipes were short.
    AtTimes,
    /// Never: it copies.
    Copies,
}

/// What was taken from one side past the session, and not yet passed to the other.
pub struct Pipe {
    pub to: Side,
    pub bytes: Vec<u8>,
    /// Until bytes of a body are in it.
    may_take: bool,
}

impl Habit {
    pub fn draw(draws: &mut Draws) -> Habit {
        draws.one_of(&[Habit::Splices, Habit::Splices, Habit::AtTimes, Habit::Copies])
    }
}

impl Default for Pipe {
    fn default() -> Self {
        Pipe { to: Side::Client, bytes: Vec::new(), may_take: true }
    }
}

impl Pipe {
    fn take(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.may_take = false;
    }

    fn pass(&mut self, len: usize) -> Vec<u8> {
        let bytes = self.bytes.drain(..len).collect();
        self.may_take |= self.bytes.is_empty();
        bytes
    }

    pub fn empty(&mut self) {
        self.bytes.clear();
        self.may_take = true;
    }
}

impl Simulation {
    /// What is let past the session now.
    pub fn splice_of(&mut self, at: usize, wants: Wants) -> Option<Splice> {
        let Client { pipe, habit, conn, .. } = &self.clients[at];
        // What nobody takes any more is not asked for any more.
        let is_heard = pipe.to == Side::Client || conn.as_ref().is_some_and(|conn| !conn.was_deaf);
        if !pipe.bytes.is_empty() && is_heard {
            let to = wants.splice.map(|splice| splice.to);
            assert_eq!(to, Some(pipe.to), "what is in the pipe comes first");
            return wants.splice;
        }
        match habit {
            Habit::Splices => wants.splice,
            Habit::AtTimes => wants.splice.filter(|_| self.draws.percent(50)),
            Habit::Copies => None,
        }
    }

    /// Lets bytes go past the session: first what is in its output, then those of a body.
    pub fn splice(&mut self, at: usize, Splice { to, most }: Splice) -> Option<usize> {
        let client = &mut self.clients[at];
        if client.pipe.to != to {
            client.pipe.empty();
        }
        client.pipe.to = to;
        let mut moved = None;
        let output = client.session.output(to);
        if client.pipe.bytes.is_empty() && !output.is_empty() {
            let len = output.len();
            client.pipe.bytes.extend_from_slice(output);
            client.session.staged(to, len);
            moved = Some(len);
        }
        if most > 0 && client.pipe.may_take && self.may() {
            let taken = match to {
                Side::Client => self.take_from_upstream(at, most),
                Side::Upstream => self.take_from_client(at, most),
            };
            self.findings.spliced[to as usize] += taken.unwrap_or(0) as u64;
            moved = taken.map(|n| n + moved.unwrap_or(0)).or(moved);
        }
        if self.clients[at].pipe.bytes.is_empty() || !self.may() {
            return moved;
        }
        let passed = match to {
            Side::Client => self.pass_to_client(at),
            Side::Upstream => self.pass_to_upstream(at),
        };
        Some(passed + moved.unwrap_or(0))
    }

    fn take_from_client(&mut self, at: usize, most: u64) -> Option<usize> {
        let client = &mut self.clients[at];
        let ready = client.ready();
        if ready == 0 {
            return client.tells_its_end().then(|| {
                client.session.spliced_in(Side::Client, 0, self.now);
                0
            });
        }
        let len = self.draws.piece(ready.min(usize::try_from(most).unwrap_or(usize::MAX)));
        client.pipe.take(&client.to_send[client.sent..client.sent + len]);
        client.session.spliced_in(Side::Client, len, self.now);
        client.sent += len;
        Some(len)
    }

    fn take_from_upstream(&mut self, at: usize, most: u64) -> Option<usize> {
        let client = &mut self.clients[at];
        let conn = client.conn.as_mut().expect("a connection to take from");
        if conn.is_broken && self.draws.percent(30) {
            conn.says.clear(); // a reset overtakes what was said
        }
        if conn.says.is_empty() {
            return self.end_of_upstream(at, true);
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let len = self.draws.piece(conn.says.len().min(most));
        client.pipe.take(&conn.says[..len]);
        conn.says.drain(..len);
        client.session.spliced_in(Side::Upstream, len, self.now);
        Some(len)
    }

    fn pass_to_client(&mut self, at: usize) -> usize {
        let client = &mut self.clients[at];
        let len = self.draws.piece(client.pipe.bytes.len());
        client.received.extend_from_slice(&client.pipe.pass(len));
        client.session.spliced_out(Side::Client, len, self.now);
        len
    }

    fn pass_to_upstream(&mut self, at: usize) -> usize {
        if self.upstream_is_deaf(at) {
            return 0;
        }
        let client = &mut self.clients[at];
        let len = self.draws.piece(client.pipe.bytes.len());
        let bytes = client.pipe.pass(len);
        self.tell_upstream(at, &bytes);
        self.clients[at].session.spliced_out(Side::Upstream, len, self.now);
        len
    }
}
