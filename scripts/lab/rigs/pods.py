"""`scripts/bench pods`: ordinary pods of weft against those of kernel flannel, in one lab and one run.

    w1, w2     weft nodes            w1 and k1 are near, w2 and k2 far: near pods send, far pods receive, and each
    k1, k2     kernel flannel nodes  side has its core (or more), for the load's end and for the weftd there

All four are on one underlay. What is not measured is idle meanwhile, and while the kernel's nodes are measured the
weftds are stopped, so that one that polls takes nothing from them.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
from pathlib import Path

import nodes as lab
from cases import CASES, KERNEL, WEFT
from gauges import Profile, busy_pct, offloads_off, usable_cores
from rig import LEAST_ROUNDS, above_zero, columns, middle, parsed, parser, say, warn_if_busy
from run import LabError
from traffic import Way

WHAT = "ordinary pods of weft against those of kernel flannel, in one lab"


def two_lists(text):
    """`0/1` or `0,1/1,0`: two lists of cores, for the near side and for the far one."""
    try:
        near, far = ([int(core) for core in part.split(",")] for part in text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not two lists of cores, as in 0/1 or 0,1/2,3") from None
    return near, far


def setting(text):
    """`dataplane.idle=poll`"""
    name, equals, value = text.partition("=")
    section, dot, key = name.partition(".")
    if not (equals and dot and section and key):
        raise argparse.ArgumentTypeError(f"{text!r} is not SECTION.SETTING=VALUE")
    try:
        return section, key, json.loads(value)
    except ValueError:
        return section, key, value


def arguments(words=None):
    names = [case.name for case in CASES]
    width = max(map(len, names))
    bound = lambda case: " to ".join(f"{n:g}{measure_of(case)}" for n in (case.at_least, case.aim))
    epilog = "cases, and what weft must reach at least and aims at:\n" + "\n".join(
        f"  {case.name:{width}}  {case.what} ({bound(case)})" for case in CASES
    )
    made = parser("pods", f"Measures {WHAT} on this machine.", names, epilog, seconds=5)
    made.add_argument("--uplink", choices=("socket", "af_packet", "af_xdp"), help="uplink.kind (default: weftd's own)")
    made.add_argument("--workers", type=above_zero, help="workers of each weftd (default: 1)")
    made.add_argument("--cores", type=two_lists, metavar="W1/W2", help="cores of the workers of w1 and w2, as in 0/1 or 0,1/2,3")
    made.add_argument("--ends", type=two_lists, metavar="S/R", help="cores that the load's sender and receiver are pinned to")
    made.add_argument("--same-node", choices=("w1", "w2"), default="w1",
                        help="the node of tcp1-same-node: on two cores w1's worker shares the receiver's, w2's the sender's (default: w1)")
    made.add_argument("--spin-us", type=int, metavar="N", help="dataplane.spin_us (default: weftd's own)")
    made.add_argument("--set", type=setting, action="append", default=[], metavar="SECTION.SETTING=VALUE",
                        help="any other setting of weftd.toml, as in dataplane.idle=poll")
    made.add_argument("--perf", type=Path, metavar="DIR", help="profiles of every run by `perf record`, and reports of them")
    made.add_argument("--any-offloads", action="store_true",
                        help="measure although an interface lacks offloads; the rows say which")
    options = parsed(made, words, names)
    if options.workers and options.cores:
        made.error("--cores says how many workers there are: --workers beside it means nothing")
    if options.cores and len(options.cores[0]) != len(options.cores[1]):
        made.error("--cores: both nodes have as many workers as the other")
    if options.ends and max(map(len, options.ends)) > 1:
        made.error("--ends: an end runs on one core")
    return options


def unit(case):
    return next(iter(case.figures.values()))


def measure_of(case):
    """What stands behind the numbers that a case must reach."""
    if case.difference:
        return f" {unit(case)} more"
    return f" {unit(case)}" if case.absolute else " x"


def layout(cores, workers, options):
    """Cores of the two ends, and of the workers of w1 and w2. With enough of them each has its own; else the workers of
    a node begin with the core of the other side's end, as an operator keeps them off the cores of the node's pods."""
    if len(cores) >= 2 + 2 * workers:
        ends = cores[0], cores[1 + workers]
        threads = cores[1 : 1 + workers], cores[2 + workers : 2 + 2 * workers]
    else:
        if len(cores) < max(2, workers):
            raise LabError(f"{len(cores)} cores are too few for {workers} workers and a load with two ends")
        half = len(cores) // 2
        ends = cores[0], cores[half]
        threads = tuple((cores[first:] + cores[:first])[:workers] for first in (half, 0))
    if options.ends:
        ends = options.ends[0][0], options.ends[1][0]
    threads = options.cores or threads
    for core in (*ends, *threads[0], *threads[1]):
        if core not in cores:
            raise LabError(f"there is no core {core}: this process may use {', '.join(map(str, cores))}")
    return ends, threads


class BenchNode(lab.WeftNode):
    """A weft node with an operator's settings: the defaults, and what the command line says."""

    def __init__(self, run, index, name, cores, options):
        self.cores, self.options = cores, options
        super().__init__(run, index, name)

    def dataplane(self):
        return {"workers": len(self.cores), "cores": self.cores}

    def settings(self):
        sections = super().settings()
        given = list(self.options.set)
        if self.options.uplink:
            given.append(("uplink", "kind", self.options.uplink))
        if self.options.spin_us is not None:
            given.append(("dataplane", "spin_us", self.options.spin_us))
        for section, key, value in given:
            sections.setdefault(section, {})[key] = value
        return sections


