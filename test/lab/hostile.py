"""A machine that takes other machines' addresses: what it makes, sends, and overhears.

    hostile.py listen CABLE SECONDS | send CABLE SECONDS

Run as a program in the switch it prints what passes a cable as lines of hexadecimal digits, or
reads such lines and sends them into the card at its end, all of them each 50 ms for so long.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import time

from lab import LAB_NAME, TOPOLOGY, LabError

IP, UDP, VRRP = 0x0800, 17, 112
MAC = "02:00:00:00:00:66"
INTERVAL = 0.05


def checksum(data: bytes) -> int:
    """Return the internet checksum (RFC 1071)."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def packet(source: str, destination: str, proto: int, payload: bytes, ttl: int = 64) -> bytes:
    """Return a packet of IPv4."""
    ends = socket.inet_aton(source) + socket.inet_aton(destination)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, ttl, proto, 0) + ends
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def datagram(source: str, destination: str, port: int, payload: bytes) -> bytes:
    """Return a packet of UDP, from the same port."""
    ends = socket.inet_aton(source) + socket.inet_aton(destination)
    length = 8 + len(payload)
    header = struct.pack("!HHHH", port, port, length, 0)
    total = checksum(ends + struct.pack("!HH", UDP, length) + header + payload)
    return packet(source, destination, UDP, header[:6] + struct.pack("!H", total) + payload)


def advert(source: str, destination: str, address: str, priority: int, ttl: int = 255) -> bytes:
    """Return an advert of VRRP version 3 (RFC 9568 section 5.1), 0.1 s until the next one."""
    ends = socket.inet_aton(source) + socket.inet_aton(destination)
    body = struct.pack("!BBBBHH", 0x31, 51, priority, 1, 10, 0) + socket.inet_aton(address)
    total = checksum(ends + struct.pack("!HH", VRRP, len(body)) + body)
    return packet(source, destination, VRRP, body[:6] + struct.pack("!H", total) + body[8:], ttl)


# conntrackd's messages (conntrack-tools, include/network.h).
NEW, UPDATE, END = 0, 1, 2
ESTABLISHED, CLOSE = 3, 8  # the kernel's states of TCP
SEEN = 0x1AE  # answered, assured, confirmed; its destination is translated


def told(
    kind: int,
    number: int,
    ends: tuple[str, int, str, int],
    to: str,
    state: int = ESTABLISHED,
    timeout: int = 600,
) -> bytes:
    """Return what conntrackd tells of a TCP connection from one end to the other that goes `to` a
    host behind the gateway; the peer takes it if its number is higher than the last one."""
    source, sport, destination, dport = ends
    attributes = (
        (0, socket.inet_aton(source) + socket.inet_aton(destination)),
        (5, struct.pack("!I", SEEN)),
        (2, b"\x06"),
        (3, struct.pack("!HH", sport, dport)),
        (4, bytes([state])),
        (6, struct.pack("!I", timeout)),
        (13, socket.inet_aton(to)),
    )
    body = b"".join(
        struct.pack("!HH", 4 + len(value), name) + value + bytes(-len(value) % 4)
        for name, value in attributes
    )
    return struct.pack("!BBHI", 0x10 | kind, 0, 8 + len(body), number) + body


# --- on the cables ------------------------------------------------------------------------------


def _in_switch(*arguments: object) -> subprocess.Popen[str]:
    command = ["ip", "netns", "exec", LAB_NAME, sys.executable, __file__, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def _cable(host: str, card: str) -> tuple[str, str]:
    """Return the switch's end of a cable, and the MAC of the card at the other one."""
    return f"{host}-{card}", TOPOLOGY[host].ports[int(card.removeprefix("eth"))].mac


class Sending:
    """Packets that come in at a card again and again, from entry to exit of a `with` block, but
    never longer than `seconds`."""

    def __init__(self, host: str, card: str, packets: list[bytes], seconds: float) -> None:
        cable, mac = _cable(host, card)
        head = bytes.fromhex(f"{mac}{MAC}".replace(":", "")) + struct.pack("!H", IP)
        self._text = "".join(f"{(head + each).hex()}\n" for each in packets)
        self._arguments = ("send", cable, seconds)

    def __enter__(self) -> Sending:
        self._process = _in_switch(*self._arguments)
        assert self._process.stdin
        self._process.stdin.write(self._text)
        self._process.stdin.close()
        self._process.stdin = None
        assert self._process.stdout
        if not self._process.stdout.readline():
            raise LabError(f"hostile: {self._process.communicate()[1].strip()}")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate(timeout=10)


def send(host: str, card: str, packets: list[bytes]) -> None:
    """Have packets come in at a card, once or a few times."""
    with Sending(host, card, packets, 0.1):
        time.sleep(0.2)


def heard(host: str, card: str, seconds: float) -> list[bytes]:
    """Return the packets of IPv4 that passed a card's cable in so many seconds, either way."""
    process = _in_switch("listen", _cable(host, card)[0], seconds)
    output, errors = process.communicate(timeout=seconds + 20)
    if process.returncode:
        raise LabError(f"hostile: {errors.strip()}")
    frames = [bytes.fromhex(line) for line in output.split()]
    return [frame[14:] for frame in frames if frame[12:14] == struct.pack("!H", IP)]


def news(packets: list[bytes]) -> dict[str, int]:
    """Return the last number of conntrackd's messages among the packets, by their source."""
    found = {}
    for each in packets:
        if each[9] == UDP and each[22:24] == struct.pack("!H", 3780):
            (found[socket.inet_ntoa(each[12:16])],) = struct.unpack("!I", each[32:36])
    return found


def main() -> None:
    what, cable, seconds = sys.argv[1:]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as sock:
        sock.bind((cable, 3))  # every protocol
        sock.settimeout(0.1)
        frames = [bytes.fromhex(line) for line in sys.stdin] if what == "send" else []
        if frames:
            print("begun", flush=True)
        end = time.monotonic() + float(seconds)
        while time.monotonic() < end:
            if frames:
                for frame in frames:
                    sock.send(frame)
                time.sleep(INTERVAL)
                continue
            try:
                print(sock.recv(65535).hex(), flush=True)
            except TimeoutError:
                continue


if __name__ == "__main__":
    main()
