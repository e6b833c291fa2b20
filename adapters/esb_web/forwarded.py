"""What trusted proxies tell about the caller: X-Forwarded-For, -Proto, -Host, -Prefix.

Each proxy appends, so the last value is the one that the nearest proxy vouches for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Final

from esb.envelope import Headers

_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9._~\-]+)*\Z")
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._~\-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z")


class Forwarded:
    """Reads them. trusted: networks of proxies that are believed, as `ListenOptions` has them.

    trusts: whether an address is that of such a proxy.
    """

    def __init__(self, trusted: Sequence[str]) -> None:
        self._networks = [ip_network(c, strict=False) for c in trusted]
        self.trusts = lru_cache(maxsize=1024)(self._trusts)

    def _trusts(self, address: str) -> bool:
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        mapped = getattr(parsed, "ipv4_mapped", None)
        return any((mapped or parsed) in network for network in self._networks)

    def told(
        self, headers: Headers, client: str, scheme: str, host: str
    ) -> tuple[str, str, str, str]:
        """Client, scheme, host and prefix as the proxies tell; what is not valid is ignored."""
        for address in reversed(_values(headers, "x-forwarded-for")):
            try:
                client = str(ip_address(address.strip("[]")))
            except ValueError:
                break
            if not self.trusts(client):
                break
        proto = _last(headers, "x-forwarded-proto").lower()
        told_host = _last(headers, "x-forwarded-host")
        prefix = _last(headers, "x-forwarded-prefix").rstrip("/")
        return (
            client,
            proto if proto in ("http", "https") else scheme,
            told_host if _HOST.match(told_host) else host,
            prefix if _PREFIX.match(prefix) else "",
        )


def _values(headers: Headers, name: str) -> list[str]:
    return [
        part.strip()
        for value in headers.get_all(name)
        for part in str(value).split(",")
        if part.strip()
    ]


def _last(headers: Headers, name: str) -> str:
    values = _values(headers, name)
    return values[-1] if values else ""
