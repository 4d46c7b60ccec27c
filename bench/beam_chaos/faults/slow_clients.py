"""A crowd of clients that are as slow as they can be, and a polite one that must not notice."""

from beam_bench import machine
from beam_bench import upstreams as servers
from beam_bench.processes import PeakMemory
from beam_chaos import loads, proxies
from beam_chaos.faults.fault import Fault
from beam_chaos.proxies import Contestant
from beam_chaos.rows import Row

HEADS, READS, RATE, CONNECTIONS = 10_000, 2_000, 200, 16
# What the crowd may cost the polite client: the crowd's own process and the upstream use the same two
# or so cores, so its p99 is not the proxy's alone.
MOST_P99_MS = 50


def contestants():
    return [
        *proxies.engines(),
        Contestant(proxies.NGINX),
        Contestant(
            proxies.NGINX_TUNED,
            parts={"main": "worker_rlimit_nofile 20000;", "http": "client_header_timeout 10s;"},
        ),
        Contestant(proxies.HAPROXY, parts={"main": "maxconn 18000\n  no strict-limits"}),
    ]


def run(contestant, folder, seconds):
    with servers.files(folder, machine.raise_descriptors()) as ups:
        with proxies.start(contestant, folder, ups.ports) as proxy:
            options = {"connections": CONNECTIONS, "path": "/1k"}
            before = loads.open_loop(proxy, RATE, max(1, seconds // 4), **options)
            kib = proxy.process.memory_kib()
            with loads.slow_clients(proxy, HEADS, READS, "/10m") as crowd, PeakMemory(proxy.process) as peak:
                result = loads.open_loop(proxy, RATE, seconds, **options)
            after = loads.open_loop(proxy, RATE, max(1, seconds // 12), **options)
            row = Row.of(contestant, result)
            row.extra["p99 before, ms"] = round(before["p99_us"] / 1000, 2)
            row.extra["p99 after, ms"] = round(after["p99_us"] / 1000, 2)
            row.extra["slow heads / reads connected"] = (
                f"{crowd['heads']['most_open']:,} / {crowd['reads']['most_open']:,}"
            )
            row.extra["heads answered, ended"] = f"{crowd['heads']['answered']:,}, {crowd['heads']['ended']:,}"
            row.extra["memory before / most, MiB"] = f"{kib / 1024:.1f} / {peak.kib / 1024:.1f}"
            if contestant.is_ours:
                row.owes_no_wrong()
                row.owes(not before["errors"] and not after["errors"], "200 before and after the crowd, too")
                row.owes(crowd["begin"] == {"heads": HEADS, "reads": READS}, "all of the crowd can connect")
                calm = before["p99_us"] / 1000
                row.owes((row.p99_ms or 0) <= max(MOST_P99_MS, 2 * calm), f"p99 within {MOST_P99_MS} ms")
                row.owes(not proxy.ended(), "it goes on running")
    return row


FAULT = Fault(
    name="slow-clients",
    title="12,000 clients that are as slow as they can be",
    done="10,000 clients send one byte of a head each second and come again when they are let go; 2,000 ask for 10 MiB "
    "and read 1 KiB of it each second. A polite client asks 200 times a second for 1 KiB: a quarter of the time before, "
    "while they are there, and after.",
    counted="The polite client's requests while they are there; memory that the proxy made. nginx as installed has room "
    "for 768 connections a worker.",
    aim="Default flags: all of the crowd can connect, every polite request gets a 200, p99 within "
    f"{MOST_P99_MS} ms.",
    seconds=30,
    contestants=contestants,
    run=run,
)
