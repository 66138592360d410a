"""What the benchmarks read of the machine: CPU time, offloads, profiles."""

import contextlib
import json
import os
import re
import subprocess
import time
from pathlib import Path

from run import LabError, call, namespaces

TICKS_A_SECOND = 100  # USER_HZ: fixed on x86 and Arm
OFFLOADS = Path(__file__).with_name("offloads.py")
# The columns of /proc/stat that are no work: idle and waiting for a disk.
IDLE = (3, 4)


def core_ticks(cores):
    """The ticks each core was busy so far."""
    busy = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name.startswith("cpu") and name != "cpu" and int(name[3:]) in cores:
            # Guests' time (columns 8 and 9) is counted under user and nice already.
            busy[int(name[3:])] = sum(int(n) for column, n in enumerate(ticks[:8]) if column not in IDLE)
    return busy


def thread_seconds(pid):
    """The CPU time of each thread of a process so far, in seconds: to the nanosecond where the kernel keeps it."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        # It may end between being listed, opened and read.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            name = (task / "comm").read_text().strip()
            try:
                seconds = int((task / "schedstat").read_text().split()[0]) / 1e9
            except (FileNotFoundError, ProcessLookupError):
                fields = (task / "stat").read_text().rpartition(")")[2].split()
                seconds = (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND
            found[int(task.name), name] = seconds
    return found


class Cpu:
    """CPU time from now on: of each core, and of the weftds."""

    def __init__(self, cores, weftds):
        self.cores, self.weftds = cores, weftds
        self.begin, self.busy = time.monotonic(), core_ticks(cores)
        self.threads = {node.name: thread_seconds(node.pid) for node in weftds}

    def read(self):
        """The fields of a row."""
        wall, busy = time.monotonic() - self.begin, core_ticks(self.cores)
        spent = {core: (busy[core] - self.busy[core]) / TICKS_A_SECOND for core in self.cores}
        weftd = {
            node.name: sum(thread_seconds(node.pid).values()) - sum(self.threads[node.name].values())
            for node in self.weftds
        }
        return {
            "wall_s": round(wall, 3),
            "cpu_s": round(sum(spent.values()), 2),
            "core_pct": {str(core): round(100 * seconds / wall, 1) for core, seconds in spent.items()},
            "weftd_cpu_s": {name: round(seconds, 3) for name, seconds in weftd.items()},
        }


def busy_pct(cores, seconds=1.0):
    """How busy the machine is with other things: per cent of one core."""
    before = core_ticks(cores)
    time.sleep(seconds)
    after = core_ticks(cores)
    return 100 * sum(after[core] - before[core] for core in cores) / TICKS_A_SECOND / seconds


def offloads_off(run):
    """The offloads that an interface of the lab lacks, as lines `NAMESPACE INTERFACE: WHAT is off`."""
    lines = []
    for netns in namespaces(f"{run.name}-"):
        said = call("ip", "netns", "exec", netns, "/usr/bin/python3", "-B", OFFLOADS).stdout
        for interface, offloads in json.loads(said).items():
            off = [name for name, is_on in offloads.items() if not is_on]
            if off:
                lines.append(f"{netns.removeprefix(f'{run.name}-')} {interface}: {', '.join(off)}")
    return sorted(lines)


class Profile:
    """`perf record` of the whole machine while a load runs, and reports of it as text: a profile of weftd alone would
    not say who took the core from it. What the load itself costs the kernel stands beside it."""

    SAMPLES_A_SECOND = 499
    REPORTS = (
        ("who ran", ("--no-children", "--sort", "pid")),
        ("where each thread was", ("--no-children", "--sort", "comm,dso,symbol")),
        ("where each thread was, with all that was called from there", ("--children", "--sort", "comm,dso,symbol")),
    )

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def recorded(self, name, seconds, weftds):
        """Records from now on for some seconds; the block runs meanwhile."""
        data = self.folder / f"{name}.data"
        words = ["perf", "record", "-q", "-a", "-g", "-F", str(self.SAMPLES_A_SECOND), "-o", str(data), "sleep", str(seconds)]
        perf = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.PIPE, text=True, start_new_session=True)  # fmt: skip
        try:
            yield
            _, said = perf.communicate(timeout=seconds + 20)
        finally:
            if perf.poll() is None:
                perf.terminate()
                perf.wait()
        if perf.returncode != 0:
            raise LabError(f"perf record: {said.strip()}")
        self.report(data, weftds)

    def report(self, data, weftds):
        with open(data.with_suffix(".txt"), "w") as out:
            for node in weftds:
                threads = ", ".join(f"{number}:{name}" for number, name in thread_seconds(node.pid))
                out.write(f"threads of weftd on {node.name}: {threads}\n")
            for title, how in self.REPORTS:
                words = ("perf", "report", "-q", "-i", data, "--stdio", "-g", "none", "--percent-limit", "0.3", *how)
                said = call(*words, timeout=120).stdout
                # perf pads its columns to the longest name that there is.
                lines = [re.sub(r"\s{3,}", "  ", line.strip())[:160] for line in said.splitlines() if line.strip()]
                out.write("\n".join(["", f"{title}:", *lines, ""]))


def usable_cores():
    return sorted(os.sched_getaffinity(0))


def cores_apart():
    """The usable cores, those behind the others that are threads of the first one: what runs there slows it."""
    first, *others = usable_cores()
    listed = Path(f"/sys/devices/system/cpu/cpu{first}/topology/thread_siblings_list")
    siblings = set()
    for part in listed.read_text().strip().split(",") if listed.exists() else ():
        low, _, high = part.partition("-")
        siblings |= set(range(int(low), int(high or low) + 1))
    return [first, *sorted(others, key=lambda core: (core in siblings, core))]
