"""The checks: what is asked of the lab, each with one line of output.

A check is a function that returns what it saw, or raises Wrong with the reason.
"""

import json
import re
import signal
import subprocess
import time
from itertools import combinations, permutations
from pathlib import Path

from nodes import cluster_toml, write_cluster
from run import LabError, call, wait_for

TRANSFER_BYTES = 64 << 20
TRANSFER = Path(__file__).with_name("transfer.py")
TICKS_A_SECOND = 100  # USER_HZ: fixed on x86 and Arm


class Wrong(Exception):
    """A check saw something else than it should."""


class Report:
    """Counts, and prints a line a check as it ends."""

    def __init__(self):
        self.passed, self.failed = 0, 0

    def check(self, name, function, *arguments):
        try:
            seen = function(*arguments)
        except (Wrong, LabError, OSError, ValueError, KeyError, subprocess.SubprocessError) as e:
            self.failed += 1
            reason = str(e) if isinstance(e, (Wrong, LabError)) else f"{type(e).__name__}: {e}"
            print(f"FAIL {name}: {reason}", flush=True)
        else:
            self.passed += 1
            print(f"ok   {name}{f' ({seen})' if seen else ''}", flush=True)


def inside(place, *command, **how):
    """Runs a command inside a node or a pod."""
    return call("ip", "netns", "exec", place.netns, *command, **how)


