"""The demo: makes the lab, runs the checks, removes the lab. `scripts/demo` installs and builds what it needs."""

import argparse
import signal
import sys
import time

import checks
import nodes as lab
from run import LabError, Run, remove_leftovers


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/demo", add_help=False)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--clean", action="store_true")
    parser.add_argument("--nodes", default="weft,weft,kernel")
    options = parser.parse_args()
    options.nodes = options.nodes.split(",")
    if len(options.nodes) != 3 or set(options.nodes) - {"weft", "kernel"}:
        parser.error("--nodes takes three kinds, each weft or kernel, as in weft,weft,kernel")
    return options


class Stopped(BaseException):
    """A signal asked for the end."""


def stop(number, _frame):
    raise Stopped(signal.Signals(number).name)


def run_checks(report, run, nodes, quick):
    pods = [pod for node in nodes for pod in node.pods]
    weft = [node for node in nodes if node.kind == "weft"]
    checks.pings(report, nodes, pods)
    checks.iperfs(report, run, pods, quick)
    checks.transfers(report, run, pods)
    if not weft:
        return
    first, far = weft[0].pods[0], nodes[2].pods[0]
    across = [(first, far), (far, first)]
    report.check("a right edit of cluster.toml is applied", checks.reconfigure, run, nodes, across)
    report.check("a wrong edit of cluster.toml is refused", checks.refuse, run, nodes, across)
    guests = [(pod, far) for pod in weft[0].pods if pod.kind == "vhost"]
    report.check(f"weftd on {weft[0].name} by kill -9 and back", checks.kill_and_restart, run, weft[0], [(first, far), *guests])
    time.sleep(1)
    for node in weft:
        print(f"cost weftd on {node.name}: {checks.cost(node)}", flush=True)
    for node in weft:
        for words in (["status"], ["stats"], ["drops"]):
            print(f"\n{node.name}# weft {' '.join(words)}\n{node.weft(*words).stdout.rstrip()}", flush=True)
    print()
    for node in weft:
        report.check(f"the counters of {node.name} add up", checks.counters_add_up, node)


def invitation(run, nodes):
    """What to type in a lab that stays."""
    print(f"\nThe lab {run.name} stays up. For example:")
    for node in nodes:
        for pod in node.pods:
            print(f"  ip netns exec {pod.netns} ping {nodes[2].pods[0].addresses[4]}    # {pod.name}, {pod.kind}")
    for node in nodes:
        print(f"  ip netns exec {node.netns} tcpdump -ni u0 udp port {lab.PORT}    # the tunnels of node {node.name}")
    for node in nodes:
        if node.kind == "weft":
            print(f"  {lab.BIN}/weft --socket {node.socket} status    # or pod list, stats, drops")
    print(f"Logs and configuration are in {run.dir}. To end it: scripts/demo --clean")


def main():
    options = arguments()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    for name in remove_leftovers(kept=options.clean):
        print(f"demo: removed {name}, left by an earlier run", flush=True)
    if options.clean:
        return 0
    report, run, begin, stopped, nodes = checks.Report(), Run(), time.monotonic(), None, None
    try:
        print(f"demo: making the lab {run.name}: {', '.join(options.nodes)}", flush=True)
        nodes = lab.build(run, options.nodes)
        run_checks(report, run, nodes, options.quick)
        if not options.keep:
            for node in nodes:
                if node.kind == "weft":
                    report.check(f"SIGTERM ends weftd on {node.name}", checks.end_in_time, node)
    except Stopped as e:
        stopped = e
    except (LabError, OSError) as e:
        report.failed += 1
        print(f"FAIL the lab: {e}", flush=True)
    finally:
        # From here on nothing may interrupt, or something would stay.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if report.failed or stopped:
            show_logs(run, nodes)
        if options.keep and nodes and not stopped:
            run.keep()
            invitation(run, nodes)
        else:
            run.remove()
    if stopped:
        print(f"demo: ended by {stopped}; all that it made is removed", flush=True)
        report.failed += 1
    print(f"demo: took {time.monotonic() - begin:.0f} s")
    print(f"demo: {report.passed} passed, {report.failed} failed", flush=True)
    return 1 if report.failed else 0


def show_logs(run, nodes):
    """The last words of the daemons and guests, for whoever looks into a failure."""
    for log in sorted([*run.dir.glob("weftd-*.log"), *run.dir.glob("guest-*.log")]):
        lines = log.read_text(errors="replace").splitlines()[-15:]
        if lines:
            print(f"\n{log.name}, its last lines:\n  " + "\n  ".join(lines), flush=True)


sys.exit(main())
