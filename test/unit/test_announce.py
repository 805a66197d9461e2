"""announce: what is on the wire when a node tells the hosts that it has the virtual IPs."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.scripts,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root has a network of its own"),
]

# Runs the command with a number of interfaces, net0 and so on, and says what arrives at their other
# ends within some seconds: when, where, from which hardware address, and the packet.
LISTENER = """
import json, socket, subprocess, sys, time
count, seconds, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
lines = [
    f"link add net{n} type veth peer name end{n}\\nlink set net{n} up\\nlink set end{n} up"
    for n in range(count)
]
subprocess.run(["ip", "-batch", "-"], input="\\n".join(lines), text=True, check=True)
wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0806))
wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
wire.settimeout(0.05)
macs = {n: open(f"/sys/class/net/net{n}/address").read().strip() for n in range(count)}
start = time.monotonic()
process = subprocess.Popen(command)
heard = []
while time.monotonic() - start < seconds:
    try:
        packet, (interface, _, kind, _, source) = wire.recvfrom(100)
    except TimeoutError:
        continue
    if interface.startswith("end"):
        number = int(interface[3:])
        is_own = source.hex(":") == macs[number]
        heard.append((time.monotonic() - start, number, kind, is_own, packet.hex()))
process.kill()
print(json.dumps({"heard": heard, "code": process.wait()}))
"""
BROADCAST = 1  # PACKET_BROADCAST, packet(7)


def heard(root, count, seconds, announced):
    announce = root / "gateway/health/files/announce"
    # /sys shows the interfaces of the network in which it was mounted.
    inside = ["unshare", "--net", "--mount", "sh", "-c", 'mount -t sysfs s /sys && exec "$@"', "sh"]
    command = [*inside, sys.executable, "-c", LISTENER, str(count), str(seconds)]
    words = [word for pair in announced for word in pair]
    done = subprocess.run([*command, "perl", announce, *words], capture_output=True, check=True)
    assert done.stderr == b""
    return json.loads(done.stdout)["heard"]


def is_gratuitous(packet, address):
    """RFC 826 and RFC 5227: a request for the address of who asks."""
    data = bytes.fromhex(packet)
    ip = bytes(map(int, address.split(".")))
    return data[:8] == bytes.fromhex("0001080006040001") and data[14:18] == ip == data[24:28]


def test_sixty_networks_hear_at_once(root, record_property):
    """Each address in its own network, all of them in one go."""
    announced = [(f"net{n}", f"10.{100 + n}.0.1") for n in range(60)]
    found = heard(root, 60, 1.2, announced)
    for _, number, kind, is_own, packet in found:
        assert (kind, is_own) == (BROADCAST, True)
        assert is_gratuitous(packet, announced[number][1])
    order = [number for _, number, *_ in found]
    waves = len(found) // 60
    # Ten in the first half of a second, and then fewer; a busy machine is slower.
    assert 5 <= waves <= 15
    assert order[: waves * 60] == list(range(60)) * waves
    last = max(when for when, *_ in found[:60])
    spread = last - found[0][0]
    record_property("announced", f"{last * 1000:.0f} ms")
    print(f"60 addresses: all within {last * 1000:.0f} ms, {spread * 1000:.1f} ms of them sending")


def test_a_network_without_its_interface_is_passed_over(root):
    announced = [("net0", "10.77.0.1"), ("gone", "10.20.0.1"), ("net1", "10.30.0.1")]
    found = heard(root, 2, 0.6, announced)
    assert {number for _, number, *_ in found} == {0, 1}
    assert is_gratuitous(found[1][4], "10.30.0.1")
