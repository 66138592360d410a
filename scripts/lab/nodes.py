"""The lab's nodes and pods.

    underlay   a bridge in a namespace of its own, 172.16.0.0/24 and fd00:172:16::/64, MTU 1500
    nodes      a, b, c: a namespace each, with the underlay's interface u0
    pods       a1, a2, b1 …: a namespace each, with the interface eth0; a3 is behind vhost-user where a is a weft node

A node is of kind `weft` (weftd runs in it) or `kernel` (what flannel's vxlan backend sets up, by hand). Offloads stay
as the kernel has them everywhere: turning them off would hide the faults that users meet.
"""

import json
import os
import time
from ipaddress import IPv6Address
from pathlib import Path

from run import Hopeless, LabError, call, wait_for

BIN = Path(os.environ.get("WEFT_BIN", "target/release")).resolve()
VNI, PORT, UNDERLAY_MTU = 1, 8472, 1500
NETWORK = ("10.244.0.0/16", "fd00:10:244::/48")


def pod_addresses(node, host):
    """The addresses with that number in the subnets of a node."""
    return {4: f"10.244.{node}.{host}", 6: str(IPv6Address(f"fd00:10:244:{node}::{host:x}"))}


class Pod:
    """A pod: its namespace, and what it is joined by (tap, vhost or kernel)."""

    def __init__(self, run, node, number, kind):
        self.name, self.node, self.kind = f"{node.name}{number}", node, kind
        self.addresses = pod_addresses(node.index, number + 1)
        self.netns = run.netns(self.name)

    def interface(self):
        """What must not change while weftd restarts."""
        link = json.loads(call("ip", "-n", self.netns, "-j", "address", "show", "eth0").stdout)[0]
        addresses = sorted(a["local"] for a in link["addr_info"] if a["scope"] == "global")
        return link["ifindex"], link["address"], addresses


class Node:
    """What both kinds have: a namespace on the underlay."""

    def __init__(self, run, index, name):
        self.run, self.index, self.name = run, index, name
        # The subnet's own address: flannel gives it to the tunnel's device, weft to the host port.
        self.addresses = pod_addresses(index, 0)
        self.subnets = {4: f"{self.addresses[4]}/24", 6: f"{self.addresses[6]}/64"}
        self.gateways = pod_addresses(index, 1)
        self.underlay = {4: f"172.16.0.{index + 1}", 6: f"fd00:172:16::{index + 1}"}
        self.vtep_mac = {4: f"02:00:5e:00:04:{index + 1:02x}", 6: f"02:00:5e:00:06:{index + 1:02x}"}
        self.netns, self.pods = run.netns(name), []

    def join(self, underlay):
        """Plugs u0 into the underlay's bridge."""
        port = f"to-{self.name}"
        call("ip", "link", "add", "u0", "mtu", UNDERLAY_MTU, "netns", self.netns,
             "type", "veth", "peer", "name", port, "mtu", UNDERLAY_MTU, "netns", underlay)
        call("ip", "-n", underlay, "link", "set", port, "master", "br0", "up")
        call("ip", "-n", self.netns, "address", "add", f"{self.underlay[4]}/24", "dev", "u0")
        call("ip", "-n", self.netns, "address", "add", f"{self.underlay[6]}/64", "dev", "u0", "nodad")
        call("ip", "-n", self.netns, "link", "set", "u0", "up")

    def inside(self, *command, **how):
        return call("ip", "netns", "exec", self.netns, *command, **how)


class KernelNode(Node):
    """A node as flannel and the bridge plugin leave it: flannel.1, flannel-v6.1, cni0, pods by veth."""

    kind = "kernel"

    def start(self, nodes):
        for key in ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1",
                    "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.default.rp_filter=1"):
            self.inside("sysctl", "-qw", key)
        ip = lambda *words: call("ip", "-n", self.netns, *words)
        peers = [node for node in nodes if node is not self]
        for family, device in ((4, f"flannel.{VNI}"), (6, f"flannel-v6.{VNI}")):
            overhead, length = (50, 32) if family == 4 else (70, 128)
            checksum = [] if family == 4 else ["noudp6zerocsumtx", "noudp6zerocsumrx"]
            ip("link", "add", device, "address", self.vtep_mac[family], "mtu", UNDERLAY_MTU - overhead,
               "type", "vxlan", "id", VNI, "local", self.underlay[family], "dev", "u0", "dstport", PORT, "nolearning",
               *checksum)
            self.inside("sysctl", "-qw", f"net.ipv6.conf.{device.replace('.', '/')}.accept_ra=0")
            ip("address", "add", f"{self.addresses[family]}/{length}", "dev", device)
            ip("link", "set", device, "up")
            for peer in peers:
                mac, via = peer.vtep_mac[family], peer.addresses[family]
                ip("neighbour", "add", via, "lladdr", mac, "dev", device, "nud", "permanent")
                self.inside("bridge", "fdb", "append", mac, "dev", device, "dst", peer.underlay[family], "self", "permanent")
                ip(f"-{family}", "route", "add", peer.subnets[family], "via", via, "dev", device, "onlink")
        ip("link", "add", "cni0", "mtu", UNDERLAY_MTU - 50, "type", "bridge", "forward_delay", 0)
        ip("address", "add", f"{self.gateways[4]}/24", "dev", "cni0")
        ip("address", "add", f"{self.gateways[6]}/64", "dev", "cni0", "nodad")
        ip("link", "set", "cni0", "up")

    def add_pods(self, count):
        for number in range(1, count + 1):
            pod = Pod(self.run, self, number, "kernel")
            self.pods.append(pod)
            veth = f"veth-{pod.name}"
            call("ip", "link", "add", "eth0", "mtu", UNDERLAY_MTU - 50, "netns", pod.netns,
                 "type", "veth", "peer", "name", veth, "mtu", UNDERLAY_MTU - 50, "netns", self.netns)
            call("ip", "-n", self.netns, "link", "set", veth, "master", "cni0", "up")
            self.inside("bridge", "link", "set", "dev", veth, "hairpin", "on")
            configure_pod(pod)

    def status(self):
        """Nothing to wait for: the kernel is ready when the commands have returned."""


