#!/usr/bin/env python3
"""A cloud with one address, which belongs to the server that claimed it last.

On the lab's internet this file is its API; on the gateways, which have no curl, it is what the
example of an executable in docs/failover.md calls under that name.
"""

from __future__ import annotations

import argparse
import sys
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab import Lab

URL = "http://198.51.100.100:8099"
CLAIMS = Path("/tmp/claims")
HOOK = "/etc/gateway/follow.d/cloud-address"
CURL = "/usr/local/bin/curl"


# --- for tests ----------------------------------------------------------------------------------


def example() -> str:
    """The executable of docs/failover.md, for this cloud."""
    text = (Path(__file__).parents[2] / "docs/failover.md").read_text(encoding="utf-8")
    script = text.partition(f"{HOOK}`")[2].split("```")[1].removeprefix("sh\n")
    return script.replace("https://api.cloud.example", URL)


def set_up(lab: Lab) -> None:
    """Have a cloud, and the executable on both gateways."""
    internet, this = lab.host("internet"), Path(__file__).read_text(encoding="utf-8")
    internet.write("/tmp/cloud.py", this)
    internet.run("systemd-run --quiet --collect --unit=cloud python3 /tmp/cloud.py")
    for name in ("gw1", "gw2"):
        lab.host(name).write(CURL, this, 0o755)
        lab.host(name).write(HOOK, example(), 0o755)


def take_down(lab: Lab) -> None:
    lab.host("internet").run(f"systemctl stop cloud; rm -f /tmp/cloud.py {CLAIMS}")
    for name in ("gw1", "gw2"):
        lab.host(name).run(f"rm -f {CURL} {HOOK}")


def claims(lab: Lab) -> list[tuple[float, str]]:
    """Who claimed the address, and when (time.monotonic())."""
    lines = lab.host("internet").run(f"cat {CLAIMS}", check=False).stdout.splitlines()
    return [(float(when), who) for when, who in map(str.split, lines)]


def owner(lab: Lab) -> str:
    """Who has the address, "" for nobody yet."""
    found = claims(lab)
    return found[-1][1] if found else ""


# --- the cloud ----------------------------------------------------------------------------------


class Api(BaseHTTPRequestHandler):
    """GET says who has the address, PUT gives it to somebody."""

    owner = "nobody"

    def do_GET(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        Api.owner = self.rfile.read(int(self.headers["Content-Length"])).decode()
        with CLAIMS.open("a", encoding="utf-8") as file:
            file.write(f"{time.monotonic()} {Api.owner}\n")
        self.answer()

    def answer(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(Api.owner.encode())


def curl(arguments: list[str]) -> int:
    """As much of curl as the example needs."""
    parser = argparse.ArgumentParser()
    for flag in "fsS":
        parser.add_argument(f"-{flag}", action="store_true")
    for option in "mHXd":
        parser.add_argument(f"-{option}")
    parser.add_argument("url")
    given = parser.parse_args(arguments)
    data = given.d.encode() if given.d else None
    request = urllib.request.Request(given.url, data, method=given.X or "GET")
    try:
        with urllib.request.urlopen(request, timeout=float(given.m)) as answer:
            sys.stdout.write(answer.read().decode())
    except urllib.error.HTTPError:
        return 22
    except OSError:
        return 7
    return 0


if __name__ == "__main__":
    if Path(sys.argv[0]).name == "curl":
        sys.exit(curl(sys.argv[1:]))
    ThreadingHTTPServer(("", 8099), Api).serve_forever()
