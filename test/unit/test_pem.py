"""Keys, certificates and revocation lists, as paths and as text."""

import re
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import _gateway_ca
import _gateway_machine
import _gateway_pem
import _gateway_plan
import _gateway_x509
import pytest
from cases import SECRET, pem
from on_node import PRIVATE_KEY, SECRET_TEXT
from salt.exceptions import CommandExecutionError

# --------------------------------------------------------------------------------------------------
# What is planned

REJECTED = {
    # missing
    "missing key": ({"vpn:pki:ca": ...}, "vpn:pki:ca", "missing; a VPN server needs it"),
    "missing key of one node": (
        {"vpn:pki:key": ..., "nodes:gw1:pki": {"key": "/etc/gw1.key"}},
        "vpn:pki:key",
        "missing, and gateway:nodes:gw2:pki:key is not there either",
    ),
    # the rest of the services
    "key that is no path": (
        {"vpn:pki:key": "server.key"},
        "vpn:pki:key",
        "is neither an absolute path nor PEM text"
        " (PRIVATE KEY or EC PRIVATE KEY or RSA PRIVATE KEY)",
    ),
    "second certificate that is broken": (
        {"vpn:pki:ca": pem("CERTIFICATE") + "-----BEGIN CERTIFICATE-----\nc2Vj"},
        "vpn:pki:ca",
        "is neither an absolute path nor PEM text (CERTIFICATE)",
    ),
    "certificate with a key beside it": (
        {"vpn:pki:ca": pem("CERTIFICATE") + pem("PRIVATE KEY")},
        "vpn:pki:ca",
        "is neither an absolute path nor PEM text (CERTIFICATE)",
    ),
}


@pytest.mark.parametrize(("changes", "key", "message"), REJECTED.values(), ids=REJECTED)
def test_rejected(errors, changes, key, message):
    """A mistake is one error, and it names the key of the pillar that is wrong."""
    assert errors(changes) == [f"gateway:{key}: {message}"]


def test_keys_as_paths(plan):
    changes = {"nodes:gw2:pki": {"certificate": "/etc/gw2.crt", "key": "/etc/gw2.key"}}
    assert plan(changes, "gw2")["vpn"]["pki"] == {
        "ca": {"path": "/etc/openvpn/pki/ca.crt"},
        "certificate": {"path": "/etc/gw2.crt"},
        "key": {"path": "/etc/gw2.key"},
        "tls_crypt": {"path": "/etc/openvpn/pki/tls-crypt.key"},
    }
    assert plan(changes, "gw1")["vpn"]["pki"]["key"] == {"path": "/etc/openvpn/pki/server.key"}


def test_keys_as_text(plan, edit):
    """A plan says where in the pillar the text is; it never has the text."""
    changes = {
        "vpn:pki": {
            "ca": pem("CERTIFICATE") * 2,
            "certificate": pem("CERTIFICATE"),
            "key": pem("PRIVATE KEY"),
            "tls_crypt": "#\n# 2048 bit OpenVPN static key\n#\n" + pem("OpenVPN Static key V1"),
        },
        "nodes:gw2:pki": {"key": pem("EC PRIVATE KEY").replace("\n", "\r\n")},
    }
    found = plan(changes, "gw2")["vpn"]["pki"]
    # Of what is public it says which text it is.
    hashes = {name: found[name].pop("hash") for name in ("ca", "certificate")}
    assert all(re.fullmatch("[0-9a-f]{16}", text) for text in hashes.values())
    assert found == {
        "ca": {"pillar": ["gateway", "vpn", "pki", "ca"]},
        "certificate": {"pillar": ["gateway", "vpn", "pki", "certificate"]},
        "key": {"pillar": ["gateway", "nodes", "gw2", "pki", "key"]},
        "tls_crypt": {"pillar": ["gateway", "vpn", "pki", "tls_crypt"]},
    }
    site, _ = _gateway_plan.read(edit(changes))
    assert site
    assert [node.pki["key"].text for node in site.nodes if node.pki] == [pem("EC PRIVATE KEY")]
    for shown in (repr(site), str(site), repr(plan(changes)), repr(plan(changes, "gw2"))):
        assert SECRET not in shown
    assert plan({**changes, "vpn:pki:ca": pem("CERTIFICATE")})["digest"] != site.digest
    assert plan({**changes, "nodes:gw2:pki": {}})["digest"] != site.digest


