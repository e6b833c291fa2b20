"""Which addresses may be connected to where a message chose the host (CWE-918, SSRF).

A name is looked up once, what it stands for is checked, and the connection goes to that very
address: a name that means something else a moment later (DNS rebinding) gains nothing. How an
address was spelled does not matter either, since what counts is what the system made of it.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any, Final

from esb.errors import BadMessage

NOT_ALLOWED: Final = "the message asked for a host that the route does not allow"

Network = IPv4Network | IPv6Network

_CLOSED: Final = [
    IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
        "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        # Public by its number, but answered inside a cloud alone: its agent for virtual machines.
        "168.63.129.16/32",
    )
]  # fmt: skip
"""Not of the public network (IANA's registry of special-purpose addresses, RFC 6890)."""

_PUBLIC_6: Final = IPv6Network("2000::/3")
"""All that was ever given out of IPv6 (RFC 4291, section 2.4); less these."""
_CLOSED_6: Final = [
    IPv6Network(network)
    # Of protocols, Teredo's among them; documentation; 6to4, which holds an address of IPv4.
    for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
]
_NAT64: Final = IPv6Network("64:ff9b::/96")
"""Addresses of IPv4 for who has IPv6 alone (RFC 6052): as public as what they hold."""


@lru_cache(maxsize=4096)
def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is one of the public network, and no other hides in it."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped
        if inner is None and address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is None:
            return address in _PUBLIC_6 and not any(address in network for network in _CLOSED_6)
        address = inner
    return not any(address in network for network in _CLOSED)


def networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Networks and single addresses. Raises ValueError for what is none."""
    return tuple(ip_network(text) for text in texts)


def literal(host: str) -> IPv4Address | IPv6Address | None:
    """The address that a host of a URL is, in its usual notation; None for a name."""
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None


def numeric(host: str) -> list[tuple[Any, ...]]:
    """The address that a host is in whatever notation the system takes ("0x7f.1"), as
    `getaddrinfo` gives it; nothing for a name."""
    try:
        return [*socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)]
    except (OSError, UnicodeError):
        return []


@dataclass(frozen=True)
class Reach:
    """What is allowed beside the public network. networks: all in them. hosts: these addresses,
    each as a host that a URL names, since whoever wrote the route wrote them."""

    networks: tuple[Network, ...] = ()
    hosts: frozenset[IPv4Address | IPv6Address] = frozenset()

    def check(self, host: str, found: Collection[tuple[Any, ...]]) -> None:
        """Whether `host` may be connected to at these addresses, as `getaddrinfo` gives them.

        A name with one public address and one inside is none that anybody needs: it may not.
        Raises BadMessage.
        """
        named = literal(host)
        if named is not None and named in self.hosts:
            return
        closed = {str(info[4][0]) for info in found if not self._may(str(info[4][0]))}
        if closed:
            raise BadMessage(NOT_ALLOWED).noted(
                f"{host} is {', '.join(sorted(closed))}: neither of the public network nor of "
                "`allow_networks`"
            )

    def _may(self, text: str) -> bool:
        address = ip_address(text.partition("%")[0])  # a zone says by which interface
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return is_public(address) or any(
            one in network for network in self.networks for one in (address, mapped or address)
        )
