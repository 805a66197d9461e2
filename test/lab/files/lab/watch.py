"""Tell at every change which of some IPv4 addresses this machine has.

    watch.py ADDRESS...

Prints lines of JSON: `{"time": ..., "held": [...]}` (CLOCK_MONOTONIC, which all machines of the
lab share), the first at once, until its standard input ends. The kernel reports the changes
(rtnetlink(7)), so no change is too short to be seen.
"""

import json
import os
import select
import socket
import struct
import sys
import time

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTMGRP_IPV4_IFADDR = 0x10
IFA_LOCAL = 2
DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP


def local_address(attributes: bytes) -> str:
    """Return the address among a message's attributes, "" without one."""
    while len(attributes) >= 4:
        length, kind = struct.unpack_from("=HH", attributes)
        if kind == IFA_LOCAL:
            return socket.inet_ntoa(attributes[4:8])
        attributes = attributes[max((length + 3) & ~3, 4) :]
    return ""


def changes(data: bytes) -> list[tuple[bool, int, str]]:
    """Return what the messages say: added (or removed), index of the interface, address."""
    found = []
    while len(data) >= 16:
        length, kind = struct.unpack_from("=IH", data)
        if kind in (RTM_NEWADDR, RTM_DELADDR):
            (index,) = struct.unpack_from("=I", data, 20)
            found.append((kind == RTM_NEWADDR, index, local_address(data[24:length])))
        data = data[max((length + 3) & ~3, 16) :]
    return found


def main(wanted: list[str]) -> None:
    os.nice(-20)  # measure the gateway, not this machine's load
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind((0, RTMGRP_IPV4_IFADDR))
        sock.send(struct.pack("=IHHIIBBBBI", 24, RTM_GETADDR, DUMP, 1, 0, 2, 0, 0, 0, 0))
        here: set[tuple[int, str]] = set()
        shown: list[str] | None = None
        while sys.stdin not in select.select([sock, sys.stdin], [], [])[0]:
            now = time.monotonic()
            for added, index, address in changes(sock.recv(65536)):
                (here.add if added else here.discard)((index, address))
            held = sorted({address for _, address in here} & set(wanted))
            if held != shown:
                print(json.dumps({"time": now, "held": held}), flush=True)
                shown = held


if __name__ == "__main__":
    main(sys.argv[1:])