def ping(place, address, size=56):
    """Three echoes that must all be answered, within ten seconds and in whatever order: a kernel that learns of a neighbour
    sends what comes just then before what has waited. So `ping` goes on until they are, not so fast that the kernel has no more
    room for what waits."""
    command = ["ip", "netns", "exec", place.netns, "ping", "-n", "-i", "0.05", "-w", "10", "-s", str(size), address]
    said, times = [], {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            said.append(line)
            if answer := re.search(r" bytes from .* icmp_seq=(\d+) ttl=\d+ time=([\d.]+) ms", line):
                times[int(answer[1])] = float(answer[2])
            if "(DUP!)" in line:
                process.kill()
                raise Wrong(f"answered twice: {line.strip()}")
            if times.keys() >= {1, 2, 3}:
                process.kill()
                return f"{sum(times[number] for number in (1, 2, 3)) / 3:.2f} ms"
    hint = re.search(r"From .*|.*[Uu]nreachable.*|.*exceeded.*", "".join(said))
    numbers = ", ".join(str(number) for number in sorted(times)[:5]) or "none"
    raise Wrong(f"answered: {numbers}{'; ' + hint[0] if hint else ''}")


def ping_in_fragments(pod, address):
    """Echoes of 4,000 bytes. A kernel pod's MTU is 1450, its tunnel over IPv6 takes 1430: first an echo, then an
    answer may end as "packet too big", from which the two pods learn."""
    inside(pod, "ping", "-n", "-c", 3, "-i", 0.02, "-W", 0.3, "-s", 4000, address, check=False)
    return ping(pod, address, 4000)


def pairs_by_kind(pods):
    """One pair of pods for every combination of how the two are joined and whether they share a node."""
    found = {}
    for one, other in combinations(pods, 2):
        near = one.node is other.node
        if near and one.kind == other.kind == "kernel" and any(pod.kind != "kernel" for pod in pods):
            continue  # Nothing of weft is on the way.
        found.setdefault((near, *sorted((one.kind, other.kind))), (one, other))
    return list(found.values())


def pings(report, nodes, pods):
    for family in (4, 6):
        for source, target in permutations(pods, 2):
            report.check(f"ping{family} {source.name} -> {target.name}", ping, source, target.addresses[family])
    for family in (4, 6):
        for node in nodes:
            for pod in pods:
                report.check(f"ping{family} node {node.name} -> {pod.name}", ping, node, pod.addresses[family])
        for pod in pods:
            gateway = pod.node.gateways[family]
            report.check(f"ping{family} {pod.name} -> its gateway {gateway}", ping, pod, gateway)
            for node in nodes:
                name = f"ping{family} {pod.name} -> node {node.name} {node.addresses[family]}"
                report.check(name, ping, pod, node.addresses[family])
    for family in (4, 6):
        for one, other in pairs_by_kind(pods):
            for source, target in ((one, other), (other, one)):
                name = f"ping{family} in fragments, {kinds(source, target)}"
                report.check(name, ping_in_fragments, source, target.addresses[family])


def kinds(one, other):
    """`a1 (tap) -> c1 (kernel)`"""
    return f"{one.name} ({one.kind}) -> {other.name} ({other.kind})"


class Ports:
    """A new TCP port for every server, so that none waits for the last one's connections to be forgotten."""

    next = 20000

    @classmethod
    def take(cls):
        cls.next += 1
        return cls.next


def wait_for_listener(place, port):
    wait_for(f"a listener on port {port}", lambda: inside(place, "ss", "-Hltn", "sport", "=", f":{port}").stdout)


def iperf(run, client, server, address, reverse, quick):
    """One TCP stream; the rate is what the receiver counted. No rate is asked for, only that data arrives."""
    port = Ports.take()
    listener = run.spawn(server.netns, "iperf3", "-s", "-1", "-p", port, log="iperf3.log")
    try:
        wait_for_listener(server, port)
        amount = ("-n", "32M") if quick else ("-t", 1)
        direction = ("-R",) if reverse else ()
        done = inside(client, "iperf3", "-c", address, "-p", port, *amount, *direction, "--connect-timeout", 15000, "-J",
                      check=False, timeout=60)  # fmt: skip
        try:
            result = json.loads(done.stdout)
        except ValueError as e:
            raise Wrong(f"iperf3 said {done.stdout[:100]!r} {done.stderr[:100]!r}") from e
        if "error" in result:
            raise Wrong(result["error"])
        received, sent = result["end"]["sum_received"], result["end"]["sum_sent"]
        if received["bytes"] < 1 << 20:
            raise Wrong(f"only {received['bytes']} bytes arrived")
        return f"{received['bits_per_second'] / 1e9:.2f} Gbit/s, {sent.get('retransmits', 0)} retransmits"
    finally:
        end(listener)


def iperfs(report, run, pods, quick):
    for family in (4, 6):
        for one, other in pairs_by_kind(pods):
            if family == 6 and one.node is other.node:
                continue
            address = other.addresses[family]
            report.check(f"iperf3 v{family} {kinds(one, other)}", iperf, run, one, other, address, False, quick)
            report.check(f"iperf3 v{family} {kinds(other, one)}", iperf, run, one, other, address, True, quick)


def transfer(run, source, target, family, file, digest):
    """Every byte arrives as it was sent."""
    port = Ports.take()
    log = f"receive-{port}.log"
    receiver = run.spawn(target.netns, "/usr/bin/python3", "-B", TRANSFER, "recv", port, log=log)
    try:
        wait_for("the receiver", lambda: "listening" in (run.dir / log).read_text(), timeout=20)
        begin = time.monotonic()
        sender = inside(source, "/usr/bin/python3", "-B", TRANSFER, "send", target.addresses[family], port, file,
                        check=False, timeout=60)  # fmt: skip
        seconds = time.monotonic() - begin
        if sender.returncode != 0:
            raise Wrong((sender.stderr.strip() or "the sender failed").splitlines()[-1])
        receiver.wait(timeout=20)
        said = (run.dir / log).read_text().split()
        if said[1:] != [str(TRANSFER_BYTES), digest]:
            raise Wrong(f"sent {TRANSFER_BYTES} bytes with SHA-256 {digest[:16]}…, received {' '.join(said[1:])[:80]!r}")
        return f"sha256 {digest[:8]}…, {seconds:.1f} s"
    finally:
        end(receiver)


def transfers(report, run, pods):
    import hashlib
    import os

    file = run.dir / "random"
    digest = hashlib.sha256()
    with open(file, "wb") as out:
        for _ in range(TRANSFER_BYTES >> 20):
            block = os.urandom(1 << 20)
            digest.update(block)
            out.write(block)
    for family in (4, 6):
        for one, other in pairs_by_kind(pods):
            for source, target in ((one, other), (other, one)):
                name = f"64 MiB v{family} {kinds(source, target)}"
                report.check(name, transfer, run, source, target, family, file, digest.hexdigest())
    file.unlink()


class Pinging:
    """A ping every 50 ms, from start to stop: what comes all at once after a machine stood still is no more than its socket holds."""

    def __init__(self, run, source, target, family=4):
        self.name = f"{source.name} -> {target.name}"
        self.log = run.dir / f"pinging-{source.name}-{target.name}-{Ports.take()}.log"
        self.process = run.spawn(
            source.netns, "ping", "-n", "-D", "-i", "0.05", target.addresses[family], log=self.log.name
        )
        wait_for(f"ping {self.name} to be answered", lambda: len(self.answers()) >= 5)

    def answers(self):
        """Time and sequence number of every answer so far."""
        found = re.findall(r"^\[([\d.]+)\] \d+ bytes from .* icmp_seq=(\d+)", self.log.read_text(), re.MULTILINE)
        return [(float(at), int(number)) for at, number in found]

    def answered_since(self, moment):
        """Whether answers have come for half a second after a moment (seconds since 1970)."""
        return any(at > moment + 0.5 for at, _ in self.answers())

    def stop(self):
        """Ends it. The number of echoes, of those that were lost, and the longest silence in ms."""
        # Whatever was lost shows as a hole once a later echo is answered: half a second of them.
        now = time.time()
        try:
            wait_for(f"ping {self.name} to be answered again", lambda: self.answered_since(now), timeout=20)
        except LabError:
            pass
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=20)
        answers = self.answers()
        numbers = [number for _, number in answers]
        silences = [later - earlier for (earlier, _), (later, _) in zip(answers, answers[1:])]
        lost = numbers[-1] - len(set(numbers))
        if answers[-1][0] < now:
            raise Wrong(f"{self.name}: no answer any more since echo {numbers[-1]}")
        return numbers[-1], lost, max(silences) * 1000


