"""Markdown, and `figures.json`, from which it can be written again.

Each row carries the run that it comes from: a partial run renews its own rows only. Not here: how a row
is measured (`faults/`).
"""

import json

from beam_chaos.faults import TABLE

FILE, PAGE = "figures.json", "chaos.md"

INTRODUCTION = """# Faults

Written by `bench/chaos --write`; not to be edited by hand. Real faults on real sockets: upstreams,
clients and proxy are processes of their own on one machine, so latencies hold the load's own work, too.
`threads` and `async` are balancebeam's engines. What a row says of a peer is a figure; what it says of
balancebeam is held against the aim. *Good* is a whole answer with status 200. Latencies are those of
good answers, counted from when the request was due. What it means is in
[robustness.md](../robustness.md).
"""


class Figures:
    """All rows that were measured: by fault, then by contestant."""

    def __init__(self, faults=None):
        self.faults = faults or {}

    @classmethod
    def read(cls, folder):
        file = folder / FILE
        return cls(json.loads(file.read_text())["faults"] if file.exists() else {})

    def add(self, fault, row, run):
        self.faults.setdefault(fault.name, {})[row.contestant] = row.json() | {"run": run}

    def write(self, folder):
        ordered = {fault.name: self.faults[fault.name] for fault in TABLE if fault.name in self.faults}
        text = json.dumps({"faults": ordered}, indent=1, ensure_ascii=False)
        (folder / FILE).write_text(text + "\n")
        (folder / PAGE).write_text(self.markdown())

    def markdown(self):
        sections = [section(fault, self.faults[fault.name]) for fault in TABLE if fault.name in self.faults]
        return "\n".join([INTRODUCTION, *sections, runs(self.faults)])


def number(value):
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def verdict(row):
    if row["without"]:
        return row["without"]
    if row["contestant"].split(",")[0] not in ("threads", "async"):
        return "–"
    return "**missed**: " + "; ".join(row["missed"]) if row["missed"] else "reached"


def section(fault, rows):
    """Contestants in their order of the table of this fault, whatever run they come from."""
    known = [contestant.label for contestant in fault.contestants()]
    rows = [rows[label] for label in known if label in rows]
    if not rows:
        return ""
    titles = list(dict.fromkeys(title for row in rows for title in row["extra"]))
    head = ["", "requests", "good", "else", "p50 / p99 / most, ms", *titles, "aim"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        wrong = ", ".join(f"{count:,} × {kind}" for kind, count in sorted(row["wrong"].items()))
        times = " / ".join(number(row[key]) for key in ("p50_ms", "p99_ms", "max_ms"))
        cells = [row["contestant"], number(row["requests"]), number(row["good"]), wrong or "–", times]
        cells += [number(row["extra"].get(title)) or "–" for title in titles]
        lines.append(f"| {' | '.join(cells)} | {verdict(row)} |")
    told = [f"## {fault.title}", f"**What is done.** {fault.done}", f"**What is counted.** {fault.counted}"]
    told += [f"**Aim.** {fault.aim} `bench/chaos --only {fault.name}`"]
    return "\n\n".join([*told, "\n".join(lines)]) + "\n"


def runs(faults):
    """Where the figures come from; what is of one run stands together."""
    together = {}
    for fault in TABLE:
        for row in faults.get(fault.name, {}).values():
            run = row["run"]
            key = (run["date"], run["command"], run["machine"], "; ".join(run["versions"]))
            together.setdefault(key, set()).add(fault.name)
    lines = [
        f"- {date}, `{command}`: {', '.join(sorted(names))}. {machine}. {versions}."
        for (date, command, machine, versions), names in together.items()
    ]
    return "\n".join(["## Runs", "", *lines, ""])
