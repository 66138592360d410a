"""`scripts/bench core`: what one core carries from an endless source in memory to a sink, by weft, OVS-DPDK and testpmd.

    source  net_pcap with infinite_rx=1: a capture, again and again       sink  net_null with no-rx=1: counts and forgets

Source, switch and sink are one thread on the measured core; every other thread is elsewhere. The capture is the same for all
subjects, and who is who in it comes from `weft-rig plan`.
"""

import contextlib
import json
import shutil
import subprocess
import time
from dataclasses import dataclass

import captures
import machine
from checks import end
from gauges import busy_pct, cores_apart, usable_cores
from goals import goal
from nodes import BIN
from ovs import MEMORY_MIB, Ovs
from rig import Failures, Progress, above_zero, columns, in_turn, middle, parsed, parser, say, several, spread, warn_if_busy
from run import LabError, call, wait_for
from testpmd import Testpmd, memory_mib, testpmd

WHAT = "one core from an endless source to a sink, against OVS-DPDK and testpmd"

IO, MAC, OVS, WEFT = SUBJECTS = ("testpmd-io", "testpmd-mac", "ovs-dpdk", "weft")
FLOWS, FRAMES = (1, 1000, 100_000, 1_000_000), ("64", "imix")
SOME, MANY = 1000, 1_000_000
# The figures that are asked for are those of the shortest frames.
JUDGED_FRAME = "64"
WARM_UP_SECONDS = 1.0
CHECKED_FLOWS = 1000
# Beyond this no peer but testpmd holds the capture: OVS has 262,144 buffers at most.
MOST_FLOWS = 200_000
LEAST_FORWARDED = 0.999


@dataclass(frozen=True)
class Case:
    """`at_least` is a ratio to OVS-DPDK's rate, `aim` one to testpmd io's."""

    name: str
    what: str
    at_least: float
    aim: float


CASES = [Case(name, what, *goal("core", name)) for name, what in (
    ("bridge", "from a pod to 249 others by MAC address"),
    ("route", "from a pod to 249 others through the gateway"),
    ("encap", "from a pod into the tunnels to 99 nodes"),
    ("decap", "from the tunnels to the pods, outer checksum 0"),
    ("decap-valid", "the same with valid outer checksums"),
)]  # fmt: skip
CASE = {case.name: case for case in CASES}


@dataclass(frozen=True)
class Cell:
    """What is measured of each subject, in turn."""

    case: str
    flows: int
    frame: str

    @property
    def name(self):
        return f"{self.case}, {self.flows:,} flow{'s' if self.flows > 1 else ''}, {self.frame}"

    def subjects(self, wanted):
        """A million flows are only for weft and its floor; what rewrites MAC addresses is beside bridge and route."""
        left_out = set()
        if self.flows > MOST_FLOWS:
            left_out |= {MAC, OVS}
        if self.case not in ("bridge", "route"):
            left_out |= {MAC}
        return [subject for subject in wanted if subject not in left_out]


def word_of(kinds):
    def one(text):
        if text not in kinds:
            raise ValueError(text)
        return text

    return several(one)


def arguments(words=None):
    width = max(len(case.name) for case in CASES)
    epilog = "cases, what weft must reach at least of OVS-DPDK's rate, and what it aims at of testpmd io's:\n" + "\n".join(
        f"  {case.name:{width}}  {case.what} ({case.at_least:g} x, {case.aim:g} x)" for case in CASES
    )
    names = [case.name for case in CASES]
    made = parser("core", f"Measures {WHAT}.", names, epilog, seconds=2)
    made.add_argument("--flows", type=several(above_zero), metavar="N,…",
                      help=f"how many flows (default: {','.join(map(str, FLOWS))}; more than {MOST_FLOWS} only with weft and testpmd-io)")
    made.add_argument("--frame", type=word_of(FRAMES), metavar="F,…", help=f"sizes of frames, {' and '.join(FRAMES)} (default: both)")
    made.add_argument("--subjects", type=word_of(SUBJECTS), default=SUBJECTS, metavar="S,…",
                      help=f"who is measured (default: {','.join(SUBJECTS)})")
    made.add_argument("--ovs", action="append", default=[], metavar="KEY=VALUE",
                      help="a setting of Open vSwitch (other_config), as in smc-enable=true; by default it has its own")  # fmt: skip
    made.add_argument("--testpmd-burst", type=above_zero, metavar="N", help="packets that testpmd takes at a time (default: its own, 32; weft takes 64)")
    options = parsed(made, words, names)
    options.flows = sorted(set(options.flows or ([SOME] if options.quick else FLOWS)))
    options.frame = options.frame or (["64"] if options.quick else FRAMES)
    options.subjects = [subject for subject in SUBJECTS if subject in options.subjects]
    if not all("=" in word for word in options.ovs):
        made.error("--ovs takes KEY=VALUE")
    return options