class Bench:
    """The lab under measurement."""

    def __init__(self, run, options):
        self.run, self.options, self.seconds = run, options, options.seconds
        self.cores = usable_cores()
        workers = options.workers or (len(options.cores[0]) if options.cores else 1)
        self.ends, self.worker_cores = layout(self.cores, workers, options)
        self.profile = Profile(options.perf) if options.perf else None
        self.weft_nodes = [BenchNode(run, i, f"w{i + 1}", self.worker_cores[i], options) for i in range(2)]
        self.kernel_nodes = [lab.KernelNode(run, i, f"k{i - 1}") for i in (2, 3)]
        lab.assemble(run, self.weft_nodes + self.kernel_nodes)
        self.lacking = offloads_off(run)
        if self.lacking and not options.any_offloads:
            raise LabError(
                "offloads are off, so that frames are cut and summed up in software and nothing that is measured would mean"
                " anything (--any-offloads measures all the same):\n  " + "\n  ".join(self.lacking)
            )

    def way(self, source, target):
        """From pod to pod, by the roles of their nodes."""
        near, far = self.weft_nodes
        same = near if self.options.same_node == near.name else far
        role = {"near": near, "far": far, "same": same, "kernel near": self.kernel_nodes[0], "kernel far": self.kernel_nodes[1]}
        one = role[source].pods[0]
        return Way(one, role[target].pods[1], *self.ends)

    def profiled(self, name):
        """What a load runs in, so that it is recorded if that was asked for."""
        return self.profile.recorded(name, self.seconds, self.weft_nodes) if self.profile else contextlib.nullcontext()

    @contextlib.contextmanager
    def without(self, subject):
        """While the kernel is measured the weftds stand still: one that polls would take a core from it."""
        if subject == WEFT:
            yield
            return
        try:
            self.signal(signal.SIGSTOP)
            yield
        finally:
            self.signal(signal.SIGCONT)

    def signal(self, number):
        for node in self.weft_nodes:
            if node.process.poll() is None:
                os.kill(node.pid, number)

    def uplink(self):
        """How the weft nodes are joined to the underlay, and what they have to say to that. What was asked for must be
        in force, or the rows would be another uplink's."""
        kinds, notes = set(), []
        for node in self.weft_nodes:
            status, asked = node.json("status"), node.json("config", "show")["uplink"]["kind"]
            kind = status["uplink"]["kind"]
            kinds.add(kind)
            notes += [f"{node.name}: {note}" for note in status["notes"]]
            if kind != asked:
                raise LabError(f"{node.name}: the uplink is {kind} in place of {asked}: {'; '.join(status['notes'])}")
        return ", ".join(sorted(kinds)), notes

    def facts(self):
        """What every row says of the circumstances."""
        node = self.weft_nodes[0]
        uplink, notes = self.uplink()
        facts = {
            "uplink": uplink,
            "workers": len(node.cores),
            "worker_cores": self.worker_cores,
            "end_cores": self.ends,
            "cores": len(self.cores),
            "seconds": self.seconds,
        }
        if notes:
            facts["notes"] = notes
        if self.lacking:
            facts["offloads_off"] = self.lacking
        if self.profile:
            facts["profiled"] = True
        return facts


def take(bench, case, rounds):
    """All rounds of a case, subjects in turn: samples by variant and subject."""
    samples = {}
    for number in range(1, rounds + 1):
        for subject in case.subjects:
            with bench.without(subject):
                taken = case.measure(bench, subject, f"{case.name}-{subject}-{number}")
            for sample in taken:
                samples.setdefault(sample.get("receiver"), {}).setdefault(subject, []).append(sample)
                seen = ", ".join(f"{sample[name]:.4g} {unit}" for name, unit in case.figures.items())
                variant = f" ({sample['receiver']} receiver)" if "receiver" in sample else ""
                say(f"{case.name} {number}/{rounds} {subject}{variant}: {seen}")
    return samples