def test_a_certificate_for_each_node_and_one_digest(plan):
    """In each node's pillar its own, as gateway_pki.pillar has it."""
    texts = {
        "vpn:pki:certificate": pem("CERTIFICATE"),
        "vpn:pki:key": pem("PRIVATE KEY"),
    }
    others = {name: text.replace(SECRET, SECRET[::-1]) for name, text in texts.items()}
    digest = plan(texts, "gw1")["digest"]
    assert plan(others, "gw2")["digest"] == digest
    assert plan()["digest"] != digest


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("nothing was issued to gw1", "nothing was issued to gw1"),
        ("first\nsecond", r"'first\nsecond'"),
        ("", "''"),
    ],
)
def test_no_certificate_and_why(plan, errors, error, message):
    """It is the VPN's matter alone. Nothing else of its keys is said to be missing then."""
    changes = {"vpn:pki": {"error": error}}
    assert errors(changes) == []
    found, usual = plan(changes), plan()
    assert found["vpn"] == usual["vpn"] | {"error": message, "pki": {}}
    parts = usual.keys() - {"vpn", "digest"}
    assert {part: found[part] for part in parts} == {part: usual[part] for part in parts}
    # Which node has none is no part of the site.
    assert plan({"vpn:pki": {"error": "another"}})["digest"] == found["digest"]


def test_a_reason_that_is_no_text(errors):
    message = "must be text, is a number (7); put it in quotes"
    assert errors({"vpn:pki:error": 7}) == [f"gateway:vpn:pki:error: {message}"]


@pytest.mark.parametrize(
    "broken",
    [
        pem("PRIVATE KEY")[:-2],
        pem("PRIVATE KEY").replace("\n", " "),
        pem("PRIVATE KEY", SECRET + '"'),
        pem("PRIVATE KEY", ""),
        pem("PUBLIC KEY"),
        SECRET,
        [pem("PRIVATE KEY")],
        {SECRET: None},
        b"\xff" + SECRET.encode(),
    ],
    ids=[
        "cut off",
        "folded",
        "with a quote",
        "empty",
        "other",
        "bare",
        "list",
        "mapping",
        "bytes",
    ],
)
@pytest.mark.parametrize("where", ["vpn:pki:key", "vpn:pki:tls_crypt", "nodes:gw2:pki"])
def test_errors_never_show_a_key(errors, where, broken):
    found = errors({where: {"key": broken} if where.startswith("nodes") else broken})
    assert len(found) == 1
    assert "is neither an absolute path nor PEM text" in found[0]
    assert SECRET not in found[0]


@pytest.mark.parametrize("value", ["/etc/gw.key", PRIVATE_KEY.strip(), PRIVATE_KEY])
def test_the_content_of_a_file_is_text(plan, module, break_pillar, value):
    """The external pillar file_tree gives bytes."""
    assert plan({"vpn:pki:key": value.encode()}) == plan({"vpn:pki:key": value})
    if not value.startswith("/"):
        break_pillar({"vpn:pki:key": value.encode()})
        assert module.pem("key") == PRIVATE_KEY.strip()


# --------------------------------------------------------------------------------------------------
# How a node is doing


def test_pem(module, node, break_pillar):
    text = f"Bag attributes:\n{PRIVATE_KEY}</key>\nscript-security 3\n".replace("\n", "\r\n")
    break_pillar({"vpn:pki:key": text})
    assert module.pem("key") == PRIVATE_KEY.strip()
    with pytest.raises(CommandExecutionError) as raised:
        module.pem("key", __pub_fun="gateway.pem")
    assert SECRET_TEXT not in str(raised.value)
    node.pillar["gateway"]["vpn"]["pki"]["key"] = "no PEM"
    with pytest.raises(CommandExecutionError, match="there is no PEM text for key in the pillar"):
        module.pem("key")


def test_pem_leaves_the_pillar_as_it_is(module, node, break_pillar, monkeypatch):
    """Salt 3008 copies all of a pillar from which a mapping is taken by its key, and the copy would
    be read again."""
    break_pillar({"vpn:pki:key": PRIVATE_KEY})

    class Copied(dict):
        def __getitem__(self, key):
            raise AssertionError("copied")

    monkeypatch.setattr(module, "__pillar__", Copied(node.pillar))
    assert module.pem("key") == PRIVATE_KEY.strip()


