"""Whose name is where, among the leases that are known."""

from lease_facts import FOREVER, Client, Fact
from lease_orders import Orders

SETTINGS = {
    "node": "gw1",
    "pools": [],
    "reserved": [],
    "reserved_macs": [],
    "register": {"10.77.0.0/24": "example.internal"},
    "names": [],
    "domain": "example.internal",
    "wildcards": [],
}


def lease(last, mac, identifier="", *, since=0, until=1000, name="laptop"):
    return Fact(f"10.77.0.{last}", Client(mac, identifier), until, since, name)


def hosts(*leases):
    return Orders(SETTINGS).hosts(leases)


def test_of_two_machines_the_one_that_has_a_lease_for_longer_has_the_name():
    leases = lease(100, "02:01", since=10), lease(101, "02:02", since=20, until=2000)
    assert hosts(*leases) == ["10.77.0.100 laptop.example.internal laptop"]


def test_of_one_machine_with_two_identifiers_the_lease_that_was_renewed_last_has_the_name():
    firmware = lease(100, "02:01", "00:01", since=10)
    system = lease(101, "02:01", "ff:02", since=20, until=2000)
    other = lease(102, "02:02", since=15, until=FOREVER)
    for order in ((firmware, system, other), (other, system, firmware)):
        assert hosts(*order) == ["10.77.0.101 laptop.example.internal laptop"]
    system = lease(101, "02:01", "ff:02", since=20, until=FOREVER)
    assert hosts(system, firmware) == ["10.77.0.101 laptop.example.internal laptop"]
