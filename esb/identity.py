"""Who calls: what a listener shows of a request to whoever knows callers, and what comes back.

A listener asks an `Authenticator`, which it got from `Build.auth`, before it looks at anything else
that the caller sent. What is known of the caller then travels as the params "principal", which no
name on any wire can reach.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from esb.envelope import NO_HEADERS, Envelope, Headers
from esb.errors import Denied

acting: ContextVar[str] = ContextVar("who acts", default="")
"""Who asked for what the bus does now by its admin API, where callers of that are known."""


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who showed who he is.

    method: the name under `auth` by which it was proved. claims: what else the proof says.
    """

    name: str
    method: str = ""
    roles: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    claims: Mapping[str, Any] = {}

    def facts(self) -> dict[str, Any]:
        """The params "principal" of a message of his."""
        return {
            "name": self.name,
            "method": self.method,
            "roles": list(self.roles),
            "scopes": list(self.scopes),
            "claims": dict(self.claims),
        }


def exactly(name: str, method: str) -> str:
    """A principal's name, and the way by which it was proved: `partners/acme`. What is kept for
    somebody is kept under this, as a key and a token may well name the same. The name alone where
    no way is known; no two principals are ever the same text."""
    return f"{method}/{name}" if method or "/" in name else name


def sender(envelope: Envelope) -> str:
    """Whose a message is: see `exactly`; "" if that is not known."""
    return exactly(envelope.principal, envelope.params.get("principal", _UNKNOWN).get("method", ""))


_UNKNOWN: Final[Mapping[str, Any]] = {}


@lru_cache(10_000)
def network_of(address: str) -> str:
    """Whom an address belongs to: who has one of IPv6 has the 2^64 of its network (RFC 6177). What
    is no address stands for itself."""
    if ":" not in address:
        return address
    try:
        there = IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(there.ipv4_mapped or IPv6Network((there, 64), strict=False))


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """What an Authenticator may look at.

    target: path and query as they came. address: the caller's, as a trusted proxy told it.
    body: the very bytes; only for one that asks for "body". certificate: that of the caller, as
    `ssl.SSLSocket.getpeercert` gives it; only for one that asks for "certificate".
    """

    headers: Headers = NO_HEADERS
    method: str = ""
    target: str = ""
    address: str = ""
    body: bytes = b""
    certificate: Mapping[str, Any] | None = None


class Authenticator(Protocol):
    """Knows callers.

    asks: what of the Credentials it needs that costs something: "body", "certificate".
    conceals: names of headers, in lower case, that hold credentials and go no further.
    described: OpenAPI Security Scheme Objects, by name; each by itself is enough.
    """

    @property
    def asks(self) -> frozenset[str]: ...
    @property
    def conceals(self) -> frozenset[str]: ...
    @property
    def described(self) -> Mapping[str, Mapping[str, Any]]: ...

    async def authenticate(self, credentials: Credentials) -> Principal:
        """Who this is. Raises Denied with the challenges (RFC 9110, section 11.6.1), Throttled
        after too many failures, Transient if it cannot be told now."""
        ...


class _Nobody:
    """Lets nobody in: what stands where it was forgotten to say who may call."""

    asks: frozenset[str] = frozenset()
    conceals: frozenset[str] = frozenset()
    described: Mapping[str, Mapping[str, Any]] = {}

    async def authenticate(self, credentials: Credentials) -> Principal:
        raise Denied("nobody may call this", challenge="None")


NOBODY: Final[Authenticator] = _Nobody()
PUBLIC: Final[Authenticator] = _Nobody()
"""Everybody may call, and nobody is asked: told by identity, and never called."""


class Operators(NamedTuple):
    """Who may use the admin API. auth: knows them. readers, operators: roles of those who may look,
    and of those who may also change."""

    auth: Authenticator = PUBLIC
    readers: frozenset[str] = frozenset()
    operators: frozenset[str] = frozenset()


EVERYBODY: Final = Operators()
