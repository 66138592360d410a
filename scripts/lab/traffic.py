"""The benchmarks' loads: iperf3 for TCP, weft-load for small UDP packets and for requests and responses.

Each load is a process at each end, pinned to one core for every subject alike.
"""

import json
import subprocess
from dataclasses import dataclass

from checks import Ports, end, inside, wait_for_listener
from nodes import BIN
from run import Hopeless, LabError, wait_for

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
        timeout=20,
    )


def tcp(run, way, streams, seconds):
    """iperf3; the rate is what the receiver counted."""
    port = Ports.take()
    listener = run.spawn(way.target.netns, *way.target_words("iperf3", "-s", "-1", "-p", port), log="iperf3.log")
    try:
        wait_for_listener(way.target, port)
        done = inside(
            way.source, *way.source_words("iperf3", "-c", way.address, "-p", port, "-t", seconds, "-P", streams, "-J"),
            "--connect-timeout", 15000, check=False, timeout=seconds + 30,
        )  # fmt: skip
    finally:
        end(listener)
    result = result_of("iperf3", done)
    if "error" in result or done.returncode != 0:
        raise WrongTraffic(f"iperf3 {way}: {result.get('error', f'exit code {done.returncode}')}")
    sent, received = result["end"]["sum_sent"], result["end"]["sum_received"]
    if not 0 < received["bytes"] <= sent["bytes"]:
        raise WrongTraffic(f"iperf3 {way}: {sent['bytes']} bytes sent, {received['bytes']} received")
    retransmits, mss = sent.get("retransmits", 0), result["start"]["tcp_mss_default"]
    return {
        "gbps": received["bits_per_second"] / 1e9,
        "loss": retransmits * mss / sent["bytes"],
        "retransmits": retransmits,
        "mss": mss,
    }


def udp_trial(run, way, rate, seconds, busy):
    """UDP packets at a rate (0: as many as the sender can); what was sent, and what of it came."""
    options = ("--buffer", RECEIVE_BUFFER, *(["--busy"] if busy else []))
    receiver, log, address = listening(run, way, ("receive",), options)
    try:
        done = inside(
            way.source, *way.source_words(LOAD, "send", address), "--rate", int(rate), "--size", PAYLOAD,
            "--seconds", seconds, check=False, timeout=seconds + 30,
        )  # fmt: skip
        sent = result_of("weft-load send", done)
        ended(receiver, log)
    finally:
        end(receiver)
    received = last_line(log)
    if received["received"] > sent["sent"] or received["twice"]:
        raise WrongTraffic(f"{way}: {sent['sent']} packets sent, {received['received']} and {received['twice']} twice received")
    return {
        "kpps": sent["pps"] / 1e3,
        "gbps": received["received"] * PAYLOAD * 8 / sent["seconds"] / 1e9,
        "loss": 1 - received["received"] / sent["sent"] if sent["sent"] else 1.0,
        "reordered": received["reordered"],
    }


def udp_search(run, way, busy):
    """The highest rate of which no more than `MOST_LOSS` is lost, by bisection below what the sender can send; with it,
    what a sender that does not stop sends and what of that arrives."""
    flood = udp_trial(run, way, 0, TRIAL_SECONDS, busy)
    most = flood["kpps"] * 1e3
    facts = {"flood_kpps": flood["kpps"], "flood_loss": flood["loss"]}
    if flood["loss"] <= MOST_LOSS:
        return 0, facts
    good, bad = most / 64, most
    while bad / good > 1.03:
        rate = (good * bad) ** 0.5
        if udp_trial(run, way, rate, TRIAL_SECONDS, busy)["loss"] <= MOST_LOSS:
            good = rate
        else:
            bad = rate
    return good, facts


def udp(run, way, seconds, busy, measured):
    """A search, and then a longer run at what it found, which is the one that counts; a rate that does not hold for that
    long is lowered until it does."""
    rate, facts = udp_search(run, way, busy)
    for _ in range(12):
        sample = measured(lambda: udp_trial(run, way, rate, seconds, busy))
        if sample["loss"] <= MOST_LOSS:
            break
        rate = (rate or facts["flood_kpps"] * 1e3) * 0.93
    else:
        raise WrongTraffic(f"{way}: {sample['loss']:.2%} lost even at {sample['kpps']:.0f} kpps")
    return sample | facts | {"payload": PAYLOAD, "receive_buffer": RECEIVE_BUFFER}


def request_response(run, way, protocol, seconds, pause=0):
    """Requests, one after the other, each after so many seconds of silence: how long the answers take."""
    echo, log, address = listening(run, way, ("echo", protocol), ("--size", PAYLOAD))
    try:
        done = inside(
            way.source, *way.source_words(LOAD, "ask", protocol, address), "--size", PAYLOAD, "--seconds", seconds,
            "--pause", pause, check=False, timeout=seconds + 30,
        )  # fmt: skip
        result = result_of("weft-load ask", done)
        ended(echo, log)
    finally:
        end(echo)
    answers, lost = result["answers"], result["lost"]
    return {
        "p50_us": result["p50_us"],
        "p90_us": result["p90_us"],
        "p99_us": result["p99_us"],
        "p999_us": result["p999_us"],
        "mean_us": result["mean_us"],
        "max_us": result["max_us"],
        "answers": answers,
        "loss": lost / (answers + lost),
        "payload": PAYLOAD,
    }


def listening(run, way, command, options):
    """Starts the end that is connected to, and waits until it is ready: the process, its output, its address."""
    port = Ports.take()
    address, log = f"{way.address}:{port}", run.dir / f"weft-load-{port}.log"
    process = run.spawn(way.target.netns, *way.target_words(LOAD, *command, address, *options), log=log.name)

    def ready():
        if process.poll() is not None:
            raise Hopeless(f"weft-load {command[0]} ended: {log.read_text(errors='replace').strip()}")
        return "listening" in log.read_text()

    try:
        wait_for(f"weft-load {command[0]} to listen", ready, every=0.01)
    except BaseException:
        end(process)
        raise
    return process, log, address


def ended(process, log):
    """Waits for the other end to have heard that the load is over."""
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        raise WrongTraffic("the receiver was not told that the sender has ended") from None
    if process.returncode != 0:
        raise WrongTraffic(f"the receiver: {log.read_text(errors='replace').strip().splitlines()[-1]}")


def last_line(log):
    return json.loads(log.read_text().splitlines()[-1])


def result_of(program, done):
    """The JSON that a load printed last."""
    try:
        # iperf3's is the whole output, and says what was wrong if something was; weft-load says that beside it.
        return json.loads(done.stdout)
    except ValueError as e:
        raise WrongTraffic(f"{program} said {done.stdout[-200:]!r} {done.stderr[-200:]!r}") from e
