"""What the people behind the gateway notice. Tests and the demo ask the same questions.

Each function sends real packets and returns what came back; what that should be is the caller's
to say.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from lab import Host, Lab, LabError

VIRTUAL_IP = "10.77.0.1"
PUBLIC_VIRTUAL_IP = "198.51.100.10"
INTERNAL = {"gw1": "10.77.0.2", "gw2": "10.77.0.3"}
PUBLIC = {"gw1": "198.51.100.2", "gw2": "198.51.100.3"}
LINK = {"gw1": "10.78.0.2", "gw2": "10.78.0.3"}
# What is merged over a pillar with a public virtual IP.
STATE_SYNC = {
    "nodes": {name: {"sync": address} for name, address in LINK.items()},
    "state_sync": {"interface": "eth3"},
}
TUNNEL_NETWORK = {"gw1": "10.8.0.", "gw2": "10.8.1."}
BACKEND = "10.77.0.10"
BACKEND_MAC = "02:00:00:00:00:10"
INTERNET = "198.51.100.100"


def eventually(ask: Callable[[], Any], wanted: Callable[[Any], bool], seconds: float) -> Any:
    """Ask until the answer is as wanted, and return it; the last answer when time is up."""
    end = time.monotonic() + seconds
    while True:
        try:
            answer = ask()
        except LabError as error:
            answer = error
        if not isinstance(answer, LabError) and wanted(answer):
            return answer
        if time.monotonic() > end:
            return answer
        time.sleep(0.1)


def http(host: Host, url: str) -> str:
    """The page, which is `<server> saw <client address>`; "" without an answer."""
    return host.run(["curl", "-s", "--max-time", "4", url], check=False).stdout.strip()


def resolve(host: Host, name: str, server: str, kind: str = "A") -> str:
    """The answer of a DNS server, one record a line; "" for none."""
    question = ["-x", name] if kind == "PTR" else [name, kind]
    command = ["dig", "+short", "+time=1", "+tries=2", f"@{server}", *question]
    answer = host.run(command, check=False).stdout.strip()
    return "" if answer.startswith(";") else answer


def ntp_stratum(host: Host, server: str) -> int:
    """The stratum that an NTP server says it has; 16 while it is not synchronised or silent."""
    ask = f"""
import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2)
s.connect(("{server}", 123)); s.send(b"\\x23" + 47 * b"\\0")
r = s.recv(48); print(16 if r[0] >> 6 == 3 else r[1] or 16)
"""
    done = host.run(["python3", "-c", ask], check=False)
    return int(done.stdout) if not done.returncode else 16


def wait_stratum(host: Host, server: str, wanted: Callable[[int], bool], seconds: float) -> int:
    """The stratum of an NTP server when it is as wanted; as it is when time is up."""
    stratum: int = eventually(partial(ntp_stratum, host, server), wanted, seconds)
    return stratum


def holders(lab: Lab, address: str = VIRTUAL_IP) -> list[str]:
    """The gateways that have the virtual IP."""
    command = f"ip -brief -4 address show to {address}"
    return [name for name in INTERNAL if lab.host(name).run(command).stdout.strip()]


def addresses(lab: Lab, name: str) -> set[str]:
    """Every IPv4 address that a host has."""
    shown = lab.host(name).run("ip -brief -4 address show").stdout
    return set(re.findall(r" ([0-9.]+)/", shown))


def lease(lab: Lab) -> dict[str, str]:
    """What the backend was given by DHCP: option name to value."""
    leases = lab.host("backend01").run("cat /var/lib/dhcp/dhclient.eth0.leases").stdout
    last = leases.rsplit("lease {", 1)[-1]
    options = re.findall(r"^\s+(?:option )?([a-z-]+) (.+);$", last, re.MULTILINE)
    return {name: value.strip('"') for name, value in options}


def changes(result: dict[str, Any]) -> dict[str, Any]:
    """The states of one minion's apply that changed something, or would."""
    return {state["__id__"]: state["changes"] for state in result.values() if state.get("changes")}


def failures(result: Any) -> dict[str, str]:
    """The states of one minion's apply that failed, with their comments."""
    if not isinstance(result, dict):
        return {"rendering": str(result)}
    return {
        state["__id__"]: str(state["comment"])
        for state in result.values()
        if state["result"] is False
    }


