"""What this host knows of the site's minions, as their Salt master or masterless: ids and pillar.

Unlike the other libraries it needs Salt. ``opts`` and ``pillar`` are what Salt's loader gives to a
module.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import _gateway_plan
import salt.config
import salt.pillar
import salt.utils.minions
from _gateway_site import Site


def known_minions(opts: Mapping[str, Any], pillar: Mapping[str, Any]) -> set[str]:
    """The nodes in this host's own pillar, and whose keys the master has accepted."""
    known = set((pillar.get("gateway") or {}).get("nodes") or {})
    with contextlib.suppress(OSError):  # no master, or not for this user to see
        known |= set(os.listdir(os.path.join(_master_opts(opts)["pki_dir"], "minions")))
    return known


def site(opts: Mapping[str, Any], pillar: Mapping[str, Any], gateways: Iterable[str]) -> Site:
    """The site that the pillar describes: this host's own, or that of a gateway.

    Raises ValueError where there is none, or where it is wrong.
    """
    errors: list[str] = []
    for value in _pillars(opts, pillar, gateways):
        described, errors = _gateway_plan.read(value)
        if described:
            return described
    if errors:
        raise ValueError("\n".join(["The pillar of this site is wrong:", *errors]))
    raise ValueError("no gateway of this site has a pillar here; a profile needs its VPN servers")


def _pillars(
    opts: Mapping[str, Any], pillar: Mapping[str, Any], gateways: Iterable[str]
) -> Iterator[object]:
    if "gateway" in pillar:
        yield pillar["gateway"]
        return
    master = dict(_master_opts(opts))
    saltenv = master.get("saltenv") or "base"
    for name in gateways:
        _, grains, _ = salt.utils.minions.get_minion_data(name, master)
        compiler = salt.pillar.Pillar(master, grains or {"id": name}, name, saltenv)
        compiled = compiler.compile_pillar()
        if "gateway" in compiled:
            yield compiled["gateway"]


def _master_opts(opts: Mapping[str, Any]) -> Mapping[str, Any]:
    """The master's options, where this host is one: salt-call brings those of a minion."""
    path = os.path.join(os.path.dirname(opts["conf_file"]), "master")
    if opts.get("__cli") == "salt-call" and os.path.exists(path):
        configured: Mapping[str, Any] = salt.config.master_config(path)
        return configured
    return opts
