"""Counts the system calls of a contestant while a load runs, with perf or else with strace.

perf counts at a tracepoint and costs next to nothing; strace stops the process at each call, so that
less comes together in one wait and the figure is higher. Not here: the load (`loads`).
"""

import shutil
import signal
import subprocess
import time

from beam_bench import loads, machine
from beam_bench.processes import Broken, Process

EVENT = "raw_syscalls:sys_enter"


def tool():
    """The one that works here; ends the command if there is none."""
    if shutil.which("perf"):
        tried = subprocess.run(["perf", "stat", "-e", EVENT, "true"], capture_output=True)
        if tried.returncode == 0:
            return "perf"
    if shutil.which("strace"):
        return "strace"
    machine.fail(
        "install linux-perf or strace (Debian: apt-get install) to count system calls, "
        "or leave them out with --without-syscalls"
    )


def per_request(which, contestant, workload, seconds, folder):
    count = {"perf": with_perf, "strace": with_strace}[which]
    calls, answers = count(contestant, workload, seconds, folder)
    return calls / answers


def with_perf(contestant, workload, seconds, folder):
    out = folder / "perf.out"
    pids = ",".join(str(pid) for pid in contestant.process.pids())
    before = ["perf", "stat", "-x", ",", "-o", out, "-e", EVENT, "-p", pids, "--"]
    answers = loads.saturate(contestant, workload, seconds, before)["answers"]
    for line in out.read_text().splitlines():
        if EVENT in line:
            count = line.split(",")[0]
            if not count.isdigit():
                raise Broken(f"perf counted nothing: {count}")
            return int(count), answers
    raise Broken("perf counted nothing")


def with_strace(contestant, workload, seconds, folder):
    out = folder / "strace.out"
    pids = [part for pid in contestant.process.pids() for part in ("-p", pid)]
    command = ["strace", "-f", "-c", "-U", "calls,name", "-o", out, *pids]
    with Process("strace", command, folder / "strace.log") as process:
        time.sleep(0.5)  # until it has attached to all threads
        answers = loads.saturate(contestant, workload, seconds)["answers"]
        process.popen.send_signal(signal.SIGINT)
        process.wait()
    for line in out.read_text().splitlines():
        if line.split()[1:] == ["total"]:
            return int(line.split()[0]), answers
    raise Broken("strace counted nothing")
