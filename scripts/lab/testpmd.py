"""dpdk-testpmd: as the floor that switches are measured against, and as a guest that sends and receives."""

import contextlib
import json
import socket
import subprocess

from checks import end
from run import Hopeless, LabError, wait_for

HEADROOM = 128
# Bytes of a buffer behind its headroom, if nothing else is asked for; and what it has beside: its header, the pool's words
# and padding.
ROOM, BESIDE = 2048, 384
OWN_MIB = 96
# For rings and caches, beside what a source holds.
SPARE_MBUFS = 16384


def memory_mib(held, room=None):
    """What it needs if a source holds so many frames, in buffers of that room."""
    return (held + SPARE_MBUFS) * (HEADROOM + (room or ROOM) + BESIDE) // 2**20 + OWN_MIB


class Testpmd:
    """A testpmd that forwards between its ports on one core; its other threads are on `mains`. Its sources hold so many
    frames. It begins at once, or if it `waits` when it is told to. Without `burst` it takes 32 packets at a time."""

    def __init__(self, run, netns, name, core, mains, vdevs, forward="io", held=0, huge=True, room=None, more=(), waits=False, burst=None):
        self.run, self.name = run, f"{run.name}-{name}"
        mains = ",".join(map(str, mains))
        words = [
            "taskset", "-c", mains, "stdbuf", "-oL", "dpdk-testpmd", "--no-pci", "--file-prefix", self.name, "-m", memory_mib(held, room),
            "--lcores", f"0@({mains}),1@{core}", *(["--in-memory"] if huge else ["--no-huge"]), *more,
        ]  # fmt: skip
        for vdev in vdevs:
            words += ["--vdev", vdev]
        # Without commands to wait for it ends at once, unless it has statistics to print.
        begin = ["--interactive"] if waits else ["--auto-start", "--stats-period", 3600]
        words += ["--", f"--forward-mode={forward}", *begin, "--no-flush-rx", "--no-mlockall", "--mbcache=512",
                  f"--total-num-mbufs={held + SPARE_MBUFS}", f"--mbuf-size={HEADROOM + (room or ROOM)}", *([f"--burst={burst}"] if burst else [])]  # fmt: skip
        self.log = f"testpmd-{name}.log"
        (run.dir / self.log).unlink(missing_ok=True)
        self.waits, self.telemetry = waits, None
        self.process = run.spawn(netns, *words, log=self.log, stdin=subprocess.PIPE)

    def ready(self, timeout=60):
        """Returns when it forwards, or waits for the word to."""
        sign = "testpmd>" if self.waits else "packet forwarding - ports="

        def asks():
            if self.process.poll() is not None:
                last = (self.run.dir / self.log).read_text(errors="replace").strip().splitlines()[-3:]
                raise Hopeless(f"dpdk-testpmd ended, code {self.process.returncode}: {' | '.join(last)}")
            return sign in (self.run.dir / self.log).read_text(errors="replace")

        wait_for("dpdk-testpmd to be ready", asks, timeout=timeout)
        self.telemetry = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.telemetry.settimeout(30)
        try:
            self.telemetry.connect(str(self.run.dir / "dpdk" / self.name / "dpdk_telemetry.v2"))
            self.telemetry.recv(1024)
        except OSError as e:
            raise LabError(f"the telemetry of dpdk-testpmd: {e}") from e

    def start(self):
        self.process.stdin.write(b"start\n")
        self.process.stdin.flush()

    def ask(self, question):
        """An answer of DPDK's telemetry."""
        try:
            self.telemetry.send(question.encode())
            return json.loads(self.telemetry.recv(1 << 16))[question.partition(",")[0]]
        except (OSError, ValueError, KeyError) as e:
            raise LabError(f"the telemetry of dpdk-testpmd, {question}: {e}") from e

    def received(self, port):
        return self.ask(f"/ethdev/stats,{port}")["ipackets"]

    def sent(self, port):
        return self.ask(f"/ethdev/stats,{port}")["opackets"]

    def mac(self, port):
        return self.ask(f"/ethdev/info,{port}")["mac_addr"]

    def end(self):
        if self.telemetry:
            self.telemetry.close()
        end(self.process)
        self.process.stdin.close()


@contextlib.contextmanager
def testpmd(*words, **options):
    """One that forwards already, and that ends with the block."""
    process = Testpmd(*words, **options)
    try:
        process.ready()
        yield process
    finally:
        process.end()
