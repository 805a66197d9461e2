"""Several networks behind the pair: who reaches whom, with real packets."""

from __future__ import annotations

from collections.abc import Iterator

import further
import pytest
from conftest import converge, ok
from further import Station
from lab import Lab


@pytest.fixture(scope="module")
def stations(lab: Lab) -> Iterator[dict[str, Station]]:
    """The site with further networks, applied, and a machine in each."""
    converge(lab)
    with further.networks(lab) as found:
        lab.set_pillar({"gateway": further.PILLAR})
        ok(lab.apply())
        yield found
        lab.set_pillar({})
        ok(lab.apply())


def test_it(lab: Lab, stations: dict[str, Station]) -> None:
    import os

    for host in ("gw1", "gw2"):
        print(
            lab.host(host)
            .run("ip -4 -brief addr; ip rule; ip route show table all | head -40", check=False)
            .stdout
        )
    print(lab.salt("gw*", "gateway.status"))
    for name, machine in stations.items():
        print(
            name,
            machine.run(
                "ip -brief addr; ping -c 1 -W 1 198.51.100.100; curl -s -m 3 http://198.51.100.100/",
                check=False,
            ).stdout,
        )
    os.system("sleep 1500")
