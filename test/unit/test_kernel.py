"""Kernel settings and the table of connections."""

import pytest

# --------------------------------------------------------------------------------------------------
# What is planned


def test_kernel(plan):
    whole = plan({"nodes:gw1:public_interface": "wan0.7"})
    # Apart: not before the rules are in force.
    assert whole["forwarding"] == {"net/ipv4/ip_forward": "1"}
    found = whole["kernel"]
    assert "net/ipv4/ip_forward" not in found
    assert found["net/ipv4/conf/all/rp_filter"] == "2"
    assert found["net/ipv4/conf/wan0.7/send_redirects"] == "0"
    assert "net/ipv4/conf/eth1/send_redirects" not in found


# --------------------------------------------------------------------------------------------------
# How a node is doing


@pytest.mark.parametrize(("count", "many"), [(None, False), (899, False), (900, True)])
def test_status_of_a_full_table_of_connections(module, node, count, many):
    if count is not None:
        node.connections.write_text(f"{count}\n")
    said = "900 of 1000 connections: where no room is left, what is new is dropped, DNS too"
    assert [text.startswith(said) for text in module.status()["problems"]] == [True] * many


# --------------------------------------------------------------------------------------------------
# What is written


def test_kernel_settings_and_modules(render):
    found = render("example")
    state = found.ids["kernel settings"]
    assert state["settings"] == found.plan["kernel"]
    assert state["forwarding"] == found.plan["forwarding"]