def rows_of(case, samples, facts):
    """A row for each variant and subject; weft's has the ratios and what they are worth."""
    for variant in samples.values():
        medians = {subject: middle(taken) for subject, taken in variant.items()}
        for subject, taken in variant.items():
            row = {"case": case.name, "subject": subject} | medians[subject]
            row["rounds"] = {figure: [sample[figure] for sample in taken] for figure in case.figures}
            if subject == WEFT:
                row |= judged(case, medians)
            yield row | facts


def judged(case, medians):
    """Every figure of a case must reach what is asked for, and no more may be lost than is allowed."""
    weft, kernel = medians[WEFT], medians.get(KERNEL)
    compared = lambda ours, theirs: ours - theirs if case.difference else ours / theirs
    worth = {figure: compared(weft[figure], kernel[figure]) if kernel else weft[figure] for figure in case.figures}
    whole = weft.get("loss", 0) <= case.most_loss
    reaches = lambda bound: whole and all(value <= bound if case.less else value >= bound for value in worth.values())
    found = {"at_least": case.at_least, "aim": case.aim, "met_at_least": reaches(case.at_least), "met_aim": reaches(case.aim)}
    if case.difference:
        found |= {f"more_{figure}": value for figure, value in worth.items()}
    elif kernel and len(worth) == 1:
        found["ratio"] = next(iter(worth.values()))
    elif kernel:
        found |= {f"ratio_{figure}": value for figure, value in worth.items()}
    return found


def table(rows):
    """The results for people: a line for each figure of each case."""
    cases = {case.name: case for case in CASES}
    lines = [("case", "figure", "weft", "kernel", "ratio", "at least", "aim", "reached", "CPU s", "kernel's", "weftd's CPU s")]
    for row in (row for row in rows if row["subject"] == WEFT):
        case = cases[row["case"]]
        same = lambda other: other["case"] == row["case"] and other.get("receiver") == row.get("receiver")
        kernel = next((other for other in rows if other["subject"] == KERNEL and same(other)), None)
        comparison = "<= " if case.less else ">= "
        bound = lambda n: f"{comparison}{n:g}{'' if case.absolute else measure_of(case)}"
        taken = min(len(values) for values in row["rounds"].values())
        few = f" ({taken} round{'s' if taken > 1 else ''})" if taken < LEAST_ROUNDS else ""
        for figure, unit in case.figures.items():
            ratio, more = row.get("ratio", row.get(f"ratio_{figure}")), row.get(f"more_{figure}")
            name = f"{figure.removesuffix('_us')} µs" if unit == "µs" else unit
            lines.append((
                row["case"] + (f", {row['receiver']} receiver" if "receiver" in row else ""), name, f"{row[figure]:.4g}",
                f"{kernel[figure]:.4g}" if kernel else "",
                f"{ratio:.2f}" if ratio else f"{more:+.4g}" if more is not None else "", bound(case.at_least), bound(case.aim),
                ("aim" if row["met_aim"] else "at least" if row["met_at_least"] else "NO") + few,
                f"{row['cpu_s']:.2f}", f"{kernel['cpu_s']:.2f}" if kernel else "",
                " + ".join(f"{seconds:.2f}" for seconds in row["weftd_cpu_s"].values()),
            ))  # fmt: skip
    return columns(lines)


def prepare(options):
    """Better now than after minutes."""
    if absent := [name for name in ("weftd", "weft", "weft-load") if not (lab.BIN / name).exists()]:
        raise LabError(f"{', '.join(absent)} not in {lab.BIN}: cargo build --release -p weft-control -p weft-cli -p weft-perf")
    if options.perf and not shutil.which("perf"):
        raise LabError("perf is not installed: apt-get install linux-perf")


def measure(run, options, rows):
    say(f"making the lab {run.name}: weft nodes w1, w2, kernel flannel nodes k1, k2")
    bench = Bench(run, options)
    facts = bench.facts()
    say(f"uplink {facts['uplink']}; the load's ends on cores {bench.ends[0]} and {bench.ends[1]}, "
        f"workers of w1 on {bench.worker_cores[0]}, of w2 on {bench.worker_cores[1]}")  # fmt: skip
    rows.head(options)
    failed = []
    for case in (case for case in CASES if case.name in options.cases):
        with bench.without(KERNEL):
            busy = busy_pct(bench.cores)
        warn_if_busy(busy)
        try:
            samples = take(bench, case, options.rounds)
            facts = bench.facts()
        except LabError as e:
            say(f"FAILED: {case.name}: {e}")
            failed.append(case.name)
            continue
        for row in rows_of(case, samples, facts | {"background_pct": round(busy, 1)}):
            rows.add(row)
    return failed
