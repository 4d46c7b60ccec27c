"""What stands behind the contestants: nginx with files, or the peer whose answers take time.

Not here: the proxies (`contestants`).
"""

import contextlib
import os
import subprocess

from beam_bench import machine
from beam_bench.processes import Process, free_port

# Sizes of the files that nginx serves, by path.
FILES = {"/1k": 1 << 10, "/100k": 100 << 10, "/10m": 10 << 20}

NGINX = """
worker_processes 1; daemon off; pid {dir}/up.pid; error_log {dir}/up.err; worker_rlimit_nofile {limit};
events {{ worker_connections {limit}; }}
http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 300s; sendfile on;
  server {{ listen 127.0.0.1:{port} backlog=4096; root {dir}/www; }} }}
"""


class Upstreams:
    """The ports to send requests to, and the right answer to a path."""

    def __init__(self, ports, answers):
        self.ports, self.answers = ports, answers


@contextlib.contextmanager
def files(folder, limit):
    www = folder / "www"
    www.mkdir()
    answers = {}
    for path, size in FILES.items():
        answers[path] = os.urandom(size)
        (www / path[1:]).write_bytes(answers[path])
    port = free_port()
    config = folder / "up.conf"
    config.write_text(NGINX.format(dir=folder, port=port, limit=limit))
    with Process("upstream", ["nginx", "-c", config], folder / "up.log") as process:
        process.wait_for(port)
        yield Upstreams([port], answers)


@contextlib.contextmanager
def peers(folder, count=1, delay_ms=0, most=None):
    """Upstreams that answer 1 KiB once they have the whole request: many, late, or `most` requests at a time."""
    command = [machine.PEER, "upstream", "--ports", count, "--delay-ms", delay_ms]
    command += ["--most", most] if most else []
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with Process("upstream", command, folder / "up.log", **pipes) as process:
        ports = [int(port) for port in process.line().split()]
        yield Upstreams(ports, {"/": b"x" * 1024})
