"""What a real kube-apiserver says to weft's store, recorded for the store's tests to play it.

    scripts/interop record [FILE]      FILE: control/flannel/tests/kube/recorded/kube-apiserver.http unless it is named

Starts etcd and kube-apiserver (built as for `scripts/interop flannel`, whose head says what that needs) on ports of 127.0.0.1, and in
front of them a proxy that writes down what both sides say. The test that plays the recording otherwise
(`cargo test -p weft-flannel --test kube recorded`) is run against the proxy: it is the one that says when something is to
happen in the cluster, and expects of the real server what it expects of the recording. FILE is replaced if all went well.

The form of FILE. Lines of `#` are remarks; a line `== WHAT` is where the test lets something happen. All others begin with the number
of an exchange and who speaks, `>` the store or `<` the server, as they came; then how the line of the wire ends: nothing
for CR LF, `-` for LF, `.` for no end (the body of a request, or a piece of an answer); then a space and the line. `<!` says that the
connection broke.

The proxy changes two things on the way to the server: it adds the token of the account that weft has by
deploy/kubernetes/rbac.yaml, and it asks for pages of two objects, so that few fill several. Before the first list's second page it
has etcd forget that list; so that the server forgets it too, it runs without its feature ListFromCacheSnapshot.
"""

import base64
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

from flannel import KUBERNETES, Failed, build, run, until

ROOT = pathlib.Path(__file__).resolve().parents[3]
FILE = ROOT / "control/flannel/tests/kube/recorded/kube-apiserver.http"
PROGRAMS = ["etcd", "kubectl", "openssl", "setpriv", "cargo"]
PREFIX = "flannel.alpha.coreos.com"
WEFT = "system:serviceaccount:kube-flannel:weft"
PAGE = 2
REMARKS = """# weft's store in Kubernetes and kube-apiserver {server} with etcd {etcd}, recorded by `scripts/interop record`, which tells the form.
# The store asked for pages of 250 and was given pages of {page}; the token that it is known by was added on the way.
"""


def port():
    """One that is free at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Program:
    """A program that runs until it is ended, or until this one ends."""

    def __init__(self, log, *words):
        self.log = log
        with open(log, "a", encoding="utf-8") as output:
            command = ["setpriv", "--pdeathsig", "KILL", *map(str, words)]
            self.process = subprocess.Popen(command, stdout=output, stderr=output)

    def check(self):
        """Fails if it has ended by itself."""
        if self.process.poll() is not None:
            raise Failed(f"{self.log.stem}: {self.log.read_text(encoding='utf-8', errors='replace')[-2000:]}")

    def kill(self):
        """As a power cut does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


# ---- the cluster


def node(index, **annotations):
    """A node as its kubelet registers it and the controller gives it a subnet, and as flanneld has annotated it."""
    notes = {f"{PREFIX}/{key.replace('_', '-')}": value for key, value in annotations.items()}
    subnet = f"10.0.{index}.0/24"
    return {
        "kind": "Node", "apiVersion": "v1", "metadata": {"name": f"n{index}", "annotations": notes},
        "spec": {"podCIDR": subnet, "podCIDRs": [subnet]},
        "status": {
            "addresses": [{"type": "InternalIP", "address": f"172.16.0.{index}"}],
            # As a cloud's controller leaves it for whoever makes the network.
            "conditions": [{"type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated"}],
        },
    }


def backend_data(mac):
    """A VTEP's."""
    return json.dumps({"VNI": 1, "VtepMAC": mac}, separators=(",", ":"))


def peer(index):
    """A node that flanneld runs on."""
    return node(index, backend_data=backend_data(f"02:00:00:00:00:{index:02x}"), backend_type="vxlan",
                kube_subnet_manager="true", public_ip=f"172.16.0.{index}")


def pod(namespace, name, on, spec, **annotations):
    """A pod of a node."""
    notes = {f"kubernetes.io/{key.replace('_', '-')}": value for key, value in annotations.items()}
    return {
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"namespace": namespace, "name": name, "labels": {"app": name}, "annotations": notes},
        "spec": {"nodeName": on, "containers": [{"name": "c", "image": "i"}]} | spec,
    }


