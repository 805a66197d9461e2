"""The certificates of the lab's VPN and its clients, made as docs/vpn.md tells: `gateway_pki` on
the master, one line in the pillar, a profile for each client."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lab import AUTHORITY, Host, Lab, step

FOLDER = "/srv/vpn"  # of a client's profiles
ON_GATEWAY = "/etc/openvpn/pki"  # where pillar.example looks for what a user brings
CLIENTS = ("laptop", "internet")
# The library alone, for what a person would not do: each call of salt-run takes seconds.
LIBRARY = f"""
import sys
sys.path.insert(0, "/srv/formula/_modules")
from datetime import datetime, timedelta, timezone
from pathlib import Path
import _gateway_ca
import _gateway_x509
now = datetime.now(timezone.utc).replace(microsecond=0)
def authority():
    return _gateway_ca.Authority(Path("{AUTHORITY}"), now)
"""


def call(lab: Lab, function: str, *arguments: str) -> Any:
    """Call a function of gateway_pki on the master, as a person would; its return value."""
    command = ["salt-run", "--out=json", "salt.cmd", f"gateway_pki.{function}", *arguments]
    done = lab.host("master").run(command, timeout=120)
    assert done.stdout.strip(), done.stderr
    return json.loads(done.stdout)


def library(lab: Lab, script: str) -> str:
    """Run Python on the master that has `_gateway_ca`, `_gateway_x509`, `now` and `authority()`."""
    master = lab.host("master")
    return master.run(["/opt/salt/current/bin/python3", "-c", LIBRARY + script]).stdout


def distribute(lab: Lab) -> None:
    """Make the authority with a certificate for each gateway, and the clients' profiles, unless
    they are there."""
    with step("certificates, with gateway_pki on the master"):
        master = lab.host("master")
        master.run("salt-run saltutil.sync_modules", timeout=120)
        if master.run(["test", "-e", AUTHORITY], check=False).returncode:
            call(lab, "create_ca", "example")
        items = call(lab, "list")
        have = {item["name"] for item in items if item["current"] and not item["revoked"]}
        for gateway in ("gw1", "gw2"):
            if gateway not in have:
                call(lab, "issue_server", gateway)
        for client in CLIENTS:
            if client not in have:
                call(lab, "issue_client", client)
            provide(lab, client, client)


def provide(lab: Lab, host: str, name: str) -> None:
    """Bring a client's profile to a host."""
    path = f"/root/{name}.ovpn"
    call(lab, "profile", name, f"file={path}")
    text = lab.host("master").run(["cat", path]).stdout
    lab.host(host).write(f"{FOLDER}/{name}.ovpn", text, 0o600)


def read(lab: Lab, name: str) -> str:
    """The text of one of the authority's files."""
    return lab.host("master").run(["cat", f"{AUTHORITY}/{name}"]).stdout


def crl(lab: Lab, *revoked: str, days: int = 10) -> str:
    """A revocation list of the site's CA with the certificates of these names, which ends so many
    days from now (or before). The authority keeps its own."""
    return library(
        lab,
        f"""
from cryptography import x509
from cryptography.hazmat.primitives import hashes
site = authority()
end = now + timedelta(days={days})
begin = min(now, end) - timedelta(days=1)
builder = x509.CertificateRevocationListBuilder().issuer_name(site.ca.subject)
builder = builder.last_update(begin).next_update(end)
for name in {revoked!r}:
    entry = x509.RevokedCertificateBuilder().revocation_date(begin)
    entry = entry.serial_number(site.issued(name).current.serial_number).build()
    builder = builder.add_revoked_certificate(entry)
print(_gateway_x509.pem(builder.sign(site.ca_key(), hashes.SHA256())), end="")
""",
    )


@contextmanager
def brought_by_the_user(lab: Lab) -> Iterator[None]:
    """The pillar is pillar.example word by word, and its files lie on the gateways."""
    for gateway in ("gw1", "gw2"):
        key, certificate = split(read(lab, f"issued/{gateway}.pem"))
        files = {"ca.crt": read(lab, "ca.crt"), "tls-crypt.key": read(lab, "tls-crypt.key")}
        files |= {"server.crt": certificate, "server.key": key}
        for name, text in files.items():
            lab.host(gateway).write(f"{ON_GATEWAY}/{name}", text, 0o600)
    lab.set_site(lab.example())
    try:
        yield
    finally:
        lab.set_site(lab.with_authority())