def test_a_revocation_list_that_was_not_applied(module, node, break_pillar, on_the_node):
    """As after gateway_pki.revoke: it is named, and the rest of the pillar with it or not."""
    texts = [Path(on_the_node["ca"]).parent / f"example/{name}" for name in ("crl.pem", "ca.crt")]
    crl, ca = (path.read_text() for path in texts)
    break_pillar({"vpn:pki:crl": crl, "vpn:pki:ca": ca})
    node.apply()
    assert module.status()["problems"] == []
    said = "the revocation list is not the one that was applied last: apply it"
    newer = {"vpn:pki:crl": crl + crl, "vpn:pki:ca": ca}
    break_pillar(newer)
    assert module.status()["problems"] == [said]
    break_pillar(newer | {"domain": "other.example"})
    pillar = "the pillar is not what was last applied, in dhcp, dns, domain, leases, vpn"
    assert module.status()["problems"] == [said, pillar]


def test_a_certificate_that_was_not_applied(module, node, break_pillar, on_the_node):
    """It is no part of the digest: each node has its own."""
    text = Path(on_the_node["certificate"]).read_text()
    break_pillar({"vpn:pki:certificate": text})
    node.apply()
    break_pillar({"vpn:pki:certificate": text + text})
    said = "this node's certificate is not the one that was applied last: apply it"
    assert module.status()["problems"] == [said]


@pytest.fixture
def pki(module, node, monkeypatch, tmp_path, break_pillar):
    """A certificate for 50 days and a revocation list for 70 in the pillar; ``pass_days``."""
    pki = SimpleNamespace(now=datetime.now(timezone.utc).replace(microsecond=0))
    authority = _gateway_ca.Authority(tmp_path / "example", pki.now)
    authority.create("ec", 3650, 70)
    authority.issue("gw1", "server", None, 50, 70)
    issued = authority.issued("gw1")
    pki.pillar = {
        "ca": authority.read("ca.crt"),
        "certificate": _gateway_x509.pem(issued.current),
        "key": issued.key,
        "crl": authority.read("crl.pem"),
        **authority.keys(),
    }

    def pass_days(days):
        at = pki.now + timedelta(days=days)
        monkeypatch.setattr(_gateway_machine, "now", lambda: at)

    pki.pass_days = pass_days
    pki.authority = authority
    pki.day = lambda days: f"{pki.now + timedelta(days=days):%Y-%m-%d}"
    break_pillar({"vpn:pki": pki.pillar})
    node.apply()
    return pki


def test_certificates_that_end_soon(module, pki):
    """A person is told, by both functions; an apply is not kept from what it does."""
    key, crl = "gateway:vpn:pki:certificate", "gateway:vpn:pki:crl"
    certificate, revoked = "the certificate of gw1", "the revocation list of example VPN CA"
    for days, expected in {
        20: [],
        21: [f"{key}: {certificate} ends on {pki.day(50)}, in 29 days"],
        41: [
            f"{key}: {certificate} ends on {pki.day(50)}, in 9 days",
            f"{crl}: {revoked} ends on {pki.day(70)}, in 29 days",
        ],
        51: [
            f"{key}: {certificate} ended on {pki.day(50)}",
            f"{crl}: {revoked} ends on {pki.day(70)}, in 19 days",
        ],
    }.items():
        pki.pass_days(days)
        assert module.status()["problems"] == expected
        assert module.validate() == expected
        assert module.validate(warnings=False) == []


def test_certificates_on_the_node_that_end_soon(module, pki, tmp_path, break_pillar):
    """The node's own, where it has one."""
    path = tmp_path / "server.crt"
    path.write_text(pki.pillar["certificate"])
    break_pillar({"nodes:gw1:pki": {"certificate": str(path)}})
    pki.pass_days(30)
    [warning] = module.validate()
    assert warning.startswith("gateway:nodes:gw1:pki:certificate: the certificate of gw1 ends on")


def test_every_certificate_and_list_of_a_file(module, pki, tmp_path, break_pillar):
    """OpenVPN reads them all."""
    other = _gateway_ca.Authority(tmp_path / "other", pki.now)
    other.create("ec", 25, 20)
    both = {
        name: pki.pillar[name] + other.read(f) for name, f in (("ca", "ca.crt"), ("crl", "crl.pem"))
    }
    (tmp_path / "lists").write_text(both["crl"])
    break_pillar({"vpn:pki": pki.pillar | both | {"crl": str(tmp_path / "lists")}})
    pki.pass_days(0)
    assert module.validate() == [
        f"gateway:vpn:pki:{key}: the {what} of other VPN CA ends on {pki.day(days)}, in {days} days"
        for key, what, days in [("ca", "certificate", 25), ("crl", "revocation list", 20)]
    ]


