"""A node with flannel's backend udp or ipip, as far as packets go: a TUN device at one end, a socket at the other.

    peer.py udp|ipip LOG

Writes each packet to LOG as it is on the wire: `in` or `out`, the sender's port (udp), and its bytes. Everything is computed anew and
by the letter of RFC 791, so that it is no judge in its own cause.
"""

import fcntl
import os
import select
import socket
import struct
import sys

OWN, PEER, PORT = "172.16.0.2", "172.16.0.1", 8285
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000


def checksum(header):
    """Of an IPv4 header without one."""
    total = sum(struct.unpack(f"!{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def filled(header):
    """The header with its checksum."""
    header = header[:10] + b"\0\0" + header[12:]
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:]


def hop(packet):
    """flanneld's hop; nothing if it is the last one."""
    if len(packet) < 20 or packet[8] <= 1:
        return None
    end = (packet[0] & 15) * 4
    return filled(packet[:8] + bytes([packet[8] - 1]) + packet[9:end]) + packet[end:]


def wrapped(packet):
    """In an IPv4 packet, as the kernel's ipip device does with TTL, TOS and path MTU discovery of 0."""
    ecn = packet[1] & 3
    ecn = 2 if ecn == 3 else ecn
    fragment = packet[6] & 0x40
    addresses = socket.inet_aton(OWN) + socket.inet_aton(PEER)
    header = struct.pack("!BBHHBBBBH", 0x45, ecn, 20 + len(packet), 0, fragment, 0, packet[8], 4, 0) + addresses
    return filled(header) + packet


def main():
    form, path = sys.argv[1:]
    log = open(path, "a", buffering=1, encoding="ascii")
    if form == "udp":
        wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        wire.bind((OWN, PORT))
    else:
        wire = socket.socket(socket.AF_INET, socket.SOCK_RAW, 4)
        wire.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
        wire.bind((OWN, 0))
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    # Last: the device says that all is there.
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"flannel0", IFF_TUN | IFF_NO_PI))
    while True:
        ready, _, _ = select.select([tun, wire], [], [])
        if tun in ready:
            packet = os.read(tun, 65535)
            packet = packet if packet[0] >> 4 == 4 else None
            if form == "udp":
                packet = packet and hop(packet)
            else:
                packet = packet and wrapped(packet)
            if packet:
                log.write(f"out 0 {packet.hex()}\n")
                wire.sendto(packet, (PEER, PORT if form == "udp" else 0))
        if wire in ready:
            packet, sender = wire.recvfrom(65535)
            log.write(f"in {sender[1]} {packet.hex()}\n")
            if form == "udp":
                packet = hop(packet)
            else:
                packet = packet[(packet[0] & 15) * 4 :]
            if packet:
                os.write(tun, packet)


main()
