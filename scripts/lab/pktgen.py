"""weft-pktgen as both ends of a switch: one program, its two ports the guests of two vhost-user sockets."""

import contextlib
import json

from checks import end
from nodes import BIN
from run import LabError

PROGRAM = "weft-pktgen"
# Done, and something was lost or no rate was found: the answer is there all the same.
ANSWERS = (0, 3)


class Pktgen:
    """A run of weft-pktgen under way on `core`; the sockets are made by it, and the switch connects to them. The rings of each
    port have so many descriptors."""

    def __init__(self, run, netns, core, sockets, huge, *words, queues=(1024, 1024)):
        self.log = run.dir / "pktgen.log"
        self.log.unlink(missing_ok=True)
        ports = []
        for index, (path, queue) in enumerate(zip(sockets, queues)):
            path.unlink(missing_ok=True)
            ports += ["--port", f"net_virtio_user{index},path={path},server=1,queues=1,queue_size={queue}"]
        command, *words = words
        most = max(queues)
        words = [command, "-o", "json", *ports, "--core", core, "--descriptors", most, "--buffers", 4 * most + 4096, "--link-wait", 60, *words]
        self.process = run.spawn(netns, BIN / PROGRAM, *words, *([] if huge else ["--no-hugepages"]), log=self.log.name)
        self.memory = "hugepages" if huge else "ordinary pages"

    def ended(self):
        return self.process.poll() is not None

    def answer(self, timeout):
        """What it says at its end."""
        try:
            code = self.process.wait(timeout=timeout)
        except Exception as e:
            raise LabError(f"{PROGRAM}: {e}") from e
        said = self.log.read_text(errors="replace")
        if code not in ANSWERS or "{" not in said:
            raise LabError(f"{PROGRAM} ended, code {code}: {' | '.join(said.strip().splitlines()[-3:])}")
        answer = json.loads(said[said.index("{"):])
        if answer["memory"] != self.memory:
            raise LabError(f"{PROGRAM} has {answer['memory']}, where {self.memory} were meant")
        return answer

    def end(self):
        end(self.process)


@contextlib.contextmanager
def pktgen(*words, **how):
    """One under way, which ends with the block."""
    process = Pktgen(*words, **how)
    try:
        yield process
    finally:
        process.end()
