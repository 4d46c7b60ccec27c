//! The request's body on its way to the upstream.

use super::reply::DISCARD;
use super::{ClientSide, Exchange, RequestLeg, ResponseLeg};
use crate::http1::body::{Encoder, Flow};
use crate::message::{BadBody, Reply};

impl Exchange {
    /// Bytes that certainly belong to the request, and have not been read.
    pub(crate) fn left_for_certain(&self) -> u64 {
        match &self.request_leg {
            RequestLeg::Done | RequestLeg::Cut => 0,
            RequestLeg::Body(transfer) => transfer.decoder.left_for_certain(),
            RequestLeg::Tunnel => u64::MAX,
        }
    }

    /// Moves what has arrived of the request's body. Returns whether anything has changed.
    pub(super) fn relay_request(&mut self, client: &mut ClientSide<'_>) -> bool {
        let RequestLeg::Body(transfer) = &mut self.request_leg else { return false };
        if self.upstream.write_closed {
            return false;
        }
        let before = client.conn.input.len();
        let (from, to) = (&mut client.conn.input, &mut self.upstream.output);
        let flow = transfer.run(from, to, &self.request_trailers);
        let (bytes, is_discarding) = (transfer.bytes, transfer.encoder == Encoder::Nowhere);
        let moved = client.conn.input.len() != before;
        self.request_bytes = bytes;
        self.awaits_continue &= !moved;
        let too_long = client.state.config.limits.body.is_some_and(|most| bytes > most);
        match flow {
            Err(BadBody(why)) => self.bad_request_body(client, Reply::bad(why)),
            Ok(_) if too_long && !is_discarding => {
                self.bad_request_body(client, Reply::closing(413, "the body is too long"));
            }
            Ok(_) if is_discarding && bytes > DISCARD => self.request_leg = RequestLeg::Cut,
            Ok(Flow::Ended) => self.request_leg = RequestLeg::Done,
            Ok(Flow::Starved) if client.conn.ended => self.client_gone(client),
            Ok(_) => return moved,
        }
        true
    }

    /// The body broke its framing or a limit: what was forwarded of it must never look complete.
    fn bad_request_body(&mut self, client: &mut ClientSide<'_>, reply: Reply) {
        if let ResponseLeg::Head(_) = self.response_leg {
            self.answer(client, reply);
        } else if self.request_leg.is_discarding() {
            self.request_leg = RequestLeg::Cut;
        } else {
            self.abort(client, reply.why);
        }
    }
}