def end(process):
    """Ends a process that may have ended already."""
    if process.poll() is None:
        process.kill()
    process.wait()


def reconfigure(run, nodes, pinging):
    """A fourth node comes and goes by edits of cluster.toml, while pods ping."""
    weft = [node for node in nodes if node.kind == "weft"]
    fourth = (
        '[[node]]\nname = "d"\nsubnets = ["10.244.3.0/24", "fd00:10:244:3::/64"]\npublic_ip = "172.16.0.4"\n'
        'public_ipv6 = "fd00:172:16::4"\nvtep_mac = "02:00:5e:00:04:04"\nvtep_mac_v6 = "02:00:5e:00:06:04"\n'
    )
    streams = [Pinging(run, source, target) for source, target in pinging]
    for text, there in ((cluster_toml(nodes, fourth), True), (cluster_toml(nodes), False)):
        write_cluster(run, text)
        for node in weft:
            wait_for(
                f"{node.name} to {'have' if there else 'forget'} the peer d",
                lambda: any(peer["name"] == "d" for peer in node.json("status")["peers"]) == there,
            )
    return no_loss(streams)


def refuse(run, nodes, pinging):
    """A wrong edit is refused whole, `weft status` says where and why, and traffic goes on."""
    weft = [node for node in nodes if node.kind == "weft"]
    right = cluster_toml(nodes)
    wrong = right.replace(f'"{nodes[2].subnets[4]}"', '"10.244.2.0/42"')
    line = 1 + next(i for i, (a, b) in enumerate(zip(right.splitlines(), wrong.splitlines())) if a != b)
    generations = [node.json("status")["generation"] for node in weft]
    streams = [Pinging(run, source, target) for source, target in pinging]
    write_cluster(run, wrong)
    for node in weft:
        reason = wait_for(f"{node.name} to refuse it", lambda: node.json("status")["source"]["last_error"])
        if not re.search(rf"\b(line |toml:|L)?{line}\b", reason):
            raise Wrong(f"{node.name} does not name line {line}: {reason!r}")
        shown = node.weft("status").stdout
        if reason.splitlines()[0] not in shown:
            raise Wrong(f"`weft status` on {node.name} does not show the reason {reason!r}")
    if generations != [node.json("status")["generation"] for node in weft]:
        raise Wrong("the wrong state was put in force, in part at least")
    write_cluster(run, right)
    for node in weft:
        wait_for(f"{node.name} to be content again", lambda: not node.json("status")["source"]["last_error"])
    return f"{' '.join(reason.split())[:100]}; {no_loss(streams)}"


