"""Which forward proxy a request goes through, if any (RFC 9110, sections 3.7 and 9.3.6)."""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment

ENVIRONMENT: Final = "environment"
"""The word for: what HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY say."""


class Server(NamedTuple):
    """A proxy: its address, and what to send as Proxy-Authorization, "" for nothing."""

    url: str
    authorization: str = ""


class Proxies(NamedTuple):
    """The proxies for http and https, and the hosts that are reached without."""

    http: Server | None = None
    https: Server | None = None
    direct: tuple[str, ...] = ()

    def server(self, scheme: str, host: str) -> Server | None:
        """The proxy for a host, None if it is to be reached directly."""
        found = self.https if scheme == "https" else self.http
        if found is None or any(_stands_for(name, host) for name in self.direct):
            return None
        return found


def proxies(given: str, direct: Sequence[str]) -> Proxies:
    """The proxies that the options `proxy` and `no_proxy` mean.

    Raises ValueError for a proxy that is none, with a text that tells nothing of it: there may be a
    password in it.
    """
    if given != ENVIRONMENT:
        server = parse_proxy(given)
        return Proxies(server, server, tuple(direct))
    said = getproxies_environment()
    by_scheme = [said.get(scheme) or said.get("all") for scheme in ("http", "https")]
    http, https = (
        # In the environment the scheme is often left out.
        parse_proxy(url if "://" in url else f"http://{url}") if url else None
        for url in by_scheme
    )
    outside = [name.strip() for name in said.get("no", "").split(",") if name.strip()]
    return Proxies(http, https, (*direct, *outside))


def parse_proxy(url: str) -> Server:
    """The proxy that a URL names. Raises ValueError as `proxies` does."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("this is no URL of a proxy: http://host:3128") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a URL of a proxy is http://host:3128, or with user:password@ before host")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("a URL of a proxy ends with its port")
    if not re.fullmatch(r"[A-Za-z0-9.\-_:]+", parts.hostname):
        raise ValueError("the host of the proxy is not valid")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    authorization = ""
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode()
    return Server(f"{parts.scheme}://{host}{f':{port}' if port else ''}", authorization)


def _stands_for(name: str, host: str) -> bool:
    """Whether a name of `no_proxy` means the host: a name and all below it, an address, a network,
    or "*" for all."""
    name, host = name.lower(), host.lower().strip("[]").rstrip(".")
    if name == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(name.strip("[]"), strict=False)
    except ValueError:
        name = name.removeprefix("*").strip(".")
        return bool(name) and (host == name or host.endswith(f".{name}"))
