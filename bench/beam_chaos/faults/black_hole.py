"""Upstreams behind which connects get no answer, as behind a firewall or a machine that is gone."""

from beam_chaos import loads, proxies, upstreams
from beam_chaos.faults.fault import Fault
from beam_chaos.proxies import Contestant
from beam_chaos.rows import Row

LIVE, HOLES, RATE, CONNECTIONS, CLIENT_TIMEOUT_MS = 2, 2, 500, 4096, 10_000


def contestants():
    return [
        *proxies.engines(),
        Contestant(proxies.NGINX),
        Contestant(proxies.NGINX_TUNED, parts={"server": "max_fails=1 fail_timeout=10s"}),
        Contestant(
            proxies.HAPROXY,
            parts={"server": "check inter 1s fall 2 rise 1 observe layer4 error-limit 3 on-error mark-down"},
        ),
    ]


def run(contestant, folder, seconds):
    with upstreams.fleet(folder, LIVE) as ups, upstreams.black_holes(HOLES) as holes:
        ports = [port for pair in zip([up.port for up in ups], holes, strict=True) for port in pair]
        with proxies.start(contestant, folder, ports) as proxy:
            options = {"connections": CONNECTIONS, "timeout_ms": CLIENT_TIMEOUT_MS}
            result = loads.open_loop(proxy, RATE, seconds, **options)
            row = Row.of(contestant, result)
            row.extra["later than 1 s"] = result["late"]
            row.extra["last one to suffer, s"] = round(result["trouble_seconds"], 1)
            if contestant.is_ours:
                row.owes_no_wrong()
                row.owes(not proxy.ended(), "it goes on running")
    return row


FAULT = Fault(
    name="black-hole",
    title="Half of the upstreams in a black hole",
    done="Four upstreams, all taken for live at the start; two of them are listeners whose queue is full, so that a "
    "connect gets no answer. 500 GET/s from clients that give up after 10 s.",
    counted="Every request, those that took more than 1 s, and when the last such one was sent. Connects: 2 s by default "
    "here, 60 s in nginx as installed, 1 s as tuned.",
    aim="Default flags: every request gets a 200.",
    seconds=15,
    contestants=contestants,
    run=run,
)
