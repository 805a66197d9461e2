#!/usr/bin/env python3
"""The main job, done on real hosts and told in a page: `make demo`."""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from typing import Any

import checks
import pki
from lab import OUT, Lab, LabError, step


class Story:
    """Prints what happens with the time since the beginning, and keeps what the summary needs."""

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self.checks: list[dict[str, Any]] = []
        self.figures: dict[str, Any] = {}

    def tell(self, text: str) -> None:
        print(f"{time.monotonic() - self.begin:6.1f} s  {text}", flush=True)

    def check(self, name: str, ask: Any, wanted: Any) -> None:
        """Say what the answer is, and whether it is right: `wanted` is the right one, a condition,
        or the verdict itself. `ask` is the answer or gives it."""
        try:
            answer = ask() if callable(ask) else ask
            ok = wanted(answer) if callable(wanted) else wanted is True or answer == wanted
        except (LabError, AssertionError) as error:
            answer, ok = error, False
        self.checks.append({"name": name, "ok": bool(ok)})
        self.tell(f"{'ok  ' if ok else 'FAIL'}  {name}: {answer}")

    def summary(self) -> bool:
        """Print the table, write demo.json, and say whether all is well."""
        failed = [check["name"] for check in self.checks if not check["ok"]]
        outage, second = self.figures["outage_ms"], self.figures["second_apply"]
        rows = [
            ("checks", f"{len(self.checks) - len(failed)} of {len(self.checks)} ok"),
            ("second apply", f"{second['changes']} changes, {second['seconds']:.1f} s"),
            ("outage when the primary vanishes", f"{outage['primary_vanishes']:.0f} ms"),
            ("outage when the primary returns", f"{outage['primary_returns']:.0f} ms"),
            *self.figures["versions"].items(),
        ]
        print("\nSummary")
        for name, value in rows:
            print(f"  {name:34}{value}")
        for name in failed:
            print(f"  FAILED: {name}")
        (OUT / "demo.json").write_text(
            json.dumps({"checks": self.checks, **self.figures}, indent=1)
        )
        return not failed


def apply(lab: Lab, story: Story, what: str) -> dict[str, Any]:
    """Apply the formula to both gateways; return changes and seconds."""
    start = time.monotonic()
    with step(f"salt 'gw*' state.apply gateway ({what})"):
        results = lab.apply()
    seconds = time.monotonic() - start
    changed = 0
    for name in checks.INTERNAL:
        failed = checks.failures(results.get(name, "no answer"))
        answer = "failed: " + "; ".join(f"{key}: {text}" for key, text in failed.items())
        if not failed:
            here = len(checks.changes(results[name]))
            changed += here
            answer = f"{len(results[name])} states, {here} with changes"
        story.check(f"{what} on {name}", answer, not failed)
    return {"changes": changed, "seconds": round(seconds, 2)}


def synchronised(stratum: int) -> bool:
    return stratum < 16


def services(lab: Lab, story: Story) -> None:
    """What the network behind the pair has."""
    backend = lab.host("backend01")
    story.check(
        "DHCP gives backend01 its reservation",
        lambda: checks.eventually(
            lambda: checks.lease(lab).get("fixed-address"), lambda ip: ip == checks.BACKEND, 15
        ),
        checks.BACKEND,
    )
    story.check(
        "internet through NAT",
        lambda: checks.http(backend, f"http://{checks.INTERNET}/"),
        f"internet saw {checks.PUBLIC['gw1']}",
    )
    story.check(
        "DNS, internal name",
        lambda: checks.resolve(backend, "www.example.internal", checks.VIRTUAL_IP),
        checks.BACKEND,
    )
    story.check(
        "DNS, external name",
        lambda: checks.resolve(backend, "www.example.net", checks.VIRTUAL_IP),
        checks.INTERNET,
    )
    for server in (checks.VIRTUAL_IP, *checks.INTERNAL.values()):
        story.check(
            f"time from {server} (stratum)",
            partial(checks.wait_stratum, backend, server, synchronised, 20),
            synchronised,
        )
    story.check(
        "port forward from the internet to backend01",
        lambda: checks.http(lab.host("laptop"), f"http://{checks.PUBLIC['gw1']}:443/"),
        "backend01 saw 198.51.100.50",
    )
    story.check(
        "TCP ports of gw1 that the internet finds (forwards; no others)",
        lambda: checks.scan(lab.host("laptop"), checks.PUBLIC["gw1"]),
        {"open": [443], "refused": []},
    )


