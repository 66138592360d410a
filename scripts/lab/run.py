"""One run of the lab: its namespaces, its processes, its folder, its huge pages, and how all of them go away again.

Everything that a run makes carries its name, `weft-demo-PID`: namespaces begin with it, and one folder under /run
holds the rest (files, sockets, logs, what DPDK keeps at run time). Every process runs inside one of the namespaces.
So a run that was killed can be removed by the next one from the names alone.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

RUN_DIR = Path("/run")
# For what must not wait for a disk: /run is one on some machines.
MEMORY_DIR = Path("/dev/shm")
PREFIX = "weft-demo-"
HUGE_PAGES = Path("/proc/sys/vm/nr_hugepages")
# In a run's folder: how many huge pages there were before the run, and how many it asked for.
HUGE_PAGES_NOTE = "huge-pages"


class LabError(Exception):
    """The lab can't be made, or something in it did not come up."""


class Hopeless(LabError):
    """Waiting longer would not help."""


def call(*command, timeout=30, check=True):
    """Runs a command to its end. Its failure is a LabError that says what it said."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, start_new_session=True
        )
    except subprocess.TimeoutExpired as e:
        raise LabError(f"`{' '.join(words)}` did not end within {timeout} s") from e
    except FileNotFoundError as e:
        raise LabError(f"{words[0]} is not installed") from e
    if check and done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise LabError(f"`{' '.join(words)}`: {said[-1] if said else f'exit code {done.returncode}'}")
    return done


def wait_for(what, condition, timeout=10.0, every=0.05):
    """Asks until `condition()` is true and returns that; a LabError with the last reason after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        reason = ""
        try:
            if answer := condition():
                return answer
        except Hopeless:
            raise
        except LabError as e:
            reason = f": {e}"
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {timeout:g} s{reason}")
        time.sleep(every)


def namespaces(prefix):
    """The network namespaces whose names begin so."""
    lines = call("ip", "netns", "list").stdout.splitlines()
    return [line.split()[0] for line in lines if line.startswith(prefix)]


def start_time(pid):
    """When a process started, in ticks since boot: with the pid it names a process for good. None if there is none."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError):
        return None


class Run:
    """The run that this process is."""

    def __init__(self):
        self.name = f"{PREFIX}{os.getpid()}"
        self.dir = RUN_DIR / self.name
        self.children = []
        remove(self.name)
        self.dir.mkdir(mode=0o700)
        (self.dir / "owner").write_text(f"{os.getpid()} {start_time(os.getpid())}\n")

    def netns(self, suffix):
        """Makes a network namespace with its loopback up, and returns its name."""
        name = f"{self.name}-{suffix}"
        call("ip", "netns", "add", name)
        call("ip", "-n", name, "link", "set", "lo", "up")
        return name

    def spawn(self, netns, *command, log, stdin=subprocess.DEVNULL):
        """Starts a process in a namespace, in a session of its own, so that Ctrl-C reaches it only through us."""
        environment = os.environ | {"RUNTIME_DIRECTORY": str(self.dir), "LC_ALL": "C"}
        with open(self.dir / log, "ab") as out:
            child = subprocess.Popen(
                ["ip", "netns", "exec", netns, *map(str, command)],
                stdin=stdin,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env=environment,
                cwd=self.dir,
            )
        self.children.append(child)
        return child

    def reserve_huge_pages(self, count):
        """Asks the kernel for so many huge pages more. They are given back when the run is removed."""
        note, before = self.dir / HUGE_PAGES_NOTE, int(HUGE_PAGES.read_text())
        first, added = map(int, note.read_text().split()) if note.exists() else (before, 0)
        note.write_text(f"{first} {added + count}")
        HUGE_PAGES.write_text(str(before + count))

    def memory(self):
        """A folder in memory, which goes with the run."""
        folder = MEMORY_DIR / self.name
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def keep(self):
        """Lets the run stay when this process ends."""
        (self.dir / "kept").touch()

    def remove(self):
        """Ends and removes all that belongs to this run."""
        remove(self.name)
        for child in self.children:
            child.wait()


def remove(name):
    """Ends every process in the namespaces of a run, and removes these and its folder."""
    spaces = namespaces(f"{name}-")
    inside = lambda: [int(pid) for ns in spaces for pid in call("ip", "netns", "pids", ns).stdout.split()]
    for number, patience in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0)):
        pids = inside()
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
        deadline = time.monotonic() + patience
        while pids and any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.02)
    for ns in spaces:
        call("ip", "netns", "del", ns)
    give_back_huge_pages(RUN_DIR / name / HUGE_PAGES_NOTE)
    for folder in (RUN_DIR, MEMORY_DIR):
        shutil.rmtree(folder / name, ignore_errors=True)


def give_back_huge_pages(note):
    """As many as a run asked for, but none that were there before it: it may not have got all, or was killed while
    asking."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        before, asked = map(int, note.read_text().split())
        now = int(HUGE_PAGES.read_text())
        if now > before:
            HUGE_PAGES.write_text(str(now - min(asked, now - before)))
        note.unlink()


def is_running(pid):
    """Whether there is such a process that is not only waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def remove_leftovers(kept):
    """Removes runs whose process is gone: those that were killed and, if `kept`, those left up on purpose too."""
    removed = []
    names = {path.name for path in RUN_DIR.glob(f"{PREFIX}*")}
    names |= {"-".join(ns.split("-")[:3]) for ns in namespaces(PREFIX)}
    for name in sorted(names):
        owner = RUN_DIR / name / "owner"
        pid, started = owner.read_text().split() if owner.exists() else (name.removeprefix(PREFIX), None)
        alive = start_time(pid)
        if alive is not None and (started is None or str(alive) == started):
            continue
        if (RUN_DIR / name / "kept").exists() and not kept:
            continue
        remove(name)
        removed.append(name)
    return removed
