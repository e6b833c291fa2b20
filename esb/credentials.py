"""Who calls: what a caller shows, who says whom that proves, and what is then known of him.

An adapter that callers come to asks a `Guard`, which it has from `Build.guard`, and puts what it
learns into fields that no wire name reaches: `Envelope.principal` and the params "principal".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final, Protocol

import msgspec

from esb.envelope import Headers

ACTOR: Final[ContextVar[str]] = ContextVar("actor", default="")
"""Who asks the admin API for what is being done; "" where nobody had to say."""


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller shows.

    method, path: of the request, as they are dispatched. body: its bytes, empty for guards that do
    not need them. peer: whom the certificate names that the caller's TLS showed. address: where the
    caller is, as far as a trusted proxy tells.
    """

    headers: Headers
    method: str = ""
    path: str = ""
    body: bytes = b""
    peer: str = ""
    address: str = ""


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls. auth: the name, in the section `auth`, of what has proved it. claims: what the
    proof says besides, as plain data."""

    name: str
    auth: str = ""
    roles: Sequence[str] = ()
    scopes: Sequence[str] = ()
    claims: Mapping[str, Any] = {}

    @property
    def facts(self) -> Mapping[str, Any]:
        """The params "principal" of a message."""
        return {
            "name": self.name,
            "auth": self.auth,
            "roles": list(self.roles),
            "scopes": list(self.scopes),
            "claims": self.claims,
        }


class Guard(Protocol):
    """Says who calls.

    needs_body: whether it has to see the whole body. schemes: the OpenAPI Security Scheme Objects
    of what it takes, by name, any one of which is enough.
    """

    needs_body: bool
    schemes: Mapping[str, Mapping[str, Any]]

    async def admit(self, shown: Credentials) -> Principal:
        """Who it is. Raises Denied if that is not proved, Throttled after too many tries, Transient
        if it cannot be found out now."""
        ...
