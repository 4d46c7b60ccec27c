#!/usr/bin/env python3
"""Writes seeds/: a small file for each case of the rules in docs/protocol.md, named by its rule.

Run it after a change; what it no longer names is removed. The corpora grow from these files.
"""

from pathlib import Path

ROOT = Path(__file__).parent / "seeds"
HOST = "Host: h\r\n"


def get(*lines, first="GET / HTTP/1.1", host=HOST):
    return first + "\r\n" + host + "".join(line + "\r\n" for line in lines) + "\r\n"


def post(body, *lines, first="POST / HTTP/1.1"):
    return get(*lines, first=first) + body


CHUNKED = "Transfer-Encoding: chunked"
NEXT = get(first="GET /next HTTP/1.1")

# What is a request's head, or a request; the session sees each of them with another one behind it.
REQUESTS = {
    "01-unknown-method": get(first="BREW /pot HTTP/1.1"),
    "01-propfind": get(first="PROPFIND / HTTP/1.1"),
    "01-no-token": get(first="G(T / HTTP/1.1"),
    "01-connect": get(first="CONNECT h:80 HTTP/1.1"),
    "02-query": get(first="GET /a/../b?c=%zz#d HTTP/1.1"),
    "02-absolute": get(first="GET http://other.test:81/a?b HTTP/1.1"),
    "02-absolute-no-path": get(first="OPTIONS http://a HTTP/1.1"),
    "02-absolute-query": get(first="GET HTTPS://a?q HTTP/1.1"),
    "02-asterisk": get(first="OPTIONS * HTTP/1.1"),
    "02-asterisk-get": get(first="GET * HTTP/1.1"),
    "02-user": get(first="GET http://u@a/ HTTP/1.1"),
    "02-control": get(first="GET /a\tb HTTP/1.1"),
    "02-high-bytes": get(first="GET /\xff\x80 HTTP/1.1"),
    "02-high-bytes-fragment": get(first="GET /a#\xff\x80 HTTP/1.1"),
    "02-odd": get(first='GET /"<>\\^`{|} HTTP/1.1'),
    "03-none": "GET /\r\n\r\n",
    "03-lower": get(first="GET / http/1.1"),
    "03-two": get(first="GET / HTTP/2.0"),
    "03-three-digits": get(first="GET / HTTP/1.11"),
    "03-ten": get(first="GET / HTTP/1.0", host=""),
    "04-space-before-colon": get("Content-Length : 5"),
    "04-no-colon": get("Content-Length"),
    "04-no-name": get(": 5"),
    "05-nul": get("A: b\0c"),
    "05-bare-cr": get("A: b\rContent-Length: 5"),
    "05-fold": get("A: b", " Content-Length: 5"),
    "05-fold-first": "GET / HTTP/1.1\r\n Host: h\r\n\r\n",
    "06-bare-lf": "GET / HTTP/1.1\nHost: h\n\n",
    "06-bare-lf-field": get("A: b\nContent-Length: 5"),
    "06-empty-line": "\r\n" + get(),
    "06-empty-lines": "\r\n\r\n" + get(),
    "06-no-cr-at-end": "GET / HTTP/1.1\r\nHost: h\r\n\n",
    "07-no-host": get(host=""),
    "07-two-hosts": get("Host: h"),
    "07-empty-host": get(host="Host:\r\n"),
    "07-host-port": get(host="Host: a_b.example:8080\r\n"),
    "07-host-v6": get(host="Host: [::1]:80\r\n"),
    "07-bad-host": get(host="Host: a, b\r\n"),
    "08-long-line": get(first="GET /" + "a" * 80 + " HTTP/1.1"),
    "08-long-head": get("A: " + "a" * 250),
    "08-many-fields": get(*["A: b"] * 6),
    "09-trace": get(first="TRACE / HTTP/1.1"),
    "09-trace-body": post("abc", "Content-Length: 3", first="TRACE / HTTP/1.1"),
    "10-both": post("0\r\n\r\n", CHUNKED, "Content-Length: 5"),
    "10-both-other-order": post("0\r\n\r\n", "Content-Length: 5", CHUNKED),
    "11-equal": post("abc", "Content-Length: 3", "Content-Length: 3"),
    "11-unequal": post("abc", "Content-Length: 3", "Content-Length: 4"),
    "11-list": post("abc", "Content-Length: 3, 3"),
    "12-plus": post("abc", "Content-Length: +3"),
    "12-hex": post("abc", "Content-Length: 0x3"),
    "12-nothing": post("", "Content-Length:"),
    "12-space": post("abc", "Content-Length: 3 3"),
    "12-zeros": post("abc", "Content-Length: 0003"),
    "12-overflow": post("abc", "Content-Length: 18446744073709551619"),
    "12-largest": post("abc", "Content-Length: 18446744073709551615"),
    "13-upper": post("0\r\n\r\n", "Transfer-Encoding: CHUNKED"),
    "13-unknown": post("0\r\n\r\n", "Transfer-Encoding: xchunked"),
    "13-identity": post("0\r\n\r\n", "Transfer-Encoding: identity"),
    "13-twice": post("0\r\n\r\n", CHUNKED, CHUNKED),
    "13-list-twice": post("0\r\n\r\n", "Transfer-Encoding: chunked, chunked"),
    "13-not-last": post("0\r\n\r\n", "Transfer-Encoding: chunked, gzip"),
    "13-gzip": post("0\r\n\r\n", "Transfer-Encoding: gzip, chunked"),
    "13-comma": post("0\r\n\r\n", "Transfer-Encoding: chunked,"),
    "13-tab": post("0\r\n\r\n", "Transfer-Encoding:\x0bchunked"),
    "13-ten": post("0\r\n\r\n", CHUNKED, first="POST / HTTP/1.0"),
    "17-length": post("abc", "Content-Length: 3"),
    "18-get-body": post("abc", "Content-Length: 3", first="GET / HTTP/1.1"),
    "18-head-body": post("3\r\nabc\r\n0\r\n\r\n", CHUNKED, first="HEAD / HTTP/1.1"),
    "18-body-like-request": post(get(), f"Content-Length: {len(get())}"),
    "19-connection": get("Connection: close, X-A", "X-A: b"),
    "19-connection-host": get("Connection: host"),
    "19-connection-length": post("abc", "Connection: content-length", "Content-Length: 3"),
    "19-keep-alive": get("Connection: keep-alive", "Keep-Alive: timeout=5"),
    "19-te": get("TE: gzip, trailers", "Connection: TE"),
    "19-h2c": get("Connection: upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAA"),
    "19-proxy": get("Proxy-Authorization: Basic eA==", "Proxy-Connection: keep-alive"),
    "20-forwarded": get("X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https", "Forwarded: for=a"),
    "20-taken-back": get("Connection: X-Forwarded-For", "X-Forwarded-For: 1.2.3.4"),
    "21-max-forwards-0": get("Max-Forwards: 0", first="OPTIONS * HTTP/1.1"),
    "21-max-forwards-5": get("Max-Forwards: 5", first="OPTIONS * HTTP/1.1"),
    "21-max-forwards-bad": get("Max-Forwards: x", first="OPTIONS * HTTP/1.1"),
    "21-via": get("Via: 1.0 a"),
    "23-repeated": get("A: b", "a: c", "B: d", "A: e"),
    "24-high-bytes": get("A: \xff\x80\xe9"),
    "31-ten-keep-alive": get("Connection: keep-alive", first="GET / HTTP/1.0"),
    "32-close": get("Connection: close"),
    "33-expect": post("abc", "Expect: 100-continue", "Content-Length: 3"),
    "33-expect-other": post("abc", "Expect: 200-ok", "Content-Length: 3"),
    "33-expect-ten": post("abc", "Expect: 100-continue", "Content-Length: 3",
                          first="POST / HTTP/1.0"),
    "35-upgrade": get("Connection: upgrade", "Upgrade: websocket"),
    "35-upgrade-both": get("Connection: Upgrade", "Upgrade: h2c, websocket"),
}


