"""`scripts/bench scale`: what a packet costs weft as flows, tables, ports and workers become more.

`weft-rig scale` measures in memory: all points of a case in short rounds that take turns, each beside the same frames
without the switch. Where only devices count, two workers, `weft-rig core` has them too.
"""

import json
from dataclasses import dataclass

import machine
from gauges import busy_pct, cores_apart, usable_cores
from goals import goal
from nodes import BIN
from rig import Progress, columns, in_turn, middle, parsed, parser, say, spread, warn_if_busy
from run import LabError, call

WHAT = "cost against size: flows, tables, ports, workers, and under floods"
FRAME, FLOWS = "64", 1000
DEVICES = "workers-dpdk"
ONE_AND_TWO, FEW_AND_NEW = {"of": 1, "to": 2}, {"of": FLOWS, "to": "new"}
# The rounds of weft-rig are short.
IN_MEMORY_ROUNDS, IN_MEMORY_SECONDS = 3, 300
HUGE_MIB = 256


@dataclass(frozen=True)
class Case:
    """`at_least` and `aim`: of `slope` how much dearer the dearest size may be than the cheapest, as a share; else how many
    times the rate at size `of` the rate at size `to` must be."""

    name: str
    what: str
    at_least: float = None
    aim: float = None
    of: object = None
    to: object = None

    def worth(self, line):
        """What the rows of one way, by size, come to."""
        if self.of is None:
            costs = [row["cycles_per_packet"] for row in line.values()]
            found = {"slope": max(costs) / min(costs) - 1}
            own = [row["cycles_per_packet"] - (row.get("floor") or float("inf")) for row in line.values()]
            # Of what the switch itself costs: shown, not judged.
            return found | ({"slope_without_floor": max(own) / min(own) - 1} if min(own) > 0 else {})
        return {"ratio": line[self.to]["mpps"] / line[self.of]["mpps"]}

    def judged(self, line):
        """The same, and whether it is what must be reached."""
        found = self.worth(line)
        value = next(iter(found.values()))
        for name, bound in (("at_least", self.at_least), ("aim", self.aim)):
            if bound is not None:
                found |= {name: bound, f"met_{name}": value <= bound if "slope" in found else value >= bound}
        return found

    def bound(self):
        if self.at_least is None:
            return ""
        bounds = [f"{bound:.0%}" if self.of is None else f"{bound:g} x" for bound in (self.at_least, self.aim) if bound is not None]
        return f" ({', '.join(bounds)})"


CASES = [Case(name, what, *goal("scale", name), **how) for name, what, how in (
    ("flows", "1 to 1,000,000 flows, each way, over IPv6 too", {}),
    ("fdb", "10 to 100,000 MAC addresses", {}),
    ("vteps", "1 to 5,000 VTEPs", {}),
    ("routes", "1 to 5,000 routes", {}),
    ("pods", "1 to 250 ports", {}),
    ("stations", "10 to 10,000 learned MAC addresses", {}),
    ("workers", "one worker and two, each with its source", ONE_AND_TWO),
    (DEVICES, "the same between DPDK devices", ONE_AND_TWO),
    ("flood", "a port scan, every packet a new flow, against 1,000 flows", FEW_AND_NEW),
    ("scan", "the same, every packet to another address that nobody has", FEW_AND_NEW),
    ("macs", "the same, every packet from another MAC address of a trusted pod", FEW_AND_NEW),
)]  # fmt: skip
CASE = {case.name: case for case in CASES}


def arguments(words=None):
    width = max(map(len, CASE))
    epilog = "cases, what weft must reach at least, and what it aims at:\n" + "\n".join(
        f"  {case.name:{width}}  {case.what}{case.bound()}" for case in CASES
    )
    return parsed(parser("scale", f"Measures {WHAT}.", list(CASE), epilog, seconds=2), words, list(CASE))


def prepare(options):
    if not (BIN / "weft-rig").exists():
        raise LabError(f"weft-rig is not in {BIN}: cargo build --release -p weft-perf")
    if len(usable_cores()) < 2 and any("workers" in case for case in options.cases):
        raise LabError("one core is too few for two workers: name the other cases")


