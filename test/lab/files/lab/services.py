"""What a machine of the lab serves: a web page on ports 80 and 443, an echo on 7007,
and on 7008 numbers to who only listens (TCP)."""

import asyncio
import socket
import threading

HOST = socket.gethostname()


def client_of(writer: asyncio.StreamWriter) -> str:
    """Return the address of the other end, an IPv4 one in its usual form."""
    address: str = writer.get_extra_info("peername")[0]
    return address.removeprefix("::ffff:")


async def answer_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer any request with one line: this machine's name and the client's address."""
    try:
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        body = f"{HOST} saw {client_of(writer)}\n".encode()
        head = f"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
    except (OSError, TimeoutError, asyncio.TimeoutError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def echo_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes until the client has enough."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a numbered line each so many seconds, as the client's first line says."""
    try:
        interval = float(await asyncio.wait_for(reader.readline(), 10))
        number = 0
        while not writer.is_closing():
            writer.write(b"%d\n" % number)
            number += 1
            await asyncio.sleep(interval)
    except (OSError, ValueError, TimeoutError, asyncio.TimeoutError):
        pass
    finally:
        writer.close()


def echo_datagrams(port: int) -> None:
    """Send every datagram, IPv4 or IPv6, back to where it came from; a thread of its own."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", port))
        while True:
            try:
                data, sender = sock.recvfrom(65536)
                sock.sendto(data, sender)
            except OSError:  # no way back to the sender
                continue


async def main() -> None:
    served = ((80, answer_http), (443, answer_http), (7007, echo_stream), (7008, count))
    for port, answer in served:
        listener = socket.create_server(
            ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
        )
        await asyncio.start_server(answer, sock=listener)
    await asyncio.Event().wait()


if __name__ == "__main__":
    threading.Thread(target=echo_datagrams, args=(7007,), daemon=True).start()
    asyncio.run(main())
