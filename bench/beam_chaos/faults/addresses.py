"""A rate limit for each client address, and 50,000 of them."""

from beam_bench.processes import PeakMemory
from beam_chaos import loads, proxies, upstreams
from beam_chaos.faults.fault import Fault
from beam_chaos.proxies import Contestant
from beam_chaos.rows import Row

SENDERS, RATE, GREEDY_RATE, GREEDY, LIMIT = 50_000, 2_000, 20, "198.51.100.7", 60
# Less than the minute that the limit is for, so that what is admitted in it has one right number.
MOST_SECONDS = 50


def contestants():
    return [
        *proxies.engines("no limit"),
        *proxies.engines(flags=("--max-requests-per-minute", LIMIT)),
        Contestant(
            proxies.NGINX_TUNED,
            parts={
                "http": "limit_req_zone $http_x_forwarded_for zone=z:16m rate=60r/m; limit_req_status 429;",
                "location": "limit_req zone=z burst=59 nodelay;",
            },
        ),
        Contestant(
            proxies.HAPROXY,
            parts={
                "frontend": "stick-table type ip size 100k expire 60s store http_req_rate(60s)\n"
                "  http-request track-sc0 hdr_ip(x-forwarded-for)\n"
                "  http-request deny deny_status 429 if { sc_http_req_rate(0) gt 60 }",
            },
        ),
    ]


def run(contestant, folder, seconds):
    seconds = min(seconds, MOST_SECONDS)
    with upstreams.fleet(folder, 2) as ups:
        with proxies.start(contestant, folder, [up.port for up in ups]) as proxy:
            loads.open_loop(proxy, 200, 1, senders=1, first_sender="192.0.2.1")
            kib, cpu = proxy.process.memory_kib(), sum(proxy.process.cpu_seconds())
            with PeakMemory(proxy.process) as peak:
                with loads.Load(proxy, RATE, seconds, senders=SENDERS) as polite:
                    with loads.Load(proxy, GREEDY_RATE, seconds, senders=1, first_sender=GREEDY) as greedy:
                        theirs = greedy.figures()
                    result = polite.figures()
            cpu = sum(proxy.process.cpu_seconds()) - cpu
            row = Row.of(contestant, result)
            asked = theirs["good"] + sum(theirs["errors"].values())
            told = ", ".join(f"{count:,} × {kind}" for kind, count in theirs["errors"].items()) or "–"
            row.extra["greedy: asked / admitted"] = f"{asked:,} / {theirs['good']:,}"
            row.extra["greedy: refused"] = told
            row.extra["CPU time, µs a request"] = round(cpu / (row.requests + asked) * 1e6, 1)
            row.extra["memory before / most, MiB"] = f"{kib / 1024:.1f} / {peak.kib / 1024:.1f}"
            if contestant.is_ours:
                row.owes_no_wrong()
                row.owes(not proxy.ended(), "it goes on running")
                exact = {"status 429": asked - LIMIT} if contestant.flags else {}
                row.owes(theirs["errors"] == exact, f"the greedy address is admitted {LIMIT} times, all else is 429")
    return row


FAULT = Fault(
    name="addresses",
    title="A rate limit and 50,000 addresses",
    done="2,000 GET/s over 256 kept connections name 50,000 client addresses in turn, in `X-Forwarded-For` from a "
    "trusted peer; one more address asks 20 times a second. The limit is 60 a minute for each address "
    "(`--max-requests-per-minute 60`; nginx: `limit_req` with `burst=59 nodelay`; HAProxy: a stick table of "
    "`http_req_rate(60s)`), and once for comparison there is none. At most 50 s.",
    counted="The polite addresses' requests, those of the greedy one, CPU time of the proxy over all of them, its memory.",
    aim="No polite address is refused; the greedy one is admitted 60 times, and not once more.",
    seconds=25,
    contestants=contestants,
    run=run,
)
