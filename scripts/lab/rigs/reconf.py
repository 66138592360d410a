"""`scripts/bench reconf`: what traffic between two pods of weft notices while the node's tables change.

    core 0  weftd's worker; two vhost-user pods, and a third one beside them
    core 1  weft-pktgen, the guest of both: sends at one, receives at the other, and knows each packet again

The changes come as an operator's do: a new cluster file, read at once on SIGHUP, and requests on the control socket. weftd's other
threads and this program are where the kernel puts them.
"""

import contextlib
import http.client
import json
import os
import signal
import socket
import time
from collections import Counter

from checks import end
from gauges import busy_pct, thread_seconds, usable_cores
from goals import goal
from nodes import BIN
from pktgen import PROGRAM, pktgen
from rig import Failures, Progress, columns, in_turn, middle, parsed, parser, say, spread, warn_if_busy
from rigs import vhost
from rigs.core import WEFT, prepare_peers
from rigs.vhost import toml
from run import LabError, call, wait_for

WHAT = "packets lost and the longest gap while weft's tables change under load"

STATIC, VTEPS, POD, MTU, SNAPSHOTS, PODS = NAMES = ("static", "add-vteps", "remove-pod", "mtu", "snapshots", "pods")
# Those whose rate is compared with that of unchanged tables.
CONTINUOUS = (SNAPSHOTS, PODS)
CASES = {
    STATIC: "nothing changes: what the machine itself does",
    VTEPS: "1,000 nodes more at once",
    POD: "another pod is removed, and comes again",
    MTU: "the network's MTU changes, and changes back",
    SNAPSHOTS: "100 snapshots a second: a peer's VTEP has another MAC address each time",
    PODS: "100 snapshots a second: another pod is removed and comes again",
}
LEAST_RATE, _ = goal("reconf", "rate")  # of the rate without changes
LEAST_SNAPSHOTS = 0.95  # of those asked for, or the rate says nothing
NODES, MORE_NODES, PUBLISHED_A_SECOND = 100, 1000, 100
# With room to spare: what is lost then was lost by the change.
LOAD_PCT = 50
FLOWS, FRAME = 1000, "64"
# From a connected guest to one whose rings are polled, and a little more. What is missing then is waited for so long: on a busy
# machine a packet may be late that is not lost.
WARM_UP_SECONDS, SETTLE_SECONDS = 1.5, 1.0
LEAST_SECONDS = 3
# Descriptors of the guest's rings. While weftd's other threads have its core it takes nothing, and all that it has sent must have
# room where it receives: that would be the guest's loss, not weft's.
QUEUES = (1024, 4096)


def arguments(words=None):
    width = max(map(len, CASES))
    epilog = "cases; no packet may be lost:\n" + "\n".join(f"  {name:{width}}  {what}" for name, what in CASES.items())
    made = parser("reconf", f"Measures {WHAT}.", NAMES, epilog, seconds=5)
    made.add_argument("--a-second", type=float, default=PUBLISHED_A_SECOND, metavar="N", help=f"snapshots (default: {PUBLISHED_A_SECOND})")
    made.add_argument("--nodes", type=int, default=NODES, metavar="N", help=f"of the cluster (default: {NODES})")
    made.add_argument("--rate-mpps", type=float, metavar="N", help="the rate without loss, where it is known (default: it is looked for)")
    options = parsed(made, words, NAMES)
    options.subjects = [WEFT]
    options.seconds = max(options.seconds, LEAST_SECONDS)
    if not 2 <= options.nodes <= 4000:
        made.error("--nodes: 2 to 4000")
    return options


def prepare(options):
    prepare_peers(options, "weftd", PROGRAM)


class OverSocket(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path):
        super().__init__("weftd", timeout=30)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


