"""Who asks: an open loop of GETs, as a process that tells its figures when it is done, and slow clients.

Several can run beside each other. Not here: what their figures mean (`faults/`).
"""

import contextlib
import json
import subprocess

from beam_bench import machine
from beam_bench.loads import GRACE
from beam_bench.processes import Broken, Process


class Load(Process):
    """A load on its way. Its figures come when it has ended."""

    def __init__(self, proxy, rate, seconds, connections=256, timeout_ms=5_000, path="/", **more):
        command = [machine.PEER, "load", "--rate", rate, "--seconds", seconds]
        command += ["--connections", connections, "--timeout-ms", timeout_ms]
        for option, value in more.items():
            command += [f"--{option.replace('_', '-')}", *([] if value is True else [value])]
        self.patience = seconds + timeout_ms / 1000 + GRACE
        self.expected = rate * seconds
        log = proxy.folder / f"load-{next(proxy.numbers)}.log"
        super().__init__("load", [*command, proxy.url(path)], log, stdout=subprocess.PIPE)

    def figures(self):
        found = json.loads(self.line(self.patience))
        self.wait()
        told = found["good"] + sum(found["errors"].values())
        if told != self.expected:
            raise Broken(f"{told:,} of {self.expected:,} requests were told of")
        return found


def open_loop(proxy, rate, seconds, **options):
    """One load from its beginning to its end."""
    with Load(proxy, rate, seconds, **options) as load:
        return load.figures()


@contextlib.contextmanager
def slow_clients(proxy, heads, reads, path):
    """Clients that send and read as slowly as can be, while a `with` block runs. What is yielded tells
    how many were connected at its begin; at its end it has what became of them."""
    command = [machine.PEER, "slow", "--heads", heads, "--reads", reads, proxy.url(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with Process("slow clients", command, proxy.folder / "slow.log", **pipes) as process:
        _, open_heads, open_reads = process.line(GRACE).split()
        told = {"begin": {"heads": int(open_heads), "reads": int(open_reads)}}
        yield told
        process.popen.stdin.close()
        told.update(json.loads(process.line(GRACE)))
