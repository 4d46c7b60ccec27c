"""Upstreams that die all the time: always one of five is down, each of them again and again."""

from beam_chaos import loads, proxies, upstreams
from beam_chaos.faults.fault import Fault
from beam_chaos.proxies import Contestant
from beam_chaos.rows import Row

UPSTREAMS, RATE, PERIOD = 5, 2_000, 0.2


def contestants():
    # Whoever marks a server as down after one failure has none left within a second; so neither does.
    return [
        *proxies.engines(),
        Contestant(proxies.NGINX),
        Contestant(proxies.NGINX_TUNED, parts={"server": "max_fails=0"}),
        Contestant(proxies.HAPROXY),
    ]


def run(contestant, folder, seconds):
    with upstreams.fleet(folder, UPSTREAMS) as ups:
        with proxies.start(contestant, folder, [up.port for up in ups]) as proxy:
            with upstreams.Flapping(ups, PERIOD) as flapping:
                row = Row.of(contestant, loads.open_loop(proxy, RATE, seconds))
            row.extra["kills"] = flapping.kills
            if contestant.is_ours:
                row.owes_no_wrong()
                row.owes(not proxy.ended(), "it goes on running")
    return row


FAULT = Fault(
    name="flapping",
    title="Upstreams that are killed all the time",
    done="Five upstreams; every 200 ms the next one is killed (SIGKILL), and the one before is started again, so that "
    "one is down at any moment. 2,000 GET/s over 256 kept connections, whether answers come or not.",
    counted="Every request. nginx tuned: `max_fails=0`, kept connections, connects of 1 s at the most. HAProxy: "
    "`retries 10`, `option redispatch 1`, `retry-on conn-failure empty-response response-timeout`.",
    aim="Default flags: every request gets a 200.",
    seconds=60,
    contestants=contestants,
    run=run,
)