class Cluster:
    """etcd, and an API server that can be killed and started again; nodes and pods, but nobody else."""

    def __init__(self, at, binary):
        self.at, self.binary = at, binary
        self.etcd_url = f"http://127.0.0.1:{port()}"
        between = f"http://127.0.0.1:{port()}"
        self.etcd = Program(
            at / "etcd.log", "etcd", "--name", "one", "--data-dir", at / "etcd", "--listen-client-urls", self.etcd_url,
            "--advertise-client-urls", self.etcd_url, "--listen-peer-urls", between, "--initial-advertise-peer-urls", between,
            "--initial-cluster", f"one={between}")
        until("etcd answers", lambda: self.in_etcd("kv/range", key="eA=="))
        run("openssl", "genrsa", "-out", at / "sa.key", "2048")
        (at / "tokens.csv").write_text(f'admin,admin,1,"system:masters"\nweft,"{WEFT}",2,"system:serviceaccounts"\n',
                                       encoding="utf-8")
        self.port, self.server, self.up = port(), None, threading.Event()

    def in_etcd(self, call, **body):
        """A call of etcd's; nothing where it does not answer."""
        request = urllib.request.Request(f"{self.etcd_url}/v3/{call}", json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)
        except OSError:
            self.etcd.check()
            return None

    def start(self):
        """Starts the API server, and waits until it serves those who may ask."""
        at = self.at
        self.server = Program(
            at / "apiserver.log", self.binary, "--etcd-servers", self.etcd_url, "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://weft.invalid", f"--service-account-key-file={at}/sa.key",
            f"--service-account-signing-key-file={at}/sa.key", f"--cert-dir={at}", "--bind-address=127.0.0.1",
            f"--secure-port={self.port}", f"--token-auth-file={at}/tokens.csv", "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none",
            "--feature-gates=ListFromCacheSnapshot=false")
        until("the API server answers", self.answers)

    def answers(self):
        """True once it is ready."""
        self.server.check()
        try:
            return self.ask("GET", "/readyz", ok=False)[0] == 200
        except OSError:
            return False

    def connection(self):
        """To the API server, once it is there."""
        raw = socket.create_connection(("127.0.0.1", self.port))
        return ssl.create_default_context(cafile=self.at / "apiserver.crt").wrap_socket(raw, server_hostname="127.0.0.1")

    def ask(self, method, path, body=None, user="admin", kind="application/json", ok=True):
        """Status and body of the server's answer."""
        connection = http.client.HTTPConnection("127.0.0.1")
        connection.sock = self.connection()
        with connection.sock:
            headers = {"Authorization": f"Bearer {user}", "Content-Type": kind}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
        if ok and answer.status >= 300:
            raise Failed(f"{method} {path}: {answer.status} {text.decode()}")
        return answer.status, text

    def put(self, thing):
        """Makes a node or a pod."""
        self.ask("POST", way_to(thing).rpartition("/")[0], thing)

    def change(self, thing, patch, part=""):
        """Merges something into a node or a pod, or into its `/status`; the whole as it is then."""
        _, text = self.ask("PATCH", way_to(thing) + part, patch, kind="application/merge-patch+json")
        return json.loads(text)

    def remove(self, thing):
        """Takes a node or a pod away, without waiting for a kubelet."""
        self.ask("DELETE", way_to(thing) + "?gracePeriodSeconds=0")

    def compact(self):
        """etcd forgets all that was before a change of this moment."""
        self.change(peer(2), {"metadata": {"labels": {"at": str(time.monotonic_ns())}}})
        revision = self.in_etcd("kv/range", key=base64.b64encode(b"x").decode())["header"]["revision"]
        self.in_etcd("kv/compaction", revision=revision)

    def end(self):
        """Ends everything."""
        for program in [self.server, self.etcd]:
            if program:
                program.kill()


def way_to(thing):
    """The path of an object."""
    meta = thing["metadata"]
    if thing["kind"] == "Node":
        return f"/api/v1/nodes/{meta['name']}"
    return f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"


