# Managed by Salt (gateway).
"""A connection between two nodes: lines of JSON that nobody else can have written, in their order.

Each side says its name and a number that it never used before; both make the key of the connection
of these and of the key of the site. Each line then carries a code of its number and text (HMAC,
RFC 2104). What an earlier connection said has another key.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import time
from typing import Any

Message = dict[str, Any]
# Bytes. A message of the journal has 200 kB; ten times that where each client has the longest
# identifier that there is.
LONGEST_LINE = 1 << 22


class Line:
    """One connection. `heard`: when something came last (monotonic clock)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._key = self._mine = self._its = b""
        self._said = self._taken = 0
        self.heard = time.monotonic()

    async def agree(self, key: bytes, me: str, asks: bool) -> str:
        """Make the key of this connection; return who is at the other end. `asks`: who connects.
        Raises ConnectionError where the other end does not know the key, too."""
        number = secrets.token_hex(16)
        self._writer.write(f"{me} {number}\n".encode())
        words = (await self._reader.readline()).decode().split()
        if len(words) != 2:
            raise ConnectionError("no greeting")
        ends = [(me, number), (words[0], words[1])]
        text = json.dumps(ends if asks else ends[::-1])
        self._key = hmac.digest(key, text.encode(), "sha256")
        self._mine, self._its = (b"a", b"b") if asks else (b"b", b"a")
        await self.say({"node": me})
        if (await self.hear()).get("node") != words[0]:
            raise ConnectionError("it says two names")
        return words[0]

    def _code(self, whose: bytes, number: int, text: bytes) -> bytes:
        return hmac.digest(self._key, b"%b %d %b" % (whose, number, text), "sha256").hex().encode()

    async def say(self, message: Message) -> None:
        text = json.dumps(message, separators=(",", ":")).encode()
        self._writer.write(self._code(self._mine, self._said, text) + b" " + text + b"\n")
        self._said += 1
        await self._writer.drain()

    async def hear(self) -> Message:
        """The next message. Raises ConnectionError where it ends, or where a line is not from who
        knows the key."""
        line = await self._reader.readline()
        code, _, text = line.rstrip(b"\n").partition(b" ")
        if not line.endswith(b"\n"):
            raise ConnectionError("it has ended")
        if not hmac.compare_digest(code, self._code(self._its, self._taken, text)):
            raise ConnectionError("it has another key")
        self._taken += 1
        self.heard = time.monotonic()
        message: Message = json.loads(text)
        return message

    def close(self) -> None:
        """Whoever says or hears something at this moment is told that it has ended. What is not
        sent yet is dropped: a peer that takes nothing would keep it open."""
        self._writer.transport.abort()