class Node:
    """weftd as a node has it, on one core that it polls always, between the two sockets of a guest."""

    THIRD = {"name": "third", "addresses": ["10.244.0.12"], "mac": "02:00:00:00:00:0c", "kind": "dpdk", "devargs": "net_null9,no-rx=1"}

    def __init__(self, bench):
        self.bench, self.dir = bench, bench.run.dir / "weft"
        self.log, self.mtu, self.nodes, self.version = bench.run.dir / "weftd.log", None, bench.options.nodes, 0
        vhost.settings(self.dir, self.log, "n0", bench.core, bench.huge, log={"level": "warn"})
        self.pods = vhost.pods("n0", bench.sockets)
        self.peers = {}
        self.write()
        bench.uplink()
        mains = ",".join(map(str, {*bench.mains, bench.core}))
        self.process = bench.run.spawn(bench.netns, "taskset", "-c", mains, BIN / "weftd", "--config", self.dir / "weftd.toml", log=self.log.name)
        wait_for("weftd to be ready", lambda: vhost.is_ready(self.process, self.log), timeout=30)
        self.control = OverSocket(self.dir / "weft.sock")
        self.pid = self.ask("GET", "/v1/status")["pid"]
        self.add_third()

    def peer(self, number):
        """A node's table. The text of those that stay is kept: to make 1,000 takes longer than weftd has to read them."""
        if number not in self.peers:
            high, low = divmod(number, 250)
            self.peers[number] = toml("[[node]]", {
                "name": f"n{number}", "subnets": [f"10.{1 + high}.{low}.0/24"], "public_ip": f"172.16.{high}.{low + 2}",
                "vtep_mac": f"02:0f:00:00:{high:02x}:{low:02x}",
            })  # fmt: skip
        return self.peers[number]

    def write(self):
        """A new cluster file, whole in one moment."""
        network = {"ipv4": "10.0.0.0/8"} | ({"mtu": self.mtu} if self.mtu else {})
        own = {"name": "n0", "subnets": ["10.244.0.0/24"], "public_ip": "172.16.0.1"}
        changed = {"name": "n1", "subnets": ["10.243.0.0/24"], "public_ip": "172.16.0.254",
                   "vtep_mac": f"02:0e:00:00:{self.version >> 8 & 255:02x}:{self.version & 255:02x}"}  # fmt: skip
        parts = [toml("[network]", network), toml("[[node]]", own), toml("[[node]]", changed)]
        parts += [self.peer(number) for number in range(2, self.nodes)]
        parts += [toml("[[pod]]", pod) for pod in self.pods]
        new = self.dir / "cluster.new"
        new.write_text("\n".join(parts))
        new.rename(self.dir / "cluster.toml")

    def ask(self, method, path, body=None):
        text = json.dumps(body) if body is not None else None
        try:
            self.control.request(method, path, text, {"Content-Type": "application/json"} if text else {})
            response = self.control.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as e:
            self.control.close()
            raise LabError(f"weftd's control socket, {method} {path}: {e}") from e
        if response.status >= 300:
            raise LabError(f"weftd refused {method} {path}: {answer}")
        return answer

    def generation(self):
        return self.ask("GET", "/v1/status")["generation"]

    def drops(self):
        """Frames dropped so far, by reason."""
        return Counter({drop["reason"]: drop["count"] for drop in self.ask("GET", "/v1/drops")["total"]})

    def control_seconds(self):
        """CPU time of all threads but the workers, which poll."""
        return sum(seconds for (_, name), seconds in thread_seconds(self.pid).items() if not name.startswith("weft-worker"))

    def received(self):
        return sum(port["rx_packets"] for port in self.ask("GET", "/v1/stats")["ports"] if port["kind"] == "vhost-user")

    def changed(self, **what):
        """A new cluster file that weftd is told of, and has."""
        before = self.generation()
        for name, value in what.items():
            setattr(self, name, value)
        self.write()
        os.kill(self.pid, signal.SIGHUP)
        wait_for("weftd to take the new file", lambda: self.generation() > before, timeout=20, every=0.01)

    def add_third(self):
        self.ask("POST", "/v1/pods", self.THIRD)

    def remove_third(self):
        self.ask("DELETE", "/v1/pods/third")

    def change_a_peer(self):
        self.version += 1
        self.write()
        os.kill(self.pid, signal.SIGHUP)

    def change_a_pod(self):
        self.version += 1
        self.remove_third() if self.version % 2 else self.add_third()

    def end(self):
        self.control.close()
        end(self.process)


