"""Drains under load: what was sent to a proxy that still listened is answered whole."""

import signal
import subprocess
import tempfile
import time
from pathlib import Path

from beam_bench.processes import Broken
from beam_chaos import loads, proxies, upstreams
from beam_chaos.faults.fault import Fault
from beam_chaos.proxies import Contestant
from beam_chaos.rows import Row

DRAINS, KEPT_RATE, FRESH_RATE, KEPT, DELAY_MS, BODY = 100, 500, 300, 32, 20, 16 << 10
LOAD_SECONDS, SIGNAL_AFTER, PATIENCE = 1, 0.5, 35
# What comes after the listener has closed was never promised an answer.
NO_LOSS = "not connected"
DRAIN_SIGNAL = {proxies.HAPROXY: signal.SIGUSR1, proxies.NGINX: signal.SIGQUIT}


def contestants():
    return [*proxies.engines(), Contestant(proxies.NGINX), Contestant(proxies.HAPROXY)]


def run(contestant, folder, seconds):
    row = Row(contestant.label)
    worst, refused, status, begin = 0.0, 0, set(), time.monotonic()
    drains = 0
    with upstreams.fleet(folder, 2, "--delay-ms", DELAY_MS, "--body", BODY) as ups:
        ports = [up.port for up in ups]
        while drains < DRAINS and time.monotonic() - begin < seconds:
            with tempfile.TemporaryDirectory(dir=folder) as home:
                results, took, code = drain(contestant, Path(home), ports)
            for result in results:
                refused += result["errors"].pop(NO_LOSS, 0)
                row.add(result)
            worst = max(worst, took)
            status.add(code)
            drains += 1
    row.extra["drains"] = drains
    row.extra["refused after the close"] = refused
    row.extra["longest drain, s"] = round(worst, 2)
    if contestant.is_ours:
        row.owes_no_wrong()
        row.owes(status == {0}, "each drain ends with status 0")
    return row


def drain(contestant, folder, ports):
    """One: figures of both loads, how long it took, the exit status."""
    with proxies.start(contestant, folder, ports) as proxy:
        with (
            loads.Load(proxy, KEPT_RATE, LOAD_SECONDS, connections=KEPT) as kept,
            loads.Load(proxy, FRESH_RATE, LOAD_SECONDS, connections=64, close=True) as fresh,
        ):
            time.sleep(SIGNAL_AFTER)
            begin = time.monotonic()
            proxy.process.popen.send_signal(DRAIN_SIGNAL.get(contestant.kind, signal.SIGTERM))
            results = [kept.figures(), fresh.figures()]
        try:
            code = proxy.process.popen.wait(PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise Broken(f"a drain took more than {PATIENCE} s") from error
        return results, time.monotonic() - begin, code


FAULT = Fault(
    name="drains",
    title="100 drains under load",
    done="100 times: a proxy in front of upstreams that take 20 ms for 16 KiB; 500 GET/s over 32 kept connections and "
    "300 GET/s over a new connection each, for 1 s; after half of it the signal for a drain (SIGTERM; nginx: SIGQUIT, "
    "HAProxy: SIGUSR1).",
    counted="Every request but those whose connection was refused, since the listener had closed. *Cut off*: within an "
    "answer. *No answer*: a new connection was made and ended without a byte. *Closed when used again*: a kept "
    "connection ended without a byte of this answer, perhaps closed when the request was on its way.",
    aim="Default flags: nothing of that, and each drain ends with status 0.",
    seconds=600,
    contestants=contestants,
    run=run,
)