def exposures(host: Host) -> dict[str, float]:
    """What each service of ours on a gateway might do, as systemd judges: all (10) or nothing (0).
    The distribution's too, where we have settings for it."""
    script = r"""
cd /etc/systemd/system
for unit in chrony.service $(ls -d gateway-*.service *.service.d/gateway.conf |
    sed 's|\.d/gateway.conf$||' | sort -u); do
    systemd-analyze security --no-pager "$unit"
done
"""
    said = host.run(script, timeout=180).stdout
    found = re.findall(r"Overall exposure level for (\S+): ([\d.]+)", said)
    return {unit: float(level) for unit, level in found}


def local(host: Host, command: str, minion: str = "local") -> Any:
    """What a salt-call or salt-ssh with --out=json returned."""
    done = host.run(command, check=False, timeout=180)
    start = done.stdout.find("{")
    if start < 0:
        raise LabError(f"{command}:\n{done.stdout}{done.stderr}")
    answer = json.JSONDecoder().raw_decode(done.stdout, start)[0][minion]
    return answer["return"] if isinstance(answer, dict) and "return" in answer else answer


def gap(host: Host, cut: Callable[[], Any], seconds: float) -> float:
    """The longest time without an answer from the backend, from a second before `cut` until so
    many seconds after it, at a question each 50 ms."""
    ping = host.spawn(f"exec ping -D -i 0.05 {BACKEND} 2>&1")
    time.sleep(1)
    cut()
    time.sleep(seconds)
    end = float(host.run("pkill -INT -x ping; date +%s.%N").stdout)
    said = ping.communicate(timeout=10)[0]
    times = [float(t) for t in re.findall(r"^\[([\d.]+)\] \d+ bytes from", said, re.MULTILINE)]
    if not times:
        raise LabError(f"no answer from the backend at all:\n{said}")
    return max(after - before for before, after in zip(times, [*times[1:], end], strict=True))


TALK = """
import socket, sys, time
session = socket.create_connection((sys.argv[1], 7007), timeout=60)
end, worst = time.monotonic() + float(sys.argv[2]), 0.0
while time.monotonic() < end:
    begin = time.monotonic()
    session.sendall(b"x")
    assert session.recv(9)
    worst = max(worst, time.monotonic() - begin)
    time.sleep(0.1)
print(worst)
"""


def stall(host: Host, during: Callable[[], Any], seconds: float) -> float:
    """For how long a TCP session with the backend stood still, from a second before `during` until
    so many seconds after its begin; infinity if it has died."""
    talk = host.spawn(f"exec python3 -c '{TALK}' {BACKEND} {seconds + 1} 2>&1")
    time.sleep(1)
    during()
    said = talk.communicate(timeout=seconds + 90)[0].strip()
    return float(said) if re.fullmatch(r"[\d.e-]+", said) else float("inf")


def answer(host: Host, target: str, port: int, source: str = "", proto: str = "tcp") -> str:
    """What one connection meets: "open" (for UDP: an echo), "refused", or "silent" for 1 s."""
    kind = {"tcp": "SOCK_STREAM", "udp": "SOCK_DGRAM"}[proto]
    ask = f"""
import socket
s = socket.socket(socket.AF_INET6 if ":" in "{target}" else socket.AF_INET, socket.{kind})
s.settimeout(1); s.bind(("{source}", 0))
try:
    s.connect(("{target}", {port}))
    if "{proto}" == "udp": s.send(b"?"); s.recv(9)
    print("open")
except TimeoutError: print("silent")
except OSError: print("refused")
"""
    return host.run(["python3", "-c", ask]).stdout.strip()


def scan(host: Host, target: str, proto: str = "tcp") -> dict[str, list[int]]:
    """Which of all 65,535 ports are open, and which refused; the others are silent."""
    script = "/usr/local/lib/lab/scan.py"
    done = host.run(["sh", "-c", f"ulimit -n 20000; python3 {script} {target} {proto}"])
    found: dict[str, list[int]] = json.loads(done.stdout)
    return found