def answer(*lines, first="HTTP/1.1 200 OK"):
    return first + "\r\n" + "".join(line + "\r\n" for line in lines) + "\r\n"


RESPONSES = {
    "25-no-content": answer("Content-Length: 3", first="HTTP/1.1 204 No Content"),
    "25-not-modified": answer("Content-Length: 3", first="HTTP/1.1 304 Not Modified"),
    "26-both": answer(CHUNKED, "Content-Length: 3"),
    "26-unequal": answer("Content-Length: 3", "Content-Length: 4"),
    "26-equal": answer("Content-Length: 3, 3", "Content-Length: 3"),
    "26-zeros": answer("Content-Length: 003, 03"),
    "26-ten": answer(CHUNKED, first="HTTP/1.0 200 OK"),
    "26-no-reason": answer(first="HTTP/1.1 200 "),
    "26-no-space": answer(first="HTTP/1.1 200"),
    "26-four-digits": answer(first="HTTP/1.1 2000 OK"),
    "27-until-close": answer("Content-Type: text/plain"),
    "27-chunked": answer(CHUNKED, "Trailer: A"),
    "30-continue": answer("Content-Length: 3", first="HTTP/1.1 100 Continue"),
    "30-hints": answer("Link: </a>", first="HTTP/1.1 103 Early Hints"),
    "31-keep-alive": answer("Connection: keep-alive", "Content-Length: 3", first="HTTP/1.0 200 OK"),
    "32-close": answer("Connection: close, X-A", "X-A: b"),
    "19-connection-length": answer("Connection: content-length", "Content-Length: 3"),
    "19-authenticate": answer("Proxy-Authenticate: Basic", "Keep-Alive: timeout=5", "TE: trailers"),
    "23-cookies": answer("Set-Cookie: a=b", "Set-Cookie: c=d"),
    "35-switching": answer("Connection: upgrade", "Upgrade: websocket",
                           first="HTTP/1.1 101 Switching Protocols"),
    "35-required": answer("Connection: upgrade", "Upgrade: TLS/1.0, HTTP/1.1", "Content-Length: 0",
                          first="HTTP/1.1 426 Upgrade Required"),
    "06-bare-lf": "HTTP/1.1 200 OK\nContent-Length: 3\n\n",
}

