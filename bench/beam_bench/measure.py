"""How each kind of workload is measured: contestants in turn, so that what else the machine does
meets all of them; processes that are fresh for each workload.

Whoever gave a wrong answer or an error has no figure in that workload. Not here: the workloads
(`workloads`), medians and ranges (`figures`).
"""

import contextlib
import itertools
import pathlib
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass

from beam_bench import contestants, loads, syscalls, upstreams
from beam_bench.contestants import HAPROXY, NGINX
from beam_bench.processes import Broken, PeakMemory
from beam_bench.workloads import CLOSED, IDLE, OVERLOAD, SCALING

SYSCALL_SECONDS = 1
SETTLE = 0.5  # seconds until a process has done what an event or a load brought
WARM_CLIENTS = 64
ATTEMPTS = 3  # at a load that is late
OVERLOAD_FACTOR = 2  # an overload takes a while to build up: so much longer than other loads


@dataclass
class Plan:
    """What the command line asks for."""

    reps: int
    seconds: int
    syscalls: str | None
    descriptors: int
    against: bool = False


class Taken:
    """Every figure of a workload, by contestant, and who failed."""

    def __init__(self, plan):
        self.plan = plan
        self.values = {}
        # By contestant and figure, the value of each round that gave one.
        self.rounds = {}
        self.failed = {}
        self.rate = None

    def take(self, contestant, what, *arguments, round=None):
        """Adds the figures that `what` returns, unless the contestant has failed already."""
        name = contestant.name
        if name in self.failed:
            return
        try:
            try:
                found = what(contestant, *arguments)
            except OSError as error:  # what stood in /proc is gone
                raise Broken(f"its process cannot be read: {error}") from error
            if contestant.ended():
                raise Broken("it ended")
        except Broken as reason:
            self.fail(name, reason)
            if contestant.process:
                say(f"its log ends with: {contestant.process.last_words()}")
            return
        mine = self.values.setdefault(name, {})
        for figure, value in found.items():
            mine.setdefault(figure, []).append(value)
            if round is not None:
                self.rounds.setdefault(name, {}).setdefault(figure, {})[round] = value

    def fail(self, name, reason):
        self.failed[name] = str(reason)
        say(f"{name}: {reason}")

    def median(self, name, figure):
        values = self.values.get(name, {}).get(figure)
        return statistics.median(values) if values and name not in self.failed else None


def measure(workload, plan):
    """All figures of a workload."""
    taken = Taken(plan)
    how = {CLOSED: closed, SCALING: scaling, IDLE: idle, OVERLOAD: overload}[workload.kind]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        folder.chmod(0o755)
        how(workload, taken, folder)
    return taken


def say(text):
    print(f"  {text}", file=sys.stderr, flush=True)


def behind(workload, count, folder, plan):
    if workload.peers:
        return upstreams.peers(folder, **workload.peers | ({"count": count} if count else {}))
    return upstreams.files(folder, plan.descriptors)


@contextlib.contextmanager
def lined_up(workload, taken, folder, names):
    """The contestants, each checked. Each has upstreams of its own, so that no connection and no
    request that one leaves behind is in the way of another."""
    counts = [None]
    if workload.kind == SCALING:
        counts = [workload.few_upstreams, workload.peers["count"]]
    with contextlib.ExitStack() as stack:
        field = []
        for name, count in itertools.product(names, counts):
            label = f"{name}, {count:,} upstreams" if count else name
            if label in taken.failed:
                continue
            home = pathlib.Path(tempfile.mkdtemp(dir=folder))
            home.chmod(0o755)  # nginx drops its privileges if it has any, and must find its files
            try:
                ups = stack.enter_context(behind(workload, count, home, taken.plan))
                start = contestants.start(name, label, home, ups, workload.proxy_clients())
                field.append(stack.enter_context(start))
            except Broken as reason:
                taken.fail(label, reason)
        for each in field:
            taken.take(each, checked, workload)
        yield field


def turned(field, rep):
    """Another contestant begins each time, so that none is always the one after the same other."""
    first = rep % max(1, len(field))
    return field[first:] + field[:first]


def checked(contestant, workload):
    contestant.check(workload)
    if not contestant.process:
        return {}
    time.sleep(SETTLE)
    return {"idle_kib": contestant.process.memory_kib()}


def checked_again(contestant, workload):
    """Who broke under load may answer wrongly ever after."""
    contestant.check(workload)
    return {}


