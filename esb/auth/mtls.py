"""Client certificates: whom TLS has found the caller to be.

The listener asks for them (`listen: {tls: {client_ca: ...}}`) and refuses callers without one of
these authorities; here is said what those whose names are in them may be called.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from esb.adapter import Build
from esb.credentials import Credentials, Principal
from esb.errors import Denied
from esb.options import Options


class Holder(Options):
    """What is known of whoever a certificate names."""

    roles: list[str] = Field([], description="The principal's roles.")
    scopes: list[str] = Field([], description="The principal's scopes.")


class Mtls(Options):
    """The certificate that the caller's TLS connection has shown.

    For example:

        auth:
          machines: {mtls: {names: {till-7.shop.example: {roles: [till]}}}}
    """

    names: dict[str, Holder] | None = Field(
        None,
        description="Who may come, by the name in the certificate, and what is known of them. "
        "Whoever has a certificate of the authorities, if left out.",
    )


class MtlsGuard:
    """See Mtls."""

    needs_body = False

    def __init__(self, name: str, options: Mtls, build: Build) -> None:
        tls = getattr(build.section("listen"), "tls", None)
        if tls is None or tls.client_ca is None:
            build.problem(
                "the listener asks nobody for a certificate",
                hint="listen: {tls: {cert: ..., key: ..., client_ca: ...}}",
            )
        self._name = name
        self._names = options.names
        self.schemes: Mapping[str, Mapping[str, Any]] = {name: {"type": "mutualTLS"}}
        self.challenge = ""

    def offered(self, shown: Credentials) -> bool:
        """Whether there is a certificate."""
        return bool(shown.peer)

    async def admit(self, shown: Credentials) -> Principal:
        """Whose certificate it is. Raises Denied."""
        if self._names is None:
            return Principal(name=shown.peer, auth=self._name)
        holder = self._names.get(shown.peer)
        if holder is None:
            raise Denied("the certificate is of nobody who is known here")
        return Principal(name=shown.peer, auth=self._name, roles=holder.roles, scopes=holder.scopes)
