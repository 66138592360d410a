"""flannel itself: a cluster of three nodes of which one is a real flanneld, with etcd and with Kubernetes as the store.

    scripts/interop flannel                  all of CASES below
    scripts/interop flannel etcd:udp ...     these only: a store, a colon, and one of BACKENDS

Builds flanneld and kube-apiserver of the versions below from the Go module proxy, once, in $WEFT_INTEROP (a folder in the user's cache
unless it is set); needs a Go toolchain that is new enough for them, gcc, etcd and etcdctl, kubectl, openssl and nftables. Nodes are network
namespaces that go with the run. Programs of weft are taken from $WEFT_BIN (target/release unless it is set). The versions
of kube-apiserver and of its staging modules go together: v1.X.Y and v0.X.Y.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

FLANNEL = ("github.com/flannel-io/flannel", "v0.28.10")
KUBERNETES = ("k8s.io/kubernetes", "v1.36.3")
BUILT = {"flanneld": (FLANNEL, FLANNEL[0]), "kube-apiserver": (KUBERNETES, f"{KUBERNETES[0]}/cmd/kube-apiserver")}
PROGRAMS = ["etcd", "etcdctl", "nft", "ip", "ping", "gcc"]
FOR_KUBERNETES = ["kubectl", "openssl"]
STORE = "172.16.0.254"
NETWORK = "10.244.0.0/16"
NETWORK6 = "fd00:10:244::/56"
CASES = [
    "etcd:vxlan", "etcd:vxlan-dual", "etcd:vxlan-direct", "etcd:host-gw", "etcd:udp", "kubernetes:vxlan", "kubernetes:host-gw",
]
BACKENDS = {
    "vxlan": {"Type": "vxlan"},
    "vxlan-dual": {"Type": "vxlan"},
    "vxlan-direct": {"Type": "vxlan", "DirectRouting": True},
    "host-gw": {"Type": "host-gw"},
    "udp": {"Type": "udp"},
}
# As flannel counts it: over IPv6 it is 20 more.
OVERHEAD = {"vxlan": 50, "vxlan-dual": 50, "vxlan-direct": 50, "host-gw": 0, "udp": 28}
PATIENCE = 60

WEFTD = """[node]
name = "{name}"
[dataplane]
memory = "16MiB"
[control]
socket = "{at}/weftd.sock"
[state]
dir = "{at}/state"
"""

NODE = """apiVersion: v1
kind: Node
metadata: {{name: {name}}}
spec: {{podCIDR: 10.244.{number}.0/24, podCIDRs: [10.244.{number}.0/24]}}
"""


class Failed(Exception):
    """A check that did not hold."""


def run(*words, ok=True, timeout=120, **more):
    """Runs a program to its end."""
    words = [str(word) for word in words]
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False, **more)
    if ok and done.returncode != 0:
        raise Failed(f"{' '.join(words)}: {done.stdout}{done.stderr}")
    return done


def until(what, condition):
    """Waits for what is true in the end; what it gave."""
    end = time.monotonic() + PATIENCE
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {PATIENCE} s")
        time.sleep(0.2)


# ---- programs


def build(at, wanted):
    """Those of BUILT that are wanted, in `at`; made once for each version."""
    at.mkdir(parents=True, exist_ok=True)
    built = {}
    for program in wanted:
        (module, version), package = BUILT[program]
        binary = at / f"{program}-{version}"
        built[program] = binary
        if binary.exists():
            continue
        print(f"interop: building {program} {version}", flush=True)
        with tempfile.TemporaryDirectory(prefix="weft-go-") as scratch:
            its_mod = mod_file(module, version, scratch)
            language = re.search(r"^go (\S+)", its_mod, re.MULTILINE).group(1)
            lines = ["module weft.invalid/interop", f"go {language}", f"require {module} {version}"]
            lines += [f"replace {name} => {name} {staging(version)}" for name in staged(its_mod)]
            pathlib.Path(scratch, "go.mod").write_text("\n".join(lines) + "\n", encoding="utf-8")
            if module == FLANNEL[0]:
                package = own_program(module, version, scratch)
            target = f"{binary}.new"
            named = "-s -w" + (f" -X k8s.io/component-base/version.gitVersion={version}" if module == KUBERNETES[0] else "")
            # The udp backend's proxy is C.
            environment = dict(os.environ, CGO_ENABLED="1" if program == "flanneld" else "0")
            run("go", "build", "-mod=mod", "-trimpath", f"-ldflags={named}", "-o", target, package,
                cwd=scratch, env=environment, timeout=7200)
            os.rename(target, binary)
    return built


def own_program(module, version, scratch):
    """flannel's main.go as a package of its own, without the backend that asks for the SDK of Tencent's cloud: not every proxy has that."""
    text = pathlib.Path(download(module, version, scratch)["Dir"], "main.go").read_text(encoding="utf-8")
    line = f'\t_ "{module}/pkg/backend/tencentvpc"\n'
    if line not in text:
        raise Failed(f"{module} {version}: main.go has no line {line.strip()}")
    pathlib.Path(scratch, "main.go").write_text(text.replace(line, ""), encoding="utf-8")
    return "."


def staging(version):
    """The version of the staging modules that go with a release."""
    return re.sub(r"^v1\.", "v0.", version)


def mod_file(module, version, scratch):
    """The go.mod of a module as it is published."""
    return pathlib.Path(download(module, version, scratch)["GoMod"]).read_text(encoding="utf-8")


def download(module, version, scratch):
    """Where a module is."""
    return json.loads(run("go", "mod", "download", "-json", f"{module}@{version}", cwd=scratch, timeout=900).stdout)


def staged(text):
    """The modules that a release of Kubernetes has beside itself: outside of its repository each has a version of its own."""
    return re.findall(r"^\s*(?:replace\s+)?(k8s\.io/\S+) => \./staging/", text, re.MULTILINE)


# ---- the cluster


class Background:
    """A program that runs until it is ended, in a namespace."""

    def __init__(self, namespace, log, *words, env=None):
        self.log = log
        with open(log, "a", encoding="utf-8") as output:
            command = ["ip", "netns", "exec", namespace, "setpriv", "--pdeathsig", "KILL", *map(str, words)]
            self.process = subprocess.Popen(command, stdout=output, stderr=output, env=dict(os.environ, **(env or {})))

    def runs(self):
        """False once it has ended by itself."""
        return self.process.poll() is None

    def end(self):
        """Ends it as a supervisor does."""
        if self.runs():
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def said(self):
        """The end of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-2000:]


