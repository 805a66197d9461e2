"""Keep many TCP connections busy and tell which of them lived, and how long they stood still.

    sessions.py ADDRESS PORT COUNT SECONDS INTERVAL

Connections to PORT send a numbered line each INTERVAL seconds, which the server echoes; those to
PORT + 1 (every second one) only listen to a server that does the same. A firewall can pick up the
first kind anew in the middle of a connection; of the second kind it has to know.

Prints two lines of JSON: `{"start": ..., "opened": ...}` (CLOCK_MONOTONIC) when all are open; the
result after SECONDS or when its standard input ends. A session is alive if a line came in order
after that, at most GRACE seconds later. It stood still for as long as no line came, INTERVAL off.
"""

import contextlib
import errno
import json
import os
import resource
import select
import socket
import struct
import sys
import time
from collections.abc import Callable

PATIENCE = 15.0  # for all connections to open, seconds
GRACE = 5.0
AT_ONCE = 256  # connections that are being opened: a SYN too many would wait for its repetition


class Session:
    """One connection and what has come of it."""

    def __init__(self, number: int) -> None:
        self.talks = number % 2 == 0
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # No TIME_WAIT, and no farewell that would take the way of the other packets.
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.open = False
        self.death = ""
        self.sent = self.came = 0
        self.rest = b""
        self.last = 0.0  # when the last line came
        self.stall = 0.0
        self.needed = 0  # the line that shows that it is alive at the end

    def send(self) -> None:
        """Send the next line."""
        try:
            self.sock.send(b"%d\n" % self.sent)
            self.sent += 1
        except BlockingIOError:
            pass
        except OSError as error:
            self.end(error)

    def receive(self, now: float) -> None:
        """Read what is there."""
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self.end(error)
            return
        if not data:
            self.death = "closed"
            return
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            if line != b"%d" % self.came:
                self.death = "garbled"
                return
            self.came += 1
        if lines:
            self.stall = max(self.stall, now - self.last)
            self.last = now

    def end(self, error: OSError) -> None:
        self.death = errno.errorcode.get(error.errno or 0, "unknown")


class Load:
    """All the sessions, and the loop that serves them."""

    def __init__(self, address: str, port: int, count: int, interval: float) -> None:
        self.address, self.port, self.interval = address, port, interval
        self.sessions = [Session(number) for number in range(count)]
        self.by_file = {session.sock.fileno(): session for session in self.sessions}
        self.poll = select.epoll()
        self.stopped = False

    def connect(self) -> int:
        """Open the connections; return how many are open."""
        waiting = list(reversed(self.sessions))
        pending: set[int] = set()
        end = time.monotonic() + PATIENCE
        while (waiting or pending) and time.monotonic() < end:
            while waiting and len(pending) < AT_ONCE:
                session = waiting.pop()
                target = (self.address, self.port if session.talks else self.port + 1)
                session.sock.connect_ex(target)
                pending.add(session.sock.fileno())
                self.poll.register(session.sock, select.EPOLLOUT)
            for file, _ in self.poll.poll(0.1):
                pending.discard(file)
                session = self.by_file[file]
                session.open = not session.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                self.poll.unregister(file)
        for file in pending:
            self.poll.unregister(file)
        self.sessions = [session for session in self.sessions if session.open]
        for session in self.sessions:
            session.last = time.monotonic()
            self.poll.register(session.sock, select.EPOLLIN)
            if not session.talks:
                session.sock.send(b"%f\n" % self.interval)
        return len(self.sessions)

    def serve(self, timeout: float) -> None:
        """Wait for lines, or for the end of standard input."""
        for file, _ in self.poll.poll(max(timeout, 0)):
            if file == sys.stdin.fileno():
                self.stopped = True
                self.poll.unregister(file)
                continue
            session = self.by_file[file]
            session.receive(time.monotonic())
            if session.death:
                self.poll.unregister(file)

    def talk(self, seconds: float, done: Callable[[], bool]) -> None:
        """Send a line in turn, and read, for so long or until it is done."""
        talkers = [session for session in self.sessions if session.talks]
        pause = self.interval / max(len(talkers), 1)
        due = time.monotonic()
        end = due + seconds
        turn = 0
        while (now := time.monotonic()) < end and not done():
            while talkers and due <= now:
                session = talkers[turn % len(talkers)]
                if not session.death:
                    session.send()
                turn += 1
                due += pause
            self.serve(min(due, end) - now if talkers else end - now)

    def run(self, seconds: float) -> None:
        """Talk for so long or until standard input ends, and then until all have answered."""
        self.poll.register(sys.stdin, select.EPOLLIN | select.EPOLLHUP)
        self.talk(seconds, lambda: self.stopped)
        for session in self.sessions:
            session.needed = session.sent if session.talks else session.came
        self.talk(GRACE, lambda: all(s.death or s.came > s.needed for s in self.sessions))

    def result(self) -> dict[str, object]:
        """What has come of them; close them."""
        now = time.monotonic()
        deaths: dict[str, int] = {}
        stalls = []
        for session in self.sessions:
            if not session.death and session.came <= session.needed:
                session.death = "silent"
            if session.death:
                deaths[session.death] = deaths.get(session.death, 0) + 1
            else:
                stalls.append(max(0.0, max(session.stall, now - session.last) - self.interval))
        for session in self.by_file.values():
            with contextlib.suppress(OSError):
                session.sock.close()
        return {
            "opened": len(self.sessions),
            "alive": len(stalls),
            "alive_talking": sum(each.talks and not each.death for each in self.sessions),
            "deaths": deaths,
            "stalls": sorted(stalls),
        }


def main(address: str, port: int, count: int, seconds: float, interval: float) -> None:
    os.nice(-20)  # measure the network, not this machine's load
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    load = Load(address, port, count, interval)
    opened = load.connect()
    print(json.dumps({"start": time.monotonic(), "opened": opened}), flush=True)
    load.run(seconds)
    print(json.dumps(load.result()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]))
