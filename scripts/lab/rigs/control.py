"""`scripts/bench control`: what weftd's control side costs in a cluster of 5,000 nodes, whose leases are in a real etcd.

    node a      weftd (uplink `socket`), etcd on its loopback, and a pod that sends
    far         the underlay's other end: behind it are the addresses of all other nodes, and it sees every tunnel packet

Whether a node is reached is judged by packets alone: the pod sends a datagram to an address of its subnet, and a tunnel packet with
that destination, and its VTEP's MAC address inside, arrives at the far end. Neither weftd nor etcd is asked.
"""

import base64
import contextlib
import ctypes
import http.client
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

from checks import end
from gauges import busy_pct, usable_cores
from goals import goal
from nodes import BIN, UNDERLAY_MTU, Node, WeftNode
from rig import Failures, Progress, above_zero, columns, in_turn, middle, parsed, parser, say, spread, warn_if_busy
from run import LabError, call, wait_for

WHAT = "cold start, changes, memory, pods and the loss of the store, at 5,000 nodes in etcd"

COLD, CHANGE, MEMORY, ADD, LOSS = NAMES = ("cold-start", "change", "memory", "cni-add", "store-loss")
# How often the plugin is called by itself.
ALONE = 11
# What it may take then, in milliseconds.
ALONE_MS, _ = goal("control", "cni-add-alone")
# How often the C loop and weftd have their turns in a round, whose medians count.
ADD_TURNS = 3
# What each figure is: its unit, and what it must not exceed.
CASES = {
    COLD: ("s", "from weftd's start until every node's subnet is forwarded to"),
    CHANGE: ("ms", "from the coming of one node in etcd, or its new VTEP MAC, to the first packet to it so, 99th percentile"),
    MEMORY: ("MiB", "resident memory with all nodes and 250 pods (of a quick run 25); packet buffers in ordinary pages are among it"),
    ADD: ("x", f"100 pods added at once, by a C loop that does the same to the kernel; and the plugin alone within {ALONE_MS:g} ms"),
    LOSS: ("packets", "lost while etcd stands still, is killed, compacted, and restored from a snapshot"),
}
NODES, PODS, ADDS, CHANGES = 5000, 250, 100, 300
PREFIX = "/coreos.com/network"
ENDPOINT = ("127.0.0.1", 2379)
VNI, PORT = 1, 8472
# Of a tunnel packet over IPv4: the outer UDP port, and the inner packet's destinations.
UDP_PORT, INNER = 14 + 20 + 2, 14 + 20 + 8 + 8
INNER_MAC, INNER_DESTINATION, INNER_PORT = INNER, INNER + 14 + 16, INNER + 14 + 20 + 2
PROBE, STREAM = 9001, 9002
# While etcd is lost: to so many nodes in turn, so often a second.
STREAM_NODES, STREAM_A_SECOND = 100, 1000
# By more seconds than these it does not catch up.
STREAM_BEHIND = 0.05
# Packets that the pod's interface holds meanwhile, and those that it holds as the kernel makes it: what a machine that stands still
# for a second holds up is late, not lost.
STREAM_QUEUE, QUEUE = 3000, 500
# How long etcd does not answer, in seconds.
OUTAGE = 60
SETTLE_SECONDS = 1.0
# A change that is not in force by then never will be.
CHANGE_SECONDS = 10
CLONE_NEWNET = 0x40000000


def arguments(words=None):
    width = max(map(len, CASES))
    epilog = "cases; none may exceed its limit:\n" + "\n".join(
        f"  {name:{width}}  {what} (at most {goal('control', name)[0]:g} {unit})" for name, (unit, what) in CASES.items())  # fmt: skip
    made = parser("control", f"Measures {WHAT}.", NAMES, epilog, seconds=10)
    made.add_argument("--nodes", type=above_zero, default=NODES, metavar="N", help=f"of the cluster (default: {NODES})")
    made.add_argument("--outage", type=above_zero, metavar="S",
                      help=f"seconds for which etcd stands still, and for which it is gone (default: {OUTAGE}; of a quick run as --seconds)")  # fmt: skip
    options = parsed(made, words, NAMES)
    options.outage = options.outage or (options.seconds if options.quick else OUTAGE)
    if options.require and LOSS in options.cases and options.outage < OUTAGE:
        made.error(f"--require: nothing is decided by an outage of less than {OUTAGE} s")
    return options