def own_words(text, node):
    """What is published, with words in place of what is a node's own."""
    text = text.replace(node.address, "IP").replace(node.address6, "IPV6")
    return re.sub("[0-9a-f]{2}(:[0-9a-f]{2}){5}", "MAC", text)


class Etcd:
    """etcd as the store."""

    name = "etcd"

    def __init__(self, cluster):
        self.cluster = cluster
        self.url = f"http://{STORE}:2379"
        peer = f"http://{STORE}:2380"
        self.server = Background(
            cluster.net, cluster.at / "etcd.log", "etcd", "--name", "one", "--data-dir", cluster.at / "etcd",
            "--listen-client-urls", self.url, "--advertise-client-urls", self.url, "--listen-peer-urls", peer,
            "--initial-advertise-peer-urls", peer, "--initial-cluster", f"one={peer}")
        until("etcd answers", lambda: self.ctl("get", "x", ok=False).returncode == 0)

    def ctl(self, *words, ok=True):
        """etcdctl."""
        environment = dict(os.environ, ETCDCTL_API="3")
        return run("ip", "netns", "exec", self.cluster.net, "etcdctl", "--endpoints", self.url, "--command-timeout=5s",
                   *words, ok=ok, env=environment)

    def configure(self, conf):
        """Says what the network is."""
        self.ctl("put", "/coreos.com/network/config", json.dumps(conf))

    def flags(self, _node):
        """flanneld's, for this store."""
        return [f"-etcd-endpoints={self.url}"]

    def leases(self):
        """Node address to key and value."""
        lines = self.ctl("get", "--prefix", "/coreos.com/network/subnets/").stdout.splitlines()
        values = {}
        for key, value in zip(lines[::2], lines[1::2]):
            values[json.loads(value)["PublicIP"]] = (key.rsplit("/", 1)[1], value)
        return values

    def subnet_of(self, node):
        """The node's subnet as text; nothing where there is none."""
        key = self.leases().get(node.address, (None,))[0]
        return key and key.replace("-", "/")

    def mac_of(self, node):
        """The VTEP's MAC address as published."""
        return json.loads(self.leases()[node.address][1])["BackendData"]["VtepMAC"]

    def forget_mac(self, _node):
        """The next start makes another: etcd keeps none."""

    def form_of(self, node):
        """What is published, without what is a node's own."""
        return own_words(self.leases()[node.address][1], node)

    def remove(self, node):
        """The node is no more."""
        self.ctl("del", f"/coreos.com/network/subnets/{self.leases()[node.address][0]}")

    def end(self):
        """Ends it."""
        self.server.end()


