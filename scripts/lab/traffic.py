"""The benchmarks' loads: iperf3 for TCP, weft-load for small UDP packets and for requests and responses.

Each load is a process at each end, pinned to one core for every subject alike.
"""

import json
import subprocess
from dataclasses import dataclass

from checks import Ports, end, inside, wait_for_listener
from nodes import BIN
from run import LabError, wait_for

LOAD = BIN / "weft-load"
PAYLOAD = 64  # bytes of UDP payload, and of requests and responses
MOST_LOSS = 0.001
# What a blocking receiver's socket holds: the kernel's default, 208 KiB, is 277 packets, and loses some whenever the
# receiver waits a millisecond for its core.
RECEIVE_BUFFER = 4 << 20
TRIAL_SECONDS = 1.0


class WrongTraffic(LabError):
    """What arrived is not what was sent."""


@dataclass
class Way:
    """Who sends, who receives, and the cores that the two ends are pinned to."""

    source: object
    target: object
    source_core: int
    target_core: int

    @property
    def address(self):
        return self.target.addresses[4]

    def source_words(self, *command):
        return ("taskset", "-c", self.source_core, *command)

    def target_words(self, *command):
        return ("taskset", "-c", self.target_core, *command)

    def __str__(self):
        return f"{self.source.name} -> {self.target.name}"


def greet(way):
    """Answers from the other end, so that no address is resolved while measuring."""
    wait_for(
        f"an answer, {way}",
        lambda: inside(way.source, "ping", "-n", "-c", 1, "-W", 1, way.address, check=False).returncode == 0,
        timeout=5,
    )


def tcp(run, way, streams, seconds):
    """iperf3; the rate is what the receiver counted."""
    port = Ports.take()
    listener = run.spawn(way.target.netns, *way.target_words("iperf3", "-s", "-1", "-p", port), log="iperf3.log")
    try:
        wait_for_listener(way.target, port)
        done = inside(
            way.source, *way.source_words("iperf3", "-c", way.address, "-p", port, "-t", seconds, "-P", streams, "-J"),
            "--connect-timeout", 3000, check=False, timeout=seconds + 30,
        )  # fmt: skip
    finally:
        end(listener)
    result = result_of("iperf3", done)
    if "error" in result or done.returncode != 0:
        raise WrongTraffic(f"iperf3 {way}: {result.get('error', f'exit code {done.returncode}')}")
    sent, received = result["end"]["sum_sent"], result["end"]["sum_received"]
    if received["bytes"] < 1 << 20 or received["bytes"] > sent["bytes"]:
        raise WrongTraffic(f"iperf3 {way}: {sent['bytes']} bytes sent, {received['bytes']} received")
    retransmits, mss = sent.get("retransmits", 0), result["start"]["tcp_mss_default"]
    return {
        "gbps": received["bits_per_second"] / 1e9,
        "loss": retransmits * mss / sent["bytes"],
        "retransmits": retransmits,
        "mss": mss,
    }


def result_of(program, done):
    """The JSON that a load printed last."""
    try:
        return json.loads(done.stdout)
    except ValueError as e:
        raise WrongTraffic(f"{program} said {done.stdout[-200:]!r} {done.stderr[-200:]!r}") from e
