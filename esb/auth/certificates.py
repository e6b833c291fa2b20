"""Certificates of callers (mutual TLS). Who signed them is checked as the connection is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from pydantic import Field

from esb.auth.ways import Refused
from esb.identity import Credentials, Principal
from esb.options import Options, Words

Part = Literal["common_name", "dns", "uri", "email"]
_ALTERNATIVES: Final = {"dns": "DNS", "uri": "URI", "email": "email"}


class MtlsOptions(Options):
    """The certificate of the connection, as machines have them. The listener needs
    `tls: {client_ca: ...}`."""

    name: Part = Field(
        "common_name",
        description="Which name in a certificate is the caller's: the common name of its subject, "
        "or the first alternative name of a kind, such as `uri` for SPIFFE.",
    )
    names: Words = Field(
        [], description="Names that may call; any with a certificate of `client_ca` if left out."
    )
    roles: dict[str, Words] = Field({}, description="Roles by name.")
    scopes: dict[str, Words] = Field({}, description="Scopes by name.")


class Certificates:
    """A Method; see MtlsOptions."""

    asks = frozenset({"certificate"})
    conceals: frozenset[str] = frozenset()
    challenge = ""  # nothing in a request would help
    scheme: Mapping[str, Any] = {"type": "mutualTLS"}

    def __init__(self, name: str, options: MtlsOptions) -> None:
        self.name = name
        self._options = options

    def shown(self, credentials: Credentials) -> bool:
        return bool(credentials.certificate)

    def user(self, credentials: Credentials) -> str:
        return ""

    async def verify(self, credentials: Credentials) -> Principal:
        options = self._options
        names = [*_names(credentials.certificate or {}, options.name)]
        if not names or not names[0]:
            raise Refused(f"the certificate has no {options.name}")
        name = names[0]
        if options.name == "common_name" and len(names) > 1:
            raise Refused("the certificate has several common names")  # each reads another first
        if options.names and name not in options.names:
            raise Refused("the name in the certificate may not call")
        return Principal(
            name=name,
            method=self.name,
            roles=tuple(options.roles.get(name, ())),
            scopes=tuple(options.scopes.get(name, ())),
        )


def _names(certificate: Mapping[str, Any], part: Part) -> Iterator[str]:
    if part == "common_name":
        for pairs in certificate.get("subject", ()):
            yield from (value for key, value in pairs if key == "commonName")
    else:
        kind = _ALTERNATIVES[part]
        yield from (value for key, value in certificate.get("subjectAltName", ()) if key == kind)