def prepare(_options):
    for program in ("etcd", "etcdctl", "cc"):
        if not any(os.access(f"{folder}/{program}", os.X_OK) for folder in os.environ["PATH"].split(":")):
            raise LabError(f"{program} is not installed; scripts/setup installs it")


@contextlib.contextmanager
def inside(netns):
    """This thread is in a namespace; what it opens stays there."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net", "rb") as home, open(f"/run/netns/{netns}", "rb") as there:
        if libc.setns(there.fileno(), CLONE_NEWNET):
            raise LabError(f"cannot enter {netns}: {os.strerror(ctypes.get_errno())}")
        try:
            yield
        finally:
            libc.setns(home.fileno(), CLONE_NEWNET)


# The store


def number(index):
    """The first three numbers of a node's subnet: they count from 10.64.1 on."""
    at = index + 1
    return f"10.{64 + at // 256}.{at % 256}"


def mac(index, turn=0):
    """A VTEP's MAC address: another one in each turn."""
    return bytes((2, 0, turn, index >> 16 & 255, index >> 8 & 255, index & 255))


def lease(index, turn=0):
    """Key and value as flannel writes them."""
    value = {"PublicIP": f"172.17.{index // 250}.{1 + index % 250}", "PublicIPv6": None, "BackendType": "vxlan",
             "BackendData": {"VNI": VNI, "VtepMAC": mac(index, turn).hex(":")}}  # fmt: skip
    return f"{PREFIX}/subnets/{number(index)}.0-24", json.dumps(value, separators=(",", ":"))


def destination(index, turn=0):
    """To whom a packet for a node goes, inside the tunnel."""
    return mac(index, turn) + socket.inet_aton(f"{number(index)}.9")


