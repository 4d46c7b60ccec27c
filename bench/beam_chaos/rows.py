"""What one contestant did under one fault: outcomes, latencies, and what balancebeam owed.

Not here: how it is measured (`faults/`), how it is told (`report`).
"""

from dataclasses import asdict, dataclass, field


@dataclass
class Row:
    """`missed` names each aim that was not reached; peers have none. `extra` holds further figures by
    the title of their column."""

    contestant: str
    requests: int = 0
    good: int = 0
    wrong: dict = field(default_factory=dict)
    p50_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None
    extra: dict = field(default_factory=dict)
    missed: list = field(default_factory=list)
    # Why there are no figures, if there are none.
    without: str = ""

    @classmethod
    def of(cls, contestant, result):
        """From the figures of a load."""
        row = cls(contestant.label)
        row.add(result)
        if result["good"]:
            row.p50_ms = result["p50_us"] / 1000
            row.p99_ms = result["p99_us"] / 1000
            row.max_ms = result["max_us"] / 1000
        return row

    def add(self, result):
        """Counts of one more load."""
        self.requests += result["good"] + sum(result["errors"].values())
        self.good += result["good"]
        for kind, count in result["errors"].items():
            self.wrong[kind] = self.wrong.get(kind, 0) + count

    def owes(self, kept, aim):
        """An aim of balancebeam; what peers do is only told."""
        if not kept:
            self.missed.append(aim)

    def owes_no_wrong(self):
        self.owes(not self.wrong, "every request gets a 200")

    def json(self):
        return asdict(self)
