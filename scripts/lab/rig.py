"""What the rigs of `scripts/bench` share. A rig is a module in rigs/, and has

    arguments(words)             its options; `parser` and `parsed` make them
    prepare(options)             a LabError if what it needs is not there, before anything is made
    measure(run, options, rows)  measures, and gives `rows` each row when it has it; returns what could not be measured
    table(rows)                  the rows for people
"""

import argparse
import contextlib
import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path
from statistics import median

import machine
from run import RUN_DIR, LabError, Run, remove_leftovers

BUSY_PCT = 10  # of a core: from here on other programs spoil the figures
LEAST_ROUNDS = 3  # with fewer a median says little
# Options that say nothing of what was measured.
NOT_TOLD = ("json", "require", "only_arguments", "full_seconds")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def say(text):
    """Progress, beside the results."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


class Stopped(BaseException):
    """A signal asked for the end."""


def stop(number, _frame):
    raise Stopped(signal.Signals(number).name)


# Arguments


def above_zero(text):
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def several(kind):
    """`A,B,C`: a list of what `kind` reads."""
    return lambda text: [kind(word) for word in text.split(",")]


def parser(name, description, cases, epilog, seconds):
    """A parser with the options that all rigs have."""
    made = argparse.ArgumentParser(
        prog=f"scripts/bench {name}",
        description=description,
        epilog=epilog + "\n\nexit code: 0 measured, 1 not measured, 2 wrong arguments, 3 measured but below what weft must"
        " reach (only with --require)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("cases", nargs="*", metavar="CASE", help=f"what to measure (default: all): {', '.join(cases)}")
    made.add_argument("--quick", action="store_true", help="a first look: one short round, and less of what there is")
    made.add_argument("--rounds", type=above_zero, help="how often, subjects in turn (default: 3); the median counts")
    made.add_argument("--seconds", type=above_zero, help=f"of each run (default: {seconds})")
    made.set_defaults(full_seconds=seconds)
    made.add_argument("--json", type=Path, metavar="FILE",
                      help="where the rows go (default: a new file under target/bench); FILE.new until all are there")  # fmt: skip
    made.add_argument("--require", action="store_true", help="exit code 3 if a case does not reach what it must at least")
    # scripts/bench looks at the arguments before it builds.
    made.add_argument("--only-arguments", action="store_true", help=argparse.SUPPRESS)
    return made


def parsed(made, words, cases):
    """The options, with `cases` all of them if none was named."""
    options = made.parse_args(words)
    if unknown := [name for name in options.cases if name not in cases]:
        made.error(f"no such case: {', '.join(unknown)}; there are {', '.join(cases)}")
    options.rounds = options.rounds or (1 if options.quick else LEAST_ROUNDS)
    options.seconds = options.seconds or (1 if options.quick else options.full_seconds)
    if options.require and options.rounds < LEAST_ROUNDS:
        made.error(f"--require: nothing is decided by fewer than {LEAST_ROUNDS} rounds")
    options.cases = [name for name in cases if not options.cases or name in options.cases]
    return options


# Figures


def middle(samples):
    """One row of several samples: the median of each number, whatever the depth it stands at."""
    first = samples[0]
    if isinstance(first, dict):
        return {key: middle([sample[key] for sample in samples if key in sample]) for key in first}
    if isinstance(first, (int, float)) and not isinstance(first, bool):
        return median(samples)
    return first


def spread(values):
    """How far apart the rounds are: from the least to the most, as a share of the median."""
    return (max(values) - min(values)) / median(values) if median(values) else 0.0


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return round(value, 6) if isinstance(value, float) else value


def columns(lines):
    """Lines of cells, one below the other."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(f"{cell:{width}}" for cell, width in zip(line, widths)).rstrip() for line in lines)


class Rows:
    """The rows of a run, in a file as soon as they are there. Its first line is no row: it says on what machine, with
    which versions and when they were taken."""

    def __init__(self, file, name):
        self.file, self.name, self.rows = file, name, []

    def head(self, options, **versions):
        given = {key: value for key, value in vars(options).items() if key not in NOT_TOLD}
        self.write({
            "rig": self.name, "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": machine.facts(),
            "versions": machine.versions() | versions, "quick": options.quick, "options": given,
        })  # fmt: skip

    def add(self, row):
        row = rounded({"rig": self.name} | row)
        self.rows.append(row)
        self.write(row)

    def write(self, line):
        self.file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
        self.file.flush()


# A run


class Progress:
    """Which of so many steps this is, and how long the rest will take."""

    def __init__(self, steps):
        self.steps, self.done, self.begin = steps, 0, time.monotonic()

    def step(self, text):
        self.done += 1
        left = (time.monotonic() - self.begin) / self.done * (self.steps - self.done)
        say(f"[{self.done}/{self.steps}, {left / 60:.0f} min left] {text}" if self.steps > self.done else f"[{self.done}/{self.steps}] {text}")


def in_turn(subjects, rounds, take):
    """Samples by subject, A B A B: `take(subject, round)` makes one."""
    samples = {subject: [] for subject in subjects}
    for number in range(1, rounds + 1):
        for subject in subjects:
            samples[subject].append(take(subject, number))
    return samples


def warn_if_busy(percent):
    if percent > BUSY_PCT:
        say(f"WARNING: the machine is busy with other things, {percent:.0f} % of a core: what follows means little")


@contextlib.contextmanager
def alone():
    """Two benchmarks at a time would measure each other."""
    with open(RUN_DIR / "weft-bench.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LabError("another benchmark is running on this machine") from None
        yield


def main(name, rig, target, words):
    """Runs a rig; the exit code."""
    options = rig.arguments(words)
    if options.only_arguments:
        return 0
    path = options.json or target / "bench" / time.strftime(f"{name}-%Y%m%d-%H%M%S.json")
    for number in SIGNALS:
        signal.signal(number, stop)
    # Rows of an earlier run stay until there are others to take their place.
    new = path.with_name(f"{path.name}.new")
    rows, failure, stopped = None, None, None
    try:
        rig.prepare(options)
        with alone():
            for left in remove_leftovers(kept=False):
                say(f"removed {left}, left by an earlier run")
            path.parent.mkdir(parents=True, exist_ok=True)
            run = Run()
            try:
                with open(new, "w") as file:
                    rows = Rows(file, name)
                    if failed := rig.measure(run, options, rows):
                        failure = f"not measured: {', '.join(failed)}"
                if rows.rows:
                    new.rename(path)
            finally:
                # From here on nothing may interrupt, or something would stay.
                for number in SIGNALS:
                    signal.signal(number, signal.SIG_IGN)
                run.remove()
                if not (rows and rows.rows):
                    new.unlink(missing_ok=True)
    except Stopped as e:
        stopped = e
    except (LabError, OSError) as e:
        failure = e
    measured = rows.rows if rows else []
    if measured:
        print(rig.table(measured), flush=True)
        say(f"rows are in {new if new.exists() else path}")
    if stopped:
        say(f"ended by {stopped}; all that it made is removed")
    if failure:
        say(f"FAILED: {failure}")
    if stopped or failure:
        return 1
    return 3 if options.require and not all(row.get("met_at_least", True) for row in measured) else 0
