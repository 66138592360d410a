"""`scripts/bench vhost`: two vhost-user ports, by weft, OVS-DPDK and testpmd, and a guest that sends on both.

    core 0  the switch: bridges between its two ports, whose sockets the guest makes
    core 1  the guest, testpmd: each of its virtio-user devices sends a capture again and again, and counts what comes

The captures are the same for all subjects: a pod's frames to the other pod, from its own MAC and IP address, as weft wants it.
"""

import contextlib
import json
import os
import shutil
import time
from pathlib import Path

import captures
import machine
from checks import end
from gauges import busy_pct, cores_apart, usable_cores
from goals import goal
from nodes import BIN
from ovs import MEMORY_MIB, Ovs
from rig import Failures, Progress, above_zero, columns, in_turn, middle, parsed, parser, say, several, spread, warn_if_busy
from rigs.core import IO, OVS, WEFT, prepare_peers, word_of
from run import Hopeless, LabError, call, wait_for
from testpmd import memory_mib, testpmd

WHAT = "two vhost-user ports with a guest that sends on both, against OVS-DPDK and testpmd"

SUBJECTS = (IO, OVS, WEFT)
FLOWS, SOME = (1, 1000, 100_000), 1000
AT_LEAST, AIM = goal("vhost", "bridge")  # of OVS-DPDK's rate, and of testpmd io's
WARM_UP_SECONDS = 1.0
# From a connected guest to one whose rings are polled.
SETTLE_SECONDS = 1.0
QUEUE = 1024  # descriptors of a ring
# Less than a ring holds, so that nothing is lost while the switch begins.
CHECKED_FLOWS = 200
SENT_ONCE = 20.0
FRAME_BYTES = 60
PODS = (("02:00:00:00:00:0a", "10.244.0.10"), ("02:00:00:00:00:0b", "10.244.0.11"))
WEFT_MIB = 96


def arguments(words=None):
    epilog = f"case: bridge, by MAC address; weft must reach {AT_LEAST:g} x OVS-DPDK's rate at least and aims at {AIM:g} x testpmd io's"
    made = parser("vhost", f"Measures {WHAT}.", ["bridge"], epilog, seconds=3)
    made.add_argument("--flows", type=several(above_zero), metavar="N,…",
                      help=f"how many flows in each direction (default: {','.join(map(str, FLOWS))})")
    made.add_argument("--subjects", type=word_of(SUBJECTS), default=SUBJECTS, metavar="S,…",
                      help=f"who is measured (default: {','.join(SUBJECTS)})")
    made.add_argument("--ovs", action="append", default=[], metavar="KEY=VALUE",
                      help="a setting of Open vSwitch (other_config), as in smc-enable=true; by default it has its own")  # fmt: skip
    options = parsed(made, words, ["bridge"])
    options.flows = sorted(set(options.flows or ([SOME] if options.quick else FLOWS)))
    options.subjects = [subject for subject in SUBJECTS if subject in options.subjects]
    if not all("=" in word for word in options.ovs):
        made.error("--ovs takes KEY=VALUE")
    return options


def prepare(options):
    prepare_peers(options, "weftd", "weft")