@contextmanager
def masterless(lab: Lab, name: str) -> Iterator[None]:
    """A gateway has a copy of the authority, as it must where nobody else compiles its pillar."""
    folder, _, site = AUTHORITY.rpartition("/")
    archive = lab.host("master").run(f"tar -C {folder} -c {site} | base64 -w0").stdout
    host = lab.host(name)
    host.run(f"mkdir -p -m 700 {folder}; base64 -d | tar -C {folder} -x", input=archive)
    try:
        yield
    finally:
        host.run(["rm", "-r", folder])


def split(text: str) -> tuple[str, str]:
    """The key and the first certificate of what was issued to a name."""
    blocks = re.findall(r"-----BEGIN .*?-----END [A-Z ]+-----\n", text, re.DOTALL)
    return blocks[0], blocks[1]


class Tunnel:
    """A client's VPN connection, from entry to exit of a `with` block: its profile, but for the
    remotes, which it asks in this order. `name` is whose profile, `more` are further lines."""

    def __init__(
        self,
        lab: Lab,
        *remotes: str,
        port: int = 1194,
        proto: str = "udp",
        client: str = "laptop",
        name: str = "",
        device: str = "tun0",
        more: str = "",
    ) -> None:
        self.client: Host = lab.host(client)
        self.device = device
        self.run = f"/run/lab-{device}.ovpn"
        profile = self.client.run(["cat", f"{FOLDER}/{name or client}.ovpn"]).stdout
        lines = "".join(f"remote {remote} {port} {proto}\n" for remote in remotes)
        profile = re.sub(r"^(remote|remote-random|dev)( .*)?\n", "", profile, flags=re.MULTILINE)
        if proto != "udp":
            profile = profile.replace("explicit-exit-notify 1\n", "")
        self.config = f"dev {device}\ndev-type tun\n{lines}{more}{profile}"

    def replace(self, tag: str, text: str) -> None:
        """Put something else into one of the profile's inline blocks."""
        block = f"<{tag}>\n{text.strip()}\n</{tag}>"
        self.config, times = re.subn(
            f"<{tag}>.*</{tag}>", block.replace("\\", r"\\"), self.config, flags=re.DOTALL
        )
        assert times == 1

    def __enter__(self) -> Tunnel:
        self.start()
        if not self.wait("Initialization Sequence Completed"):
            log = self.log
            self.__exit__()
            raise AssertionError(f"{self.client.name} got no VPN connection:\n{log}")
        return self

    def __exit__(self, *_: object) -> None:
        self.client.run(
            f"pid=$(cat {self.run}.pid); kill $pid; timeout 10 tail --pid=$pid -f /dev/null",
            check=False,
        )

    def start(self) -> None:
        """Start the client, without waiting for its connection."""
        self.client.write(self.run, self.config, 0o600)
        self.client.run(
            f"rm -f {self.run}.log; openvpn --config {self.run} --daemon"
            f" --writepid {self.run}.pid --log {self.run}.log"
        )

    def wait(self, text: str, times: int = 1, seconds: float = 15) -> bool:
        """Whether the client says this, so many times in all, before the time is up."""
        script = f'until [ "$(grep -c "$1" {self.run}.log)" -ge {times} ]; do sleep 0.05; done'
        command = ["timeout", str(seconds), "sh", "-c", script, "sh", text]
        return self.client.run(command, check=False).returncode == 0

    @property
    def address(self) -> str:
        """The client's address in the tunnel."""
        command = f"ip -brief -4 address show dev {self.device}"
        return self.client.run(command).stdout.split()[2].split("/")[0]

    @property
    def log(self) -> str:
        """What the client said so far; the server's pushes are in it."""
        return self.client.run(["cat", f"{self.run}.log"]).stdout