def prepare(options):
    prepare_peers(options, "weft-rig")


def prepare_peers(options, *programs):
    """What a comparison needs: programs of weft, two cores, and the peers."""
    if absent := [name for name in programs if not (BIN / name).exists()]:
        raise LabError(f"{', '.join(absent)} not in {BIN}: cargo build --release -p weft-control -p weft-cli -p weft-perf")
    if len(usable_cores()) < 2:
        raise LabError("one core is too few: one is measured, and everything else must be on another")
    if not shutil.which("dpdk-testpmd"):
        raise LabError("dpdk-testpmd is not installed: apt-get install dpdk-dev, or scripts/setup")
    if OVS in options.subjects and (fresh := machine.install_ovs()):
        say(f"installed {fresh}, without its service")


class Bench:
    """The machine under measurement, and who is measured on it."""

    def __init__(self, run, options):
        self.run, self.options = run, options
        self.core, *self.mains = cores_apart()
        self.netns = run.netns("peers")
        self.tsc_hz = machine.tsc_hz()
        self.plan = captures.Plan(json.loads(call(BIN / "weft-rig", "plan").stdout))
        self.subjects = {IO: Floor(self, "io"), MAC: Floor(self, "mac"), OVS: OvsDpdk(self), WEFT: Weft(self)}
        self.checked, self.huge = {}, True

    def capture(self, cell):
        """The frames that all subjects get."""
        path = self.run.dir / "frames.pcap"
        call(BIN / "weft-rig", "frames", "--way", cell.case, "--flows", cell.flows, "--frame", cell.frame, "--out", path, timeout=120)
        return path

    def room(self, cell, path):
        """Bytes of a buffer behind its headroom if it may not be a usual one: a million of those would be 2.4 GiB."""
        if cell.flows <= MOST_FLOWS:
            return None
        longest = max(map(len, captures.read(path)))
        return -(-longest // 64) * 64

    def reserve(self, held, room=None):
        """Huge pages, for all subjects or for none."""
        self.huge = machine.reserve(self.run, max(memory_mib(held, room), MEMORY_MIB) * 5 // 4)

    def cycles(self, mpps):
        return self.tsc_hz / (mpps * 1e6)

    def sample(self, received, sent):
        """Packets that came in and that came out while it was measured, by two counters. The first is read within the
        time of the second: who forwards everything has sent no less than came in."""
        time.sleep(WARM_UP_SECONDS)
        left, begin, came = sent(), time.monotonic(), received()
        time.sleep(self.options.seconds)
        came_in, went_out, end = received(), sent(), time.monotonic()
        return {"packets": went_out - left, "received": came_in - came, "seconds": end - begin}

    def check(self, case, subject):
        """That a subject makes of each frame what it must; how many were looked at."""
        path = self.capture(Cell(case, CHECKED_FLOWS, JUDGED_FRAME))
        frames = captures.read(path)
        self.reserve(len(frames))
        wanted, got = self.subjects[subject].forwarded(case, path, frames)
        captures.compare(f"{case}, {subject}", wanted, got, self.subjects[subject].TIMES)
        return len(frames)

    def came_out(self, wanted=None):
        """The frames in the sink, once no more come: for half a second if as many bytes are there as are `wanted`, or will not be,
        and for longer if nobody knows how many that is."""
        sink, size = self.run.dir / "sink.pcap", 0
        wait_for("a frame to come out", lambda: sink.exists() and sink.stat().st_size, timeout=10)
        if wanted:
            with contextlib.suppress(LabError):
                wait_for("the frames", lambda: sink.stat().st_size >= wanted)
        while sink.stat().st_size > size:
            size = sink.stat().st_size
            time.sleep(0.5 if wanted else 2.0)
        return captures.read(sink)

    def fresh_sink(self):
        (self.run.dir / "sink.pcap").unlink(missing_ok=True)
        return f"tx_pcap={self.run.dir}/sink.pcap"

    def tunnels(self, case, frames):
        """Frames as they are compared."""
        return [captures.any_tunnel(frame) for frame in frames] if case == "encap" else frames


class Floor:
    """testpmd between source and sink: `io` touches nothing, `mac` writes the MAC addresses."""

    TIMES = 1

    def __init__(self, bench, mode):
        self.bench, self.mode = bench, mode

    def start(self, source, sink, held, room=None):
        bench = self.bench
        return testpmd(bench.run, bench.netns, "switch", bench.core, bench.mains, [source, sink], self.mode, held, bench.huge, room,
                       burst=bench.options.testpmd_burst)  # fmt: skip

    def measure(self, cell, path, held, room):
        with self.start(f"net_pcap0,rx_pcap={path},infinite_rx=1", "net_null0,no-rx=1", held, room) as running:
            return self.bench.sample(lambda: running.received(0), lambda: running.sent(1))

    def forwarded(self, case, path, frames):
        with self.start(f"net_pcap0,rx_pcap={path}", f"net_pcap1,{self.bench.fresh_sink()}", len(frames)) as running:
            got = self.bench.came_out(captures.size(frames))
            own = captures.mac(running.mac(1))
        if self.mode == "io":
            return frames, got
        # Without being told otherwise it sends to the peer of this number.
        return [captures.mac("02:00:00:00:00:01") + own + frame[12:] for frame in frames], got


class Weft:
    """weft's worker, by `weft-rig core`."""

    TIMES = 1

    def __init__(self, bench):
        self.bench = bench

    def rig(self, case, path, *words):
        """Runs it to its end; what it says."""
        bench, log = self.bench, self.bench.run.dir / "weft-rig.log"
        log.unlink(missing_ok=True)
        words = ("core", "--way", case, "--pcap", path, "--core", bench.core, *words, *([] if bench.huge else ["--no-huge"]))
        mains = ",".join(map(str, bench.mains))
        child = bench.run.spawn(bench.netns, "taskset", "-c", mains, BIN / "weft-rig", *words, log=log.name)
        try:
            child.wait(timeout=bench.options.seconds + 90)
        except subprocess.TimeoutExpired:
            raise LabError("weft-rig does not end") from None
        finally:
            end(child)
        said = log.read_text(errors="replace").strip().splitlines()
        if child.returncode != 0:
            raise LabError(f"weft-rig ended, code {child.returncode}: {' | '.join(said[-3:])}")
        answer = next(json.loads(line) for line in reversed(said) if line.startswith("{"))
        if (answer["memory"] == "hugepages") != bench.huge:
            raise LabError(f"weft has {answer['memory']}, the others have not")
        return answer

    def measure(self, cell, path, held, room):
        buffer = ["--buffer", room] if room else []
        said = self.rig(cell.case, path, "--seconds", self.bench.options.seconds, "--warm-up", WARM_UP_SECONDS, *buffer)
        if abs(said["tsc_hz"] / self.bench.tsc_hz - 1) > 0.001:
            raise LabError(f"weft counts {said['tsc_hz']} cycles a second, the kernel {self.bench.tsc_hz}")
        # It has ended with an error if anything that came in did not come out.
        return {"packets": said["packets"], "received": said["packets"], "seconds": said["seconds"]}

    def forwarded(self, case, path, frames):
        self.bench.fresh_sink()
        self.rig(case, path, "--sink-pcap", self.bench.run.dir / "sink.pcap", "--count", len(frames))
        bench = self.bench
        wanted = [bench.plan.comes_out(case, frame) for frame in frames]
        return bench.tunnels(case, wanted), bench.tunnels(case, captures.read(bench.run.dir / "sink.pcap"))


class OvsDpdk:
    """Open vSwitch, told to do what the node of the scene does."""

    # How often a frame is sent that must come out at least once: what comes while a port is being added is lost.
    TIMES = 50
    UNDERLAY, SEGMENT = "br-uplink", "br-pods"
    SOURCE, SINK, TUNNEL = 1, 2, 3

    def __init__(self, bench):
        self.bench = bench

    @contextlib.contextmanager
    def running(self, case, source, sink):
        bench = self.bench
        settings = dict(word.split("=", 1) for word in bench.options.ovs)
        name = "ovs"
        shutil.rmtree(bench.run.dir / name, ignore_errors=True)
        ovs = Ovs(bench.run, bench.netns, name, bench.core, bench.mains, bench.huge, settings)
        try:
            tunnelled = case.startswith("decap")
            ovs.bridge(self.SEGMENT)
            if tunnelled or case == "encap":
                self.add_tunnels(ovs)
            ovs.port(self.UNDERLAY if case == "encap" else self.SEGMENT, "sink", self.SINK, "dpdk", dpdk_devargs=sink)
            getattr(self, case.partition("-")[0])(ovs, bench.plan.said)
            # The last one, since it begins at once.
            ovs.port(self.UNDERLAY if tunnelled else self.SEGMENT, "source", self.SOURCE, "dpdk", dpdk_devargs=source)
            yield ovs
        finally:
            ovs.end()

    def add_tunnels(self, ovs):
        """The underlay's bridge with the node's address, and the way to each peer, as a kernel would know it."""
        plan = self.bench.plan.said
        here = plan["local_vtep"]
        ovs.bridge(self.UNDERLAY, here["uplink_mac"])
        ip = lambda *words: call("ip", "-n", self.bench.netns, *words)
        # Or the kernel would ask for routers there.
        call("ip", "netns", "exec", self.bench.netns, "sysctl", "-qw", f"net.ipv6.conf.{self.UNDERLAY}.disable_ipv6=1")
        ip("address", "add", f"{here['ip']}/16", "dev", self.UNDERLAY)
        ip("link", "set", self.UNDERLAY, "up")
        ovs.port(self.SEGMENT, "tunnel", self.TUNNEL, "vxlan", remote_ip="flow", key="flow", local_ip=here["ip"], dst_port=plan["vxlan_port"])
        wait_for("Open vSwitch to see the underlay", lambda: self.UNDERLAY in ovs.ask("ovs/route/lookup", plan["vteps"][0]["ip"]))
        for peer in plan["vteps"]:
            ovs.ask("tnl/neigh/set", self.UNDERLAY, peer["ip"], peer["uplink_mac"])

    def bridge(self, ovs, plan):
        ovs.flows(self.SEGMENT, ["actions=NORMAL"])
        for mac in [pod["mac"] for pod in plan["others"]] + plan["stations"]:
            ovs.ask("fdb/add", self.SEGMENT, "sink", 0, mac)

    def to_pods(self, plan, match):
        """Through the gateway to each pod."""
        gateway = plan["gateway"]["mac"]
        return [
            f"{match},ip,nw_dst={pod['ip']},actions=dec_ttl,mod_dl_src:{gateway},mod_dl_dst:{pod['mac']},output:{self.SINK}"
            for pod in plan["others"]
        ]

    def route(self, ovs, plan):
        ovs.flows(self.SEGMENT, self.to_pods(plan, f"in_port={self.SOURCE},dl_dst={plan['gateway']['mac']}"))

    def encap(self, ovs, plan):
        ovs.flows(self.UNDERLAY, [f"in_port=LOCAL,actions=output:{self.SINK}"])
        ovs.flows(self.SEGMENT, [
            f"in_port={self.SOURCE},dl_dst={plan['gateway']['mac']},ip,nw_dst={net},actions=dec_ttl,"
            f"mod_dl_src:{plan['local_vtep']['mac']},mod_dl_dst:{peer['mac']},"
            f"set_field:{peer['ip']}->tun_dst,set_field:{plan['vni']}->tun_id,output:{self.TUNNEL}"
            for peer in plan["vteps"] for net in peer["subnets"]
        ])  # fmt: skip

    def decap(self, ovs, plan):
        ovs.flows(self.UNDERLAY, [f"in_port={self.SOURCE},actions=LOCAL"])
        match = f"in_port={self.TUNNEL},tun_id={plan['vni']},dl_dst={plan['local_vtep']['mac']}"
        ovs.flows(self.SEGMENT, self.to_pods(plan, match))

    def measure(self, cell, path, held, room):
        with self.running(cell.case, f"net_pcap0,rx_pcap={path},infinite_rx=1", "net_null0,no-rx=1") as ovs:
            wait_for("a packet out of Open vSwitch", lambda: ovs.counts()["sink"][1] > 0)
            ovs.settle()
            return self.bench.sample(lambda: ovs.counts()["source"][0], lambda: ovs.counts()["sink"][1])

    def forwarded(self, case, path, frames):
        bench = self.bench
        captures.write(path, frames * self.TIMES)
        wanted = bench.tunnels(case, [bench.plan.comes_out(case, frame) for frame in frames])
        with self.running(case, f"net_pcap0,rx_pcap={path}", f"net_pcap1,{bench.fresh_sink()}"):
            return wanted, bench.tunnels(case, bench.came_out())


def take(bench, cell, subject, path, held, room):
    sample = bench.subjects[subject].measure(cell, path, held, room)
    if sample["packets"] < LEAST_FORWARDED * sample["received"]:
        raise LabError(f"{subject} sent {sample['packets']} of {sample['received']} packets: this is not their rate")
    if not sample["packets"]:
        raise LabError(f"{subject} forwarded nothing")
    mpps = sample["packets"] / sample["seconds"] / 1e6
    return sample | {"mpps": mpps, "cycles_per_packet": bench.cycles(mpps)}


def measure(run, options, rows):
    bench = Bench(run, options)
    rows.head(options)
    cells = [Cell(case, flows, frame) for case in options.cases for frame in options.frame for flows in options.flows
             if flows <= MOST_FLOWS or frame == JUDGED_FRAME]  # fmt: skip
    cells = [cell for cell in cells if cell.subjects(options.subjects)]
    progress = Progress(sum(len(cell.subjects(options.subjects)) for cell in cells) * options.rounds)
    failed = Failures(progress)
    say(f"measured on core {bench.core}, everything else on {', '.join(map(str, bench.mains))}; TSC {bench.tsc_hz / 1e9:.3f} GHz")
    for cell in cells:
        subjects = cell.subjects(options.subjects)
        for subject in list(subjects):
            if (cell.case, subject) in bench.checked:
                continue
            try:
                bench.checked[cell.case, subject] = bench.check(cell.case, subject)
            except (LabError, OSError) as e:
                failed.of(cell.name)(subject, e, options.rounds)
                subjects.remove(subject)
            else:
                say(f"{cell.case}, {subject}: {bench.checked[cell.case, subject]} frames came out as they must, byte by byte")
        if not subjects:
            continue
        try:
            for row in rows_of(bench, cell, subjects, progress, failed, rows.rows):
                rows.add(row)
        except LabError as e:
            failed.add(cell.name, e)
    return failed


def rows_of(bench, cell, subjects, progress, failed, earlier):
    """All rounds of a cell: a row for each subject that could be measured."""
    path = bench.capture(cell)
    held, room = len(captures.read(path)), bench.room(cell, path)
    bench.reserve(held, room)
    busy = busy_pct(usable_cores(), 0.5)
    warn_if_busy(busy)

    def one(subject, number):
        sample = take(bench, cell, subject, path, held, room)
        progress.step(f"{cell.name}: {subject} {sample['mpps']:.2f} Mpps, {sample['cycles_per_packet']:.1f} cycles")
        return sample

    samples = in_turn(subjects, bench.options.rounds, one, failed.of(cell.name))
    path.unlink()
    medians = {subject: middle(taken) for subject, taken in samples.items()}
    for subject, taken in samples.items():
        figures = medians[subject]
        rates = [sample["mpps"] for sample in taken]
        row = {
            "case": cell.case, "flows": cell.flows, "frame": cell.frame, "subject": subject,
            "mpps": figures["mpps"], "cycles_per_packet": bench.cycles(figures["mpps"]), "delivered": round(figures["packets"]),
            "received": round(figures["received"]), "seconds": figures["seconds"],
            "rounds": {key: [sample[key] for sample in taken] for key in ("mpps", "cycles_per_packet")}, "spread": spread(rates),
            "frames": held, "frames_checked": bench.checked[cell.case, subject],
            "huge_pages": bench.huge, "background_pct": round(busy, 1),
        }  # fmt: skip
        yield row | (judged(cell, medians, earlier) if subject == WEFT else {})


def judged(cell, medians, earlier):
    """weft's rate by each other's, and what that is worth."""
    by = {subject: medians[WEFT]["mpps"] / figures["mpps"] for subject, figures in medians.items() if subject != WEFT}
    found = {"ratio": by}
    if cell.frame != JUDGED_FRAME:
        return found
    if cell.flows <= MOST_FLOWS:
        case = CASE[cell.case]
        bounds = {"at_least": (case.at_least, OVS, by.get(OVS)), "aim": (case.aim, IO, by.get(IO))}
    else:
        some = next((row["ratio"].get(IO) for row in earlier if row["subject"] == WEFT and row["case"] == cell.case
                     and row["flows"] == SOME and row["frame"] == cell.frame), None)  # fmt: skip
        kept = by[IO] / some if some and IO in by else None
        found |= {"of_ratio_at_1000_flows": kept} if kept else {}
        bounds = {name: (bound, f"{IO} at {SOME:,} flows", kept) for name, bound in zip(("at_least", "aim"), goal("core", "million-flows"))}
    for name, (bound, of, ratio) in bounds.items():
        found |= {name: bound, f"{name}_of": of} | ({f"met_{name}": ratio >= bound} if ratio is not None else {})
    return found


def table(rows):
    """The results for people: a line for each cell, in cycles a packet."""
    lines = [("case", "flows", "frame", *SUBJECTS, "weft Mpps", "weft/OVS", "at least", "weft/io", "aim", "reached")]
    for row in (row for row in rows if row["subject"] == WEFT):
        lines.append(line(row, rows))
    if len(lines) == 1:
        lines[0] = ("case", "flows", "frame", "subject", "Mpps", "cycles")
        lines += [(row["case"], f"{row['flows']:,}", row["frame"], row["subject"], f"{row['mpps']:.2f}",
                   f"{row['cycles_per_packet']:.1f}") for row in rows]  # fmt: skip
    return "cycles a packet (and the rounds' spread)\n" + columns(lines)


def line(row, rows):
    same = {other["subject"]: other for other in rows if all(other[key] == row[key] for key in ("case", "flows", "frame"))}
    cycles = [f"{same[subject]['cycles_per_packet']:.1f} ({same[subject]['spread']:.0%})" if subject in same else "" for subject in SUBJECTS]
    ratio = row["ratio"]
    by_ovs, by_io = (f"{ratio[peer]:.2f}" if peer in ratio else "" for peer in (OVS, IO))
    bounds = [f"{row[name]:g}" if name in row else "" for name in ("at_least", "aim")]
    if (kept := row.get("of_ratio_at_1000_flows")) is not None:
        by_io += f", {kept:.2f} of that at 1,000"
    reached = "aim" if row.get("met_aim") and row.get("met_at_least", True) else "at least" if row.get("met_at_least") else "NO"
    if "met_at_least" not in row and "met_aim" not in row:
        reached = ""
    return (row["case"], f"{row['flows']:,}", row["frame"], *cycles, f"{row['mpps']:.2f}", by_ovs, bounds[0], by_io, bounds[1], reached)
