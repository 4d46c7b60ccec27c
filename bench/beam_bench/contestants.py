"""Who is compared, and how each one is tuned: as an expert would for these workloads.

Two workers or threads each, connections kept on both sides, no logs, nginx with a listen socket for
each worker, buffers that hold the larger answers without a temporary file. Not here: what they are
asked (`workloads`).
"""

import contextlib
import socket

from beam_bench import machine
from beam_bench.processes import Broken, Process, free_port

NGINX, HAPROXY, THREADS, ASYNC, DIRECT = "nginx", "HAProxy", "threads", "async", "no proxy"
PROXIES = [NGINX, HAPROXY, THREADS, ASYNC]
ALL = [*PROXIES, DIRECT]
# Those that can make requests wait, told what the upstream of the overload can do at a time.
AT_A_TIME = 16
BOUNDED = {f"{name}, bounded": name for name in (HAPROXY, THREADS, ASYNC)}
# The same engines of an earlier build (`--against`).
EARLIER = {f"{name}, before": name for name in (THREADS, ASYNC)}
# Idle upstream connections that each may keep: as many as the workloads have clients in flight.
KEEP = 4096
# Pipes that HAProxy may splice through: more than any workload has large answers at a time.
PIPES = 256

NGINX_CONFIG = """
worker_processes 2; daemon off; pid {dir}/px.pid; error_log {dir}/px.err;
events {{ worker_connections {both_sides}; }}
http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 300s;
  client_body_temp_path {dir}/px-body; proxy_temp_path {dir}/px-temp;
  upstream u {{ {servers} keepalive {keep}; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port} reuseport backlog=4096; client_max_body_size 0;
    client_body_buffer_size 128k; proxy_request_buffering on; proxy_buffers 16 32k;
    proxy_buffer_size 32k; proxy_max_temp_file_size 0;
    location / {{ proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }} }} }}
"""
# Request buffering is on: a POST of 64 KiB, which fits its buffer, then costs 29.0 µs of CPU time, and
# 31.9 µs without (medians of three).
NGINX_SERVER = "server 127.0.0.1:{up};"

# The two ratios keep idle upstream connections alive while many descriptors are in use. HAProxy shares
# one listen socket among its threads as evenly as `shards by-thread` would; with that, new connections
# cost 1.1 to 1.4 times as much. Splicing of answers takes 10 MiB from 5.6 ms of CPU time to 4.3 ms and
# changes nothing at 100 KiB (37 µs); `splice-auto` changes nothing at either. Buffers of 32 KiB are
# cheaper than those of 16 KiB by default: 4.3 to 4.5 ms at 10 MiB, 32.4 to 35.1 µs for a POST of 64 KiB, the
# same at 100 KiB; only answers of 1 KiB cost 3 % more.
HAPROXY_CONFIG = """
global
  nbthread 2
  maxconn {clients}
  maxpipes {pipes}
  no strict-limits
  tune.bufsize 32768
  tune.pool-low-fd-ratio 80
  tune.pool-high-fd-ratio 90
defaults
  mode http
  timeout client 300s
  timeout server 300s
  timeout connect 5s
  http-reuse always
frontend f
  bind 127.0.0.1:{port} backlog 4096
  default_backend b
backend b
{bound}  option forwardfor
  option splice-response
{servers}
"""
HAPROXY_SERVER = "  server s{up} 127.0.0.1:{up} pool-max-conn {keep}{most}\n"


class Contestant:
    """A name, a port, the right answers, and the process behind it; none if there is no proxy."""

    def __init__(self, name, port, answers, process=None):
        self.name, self.port, self.answers, self.process = name, port, answers, process
        # Of one whole answer on the wire: each contestant adds its own fields.
        self.answer_bytes = None

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    def check(self, workload):
        """A wrong answer makes every figure worthless; so does one of another size later on."""
        path = workload.path
        try:
            head, body = exchange(self.port, self.request(workload))
        except (OSError, ValueError) as error:
            raise Broken(f"no answer to {path}: {error}") from error
        status = head.split(b"\r\n")[0].decode(errors="replace")
        if not status.startswith("HTTP/1.1 200 "):
            raise Broken(f"{status} to {path}")
        if body != self.answers[path]:
            raise Broken(f"a wrong answer to {path}")
        size = len(head) + len(body)
        if self.answer_bytes not in (None, size):
            raise Broken(f"{size:,} bytes, once {self.answer_bytes:,}, in answer to {path}")
        self.answer_bytes = size

    def request(self, workload):
        """The bytes that wrk sends, too."""
        body = b"x" * (workload.post_bytes or 0)
        lines = [
            f"{'POST' if body else 'GET'} {workload.path} HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            *(["Connection: close"] if workload.close else []),
            *([f"Content-Length: {len(body)}"] if body else []),
        ]
        return "\r\n".join([*lines, "", ""]).encode() + body

    def ended(self):
        return self.process and self.process.popen.poll() is not None


def exchange(port, request, seconds=10):
    """The head and the body of the answer, as they are on the wire."""
    with socket.create_connection(("127.0.0.1", port), seconds) as stream, stream.makefile("rb") as answer:
        stream.sendall(request)
        lines = [answer.readline()]
        while lines[-1] not in (b"\r\n", b""):
            lines.append(answer.readline())
        told = [line for line in lines if line.lower().startswith(b"content-length:")]
        if not told or not lines[-1]:
            raise ValueError("no whole head with a length")
        return b"".join(lines), answer.read(int(told[0].split(b":")[1]))


def command_of(name, folder, port, ups, clients):
    """How a proxy is started in front of some upstreams."""
    is_bounded = name in BOUNDED
    program = machine.EARLIER if name in EARLIER else machine.BALANCEBEAM
    name = BOUNDED.get(name, EARLIER.get(name, name))
    values = {"dir": folder, "port": port, "keep": KEEP, "clients": clients, "both_sides": 2 * clients, "pipes": PIPES}
    if name in (NGINX, HAPROXY):
        config, server = {
            NGINX: (NGINX_CONFIG, NGINX_SERVER),
            HAPROXY: (HAPROXY_CONFIG, HAPROXY_SERVER),
        }[name]
        most = f" maxconn {AT_A_TIME}" if is_bounded else ""
        servers = "".join(server.format(up=up, keep=KEEP, most=most) for up in ups)
        values["bound"] = "  timeout queue 1s\n" if is_bounded else ""
        file = folder / f"{name}.conf"
        file.write_text(config.format(servers=servers, **values))
        return ["nginx", "-c", file] if name == NGINX else ["haproxy", "-f", file]
    command = [program, "--engine", name, "--threads", "2", "--pool-size", KEEP]
    command += ["--bind", f"127.0.0.1:{port}"]
    command += ["--max-in-flight", AT_A_TIME] if is_bounded else []
    return command + [part for up in ups for part in ("--upstream", f"127.0.0.1:{up}")]


@contextlib.contextmanager
def start(name, label, folder, upstreams, clients):
    """A contestant in front of `upstreams`, or none, that may have so many clients; `label` is its
    name in the figures."""
    if name == DIRECT:
        yield Contestant(label, upstreams.ports[0], upstreams.answers)
        return
    port = free_port()
    command = command_of(name, folder, port, upstreams.ports, clients)
    with Process(label, command, folder / "proxy.log") as process:
        process.wait_for(port)
        yield Contestant(label, port, upstreams.answers, process)
