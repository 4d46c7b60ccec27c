"""An upstream that goes on to take connections and never answers, as a process that hangs does."""

import threading

from beam_chaos import loads, proxies, upstreams
from beam_chaos.faults.fault import Fault
from beam_chaos.proxies import Contestant
from beam_chaos.rows import Row

UPSTREAMS, RATE, CONNECTIONS, CLIENT_TIMEOUT_MS = 3, 300, 1024, 5_000
CHECKED = ("--response-timeout", "1", "--active-health-check-interval", "1")
CHECKED += ("--active-health-check-timeout", "0.5")
# Two probes in a row fail. By default the first begins within 10 s and the second 10 s later, and takes
# 5 s; with the flags above it is 1 s, 1 s and 0.5 s. One second more is for what had been sent.
OWED_SECONDS = {"": 10 + 10 + 5 + 1, "checked": 1 + 1 + 0.5 + 1}


def contestants():
    return [
        *proxies.engines(),
        *proxies.engines("checked each second", CHECKED),
        Contestant(proxies.NGINX),
        Contestant(
            proxies.NGINX_TUNED,
            parts={"server": "max_fails=1 fail_timeout=10s", "location": "proxy_read_timeout 1s;"},
        ),
        Contestant(
            proxies.HAPROXY,
            parts={
                "defaults": "timeout server 1s\n  timeout check 500ms\n  option httpchk GET /",
                "server": "check inter 1s fall 2 rise 1 observe layer7 error-limit 3 on-error mark-down",
            },
        ),
    ]


def run(contestant, folder, seconds):
    begin = seconds / 12
    with upstreams.fleet(folder, UPSTREAMS) as ups:
        with proxies.start(contestant, folder, [up.port for up in ups]) as proxy:
            hang = threading.Timer(begin, ups[0].stop)
            hang.start()
            try:
                options = {"connections": CONNECTIONS, "timeout_ms": CLIENT_TIMEOUT_MS}
                result = loads.open_loop(proxy, RATE, seconds, **options)
            finally:
                hang.cancel()
                hang.join()
                ups[0].resume()
            row = Row.of(contestant, result)
            suffered = max(0.0, result["trouble_seconds"] - begin)
            row.extra["later than 1 s"] = result["late"]
            row.extra["last one to suffer, s"] = round(suffered, 1)
            if contestant.is_ours:
                owed = OWED_SECONDS["checked" if contestant.flags else ""]
                row.owes(suffered <= owed, f"nobody suffers after {owed:g} s")
                row.owes(not proxy.ended(), "it goes on running")
    return row


FAULT = Fault(
    name="silent",
    title="An upstream that takes connections and never answers",
    done="Three upstreams; one twelfth into the run one of them is stopped (SIGSTOP): the kernel goes on to take "
    "connections for it, and nothing comes back. 300 GET/s from clients that give up after 5 s.",
    counted="Every request, and for how long after the stop requests went wrong or took more than 1 s. *Checked each "
    "second*: `" + " ".join(CHECKED) + "`. nginx tuned: `proxy_read_timeout 1s`, and the next server "
    "after it; HAProxy: `timeout server 1s` and another try after it, checks each second, `observe layer7`.",
    aim="The health check ends it: nobody suffers once two probes in a row have failed (26 s by default, 3.5 s checked "
    "each second). A request that was sent and got no answer is 504, not sent again.",
    seconds=40,
    contestants=contestants,
    run=run,
)
