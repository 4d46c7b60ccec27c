"""Who stands before the faults: balancebeam's engines with the flags that a fault names, nginx as
installed and tuned by hand, HAProxy tuned by hand.

What is tuned for all faults is here; what an expert would add for one stands with that fault, as parts
of the configuration. Not here: the faults (`faults/`).
"""

import contextlib
import itertools
import pathlib
import subprocess
from dataclasses import dataclass, field

from beam_bench import machine
from beam_bench.processes import Process, free_port

THREADS, ASYNC = "threads", "async"
NGINX, NGINX_TUNED, HAPROXY = "nginx", "nginx tuned", "HAProxy tuned"
ENGINES = [THREADS, ASYNC]

# Debian's nginx.conf as far as it touches proxying, and the shortest way to name several servers.
NGINX_CONFIG = """
worker_processes auto; daemon off; pid {dir}/px.pid; error_log {dir}/px.err;
events {{ worker_connections 768; }}
http {{ sendfile on; tcp_nopush on; types_hash_max_size 2048; access_log {dir}/px.access;
  client_body_temp_path {dir}/px-body; proxy_temp_path {dir}/px-temp;
  upstream u {{ {servers} }}
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://u; }} }} }}
"""
NGINX_TUNED_CONFIG = """
worker_processes 2; daemon off; pid {dir}/px.pid; error_log {dir}/px.err; {main}
events {{ worker_connections 16384; }}
http {{ access_log off; keepalive_requests 1000000000; {http}
  client_body_temp_path {dir}/px-body; proxy_temp_path {dir}/px-temp;
  upstream u {{ {upstream} {servers} keepalive 256; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port} reuseport backlog=4096;
    location / {{ proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_connect_timeout 1s; proxy_next_upstream error timeout; proxy_max_temp_file_size 0;
      {location} }} }} }}
"""
HAPROXY_CONFIG = """
global
  nbthread 2
  {main}
defaults
  mode http
  timeout client 60s
  timeout server 60s
  timeout connect 1s
  timeout http-request 10s
  retries 10
  option redispatch 1
  retry-on conn-failure empty-response response-timeout
  http-reuse always
  {defaults}
frontend f
  bind 127.0.0.1:{port} backlog 4096
  {frontend}
  default_backend b
backend b
  option forwardfor
  {backend}
{servers}
"""


@dataclass(frozen=True)
class Contestant:
    """A kind of proxy, its name in the table, and the flags or parts of a configuration that it gets
    in one fault. `descriptors` is a limit that it runs under."""

    kind: str
    label: str = ""
    flags: tuple = ()
    parts: dict = field(default_factory=dict)
    descriptors: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "label", self.label or self.kind)

    @property
    def is_ours(self):
        return self.kind in ENGINES


def engines(label="", flags=(), **more):
    """Both engines with the same flags."""
    return [Contestant(e, f"{e}{', ' if label else ''}{label}", tuple(flags), **more) for e in ENGINES]


def knows(flag):
    """Whether the balancer that is measured has this flag."""
    told = subprocess.run([str(machine.BALANCEBEAM), "--help"], capture_output=True, text=True)
    return f"{flag} " in told.stdout


class Proxy:
    """A contestant that runs."""

    def __init__(self, contestant, port, process, folder):
        self.contestant, self.port, self.process, self.folder = contestant, port, process, folder
        self.numbers = itertools.count()

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    def log(self):
        return pathlib.Path(self.process.log).read_text(errors="replace").splitlines()

    def warnings(self):
        """What the log says beyond the usual, each message once."""
        lines = [line.partition(" WARN ")[2] or line.partition(" ERROR ")[2] for line in self.log()]
        return list(dict.fromkeys(line.partition("] ")[2] for line in lines if line))

    def ended(self):
        return self.process.popen.poll() is not None


def command_of(contestant, folder, port, ups):
    values = {"dir": folder, "port": port}
    parts = contestant.parts
    if contestant.is_ours:
        command = [machine.BALANCEBEAM, "--engine", contestant.kind, "--bind", f"127.0.0.1:{port}"]
        command += [part for up in ups for part in ("--upstream", f"127.0.0.1:{up}")]
        return command + list(contestant.flags)
    named = ("main", "http", "upstream", "location", "defaults", "frontend", "backend")
    values |= {name: parts.get(name, "") for name in named}
    file = folder / "proxy.conf"
    server = parts.get("server", "")
    if contestant.kind == HAPROXY:
        values["servers"] = "".join(f"  server s{up} 127.0.0.1:{up} {server}\n" for up in ups)
        file.write_text(HAPROXY_CONFIG.format(**values))
        return ["haproxy", "-f", file]
    values["servers"] = " ".join(f"server 127.0.0.1:{up} {server};" for up in ups)
    config = NGINX_CONFIG if contestant.kind == NGINX else NGINX_TUNED_CONFIG
    file.write_text(config.format(**values))
    return ["nginx", "-c", file]


@contextlib.contextmanager
def start(contestant, folder, ups):
    """A contestant in front of the upstreams at these ports."""
    folder.chmod(0o755)  # nginx drops its privileges if it has any, and must find its files
    port = free_port()
    command = command_of(contestant, folder, port, ups)
    if contestant.descriptors:
        limit = contestant.descriptors
        command = ["prlimit", f"--nofile={limit}:{limit}", *command]
    with Process(contestant.label, command, folder / "proxy.log") as process:
        process.wait_for(port)
        yield Proxy(contestant, port, process, folder)
