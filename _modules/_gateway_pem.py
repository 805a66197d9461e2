"""Certificates and keys in the pillar: paths on the node, or PEM text."""

import re
from typing import Any

import _gateway_kinds as kinds
import _gateway_machine
import _gateway_values as values
from _gateway_keys import Key, Kind, by_name
from _gateway_reader import Reader, Section
from _gateway_site import (
    Material,
    Node,
    VpnServer,
)

try:
    import _gateway_x509
except ImportError:  # over salt-ssh: the node's own Python may not have what it needs
    _gateway_x509 = None  # type: ignore[assignment]


_PEM_PATTERN = re.compile(
    r"-----BEGIN (?P<label>[A-Za-z0-9 -]+)-----\n(?:[A-Za-z0-9+/=]+\n)+-----END (?P=label)-----\n"
)
PEM_LABELS = {
    "ca": ("CERTIFICATE",),
    "certificate": ("CERTIFICATE",),
    "key": ("PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"),
    "tls_crypt": ("OpenVPN Static key V1",),
    "tls_crypt_v2": ("OpenVPN tls-crypt-v2 server key",),
    "auth_token": ("OpenVPN auth-token server key",),
    "crl": ("X509 CRL",),
}
CRL = "/etc/gateway/openvpn/crl.pem"
# The parts of vpn:pki that expire.
EXPIRING = {
    "ca": "the CA's certificate",
    "certificate": "this node's certificate",
    "crl": "the revocation list",
}
EXPIRY_WARNING = 30  # days


def _material(name: str) -> Kind:
    """A path on the node, or PEM text, as a pair of which one is None. The error never shows the
    value: it may be a private key."""
    labels = PEM_LABELS[name]
    *others, last = [f"`{label}`" for label in labels]
    words = f"path or PEM {', '.join(others)} or {last}" if others else f"path or PEM {last}"

    def parse(value: object) -> tuple[str | None, str | None]:
        value = _decoded(value)
        if isinstance(value, str) and values.PATH_PATTERN.fullmatch(value):
            return value, None
        if not is_pem(value, name):
            raise ValueError(f"is neither an absolute path nor PEM text ({' or '.join(labels)})")
        return None, pem_blocks(value)

    return kinds.either(parse, words, kinds.PATH.schema, lambda: _pem_schema(labels))


def _pem_schema(labels: tuple[str, ...]) -> dict[str, Any]:
    """Blocks with anything between them: ``is_pem`` as a pattern."""
    lines = r"-----\r?\n(?:[A-Za-z0-9+/=]+\r?\n)+"
    blocks = [f"{label}{lines}-----END {label}" for label in (*labels, "EC PARAMETERS")]
    block = rf"-----BEGIN (?:{'|'.join(blocks)})-----(?:\r?\n|\s*$)"
    other = r"(?:(?!-----BEGIN)[\s\S])*"
    one = rf"(?=[\s\S]*-----BEGIN (?:{'|'.join(labels)})-----)"
    return {
        "type": "string",
        "pattern": f"^{one}{other}(?:{block}{other})*$",
        "patternErrorMessage": f"is neither an absolute path nor PEM text ({' or '.join(labels)})",
    }


OF_SITE = by_name(
    Key(
        "ca",
        _material("ca"),
        None,
        "Signed the clients' certificates (and the servers').",
        said="required",
    ),
    Key(
        "certificate",
        _material("certificate"),
        None,
        "The server's. May be left out if [every node has its own](#gatewaynodesnodepki).",
        said="required",
    ),
    Key(
        "key",
        _material("key"),
        None,
        "Its key, not encrypted. May be left out as `certificate`.",
        said="required",
    ),
    Key(
        "tls_crypt",
        _material("tls_crypt"),
        None,
        "Shared by servers and clients. May be left out where there is a `tls_crypt_v2`.",
        said="required",
    ),
    Key(
        "tls_crypt_v2",
        _material("tls_crypt_v2"),
        None,
        "Each client has a key of its own, made from this one. Beside `tls_crypt`, clients of"
        " either kind are let in.",
    ),
    Key(
        "auth_token",
        _material("auth_token"),
        None,
        "Required with `auth`. Made by `gateway_pki` or `openvpn --genkey auth-token`; the same"
        " on all nodes.",
    ),
    Key(
        "crl",
        _material("crl"),
        None,
        "The revocation list of each CA in `ca`. What is at a path is checked and copied by each"
        " apply, to where OpenVPN can read it without root's rights.",
    ),
    Key(
        "error",
        kinds.TEXT,
        None,
        "What `gateway_pki.pillar` has instead of all the others where there is no certificate"
        " for the node. The VPN's part of an apply fails with it.",
    ),
)
OF_NODE = by_name(
    Key(
        "certificate",
        _material("certificate"),
        None,
        "The server certificate of this node alone, as in [vpn:pki](#gatewayvpnpki).",
        said="`vpn:pki:certificate`",
    ),
    Key("key", _material("key"), None, "Its key.", said="`vpn:pki:key`"),
)