class Play:
    """What happens in the cluster, by the names that the test has for it."""

    WEFT = pod("kube-flannel", "weft-x", "n1", {"hostNetwork": True})
    WEB = pod("shop", "web", "n1", {}, ingress_bandwidth="10M")
    FAR = pod("shop", "far", "n2", {})

    def __init__(self, cluster, recording):
        self.cluster, self.recording = cluster, recording

    def begin(self):
        """Before the store comes: three nodes with flannel (n2 to n4), one without (n5), and the store's own, n1."""
        cluster = self.cluster
        cluster.start()
        for name in ["kube-flannel", "shop"]:
            cluster.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        for one in [node(1, node_public_ip="172.16.0.1"), peer(2), peer(3), peer(4), node(5)]:
            cluster.put(one)
        for one, address in [(self.WEFT, "172.16.0.1"), (self.WEB, "10.0.1.2"), (self.FAR, "10.0.2.2")]:
            cluster.put(one)
            cluster.change(one, {"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}}, "/status")
        cluster.up.set()

    def rights(self):
        """What an operator applies."""
        cluster = self.cluster
        config = cluster.at / "kubeconfig"
        config.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "x", "cluster": {
                "server": f"https://127.0.0.1:{cluster.port}", "certificate-authority": str(cluster.at / "apiserver.crt")}}],
            "users": [{"name": "x", "user": {"token": "admin"}}],
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        }), encoding="utf-8")
        run("kubectl", "--kubeconfig", config, "--cache-dir", cluster.at / "kubectl", "apply", "-f", ROOT / "deploy/kubernetes/rbac.yaml")

    def published(self):
        """The server has understood what the store says of its node."""
        now = json.loads(self.cluster.ask("GET", "/api/v1/nodes/n1")[1])
        notes = {key: value for key, value in now["metadata"]["annotations"].items() if key.startswith(PREFIX)}
        wanted = peer(1)["metadata"]["annotations"] | {f"{PREFIX}/node-public-ip": "172.16.0.1"}
        conditions = [(c["type"], c["status"], c["reason"]) for c in now["status"]["conditions"]]
        if (notes, conditions) != (wanted, [("NetworkUnavailable", "False", "FlannelIsUp")]):
            raise Failed(f"n1 is published so: {notes} {conditions}")

    def another_mac(self):
        """flanneld was started anew."""
        self.cluster.change(peer(2), {"metadata": {"annotations": {f"{PREFIX}/backend-data": backend_data("02:00:00:00:99:99")}}})

    def pod_elsewhere(self):
        """It does not concern the store, but the server is further on by it, which only a bookmark says: until the store says it too."""
        changed = self.cluster.change(self.FAR, {"metadata": {"labels": {"app": "further"}}})
        version = changed["metadata"]["resourceVersion"]
        until("a watch from the bookmark", lambda: self.recording.has(rf"> GET /api/v1/pods\?.*resourceVersion={version}&"))

    def killed(self):
        """The connections break, and whoever begins again later asks for versions that the new server never knew."""
        cluster = self.cluster
        cluster.up.clear()
        cluster.server.kill()
        cluster.start()
        cluster.remove(peer(4))
        until("weft may ask again", lambda: cluster.ask("GET", "/api/v1/nodes", user="weft", ok=False)[0] == 200)
        cluster.up.set()

    def steps(self):
        """By name."""
        cluster = self.cluster
        return {
            "weft is given its rights": self.rights,
            "n1 is published": self.published,
            "n2 has another MAC address": self.another_mac,
            "n6 comes": lambda: cluster.put(peer(6)),
            "n3 goes": lambda: cluster.remove(peer(3)),
            "a pod's limit is another": lambda: cluster.change(
                self.WEB, {"metadata": {"annotations": {"kubernetes.io/ingress-bandwidth": "20M"}}}),
            "a pod of another node changes": self.pod_elsewhere,
            "the server is killed, and n4 has gone when it is back": self.killed,
            "a pod goes": lambda: cluster.remove(self.WEB),
            "the end": lambda: None,
        }


# ---- the recording


class Recording:
    """What was said, in its order."""

    def __init__(self):
        self.lock, self.lines, self.exchanges = threading.Lock(), [], 0

    def step(self, name):
        """Something is let happen now."""
        with self.lock:
            self.lines.append(f"== {name}")

    def asked(self, raw):
        """A request; its number."""
        with self.lock:
            self.exchanges += 1
            self.add(f"{self.exchanges}>", raw)
            return self.exchanges

    def said(self, number, raw):
        """A piece of an answer."""
        with self.lock:
            self.add(f"{number}<", raw)

    def broke(self, number):
        """The connection is no more."""
        with self.lock:
            self.lines.append(f"{number}<!")

    def add(self, who, raw):
        """Line by line."""
        for line in re.findall(rb"[^\n]*\n|[^\n]+", raw):
            text = line.removesuffix(b"\n").removesuffix(b"\r")
            end = {b"": ".", b"\n": "-", b"\r\n": ""}[line[len(text):]]
            self.lines.append(f"{who}{end} {text.decode(errors='backslashreplace')}" if text else f"{who}{end}")

    def has(self, pattern):
        """True once such a line is there."""
        with self.lock:
            return any(re.search(pattern, line) for line in self.lines)

    def text(self):
        """All of it up to the end that the test has named."""
        with self.lock:
            return "\n".join(self.lines[:self.lines.index("== the end") + 1]) + "\n"


class Proxy(socketserver.ThreadingTCPServer):
    """Between the store and the API server."""

    daemon_threads = True

    def __init__(self, cluster, recording):
        super().__init__(("127.0.0.1", 0), Store)
        self.cluster, self.recording, self.forgot = cluster, recording, False