class Bench(vhost.Bench):
    """The machine and the node on it."""

    def uplink(self):
        """All peers are on its link."""
        super().uplink()
        call("ip", "-n", self.netns, "address", "replace", "172.16.0.1/16", "dev", "u0")

    @contextlib.contextmanager
    def node(self):
        node = Node(self)
        try:
            yield node
        finally:
            node.end()

    def traffic(self, *words):
        (src_mac, src), (dst_mac, dst) = vhost.PODS
        words = [*words, "--src-mac", src_mac, "--src-ip", src, "--dst-mac", dst_mac, "--dst-ip", dst, "--flows", FLOWS, "--frame", FRAME]
        return pktgen(self.run, self.netns, self.guest_core, self.sockets, self.huge, *words, queues=QUEUES)

    def run_under(self, node, rate, change, throughout=False):
        """One run at a rate while `change(node, end)` has its time, within what the generator counts or throughout all of it; what
        it saw, and how many snapshots a second there were."""
        seconds = self.options.seconds
        waits = ("--warm-up", WARM_UP_SECONDS, "--settle", SETTLE_SECONDS)
        with self.traffic("run", "--rate", rate, "--seconds", seconds, *waits) as running:
            before = node.received()
            wait_for("traffic", lambda: running.ended() or node.received() > before + 1000, timeout=60, every=0.01)
            begin = time.monotonic()
            # What is counted begins with the end of the warm-up, or after another SETTLE_SECONDS if that lost something, which
            # is not known here. Surely counted is what lies between these two.
            surely, until = begin + WARM_UP_SECONDS + SETTLE_SECONDS, begin + WARM_UP_SECONDS + seconds
            if throughout:
                change(node, surely)
            else:
                time.sleep(max(surely + seconds * 0.1 - time.monotonic(), 0))
            generation, spent, dropped, changing = node.generation(), node.control_seconds(), node.drops(), time.monotonic()
            change(node, until if throughout else until - seconds * 0.1)
            took = time.monotonic() - changing
            published, spent = node.generation() - generation, node.control_seconds() - spent
            if not throughout and time.monotonic() > until:
                raise LabError("the change was not over before the run was")
            if throughout:
                # As long as it may be counting.
                change(node, until + SETTLE_SECONDS)
            answer = running.answer(timeout=60 + seconds)
        if answer["corrupted"]:
            raise LabError(f"{answer['corrupted']} packets came out damaged")
        dropped = dict(node.drops() - dropped)
        if answer["lost"]:
            say(f"{answer['lost']} lost; weftd has dropped {json.dumps(dropped) if dropped else 'nothing'}")
        return answer | {"drops": dropped, "snapshots": published, "snapshots_a_second": published / took, "control_ms": 1e3 * spent / max(published, 1)}


def nothing(_node, _end):
    pass


def again(change, a_second):
    """A change that is made so many times a second, for all the time there is."""

    def changes(node, end):
        begin, count = time.monotonic(), 0
        while (now := time.monotonic()) < end:
            if (wait := begin + count / a_second - now) > 0:
                time.sleep(wait)
            change(node)
            count += 1

    return changes


def add_vteps(node, _end):
    node.changed(nodes=node.nodes + MORE_NODES)


def remove_pod(node, _end):
    node.remove_third()
    node.add_third()


def change_mtu(node, _end):
    node.changed(mtu=1400)
    node.changed(mtu=None)


def measure_round(bench, case, rate):
    """One case; the figures of a row."""
    a_second = bench.options.a_second
    changes = {STATIC: nothing, VTEPS: add_vteps, POD: remove_pod, MTU: change_mtu,
               SNAPSHOTS: again(Node.change_a_peer, a_second), PODS: again(Node.change_a_pod, a_second)}  # fmt: skip
    with bench.node() as node:
        throughout = case in CONTINUOUS
        paced = bench.run_under(node, f"{rate * LOAD_PCT / 100:.0f}", changes[case], throughout)
        sample = {
            "lost": paced["lost"], "duplicated": paced["duplicated"], "reordered": paced["reordered"], "load_mpps": paced["sent_pps"] / 1e6,
            "gap_us": 1e3 * paced["longest_gap_ms"], "longest_gap_ms": paced["longest_gap_ms"], "own_pause_ms": paced["own_pause_ms"],
            "drops": paced["drops"], "p50_us": paced["latency_us"]["p50"], "p99_us": paced["latency_us"]["p99"], "max_us": paced["latency_us"]["max"],
            "snapshots": paced["snapshots"], "snapshots_a_second": paced["snapshots_a_second"], "given_up": paced["given_up"],
            **({"control_ms": paced["control_ms"]} if paced["snapshots"] else {}),
        }  # fmt: skip
        if case in (STATIC, *CONTINUOUS):
            # As much as it takes: the rate that is judged, and the snapshots that were made at it.
            flood = bench.run_under(node, "max", changes[case], throughout)
            sample |= {"mpps": flood["received_pps"] / 1e6, "flood_lost": flood["lost"],
                       "load_snapshots_a_second": paced["snapshots_a_second"], "snapshots_a_second": flood["snapshots_a_second"]}  # fmt: skip
            if throughout:
                sample["snapshots_asked"] = a_second
        else:
            sample["mpps"] = paced["received_pps"] / 1e6
    return sample