class Kubernetes:
    """An API server without anything else, in front of an etcd of its own."""

    name = "kubernetes"

    def __init__(self, cluster):
        self.cluster = cluster
        self.conf = cluster.at / "net-conf.json"
        self.etcd = Etcd(cluster)
        certs = cluster.at / "certs"
        certs.mkdir()
        run("openssl", "genrsa", "-out", certs / "sa.key", "2048")
        (certs / "tokens.csv").write_text('secret,admin,1,"system:masters"\n', encoding="utf-8")
        self.server = Background(
            cluster.net, cluster.at / "apiserver.log", cluster.built["kube-apiserver"], "--etcd-servers", self.etcd.url,
            "--service-cluster-ip-range=10.96.0.0/16", "--service-account-issuer=https://weft.invalid",
            f"--service-account-key-file={certs}/sa.key", f"--service-account-signing-key-file={certs}/sa.key",
            f"--cert-dir={certs}", f"--bind-address={STORE}", f"--advertise-address={STORE}", "--secure-port=6443",
            f"--token-auth-file={certs}/tokens.csv", "--authorization-mode=AlwaysAllow",
            "--disable-admission-plugins=ServiceAccount")
        self.kubeconfig = cluster.at / "kubeconfig"
        self.kubeconfig.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "weft",
            "clusters": [{"name": "weft", "cluster": {
                "server": f"https://{STORE}:6443", "certificate-authority": str(certs / "apiserver.crt")}}],
            "users": [{"name": "weft", "user": {"token": "secret"}}],
            "contexts": [{"name": "weft", "context": {"cluster": "weft", "user": "weft"}}],
        }), encoding="utf-8")
        until("the API server answers", self.answers)

    def answers(self):
        """True once it is ready."""
        if not self.server.runs():
            raise Failed(f"kube-apiserver: {self.server.said()}")
        return self.ctl("get", "--raw", "/readyz", ok=False).returncode == 0

    def ctl(self, *words, ok=True, **more):
        """kubectl."""
        return run("ip", "netns", "exec", self.cluster.net, "kubectl", "--kubeconfig", self.kubeconfig, *words, ok=ok, **more)

    def configure(self, conf):
        """Says what the network is, and registers the nodes as their kubelets would."""
        self.conf.write_text(json.dumps(conf), encoding="utf-8")
        for number, node in enumerate(self.cluster.nodes, 1):
            self.ctl("apply", "-f", "-", input=NODE.format(name=node.name, number=number))

    def flags(self, _node):
        """flanneld's, for this store."""
        return ["-kube-subnet-mgr", f"-kubeconfig-file={self.kubeconfig}", f"-net-config-path={self.conf}"]

    def node(self, node):
        """The node's object; nothing where there is none."""
        found = self.ctl("get", "node", node.name, "-o", "json", ok=False)
        return json.loads(found.stdout) if found.returncode == 0 else None

    def annotations(self, node):
        """flannel's of this node."""
        prefix = "flannel.alpha.coreos.com/"
        there = (self.node(node) or {}).get("metadata", {}).get("annotations", {})
        return {key[len(prefix):]: value for key, value in there.items() if key.startswith(prefix)}

    def subnet_of(self, node):
        """The node's subnet, once it is published that it has it."""
        there = self.annotations(node).get("kube-subnet-manager") == "true"
        return self.node(node)["spec"]["podCIDR"] if there else None

    def mac_of(self, node):
        """The VTEP's MAC address as published."""
        return json.loads(self.annotations(node)["backend-data"])["VtepMAC"]

    def forget_mac(self, node):
        """flanneld takes its MAC address from here."""
        self.ctl("annotate", "node", node.name, "flannel.alpha.coreos.com/backend-data-")

    def form_of(self, node):
        """What is published, without what is a node's own."""
        text = json.dumps(self.annotations(node), sort_keys=True)
        conditions = [
            {key: condition[key] for key in ("type", "status", "reason", "message")}
            for condition in self.node(node)["status"].get("conditions", []) if condition["type"] == "NetworkUnavailable"
        ]
        return own_words(text, node) + json.dumps(conditions)

    def remove(self, node):
        """The node is no more."""
        self.ctl("delete", "node", node.name)

    def end(self):
        """Ends it."""
        self.server.end()
        self.etcd.end()