def no_loss(streams):
    """Ends the pings; none may have lost an echo."""
    results = [(stream.name, *stream.stop()) for stream in streams]
    for name, sent, lost, silence in results:
        if lost:
            raise Wrong(f"{name}: {lost} of {sent} echoes lost, longest silence {silence:.0f} ms")
    return ", ".join(f"{name}: 0 of {sent} lost" for name, sent, _, _ in results)


def kill_and_restart(run, node, pinging):
    """weftd dies by SIGKILL and is started again: the pods keep what they have and their traffic comes back. weft needs less than
    two seconds for that; only after ten it counts as too long, since a busy machine may itself stand still for some."""
    taps = [pod for pod in node.pods if pod.kind != "kernel"]
    before = [pod.interface() for pod in taps]
    streams = [Pinging(run, source, target) for source, target in pinging]
    node.process.kill()
    node.process.wait()
    node.launch()
    restarted = time.time()
    for stream in streams:
        wait_for(f"traffic {stream.name} after the restart", lambda: stream.answered_since(restarted), timeout=10)
    results = [(stream.name, *stream.stop()) for stream in streams]
    if before != [pod.interface() for pod in taps]:
        raise Wrong(f"a pod's interface changed: {before} before, {[pod.interface() for pod in taps]} after")
    wait_for(f"node {node.name} to be complete", lambda: node.status() is None)
    slow = [f"{name} {silence:.0f} ms" for name, _, _, silence in results if silence > 10_000]
    if slow:
        raise Wrong(f"traffic was away for more than 10 s: {', '.join(slow)}")
    gaps = ", ".join(f"{name} away {silence:.0f} ms" for name, _, _, silence in results)
    return f"ready after {node.ready_ms:.0f} ms, {gaps}"


def counters_add_up(node):
    """rx + originated = tx + consumed + merged + drops, once nothing is on its way."""
    last, deadline = None, time.monotonic() + 5
    while True:
        total = node.json("stats")["total"]
        if total == last or time.monotonic() > deadline:
            break
        last = total
        time.sleep(0.2)
    came, went = (["rx", "originated"], ["tx", "consumed", "merged", "drops"])
    shown = ", ".join(" + ".join(f"{name} {total[name]}" for name in names) for names in (came, went))
    came, went = (sum(total[name] for name in names) for names in (came, went))
    if came != went:
        raise Wrong(f"{shown}: {came} came, {went} went")
    return shown


def end_in_time(node):
    """SIGTERM ends weftd and leaves the pods' interfaces. weft needs less than a second for that; only after five it counts as
    too long, since a busy machine may itself stand still for some."""
    pods = [pod for pod in node.pods if pod.kind == "tap"]
    before = [pod.interface() for pod in pods]
    begin = time.monotonic()
    node.process.terminate()
    try:
        code = node.process.wait(timeout=5)
    except Exception as e:
        raise Wrong("still running 5 s after SIGTERM") from e
    took = (time.monotonic() - begin) * 1000
    if code != 0:
        raise Wrong(f"exit code {code} after {took:.0f} ms")
    if before != [pod.interface() for pod in pods]:
        raise Wrong("a pod's interface changed")
    return f"{took:.0f} ms"


def cost(node, seconds=4.0):
    """What weftd takes while nothing happens, as a line."""
    ticks = lambda: sum(int(n) for n in Path(f"/proc/{node.pid}/stat").read_text().rpartition(")")[2].split()[11:13])
    before, begin = ticks(), time.monotonic()
    time.sleep(seconds)
    share = (ticks() - before) / TICKS_A_SECOND / (time.monotonic() - begin)
    resident = int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{node.pid}/status").read_text())[1]) / 1024
    return f"idle {share:.1%} of a core, {resident:.0f} MiB resident, ready {node.ready_ms:.0f} ms after start"
