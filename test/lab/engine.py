"""What the lab needs of the machine it runs on: tools, a Docker daemon, the images.

No part of it knows what the site looks like; that is lab.py.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

LAB = Path(__file__).resolve().parent
OUT = LAB / "out"
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


def one_of(variable: str, usual: str, there: Mapping[str, str]) -> str:
    """What an environment variable says; the lab is not begun with what it does not have."""
    value = os.environ.get(variable) or usual
    if value not in there:
        sys.exit(f"{variable}={value} is not one of {', '.join(there)}")
    return value


CODENAMES = {"12": "bookworm", "13": "trixie"}
DEBIAN = one_of("DEBIAN", "12", CODENAMES)  # for all machines
BASE_IMAGE = f"gateway-lab-base:{DEBIAN}"
SALT_VERSIONS = {"3006": "3006.28", "3007": "3007.15", "3008": "3008.3"}
SALT_SERIES = one_of("SALT_SERIES", "3008", SALT_VERSIONS)
LAB_NAME = os.environ.get("LAB_NAME", "gateway-lab")  # another one for a second lab beside it
STATE = OUT / f"{LAB_NAME}.json"
TOOLS = {  # what the lab calls, and Debian's package of it
    "dockerd": "docker.io",
    "docker-compose": "docker-compose",
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "iptables": "iptables",
    "nsenter": "util-linux",
}


class LabError(Exception):
    """Something in the lab did not work; the message is for the person who runs it."""


def run(
    command: list[str],
    check: bool = True,
    timeout: float = 60,
    input: str | None = None,
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command of this machine and return it with its output; raise LabError if it fails."""
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout,
            input=input,
            env=env,
        )
    except FileNotFoundError as error:
        raise LabError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{shlex.join(command)}: no end within {timeout:g} s") from error
    if check and done.returncode:
        output = (done.stdout + done.stderr).strip()
        raise LabError(f"{shlex.join(command)} failed ({done.returncode}):\n{output}")
    return done


def wait_for(what: str, condition: Callable[[], object], timeout: float) -> None:
    """Return as soon as the condition is true; raise LabError after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise LabError(f"{what}: not within {timeout:g} s")
        time.sleep(0.1)


@contextmanager
def step(text: str, detail: Callable[[], str] = str) -> Iterator[None]:
    """Print what happens now, that it still happens (every 10 s, with what `detail` then says), and
    how long it took."""
    start = time.monotonic()
    done = threading.Event()

    def report() -> None:
        while not done.wait(10):
            seconds = time.monotonic() - start
            print(f"  ... {text} ({seconds:.0f} s) {detail()}".rstrip(), flush=True)

    print(f"- {text}", flush=True)
    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        done.set()
        reporter.join()
    print(f"  {time.monotonic() - start:.1f} s", flush=True)


def read_state() -> dict[str, Any]:
    """Return what the lab remembers of its last `up`."""
    return dict(json.loads(STATE.read_text())) if STATE.exists() else {}


def remember(**values: object) -> None:
    """Add values to what the lab remembers."""
    OUT.mkdir(exist_ok=True)
    STATE.write_text(json.dumps({**read_state(), **values}))


# --- Docker -------------------------------------------------------------------------------------


def install_tools(tools: dict[str, str] = TOOLS) -> None:
    """Install what is missing of these programs, with the packages of Debian that have them."""
    missing = {package for tool, package in tools.items() if not shutil.which(tool)}
    if "docker-compose" in missing and not run(["docker", "compose", "version"], False).returncode:
        missing.remove("docker-compose")
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise LabError(f"please install: {', '.join(sorted(missing))}")
    with step(f"installing {', '.join(sorted(missing))}"):
        run(["apt-get", "-q", "update"], timeout=300)
        install = ["apt-get", "-qy", "--no-install-recommends", "install", *sorted(missing)]
        run(install, timeout=900, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})


def docker_runs() -> bool:
    """Tell whether a Docker daemon answers."""
    if not shutil.which("docker"):
        return False
    return run(["docker", "version"], check=False).returncode == 0


def start_docker() -> None:
    """Make sure that a Docker daemon runs; remember it if it was started here."""
    if docker_runs():
        return
    with step("starting Docker"):
        if Path("/run/systemd/system").exists():
            run(["systemctl", "start", "docker"])
            remember(docker="service")
        else:
            with (OUT / "dockerd.log").open("w") as log:
                daemon = subprocess.Popen(
                    ["dockerd"], stdout=log, stderr=log, start_new_session=True
                )
            remember(docker=daemon.pid)
        wait_for(f"Docker (see {OUT / 'dockerd.log'})", docker_runs, 60)


def process_name(pid: int) -> str:
    """Return the name of a process; "" if there is none or it has ended (a zombie)."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
    except OSError:
        return ""
    return Path(command.decode()).name


