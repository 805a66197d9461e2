"""Certificates and keys of the lab's VPN, made once with the openssl and openvpn of the master.

A user brings their own; here they lie where pillar.example looks for them on a gateway.
"""

from __future__ import annotations

from lab import Host, Lab

FOLDER = "/srv/pki"
ON_GATEWAY = "/etc/openvpn/pki"
CLIENTS = ("laptop", "internet")
MAKE = f"""
set -eu
mkdir -p {FOLDER}; cd {FOLDER}
[ ! -e tls-crypt.key ] || exit 0
umask 077
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 \
    -subj '/CN=lab CA' -keyout ca.key -out ca.crt
openvpn --genkey tls-crypt tls-crypt.key
"""
ISSUE = f"""
set -eu
cd {FOLDER}
[ ! -e $1.crt ] || exit 0
umask 077
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
    -subj "/CN=$1" -keyout $1.key -out $1.csr
printf 'extendedKeyUsage=%s\\nkeyUsage=digitalSignature\\n' $2 > usage
openssl x509 -req -in $1.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 \
    -extfile usage -out $1.crt
"""
CLIENT = """\
client
dev {device}
dev-type tun
remote {remote} {port} {proto}
nobind
server-poll-timeout 3
connect-retry 1 1
remote-cert-tls server
ca {folder}/ca.crt
cert {folder}/{name}.crt
key {folder}/{name}.key
tls-crypt {folder}/tls-crypt.key
verb 3
"""


def distribute(lab: Lab) -> None:
    """Make what is missing and put it where the gateways' pillar and the clients expect it."""
    lab.host("master").run(MAKE)
    issue(lab, "server", "serverAuth")
    for name in ("ca.crt", "server.crt", "server.key", "tls-crypt.key"):
        for gateway in ("gw1", "gw2"):
            lab.host(gateway).write(f"{ON_GATEWAY}/{name}", read(lab, name), 0o600)
    for client in CLIENTS:
        issue(lab, client, "clientAuth")
        for name in ("ca.crt", f"{client}.crt", f"{client}.key", "tls-crypt.key"):
            lab.host(client).write(f"{FOLDER}/{name}", read(lab, name), 0o600)


def issue(lab: Lab, name: str, usage: str) -> None:
    """Make a certificate and its key, unless they are there."""
    lab.host("master").run(["sh", "-c", ISSUE, "sh", name, usage])


def read(lab: Lab, name: str) -> str:
    """Return the text of one of the files."""
    return lab.host("master").run(["cat", f"{FOLDER}/{name}"]).stdout


class Tunnel:
    """A client's VPN connection to one gateway, from entry to exit of a `with` block."""

    device = "tun0"

    def __init__(
        self,
        lab: Lab,
        remote: str,
        port: int = 1194,
        proto: str = "udp",
        client: str = "laptop",
    ) -> None:
        self.client: Host = lab.host(client)
        self.config = CLIENT.format(
            device=self.device, remote=remote, port=port, proto=proto, folder=FOLDER, name=client
        )

    def __enter__(self) -> Tunnel:
        self.client.write("/root/lab.ovpn", self.config)
        self.client.run(
            "rm -f /run/lab.ovpn.log; openvpn --config /root/lab.ovpn --daemon"
            " --writepid /run/lab.ovpn.pid --log /run/lab.ovpn.log"
        )
        done = self.client.run(
            'timeout 15 sh -c \'until grep -q "Initialization Sequence Completed"'
            " /run/lab.ovpn.log; do sleep 0.1; done' || { cat /run/lab.ovpn.log; exit 1; }",
            check=False,
        )
        if done.returncode:
            self.__exit__()
            raise AssertionError(f"{self.client.name} got no VPN connection:\n{done.stdout}")
        return self

    def __exit__(self, *_: object) -> None:
        self.client.run(
            "pid=$(cat /run/lab.ovpn.pid); kill $pid; timeout 10 tail --pid=$pid -f /dev/null",
            check=False,
        )

    @property
    def address(self) -> str:
        """The client's address in the tunnel."""
        command = f"ip -brief -4 address show dev {self.device}"
        return self.client.run(command).stdout.split()[2].split("/")[0]

    @property
    def log(self) -> str:
        """What the client said so far; the server's pushes are in it."""
        return self.client.run(["cat", "/run/lab.ovpn.log"]).stdout
