"""A node that is taken out of service: a peer takes the virtual IPs, and it does not want them."""

import time
from typing import Any

import _gateway_machine

DRAINING = "/run/gateway/draining"  # read by /usr/lib/gateway/health
DRAINED = "/var/lib/gateway/drained"


def drained_since() -> str | None:
    """When this node was drained, as text; None where it is not."""
    return _gateway_machine.text(DRAINED)


def drain(health: dict[str, Any], force: bool) -> None:
    """Give the virtual IPs away, and note that this node does not want them.

    ``health`` is the plan's. Raises ValueError, and changes nothing, where no peer takes over and
    it is not by ``force``.
    """
    try:
        if not force:
            _hand_over(health["virtual_ip"], health["takeover"])
        _gateway_machine.write(DRAINED, f"{_gateway_machine.now():%Y-%m-%d %H:%M:%S} UTC")
    finally:
        _gateway_machine.remove(DRAINING)


def undrain() -> None:
    _gateway_machine.remove(DRAINED)


def _hand_over(virtual_ip: str, takeover: float) -> None:
    """Return when another node has the virtual IP, and could keep it; within so many seconds."""
    if virtual_ip not in _gateway_machine.addresses():
        # Whoever has it is in as good a state as this node at least, else this one would have it.
        if not _gateway_machine.output("ping", "-c", "1", "-W", "2", virtual_ip):
            raise ValueError(
                f"no other node answers on the virtual IP {virtual_ip}; nothing was changed"
                " (force=True drains this node all the same)"
            )
        return
    with open(_gateway_machine.UPTIME, encoding="ascii") as file:
        _gateway_machine.write(DRAINING, file.read().split(".")[0])
    end = time.monotonic() + takeover
    while time.monotonic() < end:
        time.sleep(0.1)
        if virtual_ip not in _gateway_machine.addresses():
            return
    raise ValueError(
        f"no healthy peer took the virtual IP {virtual_ip}; nothing was changed"
        " (force=True drains this node all the same)"
    )
