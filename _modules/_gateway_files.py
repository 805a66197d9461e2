"""Files that are whole or not there, in folders of their own, one process at a time."""

import contextlib
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

LOCK_SECONDS = 60
UNFINISHED = ".new"


def write(path: Path, text: str | bytes) -> None:
    """Put a file in its place, whole and on the disk, for nobody but its owner to read.

    Root leaves it to whoever owns the folder: a Salt master may run as a user of its own.
    """
    content = text.encode() if isinstance(text, str) else text
    with new(path) as file:
        _give(file.fileno(), path.parent)
        file.write(content)


@contextlib.contextmanager
def new(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its place when it is whole and on the disk, and otherwise never was."""
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file in it")
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}{UNFINISHED}")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(unfinished, flags, 0o600)
    try:
        with open(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        os.rename(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise
    sync_folder(path.parent)


def _give(descriptor: int, folder: Path) -> None:
    owner = os.stat(folder)
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    os.mkdir(folder, 0o700)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _give(descriptor, folder.parent)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only one who changes something in a folder; remove what others left unfinished."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _wait_for_lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _wait_for_lock(descriptor: int, folder: Path) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ValueError(f"another call has held {folder} for {LOCK_SECONDS} s") from None
            time.sleep(0.02)


def remove_unfinished(folder: Path, name: str = "") -> None:
    for path in folder.glob(f".{name}*{UNFINISHED}"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