class Node:
    """A node: a namespace on the underlay, and one for its pod."""

    def __init__(self, cluster, number):
        self.cluster = cluster
        self.name = f"n{number}"
        self.address = f"172.16.0.{number}"
        self.address6 = f"fd00:172::{number}"
        self.netns = f"{cluster.prefix}-{self.name}"
        self.pod = f"{self.netns}-p"
        self.at = cluster.at / self.name
        self.at.mkdir()
        self.daemon = None
        self.subnet = self.subnet6 = None
        for name in [self.netns, self.pod]:
            cluster.make(name)
        run("ip", "-n", cluster.net, "link", "add", self.name, "type", "veth", "peer", "name", "u0", "netns", self.netns)
        run("ip", "-n", cluster.net, "link", "set", self.name, "master", "br0", "up")
        self.ip("addr", "add", f"{self.address}/24", "dev", "u0")
        self.ip("addr", "add", f"{self.address6}/64", "dev", "u0", "nodad")
        self.ip("link", "set", "u0", "up")
        # flanneld looks for the interface by the default route where it is not told.
        self.ip("route", "add", "default", "via", STORE)
        self.exec("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")

    def ip(self, *words, ok=True):
        """`ip` on the node."""
        return run("ip", "-n", self.netns, *words, ok=ok)

    def exec(self, *words, ok=True):
        """A program on the node."""
        return run("ip", "netns", "exec", self.netns, *words, ok=ok)

    def common(self):
        """What flanneld and weftd are told alike."""
        flags = self.cluster.store.flags(self)
        return [*flags, "-iface=u0", f"-subnet-file={self.at}/subnet.env", "-healthz-port=8081"]

    def env_file(self):
        """What CNI plugins read."""
        lines = (self.at / "subnet.env").read_text(encoding="utf-8").split()
        return dict(line.split("=", 1) for line in lines)

    def first(self, number):
        """An address of the subnet by its last byte."""
        return self.subnet.split("/")[0].rsplit(".", 1)[0] + f".{number}"

    def pods(self):
        """The pod's addresses."""
        return [self.first(5)] + ([self.subnet6.split("/")[0] + "5"] if self.subnet6 else [])

    def start(self, kind):
        """Starts `weft` or `flannel` here, and waits until it is ready."""
        program = self.cluster.programs / "weftd" if kind == "weft" else self.cluster.built["flanneld"]
        more = []
        if kind == "weft":
            (self.at / "weftd.toml").write_text(WEFTD.format(name=self.name, at=self.at), encoding="utf-8")
            more = ["--config", self.at / "weftd.toml"]
        else:
            more = ["-iptables-forward-rules=false"]
        log = self.at / f"{kind}.log"
        self.daemon = Background(self.netns, log, program, *more, *self.common(), env={"NODE_NAME": self.name})
        until(f"{kind} on {self.name} is ready", self.ready)
        subnets = until("its subnet", lambda: self.cluster.store.subnet_of(self)).split("&")
        self.subnet, self.subnet6 = (subnets + [None])[:2]

    def ready(self):
        """As a probe asks."""
        if not self.daemon.runs():
            raise Failed(f"{self.name}: {self.daemon.said()}")
        probe = ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8081/readyz', timeout=5)"]
        return self.exec(*probe, ok=False).returncode == 0 and (self.at / "subnet.env").exists()

    def stop(self):
        """Ends what runs here."""
        if self.daemon:
            self.daemon.end()
            self.daemon = None

    def weft(self, *words):
        """weft's command line."""
        return run(self.cluster.programs / "weft", "--socket", self.at / "weftd.sock", *words).stdout

    def add_pod(self, kind):
        """The pod at the fifth address: as weft makes it, or as flannel's bridge does."""
        if kind == "weft":
            self.weft("pod", "add", "pod", "--kind", "tap", "--netns", f"/run/netns/{self.pod}", "--ifname", "eth0",
                      *(word for address in self.pods() for word in ("--address", address)))
            return
        mtu = self.env_file()["FLANNEL_MTU"]
        self.ip("link", "add", "cni0", "mtu", mtu, "type", "bridge", "forward_delay", "0")
        self.ip("addr", "add", f"{self.first(1)}/24", "dev", "cni0")
        self.ip("link", "set", "cni0", "up")
        self.ip("link", "add", "pod", "mtu", mtu, "type", "veth", "peer", "name", "eth0", "mtu", mtu, "netns", self.pod)
        self.ip("link", "set", "pod", "master", "cni0", "up")
        for words in [f"addr add {self.first(5)}/24 dev eth0", "link set eth0 up", f"route add default via {self.first(1)}"]:
            run("ip", "-n", self.pod, *words.split())
        if self.subnet6:
            gateway = self.subnet6.split("/")[0] + "1"
            self.ip("addr", "add", f"{gateway}/64", "dev", "cni0", "nodad")
            for words in [f"addr add {self.pods()[1]}/64 dev eth0 nodad", f"-6 route add default via {gateway}"]:
                run("ip", "-n", self.pod, *words.split())

    def delete_pod(self, kind):
        """Takes the pod away again."""
        if kind == "weft":
            self.weft("pod", "del", "pod")
        else:
            for device in ["pod", "cni0"]:
                self.ip("link", "del", device)

    def purge(self, kind):
        """What an operator does when the other one is to take this one's place."""
        if kind == "weft":
            run("ip", "netns", "exec", self.netns, self.cluster.programs / "weft", "node", "purge", "--yes",
                "--config", self.at / "weftd.toml")
            return
        for device in ["flannel.1", "flannel-v6.1", "flannel0"]:
            self.ip("link", "del", device, ok=False)
        # host-gw leaves routes.
        self.ip("route", "flush", "via", "172.16.0.1", ok=False)
        self.ip("route", "flush", "via", "172.16.0.2", ok=False)

    def pings(self, address, from_pod=True):
        """One echo request, from the pod or from the node itself."""
        where = self.pod if from_pod else self.netns
        return run("ip", "netns", "exec", where, "ping", "-n", "-c", "1", "-W", "1", address, ok=False).returncode == 0


