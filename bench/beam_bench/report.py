"""The figures as Markdown: what was measured, on what, with which command.

Not here: what the figures mean for a reader's choice (the README), and plots (`plots`).
"""

from beam_bench.contestants import ALL, ASYNC, AT_A_TIME, BOUNDED, EARLIER, PROXIES, THREADS
from beam_bench.figures import median, ratio
from beam_bench.workloads import BY_NAME, CLOSED, IDLE, OVERLOAD, SCALING, TABLE

INTRODUCTION = """# Benchmarks

Written by `bench/compare --write`; not to be edited by hand. All processes share one machine with
the load and the upstreams, so **only ratios within one row mean anything**. Contestants run in turn;
a figure is the median of the repetitions, with the range behind it. `threads` and `async` are
balancebeam's engines; *no proxy* is the load straight at the upstream. Where answers were wrong or
missing, there is no figure.
"""
# What one more connection costs is seen between these two.
FEW, MANY = BY_NAME["get-8"], BY_NAME["get-4096"]
LEGEND = {
    "against": "Ratio new/old: the median of the ratios of the rounds (lower quartile–upper quartile). "
    "Below 1 the new build needs less; of requests per second it does more above 1.",
    "cpu": "User and system time of the proxy's processes per request in µs (range), and its **ratio "
    "to the cheaper of nginx and HAProxy**.",
    "split": "The same in µs, user + system.",
    "kernel": "Per request: system calls / context switches.",
    "rate": "wrk sends as fast as answers come. Requests per second (range).",
    "saturation": "p50 / p99 / p99.9 in ms while wrk sends as fast as answers come.",
    "fixed": "p50 / p99 / p99.9 in ms at the same rate for all, half of what the slower of nginx and "
    "HAProxy can do; counted from the time at which a request was due, so that waiting counts; "
    "then the **ratio of p99 to the better of nginx and HAProxy**.",
    "growth": f"CPU time per request at {MANY.connections:,} connections over that at "
    f"{FEW.connections:,}, both from the same run.",
    "memory": "Fresh process / most seen under load, in MiB: anonymous and shared memory "
    "(`Pss_Anon` + `Pss_Shmem`), where a page that several processes share counts once. The program's "
    "own file and its libraries are not in it.",
    "idle": "Bytes per client that has made one request and waits, in the proxy's processes (range); "
    "then MiB with all of them.",
    "overload": "Good answers per second (range); their p50 / p99 in ms from the time at which a "
    f"request was due; what the other clients got, per second. *Bounded*: `--max-in-flight {AT_A_TIME}`; HAProxy: "
    f"`maxconn {AT_A_TIME}` and `timeout queue 1s`.",
}