def measure(run, options, rows):
    bench = Bench(run, options)
    rows.head(options)
    cases = list(options.cases)
    if set(CONTINUOUS) & set(cases) and STATIC not in cases:
        cases.insert(0, STATIC)
    progress = Progress(len(cases) * options.rounds)
    bench.reserve(0)
    busy = busy_pct(usable_cores(), 0.5)
    warn_if_busy(busy)
    say(f"weftd's worker on core {bench.core}, {PROGRAM} on core {bench.guest_core}")
    rate = options.rate_mpps * 1e6 if options.rate_mpps else rate_without_loss(bench)
    say(f"{rate / 1e6:.2f} Mpps without loss; changes are made at {LOAD_PCT} % of it")

    def one(case, number):
        sample = measure_round(bench, case, rate)
        progress.step(f"{case}, round {number}: {sample['lost']} lost, the longest gap {sample['longest_gap_ms']:.2f} ms"
                      f" (its own pause {sample['own_pause_ms']:.2f}), {sample['mpps']:.2f} Mpps, {sample['snapshots_a_second']:.0f} snapshots a second")  # fmt: skip
        return sample

    failed, static = Failures(progress), {}

    def ends(case, taken):
        if case == STATIC:
            static["mpps"] = middle(taken)["mpps"]
        rows.add(row_of(case, taken, static.get("mpps"), rate) | {"huge_pages": bench.huge, "background_pct": round(busy, 1)})

    in_turn(cases, options.rounds, one, failed.add, ends)
    return failed


def rate_without_loss(bench):
    """With nothing changing, in packets a second."""
    with bench.node(), bench.traffic("throughput", "--seconds", 1, "--resolution", 5, "--tries", 3, "--warm-up", WARM_UP_SECONDS) as running:
        rate = running.answer(timeout=180)["zero_loss_pps"]
    if rate is None:
        raise LabError("weft lost packets at every rate, with nothing changing")
    return rate


def row_of(case, taken, static, rate):
    """Medians; what was lost is that of all rounds together."""
    figures = middle(taken)
    row = {"case": case, "subject": WEFT, "flows": FLOWS, "frame": FRAME, "load_pct": LOAD_PCT, "zero_loss_mpps": rate / 1e6} | figures
    row |= {"lost": sum(sample["lost"] for sample in taken), "drops": dict(sum((Counter(sample["drops"]) for sample in taken), Counter()))}
    row["rounds"] = {name: [sample[name] for sample in taken] for name in ("lost", "gap_us", "mpps", "own_pause_ms", "snapshots_a_second")}
    row["spread"] = spread([sample["mpps"] for sample in taken])
    row["at_least"] = 0
    if case not in CONTINUOUS:
        row["met_at_least"] = row["lost"] == 0
        return row
    row["at_least_ratio"] = LEAST_RATE
    row["enough_snapshots"] = figures["snapshots_a_second"] >= LEAST_SNAPSHOTS * figures["snapshots_asked"]
    if static:
        ratio = figures["mpps"] / static
        row |= {"static_mpps": static, "rate_ratio": ratio}
        row["met_at_least"] = row["lost"] == 0 and row["enough_snapshots"] and ratio >= LEAST_RATE
    return row


def reached(row):
    if "met_at_least" not in row:
        return "not compared"
    return "yes" if row["met_at_least"] else "NO" if row.get("enough_snapshots", True) else "NO, too few snapshots"


def table(rows):
    """The results for people."""
    lines = [("case", "lost", "longest gap ms", "its own pause ms", "max µs", "snapshots/s", "CPU ms each", "Mpps", "by static", "reached")]
    for row in rows:
        ratio = f"{row['rate_ratio']:.2f}" if "rate_ratio" in row else ""
        lines.append((row["case"], f"{row['lost']:,}", f"{row['longest_gap_ms']:.2f}", f"{row['own_pause_ms']:.2f}", f"{row['max_us']:.0f}",
                      f"{row['snapshots_a_second']:.0f}", f"{row['control_ms']:.2f}" if "control_ms" in row else "", f"{row['mpps']:.2f}", ratio, reached(row)))  # fmt: skip
    return f"At {LOAD_PCT} % of the rate without loss; Mpps of static, snapshots and pods are as much as weft takes\n" + columns(lines)
