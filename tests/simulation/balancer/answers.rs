//! What each client must have got: an upstream's answer to its own request, exactly; or a part of
//! one that it can tell from a whole one; or an answer of the balancer's own. And where nothing has
//! gone wrong that it could notice, the first of these for every request.

use super::client::Client;
use super::net::{Answer, Net};
use super::reader::Message;
use super::scenario::{Framing, Mood, RequestPlan};
use super::words;
use super::world::World;

/// What begins the balancer's own answers.
const OURS: &[u8] = b"balancebeam: ";

pub fn check(world: &World<'_>) {
    let net = &mut *world.net.borrow_mut();
    for client in &world.clients {
        let answers = std::mem::take(&mut net.answers);
        let served = check_client(client, &answers, net);
        net.answers = answers;
        whoever_behaves_is_served(world, client, served, net);
    }
}

/// Looks at everything that a client has got, in order. Returns how many of its requests have a
/// whole answer of an upstream.
fn check_client(client: &Client, answers: &[Answer], net: &mut Net) -> usize {
    let finals: Vec<_> = client.reader.messages.iter().filter(|m| !m.is_interim()).collect();
    let mut served = 0;
    for (at, message) in finals.iter().enumerate() {
        let Some(request) = client.plan.requests.get(at) else {
            nothing_is_behind_the_last_answer(client, message, net);
            break;
        };
        a_cut_answer_is_visibly_cut(client, message, net);
        match message.field("X-Answer").map(|serial| serial.parse::<usize>()) {
            Some(serial) => {
                let answer = serial.ok().and_then(|serial| Some((serial, answers.get(serial)?)));
                served += usize::from(message.is_whole);
                it_is_the_answer_to_this(client, request, message, answer, net);
            }
            None => it_is_our_own(message, net),
        }
        old_clients_get_what_they_can_read(request, message, net);
    }
    let left = client.reader.left();
    // A HEAD whose first line never was whole cannot be known for one: its refusal has a body.
    let is_refusal = left.is_empty() || left.starts_with(OURS) || OURS.starts_with(left);
    let may_be_cut = client.saw_reset || client.has_left;
    net.check("a head that is cut is visibly cut", is_refusal || may_be_cut, || {
        String::from_utf8_lossy(left).into_owned()
    });
    served
}

/// Bytes behind it would be taken for the answer to a request that the client has yet to send.
fn nothing_is_behind_the_last_answer(client: &Client, message: &Message, net: &mut Net) {
    net.accuse("nothing is behind the last answer", || {
        format!("client {}: {:?}", client.plan.id, message.first_line)
    });
}

/// Half an answer that looks whole is wrong data. An end may cut what says its length, a reset
/// whatever ends with its connection.
fn a_cut_answer_is_visibly_cut(client: &Client, message: &Message, net: &mut Net) {
    if message.is_whole {
        return;
    }
    net.counts.one("answers that were cut");
    let is_visible = client.saw_reset || client.has_left;
    net.check("a cut answer is visibly cut", is_visible, || {
        format!("client {}: {:?}", client.plan.id, message.first_line)
    });
}

/// It is that of an upstream to this very request, byte for byte; and if it looks whole, the
/// upstream has sent all of it.
fn it_is_the_answer_to_this(
    client: &Client,
    request: &RequestPlan,
    message: &Message,
    answer: Option<(usize, &Answer)>,
    net: &mut Net,
) {
    let shown = || format!("client {}, request {}: {answer:?}", client.plan.id, request.id);
    let is_its = answer
        .is_some_and(|(_, answer)| answer.id == request.id && answer.status == message.status());
    net.check("an answer is to its request", is_its, shown);
    let Some((serial, answer)) = answer else { return };
    let has_fault = request.fault.is_some() && message.is_whole;
    net.check("nothing malformed is served", !has_fault, shown);
    let content = &message.content;
    let is_exact = words::is_content(&format!("a{serial};"), content);
    net.check("an answer's body is its own", is_exact && content.len() <= answer.size, shown);
    let holds = !message.is_whole || (answer.is_whole && content.len() == answer.size);
    net.check("an answer that looks whole is", holds, || {
        format!("{} bytes: {}", content.len(), shown())
    });
    if message.is_whole {
        net.counts.one("answers of upstreams");
    }
}

/// Whatever is not an upstream's says so, and why.
fn it_is_our_own(message: &Message, net: &mut Net) {
    let status = message.status();
    let begins = |text: &[u8]| text.starts_with(OURS) || OURS.starts_with(text);
    net.check("an answer is somebody's", status >= 400 && begins(&message.content), || {
        format!("{} {:?}", message.first_line, String::from_utf8_lossy(&message.content))
    });
    let says_when = status != 503 || message.field("Retry-After").is_some();
    net.check("a 503 says when to come again", says_when, || message.first_line.clone());
    net.counts.one(match status {
        400..=407 | 409..=428 => "answers 4xx",
        408 => "answers 408",
        429 => "answers 429",
        502 => "answers 502",
        503 => "answers 503",
        504 => "answers 504",
        _ => "answers of another status",
    });
}

/// Chunks and interim responses came with HTTP/1.1; a body that ends with the connection must not
/// end one that could live.
fn old_clients_get_what_they_can_read(request: &RequestPlan, message: &Message, net: &mut Net) {
    let holds = match message.framing {
        Framing::Chunked => !request.is_old,
        Framing::UntilClose => request.is_old,
        _ => true,
    };
    net.check("a client is answered in its version", holds, || message.first_line.clone());
}

/// With nothing wrong, every request gets its answer. With upstreams that refuse, hang, or end idle
/// connections, and one that behaves, a GET still does: nothing of it was lost that cannot be sent
/// again, and there is somebody to send it to.
fn whoever_behaves_is_served(world: &World<'_>, client: &Client, served: usize, net: &mut Net) {
    let scenario = world.scenario;
    let applies = match scenario.mood {
        Mood::Calm => true,
        Mood::Failover => {
            scenario.upstreams.iter().any(|plan| plan.is_steady)
                && client.plan.requests.iter().all(RequestPlan::is_plain_get)
        }
        Mood::Wild => false,
    };
    let asked = client.plan.requests.len();
    if applies && !scenario.drains() && net.finding.is_none() {
        net.counts.one("clients that had to be served");
        net.check("whoever behaves is served", served == asked, || {
            format!("client {}: {served} of {asked}", client.plan.id)
        });
    }
}
