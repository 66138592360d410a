"""podman as a CNI client: containers that are attached by weft-cni, ping each other, and go without a trace.

On a node in a network namespace of its own, with a root file system of busybox alone. Everything of podman's is in a
temporary folder. Needs podman 4 with CNI, containernetworking-plugins, iptables and busybox-static; what is missing of
them is installed. Programs are taken from $WEFT_BIN (target/release unless it is set).
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

PACKAGES = ["podman", "containernetworking-plugins", "iptables", "busybox-static", "iproute2"]
PROGRAMS = ["podman", "iptables", "busybox", "ip"]
PLUGINS = "/usr/lib/cni"
SUBNET = "10.244.0.0/24"

WEFTD = """[node]
name = "a"
[dataplane]
memory = "16MiB"
[uplink]
interface = "up0"
[source]
path = "{at}/cluster.toml"
[control]
socket = "{at}/weftd.sock"
[state]
dir = "{at}/state"
"""

CLUSTER = """[network]
ipv4 = "10.244.0.0/16"
[[node]]
name = "a"
subnets = ["10.244.0.0/24"]
public_ip = "172.16.0.1"
"""

CONTAINERS = """[network]
network_backend = "cni"
network_config_dir = "{at}/net.d"
cni_plugin_dirs = ["{at}/bin", "{plugins}"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
log_driver = "k8s-file"
cgroups = "disabled"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
"""


class Failed(Exception):
    """A check that did not hold."""


def run(*words, ok=True, **more):
    """Runs a program to its end; what it printed."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=120, **more)
    if ok and done.returncode != 0:
        raise Failed(f"{' '.join(map(str, words))}: {done.stdout}{done.stderr}")
    return done


def install():
    """What is missing of the packages."""
    if all(shutil.which(program) for program in PROGRAMS) and os.path.exists(f"{PLUGINS}/host-local"):
        return
    print("interop: installing", *PACKAGES)
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    run("apt-get", "install", "-y", "--no-install-recommends", *PACKAGES, env=environment)


class Node:
    """weftd and podman in the namespace that this process is in."""

    def __init__(self, at, programs):
        self.at = at
        self.programs = programs
        self.weftd = None
        rootfs = at / "rootfs"
        for folder in ["bin", "proc", "sys", "dev", "etc", "tmp", "run"]:
            (rootfs / folder).mkdir(parents=True)
        shutil.copy(shutil.which("busybox"), rootfs / "bin/busybox")
        for name in ["sh", "sleep", "ping", "ip", "cat"]:
            (rootfs / "bin" / name).symlink_to("busybox")
        self.rootfs = rootfs
        (at / "weftd.toml").write_text(WEFTD.format(at=at))
        (at / "cluster.toml").write_text(CLUSTER)
        (at / "containers.conf").write_text(CONTAINERS.format(at=at, plugins=PLUGINS))
        # Runtimes refuse control groups of both versions at once, which some machines have.
        run("mount", "-t", "cgroup2", "none", "/sys/fs/cgroup")
        run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1")
        for words in ["addr add 172.16.0.1/24 dev up0", "link set up0 up", "link set up1 up", "link set lo up"]:
            run("ip", *words.split())

    def start(self):
        """Starts weftd and waits until it answers."""
        log = open(self.at / "weftd.log", "a", encoding="utf-8")
        self.weftd = subprocess.Popen([self.programs / "weftd", "--config", self.at / "weftd.toml"], stderr=log)
        for _ in range(300):
            if self.weft("status", ok=False).returncode == 0:
                return
            if self.weftd.poll() is not None:
                break
            time.sleep(0.1)
        raise Failed("weftd does not start: " + (self.at / "weftd.log").read_text())

    def stop(self):
        """Ends weftd."""
        if self.weftd is not None:
            self.weftd.send_signal(signal.SIGTERM)
            self.weftd.wait(timeout=30)
            self.weftd = None

    def weft(self, *words, ok=True):
        """The command line."""
        return run(self.programs / "weft", "--socket", self.at / "weftd.sock", *words, ok=ok)

    def pods(self):
        """weftd's pods."""
        return json.loads(self.weft("-o", "json", "pod", "list").stdout)["pods"]

    def podman(self, *words, ok=True):
        """podman, with all that it keeps in the folder."""
        environment = dict(os.environ, CONTAINERS_CONF=str(self.at / "containers.conf"))
        places = ["--root", self.at / "store", "--runroot", self.at / "run", "--tmpdir", self.at / "tmp"]
        return run("podman", *places, "--storage-driver", "vfs", *words, ok=ok, env=environment)

    def container(self, name, *more):
        """Starts a container that sleeps."""
        command = [*more, "--rootfs", self.rootfs, "sleep", "600"]
        self.podman("run", "-d", "--name", name, "--network", "weft", *command)

    def reserved(self):
        """The addresses that host-local has given."""
        folder = self.at / "ipam/weft"
        return sorted(path.name for path in folder.glob("10.*")) if folder.exists() else []


def expect(what, found, wanted):
    """A check."""
    if found != wanted:
        raise Failed(f"{what}: {found!r}, not {wanted!r}")


def inside(at, programs):
    """The leg itself, in the node's namespace."""
    node = Node(at, programs)
    checks = []

    def check(what, work):
        try:
            work()
            checks.append(True)
            print(f"ok      {what}")
        except (Failed, subprocess.TimeoutExpired, AssertionError, KeyError, IndexError) as error:
            checks.append(False)
            print(f"FAILED  {what}: {error}")

    def installed():
        node.weft("cni", "install", "--bin-dir", at / "bin", "--conf-dir", at / "net.d", "--network", "weft",
                  "--plugin", programs / "weft-cni", "--config", at / "weftd.toml")
        # weft's list as it was written, with addresses of the lab's own.
        path = at / "net.d/10-weft.conflist"
        conf = json.loads(path.read_text())
        conf["plugins"][0]["ipam"] = {"type": "host-local", "dataDir": str(at / "ipam"), "ranges": [[{"subnet": SUBNET}]]}
        path.write_text(json.dumps(conf))
        expect("podman's networks", "weft" in node.podman("network", "ls").stdout, True)

    def two_containers():
        node.container("one")
        node.container("two", "-p", "8080:80")
        expect("weftd's pods", [pod["state"] for pod in node.pods()], ["up", "up"])
        expect("addresses", node.reserved(), ["10.244.0.2", "10.244.0.3"])

    def pings():
        for name, address in [("one", "10.244.0.3"), ("two", "10.244.0.2"), ("one", "10.244.0.1"), ("two", "172.16.0.1")]:
            node.podman("exec", name, "ping", "-c", "2", "-W", "5", address)

    def shape():
        shown = node.podman("exec", "one", "ip", "addr", "show", "dev", "eth0").stdout
        expect("address and MTU", ("10.244.0.2/24" in shown, "mtu 1450" in shown), (True, True))
        settings = json.loads(node.podman("inspect", "one").stdout)[0]["NetworkSettings"]["Networks"]["weft"]
        expect("what podman says", (settings["IPAddress"], settings["Gateway"]), ("10.244.0.2", "10.244.0.1"))

    def over_restart():
        node.stop()
        node.start()
        pings()

    def deleted():
        node.podman("rm", "-f", "-t", "0", "one")
        expect("weftd's pods", len(node.pods()), 1)
        node.podman("rm", "-f", "-t", "0", "two")
        expect("weftd's pods", node.pods(), [])
        expect("addresses", node.reserved(), [])
        rules = run("iptables-save", ok=False).stdout
        expect("portmap's rules", "8080" in rules, False)

    def while_away():
        node.container("three")
        node.stop()
        node.podman("rm", "-f", "-t", "0", "three")
        expect("addresses", node.reserved(), [])
        refused = node.podman("run", "--rm", "--network", "weft", "--rootfs", node.rootfs, "cat", ok=False)
        if "weftd does not listen" not in refused.stderr:
            raise Failed(f"podman does not say why: {refused.stderr}")
        node.start()
        expect("weftd's pods", node.pods(), [])

    try:
        node.start()
        for what, work in [
            ("weft cni install is found by podman", installed),
            ("two containers are attached", two_containers),
            ("they ping each other, the gateway and the node", pings),
            ("a container sees what flannel's bridge would give it", shape),
            ("they go on after weftd was started again", over_restart),
            ("nothing is left of deleted containers", deleted),
            ("containers go while weftd is away", while_away),
        ]:
            check(what, work)
    finally:
        node.podman("rm", "-f", "-a", "-t", "0", ok=False)
        node.stop()
    print(f"interop: {sum(checks)} passed, {len(checks) - sum(checks)} failed")
    return 0 if all(checks) else 1


def main():
    """Makes the namespace, and runs the leg in it: mounts that podman makes are seen there only, and by weftd too."""
    if len(sys.argv) == 4 and sys.argv[1] == "inside":
        return inside(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
    programs = pathlib.Path(os.environ.get("WEFT_BIN", "target/release")).resolve()
    missing = [name for name in ["weftd", "weft", "weft-cni"] if not (programs / name).exists()]
    if missing:
        print(f"interop: {programs} has no {', '.join(missing)}: cargo build --release -p weft-control -p weft-cli -p weft-cni")
        print("interop: 0 passed, 1 failed")
        return 1
    install()
    name = f"weft-i-{os.getpid()}-podman"
    # Short: sockets are in it.
    with tempfile.TemporaryDirectory(prefix="weft-i-") as at:
        run("ip", "netns", "add", name)
        try:
            me = [sys.executable, "-B", __file__, "inside", at, str(programs)]
            # With mounts of its own, but the machine's /sys, which has the control groups.
            enter = ["nsenter", f"--net=/run/netns/{name}", "unshare", "--mount", "--propagation", "private"]
            return subprocess.run([*enter, *me], timeout=600, check=False).returncode
        finally:
            run("ip", "netns", "del", name, ok=False)


if __name__ == "__main__":
    sys.exit(main())
