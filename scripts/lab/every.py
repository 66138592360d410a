"""`scripts/bench all`: every rig, one after the other, and the report of all their rows.

Each rig is a process of its own, so that one that fails takes no other with it: what it did not measure is missing in the
report, which says so.
"""

import argparse
import signal
import subprocess
import sys
from pathlib import Path

from nodes import BIN
from rig import SIGNALS, say

WHAT = "every rig but pods, and the report of their rows"
RIGS = ("core", "vhost", "scale", "latency", "reconf", "control")
PODS = "pods"


def arguments(words):
    made = argparse.ArgumentParser(
        prog="scripts/bench all",
        description=f"Measures with the rigs {', '.join(RIGS)}, and makes the report of their rows.",
        epilog="exit code: 0 all measured, 1 something not measured, 2 wrong arguments",
    )
    made.add_argument("--quick", action="store_true", help="a first look: short rounds, and a report beside the rows")
    made.add_argument("--pods", action="store_true", help="also ordinary pods against kernel flannel's, ten minutes more")
    made.add_argument("--out", type=Path, metavar="FILE", help="the report (default: perf/RESULTS.md; of a quick run, beside the rows)")
    made.add_argument("--plots", type=Path, metavar="DIR", help="its plots (default: the folder plots beside the report)")
    # scripts/bench looks at the arguments before it builds.
    made.add_argument("--only-arguments", action="store_true", help=argparse.SUPPRESS)
    return made.parse_args(words)


class Stopped(Exception):
    """A signal asked for the end."""


def run(words):
    """Runs a command and passes signals on to it, once; its exit code."""
    child, got = None, []

    def pass_on(number, _frame):
        got.append(number)
        if child and len(got) == 1:
            child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        # In a session of its own it gets Ctrl-C only from here: a second one might meet it while it cleans up.
        child = subprocess.Popen(words, start_new_session=True)
        if got:
            child.send_signal(got[0])
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if got:
        raise Stopped(signal.Signals(got[0]).name)
    return code


def main(target, words):
    options = arguments(words)
    if options.only_arguments:
        return 0
    quick = ["--quick"] if options.quick else []
    folder = target / "bench" / ("quick" if options.quick else "all")
    out = options.out or (folder / "RESULTS.md" if options.quick else Path("perf/RESULTS.md"))
    plots = options.plots or out.parent / "plots"
    rigs = [*RIGS, *([PODS] if options.pods else [])]
    files, failed = [], []
    try:
        for number, name in enumerate(rigs, 1):
            say(f"rig {number} of {len(rigs)}: {name}")
            path = folder / f"{name}.json"
            # An earlier run's would be taken for this one's.
            path.unlink(missing_ok=True)
            if run([sys.executable, "-B", Path(__file__).with_name("bench.py"), target, name, *quick, "--json", path]):
                failed.append(name)
            if path.exists():
                files.append(path)
        if files:
            made_by = " ".join(["scripts/bench all", *words])
            out.parent.mkdir(parents=True, exist_ok=True)
            if run([BIN / "weft-report", *files, "--out", out, "--plots", plots, "--made-by", made_by]):
                failed.append("the report")
            else:
                say(f"the report is {out}")
    except Stopped as e:
        say(f"ended by {e}")
        return 1
    if failed:
        say(f"FAILED: not whole: {', '.join(failed)}")
    return 1 if failed else 0
