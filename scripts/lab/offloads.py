"""Prints which offloads the interfaces of a network namespace have, as JSON. Runs inside the namespace.

Asks the kernel as ethtool does, so that ethtool need not be installed.
"""

import array
import fcntl
import json
import socket
import struct

SIOCETHTOOL = 0x8946
QUESTIONS = {"tx-checksumming": 0x16, "tso": 0x1E, "gso": 0x23}  # ETHTOOL_GTXCSUM, _GTSO, _GGSO


def is_on(sock, interface, question):
    """One question about one interface: struct ethtool_value, pointed to by struct ifreq."""
    value = array.array("I", [question, 0])
    request = struct.pack("16sP16x", interface.encode(), value.buffer_info()[0])
    fcntl.ioctl(sock, SIOCETHTOOL, request)
    return bool(value[1])


with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    names = [name for _, name in socket.if_nameindex() if name != "lo"]
    print(json.dumps({name: {what: is_on(sock, name, number) for what, number in QUESTIONS.items()} for name in names}))