class Cluster:
    """Three nodes and a store."""

    def __init__(self, at, programs, built, prefix):
        self.at, self.programs, self.built, self.prefix = at, programs, built, prefix
        self.namespaces = []
        self.net = f"{prefix}-net"
        self.make(self.net)
        run("ip", "-n", self.net, "link", "add", "br0", "type", "bridge", "forward_delay", "0")
        run("ip", "-n", self.net, "addr", "add", f"{STORE}/24", "dev", "br0")
        run("ip", "-n", self.net, "link", "set", "br0", "up")
        self.nodes = [Node(self, number) for number in (1, 2, 3)]
        self.store = None

    def make(self, name):
        """A namespace that goes with the cluster."""
        run("ip", "netns", "add", name)
        self.namespaces.append(name)
        run("ip", "-n", name, "link", "set", "lo", "up")

    def reach(self, nodes=None):
        """All pods reach each other, and the nodes all pods; those of other nodes by their subnet's first address too."""
        nodes = nodes or self.nodes
        for one in nodes:
            for other in nodes:
                if one is not other:
                    where = f"{one.name} to {other.name}"
                    for pod in other.pods():
                        until(f"pod of {where}'s pod {pod}", lambda: one.pings(pod))
                        until(f"{where}'s pod {pod}", lambda: one.pings(pod, from_pod=False))

    def end(self):
        """Ends everything."""
        for node in self.nodes:
            node.stop()
        if self.store:
            self.store.end()
        for name in self.namespaces:
            run("ip", "netns", "del", name, ok=False)