def frames_of(sender, flows):
    """A pod's frames to the other: a flow each."""
    (src_mac, src), (dst_mac, dst) = PODS[sender], PODS[1 - sender]
    return [captures.udp_frame(src_mac, dst_mac, src, dst, (1024 + flow % 60_000, 5000 + flow // 60_000), FRAME_BYTES)
            for flow in range(flows)]  # fmt: skip


def toml(head, values):
    return "\n".join([head, *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""])


def settings(folder, log_file, node, core, huge, **more):
    """A fresh folder for weftd, with its settings: one worker that polls always, on `core`; `more` are further sections."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "state").mkdir(parents=True)
    log_file.unlink(missing_ok=True)
    sections = {
        "node": {"name": node},
        "dataplane": {"workers": 1, "cores": [core], "idle": "poll", "hugepages": "require" if huge else "never"},
        "uplink": {"interface": "u0"},
        "source": {"path": f"{folder}/cluster.toml"},
        "control": {"socket": f"{folder}/weft.sock"},
        "state": {"dir": f"{folder}/state"},
        "metrics": {"listen": ""},
    } | more
    (folder / "weftd.toml").write_text("\n".join(toml(f"[{name}]", values) for name, values in sections.items()))


def pods(node, sockets):
    """The two pods, behind sockets that the guest makes."""
    return [{"name": f"pod{index}", "node": node, "addresses": [ip], "mac": mac, "kind": "vhost-user", "socket": str(path), "mode": "client"}
            for index, ((mac, ip), path) in enumerate(zip(PODS, sockets))]  # fmt: skip


def is_ready(weftd, log):
    text = log.read_text(errors="replace") if log.exists() else ""
    if weftd.poll() is not None:
        raise Hopeless(f"weftd ended, code {weftd.returncode}: {' | '.join(text.strip().splitlines()[-3:])}")
    return "weftd: ready" in text


class Bench:
    """The machine under measurement, and who is measured on it."""

    def __init__(self, run, options):
        self.run, self.options = run, options
        self.core, self.guest_core, *rest = cores_apart()
        self.mains = rest or [self.guest_core]
        self.tsc_hz = machine.tsc_hz()
        self.netns = run.netns("peers")
        self.sockets = [run.dir / f"guest{index}.sock" for index in range(2)]
        # Contexts in which one runs; each gives a function that says whether it has both guests.
        self.switches = {IO: self.testpmd, OVS: self.ovs, WEFT: self.weft}
        self.huge, self.checked = True, {}

    def reserve(self, flows):
        held = memory_mib(2 * flows) + max(memory_mib(0), MEMORY_MIB, WEFT_MIB)
        self.huge = machine.reserve(self.run, held * 5 // 4)

    @contextlib.contextmanager
    def guest(self, sources, held, **how):
        """It makes its sockets one after the other and waits at each until the switch has come."""
        for path in self.sockets:
            path.unlink(missing_ok=True)
        vdevs = []
        for index, (source, path) in enumerate(zip(sources, self.sockets)):
            vdevs += [f"net_pcap{index},{source}",
                      f"net_virtio_user{index},path={path},server=1,queues=1,queue_size={QUEUE},mac={PODS[index][0]}"]  # fmt: skip
        with testpmd(self.run, self.netns, "guest", self.guest_core, self.mains, vdevs, "io", held, self.huge,
                     more=["--single-file-segments"], **how) as guest:  # fmt: skip
            yield guest

    @contextlib.contextmanager
    def testpmd(self):
        vdevs = [f"net_vhost{index},iface={path},queues=1,client=1" for index, path in enumerate(self.sockets)]
        with testpmd(self.run, self.netns, "switch", self.core, self.mains, vdevs, "io", 0, self.huge) as switch:
            yield lambda: all(switch.ask(f"/ethdev/link_status,{port}")["status"] == "UP" for port in range(2))

    @contextlib.contextmanager
    def ovs(self):
        shutil.rmtree(self.run.dir / "ovs", ignore_errors=True)
        settings = dict(word.split("=", 1) for word in self.options.ovs)
        ovs = Ovs(self.run, self.netns, "ovs", self.core, self.mains, self.huge, settings)
        try:
            ovs.bridge("br-pods")
            ovs.flows("br-pods", ["actions=NORMAL"])
            for index, (mac, _) in enumerate(PODS):
                ovs.port("br-pods", f"pod{index}", index + 1, "dpdkvhostuserclient", vhost_server_path=self.sockets[index])
                ovs.ask("fdb/add", "br-pods", f"pod{index}", 0, mac)
            yield lambda: all(ovs.vsctl("get", "Interface", f"pod{index}", "link_state") == "up" for index in range(2))
        finally:
            ovs.end()

    @contextlib.contextmanager
    def weft(self):
        """weftd as a node has it, on one core that it polls always; its pods may send from their own addresses only."""
        folder, log = self.run.dir / "weft", self.run.dir / "weftd.log"
        settings(folder, log, "node", self.core, self.huge)
        cluster = [toml("[network]", {"ipv4": "10.244.0.0/16"}),
                   toml("[[node]]", {"name": "node", "subnets": ["10.244.0.0/24"], "public_ip": "172.16.0.1"})]  # fmt: skip
        (folder / "cluster.toml").write_text("\n".join([*cluster, *(toml("[[pod]]", pod) for pod in pods("node", self.sockets))]))
        self.uplink()
        mains = ",".join(map(str, self.mains))
        weftd = self.run.spawn(self.netns, "taskset", "-c", f"{mains},{self.core}", BIN / "weftd", "--config", folder / "weftd.toml", log=log.name)

        try:
            wait_for("weftd to be ready", lambda: is_ready(weftd, log), timeout=30)
            self.keep_off(weftd.pid)
            listed = lambda: json.loads(call(BIN / "weft", "--socket", folder / "weft.sock", "pod", "list", "-o", "json").stdout)["pods"]
            yield lambda: [pod["state"] for pod in listed()] == ["up", "up"]
        finally:
            end(weftd)

    def keep_off(self, pid):
        """Keeps all threads but the worker off the measured core."""
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if not (task / "comm").read_text().startswith("weft-worker"):
                    os.sched_setaffinity(int(task.name), self.mains)

    def uplink(self):
        """An interface for weftd's tunnel, of which nothing is asked here."""
        ip = lambda *words, **how: call("ip", "-n", self.netns, *words, **how)
        if ip("link", "show", "u0", check=False).returncode != 0:
            ip("link", "add", "u0", "type", "veth", "peer", "name", "u1")
            ip("address", "add", "172.16.0.1/24", "dev", "u0")
            ip("link", "set", "u0", "up")
            ip("link", "set", "u1", "up")

    def captures(self, flows):
        paths = [self.run.dir / f"pod{sender}.pcap" for sender in range(2)]
        for sender, path in enumerate(paths):
            captures.write(path, frames_of(sender, flows))
        return paths

    def measure(self, subject, paths, held):
        """Packets that came back to the guest, and that it gave to the switch."""
        with self.switches[subject](), self.guest([f"rx_pcap={path},infinite_rx=1" for path in paths], held) as guest:
            wait_for("a packet in the guest", lambda: guest.received(1) and guest.received(3), timeout=20)
            time.sleep(WARM_UP_SECONDS)
            counts = lambda: [sum(count(port) for port in (1, 3)) for count in (guest.received, guest.sent)]
            (came, went), begin = counts(), time.monotonic()
            time.sleep(self.options.seconds)
            seconds, (came_in, went_out) = time.monotonic() - begin, counts()
        packets = came_in - came
        if not packets:
            raise LabError(f"{subject} forwarded nothing")
        mpps = packets / seconds / 1e6
        return {"packets": packets, "offered": went_out - went, "seconds": seconds, "mpps": mpps,
                "cycles_per_packet": self.tsc_hz / (mpps * 1e6)}  # fmt: skip

    def check(self, subject):
        """That each pod gets the very frames that the other has sent; how many."""
        self.reserve(CHECKED_FLOWS)
        sources = []
        for index, path in enumerate(self.captures(CHECKED_FLOWS)):
            (self.run.dir / f"came{index}.pcap").unlink(missing_ok=True)
            sources.append(f"rx_pcap={path},tx_pcap={self.run.dir}/came{index}.pcap")
        wanted = [frames_of(1 - receiver, CHECKED_FLOWS) for receiver in range(2)]
        with self.switches[subject]() as is_ready, self.guest(sources, CHECKED_FLOWS, waits=True) as guest:
            wait_for(f"{subject} to have both guests", is_ready, timeout=20)
            time.sleep(SETTLE_SECONDS)
            guest.start()
            came = [self.run.dir / f"came{index}.pcap" for index in range(2)]
            with contextlib.suppress(LabError):
                wait_for("the frames", lambda: all(path.exists() and path.stat().st_size >= captures.size(frames)
                                                   for path, frames in zip(came, wanted)), timeout=SENT_ONCE)  # fmt: skip
            time.sleep(0.2)  # for what must not come
        for receiver, path in enumerate(came):
            captures.compare(f"bridge, {subject}, to pod {receiver}", wanted[receiver], captures.read(path))
        return 2 * CHECKED_FLOWS


def measure(run, options, rows):
    bench = Bench(run, options)
    rows.head(options)
    progress = Progress(len(options.flows) * len(options.subjects) * options.rounds)
    failed = Failures(progress)
    say(f"the switch on core {bench.core}, the guest on core {bench.guest_core}; TSC {bench.tsc_hz / 1e9:.3f} GHz")
    for flows in options.flows:
        name = f"bridge, {flows:,} flow{'s' if flows > 1 else ''} each way"
        subjects = list(options.subjects)
        for subject in options.subjects:
            if subject in bench.checked:
                continue
            try:
                bench.checked[subject] = bench.check(subject)
            except (LabError, OSError) as e:
                failed.of(name)(subject, e, options.rounds)
                subjects.remove(subject)
            else:
                say(f"bridge, {subject}: {bench.checked[subject]} frames came out as they must, byte by byte")
        if not subjects:
            continue
        try:
            for row in rows_of(bench, name, flows, subjects, progress, failed):
                rows.add(row)
        except LabError as e:
            failed.add(name, e)
    return failed


def rows_of(bench, name, flows, subjects, progress, failed):
    paths = bench.captures(flows)
    bench.reserve(flows)
    busy = busy_pct(usable_cores(), 0.5)
    warn_if_busy(busy)

    def one(subject, number):
        sample = bench.measure(subject, paths, 2 * flows)
        progress.step(f"{name}: {subject} {sample['mpps']:.2f} Mpps, of {sample['offered'] / sample['seconds'] / 1e6:.2f} offered")
        return sample

    samples = in_turn(subjects, bench.options.rounds, one, failed.of(name))
    medians = {subject: middle(taken) for subject, taken in samples.items()}
    for subject, taken in samples.items():
        figures = medians[subject]
        rates = [sample["mpps"] for sample in taken]
        row = {
            "case": "bridge", "flows": flows, "frame": "64", "subject": subject, "mpps": figures["mpps"],
            "cycles_per_packet": bench.tsc_hz / (figures["mpps"] * 1e6), "delivered": round(figures["packets"]),
            "offered_mpps": figures["offered"] / figures["seconds"] / 1e6, "seconds": figures["seconds"],
            "rounds": {key: [sample[key] for sample in taken] for key in ("mpps", "cycles_per_packet")}, "spread": spread(rates),
            "frames_checked": bench.checked[subject], "huge_pages": bench.huge, "background_pct": round(busy, 1),
        }  # fmt: skip
        yield row | (judged(medians) if subject == WEFT else {})


def judged(medians):
    by = {subject: medians[WEFT]["mpps"] / figures["mpps"] for subject, figures in medians.items() if subject != WEFT}
    found = {"ratio": by}
    for name, bound, of in (("at_least", AT_LEAST, OVS), ("aim", AIM, IO)):
        found |= {name: bound, f"{name}_of": of} | ({f"met_{name}": by[of] >= bound} if of in by else {})
    return found


def table(rows):
    """The results for people: a line for each number of flows, in Mpps of both directions together."""
    lines = [("flows", *SUBJECTS, "weft/OVS", "at least", "weft/io", "aim", "reached")]
    for flows in sorted({row["flows"] for row in rows}):
        same = {row["subject"]: row for row in rows if row["flows"] == flows}
        weft = same.get(WEFT, {})
        rates = [f"{same[subject]['mpps']:.2f} ({same[subject]['spread']:.0%})" if subject in same else "" for subject in SUBJECTS]
        ratio = weft.get("ratio", {})
        cells = []
        for name, of in (("at_least", OVS), ("aim", IO)):
            cells += [f"{ratio[of]:.2f}" if of in ratio else "", f"{weft[name]:g}" if name in weft else ""]
        verdicts = [weft.get(f"met_{name}") for name in ("at_least", "aim")]
        reached = "" if verdicts == [None, None] else "NO" if verdicts[0] is False else "aim" if verdicts[1] else "at least" if verdicts[0] else "NO"
        lines.append((f"{flows:,}", *rates, *cells, reached))
    return "Mpps of both directions together (and the rounds' spread)\n" + columns(lines)