BODIES = {
    "14-two": "3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
    "14-nothing": "0\r\n\r\n",
    "14-extension": '3;a=b;c="d"\r\nabc\r\n0;e\r\n\r\n',
    "14-zeros": "0000000000000001\r\na\r\n000\r\n\r\n",
    "14-upper": "0A\r\n0123456789\r\n0\r\n\r\n",
    "14-17-digits": "00000000000000001\r\na\r\n0\r\n\r\n",
    "14-overflow": "10000000000000000\r\na",
    "14-largest": "ffffffffffffffff\r\na",
    "14-hex": "0x1\r\na\r\n0\r\n\r\n",
    "14-plus": "+1\r\na\r\n0\r\n\r\n",
    "14-space": "1 \r\na\r\n0\r\n\r\n",
    "14-space-extension": "1 ;a\r\nb\r\n0\r\n\r\n",
    "14-bare-lf": "1\na\r\n0\r\n\r\n",
    "14-bare-lf-extension": "1;a\nb\r\na\r\n0\r\n\r\n",
    "14-bare-cr-extension": "1;a\rb\r\na\r\n0\r\n\r\n",
    "14-long-line": "1;" + "a" * 252 + "\r\na\r\n0\r\n\r\n",
    "14-too-long-line": "1;" + "a" * 253 + "\r\na\r\n0\r\n\r\n",
    "14-no-line-end": "1\r\nab\r\n0\r\n\r\n",
    "14-other-behind-data": "1\r\naXX0\r\n\r\n",
    "14-cr-behind-data": "1\r\na\rb\n0\r\n\r\n",
    "14-no-digits": "\r\n\r\n",
    "15-trailers": "0\r\nA: b\r\nB:\r\n\r\n",
    "15-dropped": "0\r\nContent-Length: 5\r\nHost: x\r\nTransfer-Encoding: chunked\r\nA: b\r\n\r\n",
    "15-malformed": "0\r\nA : b\r\n\r\n",
    "15-fold": "0\r\nA: b\r\n c\r\n\r\n",
    "15-many": "0\r\nA:\r\nB:\r\nC:\r\nD:\r\n\r\n",
    "15-long": "0\r\nA: " + "a" * 64 + "\r\n\r\n",
    "15-just-fits": "0\r\nA: " + "a" * 57 + "\r\n\r\n",
    "16-error-behind-data": "3\r\nabc\r\nx",
    "17-next": "1\r\na\r\n0\r\n\r\n" + NEXT,
}

