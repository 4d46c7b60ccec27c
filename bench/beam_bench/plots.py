"""SVG plots of the figures, the same bytes for the same figures.

Colours are those of Okabe and Ito, which people with any kind of colour vision can tell apart; markers
and hatches differ, too. Not here: the tables (`report`).
"""

from beam_bench.contestants import ALL, ASYNC, DIRECT, HAPROXY, NGINX, PROXIES, THREADS
from beam_bench.figures import median, ratio
from beam_bench.workloads import CLOSED, IDLE

COLOURS = {NGINX: "#009E73", HAPROXY: "#E69F00", THREADS: "#0072B2", ASYNC: "#CC79A7", DIRECT: "#555555"}
HATCHES = {NGINX: "", HAPROXY: "", THREADS: "//", ASYNC: "\\\\"}
MARKERS = {NGINX: "o", HAPROXY: "s", THREADS: "^", ASYNC: "v", DIRECT: "x"}
LABELS = {THREADS: "balancebeam threads", ASYNC: "balancebeam async"}
STYLE = {
    "svg.hashsalt": "balancebeam",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
PERCENTILES = {"fixed_p50_us": "p50", "fixed_p99_us": "p99", "fixed_p999_us": "p99.9"}


def label(name):
    return LABELS.get(name, name)


def draw(found, folder):
    """Draws what there are figures for; tells the files, each with what it shows."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    drawn = []
    with matplotlib.rc_context(STYLE):
        for file, title, plot in [
            ("cpu.svg", "CPU time per request, relative to the cheaper of nginx and HAProxy", cpu),
            ("latency.svg", "Latency at a fixed rate, the same for all", latency),
            ("idle-memory.svg", "Memory of idle keep-alive clients", idle_memory),
            ("rate.svg", "Requests per second over connections", rate),
        ]:
            figure = plot(found, pyplot)
            if not figure:
                continue
            metadata = {"Date": None, "Creator": None, "Title": title}
            figure.savefig(folder / file, metadata=metadata)
            pyplot.close(figure)
            drawn.append((file, title))
    return drawn


def bars(axes, groups, names, value, whiskers=None):
    """Groups of bars side by side; a bar without a value is left out."""
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        heights = [(at, value(group, name)) for at, group in enumerate(groups)]
        heights = [(at, height) for at, height in heights if height is not None]
        if not heights:
            continue
        spread = whiskers and [whiskers(groups[at], name) for at, _ in heights]
        axes.bar(
            [at + (place + 0.5) * width - 0.4 for at, _ in heights],
            [height for _, height in heights],
            width * 0.92,
            yerr=spread and [[low for low, _ in spread], [high for _, high in spread]],
            error_kw={"elinewidth": 0.8, "ecolor": "#333333"},
            color=COLOURS[name],
            hatch=HATCHES[name],
            edgecolor="white",
            linewidth=0,
            label=label(name),
        )


def cpu(found, pyplot):
    rivals = (NGINX, HAPROXY)
    groups = [group for group in found.of(CLOSED) if any(ratio(group[1], rival) for rival in rivals)]
    if not groups:
        return None

    def whiskers(group, name):
        """How far the range reaches below and above the median."""
        cost = group[1]["contestants"][name]["cpu_us"]
        scale = ratio(group[1], name) / cost["median"]
        return (cost["median"] - cost["low"]) * scale, (cost["high"] - cost["median"]) * scale

    figure, axes = pyplot.subplots(figsize=(9, 3.8))
    bars(axes, groups, PROXIES, lambda group, name: ratio(group[1], name), whiskers)
    axes.axhline(1, color="#333333", linewidth=0.8)
    axes.set_xticks(range(len(groups)), [workload.label for workload, _ in groups], fontsize=8)
    axes.set_xlabel("workload")
    axes.set_ylabel("CPU time per request\n(cheaper of nginx and HAProxy = 1)")
    figure.legend(loc="outside upper center", ncols=4, handles=axes.get_legend_handles_labels()[0])
    return figure


def latency(found, pyplot):
    groups = [(workload, part) for workload, part in found.of(CLOSED) if part["rate"]]
    if not groups:
        return None
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    size = (3 * columns + 0.5, 2.5 * rows + 0.6)
    figure, grid = pyplot.subplots(rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(groups) :]:
        axes.set_visible(False)
    for axes, (workload, part) in zip(grid.flat, groups):
        for name in ALL:
            values = [median(part, name, figure_) for figure_ in PERCENTILES]
            if None in values:
                continue
            milliseconds = [value / 1000 for value in values]
            places = range(len(milliseconds))
            axes.plot(places, milliseconds, color=COLOURS[name], marker=MARKERS[name], label=label(name))
        axes.set_xticks(range(len(PERCENTILES)), PERCENTILES.values())
        axes.set_xlim(-0.3, len(PERCENTILES) - 0.7)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.set_title(f"{workload.name}, {part['rate']:,} requests/s", fontsize=9)
    figure.supylabel("latency, ms (logarithmic)", fontsize=9)
    figure.supxlabel("percentile of answers", fontsize=9)
    pairs = [pair for axes in grid.flat for pair in zip(*axes.get_legend_handles_labels())]
    handles = {text: handle for handle, text in pairs}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=5)
    return figure


def idle_memory(found, pyplot):
    groups = found.of(IDLE)
    if not groups:
        return None
    figure, (each, all_) = pyplot.subplots(1, 2, figsize=(9, 3.4))
    ticks = [f"{workload.connections:,}" for workload, _ in groups]
    for axes, value, text in [
        (each, "client_bytes", "memory per idle client, KiB"),
        (all_, "peak_kib", "memory with all clients, MiB"),
    ]:

        def in_unit(group, name, value=value):
            found_ = median(group[1], name, value)
            return None if found_ is None else found_ / 1024

        bars(axes, groups, PROXIES, in_unit)
        axes.set_xticks(range(len(groups)), ticks)
        axes.set_xlabel("idle keep-alive clients")
        axes.set_ylabel(text)
    figure.legend(loc="outside upper center", ncols=4, handles=each.get_legend_handles_labels()[0])
    return figure


def rate(found, pyplot):
    groups = [group for group in found.of(CLOSED) if group[0].name.startswith("get-")]
    if len(groups) < 2:
        return None
    figure, axes = pyplot.subplots(figsize=(7, 3.6))
    for name in ALL:
        points = [(workload.connections, median(part, name, "rate")) for workload, part in groups]
        points = [(connections, value / 1000) for connections, value in points if value]
        if points:
            axes.plot(*zip(*points), color=COLOURS[name], marker=MARKERS[name], label=label(name))
    axes.set_xscale("log", base=2)
    connections = [workload.connections for workload, _ in groups]
    axes.set_xticks(connections, [f"{count:,}" for count in connections])
    axes.minorticks_off()
    axes.set_xlabel("keep-alive connections (1 KiB answers)")
    axes.set_ylabel("thousand requests per second")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside upper center", ncols=5)
    return figure