class Store(socketserver.StreamRequestHandler):
    """A connection of the store's."""

    def handle(self):
        """One request after the other."""
        cluster, recording = self.server.cluster, self.server.recording
        while head := head_of(self.rfile):
            body = self.rfile.read(int(header(head, b"content-length") or 0))
            number = recording.asked(head + body)
            cluster.up.wait()
            if b"continue=" in head and not self.server.forgot:
                self.server.forgot = True
                cluster.compact()
            head = re.sub(rb"\blimit=\d+", b"limit=%d" % PAGE, head, count=1)
            try:
                with cluster.connection() as server, server.makefile("rb") as answer:
                    server.sendall(head.removesuffix(b"\r\n") + b"authorization: Bearer weft\r\n\r\n" + body)
                    for piece in pieces_of(answer):
                        recording.said(number, piece)
                        self.wfile.write(piece)
            except OSError:
                recording.broke(number)
                return


def head_of(stream):
    """Up to the empty line; nothing where the connection is at its end."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline()
        if not line:
            return b""
        head += line
    return head


def header(head, name):
    """The value of a header; nothing where there is none."""
    found = re.search(rb"(?im)^%s: *([^\r]*)" % name, head)
    return found and found.group(1)


def pieces_of(stream):
    """An answer as it comes: the head, then the body whole, or each chunk. An OSError: it broke off."""
    head = head_of(stream)
    if not head:
        raise ConnectionError
    yield head
    chunked = header(head, b"transfer-encoding") == b"chunked"
    while True:
        size = stream.readline() if chunked else b""
        if chunked and not size:
            raise ConnectionError
        length = int(size, 16) + 2 if chunked else int(header(head, b"content-length"))
        data = stream.read(length)
        if size + data:
            yield size + data
        if len(data) < length:
            raise ConnectionError
        if not chunked or length == 2:
            return


def record(at, binary):
    """The recording's text."""
    cluster, recording = Cluster(at, binary), Recording()
    test = None
    try:
        play = Play(cluster, recording)
        play.begin()
        with Proxy(cluster, recording) as proxy, socket.create_server(("127.0.0.1", 0)) as stage:
            threading.Thread(target=proxy.serve_forever, daemon=True).start()
            environment = dict(os.environ, WEFT_STAGE=f"127.0.0.1:{stage.getsockname()[1]}")
            test = subprocess.Popen(
                ["cargo", "test", "--locked", "-p", "weft-flannel", "--test", "kube", "recorded::a_real_server"],
                cwd=ROOT, env=environment, start_new_session=True)
            stage.settimeout(1)
            follow(accepted(stage, test), f"http://127.0.0.1:{proxy.server_address[1]}", play.steps(), recording)
            proxy.shutdown()
        if test.wait() != 0:
            raise Failed("the test has failed against the real server")
        return recording.text()
    finally:
        if test and test.poll() is None:
            # cargo and what it runs.
            os.killpg(test.pid, signal.SIGKILL)
            test.wait()
        cluster.end()


def accepted(stage, test):
    """The test's connection, once it is built and runs."""
    while test.poll() is None:
        try:
            return stage.accept()[0]
        except TimeoutError:
            pass
    raise Failed("the test has not come")


def follow(connection, url, steps, recording):
    """Does as the test says, until it ends."""
    with connection, connection.makefile("rw", encoding="utf-8") as lines:
        print(url, file=lines, flush=True)
        for line in lines:
            name = line.rstrip("\n")
            recording.step(name)
            steps[name]()
            print(f"ok      {name}", flush=True)
            print("done", file=lines, flush=True)


def main():
    """Records, and replaces the file."""
    file = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else FILE)
    cache = os.environ.get("WEFT_INTEROP") or pathlib.Path.home() / ".cache/weft-interop"
    try:
        absent = [name for name in PROGRAMS if run("which", name, ok=False).returncode != 0]
        if absent:
            raise Failed(f"not installed: {', '.join(absent)} (Debian: etcd-server kubernetes-client openssl util-linux)")
        binary = build(pathlib.Path(cache).resolve(), ["kube-apiserver"])["kube-apiserver"]
        etcd = re.search(r"Version: (\S+)", run("etcd", "--version").stdout).group(1)
        with tempfile.TemporaryDirectory(prefix="weft-r-") as folder:
            text = record(pathlib.Path(folder), binary)
        remarks = REMARKS.format(server=KUBERNETES[1], etcd=etcd, page=PAGE)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(remarks + text, encoding="utf-8")
    except (Failed, subprocess.TimeoutExpired, OSError, ValueError, LookupError, http.client.HTTPException) as error:
        print(f"FAILED  {error}")
        print("interop: 0 passed, 1 failed")
        return 1
    print(f"{file}: {file.stat().st_size} bytes")
    print("interop: 1 passed, 0 failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
