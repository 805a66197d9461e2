# Managed by Salt (gateway).
"""Where the journal of leases survives: a database, and who writes into it."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import suppress
from pathlib import Path

from lease_journal import Journal

KEEP = 1.0  # what can wait is kept so long after a change, and what could not be kept tried again


class Database:
    """The journal's store, in SQLite. A file that is none is set aside."""

    def __init__(self, path: Path) -> None:
        try:
            self._open(path)
            self.load()
        except sqlite3.OperationalError:
            # The disk is full, or it may not be written: nothing is wrong with the file.
            raise
        except sqlite3.DatabaseError as error:
            print(f"{path} cannot be read: {error}; it is {path}.broken now", flush=True)
            self.close()
            for end in ("-wal", "-shm"):
                path.with_name(path.name + end).unlink(missing_ok=True)
            path.rename(f"{path}.broken")
            self._open(path)

    def _open(self, path: Path) -> None:
        # One call at a time uses it, but not from one thread.
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        # Nobody else uses it. So it needs no file to share, for which a full disk has no room.
        self._database.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute("CREATE TABLE IF NOT EXISTS kept (name TEXT PRIMARY KEY, text TEXT)")

    def close(self) -> None:
        self._database.close()

    def load(self) -> dict[str, str]:
        return dict(self._database.execute("SELECT name, text FROM kept"))

    def write(self, texts: dict[str, str | None]) -> None:
        gone = [(name,) for name, text in texts.items() if text is None]
        kept = [(name, text) for name, text in texts.items() if text is not None]
        try:
            self._database.execute("BEGIN")
            self._database.executemany("DELETE FROM kept WHERE name = ?", gone)
            self._database.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?)", kept)
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            raise OSError(str(error)) from error


class Keeper:
    """Keeps what changes in the journal, without keeping anybody else from going on."""

    def __init__(self, journal: Journal, store: Database) -> None:
        self._journal, self._store = journal, store
        self._due = asyncio.Event()
        self._waiting: list[asyncio.Future[bool]] = []
        self._is_writing = False
        self.fault = ""  # why it cannot

    def is_idle(self) -> bool:
        """Whether all that has changed until now is kept."""
        return not self._journal.unsaved() and not self._is_writing

    async def saved(self) -> bool:
        """Return when all that has changed until now is kept. False: it cannot be."""
        if self.is_idle():
            return not self.fault
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._due.set()
        return await done

    def keep(self) -> None:
        """Begin at once."""
        self._due.set()

    async def run(self) -> None:
        while True:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._due.wait(), KEEP)
            self._due.clear()
            waiting, self._waiting = self._waiting, []
            if self._journal.unsaved():
                await self._write()
            for done in waiting:
                if not done.done():
                    done.set_result(not self.fault)

    async def _write(self) -> None:
        texts = self._journal.collect()
        self._is_writing = True
        try:
            await asyncio.to_thread(self._store.write, texts)
            self.fault = ""
        except OSError as error:
            self._journal.not_saved(texts)
            if not self.fault:
                print(f"leases cannot be kept: {error}", flush=True)
            self.fault = str(error)
        finally:
            self._is_writing = False