def test_what_is_not_valid_yet(module, pki, node):
    """Whoever made it had a clock that is ahead, or this node's is behind."""
    pki.pass_days(-1)
    begin = f"{pki.now - timedelta(hours=1):%Y-%m-%d %H:%M}"
    assert module.status()["problems"] == [
        f"gateway:vpn:pki:{key}: {what} is not valid before {begin} UTC;"
        " look at this node's clock, and at that of the machine that made it"
        for key, what in {
            "ca": "the certificate of example VPN CA",
            "certificate": "the certificate of gw1",
            "crl": "the revocation list of example VPN CA",
        }.items()
    ]


def test_a_node_without_a_certificate_is_told_so(module, node, break_pillar):
    """It is no error of the pillar: all but the VPN can be applied."""
    break_pillar({"vpn:pki": {"error": "the certificate of gw1 is revoked"}})
    said = "gateway:vpn:pki:error: the certificate of gw1 is revoked"
    assert module.validate(warnings=False) == []
    assert module.validate() == [said]
    assert module.plan()["vpn"]["error"] == "the certificate of gw1 is revoked"
    assert said in module.status()["problems"]


DAMAGED = PRIVATE_KEY.replace("PRIVATE KEY", "CERTIFICATE")
UNUSABLE = {  # what is at the path, or in the pillar
    "nothing": (None, "{} is not there on this node"),
    "a folder": (..., "{} cannot be read: Is a directory"),
    "empty": ("", "{} is not PEM text of that kind, or is damaged"),
    "a key": (PRIVATE_KEY, "{} is not PEM text of that kind, or is damaged"),
    "cut off": (DAMAGED[:-9], "{} is not PEM text of that kind, or is damaged"),
    "binary": (b"\x30\x82\xff\xfe", "{} is not PEM text of that kind, or is damaged"),
    "damaged": (DAMAGED, "error parsing asn1 value"),
}


@pytest.mark.parametrize("where", ["vpn:pki:ca", "nodes:gw1:pki:certificate", "vpn:pki:crl"])
@pytest.mark.parametrize(("text", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_what_cannot_be_read_is_not_passed_over(
    module, node, break_pillar, tmp_path, where, text, message
):
    """It is said with its pillar key, and keeps nothing but the VPN from being applied."""
    path = tmp_path / "material"
    if text is ...:
        path.mkdir()
    elif text is not None:
        text = text if isinstance(text, bytes) else text.encode()
        kind = b"X509 CRL" if where.endswith("crl") else b"CERTIFICATE"
        path.write_bytes(text.replace(b"CERTIFICATE", kind))
    break_pillar({where: str(path)})
    [fault] = module.validate()
    assert fault.startswith(f"gateway:{where}: {message.format(path)}")
    assert SECRET_TEXT not in fault
    assert fault in module.status()["problems"]
    assert module.validate(warnings=False) == []


def test_a_file_for_more_than_one_purpose(module, node, break_pillar, on_the_node, tmp_path):
    """OpenVPN takes the certificate and the key of one file each from where they are."""
    both = tmp_path / "both.pem"
    with open(on_the_node["key"]) as key, open(on_the_node["certificate"]) as certificate:
        both.write_text(key.read() + certificate.read())
    break_pillar({"vpn:pki:key": str(both), "vpn:pki:certificate": str(both)})
    assert module.validate() == []


def test_a_list_that_is_newer_than_what_openvpn_reads(module, pki, tmp_path, break_pillar):
    path, copy = tmp_path / "list.pem", tmp_path / "crl"
    path.write_text(pki.pillar["crl"])
    break_pillar({"vpn:pki": pki.pillar | {"crl": str(path)}})
    assert module.validate() == []  # there is no copy yet
    copy.write_text(pki.pillar["crl"])
    assert module.validate() == []
    pki.authority.revoke("gw1", None, 70)
    path.write_text(pki.authority.read("crl.pem"))
    [said] = module.validate()
    assert said == (
        f"gateway:vpn:pki:crl: {path} is not the list that OpenVPN reads, {copy};"
        " apply to bring it there"
    )


def test_certificates_that_no_server_uses(module, break_pillar):
    break_pillar({"vpn": {"pki": {"ca": "/nowhere/ca.pem"}}})
    assert module.validate() == []


def test_without_what_reads_certificates(load, module, pki, monkeypatch):
    """Over salt-ssh, with a Python of the node's that has no cryptography."""
    monkeypatch.setitem(sys.modules, "_gateway_x509", None)
    assert load("_modules/_gateway_pem.py")._gateway_x509 is None
    monkeypatch.setattr(_gateway_pem, "_gateway_x509", None)
    pki.pass_days(60)
    assert module.validate() == module.status()["problems"] == []