def read_refusal(pki: Section) -> str | None:
    """Why ``gateway_pki.pillar`` has no certificate for this node, where it has none. That keeps
    the VPN from being set up, and nothing else: it may come with time, on one node alone."""
    error = pki.get("error")
    return values.show(error, 300) if error is not None else None


def read_pki(section: Section, keys: tuple[str, ...]) -> dict[str, Material]:
    """What there is below ``keys``, by its name; None where it is wrong."""
    found = {}
    for name in PEM_LABELS:
        path, text = (section.get(name) if name in section.keys else None) or (None, None)
        if name in section.values:
            found[name] = Material(path=path, keys=(*keys, name), text=text)
    return found


def is_pem(value: object, name: str, alone: bool = True) -> bool:
    """Whether a value is PEM text of the kind that ``vpn:pki:NAME`` takes, and of no other.

    Without ``alone`` there may be others: a file on the node may be for more than one purpose.
    """
    labels = PEM_LABELS[name]
    found = [match["label"] for match in _PEM_PATTERN.finditer(_lines(value))]
    known = set(found) <= {*labels, "EC PARAMETERS"} or not alone
    whole = _lines(value).count("-----BEGIN") == len(found)
    return bool(set(found) & set(labels)) and known and whole


def _decoded(value: object) -> object:
    """A value as text where it is the content of a file, as the pillar file_tree gives it."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _lines(value: object) -> str:
    value = _decoded(value)
    return "" if not isinstance(value, str) else value.replace("\r\n", "\n").rstrip() + "\n"


def pem_blocks(value: object) -> str:
    """The PEM blocks of a text, without what tools like to write above them."""
    return "".join(match[0] for match in _PEM_PATTERN.finditer(_lines(value)))


def check_pki(
    reader: Reader,
    pki: dict[str, Material],
    nodes: tuple[Node, ...],
    servers: tuple[VpnServer, ...],
) -> None:
    required = ["ca"]
    if "tls_crypt_v2" not in pki:
        required.append("tls_crypt")
    for name in required:
        if name not in pki:
            reader.fault(f"gateway:vpn:pki:{name}", "missing; a VPN server needs it")
    for server in servers:
        if server.auth and "auth_token" not in pki:
            reader.fault(
                "gateway:vpn:pki:auth_token",
                f"missing; gateway:vpn:servers:{server.name}:auth needs it",
            )
            break
    for name in ("certificate", "key"):
        for node in nodes:
            if name not in pki and name not in node.pki:
                reader.fault(
                    f"gateway:vpn:pki:{name}",
                    f"missing, and gateway:nodes:{node.name}:pki:{name} is not there either",
                )


def faults(name: str, material: Material) -> list[str]:
    """What is wrong with a certificate or key, or soon will be."""
    path = material.path
    try:
        text = material.text or _gateway_machine.file_text(path or "")
        if path and not is_pem(text, name, alone=False):
            raise ValueError(f"{path} is not PEM text of that kind, or is damaged")
        items = (
            _gateway_x509.lifetimes(text, _gateway_machine.now())
            if _gateway_x509 and name in EXPIRING
            else []
        )
    except ValueError as error:
        return [str(error)]
    faults = [_expiry(item) for item in items if not _is_lasting(item)]
    hidden = _gateway_machine.out_of_sight(path) if path and name != "crl" else None
    faults += [hidden] if hidden else []
    if path and name == "crl" and _gateway_machine.text(CRL) not in (None, text.strip()):
        faults.append(f"{path} is not the list that OpenVPN reads, {CRL}; apply to bring it there")
    return faults


def _is_lasting(item: dict[str, Any]) -> bool:
    return bool(item["begun"]) and item["days_left"] >= EXPIRY_WARNING


def _expiry(item: dict[str, Any]) -> str:
    what = "the certificate of" if item["type"] == "certificate" else "the revocation list of"
    if not item["begun"]:
        begin = item["begins"][:16].replace("T", " ")
        return (
            f"{what} {item['name']} is not valid before {begin} UTC;"
            " look at this node's clock, and at that of the machine that made it"
        )
    day, days = item["ends"][:10], item["days_left"]
    if days < 0:
        return f"{what} {item['name']} ended on {day}"
    return f"{what} {item['name']} ends on {day}, in {days} days"