# ---- the checks


def expect(what, found, wanted):
    """A check."""
    if found != wanted:
        raise Failed(f"{what}: {found!r}, not {wanted!r}")


def checks_of(cluster, store, backend):
    """The steps of a case, in order, each on what the one before has left."""
    one, two, three = cluster.nodes
    conf = {"Network": NETWORK, "EnableNFTables": True, "Backend": BACKENDS[backend]}
    if backend.endswith("-dual"):
        conf |= {"EnableIPv6": True, "IPv6Network": NETWORK6}

    def starts():
        cluster.store = store(cluster)
        cluster.store.configure(conf)
        for node, kind in [(one, "weft"), (three, "flannel"), (two, "weft")]:
            node.start(kind)
        expect("subnets", len({node.subnet for node in cluster.nodes}), 3)

    def same_form():
        def forms():
            return [cluster.store.form_of(node) for node in cluster.nodes]

        # Kubernetes is told that the network is there a moment after the node is ready.
        end = time.monotonic() + PATIENCE
        while len(set(forms())) > 1 and time.monotonic() < end:
            time.sleep(0.2)
        found = forms()
        expect("what weft publishes", found[:2], [found[2]] * 2)
        files = []
        for node in cluster.nodes:
            env = node.env_file()
            expect("its subnet", env.pop("FLANNEL_SUBNET"), f"{node.first(1)}/24")
            wanted = node.subnet6 and node.subnet6.replace("::/", "::1/")
            expect("its subnet of IPv6", env.pop("FLANNEL_IPV6_SUBNET", None), wanted)
            expect("its MTU", env["FLANNEL_MTU"], str(1500 - OVERHEAD[backend]))
            files.append(env)
        expect("subnet.env", files[:2], [files[2]] * 2)

    def reached():
        for node, kind in [(one, "weft"), (two, "weft"), (three, "flannel")]:
            node.add_pod(kind)
        cluster.reach()
        # flanneld and weft alike go by the node itself where there is no tunnel.
        for node, other in [(one, three), (three, one), (one, two)]:
            ways = node.ip("route", "show", other.subnet).stdout
            expect(f"{node.name} has a direct route to {other.name}", f"via {other.address} dev u0" in ways,
                   backend in ("vxlan-direct", "host-gw"))

    def restarts():
        before = [node.subnet for node in cluster.nodes]
        for node, kind in [(three, "flannel"), (one, "weft")]:
            node.stop()
            node.start(kind)
        expect("subnets", [node.subnet for node in cluster.nodes], before)
        cluster.reach()

    def another_mac():
        before = cluster.store.mac_of(three)
        three.stop()
        three.ip("link", "del", "flannel.1")
        three.ip("link", "del", "flannel-v6.1", ok=False)
        cluster.store.forget_mac(three)
        three.start("flannel")
        if cluster.store.mac_of(three) == before:
            raise Failed("flanneld has kept its MAC address: this shows nothing")
        cluster.reach()

    def takes_over():
        before = three.subnet
        three.delete_pod("flannel")
        three.stop()
        three.purge("flannel")
        three.start("weft")
        expect("its subnet", three.subnet, before)
        three.add_pod("weft")
        cluster.reach()

    def goes_back():
        before = three.subnet
        three.delete_pod("weft")
        three.stop()
        three.purge("weft")
        expect("what weft leaves", "weft0" in three.ip("link", "show").stdout, False)
        three.start("flannel")
        expect("its subnet", three.subnet, before)
        three.add_pod("flannel")
        cluster.reach()

    def removed():
        gone = two.subnet
        two.stop()
        cluster.store.remove(two)

        def unknown():
            status = json.loads(one.weft("-o", "json", "status"))
            return len(status["peers"]) == 1 and gone not in three.ip("route", "show").stdout

        # flanneld's udp has one route for all.
        until("nobody knows the node", unknown)
        cluster.reach([one, three])

    steps = [
        ("two nodes of weft's and one of flanneld's come up, each with a subnet of its own", starts),
        ("what weft publishes, and its subnet.env, have flannel's form", same_form),
        ("all pods and nodes reach all pods", reached),
        ("a restart of either changes nothing", restarts),
        ("flanneld comes back with another MAC address", another_mac),
        ("weft takes flanneld's place on its node", takes_over),
        ("flanneld takes its place back", goes_back),
        ("a node that is removed is forgotten by both", removed),
    ]
    # The other backends have no MAC address.
    return [step for step in steps if backend.startswith("vxlan") or step[1] is not another_mac]