FLAGS = [
    "-u a:80", "-h", "--help", "-V", "demo", "demo -v --bind 127.0.0.1:0", "-u http://a:80",
    "-u [::1]:80 --upstream b:81", "-u a:80 -b [::1]:7", "-u a:80 --engine async --threads 3",
    "-u a:80 --policy two-choices", "-u a:80 --policy ring", "-u a:80 --max-head 32k",
    "-u a:80 --max-head 4K --max-request-line 8K", "-u a:80 --max-body 3GiB --max-fields 7",
    "-u a:80 --head-timeout 0.5 --idle-timeout 31536000", "-u a:80 --idle-timeout 1e9",
    "-u a:80 --idle-timeout 0.0000000001", "-u a:80 --connect-timeout .25",
    "-u a:80 --trust-forwarded 10.0.0.0/8,::1", "-u a:80 --trust-forwarded none",
    "-u a:80 --trust-forwarded ::ffff:10.0.0.0/104", "-u a:80 --no-via --via-response",
    "-u a:80 --retry-budget 0 --retry-floor 0 --max-attempts 1", "-u a:80 --fail-open false",
    "-u a:80 --active-health-check-interval 0", "-u a:80 --active-health-check-path /up",
    "-u a:80 --active-health-check-status 200-399,404", "-u a:80 --health-fall 4 --health-rise 3",
    "-u a:80 --active-health-check-timeout 8", "-u a:80 --max-connections 9 --when-full refuse",
    "-u a:80 --max-requests-per-minute 5 --rate-limit-clients 6", "-u a:80 --pool-size 0",
    "-u a:80 --response-timeout 1 --progress-timeout 2 --tunnel-timeout 3 --linger-timeout 4",
    "-u a:80 --pool-timeout 1 --drain-timeout 2 -vv", "-u a:80 --no-via=1", "-u a:80 demo",
    "-u a:80 --threads -5", "-u a:80 --upstream-host", "-u=a:80 -vb0.0.0.0:1", "-- a",
    "-u a\r\nb:80", "-u a:80 --active-health-check-path /a\u0085b", "--x\ny", "200-299,404", "",
]

# The numbers of events and phrases are those of src/session.rs.
(CLIENT_SAYS, UPSTREAM_SAYS, CLIENT, UPSTREAM, CLIENT_ENDS, UPSTREAM_ENDS, CLIENT_READ_FAILS,
 CLIENT_WRITE_FAILS, UPSTREAM_READ_FAILS, UPSTREAM_WRITE_FAILS, CLIENT_TAKES, UPSTREAM_TAKES,
 FRESH, REUSED, THEIR_FAULT, OUR_FAULT, MS, SECONDS, DEADLINE, TOO_OFTEN, POUR, TAKE, END_PAST, PASS,
 DRAIN, PROBE, AGAIN, REST, SHUT_DOWN, OTHERS_TAKE, OTHERS_FINISH, OTHERS_WAIT,
 OTHERS_LEAVE) = range(33)
(GET, POST, POST_CHUNKED, HEAD, GET_10, UPGRADE, EXPECT, PUT_LONG, ABC, CHUNK, LAST, LAST_TRAILER,
 OK, OK_CHUNKED, OK_UNTIL_CLOSE, NO_CONTENT, CONTINUE, SWITCHING, OK_10, OK_LONG, OK_CLOSE, HINTS,
 GET_CLOSE, TRACE, LINE_END, GET_BEGINS, OK_BEGINS, LINE_FEED, KIB, BUFFER, LONG_CHUNK,
 OPTIONS) = range(32)

UP = [UPSTREAM_TAKES, 0]
DOWN = [CLIENT_TAKES, 0]
ASKED = [CLIENT, GET, FRESH, *UP]
SERVED = [*ASKED, UPSTREAM, OK, UPSTREAM, ABC, *DOWN]
SPLICED = [POUR, TAKE, 98, PASS, 50, PASS, 98]
TAKEN_CHUNKS = [CLIENT, CHUNK, *UP, CLIENT, LAST, *UP]