class WeftNode(Node):
    """A node with weftd."""

    kind = "weft"

    def __init__(self, run, index, name):
        super().__init__(run, index, name)
        self.dir = run.dir / name
        (self.dir / "state").mkdir(parents=True)
        self.socket, self.log = self.dir / "weft.sock", f"weftd-{name}.log"
        self.process, self.pid, self.ready_ms = None, None, None

    def start(self, _nodes):
        sections = self.settings()
        text = "\n".join(
            f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in section.items())
            for name, section in sections.items()
        )
        (self.dir / "weftd.toml").write_text(text)
        self.launch()

    def settings(self):
        """What stands in weftd.toml: sections of keys and values. JSON's numbers, texts and lists are TOML's too."""
        return {
            "node": {"name": self.name},
            "dataplane": self.dataplane(),
            "uplink": {"interface": "u0"},
            "source": {"path": f"{self.run.dir}/cluster.toml"},
            "control": {"socket": str(self.socket)},
            "state": {"dir": f"{self.dir}/state"},
        }

    def dataplane(self):
        """One worker on the first node and two on the others, so that both ways are walked."""
        threads = {"workers": 1, "cores": [0]} if self.index == 0 else {"workers": 2}
        return threads | {"memory": "48MiB"}

    def launch(self):
        """Starts weftd and waits for its word that it is ready."""
        log = self.run.dir / self.log
        seen = log.stat().st_size if log.exists() else 0
        begin = time.monotonic()
        self.process = self.run.spawn(
            self.netns, BIN / "weftd", "--config", self.dir / "weftd.toml", log=self.log
        )
        self.pid = self.process.pid  # `ip netns exec` becomes the command: it does not fork.

        def ready():
            text = log.read_bytes()[seen:].decode(errors="replace")
            if self.process.poll() is not None:
                last = text.strip().splitlines()[-3:]
                raise Hopeless(f"weftd on {self.name} ended, code {self.process.returncode}: {' | '.join(last)}")
            return "weftd: ready" in text

        wait_for(f"weftd on {self.name} to be ready", ready, timeout=20, every=0.005)
        self.ready_ms = (time.monotonic() - begin) * 1000

    def weft(self, *words, check=True):
        """The command line, as an operator has it."""
        return call(BIN / "weft", "--socket", self.socket, *words, check=check, timeout=15)

    def json(self, *words):
        return json.loads(self.weft(*words, "-o", "json").stdout)

    def status(self):
        """All peers resolved, all pods up: else a LabError that says what is not."""
        unresolved = [peer["name"] for peer in self.json("status")["peers"] if not peer["resolved"]]
        pods = {pod["name"]: pod for pod in self.listed_pods()}
        down = [f"{p.name} ({pods.get(p.name, {}).get('state', 'unknown')})" for p in self.pods
                if pods.get(p.name, {}).get("state") != "up"]
        if unresolved or down:
            raise LabError(f"{self.name}: peers unresolved: {unresolved}, pods not up: {down}")

    def listed_pods(self):
        return self.json("pod", "list")["pods"]

    def add_pods(self, count):
        """The first pod stands in cluster.toml; the others come by `weft pod add`, on a the last one as vhost-user."""
        for pod in self.pods[1:]:
            self.add_pod(pod)

    def add_pod(self, pod):
        addresses = [word for family in (4, 6) for word in ("--address", pod.addresses[family])]
        if pod.kind == "tap":
            self.weft("pod", "add", pod.name, "--kind", "tap", "--netns", f"/run/netns/{pod.netns}",
                      "--ifname", "eth0", *addresses)
        else:
            guest = self.dir / f"{pod.name}.sock"
            self.weft("pod", "add", pod.name, "--kind", "vhost-user", "--socket-path", guest, "--mode", "client",
                      *addresses)
            listed = next(p for p in self.listed_pods() if p["name"] == pod.name)
            start_guest(self.run, pod, guest, listed["mac"], listed["mtu"])

    def plan_pods(self, count, vhost):
        """Makes the pods' namespaces, which must be there before cluster.toml names one."""
        self.pods = [Pod(self.run, self, number, "tap") for number in range(1, count + 1)]
        if vhost:
            self.pods.append(Pod(self.run, self, count + 1, "vhost"))


