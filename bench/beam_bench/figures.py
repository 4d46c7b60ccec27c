"""Medians and ranges of what was measured, and `figures.json`, from which all is drawn again.

Each workload carries the run that it comes from: a partial run renews its own workloads only. Not
here: tables (`report`) and plots (`plots`).
"""

import json
import statistics

from beam_bench.contestants import EARLIER, HAPROXY, NGINX
from beam_bench.workloads import TABLE

FILE = "figures.json"


def summary(taken, run):
    """A workload's part of the file. A kind of error that a repetition did not see counts as 0."""
    field = {}
    for name, figures in taken.values.items():
        if name in taken.failed:
            continue
        field[name] = {}
        most = max(len(values) for values in figures.values())
        for figure, values in figures.items():
            if figure.startswith("error: "):
                values = values + [0] * (most - len(values))
            field[name][figure] = {
                "median": short(statistics.median(values)),
                "low": short(min(values)),
                "high": short(max(values)),
            }
    part = {"run": run, "rate": taken.rate, "failed": taken.failed, "contestants": field}
    if taken.plan.against:
        part["ratios"] = {engine: ratios(taken, engine, before) for before, engine in EARLIER.items()}
    return part


def ratios(taken, new, old):
    """Of each figure, the ratio new/old of every round that both have; its median and quartiles. What the
    machine does within a round meets both, so the ratio varies less than the figures do."""
    if new in taken.failed or old in taken.failed:
        return {}
    mine, theirs = taken.rounds.get(new, {}), taken.rounds.get(old, {})
    found = {}
    for figure in mine:
        before = theirs.get(figure, {})
        each = [value / before[at] for at, value in mine[figure].items() if before.get(at)]
        if each:
            low, middle, high = quartiles(each)
            found[figure] = {"median": short(middle), "low": short(low), "high": short(high), "rounds": len(each)}
    return found


def quartiles(values):
    if len(values) == 1:
        return values * 3
    return statistics.quantiles(values, n=4, method="inclusive")


def short(value):
    """More digits than these are noise."""
    return float(f"{value:.4g}")


class Figures:
    """All workloads that were measured, in the order of the table."""

    def __init__(self, workloads=None):
        self.workloads = workloads or {}

    @classmethod
    def read(cls, folder):
        file = folder / FILE
        return cls(json.loads(file.read_text())["workloads"] if file.exists() else {})

    def write(self, folder):
        known = [workload.name for workload in TABLE]
        ordered = {name: self.workloads[name] for name in known if name in self.workloads}
        (folder / FILE).write_text(json.dumps({"workloads": ordered}, indent=1, ensure_ascii=False) + "\n")

    def of(self, kind):
        """The workloads of a kind that were measured, each with its figures."""
        return [
            (workload, self.workloads[workload.name])
            for workload in TABLE
            if workload.kind == kind and workload.name in self.workloads
        ]


def median(part, name, figure):
    """None where there is no figure."""
    return part["contestants"].get(name, {}).get(figure, {}).get("median")


def ratio(part, name, figure="cpu_us"):
    """To the smaller one of nginx and HAProxy in the same run; None unless both have a figure, because
    the one without may have been the better."""
    rivals = [median(part, rival, figure) for rival in (NGINX, HAPROXY)]
    mine = median(part, name, figure)
    return mine / min(rivals) if mine is not None and all(rivals) else None