def in_memory(case, cores, rounds):
    """The rows of a case, without its name."""
    words = ["scale", "--what", case.name, "--rounds", rounds * IN_MEMORY_ROUNDS, "--json"]
    words += [word for core in cores for word in ("--core", core)]
    said = call(BIN / "weft-rig", *words, timeout=IN_MEMORY_SECONDS).stdout
    for point in map(json.loads, said.splitlines()):
        kept = ("way", "size", "mpps", "cycles_per_packet", "floor", "rounds", "tsc_hz")
        yield {key: point[key] for key in kept} | {"spread": spread(point["rounds"])}


def devices(run, case, cores, options, progress):
    """One worker and two, each between a source and a sink of DPDK's."""
    huge = machine.reserve(run, HUGE_MIB)
    capture = run.dir / "frames.pcap"
    call(BIN / "weft-rig", "frames", "--way", "bridge", "--flows", FLOWS, "--frame", FRAME, "--out", capture)

    def one(count, number):
        words = ["core", "--way", "bridge", "--pcap", capture, "--seconds", options.seconds]
        words += [word for core in cores[:count] for word in ("--core", core)] + ([] if huge else ["--no-huge"])
        said = json.loads(call(BIN / "weft-rig", *words, timeout=options.seconds + 90).stdout.splitlines()[-1])
        progress.step(f"{case.name}: {count} worker{'s' if count > 1 else ''}, {said['mpps']:.2f} Mpps")
        return {key: said[key] for key in ("mpps", "cycles_per_packet", "tsc_hz")}

    for count, taken in in_turn((1, 2), options.rounds, one).items():
        rounds = [sample["cycles_per_packet"] for sample in taken]
        yield {"way": "bridge", "size": count} | middle(taken) | {"rounds": rounds, "spread": spread(rounds), "huge_pages": huge}


def measure(run, options, rows):
    cores = cores_apart()[:2]
    rows.head(options)
    steps = sum(2 * options.rounds if name == DEVICES else 1 for name in options.cases)
    progress, failed = Progress(steps), []
    for case in (CASE[name] for name in options.cases):
        busy = busy_pct(usable_cores(), 0.5)
        warn_if_busy(busy)
        try:
            if case.name == DEVICES:
                taken = list(devices(run, case, cores, options, progress))
            else:
                taken = list(in_memory(case, cores, options.rounds))
                progress.step(f"{case.name}: {case.what}")
            for row in rows_of(case, taken):
                rows.add(row | {"background_pct": round(busy, 1)})
        except LabError as e:
            say(f"FAILED: {case.name}: {e}")
            failed.append(case.name)
    return failed


def rows_of(case, taken):
    """The points as rows; the last one of each way says what its line is worth."""
    lines = {}
    for point in taken:
        lines.setdefault(point["way"], {})[point["size"]] = point
    for line in lines.values():
        last = list(line.values())[-1]
        for point in line.values():
            row = {"case": case.name, "frame": FRAME, "subject": "weft"} | point
            yield row | case.judged(line) if point is last else row


def table(rows):
    """The results for people: a line for each way of each case."""
    lines = [("case", "way", "cycles a packet, by size", "comes to", "at least", "aim", "reached", "without floor")]
    keys = list(dict.fromkeys((row["case"], row["way"]) for row in rows))
    for name, way in keys:
        line = [row for row in rows if (row["case"], row["way"]) == (name, way)]
        last = line[-1]
        size = lambda size: f"{size:,}" if isinstance(size, int) else size
        costs = ", ".join(f"{size(row['size'])}: {row['cycles_per_packet']:.1f}" for row in line)
        without = f"+{last['slope_without_floor']:.1%}" if "slope_without_floor" in last else ""
        worth = f"+{last['slope']:.1%}" if "slope" in last else f"{last['ratio']:.2f} x" if "ratio" in last else ""
        bounds = [f"{last[key]:g}" if key in last else "" for key in ("at_least", "aim")]
        reached = "aim" if last.get("met_aim") else "at least" if last.get("met_at_least") else "NO"
        lines.append((name, way, costs, worth, *bounds, reached if "met_at_least" in last else "", without))
    return "What must be reached is asked of all that a packet costs, source and sink (the floor) included\n" + columns(lines)