def closed(workload, taken, folder, names=contestants.ALL):
    plan = taken.plan
    names = [*names, *contestants.EARLIER] if plan.against else names
    with lined_up(workload, taken, folder, names) as field:
        for rep in range(plan.reps):
            say(f"saturation {rep + 1}/{plan.reps}")
            for each in turned(field, rep):
                taken.take(each, saturated, workload, plan.seconds, round=rep)
        rates = [taken.median(name, "rate") for name in (NGINX, HAPROXY)]
        # Two builds are compared by what they cost; a load that is late would take their figures away.
        if workload.fixed_rate and all(rates) and not plan.against:
            taken.rate = max(100, int(min(rates) / 2 / 100) * 100)
            for rep in range(plan.reps):
                say(f"{taken.rate:,} requests/s {rep + 1}/{plan.reps}")
                for each in turned(field, rep):
                    taken.take(each, at_rate, workload, taken.rate, plan.seconds)
        if plan.syscalls:
            say("system calls")
            for each in [each for each in field if each.process]:
                taken.take(each, system_calls, plan.syscalls, workload, folder)
        for each in field:
            taken.take(each, checked_again, workload)


def scaling(workload, taken, folder):
    closed(workload, taken, folder, [contestants.THREADS, contestants.ASYNC])


def saturated(contestant, workload, seconds):
    process = contestant.process
    time.sleep(SETTLE)
    if not process:
        result = loads.saturate(contestant, workload, seconds)
        return client_figures(result)
    user, system = process.cpu_seconds()
    switches = process.switches()
    with PeakMemory(process) as peak:
        result = loads.saturate(contestant, workload, seconds)
    time.sleep(SETTLE)
    user_after, system_after = process.cpu_seconds()
    user_us = (user_after - user) / result["answers"] * 1e6
    system_us = (system_after - system) / result["answers"] * 1e6
    return client_figures(result) | {
        "cpu_us": user_us + system_us,
        "user_us": user_us,
        "system_us": system_us,
        "switches": (process.switches() - switches) / result["answers"],
        "peak_kib": peak.kib,
    }


def client_figures(result):
    times = {key: result[key] for key in ("p50_us", "p99_us", "p999_us")}
    return times | {"rate": result["answers"] / result["seconds"]}


def at_rate(contestant, workload, rate, seconds):
    time.sleep(SETTLE)
    result = in_time(loads.open_loop, contestant, workload, rate, seconds, warm=not workload.close)
    if result["errors"]:
        raise Broken(f"at {rate:,} requests/s: {loads.told(result['errors'])}")
    return {f"fixed_{key}": result[key] for key in ("p50_us", "p99_us", "p999_us")}


def in_time(load, *arguments, **options):
    """A load that something else on the machine made late is done again, a few times."""
    for _ in range(ATTEMPTS - 1):
        try:
            return load(*arguments, **options)
        except loads.Late as reason:
            say(f"again: {reason}")
    try:
        return load(*arguments, **options)
    except loads.Late as reason:
        raise loads.Late(f"{reason}, {ATTEMPTS} times; let nothing else run on this machine") from reason


def system_calls(contestant, which, workload, folder):
    calls = syscalls.per_request(which, contestant, workload, SYSCALL_SECONDS, folder)
    return {"syscalls": calls}


def idle(workload, taken, folder):
    plan = taken.plan
    for rep in range(plan.reps):
        say(f"fresh processes {rep + 1}/{plan.reps}")
        with lined_up(workload, taken, folder, contestants.PROXIES) as field:
            for each in turned(field, rep):
                taken.take(each, memory_per_client, workload, folder / "idle.log")
                taken.take(each, checked_again, workload)


def memory_per_client(contestant, workload, log):
    process, clients = contestant.process, workload.connections
    # What the first clients need once, whoever follows, is not the price of one more.
    with loads.idle(contestant, workload, WARM_CLIENTS, log):
        pass
    time.sleep(SETTLE)
    before = process.memory_kib()
    with loads.idle(contestant, workload, clients, log):
        time.sleep(SETTLE)
        after = process.memory_kib()
    return {"client_bytes": (after - before) * 1024 / clients, "peak_kib": after}


def overload(workload, taken, folder):
    plan = taken.plan
    for rep in range(plan.reps):
        say(f"{workload.rate:,} requests/s {rep + 1}/{plan.reps}")
        with lined_up(workload, taken, folder, [*contestants.ALL, *contestants.BOUNDED]) as field:
            for each in turned(field, rep):
                taken.take(each, overloaded, workload, plan.seconds * OVERLOAD_FACTOR)
                taken.take(each, checked_again, workload)


def overloaded(contestant, workload, seconds):
    """Errors belong to the picture here: they are figures."""
    result = in_time(loads.open_loop, contestant, workload, workload.rate, seconds, workload.timeout_ms)
    found = {f"error: {kind}": count / seconds for kind, count in result["errors"].items()}
    # What comes when nobody asks for more says nothing about that load.
    found["good"] = result["good_in_time"] / seconds
    if result["good"]:
        found |= {"p50_us": result["p50_us"], "p99_us": result["p99_us"]}
    return found