def case(name, folder, programs, built):
    """One store with one backend: how many checks held, and how many did not."""
    store_name, _, backend = name.partition(":")
    store = {"etcd": Etcd, "kubernetes": Kubernetes}[store_name]
    print(f"--- {name}", flush=True)
    at = folder / name.replace(":", "-")
    at.mkdir()
    cluster = Cluster(at, programs, built, f"weft-i-{os.getpid()}")
    passed, steps = 0, checks_of(cluster, store, backend)
    try:
        for what, work in steps:
            try:
                work()
            except (Failed, subprocess.TimeoutExpired, OSError, KeyError, ValueError) as error:
                # The rest stands on it.
                print(f"FAILED  {what}: {error}", flush=True)
                for node in cluster.nodes:
                    if node.daemon:
                        print(f"        {node.name}: {node.daemon.said()[-600:]}")
                break
            passed += 1
            print(f"ok      {what}", flush=True)
    finally:
        cluster.end()
    return passed, len(steps) - passed


def missing(programs, with_kubernetes):
    """What this leg cannot do without, a sentence; nothing where all is there."""
    if not shutil.which("go"):
        return ("there is no Go toolchain: install one (https://go.dev/dl) that can reach a module proxy, to build "
                f"flanneld {FLANNEL[1]} and kube-apiserver {KUBERNETES[1]}")
    absent = [name for name in PROGRAMS + (FOR_KUBERNETES if with_kubernetes else []) if not shutil.which(name)]
    if absent:
        return (f"not installed: {', '.join(absent)} (Debian: etcd-server etcd-client nftables iproute2 iputils-ping gcc; "
                "for Kubernetes kubernetes-client openssl)")
    absent = [name for name in ["weftd", "weft"] if not (programs / name).exists()]
    if absent:
        return f"{programs} has no {', '.join(absent)}: cargo build --release -p weft-control -p weft-cli"
    return None


def main():
    """Builds what is to be built, and runs the cases."""
    cases = sys.argv[1:] or CASES
    unknown = [name for name in cases if name.partition(":")[0] not in ("etcd", "kubernetes") or name.partition(":")[2] not in OVERHEAD]
    programs = pathlib.Path(os.environ.get("WEFT_BIN", "target/release")).resolve()
    with_kubernetes = any(name.startswith("kubernetes:") for name in cases)
    problem = missing(programs, with_kubernetes)
    if unknown:
        problem = f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}"
    cache = os.environ.get("WEFT_INTEROP") or pathlib.Path.home() / ".cache/weft-interop"
    if not problem:
        try:
            built = build(pathlib.Path(cache).resolve(), ["flanneld"] + (["kube-apiserver"] if with_kubernetes else []))
        except (Failed, subprocess.TimeoutExpired) as error:
            problem = f"flanneld or kube-apiserver can't be built: {error}"
    if problem:
        print(f"interop: {problem}")
        print("interop: 0 passed, 1 failed")
        return 1
    passed = failed = 0
    # Short: sockets are in it.
    with tempfile.TemporaryDirectory(prefix="weft-i-") as folder:
        for name in cases:
            good, bad = case(name, pathlib.Path(folder), programs, built)
            passed, failed = passed + good, failed + bad
    print(f"interop: {passed} passed, {failed} failed")
    return 0 if failed == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
