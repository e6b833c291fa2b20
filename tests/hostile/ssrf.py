"""Addresses that a message must not have the bus connect to, as attackers write them, and the ways
by which a message could bring one.

A server that nobody must ask listens at all addresses of this machine. Who connects to anything
else is seen as well: Python tells of each connection before it is made (PEP 578).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

ADDRESSES: Final = {
    # This machine.
    "dotted": "http://127.0.0.1:{port}/",
    "two parts": "http://127.1:{port}/",
    "three parts": "http://127.0.1:{port}/",
    "hexadecimal": "http://0x7f.1:{port}/",
    "hexadecimal parts": "http://0x7f.0x0.0x0.0x1:{port}/",
    "one hexadecimal number": "http://0x7f000001:{port}/",
    "one number": "http://2130706433:{port}/",
    "octal": "http://0177.0.0.1:{port}/",
    "one octal number": "http://017700000001:{port}/",
    "octal with zeros": "http://00000177.0.0.1:{port}/",
    "another of the loopback": "http://127.255.255.254:{port}/",
    "a dot at the end": "http://127.0.0.1.:{port}/",
    "zero": "http://0:{port}/",
    "zeros": "http://0.0.0.0:{port}/",
    "localhost": "http://localhost:{port}/",
    "LOCALHOST": "HTTP://LOCALHOST:{port}/",
    "localhost.": "http://localhost.:{port}/",
    "IPv6": "http://[::1]:{port}/",
    "IPv6 in full": "http://[0:0:0:0:0:0:0:1]:{port}/",
    "IPv6 unspecified": "http://[::]:{port}/",
    "mapped": "http://[::ffff:127.0.0.1]:{port}/",
    "mapped in hexadecimal": "http://[::ffff:7f00:1]:{port}/",
    "translated": "http://[::ffff:0:7f00:1]:{port}/",
    "compatible": "http://[::127.0.0.1]:{port}/",
    "a zone": "http://[fe80::1%25lo]:{port}/",
    "a zone of the loopback": "http://[::1%25lo]:{port}/",
    "NAT64": "http://[64:ff9b::7f00:1]:{port}/",
    "6to4": "http://[2002:7f00:1::]:{port}/",
    "Teredo": "http://[2001:0:7f00:1::1]:{port}/",
    # The cloud's.
    "metadata": "http://169.254.169.254/latest/meta-data/",
    "metadata as a number": "http://2852039166/",
    "metadata in hexadecimal": "http://0xa9fea9fe/",
    "metadata in octal": "http://0251.0376.0251.0376/",
    "metadata mapped": "http://[::ffff:a9fe:a9fe]/",
    "metadata by IPv6": "http://[fd00:ec2::254]/",
    "metadata by name": "http://metadata.google.internal/computeMetadata/v1/",
    "the agent of a cloud": "http://168.63.129.16/",
    "metadata in shared space": "http://100.100.100.200/",
    # Names.
    "a name for it": "http://loopback.test:{port}/",
    "a name with IPv6": "http://six.test:{port}/",
    "a name with both": "http://both.test:{port}/",
    "a name inside": "http://inside.test:{port}/",
    "a name that changes": "http://changing.test:{port}/",
    # Who reads what.
    "a user": "http://allowed.test@127.0.0.1:{port}/",
    "a password": "http://allowed.test:80@127.0.0.1:{port}/",
    "a backslash": "http://127.0.0.1:{port}\\@allowed.test/",
    "a fragment": "http://127.0.0.1:{port}#@allowed.test/",
    "full-width digits": "http://\uff11\uff12\uff17.0.0.1:{port}/",
    "circled digits": "http://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460:{port}/",
    "Arabic digits": "http://\u0661\u0662\u0667.0.0.1:{port}/",
    "ideographic dots": "http://127\u30020\u30020\u30021:{port}/",
    "a long s": "http://localho\u017ft:{port}/",
    "percent-encoded": "http://%31%32%37.0.0.1:{port}/",
    "a tab": "http://127.0.0.1\t:{port}/",
    "a line break": "http://127.0.0.1:{port}/\r\nHost: allowed.test\r\n\r\n",
    "a NUL": "http://127.0.0.1\0.allowed.test:{port}/",
    "no scheme": "//127.0.0.1:{port}/",
    "one slash": "http:/127.0.0.1:{port}/",
    "three slashes": "http:///127.0.0.1:{port}/",
    "an empty port": "http://127.0.0.1:/",
    "a port too large": "http://127.0.0.1:99999/",
    # Other schemes.
    "a file": "file:///etc/passwd",
    "a file of a host": "file://127.0.0.1:{port}/etc/passwd",
    "gopher": "gopher://127.0.0.1:{port}/_GET%20/",
    "ftp": "ftp://127.0.0.1:{port}/",
    "dict": "dict://127.0.0.1:{port}/x",
    "ldap": "ldap://127.0.0.1:{port}/x",
    "jar": "jar:http://127.0.0.1:{port}!/x",
    "url": "url:http://127.0.0.1:{port}/",
    "netdoc": "netdoc:///etc/passwd",
    "data": "data:,x",
}  # fmt: skip

NAMES: Final = {
    "metadata.google.internal": ["169.254.169.254"],
    "loopback.test": ["127.0.0.1"],
    "six.test": ["::1"],
    "both.test": ["8.8.8.8", "127.0.0.1"],
    "inside.test": ["10.0.0.1"],
    "changing.test": ["127.0.0.1"],
}
"""What a resolver under the attacker's hand says."""


