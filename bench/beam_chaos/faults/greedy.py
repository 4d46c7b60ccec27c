"""One client that asks for far more than its share of an upstream that cannot do it all."""

from beam_chaos import loads, proxies, upstreams
from beam_chaos.faults.fault import Fault
from beam_chaos.proxies import Contestant
from beam_chaos.rows import Row

# 16 requests at a time for 20 ms each are 800 a second: three times that is asked for.
AT_A_TIME, DELAY_MS = 16, 20
POLITE, POLITE_RATE, GREEDY_RATE, GREEDY = 99, 400, 2_000, "198.51.100.7"
CLIENT_TIMEOUT_MS = 1_000
FLAGS = ("--max-in-flight", str(AT_A_TIME), "--queue-timeout", "1")
HAPROXY_QUEUE = {"defaults": "timeout queue 1s", "server": f"maxconn {AT_A_TIME}"}
# Who asks more than 20 times a second stands behind all others in the queue.
HAPROXY_CLASSES = HAPROXY_QUEUE | {
    "frontend": "stick-table type ip size 100k expire 10s store http_req_rate(1s)\n"
    "  http-request track-sc0 hdr_ip(x-forwarded-for)\n"
    "  http-request set-priority-class int(100) if { sc_http_req_rate(0) gt 20 }",
}


def contestants():
    return [
        *proxies.engines(flags=FLAGS),
        Contestant(proxies.NGINX),
        Contestant(
            proxies.NGINX_TUNED,
            "nginx tuned, limit_conn 4",
            parts={
                "http": "limit_conn_zone $http_x_forwarded_for zone=c:10m; limit_conn_status 503;",
                "location": "limit_conn c 4;",
            },
        ),
        Contestant(proxies.HAPROXY, "HAProxy tuned, queue", parts=HAPROXY_QUEUE),
        Contestant(proxies.HAPROXY, "HAProxy tuned, classes", parts=HAPROXY_CLASSES),
    ]


def run(contestant, folder, seconds):
    if contestant.is_ours and not proxies.knows("--max-in-flight"):
        return Row(contestant.label, without="this balancebeam has no --max-in-flight")
    with upstreams.fleet(folder, 1, "--most", AT_A_TIME, "--delay-ms", DELAY_MS) as ups:
        with proxies.start(contestant, folder, [up.port for up in ups]) as proxy:
            options = {"connections": 500, "timeout_ms": CLIENT_TIMEOUT_MS, "senders": POLITE}
            alone = loads.open_loop(proxy, POLITE_RATE, max(1, seconds // 4), **options)
            more = {"connections": 2_500, "timeout_ms": CLIENT_TIMEOUT_MS, "senders": 1, "first_sender": GREEDY}
            with loads.Load(proxy, GREEDY_RATE, seconds, **more) as greedy:
                result = loads.open_loop(proxy, POLITE_RATE, seconds, **options)
                theirs = greedy.figures()
            row = Row.of(contestant, result)
            share = row.good / row.requests
            row.extra["polite, good"] = f"{share:.2%}"
            row.extra["p99 alone, ms"] = round(alone["p99_us"] / 1000, 1) if alone["good"] else "–"
            row.extra["greedy: good, a second"] = round(theirs["good"] / seconds)
            if contestant.is_ours:
                row.owes(share >= 0.99, "99 % of the polite requests succeed")
                row.owes((row.p99_ms or 1e9) < 2 * alone["p99_us"] / 1000, "p99 under twice that without the greedy one")
                row.owes(not proxy.ended(), "it goes on running")
    return row


FAULT = Fault(
    name="greedy",
    title="One greedy client and 99 polite ones",
    done="An upstream that can do 800 requests a second (16 at a time, 20 ms each). 99 client addresses ask for 400 a "
    "second together; one more asks for 2,000 a second, so that three times as much is asked for as can be done. Clients "
    "give up after 1 s. The polite ones have been alone for a quarter of the time before.",
    counted=f"The polite clients' requests. balancebeam: `{' '.join(FLAGS)}`. nginx tuned: `limit_conn 4` for each "
    "address. HAProxy: `maxconn 16` and `timeout queue 1s`; *classes*: who asks more than 20 times a second is set behind "
    "all others.",
    aim="At least 99 % of the polite requests get a 200 within 1 s, and their p99 stays under twice that without the "
    "greedy one.",
    seconds=16,
    contestants=contestants,
    run=run,
)
