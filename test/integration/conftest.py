"""What the tests of one converged gateway share. kitchen.yml says how it came to be."""

import json
import time

import pytest

SALT_CALL = "salt-call --config-dir=/tmp/kitchen/etc/salt --id=gw1 --out=json --log-level=error"


def eventually(ask, seconds=20):
    """Ask until there is an answer and return it; the last one when time is up."""
    end = time.monotonic() + seconds
    while not (answer := ask()) and time.monotonic() < end:
        time.sleep(0.2)
    return answer


@pytest.fixture(scope="module")
def salt(host):
    """Salt's functions on the gateway: `salt("gateway.status")`."""

    def call(function, *arguments):
        done = host.run(" ".join([SALT_CALL, function, *arguments]))
        assert done.stdout.startswith("{"), done.stdout + done.stderr
        return json.loads(done.stdout)["local"]

    return call


@pytest.fixture(scope="module", autouse=True)
def problems(salt):
    """What the gateway's status complains about, when it had time to settle after the converge."""
    answers = []

    def settled():
        answers.append(salt("gateway.status")["problems"])
        return not answers[-1]

    eventually(settled, 60)
    return answers[-1]


class Neighbour:
    """A machine beside the gateway: a network namespace of its container."""

    def __init__(self, host, name):
        self.host = host
        self.name = name

    def run(self, command):
        """Run a command there and return its output, whatever became of it."""
        return self.host.run(f"ip netns exec {self.name} {command}").stdout.strip()

    def start(self, unit, command):
        """Start a daemon there, anew if it is left from an interrupted run; `stop` ends it."""
        self.stop(unit)
        inside = f"hostname {self.name}; exec {command}"
        self.host.check_output(
            f"systemd-run --quiet --collect --unit={unit}"
            f" ip netns exec {self.name} unshare --uts sh -c %s",
            inside,
        )

    def stop(self, *units):
        """End daemons that were started here."""
        self.host.run("systemctl stop " + " ".join(units))

    def get(self, url):
        """Return the page, which is `<server> saw <client address>`; "" without an answer."""
        return self.run(f"curl -s --max-time 4 {url}")

    def resolve(self, name, server):
        """Return what a name server says of a name; "" without an answer."""
        answer = self.run(f"dig +short +time=1 +tries=2 @{server} {name}")
        return "" if answer.startswith(";") else answer


@pytest.fixture(scope="module")
def backend(host):
    """The host behind the gateway, with a web server."""
    machine = Neighbour(host, "backend01")
    machine.start("backend01-web", "python3 /srv/test/lab/files/lab/services.py")
    eventually(lambda: machine.get("http://localhost"))
    yield machine
    machine.stop("backend01-web")


@pytest.fixture(scope="module")
def internet(host):
    """The other side: a web server, and the gateway's name server."""
    machine = Neighbour(host, "internet")
    machine.start("internet-web", "python3 /srv/test/lab/files/lab/services.py")
    names = "/srv/test/lab/files/etc/lab/internet-dns.conf"
    machine.start("internet-dns", f"dnsmasq --keep-in-foreground --pid-file= --conf-file={names}")
    eventually(lambda: machine.get("http://localhost"))
    yield machine
    machine.stop("internet-web", "internet-dns")


@pytest.fixture
def vpn_client(internet):
    """The address in the tunnel of a VPN client on the internet; None without a tunnel."""
    pki = "/etc/openvpn/pki"
    internet.start(
        "vpn-client",
        "openvpn --client --nobind --dev tun0 --remote 198.51.100.2 1194 udp"
        f" --remote-cert-tls server --ca {pki}/ca.crt --tls-crypt {pki}/tls-crypt.key"
        f" --cert {pki}/client.crt --key {pki}/client.key",
    )
    address = eventually(lambda: internet.run("ip -brief -4 address show dev tun0"))
    yield address.split()[2].split("/")[0] if address else None
    internet.stop("vpn-client")
