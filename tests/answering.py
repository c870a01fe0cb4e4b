"""A server that tells who it is and who asks, and a client that asks it: scripts for any place with a Python.

    python3 -c SERVER NAME PORT               says "listens", and then tells every caller: NAME CALLER
    python3 -c CLIENT ADDRESS PORT TIMES      prints what that many connections were told, a line each

By them a test of Services knows which backend answered, and whether it saw the pod's own address or a translated one.
"""

from __future__ import annotations

from typing import NamedTuple

SERVER = """
import socket, sys
listener = socket.create_server(('::', int(sys.argv[2])), family=socket.AF_INET6, dualstack_ipv6=True)
print('listens', flush=True)
while True:
    caller, address = listener.accept()
    caller.sendall(f"{sys.argv[1]} {address[0].removeprefix('::ffff:')}".encode())
    caller.close()
"""
CLIENT = """
import socket, sys
for _ in range(int(sys.argv[3])):
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as connection:
        print(connection.makefile().read())
"""


class Answer(NamedTuple):
    """Who answered, and whom it saw."""

    server: str
    client: str


def answers(printed: str) -> list[Answer]:
    """What the client has printed."""
    return [Answer(*line.split()) for line in printed.splitlines()]
