"""Open vSwitch with DPDK: Debian's daemon with a folder, a database and a network namespace of its own, so that an Open
vSwitch that runs on the machine is neither used nor noticed."""

import json
import os
import re
import socket
import time
from pathlib import Path

from checks import end
from machine import OVS_DPDK
from run import Hopeless, LabError, call, wait_for

# Under this name also where another daemon is the machine's choice.
DAEMON = Path(f"/usr/lib/{OVS_DPDK}/ovs-vswitchd-dpdk")
SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
# Of which it takes buffers for 262,144 packets.
MEMORY_MIB = 1024
DATAPATH = "netdev@ovs-netdev"


class Ovs:
    """A running Open vSwitch whose one polling thread is on `core`; its other threads are on `mains`."""

    def __init__(self, run, netns, name, core, mains, huge=True, settings=()):
        self.run, self.netns, self.dir = run, netns, run.dir / name
        self.mains, self.processes, self.bridges = ",".join(map(str, mains)), [], []
        self.dir.mkdir()
        self.db = f"unix:{self.dir}/db.sock"
        # --in-memory it adds by itself, but for legacy memory; that and ordinary pages don't go together. On ordinary pages
        # it makes its buffers anew when a guest comes, before it gives up the first ones.
        memory = "" if huge else f" --no-huge -m {2 * MEMORY_MIB} --legacy-mem"
        config = {
            "dpdk-init": "true", "pmd-cpu-mask": f"{1 << core:#x}",
            "dpdk-extra": f"--no-pci --file-prefix={run.name}-{name}{memory}",
        } | ({"dpdk-socket-mem": MEMORY_MIB} if huge else {}) | dict(settings)  # fmt: skip
        try:
            call("ovsdb-tool", "create", self.dir / "conf.db", SCHEMA)
            self.spawn("ovsdb-server", self.dir / "conf.db", f"--remote=p{self.db}", f"--unixctl={self.dir}/ovsdb.ctl")
            wait_for("ovsdb-server", lambda: (self.dir / "db.sock").exists() and self.vsctl("--no-wait", "init") is not None)
            self.vsctl("--no-wait", "set", "Open_vSwitch", ".", *(f'other_config:{key}="{value}"' for key, value in config.items()))
            self.spawn(DAEMON, self.db, f"--unixctl={self.dir}/vswitchd.ctl")
            self.ctl = None
            wait_for("ovs-vswitchd with DPDK", self.connected, timeout=60)
        except BaseException:
            self.end()
            raise

    def spawn(self, program, *words):
        places = {f"OVS_{place}DIR": str(self.dir) for place in ("RUN", "DB", "LOG", "SYSCONF")}
        child = self.run.spawn(
            self.netns, "env", *(f"{key}={value}" for key, value in places.items()), "taskset", "-c", self.mains, program,
            "-vconsole:warn", "-vfile:off", "-vsyslog:off", *words, log=f"{self.dir.name}.log",
        )  # fmt: skip
        self.processes.append(child)

    def vsctl(self, *words):
        return call("ovs-vsctl", f"--db={self.db}", "--timeout=30", *words, timeout=40).stdout.strip()

    def connected(self):
        log = self.run.dir / f"{self.dir.name}.log"
        if any(process.poll() is not None for process in self.processes):
            raise Hopeless(f"Open vSwitch ended: {' | '.join(log.read_text(errors='replace').strip().splitlines()[-3:])}")
        if self.ctl is None:
            ctl = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            ctl.settimeout(30)
            try:
                ctl.connect(f"{self.dir}/vswitchd.ctl")
            except OSError as e:
                ctl.close()
                raise LabError(str(e)) from e
            self.ctl = ctl
        return self.vsctl("get", "Open_vSwitch", ".", "dpdk_initialized") == "true"

    def ask(self, method, *words):
        """What `ovs-appctl` would do, without starting a program: what is read is read at once."""
        try:
            self.ctl.sendall(json.dumps({"id": 0, "method": method, "params": [str(word) for word in words]}).encode())
            said, parser = "", json.JSONDecoder()
            while True:
                said += self.ctl.recv(1 << 16).decode()
                try:
                    answer, _ = parser.raw_decode(said)
                    break
                except ValueError:
                    if not said:
                        raise
        except (OSError, ValueError) as e:
            raise LabError(f"ovs-vswitchd, {method}: {e}") from e
        if answer.get("error"):
            raise LabError(f"ovs-vswitchd, {method} {' '.join(map(str, words))}: {answer['error'].strip()}")
        return answer["result"]

    def bridge(self, name, mac=None):
        self.bridges.append(name)
        hwaddr = [f'other_config:hwaddr="{mac}"'] if mac else []
        self.vsctl("--may-exist", "add-br", name, "--", "set", "Bridge", name, "datapath_type=netdev", "fail_mode=secure", *hwaddr)

    def port(self, bridge, name, number, kind, **options):
        """Adds a port, and waits until it is there."""
        words = [f'options:{key.replace("_", "-") if kind.startswith("dpdk") else key}="{value}"' for key, value in options.items()]
        self.vsctl("add-port", bridge, name, "--", "set", "Interface", name, f"type={kind}", f"ofport_request={number}", *words)
        wrong = self.vsctl("get", "Interface", name, "error")
        if wrong not in ("[]", ""):
            raise LabError(f"Open vSwitch, port {name}: {wrong}")

    def flows(self, bridge, lines):
        path = self.dir / f"{bridge}.flows"
        path.write_text("\n".join(lines) + "\n")
        call("ovs-ofctl", "add-flows", f"unix:{self.dir}/{bridge}.mgmt", path)

    def counts(self):
        """Packets received and sent by port, as its driver counts them."""
        ports = re.findall(
            r"^  port \d+: (\S+).*\n    RX packets:(\d+).*\n    TX packets:(\d+)", self.ask("dpctl/show", "-s", DATAPATH), re.M
        )
        return {name: (int(received), int(sent)) for name, received, sent in ports}

    def missed(self):
        """Packets whose flow was not in the datapath, as of now."""
        return int(re.search(r"missed:(\d+)", self.ask("dpctl/show", DATAPATH))[1])

    def settle(self, patience=15.0):
        """Returns when no packet is of a new flow any more: tens of thousands take it a second. If that never is, it is
        how it works under this load."""
        deadline, last = time.monotonic() + patience, -1
        while (now := self.missed()) != last and time.monotonic() < deadline:
            last = now
            time.sleep(0.3)

    def end(self):
        for process in reversed(self.processes):
            end(process)
        # Its interfaces stay when it is ended like this.
        for name in ("ovs-netdev", *self.bridges):
            call("ip", "-n", self.netns, "link", "delete", name, check=False)