def vpn(lab: Lab, story: Story) -> None:
    """Through each gateway into the network, and back."""
    for name, address in checks.PUBLIC.items():
        try:
            with pki.Tunnel(lab, address) as tunnel:
                story.check(
                    f"VPN through {name}: the laptop reaches backend01",
                    lambda: checks.http(lab.host("laptop"), f"http://{checks.BACKEND}/"),
                    f"backend01 saw {tunnel.address}",
                )
                story.check(
                    f"VPN through {name}: backend01 reaches the laptop",
                    partial(checks.http, lab.host("backend01"), f"http://{tunnel.address}/"),
                    f"laptop saw {checks.BACKEND}",
                )
        except (LabError, AssertionError) as error:
            story.check(f"VPN through {name}", error, False)


def failover(lab: Lab, story: Story) -> dict[str, float]:
    """Cut the primary off without a word, and bring it back, under a probe of 1 ms."""
    with lab.probe() as probe:
        time.sleep(2)
        story.tell("gw1 is cut off from both networks, without warning")
        lab.isolate("gw1")
        time.sleep(5)
    vanishes = probe.result.longest_outage_ms()
    story.check("internet is back after", f"{vanishes:.0f} ms", 0 < vanishes <= 400)
    story.check(
        "internet through NAT of gw2",
        lambda: checks.http(lab.host("backend01"), f"http://{checks.INTERNET}/"),
        f"internet saw {checks.PUBLIC['gw2']}",
    )
    story.check(
        "DNS on the virtual IP",
        lambda: checks.resolve(lab.host("backend01"), "www.example.net", checks.VIRTUAL_IP),
        checks.INTERNET,
    )
    with lab.probe() as probe:
        time.sleep(2)
        story.tell("gw1 is back")
        lab.rejoin("gw1")
        time.sleep(8)
    returns = probe.result.longest_outage_ms()
    story.check("outage when gw1 returns", f"{returns:.0f} ms", returns <= 400)
    story.check("the virtual IP is on", lambda: checks.holders(lab), ["gw1"])
    return {"primary_vanishes": round(vanishes, 1), "primary_returns": round(returns, 1)}


def versions(lab: Lab) -> dict[str, str]:
    """What this was run with."""
    gateway = lab.host("gw1")
    commands = {
        "Debian": "cat /etc/debian_version",
        "kernel": "uname -r",
        "Salt": "salt-call --version | cut -d' ' -f2",
        "keepalived": "keepalived --version 2>&1 | sed -n '1s/.* v\\([0-9.]*\\).*/\\1/p'",
        "iptables": "iptables --version | cut -d' ' -f2-",
        "OpenVPN": "openvpn --version | sed -n '1s/^OpenVPN \\([^ ]*\\).*/\\1/p'",
        "dnsmasq": "dnsmasq --version | sed -n '1s/.*version \\([^ ]*\\).*/\\1/p'",
        "chrony": "chronyd --version | sed -n '1s/.*version \\([^ ]*\\).*/\\1/p'",
    }
    return {name: gateway.run(command).stdout.strip() for name, command in commands.items()}


def main() -> int:
    story = Story()
    try:
        was_up = Lab().is_up()
        with Lab().visit() as lab:
            if was_up:
                # Bare servers, whatever was done to them before.
                lab.renew("gw1", "gw2", "backend01")
            pki.distribute(lab)
            apply(lab, story, "first apply")
            second = story.figures["second_apply"] = apply(lab, story, "second apply")
            story.check("changes of the second apply", second["changes"], 0)
            primary = ["gw1"]
            story.check(
                "the virtual IP is on",
                lambda: checks.eventually(
                    lambda: checks.holders(lab), lambda on: on == primary, 15
                ),
                primary,
            )
            services(lab, story)
            vpn(lab, story)
            story.figures["outage_ms"] = failover(lab, story)
            story.figures["versions"] = versions(lab)
            good = story.summary()
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
