#!/usr/bin/env python3
"""Whether the daemons of other systems take what the formula writes: `make versions`.

Into a container of each system go its own keepalived, OpenVPN and so on. Each of them looks at the
whole configurations of test/unit/golden, in the way in which an apply asks (`look`). Images can be
named: `VERSIONS_ARGS='debian:12 ubuntu:22.04'`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
IMAGES = ("debian:12", "debian:13", "ubuntu:22.04", "ubuntu:24.04")
SITES = ("example", "rich", "networks")
PACKAGES = "chrony conntrackd dnsmasq-base ipset iproute2 iptables keepalived openvpn"
DOCKERFILE = """
ARG IMAGE
FROM $IMAGE
ARG DEBIAN_FRONTEND=noninteractive
RUN printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d \\
 && apt-get -q update && apt-get -qy --no-install-recommends install {packages}
"""
CONTAINER = (
    *("--rm", "--network=none", "--cap-add=ALL", "--cap-drop=SYS_RESOURCE", "--cap-drop=SYS_TIME"),
    *("--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined"),
    *("--security-opt=systempaths=unconfined", "--device=/dev/net/tun"),
    f"--volume={REPOSITORY}:/srv/repo:ro",
)


def run(*command: str, text: str | None = None) -> str:
    """Run a command; return what it prints."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, input=text)
    if done.returncode:
        sys.exit(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    return done.stdout


def make_pki(folder: str) -> None:
    """Write ca.crt, server.crt and server.key into a folder: one certificate that signs itself."""
    run(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-nodes", "-days", "2", "-subj", "/CN=gw1", "-addext", "extendedKeyUsage=serverAuth"),
        *("-keyout", f"{folder}/server.key", "-out", f"{folder}/server.crt"),
    )
    Path(folder, "ca.crt").write_text(Path(folder, "server.crt").read_text())


def answers(image: str, pki: str) -> list[list[str]]:
    """Return package, version, file and answer (OK or what was said) for each file of each site."""
    ours = f"gateway-lab-versions:{image.replace(':', '-').replace('/', '-')}"
    build = ("docker", "build", "-q", "--network=host", "--build-arg", f"IMAGE={image}")
    run(*build, "--tag", ours, "-", text=DOCKERFILE.format(packages=PACKAGES))
    mounts = (*CONTAINER, f"--volume={pki}:/srv/pki:ro")
    found = []
    for site in SITES:
        printed = run("docker", "run", *mounts, ours, "/srv/repo/test/versions/look", site)
        for line in printed.splitlines():
            package, version, file, answer = line.split("|", 3)
            found.append([package, version, f"{site}: {file}", answer])
    return found


def main() -> int:
    refused = 0
    with tempfile.TemporaryDirectory() as pki:
        make_pki(pki)
        for image in sys.argv[1:] or IMAGES:
            print(image)
            for package, version, file, answer in answers(image, pki):
                print(f"  {package:13}{version:28}{file:48}{answer}", flush=True)
                refused += answer != "OK"
    return bool(refused)


if __name__ == "__main__":
    sys.exit(main())
