"""The cases of `scripts/bench pods`: what is measured, and what it must reach.

A case is measured for one subject at a time and yields samples: dicts of figures. A sample's `receiver` names a variant.
"""

import time
from dataclasses import dataclass
from typing import Callable

import traffic
from gauges import Cpu, thread_seconds
from nodes import Pod

WEFT, KERNEL = "weft", "kernel-flannel"
# Which nodes send and receive, by what the bench calls them.
ACROSS = {WEFT: ("near", "far"), KERNEL: ("kernel near", "kernel far")}
IDLE_PODS = 10
# Of silence before each request of first-after-idle, and how many of these.
PAUSE_SECONDS, PAUSES = 0.3, 30
# Announcements of new pods, and what their kernels ask for at first.
SETTLE_SECONDS = 3.0


@dataclass(frozen=True)
class Case:
    """`at_least` and `aim` are ratios to the kernel; or, if `difference`, how much more than the kernel's a figure may be;
    or, where nothing of the kernel's compares, plain figures. More is better, unless `less`. What loses more than
    `most_loss` reaches nothing."""

    name: str
    what: str
    figures: dict  # The fields that are judged, and their units.
    at_least: float
    aim: float
    measure: Callable  # (bench, subject, profile name) -> samples
    less: bool = False
    absolute: bool = False
    difference: bool = False
    most_loss: float = 1.0

    @property
    def subjects(self):
        return (WEFT,) if self.absolute else (WEFT, KERNEL)


def measured(bench, profile, load):
    """Runs a load; its figures, and the CPU time that it took."""
    with bench.profiled(profile):
        cpu = Cpu(bench.cores, bench.weft_nodes)
        figures = load()
        return figures | cpu.read()


def tcp(roles, streams):
    """TCP from pod to pod; `roles` are the nodes of sender and receiver for each subject."""

    def measure(bench, subject, profile):
        way = bench.way(*roles[subject])
        traffic.greet(way)
        return [measured(bench, profile, lambda: traffic.tcp(bench.run, way, streams, bench.seconds))]

    return measure


def udp64(bench, subject, profile):
    """The rate of small packets, for both kinds of receivers."""
    way = bench.way(*ACROSS[subject])
    traffic.greet(way)
    return [
        traffic.udp(bench.run, way, bench.seconds, kind == "busy", lambda load: measured(bench, f"{profile}-{kind}", load))
        | {"sender": "weft-load send", "receiver": kind}
        for kind in ("blocking", "busy")
    ]


def request_response(protocol):
    """One request at a time, from node to node."""

    def measure(bench, subject, profile):
        way = bench.way(*ACROSS[subject])
        traffic.greet(way)
        load = lambda: traffic.request_response(bench.run, way, protocol, bench.seconds)
        return [measured(bench, profile, load)]

    return measure


def first_after_idle(bench, subject, profile):
    """A request after a pause that is long enough for every worker on its way to have gone to sleep."""
    way = bench.way(*ACROSS[subject])
    traffic.greet(way)
    load = lambda: traffic.request_response(bench.run, way, "udp", PAUSES * PAUSE_SECONDS, PAUSE_SECONDS)
    return [measured(bench, profile, load) | {"pause_s": PAUSE_SECONDS}]


def idle(bench, _subject, profile):
    """What weftd takes while its pods say nothing."""
    node = bench.weft_nodes[0]
    if len(node.pods) < IDLE_PODS:
        for number in range(len(node.pods) + 1, IDLE_PODS + 1):
            node.pods.append(Pod(bench.run, node, number, "tap"))
            node.add_pod(node.pods[-1])
        time.sleep(SETTLE_SECONDS)
    before = thread_seconds(node.pid)
    sample = measured(bench, profile, lambda: time.sleep(bench.seconds) or {})
    spent = {}
    for (thread, name), seconds in thread_seconds(node.pid).items():
        spent[name] = spent.get(name, 0) + seconds - before.get((thread, name), 0)
    percent = lambda seconds: round(100 * seconds / sample["wall_s"], 3)
    return [
        sample
        | {
            "cpu_pct": percent(sum(spent.values())),
            "thread_pct": {name: percent(seconds) for name, seconds in sorted(spent.items()) if seconds},
            "pods": len(node.pods),
        }
    ]


GBPS = {"gbps": "Gbit/s"}
LATENCY = {"p50_us": "µs", "p99_us": "µs"}

CASES = [
    Case("tcp1-same-node", "TCP, 1 stream, two pods of one node", GBPS, 0.85, 1.2,
         tcp({WEFT: ("same", "same"), KERNEL: ("kernel near", "kernel near")}, 1)),
    Case("tcp1-cross", "TCP, 1 stream, weft node to weft node", GBPS, 0.6, 1.0, tcp(ACROSS, 1)),
    Case("tcp4-cross", "TCP, 4 streams, weft node to weft node", GBPS, 0.6, 1.0, tcp(ACROSS, 4)),
    Case("tcp1-to-kernel", "TCP, 1 stream, weft node to kernel flannel node", GBPS, 0.6, 1.0,
         tcp(ACROSS | {WEFT: ("near", "kernel far")}, 1)),
    Case("tcp1-from-kernel", "TCP, 1 stream, kernel flannel node to weft node", GBPS, 0.6, 1.0,
         tcp(ACROSS | {WEFT: ("kernel near", "far")}, 1)),
    Case("udp64-cross", f"UDP, {traffic.PAYLOAD} bytes of payload, the rate with no more than 0.1 % loss", {"kpps": "kpps"},
         1.5, 4, udp64),
    Case("rr-tcp", f"{traffic.PAYLOAD}-byte request and response over TCP, weft node to weft node", LATENCY, 1.3, 1.0,
         request_response("tcp"), less=True, most_loss=traffic.MOST_LOSS),
    Case("rr-udp", f"{traffic.PAYLOAD}-byte request and response over UDP, weft node to weft node", LATENCY, 1.3, 1.0,
         request_response("udp"), less=True, most_loss=traffic.MOST_LOSS),
    Case("first-after-idle", f"request and response over UDP after {PAUSE_SECONDS:g} s of silence, weft node to weft node",
         {"p50_us": "µs"}, 100, 100, first_after_idle, less=True, difference=True, most_loss=traffic.MOST_LOSS),
    # The last one, since it adds pods.
    Case("idle", f"CPU of weftd with {IDLE_PODS} pods and no traffic", {"cpu_pct": "%"}, 1, 0.2, idle,
         less=True, absolute=True),
]  # fmt: skip
