"""Captures, and what a switch must make of their frames: for the checks that compare byte by byte."""

import struct
from collections import Counter
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from run import LabError

# In the byte order of this machine: with microseconds, and as DPDK writes them with nanoseconds.
MAGIC, MAGIC_NS = 0xA1B2C3D4, 0xA1B23C4D
OUTER = 50  # Ethernet, IPv4, UDP, VXLAN
ANY_PORT = 0xC000


class WrongBytes(LabError):
    """A switch that does something else than it must."""


def size(frames):
    """Bytes of a capture of these frames."""
    return 24 + sum(16 + len(frame) for frame in frames)


def read(path):
    """The frames of a capture. What is cut off at its end is left out: whoever wrote it was stopped."""
    data, at, frames = Path(path).read_bytes(), 24, []
    if not data:
        return frames  # opened, and nothing came
    if len(data) < at or struct.unpack_from("=I", data)[0] not in (MAGIC, MAGIC_NS):
        raise LabError(f"{path} is no capture of this machine")
    while at + 16 <= len(data):
        length = struct.unpack_from("=I", data, at + 8)[0]
        frames.append(data[at + 16 : at + 16 + length])
        at += 16 + length
    return frames


def write(path, frames):
    with open(path, "wb") as file:
        file.write(struct.pack("=IHHiIII", MAGIC, 2, 4, 0, 0, 65535, 1))
        for number, frame in enumerate(frames):
            file.write(struct.pack("=IIII", number // 10**6, number % 10**6, len(frame), len(frame)) + frame)


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def checksum(data):
    """The internet's, of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(header):
    """An IPv4 header of 20 bytes with its checksum filled in."""
    header = header[:10] + b"\0\0" + header[12:]
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:]


def udp_frame(src_mac, dst_mac, src, dst, ports, length):
    """A UDP datagram without a checksum."""
    payload = bytes(length - 42)
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(payload), 0, 0x4000, 64, 17, 0,
                         IPv4Address(src).packed, IPv4Address(dst).packed)  # fmt: skip
    udp = struct.pack("!HHHH", *ports, 8 + len(payload), 0)
    return mac(dst_mac) + mac(src_mac) + b"\x08\0" + ipv4(header) + udp + payload


def routed(frame, src_mac, dst_mac):
    """A frame that a router has passed on."""
    ip = ipv4(frame[14:22] + bytes([frame[22] - 1]) + frame[23:34])
    return mac(dst_mac) + mac(src_mac) + frame[12:14] + ip + frame[34:]


def any_tunnel(frame):
    """A tunnel packet in a form in which two may be compared. VXLAN leaves to the sender: the UDP source port, the
    identification and the don't-fragment flag of the outer header. Its checksum, which follows from these, must be right."""
    ip = frame[14:34]
    if len(frame) < OUTER or checksum(ip):
        raise WrongBytes(f"a tunnel packet with a wrong outer header: {frame[:OUTER].hex()}")
    if not int.from_bytes(frame[34:36], "big"):
        raise WrongBytes("a tunnel packet with the source port 0")
    flags = int.from_bytes(ip[6:8], "big") & ~0x4000
    return frame[:14] + ipv4(ip[:4] + b"\0\0" + flags.to_bytes(2, "big") + ip[8:]) + b"\0\0" + frame[36:]


class Plan:
    """Who is who in the scene: what `weft-rig plan` says."""

    def __init__(self, said):
        self.said = said
        self.gateway, self.here = said["gateway"]["mac"], said["local_vtep"]
        self.mac_of = {IPv4Address(pod["ip"]).packed: pod["mac"] for pod in said["others"]}
        self.peers = {IPv4Network(net).network_address.packed[:3]: vtep for vtep in said["vteps"] for net in vtep["subnets"]}

    def comes_out(self, case, frame):
        """What a switch must make of a frame."""
        if case == "bridge":
            return frame
        if case == "route":
            return routed(frame, self.gateway, self.mac_of[frame[30:34]])
        if case == "encap":
            peer = self.peers[frame[30:33]]
            return self.tunnelled(routed(frame, self.here["mac"], peer["mac"]), peer)
        inner = frame[OUTER:]
        return routed(inner, self.gateway, self.mac_of[inner[30:34]])

    def tunnelled(self, inner, peer):
        vxlan = b"\x08\0\0\0" + self.said["vni"].to_bytes(3, "big") + b"\0"
        length = len(inner) + 16
        ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + length, 0, 0, 64, 17, 0,
                         IPv4Address(self.here["ip"]).packed, IPv4Address(peer["ip"]).packed)  # fmt: skip
        udp = struct.pack("!HHHH", ANY_PORT, self.said["vxlan_port"], length, 0)
        return mac(peer["uplink_mac"]) + mac(self.here["uplink_mac"]) + b"\x08\0" + ipv4(ip) + udp + vxlan + inner


def compare(who, wanted, got, times=1):
    """Every frame that must come out has come out, as often as it was sent, and nothing else has. In whatever order: a
    switch may look into a flow's first packet for longer than into the next. Of what was sent several `times` once is
    enough."""
    wanted, got = Counter(wanted), Counter(got)
    missing = wanted - got
    more = got - Counter({frame: count * times for frame, count in wanted.items()})
    if missing or more:
        example = " ".join(f"{name} {next(iter(some)).hex()}" for name, some in (("missing", missing), ("too many", more)) if some)
        raise WrongBytes(f"{who}: of {wanted.total()} frames {missing.total()} are missing, {more.total()} are others: {example}")