SESSIONS = {
    "17-two": [*SERVED, CLIENT, GET, REUSED, *UP, UPSTREAM, OK, UPSTREAM, ABC, *DOWN, CLIENT_ENDS],
    "17-pipelined": [CLIENT, GET + 0, *SERVED, REUSED, *UP],
    "25-head": [CLIENT, HEAD, FRESH, *UP, UPSTREAM, OK, *DOWN],
    "27-until-close": [*ASKED, UPSTREAM, OK_UNTIL_CLOSE, UPSTREAM, ABC, *DOWN, UPSTREAM_ENDS, *DOWN],
    "27-reset": [*ASKED, UPSTREAM, OK_UNTIL_CLOSE, *DOWN, UPSTREAM_READ_FAILS, *DOWN],
    "28-ends-early": [*ASKED, UPSTREAM, OK, *DOWN, UPSTREAM_ENDS],
    "29-stray-bytes": [*SERVED[:-2], UPSTREAM, OK, *DOWN],
    "29-speaks-first": [CLIENT, GET, FRESH, UPSTREAM, OK, *UP, *DOWN],
    "30-hints": [*ASKED, UPSTREAM, HINTS, *DOWN, UPSTREAM, NO_CONTENT, *DOWN],
    "31-ten": [CLIENT, GET_10, FRESH, *UP, UPSTREAM, OK_10, UPSTREAM, ABC, UPSTREAM_ENDS, *DOWN],
    "32-close": [CLIENT, GET_CLOSE, FRESH, *UP, UPSTREAM, OK_CLOSE, UPSTREAM, ABC, *DOWN, SHUT_DOWN],
    "33-expect": [CLIENT, EXPECT, FRESH, *UP, UPSTREAM, CONTINUE, *DOWN, CLIENT, ABC, *UP,
                  UPSTREAM, NO_CONTENT, *DOWN],
    "34-early": [CLIENT, POST_CHUNKED, FRESH, *UP, UPSTREAM, NO_CONTENT, *DOWN, SHUT_DOWN,
                 CLIENT, KIB, CLIENT_ENDS],
    "35-tunnel": [CLIENT, UPGRADE, FRESH, *UP, UPSTREAM, SWITCHING, *DOWN, CLIENT, ABC, *UP,
                  UPSTREAM, ABC, *DOWN, CLIENT_ENDS, SHUT_DOWN, UPSTREAM_ENDS, SHUT_DOWN],
    "36-chunks": [CLIENT, POST_CHUNKED, FRESH, *UP, *TAKEN_CHUNKS, UPSTREAM, OK_CHUNKED,
                  UPSTREAM, CHUNK, *DOWN, UPSTREAM, LAST_TRAILER, *DOWN],
    "36-splice-down": [*ASKED, UPSTREAM, OK_LONG, *SPLICED, *DOWN],
    "36-splice-up": [CLIENT, PUT_LONG, FRESH, *UP, *3 * [CLIENT, BUFFER, *UP], *SPLICED,
                     UPSTREAM, NO_CONTENT, *DOWN],
    "36-splice-end": [*ASKED, UPSTREAM, OK_UNTIL_CLOSE, POUR, TAKE, 5, PASS, 9, END_PAST, *DOWN],
    "36-full": [CLIENT, POST_CHUNKED, FRESH, CLIENT, LONG_CHUNK, CLIENT, BUFFER, CLIENT, BUFFER],
    "37-reset": [*ASKED, CLIENT_READ_FAILS],
    "37-half-close": [*ASKED, UPSTREAM, OK, UPSTREAM, ABC, CLIENT_WRITE_FAILS],
    "38-refused": [CLIENT, GET, THEIR_FAULT, 0, THEIR_FAULT, 1],
    "38-shortage": [CLIENT, GET, OUR_FAULT, 0, OUR_FAULT, 1, DEADLINE, OUR_FAULT, 2, DEADLINE],
    "38-ejected": [PROBE, 0, 6, PROBE, 1, 6, CLIENT, GET, FRESH],
    "39-reused-ends": [*SERVED, CLIENT, GET, REUSED, *UP, UPSTREAM_ENDS, FRESH, *UP],
    "39-fresh-ends": [*ASKED, UPSTREAM_ENDS, FRESH, *UP, UPSTREAM_ENDS],
    "40-post": [CLIENT, POST, CLIENT, ABC, FRESH, *UP, UPSTREAM_ENDS, *DOWN],
    "41-begun": [*ASKED, UPSTREAM, OK_BEGINS, UPSTREAM_ENDS, *DOWN],
    "43-head": [CLIENT, GET_BEGINS, DEADLINE, *DOWN, DEADLINE],
    "43-connect": [CLIENT, GET, DEADLINE, DEADLINE, *DOWN],
    "43-response": [*ASKED, DEADLINE, *DOWN],
    "43-progress": [CLIENT, POST, FRESH, *UP, DEADLINE, *DOWN, DEADLINE],
    "43-not-read": [*ASKED, UPSTREAM, OK, DEADLINE],
    "43-idle": [AGAIN, SECONDS, 59, AGAIN, MS, 9, DEADLINE],
    "43-drain": [*ASKED, DRAIN, UPSTREAM, OK, UPSTREAM, ABC, *DOWN, SHUT_DOWN, CLIENT_ENDS],
    "43-drain-idle": [DRAIN, MS, 200, CLIENT, GET, DEADLINE],
    "09-trace": [CLIENT, TRACE, CLIENT, ABC, *DOWN, CLIENT, OPTIONS, *DOWN],
    "06-malformed": [CLIENT, LINE_FEED, *DOWN, SHUT_DOWN, CLIENT, KIB, DEADLINE],
    "16-late-error": [CLIENT, POST_CHUNKED, FRESH, *UP, CLIENT, ABC, *DOWN],
    "29-all-at-once": [*ASKED, 128 + UPSTREAM, OK, 128 + UPSTREAM, ABC, UPSTREAM_ENDS, *DOWN],
    "08-long-line": [CLIENT_SAYS, 90, *b"GET /", *b"a" * 85, *DOWN],
    "08-long-body": [CLIENT, PUT_LONG, *DOWN, SHUT_DOWN, CLIENT, BUFFER],
    "08-long-chunks": [CLIENT, POST_CHUNKED, FRESH, *UP, CLIENT, LONG_CHUNK, CLIENT, BUFFER, *DOWN],
    "46-three": [*SERVED, *SERVED, CLIENT, GET, *DOWN],
    "38-room": [OTHERS_TAKE, CLIENT, GET, OTHERS_FINISH, FRESH, *UP, UPSTREAM, OK, UPSTREAM, ABC, *DOWN],
    "38-room-in-turn": [OTHERS_TAKE, OTHERS_WAIT, 1, CLIENT, GET, OTHERS_WAIT, 1, OTHERS_WAIT, 1,
                        OTHERS_LEAVE, 0, OTHERS_FINISH, OTHERS_FINISH, FRESH, UPSTREAM_ENDS],
    "38-room-too-late": [OTHERS_TAKE, CLIENT, POST, CLIENT, ABC, DEADLINE, *DOWN],
    "38-room-crowd": [OTHERS_TAKE, CLIENT, GET, *[OTHERS_WAIT, 0] * 3, *DOWN],
    "00-any-bytes": [CLIENT_SAYS, 3, 71, 69, 84, UPSTREAM_SAYS, 1, 0, REST, TOO_OFTEN],
}

