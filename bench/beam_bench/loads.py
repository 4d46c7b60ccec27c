"""Who sends the requests: wrk as fast as it can, the open loop at a fixed rate, idle clients.

A run with an error raises `Broken`; only the open loop can be told to count errors instead. Not here:
what it costs the contestant (`measure`).
"""

import contextlib
import json
import subprocess

from beam_bench import machine
from beam_bench.processes import Broken, Process

SCRIPT = machine.ROOT / "bench" / "wrk.lua"
GRACE = 30  # seconds that a load may take beyond its own
# How late one request in a hundred may be sent by the load's own fault; beyond, its figures are not
# those of the contestant.
MOST_LAG_US = 2_000


class Late(Broken):
    """The load was late by its own fault, which says nothing of the contestant."""


def run(command, seconds):
    command = [str(part) for part in command]
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=seconds + GRACE)
    except subprocess.TimeoutExpired as error:
        raise Broken(f"{command[0]} did not end") from error
    if out.returncode:
        raise Broken(last_line(out.stderr) or last_line(out.stdout) or f"{command[0]} failed")
    try:
        return json.loads(last_line(out.stdout))
    except json.JSONDecodeError as error:
        raise Broken(f"{command[0]} told no figures") from error


def last_line(text):
    return text.strip().rpartition("\n")[2]


def told(errors):
    return ", ".join(f"{count:,} × {kind}" for kind, count in errors.items() if count)


def wrk_command(contestant, workload, seconds):
    command = ["wrk", "-t1", f"-c{workload.connections}", f"-d{seconds}s", "--timeout", "10s"]
    command += ["-H", "Connection: close"] if workload.close else []
    command += ["-s", SCRIPT, contestant.url(workload.path)]
    command += ["--", contestant.answer_bytes]
    return command + ([workload.post_bytes] if workload.post_bytes else [])


def saturate(contestant, workload, seconds, before=()):
    """As many requests as the connections carry, one after the other on each. `before` is a command
    that runs wrk."""
    result = run([*before, *wrk_command(contestant, workload, seconds)], seconds)
    if any(result["errors"].values()) or not result["answers"]:
        raise Broken(told(result["errors"]) or "no answers")
    # wrk counts bytes of answers that it did not see the end of, too: one on each connection.
    size = contestant.answer_bytes
    most = result["answers"] + workload.connections
    if not result["answers"] * size <= result["bytes"] <= most * size:
        raise Broken(f"{result['bytes']:,} bytes are not {result['answers']:,} answers of {size:,}")
    return result


def open_loop(contestant, workload, rate, seconds, timeout_ms=5_000, warm=False):
    """Requests at a fixed rate, whatever becomes of them. Errors are in the result."""
    command = [machine.PEER, "load", "--rate", rate, "--connections", workload.connections]
    command += ["--seconds", seconds, "--timeout-ms", timeout_ms, contestant.url(workload.path)]
    command += ["--close"] if workload.close else []
    command += ["--warm"] if warm else []
    result = run(command, seconds + timeout_ms / 1000)
    told_of = result["good"] + sum(result["errors"].values())
    if told_of != rate * seconds:
        raise Broken(f"{told_of:,} of {rate * seconds:,} requests were sent")
    if result["lag_p99_us"] > MOST_LAG_US:
        raise Late(f"the load was late: {result['lag_p99_us'] / 1000} ms at p99")
    if result["body_bytes"] != result["good"] * len(contestant.answers[workload.path]):
        raise Broken("answers were cut short")
    return result


@contextlib.contextmanager
def idle(contestant, workload, clients, log):
    """So many clients that have made one request and wait; all must be there at the end still."""
    command = [machine.PEER, "idle", "--clients", clients, contestant.url(workload.path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with Process("idle clients", command, log, **pipes) as process:
        process.line(GRACE)
        yield
        process.popen.stdin.close()
        left = process.line(GRACE)
        left = int(left) if left.isdigit() else 0
        if left != clients:
            raise Broken(f"{clients - left:,} of {clients:,} idle connections were closed")
