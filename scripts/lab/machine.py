"""The machine that is measured on: what it is, which versions are on it, its packages and its huge pages."""

import contextlib
import os
import platform
import re
import signal
import subprocess
from pathlib import Path

from gauges import usable_cores
from run import LabError, call

OVS_DPDK = "openvswitch-switch-dpdk"
# What Debian asks before it starts a service, and what it is told while packages are installed.
POLICY = Path("/usr/sbin/policy-rc.d")
NO_SERVICES = "#!/bin/sh\n# scripts/bench of weft installs packages without starting their services.\nexit 101\n"


def field(path, name):
    """What stands behind `name :` in a file of /proc, where it stands first."""
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.+)$", Path(path).read_text(), re.MULTILINE)
    return found[1].strip() if found else None


def tsc_hz():
    """Ticks of the time stamp counter a second. The kernel makes its loops per jiffy of just this number on x86, and
    says two of them per tick as BogoMIPS."""
    bogomips = field("/proc/cpuinfo", "bogomips")
    if not bogomips:
        raise LabError("/proc/cpuinfo says no BogoMIPS: cycles are only known on x86")
    return round(float(bogomips) * 1e6 / 2)


def facts():
    """What every reader of a figure must know."""
    memory = int(field("/proc/meminfo", "MemTotal").split()[0])
    found = {
        "cpu": field("/proc/cpuinfo", "model name"),
        "cores": len(usable_cores()),
        "tsc_hz": tsc_hz() if platform.machine() == "x86_64" else None,
        "memory_gib": round(memory / 2**20, 1),
        "kernel": platform.release(),
        "system": dict(re.findall(r'^(\w+)="?([^"\n]*)', Path("/etc/os-release").read_text(), re.MULTILINE)).get("PRETTY_NAME"),
        "virtual": "hypervisor" in (field("/proc/cpuinfo", "flags") or ""),
    }
    return {name: value for name, value in found.items() if value is not None}


def versions():
    """Of weft, by its commit, and of Debian's packages that take part."""
    here = Path(__file__).parent
    said = lambda *words: call("git", "-c", "safe.directory=*", "-C", here, *words, check=False).stdout.strip()
    found = {}
    with contextlib.suppress(LabError):
        if commit := said("rev-parse", "--short=12", "HEAD"):
            found["weft"] = commit + ("-changed" if said("status", "--porcelain", "--untracked-files=no") else "")
    for name, package in (("dpdk", "librte-eal23"), ("ovs", OVS_DPDK)):
        if version := installed(package):
            found[name] = version
    return found


# Packages


def installed(package):
    """Its version, or None."""
    said = call("dpkg-query", "-W", "-f=${db:Status-Status} ${Version}", package, check=False).stdout.split()
    return said[1] if said[:1] == ["installed"] else None


@contextlib.contextmanager
def no_services():
    """While packages are installed nothing they bring is started."""
    if POLICY.exists() and POLICY.read_text() != NO_SERVICES:
        # Somebody else's policy. It must be one that starts nothing, or we'd leave a service running.
        if call(POLICY, OVS_DPDK, "start", check=False).returncode != 101:
            raise LabError(f"{POLICY} of this machine lets packages start their services: install {OVS_DPDK} yourself")
        yield
        return
    # Ours may be there from a run that was killed.
    POLICY.write_text(NO_SERVICES)
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def install_ovs():
    """Open vSwitch with DPDK, without its service: what is measured is a daemon of ours. An Open vSwitch that is here
    already stays as it is."""
    if installed(OVS_DPDK):
        return None
    if installed("openvswitch-switch"):
        raise LabError(
            f"this machine has an Open vSwitch without DPDK, whose daemon {OVS_DPDK} would replace: install that yourself,"
            " or leave ovs-dpdk out (--subjects)"
        )
    install(OVS_DPDK)
    # A machine with systemd would start it with the next boot.
    if Path("/run/systemd/system").exists():
        call("systemctl", "disable", "--quiet", "openvswitch-switch.service", check=False)
    return OVS_DPDK


def install(*packages):
    """Debian's packages. A signal waits until it is done: half installed ones help nobody."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    apt = lambda *words: subprocess.run(
        ["apt-get", *words], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        start_new_session=True, timeout=900,
    )  # fmt: skip
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        with no_services():
            # A repository that is broken need not matter: only what can't be installed does.
            apt("update")
            done = apt("install", "-y", "--no-install-recommends", "--no-remove", *packages)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    if done.returncode != 0:
        wrong = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        raise LabError(f"apt-get install {' '.join(packages)}: {wrong[0] if wrong else done.stderr[-200:]}")


# Huge pages


def reserve(run, mib):
    """Whether that many MiB are free as huge pages of 2 MiB, after reserving what is missing. What was added is given
    back when the run is removed, also by the next run if this one is killed."""
    if field("/proc/meminfo", "Hugepagesize") != "2048 kB":
        return False
    pages = lambda name: int(field("/proc/meminfo", f"HugePages_{name}"))
    missing = (mib + 1) // 2 - pages("Free")
    if missing > 0:
        run.reserve_huge_pages(missing)
    return (mib + 1) // 2 <= pages("Free")
