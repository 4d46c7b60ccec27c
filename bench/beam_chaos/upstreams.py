"""Upstreams that faults happen to: each a process on a port of its own, which can be killed and started
again in the same place, or stopped; and ports behind which connects get no answer.

Not here: when that happens (`faults/`).
"""

import contextlib
import pathlib
import random
import signal
import socket
import subprocess
import threading
import time

from beam_bench import machine
from beam_bench.processes import Broken, Process

RANGE = pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range")


def fixed_ports(count):
    """Free ports that the kernel gives to nobody's outgoing connection: while an upstream is down, its
    port must stay free, or a connect to it would find whoever got it, even itself."""
    first = int(RANGE.read_text().split()[0]) if RANGE.exists() else 32768
    ports = []
    candidates = list(range(max(1024, first // 2), first))
    random.shuffle(candidates)
    for port in candidates:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            ports.append(port)
        if len(ports) == count:
            return ports
    raise Broken("there are no free ports below those of outgoing connections")


class Upstream:
    """One process at a time on one port. A `with` block is its life."""

    def __init__(self, port, log, arguments=()):
        self.port, self.log, self.arguments = port, log, arguments
        self.process = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        if self.process:
            self.resume()
            self.process.__exit__()
            self.process = None

    def start(self):
        command = [machine.PEER, "upstream", "--port", self.port, *self.arguments]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = Process("upstream", command, self.log, **pipes)
        self.process.line()

    def kill(self):
        """As a crash does: nothing is said to anybody."""
        self.process.popen.kill()
        self.process.popen.wait()
        self.process.popen.stdin.close()
        self.process.popen.stdout.close()
        self.process = None

    def stop(self):
        """It does nothing any more, while the kernel goes on to take connections for it."""
        self.process.popen.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.popen.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def fleet(folder, count, *arguments):
    """So many upstreams with the same arguments."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(Upstream(port, folder / f"up-{port}.log", arguments))
            for port in fixed_ports(count)
        ]


class Flapping:
    """Kills one upstream after the other, one each period, while a `with` block runs. The one before is
    started again at the same time, so that one is down at any moment."""

    def __init__(self, upstreams, period):
        self.upstreams, self.period = upstreams, period
        self.kills, self.error = 0, None
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.flap)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, *_):
        self.over.set()
        self.thread.join()
        if self.error and not kind:
            raise self.error

    def flap(self):
        down = None
        begin = time.monotonic()
        while not self.over.wait(max(0, begin + self.kills * self.period - time.monotonic())):
            try:
                victim = self.upstreams[self.kills % len(self.upstreams)]
                victim.kill()
                if down:
                    down.start()
                down = victim
                self.kills += 1
            except (OSError, Broken) as error:
                self.error = Broken(f"an upstream could not be killed or started: {error}")
                return


@contextlib.contextmanager
def black_holes(count):
    """Ports behind which a connect gets no answer: listeners whose queues are full, so that the kernel
    drops what asks for more."""
    with contextlib.ExitStack() as stack:
        ports = fixed_ports(count)
        for port in ports:
            listener = stack.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen(0)
            fill(port, stack)
        yield ports


def fill(port, stack):
    """Connects until one gets no answer."""
    for _ in range(16):
        client = stack.enter_context(socket.socket())
        client.settimeout(0.3)
        try:
            client.connect(("127.0.0.1", port))
        except TimeoutError:
            return
    raise Broken("the kernel goes on to take connections for a listener that is full")
