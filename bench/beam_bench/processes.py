"""Processes that are started here: what they cost, read from /proc, and their end, whatever happens.

Each is the leader of a session of its own, so that its children end with it and Ctrl-C reaches this
command alone. Not here: what is started (`upstreams`, `contestants`, `loads`).
"""

import os
import pathlib
import signal
import socket
import subprocess
import threading
import time

TICKS = os.sysconf("SC_CLK_TCK")
PATIENCE = 10  # seconds for a process to listen, or to end before it is killed
SAMPLE = 0.2  # seconds between two looks at the memory of a process under load


class Broken(Exception):
    """A run that gives no figure, and why."""


class Process:
    """A running program. A `with` block is its life."""

    def __init__(self, name, command, log, **pipes):
        self.name = name
        self.log = log
        with open(log, "w") as err:
            self.popen = subprocess.Popen(
                [str(part) for part in command],
                stdin=pipes.get("stdin", subprocess.DEVNULL),
                stdout=pipes.get("stdout", subprocess.DEVNULL),
                stderr=err,
                text=True,
                start_new_session=True,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for each in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.popen.pid, each)
                self.popen.wait(PATIENCE)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        # Children that outlived the leader are in its group still.
        try:
            os.killpg(self.popen.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.popen.wait()

    def last_words(self):
        lines = pathlib.Path(self.log).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no word"

    def wait_for(self, port):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.popen.poll() is None:
            try:
                return socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                time.sleep(0.02)
        raise Broken(f"{self.name} does not listen: {self.last_words()}")

    def line(self, seconds=PATIENCE):
        """The next line of its stdout, which must come within so many seconds."""
        alarm = threading.Timer(seconds, self.popen.kill)
        alarm.start()
        try:
            line = self.popen.stdout.readline()
        finally:
            alarm.cancel()
        if not line:
            self.wait()
            raise Broken(f"{self.name}: {self.last_words()}")
        return line.strip()

    def wait(self):
        try:
            self.popen.wait(PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise Broken(f"{self.name} did not end") from error

    def pids(self):
        """This process and all below it."""
        return list(below(self.popen.pid))

    def cpu_seconds(self):
        """User and system time."""
        user = system = 0
        for pid in self.pids():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            user, system = user + int(fields[11]), system + int(fields[12])
        return user / TICKS, system / TICKS

    def switches(self):
        """Context switches of all threads, voluntary or not."""
        return sum(
            int(line.split()[1])
            for pid in self.pids()
            for task in pathlib.Path(f"/proc/{pid}/task").iterdir()
            for line in (task / "status").read_text().splitlines()
            if "ctxt_switches" in line
        )

    def memory_kib(self):
        """Memory that the processes made, where a page that several share counts once. Pages of files
        are not in it: the kernel has them anyway, and shares them with whoever runs the same program."""
        return sum(
            int(line.split()[1])
            for pid in self.pids()
            for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            if line.startswith(("Pss_Anon:", "Pss_Shmem:"))
        )


def below(pid):
    yield pid
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from below(int(child))


class PeakMemory:
    """The most memory that was seen while a `with` block ran; there is no high-water mark of Pss."""

    def __init__(self, process):
        self.process, self.kib = process, 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def watch(self):
        while True:
            try:
                self.kib = max(self.kib, self.process.memory_kib())
            except OSError:
                return  # a process has ended, and whoever waits for it says so
            if self.over.wait(SAMPLE):
                return

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