def configure_pod(pod, mtu=None):
    """Addresses and default routes, for a pod whose interface nobody else configures."""
    ip = lambda *words: call("ip", "-n", pod.netns, *words)
    if mtu:
        ip("link", "set", "eth0", "mtu", mtu)
    ip("address", "add", f"{pod.addresses[4]}/24", "dev", "eth0")
    ip("address", "add", f"{pod.addresses[6]}/64", "dev", "eth0", "nodad")
    ip("link", "set", "eth0", "up")
    for family in (4, 6):
        ip(f"-{family}", "route", "add", "default", "via", pod.node.gateways[family], "dev", "eth0")


def start_guest(run, pod, socket, mac, mtu):
    """A complete IP stack behind a vhost-user port: testpmd copies between a virtio-user device, which makes the socket
    and waits for weftd there, and a TAP named eth0. It polls; niced, it gives its CPU to whoever wants it."""
    cpus = ",".join(str(cpu) for cpu in sorted(os.sched_getaffinity(0)))
    log = f"guest-{pod.name}.log"
    guest = run.spawn(
        pod.netns, "nice", "-n", "10", "dpdk-testpmd", "--no-huge", "-m", "64", "--no-pci", "--no-telemetry",
        "--single-file-segments", "--file-prefix", f"{run.name}-{pod.name}", "--lcores", f"0@({cpus}),1@({cpus})",
        "--vdev", f"net_tap0,iface=eth0,mac={mac}",
        "--vdev", f"net_virtio_user0,path={socket},server=1,queues=1,queue_size=1024,mac={mac}",
        # Without a terminal testpmd ends at once, unless it has statistics to print.
        "--", "--forward-mode=io", "--auto-start", "--no-mlockall", "--total-num-mbufs=8192", "--stats-period", "3600",
        log=log,
    )  # fmt: skip

    def has_interface():
        if guest.poll() is not None:
            last = (run.dir / log).read_text(errors="replace").strip().splitlines()[-3:]
            raise Hopeless(f"the guest of {pod.name}, dpdk-testpmd, ended: {' | '.join(last)}")
        return call("ip", "-n", pod.netns, "link", "show", "eth0", check=False).returncode == 0

    wait_for(f"the guest of {pod.name} to make eth0", has_interface)
    configure_pod(pod, mtu)


def cluster_toml(nodes, extra=""):
    """The desired state of the whole cluster; `extra` is put at its end."""
    lines = ["[network]", f'ipv4 = "{NETWORK[0]}"', f'ipv6 = "{NETWORK[1]}"', f"vni = {VNI}", f"port = {PORT}", ""]
    for node in nodes:
        lines += [
            "[[node]]", f'name = "{node.name}"', f'subnets = ["{node.subnets[4]}", "{node.subnets[6]}"]',
            f'public_ip = "{node.underlay[4]}"', f'public_ipv6 = "{node.underlay[6]}"',
            f'vtep_mac = "{node.vtep_mac[4]}"', f'vtep_mac_v6 = "{node.vtep_mac[6]}"', "",
        ]  # fmt: skip
    for node in nodes:
        if node.kind == "weft":
            pod = node.pods[0]
            lines += [
                "[[pod]]", f'name = "{pod.name}"', f'node = "{node.name}"', 'kind = "tap"',
                f'netns = "/run/netns/{pod.netns}"', 'ifname = "eth0"',
                f'addresses = ["{pod.addresses[4]}", "{pod.addresses[6]}"]', "",
            ]  # fmt: skip
    return "\n".join(lines) + extra


def write_cluster(run, text):
    """Replaces cluster.toml as editors do: written beside it, then renamed."""
    new = run.dir / "cluster.toml.new"
    new.write_text(text)
    new.rename(run.dir / "cluster.toml")


def build(run, kinds):
    """The demo's lab: underlay, nodes a, b, c and their pods; returns the nodes once all of it is ready."""
    kind_of = {"weft": WeftNode, "kernel": KernelNode}
    nodes = [kind_of[kind](run, index, name) for index, (kind, name) in enumerate(zip(kinds, "abc"))]
    assemble(run, nodes, vhost=nodes[0])
    return nodes


def assemble(run, nodes, vhost=None):
    """Joins nodes by an underlay and gives each two pods, one of them a third behind vhost-user if it is a weft node.
    Returns once all of it is ready."""
    underlay = run.netns("underlay")
    call("ip", "-n", underlay, "link", "add", "br0", "mtu", UNDERLAY_MTU, "type", "bridge", "forward_delay", 0)
    call("ip", "-n", underlay, "link", "set", "br0", "up")
    for node in nodes:
        node.join(underlay)
        if node.kind == "weft":
            node.plan_pods(2, vhost=node is vhost)
    write_cluster(run, cluster_toml(nodes))
    for node in nodes:
        node.start(nodes)
    for node in nodes:
        node.add_pods(2)
    for node in nodes:
        wait_for(f"node {node.name} to be complete", lambda: node.status() is None, timeout=15)
