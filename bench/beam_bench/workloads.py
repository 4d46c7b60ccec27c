"""What is measured, as a table. Not here: how (`measure`)."""

from dataclasses import dataclass, field

CLOSED = "closed"  # wrk as fast as it can; some at a fixed rate, too
SCALING = "scaling"  # balancebeam alone, with few upstreams and with many
IDLE = "idle"  # memory of clients that wait
OVERLOAD = "overload"  # more than the upstream can do, at a fixed rate


@dataclass(frozen=True)
class Workload:
    name: str
    title: str
    label: str = ""  # below a bar of a plot
    kind: str = CLOSED
    connections: int = 0
    path: str = "/1k"
    close: bool = False
    post_bytes: int | None = None
    # The same load at a fixed rate, too: half of what the slower of nginx and HAProxy can do.
    fixed_rate: bool = False
    # Arguments of `upstreams.peers`; without any, nginx serves files.
    peers: dict = field(default_factory=dict)
    few_upstreams: int = 0
    rate: int = 0
    timeout_ms: int = 0

    def descriptors(self):
        """That one process may need: two for each client, or what `--max-connections` leaves free."""
        both_sides = 1 if self.kind == IDLE else 2
        return int(self.connections * both_sides * 1.25) + self.peers.get("count", 1) + 64

    def proxy_clients(self):
        """What a proxy is told to expect, since it makes tables of that size at its start. Each worker
        must be able to take all: the kernel does not deal evenly."""
        return self.connections + self.peers.get("count", 1) + 256


def get(connections):
    name, title = f"get-{connections}", f"1 KiB, {connections:,} connections"
    label = f"1 KiB,\n{connections:,} conn."
    return Workload(name, title, label, connections=connections, fixed_rate=True)


def idle(clients):
    title = f"{clients:,} idle clients"
    return Workload(f"idle-{clients}", title, kind=IDLE, connections=clients)


TABLE = [
    get(8),
    get(64),
    get(512),
    get(4096),
    Workload(
        "new-connection",
        "1 KiB, a new connection each, 32 at a time",
        "1 KiB, new\nconn. each",
        connections=32,
        close=True,
        fixed_rate=True,
    ),
    Workload(
        "large-100k",
        "100 KiB answers, 16 connections",
        "100 KiB\nanswers",
        connections=16,
        path="/100k",
        fixed_rate=True,
    ),
    Workload(
        "large-10m", "10 MiB answers, 8 connections", "10 MiB\nanswers", connections=8, path="/10m"
    ),
    Workload(
        "post-64k",
        "64 KiB POST, 16 connections",
        "64 KiB\nPOST",
        connections=16,
        path="/",
        post_bytes=64 << 10,
        peers={"count": 4},
    ),
    Workload(
        "slow-upstream",
        "1 KiB after 100 ms, 1,000 connections",
        "100 ms\nupstream",
        connections=1000,
        path="/",
        peers={"delay_ms": 100},
    ),
    Workload(
        "many-upstreams",
        "1 KiB from 100 upstreams, 64 connections",
        "100\nupstreams",
        connections=64,
        path="/",
        peers={"count": 100},
    ),
    Workload(
        "upstreams-1000",
        "1 KiB from 2 and from 1,000 upstreams, 64 connections",
        kind=SCALING,
        connections=64,
        path="/",
        peers={"count": 1000},
        few_upstreams=2,
    ),
    idle(5000),
    idle(15000),
    # 16 at a time for 20 ms each are 800 a second; twice that is asked for.
    Workload(
        "overload",
        "1,600 requests/s to an upstream that can do 800, clients that give up after 1 s",
        kind=OVERLOAD,
        connections=2000,
        path="/",
        peers={"delay_ms": 20, "most": 16},  # `contestants.AT_A_TIME`
        rate=1600,
        timeout_ms=1000,
    ),
]
BY_NAME = {workload.name: workload for workload in TABLE}
