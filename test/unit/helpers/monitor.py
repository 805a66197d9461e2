"""The health monitor on a node of the test's own, all of it in a folder."""

import json
import os
import signal
import subprocess
import time
from types import SimpleNamespace

import pytest


@pytest.fixture
def monitor(tool, root, tmp_path, monkeypatch):
    """The monitor on a node of the test's own, all of it in a folder."""
    run, net = tmp_path / "run/gateway", tmp_path / "sys/class/net"
    settings_file, checks = tmp_path / "etc/gateway/health.conf", tmp_path / "etc/gateway/health.d"
    mark, scripts = tmp_path / "var/lib/gateway/drained", tmp_path / "usr/lib/gateway"
    for folder in (run, checks, mark.parent, scripts, net / "eth0", net / "eth1"):
        folder.mkdir(parents=True)
    for interface in ("eth0", "eth1"):
        (net / interface / "carrier").write_text("1\n")
        (net / interface / "carrier_down_count").write_text("1\n")
    address, dead, silent = (tmp_path / name for name in ("address", "dead", "silent"))
    (tmp_path / "keepalived").write_text("0\n")
    limits = {"BEAT_LIMIT": 2, "BEAT_PAUSE": 0.2, "HANG": 300, "WAKE": 150, "PATIENCE": 100}
    for name, value in limits.items():
        monkeypatch.setenv(f"HEALTH_{name}", str(value))
    monkeypatch.setenv("GATEWAY_ROOT", str(tmp_path))
    own = {name: tmp_path / f"own-{name}" for name in ("eth0", "eth1")}
    own["eth0"].write_text("2: eth0    inet 10.77.0.2/24 brd 10.77.0.255 scope global eth0\n")
    own["eth1"].write_text("3: eth1    inet 198.51.100.2/24 scope global eth1\n")
    tool(
        "ip",
        f"""
case "$*" in
    *monitor*) exec sleep 60 ;;
    "address add "*)
        echo "$*" >> {tmp_path}/asked
        echo "9: $5    inet $3 scope global $5" > {tmp_path}/own-virtual-$5 ;;
    "address del "*) echo "$*" >> {tmp_path}/asked; rm {tmp_path}/own-virtual-$5 ;;
    *address*)
        cat {tmp_path}/own-*
        ! test -e {address} || echo '2: eth0    inet 10.77.0.1/32 scope global eth0' ;;
    *) echo "$*" >> {tmp_path}/asked ;;
esac
""",
    )
    tool(
        "systemctl",
        f"""
case $1 in
    show) cat {tmp_path}/keepalived ;;
    kill) echo "$*" >> {tmp_path}/killed ;;
    *)
        echo "$*" >> {tmp_path}/asked-for
        test -e {dead} && echo failed || echo active ;;
esac
""",
    )
    tool(
        "ping",
        f"""
[ "${{*%% -I *}}" = '-q -n -c 1 -W 1' ] || exit 64
echo "$*" >> {tmp_path}/pinged
! test -e {silent}""",
    )
    tool("systemd-notify", f'echo "$*" >> {tmp_path}/notified')
    announce = scripts / "announce"
    announce.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/announced\n')
    announce.chmod(0o755)
    settings = {
        "virtual_ip": "10.77.0.1",
        "announced": "(eth0 10.77.0.1)",
        "internal": "eth0",
        "internal_address": "10.77.0.2",
        "public": "eth1",
        "public_address": "198.51.100.2",
        "peers": "(10.77.0.3 198.51.100.3)",
        "public_targets": "(192.0.2.1)",
        "internal_targets": "()",
        "services": "(some.service)",
        "preempt": "yes",
        "preempt_delay": 1,
        "advert": 8,
        "cold": 2,
        "uplink": 4,
        "fault": 8,
        "drained": 16,
        "draining": 3,
    }
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    processes = []
    errors = tmp_path / "errors"
    errors.touch()

    def start(**changes):
        text = "".join(f"{key}={value}\n" for key, value in (settings | changes).items())
        settings_file.write_text(text)
        command = ["bash", str(root / "gateway/health/files/health")]
        subprocess.run([*command, "prepare"], check=True)
        with errors.open("ab") as log:
            processes.append(
                subprocess.Popen(
                    command, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True
                )
            )
        return processes[-1]

    def stop():
        process = processes.pop()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def health():
        """What the monitor says, None as long as it has not said anything."""
        report = run / "health.json"
        return json.loads(report.read_text()) if report.exists() else None

    def penalty():
        return int((run / "penalty").read_text())

    def wait(wanted, seconds=8):
        end = time.monotonic() + seconds
        while penalty() != wanted:
            assert time.monotonic() < end, (penalty(), health())
            time.sleep(0.02)

    def says(key, *wanted, seconds=8):
        end = time.monotonic() + seconds
        while (found := health()) is None or found[key] != list(wanted):
            assert time.monotonic() < end, found
            time.sleep(0.02)

    def published(seconds=8):
        """Return when the report says why, which comes after the number."""
        end = time.monotonic() + seconds
        while not health() or not health()["faults"]:
            assert time.monotonic() < end, health()
            time.sleep(0.02)

    def tell(line):
        with open(os.open(run / "health.fifo", os.O_RDWR), "wb", buffering=0) as pipe:
            pipe.write(f"{line}\n".encode())

    yield SimpleNamespace(
        start=start,
        stop=stop,
        processes=processes,
        penalty=penalty,
        words=errors.read_text,
        lines=lambda name: (tmp_path / name).read_text().splitlines(),
        health=health,
        published=published,
        wait=wait,
        says=says,
        tell=tell,
        run=run,
        net=net,
        checks=checks,
        mark=mark,
        address=address,
        own=own,
        dead=dead,
        silent=silent,
        home=tmp_path,
        loader=scripts / "firewall",
    )
    while processes:
        stop()