def number(value):
    """Three digits that mean something."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(figure, scale=1.0):
    low, high = number(figure["low"] * scale), number(figure["high"] * scale)
    return f"{number(figure['median'] * scale)} ({low}–{high})"


def medians(mine, names, scale, between=" / "):
    return between.join(number(mine[name]["median"] * scale) if name in mine else "–" for name in names)


def table(title, legend, names, parts, cell):
    """A section with a row for each workload; nothing if there is none."""
    rows = []
    for workload, part in parts:
        cells = []
        for name in names:
            mine = part["contestants"].get(name)
            cells.append("failed" if name in part["failed"] else cell(part, name, mine) if mine else "–")
        if any(text not in ("–", "failed") for text in cells) or part["failed"]:
            rows.append(f"| {workload.title} | " + " | ".join(cells) + " |")
    if not rows:
        return ""
    head = f"| | {' | '.join(names)} |\n|---|" + "---|" * len(names)
    return "\n".join([f"## {title}", "", legend, "", head, *rows, ""])


def markdown(found, plots):
    sections = [INTRODUCTION, *(f"![{title}]({file})\n" for file, title in plots)]
    sections += [against(found)]
    sections += [*closed(found), growth(found), *scaling(found), *idle(found), *overload(found)]
    sections += [failures(found), runs(found)]
    return "\n".join(section for section in sections if section)


def closed(found):
    parts = found.of(CLOSED)

    names = [*PROXIES, *EARLIER] if any("ratios" in part for _, part in parts) else PROXIES

    def cpu(part, name, mine):
        by = ratio(part, name)
        return spread(mine["cpu_us"]) + (f", **{by:.2f}**" if by else "")

    def kernel(_part, _name, mine):
        calls = number(mine["syscalls"]["median"]) if "syscalls" in mine else "–"
        return f"{calls} / {number(mine['switches']['median'])}"

    def percentiles(prefix):
        figures = [f"{prefix}{which}" for which in ("p50_us", "p99_us", "p999_us")]
        p99 = f"{prefix}p99_us" if prefix else None

        def cell(part, name, mine):
            by = p99 and ratio(part, name, p99)
            return medians(mine, figures, 1e-3) + (f", **{by:.2f}**" if by else "")

        return cell

    def split(_part, _name, mine):
        return medians(mine, ["user_us", "system_us"], 1, " + ")

    def memory(_part, _name, mine):
        return medians(mine, ["idle_kib", "peak_kib"], 1 / 1024)

    at_rate = [(titled(workload, part), part) for workload, part in parts if part["rate"]]
    return [
        table("CPU time per request", LEGEND["cpu"], names, parts, cpu),
        table("User and system time", LEGEND["split"], names, parts, split),
        table("System calls and context switches", LEGEND["kernel"], names, parts, kernel),
        table("Latency at a fixed rate", LEGEND["fixed"], ALL, at_rate, percentiles("fixed_")),
        table(
            "Requests per second", LEGEND["rate"], ALL, parts, lambda _part, _name, mine: spread(mine["rate"])
        ),
        table("Latency at saturation", LEGEND["saturation"], ALL, parts, percentiles("")),
        table("Memory", LEGEND["memory"], names, parts, memory),
    ]


# What is told of two builds: CPU time first, because it decides.
AGAINST = {
    "cpu_us": "CPU time per request",
    "rate": "requests per second",
    "p99_us": "p99 at saturation",
    "peak_kib": "most memory",
}


def against(found):
    """The ratios new/old, a row for each workload and engine; nothing if there was no earlier build."""
    rows = []
    for workload, part in found.of(CLOSED):
        for engine in (THREADS, ASYNC) if "ratios" in part else ():
            mine = part["ratios"][engine]
            cells = [
                f"{mine[figure]['median']:.3f} ({mine[figure]['low']:.3f}–{mine[figure]['high']:.3f})"
                if figure in mine
                else "–"
                for figure in AGAINST
            ]
            rounds = max((figure["rounds"] for figure in mine.values()), default=0)
            rows.append(f"| {workload.title} | {engine} | " + " | ".join(cells) + f" | {rounds} |")
    if not rows:
        return ""
    head = f"| | engine | {' | '.join(AGAINST.values())} | rounds |\n|---|---|" + "---|" * (len(AGAINST) + 1)
    return "\n".join(["## This build against the one before", "", LEGEND["against"], "", head, *rows, ""])


def growth(found):
    few, many = (found.workloads.get(workload.name) for workload in (FEW, MANY))
    if not few or not many or few["run"] != many["run"]:
        return ""
    cells = []
    for name in PROXIES:
        before, after = (median(part, name, "cpu_us") for part in (few, many))
        cells.append(f"{after / before:.2f}" if before and after else "–")
    head = f"| {' | '.join(PROXIES)} |\n" + "|---" * len(PROXIES) + "|"
    row = f"| {' | '.join(cells)} |"
    return "\n".join(["## Few connections and many", "", LEGEND["growth"], "", head, row, ""])


class titled:
    """A workload whose title tells the rate."""

    def __init__(self, workload, part):
        self.title = f"{workload.title}, {part['rate']:,}/s"


def scaling(found):
    """A row for each engine and number of upstreams; an engine's ratio is to its row with the fewer."""
    sections = []
    for workload, part in found.of(SCALING):
        rows = []
        for name, mine in part["contestants"].items():
            base = f"{name.split(',')[0]}, {workload.few_upstreams:,} upstreams"
            base = part["contestants"].get(base, {}).get("cpu_us")
            by = f"**{mine['cpu_us']['median'] / base['median']:.2f}**" if base else "–"
            rows.append(f"| {name} | {spread(mine['cpu_us'])} | {by} | {spread(mine['rate'])} |")
        text = f"{workload.title}. CPU time per request in µs (range)."
        head = "| | CPU time | to the fewer | requests/s |\n|---|---|---|---|"
        sections.append("\n".join(["## Few upstreams and many", "", text, "", head, *rows, ""]))
    return sections


def idle(found):
    def cell(_part, _name, mine):
        return f"{spread(mine['client_bytes'])}; {medians(mine, ['peak_kib'], 1 / 1024)}"

    return [table("Idle clients", LEGEND["idle"], PROXIES, found.of(IDLE), cell)]


def overload(found):
    """A row for each contestant, because errors need room."""
    sections = []
    for workload, part in found.of(OVERLOAD):
        rows = []
        for name in [name for name in [*ALL, *BOUNDED] if name in part["contestants"]]:
            mine = part["contestants"][name]
            errors = {key[7:]: figure for key, figure in mine.items() if key.startswith("error: ")}
            told = ", ".join(f"{kind}: {number(figure['median'])}" for kind, figure in sorted(errors.items()))
            latency = medians(mine, ["p50_us", "p99_us"], 1e-3)
            rows.append(f"| {name} | {spread(mine['good'])} | {latency} | {told or '–'} |")
        head = "| | good answers/s | p50 / p99, ms | errors/s |\n|---|---|---|---|"
        text = f"{workload.title}. {LEGEND['overload']}"
        sections.append("\n".join(["## An overloaded upstream", "", text, "", head, *rows, ""]))
    return sections


def failures(found):
    lines = [
        f"- {workload.name}, {name}: {reason}"
        for workload in TABLE
        for name, reason in found.workloads.get(workload.name, {}).get("failed", {}).items()
    ]
    return "\n".join(["## What went wrong", "", *lines, ""]) if lines else ""


def runs(found):
    """Where the figures come from; workloads of one run stand together."""
    together = {}
    for workload in TABLE:
        if part := found.workloads.get(workload.name):
            run = part["run"]
            key = (run["date"], run["command"], run["machine"], "; ".join(run["versions"]))
            together.setdefault(key, []).append(workload.name)
    lines = [
        f"- {date}, `{command}`: {', '.join(names)}. {machine}. {versions}."
        for (date, command, machine, versions), names in together.items()
    ]
    return "\n".join(["## Runs", "", *lines, ""])
