"""Prints which offloads the interfaces of a network namespace have, as JSON. Runs inside the namespace. With the name of an
interface it turns transmit checksums off there, which is for the tests of who asks.

Asks the kernel as ethtool does, so that ethtool need not be installed.
"""

import array
import fcntl
import json
import socket
import struct
import sys

SIOCETHTOOL = 0x8946
QUESTIONS = {"tx-checksumming": 0x16, "tso": 0x1E, "gso": 0x23}  # ETHTOOL_GTXCSUM, _GTSO, _GGSO
TURN_TX_CHECKSUMMING = 0x17  # ETHTOOL_STXCSUM


def ask(sock, interface, question, value=0):
    """One question about one interface: struct ethtool_value, pointed to by struct ifreq."""
    value = array.array("I", [question, value])
    request = struct.pack("16sP16x", interface.encode(), value.buffer_info()[0])
    fcntl.ioctl(sock, SIOCETHTOOL, request)
    return bool(value[1])


with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    for interface in sys.argv[1:]:
        ask(sock, interface, TURN_TX_CHECKSUMMING, 0)
    names = [name for _, name in socket.if_nameindex() if name != "lo"]
    print(json.dumps({name: {what: ask(sock, name, number) for what, number in QUESTIONS.items()} for name in names}))
