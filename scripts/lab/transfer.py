"""Sends a file over TCP, or receives one and says its SHA-256. Runs inside a pod: `recv PORT`, `send ADDRESS PORT FILE`."""

import hashlib
import socket
import sys

PATIENCE_S = 20.0


def receive(port):
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    listener.settimeout(PATIENCE_S)
    print("listening", flush=True)
    connection, _ = listener.accept()
    connection.settimeout(PATIENCE_S)
    digest, size = hashlib.sha256(), 0
    while data := connection.recv(1 << 20):
        digest.update(data)
        size += len(data)
    # The sender waits for this: it proves that the way back works to the end.
    connection.sendall(b"done")
    print(size, digest.hexdigest(), flush=True)


def send(address, port, path):
    connection = socket.create_connection((address, port), timeout=PATIENCE_S)
    with open(path, "rb") as file:
        connection.sendfile(file)
    connection.shutdown(socket.SHUT_WR)
    if connection.recv(4) != b"done":
        sys.exit("the receiver closed before the end")


try:
    if sys.argv[1] == "recv":
        receive(int(sys.argv[2]))
    else:
        send(sys.argv[2], int(sys.argv[3]), sys.argv[4])
except OSError as e:
    sys.exit(f"{sys.argv[1]}: {e}")
