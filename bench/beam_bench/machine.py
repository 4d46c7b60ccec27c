"""What must be there before a figure can be taken, and what is told of the machine beside it.

Not here: what is run (`contestants`, `loads`).
"""

import os
import pathlib
import platform
import resource
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
BALANCEBEAM = TARGET / "balancebeam"
PEER = TARGET / "bench-peer"
EARLIER = None  # an earlier build of balancebeam, if there is one to compare with
# Each program and its package in Debian.
NEEDED = {"nginx": "nginx-light", "haproxy": "haproxy", "wrk": "wrk"}


def fail(reason):
    """Ends the command with one line."""
    sys.exit(f"bench/{pathlib.Path(sys.argv[0]).name}: {reason}")


def require_programs():
    missing = [package for program, package in NEEDED.items() if not shutil.which(program)]
    if missing:
        fail(f"install {' '.join(missing)} (Debian: apt-get install)")


def require_plots():
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        fail("matplotlib is missing, which draws the plots: pip install matplotlib")


def raise_descriptors():
    """Raises the soft limit to the hard one, for all that is started here; tells the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return 1 << 20 if hard == resource.RLIM_INFINITY else hard


def build():
    # Apart, so that no feature that only the peer needs gets into the program that is measured.
    for what in [[], ["--package", "bench-peer"]]:
        command = ["cargo", "build", "--release", "--locked", "--quiet", *what]
        if subprocess.run(command, cwd=ROOT).returncode:
            fail("the build failed")


def copy_programs(folder, against=None):
    """What is measured from here on: a build meanwhile changes nothing."""
    global BALANCEBEAM, PEER, EARLIER
    BALANCEBEAM, PEER = (pathlib.Path(shutil.copy2(each, folder)) for each in (BALANCEBEAM, PEER))
    if against:
        EARLIER = pathlib.Path(shutil.copy2(against, pathlib.Path(folder) / "earlier"))


def version(command):
    out = subprocess.run(command, capture_output=True, text=True)
    return (out.stdout + out.stderr).strip().splitlines()[0].split(" - ")[0].strip()


def versions():
    told = [version(command) for command in (["nginx", "-v"], ["haproxy", "-v"], ["wrk", "-v"])]
    short = [told[0].split(": ")[-1], " ".join(told[1].split()[:3]), " ".join(told[2].split()[:2])]
    commit = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    earlier = [f"before: {version([str(EARLIER), '--version'])}"] if EARLIER else []
    return [f"{version([str(BALANCEBEAM), '--version'])} ({version(commit)})", *earlier, *short]


def describe():
    """CPU model, cores, memory, kernel, congestion control."""
    model = "an unknown CPU"
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    # It decides what long bodies cost: BBR sets timers, which CUBIC, the kernel's default, does not.
    setting = pathlib.Path("/proc/sys/net/ipv4/tcp_congestion_control")
    congestion = f", TCP {setting.read_text().strip()}" if setting.exists() else ""
    release = platform.release()
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux {release}{congestion}"
