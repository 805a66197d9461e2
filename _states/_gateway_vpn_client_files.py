"""What OpenVPN reads of the clients of a server: a file for each, and one for all others.

Salt's loader passes over a file with an underscore in front. A ``server`` is what ``gateway.plan``
has of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

WRITTEN = os.stat(__file__).st_mtime_ns  # loaded again when that is another

MANAGED = "# Managed by Salt (gateway)"
DEFAULT = "DEFAULT"  # OpenVPN's name for the file of clients without one


def client_files(server: Mapping[str, Any]) -> dict[str, str]:
    """The texts of all files in the folder of a server's clients, by their names."""
    files = {client["file"]: _client_file(client, server) for client in server["clients"]}
    if server["client_pushes"]:
        title = f"{MANAGED}: for clients without a file of their own."
        files[DEFAULT] = _text([title, *_push_lines(server["client_pushes"])])
    return files


def _client_file(client: Mapping[str, Any], server: Mapping[str, Any]) -> str:
    """What OpenVPN reads when this client connects to this server."""
    lines = [f"{MANAGED}."]
    if client["disabled"]:
        lines.append("disable")
    if client["address"]:
        lines.append(f"ifconfig-push {client['address']} {server['netmask']}")
    # It is not told the way to networks that are behind itself.
    own = {network["push"] for network in client["networks"]}
    lines += [f"iroute {each['address']} {each['netmask']}" for each in client["networks"]]
    lines += _push_lines(push for push in server["client_pushes"] if push not in own)
    lines += _push_lines(client["pushes"])
    return _text(lines)


def _push_lines(pushes: Iterable[str]) -> list[str]:
    return [f'push "{push}"' for push in pushes]


def _text(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
