"""Which addresses the processes of a unit can send to."""

from __future__ import annotations

import shlex
from typing import Any

# on a host: sends a datagram to an address, from outside and from inside a unit
PROGRAM = """
import pathlib, socket, subprocess, sys
unit, address = sys.argv[1:]
server, client = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
server.bind((address, 0))
server.settimeout(30)
def say(client):
    try:
        client.sendto(b"heard", server.getsockname())
    except PermissionError:
        return "denied"
    return server.recv(9).decode()
print(say(client))
group = subprocess.run(["systemctl", "show", "-P", "ControlGroup", unit], text=True, capture_output=True).stdout
places = [pathlib.Path("/sys/fs/cgroup", top) / group.strip().strip("/") for top in ("", "unified")]
(place,) = [place for place in places if (place / "cgroup.controllers").exists()]
(place / "cgroup.procs").write_text("0")
# a socket belongs to the group in which it was created
print(say(socket.socket(type=socket.SOCK_DGRAM)))
"""


def sent(host: Any, unit: str, address: str) -> list[str]:
    """`heard` or `denied` for datagrams to this address, which the host has meanwhile: from outside, from the unit."""
    host.check_output(f"ip address replace {address}/32 dev lo")
    try:
        output = host.check_output(shlex.join(["python3", "-c", PROGRAM, unit, address]))
    finally:
        host.check_output(f"ip address del {address}/32 dev lo")
    return list(output.split())