CONFIGURATIONS = {"": [0b0001_1111, 0], "-small": [0b0110_0010, 130], "-turned-away": [0b1000_0101, 0]}
# Room for one request at each of one upstream, or two, and for two to wait.
BOUNDED = {"-one": [0b0001_1110, 102], "-two": [0b0001_1111, 102]}


def text(strings):
    return {name: string.encode("latin-1") for name, string in strings.items()}


def behind(messages, before="", after=""):
    return {name: before + message + after for name, message in messages.items()}


def sessions():
    all_of_them = {}
    for name, events in SESSIONS.items():
        choices = BOUNDED if "room" in name else CONFIGURATIONS
        for suffix, configuration in choices.items():
            if suffix in ("", *BOUNDED) or name[:2] in ("08", "09", "17", "38", "43", "46"):
                all_of_them[name + suffix] = bytes(configuration + events)
    return all_of_them


def flags():
    words = [line.split(" ") for line in FLAGS]
    return {f"{place:02}": "\0".join(line).encode() for place, line in enumerate(words)}


def main():
    chunked_requests = behind(BODIES, before=get(CHUNKED, first="POST /c HTTP/1.1"), after=NEXT)
    targets = {
        "head": text(REQUESTS) | {f"r{name}": data for name, data in text(RESPONSES).items()},
        "chunked": text(BODIES),
        "session": sessions(),
        "flags": flags(),
        "differential": text(behind(REQUESTS, after=NEXT) | chunked_requests),
    }
    for target, files in targets.items():
        folder = ROOT / target
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            if old.name not in files:
                old.unlink()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        print(f"{target}: {len(files)} files")


if __name__ == "__main__":
    main()
