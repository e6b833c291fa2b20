"""What workers listen with: bound before they are forked, one for each at an address."""

from __future__ import annotations

import socket

from esb.adapter import Handed
from esb.errors import EsbError
from esb.service import Service


def addresses(service: Service) -> set[tuple[str, int]]:
    """Where a service listens."""
    things = service.shared.objects.values()
    return {thing.address for thing in things if isinstance(thing, Handed)}


def bound(host: str, port: int, count: int) -> list[socket.socket]:
    """So many sockets at one address, on a free port if that is 0. Raises EsbError."""
    sockets = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, _, _, address = found[0]
        with socket.socket(family, kind) as first:
            # Without SO_REUSEPORT, so that an address that another bus has is not shared with it.
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            first.bind(address)
            address = (address[0], first.getsockname()[1], *address[2:])
        for _ in range(count):
            one = socket.socket(family, kind)
            sockets.append(one)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            one.bind(address)
            one.setblocking(False)
    except OSError as e:
        for one in sockets:
            one.close()
        reason = (e.strerror or str(e)).lower()
        raise EsbError(f"cannot listen on {host}:{port}: {reason}") from e
    return sockets