@dataclass
class Canary:
    """Whoever came: at which of our addresses, and all that was connected to besides."""

    port: int
    came: list[str] = field(default_factory=list)
    connected: list[Any] = field(default_factory=list)
    looked_up: list[str] = field(default_factory=list)
    names: dict[str, list[str]] = field(default_factory=lambda: dict(NAMES))
    known: set[int] = field(default_factory=set)
    """Ports that may be connected to: of the bus and its backend."""

    @property
    def quiet(self) -> bool:
        """Whether nobody came, or went anywhere else."""
        return not self.came and not self.connected

    def forget(self) -> None:
        """For the next."""
        self.came.clear()
        self.connected.clear()
        self.looked_up.clear()


_watching: Canary | None = None


def _audit(event: str, args: tuple[Any, ...]) -> None:
    canary = _watching
    if canary is None or event not in ("socket.connect", "open"):
        return
    if event == "open":
        if args[0] in ("/etc/passwd", b"/etc/passwd"):
            canary.connected.append(args[0])
    elif isinstance(args[1], tuple) and args[1][1] not in canary.known:
        canary.connected.append(args[1])


_hooked = False


@contextlib.contextmanager
def _watched(canary: Canary) -> Iterator[None]:
    global _watching, _hooked
    if not _hooked:
        _hooked = True
        sys.addaudithook(_audit)  # there is no taking it away
    _watching = canary
    try:
        yield
    finally:
        _watching = None


@contextlib.asynccontextmanager
async def canary() -> AsyncIterator[Canary]:
    """One that listens at every address; names are looked up in `Canary.names` meanwhile."""
    loop = asyncio.get_running_loop()
    real = loop.getaddrinfo

    async def came(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.came.append(writer.get_extra_info("sockname")[0])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecret")
        writer.close()

    async def lookup(host: Any, port: Any, **options: Any) -> Any:
        found.looked_up.append(host)
        if host not in found.names:
            numeric = {} if "localhost" in str(host).lower() else {"flags": socket.AI_NUMERICHOST}
            return await real(host, port, **{**options, **numeric})
        infos = []
        for address in found.names[host]:
            infos += await real(address, port, **options)
        return infos

    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listening:
        found = Canary(listening.getsockname()[1])
        server = await asyncio.start_server(came, sock=listening)
        loop.getaddrinfo = lookup  # type: ignore[method-assign]
        try:
            with _watched(found):
                yield found
        finally:
            loop.getaddrinfo = real  # type: ignore[method-assign]
            server.close()
            await server.wait_closed()
