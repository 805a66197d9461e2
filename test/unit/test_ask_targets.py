"""ask-targets: who answers in further networks, in a kernel's network of the test's own."""

import os
import subprocess
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = [
    pytest.mark.scripts,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root has a network of its own"),
]


def entered(process):
    """Return when it has a network of its own."""
    end = time.monotonic() + 4
    while os.readlink(f"/proc/{process.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def site(root):
    """A node with cables to hosts in three networks: 10.1.N.9 answers there."""
    node, hosts = (subprocess.Popen(["unshare", "--net", "sleep", "60"]) for _ in range(2))
    for process in (node, hosts):
        entered(process)
    processes: list[subprocess.Popen[Any]] = [node, hosts]

    def run(where, text):
        command = ["nsenter", f"--net=/proc/{where.pid}/ns/net", "ip", "-batch", "-"]
        subprocess.run(command, input=text, text=True, check=True)

    def cable(number):
        run(node, f"link add net{number} type veth peer name host{number} netns {hosts.pid}")
        run(node, f"address add 10.1.{number}.2/24 dev net{number}\nlink set net{number} up")
        run(hosts, f"address add 10.1.{number}.9/24 dev host{number}\nlink set host{number} up")

    for number in (1, 2, 3):
        cable(number)
    lines: list[str] = []
    script = root / "gateway/health/files/ask-targets"

    def start(*targets, pause=0.1):
        command = ["nsenter", f"--net=/proc/{node.pid}/ns/net", "perl"]
        process = subprocess.Popen(
            [*command, script, str(pause), *" ".join(targets).split()],
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        threading.Thread(target=lines.extend, args=(process.stdout,), daemon=True).start()

    def wait(expected, seconds=5):
        """Until a line says that these have answered, and the one after it."""
        end = time.monotonic() + seconds
        while lines[-2:] != [f"{expected}\n"] * 2:
            assert time.monotonic() < end, lines[-20:]
            time.sleep(0.02)

    yield SimpleNamespace(
        script=script,
        node=node,
        start=start,
        wait=wait,
        lines=lines,
        cable=cable,
        on_node=lambda text: run(node, text),
        on_hosts=lambda text: run(hosts, text),
    )
    for process in processes:
        process.kill()
        process.wait()


def test_who_answers(site):
    """By any address of a network, and by its own interface alone; on an interface that comes and
    goes too. One that is silent keeps nobody waiting."""
    site.start(
        "one net1 10.1.1.9",
        "two net2 10.1.2.8 two net2 10.1.2.9",
        "silent net3 10.1.3.8",
        "none net9 10.1.3.9",
    )
    site.wait("one two")
    site.on_hosts("link set host2 down")
    site.wait("one")
    site.on_hosts("link set host2 up")
    site.wait("one two")
    site.on_node("link del net1")
    site.wait("two")
    site.cable(1)
    site.wait("one two")
    site.on_hosts("address del 10.1.2.9/24 dev host2\naddress add 10.1.2.8/24 dev host2")
    time.sleep(1.2)
    site.wait("one two")


def test_a_wave_has_a_second_and_the_next_one_does_not_wait_for_it(site):
    site.start("one net1 10.1.1.9", "silent net3 10.1.3.8", pause=0.2)
    site.wait("one")
    before = len(site.lines)
    time.sleep(2)
    assert 7 <= len(site.lines) - before <= 11
    start = time.monotonic()
    site.on_hosts("link set host1 down")
    site.wait("")
    assert time.monotonic() - start > 0.9


def test_it_ends_with_who_reads_it(site):
    command = f"perl {site.script} 0.1 one net1 10.1.1.9 | head -n 1"
    said = subprocess.run(
        ["nsenter", f"--net=/proc/{site.node.pid}/ns/net", "sh", "-c", command],
        capture_output=True,
        text=True,
        check=True,
        timeout=8,
    )
    assert (said.stdout, said.stderr) == ("one\n", "")
