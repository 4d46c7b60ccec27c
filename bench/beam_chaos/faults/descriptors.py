"""More clients than there are descriptors, or than --max-connections allows."""

import time

from beam_bench.contestants import exchange
from beam_chaos import loads, proxies, upstreams
from beam_chaos.faults.fault import Fault
from beam_chaos.proxies import Contestant
from beam_chaos.rows import Row

FEW, RATE, CONNECTIONS, CLIENT_TIMEOUT_MS, DELAY_MS = 256, 1_000, 1_000, 3_000, 500
# After the crowd: 1,000 requests on so many connections that there is room for all, and for theirs.
AFTER_RATE, AFTER_SECONDS, AFTER_CONNECTIONS = 125, 8, 80
# Seconds within which balancebeam is to be well again, and for which that is waited for.
OWED_SECONDS, MOST_WAIT = 5, 60
MOST_LINES = 20
REQUEST = b"GET / HTTP/1.1\r\nHost: after\r\nConnection: close\r\n\r\n"


def contestants():
    full = ("--max-connections", "100")
    return [
        *proxies.engines("ulimit -n 256", descriptors=FEW),
        *proxies.engines("ulimit -n 256, --max-connections 1000", ("--max-connections", "1000"), descriptors=FEW),
        *proxies.engines("--max-connections 100", full),
        *proxies.engines("--max-connections 100 --when-full refuse", (*full, "--when-full", "refuse")),
        Contestant(proxies.NGINX, "nginx, ulimit -n 256", descriptors=FEW),
        Contestant(proxies.HAPROXY, "HAProxy tuned, ulimit -n 256", descriptors=FEW),
    ]


def run(contestant, folder, seconds):
    with upstreams.fleet(folder, 2, "--delay-ms", DELAY_MS) as ups:
        with proxies.start(contestant, folder, [up.port for up in ups]) as proxy:
            options = {"connections": CONNECTIONS, "timeout_ms": CLIENT_TIMEOUT_MS}
            row = Row.of(contestant, loads.open_loop(proxy, RATE, seconds, **options))
            wait = well_again(proxy.port)
            row.extra["well again after, s"] = round(wait, 1) if wait is not None else f"more than {MOST_WAIT}"
            after = loads.open_loop(proxy, AFTER_RATE, AFTER_SECONDS, connections=AFTER_CONNECTIONS)
            sent = AFTER_RATE * AFTER_SECONDS
            row.extra["good afterwards"] = f"{after['good']:,} of {sent:,}"
            if contestant.is_ours:
                said = proxy.warnings()
                row.extra["log"] = "; ".join(f"`{line}`" for line in said)
                row.owes(not proxy.ended(), "it goes on running")
                row.owes(wait is not None and wait <= OWED_SECONDS, f"well again within {OWED_SECONDS} s")
                row.owes(after["good"] == sent, "all is well from then on")
                row.owes(any(clear(line) for line in said), "a line in the log says what is short")
                row.owes(len(proxy.log()) <= MOST_LINES, f"no more than {MOST_LINES} lines in the log")
    return row


def well_again(port):
    """Seconds until a request is answered within one, once the crowd has gone."""
    begin = time.monotonic()
    while (asked := time.monotonic()) - begin < MOST_WAIT:
        try:
            head, _ = exchange(port, REQUEST, seconds=1)
            if head.startswith(b"HTTP/1.1 200 "):
                return asked - begin
        except (OSError, ValueError):
            pass
        time.sleep(0.1)
    return None


def clear(line):
    return "--max-connections" in line or "descriptor" in line or "open files" in line


FAULT = Fault(
    name="descriptors",
    title="More clients than descriptors",
    done="1,000 clients ask 1,000 times a second for answers that take 500 ms, and give up after 3 s, while the proxy may "
    "have 256 descriptors, or 100 clients. Once they have gone, one request after the other is sent until one is answered within a second; then "
    "1,000 on 80 connections.",
    counted="Every request of the crowd, how long after it the proxy was well again, and the requests after that; what "
    "the log says.",
    aim=f"No crash, one clear line in the log for each shortage, well again within {OWED_SECONDS} s, and all 1,000 "
    "requests after that get a 200.",
    seconds=5,
    contestants=contestants,
    run=run,
)
