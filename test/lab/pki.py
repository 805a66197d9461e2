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
# openssl's own little database of what it has revoked.
REVOKE = f"""
set -eu
cd {FOLDER}
umask 077
printf '[ca]\\ndefault_ca=lab\\n[lab]\\ndatabase=index.txt\\ndefault_md=sha256\\n' > ca.cnf
: > index.txt
for name; do
    openssl ca -config ca.cnf -cert ca.crt -keyfile ca.key -revoke $name.crt
done
openssl ca -config ca.cnf -cert ca.crt -keyfile ca.key -gencrl $days
"""
CLIENT = """\
client
dev {device}
dev-type tun
{remotes}
nobind
server-poll-timeout 3
hand-window 15
connect-retry 1 1
remote-cert-tls server
ca {folder}/ca.crt
cert {folder}/{name}.crt
key {folder}/{name}.key
tls-crypt {folder}/tls-crypt.key
verb 3
{more}"""


def distribute(lab: Lab) -> None:
    """Make what is missing and put it where the gateways' pillar and the clients expect it."""
    lab.host("master").run(MAKE)
    issue(lab, "server", "serverAuth")
    for name in ("ca.crt", "server.crt", "server.key", "tls-crypt.key"):
        for gateway in ("gw1", "gw2"):
            lab.host(gateway).write(f"{ON_GATEWAY}/{name}", read(lab, name), 0o600)
    for client in CLIENTS:
        provide(lab, client, client)


def issue(lab: Lab, name: str, usage: str) -> None:
    """Make a certificate and its key, unless they are there."""
    lab.host("master").run(["sh", "-c", ISSUE, "sh", name, usage])


def provide(lab: Lab, host: str, name: str) -> None:
    """Issue a client's certificate and put it, with all that a client needs, on a host."""
    issue(lab, name, "clientAuth")
    for file in ("ca.crt", f"{name}.crt", f"{name}.key", "tls-crypt.key"):
        lab.host(host).write(f"{FOLDER}/{file}", read(lab, file), 0o600)


def crl(lab: Lab, *revoked: str, days: int = 90) -> str:
    """Return a new revocation list with the certificates of these names, as PEM text. It is good
    for so many days, or with a negative number was good until years ago."""
    when = f"-crldays {days}"
    if days < 0:
        when = "-crl_lastupdate 20200101000000Z -crl_nextupdate 20200201000000Z"
    made = (
        lab.host("master").run(["env", f"days={when}", "sh", "-c", REVOKE, "sh", *revoked]).stdout
    )
    return made[made.index("-----BEGIN X509 CRL") :]


def read(lab: Lab, name: str) -> str:
    """Return the text of one of the files."""
    return lab.host("master").run(["cat", f"{FOLDER}/{name}"]).stdout


class Tunnel:
    """A client's VPN connection, from entry to exit of a `with` block. It asks the first of the
    remotes first. `name` is the certificate's, `more` are further lines of its profile."""

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
        self.config = CLIENT.format(
            device=device,
            remotes="\n".join(f"remote {remote} {port} {proto}" for remote in remotes),
            folder=FOLDER,
            name=name or client,
            # A server hears at once that it left; TCP says so by itself.
            more=more + ("explicit-exit-notify 1\n" if proto == "udp" else ""),
        )
        self.run = f"/run/lab-{device}.ovpn"

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
        self.client.write(self.run, self.config)
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