def stop_docker() -> None:
    """Stop the Docker daemon if the lab started it."""
    started = read_state().get("docker")
    if started == "service":
        run(["systemctl", "stop", "docker.socket", "docker"])
    elif started and process_name(started) == "dockerd":
        os.kill(started, signal.SIGTERM)
        wait_for("end of dockerd", lambda: process_name(started) != "dockerd", 30)
    if started:
        remember(docker=None)


@cache
def compose_command() -> tuple[str, ...]:
    """Return how Compose is called here: a plugin of Docker, or the older program."""
    if run(["docker", "compose", "version"], check=False).returncode == 0:
        return ("docker", "compose")
    return ("docker-compose",)


def compose(*arguments: str, timeout: float = 120) -> None:
    """Run Docker Compose on the lab's description, with the gateways' image that was built last."""
    project = ["--project-name", LAB_NAME, "--file", str(LAB / "compose.yml")]
    environment = {**os.environ, "SALT_SERIES": SALT_SERIES, "LAB_NAME": LAB_NAME}
    environment |= {"DEBIAN": DEBIAN, "NODE": read_state().get("node", "node")}
    run([*compose_command(), *project, *arguments], timeout=timeout, env=environment)


# --- images -------------------------------------------------------------------------------------


def build_context() -> bytes:
    """Return everything the images are made of as a tar archive, the same for the same files."""
    stream = io.BytesIO()
    files = {path.relative_to(LAB).as_posix(): path for path in LAB.glob("files/**/*")}
    files["Dockerfile"] = LAB / "Dockerfile"
    files["ca.crt"] = CA_BUNDLE if CA_BUNDLE.exists() else Path(os.devnull)
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, path in sorted(files.items()):
            if path.is_dir() or "__pycache__" in name:
                continue
            data = path.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            entry.mode = 0o755 if os.access(path, os.X_OK) else 0o644
            archive.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def image_label(image: str) -> str:
    """Return the digest of the context that an image was built from, "" without the image."""
    shown = run(
        ["docker", "image", "inspect", "-f", '{{index .Config.Labels "gateway-lab"}}', image], False
    )
    return shown.stdout.strip()


def make_base_image() -> None:
    """Get a bare Debian: from the container registry, else built with debootstrap."""
    if run(["docker", "image", "inspect", BASE_IMAGE], check=False).returncode == 0:
        return
    with step("base image"):
        pull = ["timeout", "60", "docker", "pull", "-q", f"debian:{DEBIAN}"]
        if run(pull, check=False, timeout=70).returncode == 0:
            run(["docker", "tag", f"debian:{DEBIAN}", BASE_IMAGE])
            return
        root = OUT / f"base-{DEBIAN}"
        shutil.rmtree(root, ignore_errors=True)
        run(["debootstrap", "--variant=minbase", CODENAMES[DEBIAN], str(root)], timeout=900)
        run(["sh", "-c", f"tar -C {root} -c . | docker import - {BASE_IMAGE}"], timeout=300)
        shutil.rmtree(root)


def build_images(node: str) -> None:
    """Build the image of the gateways (node or test-node) and that of all others, unless they were
    built from just these files."""
    context = build_context()
    for target in (node, "client"):
        image = f"{LAB_NAME}-{target}:{DEBIAN}"
        arguments = {"DEBIAN": DEBIAN, "SALT": SALT_VERSIONS[SALT_SERIES]}
        if target == "test-node":
            arguments["SALTS"] = " ".join(SALT_VERSIONS.values())
        whole = context + json.dumps(arguments).encode()
        digest = hashlib.sha256(whole).hexdigest()[:16]
        if image_label(image) == digest:
            continue
        make_base_image()
        log = OUT / f"build-{target}-{DEBIAN}.log"
        with step(f"image {image}", partial(build_step, log)), log.open("w") as file:
            command = ["docker", "build", "--network=host", "--force-rm", "--target", target]
            for key, value in arguments.items():
                command += ["--build-arg", f"{key}={value}"]
            command += ["--tag", image, "--label", f"gateway-lab={digest}", "-"]
            built = subprocess.run(
                command, check=False, input=context, stdout=file, stderr=file, timeout=1800
            )
            if built.returncode:
                raise LabError(f"{image} cannot be built, see {log}")
    # What a former version left over; containers that still use it keep it.
    run(["docker", "image", "prune", "--force", "--filter", "label=gateway-lab"])


def build_step(log: Path) -> str:
    """Return what a build does now."""
    lines = log.read_text(errors="replace").splitlines()
    steps = [line for line in lines if re.match(r"Step \d+/\d+ :|#\d+ \[", line)]
    return " ".join(steps[-1].split())[:70] if steps else ""