class Etcd:
    """A real etcd on a node's loopback, with its data in memory: it is not the disk that is measured."""

    def __init__(self, run, netns):
        self.run, self.netns, self.child, self.count, self.lease = run, netns, None, 0, None
        self.data = run.memory() / "etcd"

    def start(self):
        endpoint, peer = "http://{}:{}".format(*ENDPOINT), "http://127.0.0.1:2380"
        self.child = self.run.spawn(
            self.netns, "etcd", "--name", "bench", "--log-level", "warn", "--data-dir", self.data, "--listen-client-urls", endpoint,
            "--advertise-client-urls", endpoint, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", f"bench={peer}", log="etcd.log")  # fmt: skip
        wait_for("etcd to answer", self.answers, timeout=20)

    def answers(self):
        try:
            return self.ask("maintenance/status", {})
        except (OSError, http.client.HTTPException) as e:
            raise LabError(str(e)) from e

    def kill(self):
        if self.child:
            self.child.kill()
            self.child.wait()
            self.child = None

    def ask(self, what, body):
        """By its JSON gateway."""
        with inside(self.netns):
            connection = http.client.HTTPConnection(*ENDPOINT, timeout=10)
            connection.connect()
        try:
            connection.request("POST", f"/v3/{what}", json.dumps(body))
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise LabError(f"etcd: {what}: {text[:200]!r}")
            return json.loads(text)
        finally:
            connection.close()

    def ctl(self, *words):
        return call("ip", "netns", "exec", self.netns, "env", "ETCDCTL_API=3", "etcdctl", "--endpoints", "http://{}:{}".format(*ENDPOINT), *words)

    def put(self, pairs):
        """Keys with values, under a lease that lasts."""
        self.lease = self.lease or self.ask("lease/grant", {"TTL": 86400})["ID"]
        coded = lambda text: base64.b64encode(text.encode()).decode()
        puts = [{"requestPut": {"key": coded(key), "value": coded(value), "lease": self.lease}} for key, value in pairs]
        for start in range(0, len(puts), 100):
            answer = self.ask("kv/txn", {"success": puts[start : start + 100]})
        return int(answer["header"]["revision"])

    def delete(self, key):
        self.ask("kv/deleterange", {"key": base64.b64encode(key.encode()).decode()})

    def compact(self, revision):
        self.ask("kv/compaction", {"revision": revision})

    def restore(self, snapshot):
        """As an operator does: another data folder, made of the snapshot."""
        self.kill()
        self.count += 1
        self.data = self.run.memory() / f"etcd-{self.count}"
        call("env", "ETCDCTL_API=3", "etcdctl", "snapshot", "restore", snapshot, "--data-dir", self.data, "--name", "bench",
             "--initial-cluster", "bench=http://127.0.0.1:2380", "--initial-advertise-peer-urls", "http://127.0.0.1:2380")  # fmt: skip
        self.start()


# The node


class ControlNode(WeftNode):
    """weftd with its leases in etcd."""

    def settings(self):
        settings = super().settings()
        settings["dataplane"] |= {"workers": 1, "cores": [0], "memory": "48MiB"}
        settings["source"] = {"kind": "etcd"}
        settings["etcd"] = {"endpoints": "http://{}:{}".format(*ENDPOINT)}
        settings["flannel"] = {"subnet_file": f"{self.dir}/subnet.env"}
        return settings

    def stop(self):
        end(self.process)

    def subnet(self):
        """The first three numbers of its subnet."""
        return self.json("status")["source"]["store"]["subnets"][0].rpartition(".")[0]

    def ask(self, method, path, body=None):
        """The control socket, without a program in between."""
        connection = http.client.HTTPConnection("weft", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(60)
        connection.sock.connect(str(self.socket))
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def ask_all(self, requests):
        """All of (method, path, body) at once, each on a connection of its own: the answers in no order, and how many milliseconds they
        took. In one thread: it is not Python's that are measured."""
        texts = []
        for method, path, body in requests:
            text = json.dumps(body) if body is not None else ""
            texts.append(f"{method} {path} HTTP/1.1\r\nHost: weft\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())
        waiting, answers = set(), []
        begin = time.monotonic()
        try:
            for text in texts:
                connection = socket.socket(socket.AF_UNIX)
                waiting.add(connection)
                connection.settimeout(60)
                connection.connect(str(self.socket))
                connection.sendall(text)
            while waiting:
                for connection in select.select(waiting, [], [], 60)[0] or [None]:
                    if connection is None:
                        raise LabError(f"{len(waiting)} of {len(texts)} requests are not answered within 60 s")
                    answer = http.client.HTTPResponse(connection)
                    answer.begin()
                    answers.append((answer.status, answer.read()))
                    waiting.remove(connection)
                    connection.close()
        finally:
            for connection in waiting:
                connection.close()
        return answers, (time.monotonic() - begin) * 1000

    def pod(self, name, netns, host, ifname="eth0"):
        """The request for one."""
        return "POST", "/v1/pods", {"name": name, "kind": "tap", "netns": f"/run/netns/{netns}", "ifname": ifname, "addresses": [f"{self.subnet_text}.{host}"]}

    def add(self, *pod):
        status, answer = self.ask(*self.pod(*pod))
        return status == 201, answer


class Far:
    """Sees every tunnel packet, and to whom it goes: when the first one to each destination came."""

    def __init__(self, netns):
        with inside(netns):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
            self.socket.bind(("u0", 0))
        # More than any burst of a case; SO_RCVBUFFORCE.
        self.socket.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)
        self.seen, self.stream, self.missed, self.stopped = {}, 0, 0, False
        self.thread = threading.Thread(target=self.look, daemon=True)
        self.thread.start()

    def look(self):
        while not self.stopped:
            if not select.select([self.socket], [], [], 0.2)[0]:
                continue
            frame = self.socket.recv(2048)
            if len(frame) < INNER_PORT + 2 or frame[12:14] != b"\x08\x00" or frame[UDP_PORT : UDP_PORT + 2] != struct.pack("!H", PORT):
                continue
            port = struct.unpack_from("!H", frame, INNER_PORT)[0]
            if port == STREAM:
                self.stream += 1
            elif port == PROBE:
                to = frame[INNER_MAC : INNER_MAC + 6] + frame[INNER_DESTINATION : INNER_DESTINATION + 4]
                self.seen.setdefault(to, time.monotonic())

    def lost(self):
        """Packets that this socket had no room for: PACKET_STATISTICS, which clears them."""
        _, dropped = struct.unpack("II", self.socket.getsockopt(263, 6, 8))
        self.missed += dropped
        return self.missed

    def close(self):
        self.stopped = True
        self.thread.join()
        self.socket.close()


class Lab:
    """The underlay with both ends, etcd, and weftd when it is started."""

    def __init__(self, run, nodes):
        self.run, self.nodes, self.turn = run, nodes, 0
        self.node, self.far = ControlNode(run, 0, "a"), Node(run, 1, "far")
        underlay = run.netns("underlay")
        call("ip", "-n", underlay, "link", "add", "br0", "mtu", UNDERLAY_MTU, "type", "bridge", "forward_delay", 0)
        call("ip", "-n", underlay, "link", "set", "br0", "up")
        for node in (self.node, self.far):
            node.join(underlay)
        # All other nodes are behind the far end.
        call("ip", "-n", self.node.netns, "route", "add", "172.16.0.0/12", "via", self.far.underlay[4])
        self.pod = run.netns("pod")
        self.etcd = Etcd(run, self.node.netns)
        self.etcd.start()
        self.etcd.ask("kv/put", {"key": base64.b64encode(f"{PREFIX}/config".encode()).decode(),
                                 "value": base64.b64encode(json.dumps({"Network": "10.64.0.0/11", "Backend": {"Type": "vxlan"}}).encode()).decode()})  # fmt: skip
        self.node.start(None)
        self.node.subnet_text = self.node.subnet()
        added, answer = self.node.add("pod", self.pod, 5)
        if not added:
            raise LabError(f"the pod is not added: {answer}")
        with inside(self.pod):
            self.sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.watch = Far(self.far.netns)
        # The own subnet is nobody else's.
        self.others = [index for index in range(nodes + 1) if number(index) != self.node.subnet_text][:nodes]
        self.etcd.put([lease(index) for index in self.others])

    def close(self):
        self.watch.close()
        self.sender.close()

    def send(self, index, port=PROBE):
        with contextlib.suppress(OSError):  # such as what an ICMP error says
            self.sender.sendto(b"weft", (f"{number(index)}.9", port))

    def reaches(self, index):
        """Whether a packet to it goes there now."""
        self.watch.seen.pop(destination(index), None)
        self.send(index)
        time.sleep(0.1)
        return self.seen(index) is not None

    def seen(self, index, turn=0):
        return self.watch.seen.get(destination(index, turn))

    def until_all(self, begin, timeout):
        """Sends to each node until it is reached; when the last one was, after `begin`."""
        missing = self.others
        while missing:
            for index in missing:
                self.send(index)
            time.sleep(0.005)
            missing = [index for index in missing if not self.seen(index)]
            if time.monotonic() - begin > timeout:
                raise LabError(f"{len(missing)} of {self.nodes} nodes are not reached after {timeout} s, {number(missing[0])}.0 among them")
        return max(self.seen(index) for index in self.others) - begin

    def restart(self):
        """Starts weftd anew, without what it kept of the store; how long until all nodes are reached."""
        self.node.stop()
        (Path(self.node.dir) / "state/cluster.json").unlink(missing_ok=True)
        self.watch.seen.clear()
        begin = time.monotonic()
        starting = threading.Thread(target=self.node.launch)
        starting.start()
        try:
            return self.until_all(begin, 60)
        finally:
            starting.join()


# The cases: a sample each


def cold_start(lab, _options):
    return {"value": lab.restart()}


def change(lab, options, after=0):
    """Nodes come, and then as many that are there get another VTEP MAC, one at a time; each is waited for. Those that come are the first
    ones `after` so many beyond the cluster's."""
    count = CHANGES // 10 if options.quick else CHANGES
    lab.turn = lab.turn % 255 + 1
    there = lab.others[: count // 2]
    first, come = lab.nodes + 1 + after, count - len(there)
    fresh = [index for index in range(first, first + come + 1) if number(index) != lab.node.subnet_text][:come]
    try:
        came = [changed(lab, index) for index in fresh]
        moved = [changed(lab, index, lab.turn) for index in there]
    finally:
        lab.etcd.put([lease(index) for index in there])
        for index in fresh:
            lab.etcd.delete(lease(index)[0])
    delays = came + moved
    of = lambda some, share: sorted(some)[min(len(some) - 1, int(share * len(some)))]
    return {"value": of(delays, 0.99), "median_ms": of(delays, 0.5), "most_ms": max(delays), "changes": len(delays),
            "macs": len(moved), "came_median_ms": of(came, 0.5), "mac_median_ms": of(moved, 0.5)}  # fmt: skip


def changed(lab, index, turn=0):
    """How many milliseconds it takes until packets go to a node as its lease has it from now on."""
    lab.watch.seen.pop(destination(index, turn), None)
    pair = lease(index, turn)
    begin = time.monotonic()
    lab.etcd.put([pair])
    while not (when := lab.seen(index, turn)):
        lab.send(index)
        time.sleep(0.0003)
        if time.monotonic() - begin > CHANGE_SECONDS:
            raise LabError("a node is not reached as it is now: {} {}".format(*pair))
    time.sleep(0.03)
    return (when - begin) * 1000


def resident(pid):
    """Resident memory in bytes. Packet buffers in ordinary pages are among it."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
    return int(found[1]) * 1024


def memory(lab, options):
    count = PODS // 10 if options.quick else PODS
    many = lab.run.netns(f"many{time.monotonic_ns() % 1_000_000}")
    names = [f"many-{number}" for number in range(count - 1)]
    try:
        for at, name in enumerate(names):
            added, answer = lab.node.add(name, many, 6 + at, f"p{at}")
            if not added:
                raise LabError(f"pod {name}: {answer}")
        time.sleep(3)  # further queues, and what is given back
        whole = resident(lab.node.pid)
    finally:
        for name in names:
            lab.node.ask("DELETE", f"/v1/pods/{name}")
        call("ip", "netns", "del", many)
    return {"value": whole / (1 << 20), "pods": count}


def alone(lab, spaces):
    """How many milliseconds the plugin takes from its start to its end, without IPAM and with nothing beside it: the median."""
    took = []
    for at, space in enumerate(spaces):
        conf = {"cniVersion": "1.0.0", "name": "bench", "type": "weft-cni", "ipam": {}, "weftdSocket": str(lab.node.socket),
                "stateDir": f"{lab.node.dir}/state", "subnetFile": f"{lab.node.dir}/subnet.env",
                "runtimeConfig": {"ips": [f"{lab.node.subnet_text}.{200 + at}/24"]}}  # fmt: skip
        environment = os.environ | {"CNI_CONTAINERID": f"alone-{at}", "CNI_NETNS": f"/run/netns/{space}", "CNI_IFNAME": "eth0", "CNI_PATH": "/nowhere"}
        for command in ("ADD", "DEL"):
            begin = time.monotonic()
            done = subprocess.run([BIN / "weft-cni"], env=environment | {"CNI_COMMAND": command}, input=json.dumps(conf), capture_output=True, text=True)
            if command == "ADD":
                took.append((time.monotonic() - begin) * 1000)
            if done.returncode:
                raise LabError(f"weft-cni {command}: {done.stdout or done.stderr}")
    return sorted(took)[len(took) // 2]


def cni_add(lab, _options):
    """A C loop and weftd, in turn and in the same namespaces; and the plugin by itself."""
    program = lab.run.dir / "taps"
    if not program.exists():
        call("cc", "-O2", "-o", program, Path(__file__).parents[1] / "taps.c")
    spaces = [lab.run.netns(f"add{at}") for at in range(ADDS)]
    names = [f"add-{at}" for at in range(ADDS)]
    delete = [("DELETE", f"/v1/pods/{name}", None) for name in names]
    taken = {"c_loop_ms": [], "weftd_ms": [], "delete_ms": []}
    try:
        # Making so many namespaces keeps the kernel busy for longer than that takes.
        time.sleep(SETTLE_SECONDS)
        for _ in range(ADD_TURNS):
            taken["c_loop_ms"].append(int(call(program, *(f"/run/netns/{space}" for space in spaces), timeout=60).stdout) / 1000)
            added, took = lab.node.ask_all([lab.node.pod(names[at], spaces[at], 20 + at) for at in range(ADDS)])
            taken["weftd_ms"].append(took)
            lost = [answer for status, answer in added if status != 201]
            lost += [space for space in spaces if call("ip", "-n", space, "link", "show", "eth0", check=False).returncode]
            if lost:
                raise LabError(f"{len(lost)} of {ADDS} pods were not added: {lost[0]}")
            taken["delete_ms"].append(lab.node.ask_all(delete)[1])
        plugin = alone(lab, spaces[:ALONE])
    finally:
        with contextlib.suppress(OSError):  # a weftd that has ended has told why
            lab.node.ask_all(delete)
        for space in spaces:
            call("ip", "netns", "del", space)
    taken = {name: sorted(times)[len(times) // 2] for name, times in taken.items()}
    return {"value": taken["weftd_ms"] / taken["c_loop_ms"], "alone_ms": plugin} | taken


def store_loss(lab, options):
    """A stream to many nodes goes on while all that can happen to the store happens."""
    seconds, to = options.seconds, lab.others[:STREAM_NODES]
    snapshot = lab.run.dir / f"snapshot-{time.monotonic_ns()}"
    stop, sent, told = threading.Event(), [0], []

    def stream():
        due = time.monotonic()
        while not stop.is_set():
            lab.send(to[sent[0] % len(to)], STREAM)
            sent[0] += 1
            due, now = due + 1 / STREAM_A_SECOND, time.monotonic()
            if now - due > STREAM_BEHIND:
                due = now
            time.sleep(max(0.0, due - now))

    queue = lambda packets: call("ip", "-n", lab.pod, "link", "set", "eth0", "txqueuelen", packets)
    queue(STREAM_QUEUE)
    before, missed = lab.watch.stream, lab.watch.lost()
    sending = threading.Thread(target=stream)
    sending.start()
    try:
        lab.etcd.ctl("snapshot", "save", snapshot)
        # It answers nothing, and then is slow: it has a tenth of the time.
        os.kill(lab.etcd.child.pid, signal.SIGSTOP)
        time.sleep(options.outage)
        for _ in range(seconds):
            os.kill(lab.etcd.child.pid, signal.SIGCONT)
            time.sleep(0.1)
            os.kill(lab.etcd.child.pid, signal.SIGSTOP)
            time.sleep(0.9)
        os.kill(lab.etcd.child.pid, signal.SIGCONT)
        told.append("slow")
        # It is gone, comes again, and has forgotten what happened meanwhile.
        lab.etcd.kill()
        time.sleep(options.outage)
        lab.etcd.start()
        extra = [lease(index) for index in range(lab.nodes + 1, lab.nodes + 101)]
        lab.etcd.put(extra)
        lab.etcd.compact(lab.etcd.put(extra[:1]))
        wait_for("a node that came while etcd was away to be reached", lambda: lab.reaches(lab.nodes + 100))
        told.append("compacted")
        lab.etcd.restore(snapshot)
        time.sleep(seconds)
        told.append("restored")
        # It is followed again: what came after the snapshot is there still, and gone once somebody deletes it; what comes now is reached.
        problems = lambda: lab.node.json("status")["problems"]
        wait_for("word of the leases that the snapshot does not have", lambda: any("from a backup" in text for text in problems()))
        wait_for("a node that the snapshot does not have to be reached", lambda: lab.reaches(lab.nodes + 1))
        lab.etcd.put(extra)
        for key, _ in extra:
            lab.etcd.delete(key)
        wait_for("the nodes that were deleted to go", lambda: not lab.reaches(lab.nodes + 1))
        change(lab, SimpleNamespace(quick=True), after=200)
    finally:
        with contextlib.suppress(ProcessLookupError):
            if lab.etcd.child:
                os.kill(lab.etcd.child.pid, signal.SIGCONT)
        stop.set()
        sending.join()
        with contextlib.suppress(LabError):
            wait_for("the last packets", lambda: lab.watch.stream - before >= sent[0])
        time.sleep(SETTLE_SECONDS)
        queue(QUEUE)
    if lab.watch.lost() > missed:
        raise LabError("the far end did not keep up: what it missed may have been there")
    lost = sent[0] - (lab.watch.stream - before)
    if lost < 0:
        raise LabError(f"{-lost} packets came that were not sent")
    return {"value": float(lost), "sent": sent[0], "survived": " ".join(told), "outage_s": options.outage}


TAKES = {COLD: cold_start, CHANGE: change, MEMORY: memory, ADD: cni_add, LOSS: store_loss}


def measure(run, options, rows):
    rows.head(options)
    progress = Progress(len(options.cases) * options.rounds)
    busy = busy_pct(usable_cores(), 0.5)
    warn_if_busy(busy)
    say(f"{options.nodes} nodes in etcd; weftd's worker on core 0")
    lab = Lab(run, options.nodes)
    try:
        lab.until_all(time.monotonic(), 60)
        failed = Failures(progress)

        def one(case, number):
            sample = TAKES[case](lab, options)
            progress.step(f"{case}, round {number}: {sample['value']:.3g} {CASES[case][0]}")
            return sample

        def ends(case, taken):
            rows.add(row_of(case, taken) | {"background_pct": round(busy, 1)})

        in_turn(options.cases, options.rounds, one, failed.add, ends)
    finally:
        lab.close()
    return failed


def row_of(case, taken):
    """The median of the rounds; of lost packets, all."""
    row = {"case": case} | middle(taken) | {"unit": CASES[case][0], "limit": goal("control", case)[0]}
    values = [sample["value"] for sample in taken]
    if case == LOSS:
        row["value"] = sum(values)
    row |= {"rounds": {"value": values}, "spread": spread(values), "at_least": row["limit"]}
    row["met_at_least"] = row["value"] <= row["limit"]
    if case == ADD:
        row["rounds"]["alone_ms"] = [sample["alone_ms"] for sample in taken]
        row["met_at_least"] &= row["alone_ms"] <= ALONE_MS
    return row


def table(rows):
    """The results for people."""
    lines = [("case", "value", "rounds", "at most", "unit", "reached", "what")]
    for row in rows:
        figures = [(row["case"], row["value"], row["rounds"]["value"], row["limit"], *CASES[row["case"]])]
        if row["case"] == ADD:
            figures.append((f"{ADD}-alone", row["alone_ms"], row["rounds"]["alone_ms"], ALONE_MS, "ms", "weft-cni ADD by itself, from its start to its end"))
        for name, value, rounds, limit, unit, what in figures:
            reached = "yes" if value <= limit else "NO"
            lines.append((name, f"{value:.3g}", f"{min(rounds):.3g} to {max(rounds):.3g}", f"{limit:g}", unit, reached, what))
    return columns(lines)
