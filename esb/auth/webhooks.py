"""Bodies that are signed with a shared secret, as webhooks are: see `esb.signing`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from esb.auth.ways import Refused
from esb.clock import current
from esb.durable import Confirm, Store, give_up
from esb.identity import Credentials, Principal
from esb.options import Duration, Options, Words
from esb.signing import BadSignature, Form, verify

_SHORTEST: Final = 8


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _long_enough(value: list[SecretStr]) -> list[SecretStr]:
    if any(len(secret.get_secret_value()) < _SHORTEST for secret in value):
        raise ValueError(f"a secret has at least {_SHORTEST} characters, or anybody could sign")
    return value


class HmacOptions(Options):
    """A signature over the body by a shared secret, as webhooks have it (HMAC-SHA256)."""

    secret: Annotated[
        list[SecretStr],
        BeforeValidator(_listed, json_schema_input_type=str | list[str]),
        AfterValidator(_long_enough),
    ] = Field(
        min_length=1,
        description="The secret, as `${NAME}`; several while one takes the place of the other.",
    )
    header: str = Field("X-Hub-Signature-256", description="The header that holds the signature.")
    form: Form = Field(
        "github",
        description="How it is written: github `sha256=<hex>`; stripe `t=<time>,v1=<hex>`; hex or "
        "base64, bare.",
    )
    tolerance: Duration = Field(
        300.0,
        description="With stripe: how far its time may be off. For as long a signature is taken "
        "only once, also over restarts. The other forms have no time, so they can be repeated.",
    )
    name: str = Field("", description="`message.principal`; the name under `auth` if left out.")
    roles: Words = Field([], description="Roles of whoever has the secret.")


class Webhooks:
    """A Method; see HmacOptions. store: remembers signatures with a time; None for other forms."""

    asks = frozenset({"body"})

    def __init__(self, name: str, options: HmacOptions, store: Store | None) -> None:
        self.name = name
        self._options = options
        self._secrets = [secret.get_secret_value().encode() for secret in options.secret]
        self._store = store
        self.challenge = f'Signature realm="esb", header="{options.header}"'
        self.scheme: Mapping[str, Any] = {
            "type": "apiKey",
            "in": "header",
            "name": options.header,
            "description": "HMAC-SHA256 of the body, by a shared secret.",
            "x-signs": "body",
        }
        self.conceals: frozenset[str] = frozenset()  # good for this one body only

    def shown(self, credentials: Credentials) -> bool:
        return self._options.header in credentials.headers

    def user(self, credentials: Credentials) -> str:
        return ""

    async def verify(self, credentials: Credentials) -> Principal:
        options = self._options
        values = credentials.headers.get_all(options.header)
        if len(values) != 1:
            raise Refused("several signatures were shown")
        now = current.get().time()
        try:
            signed = verify(
                options.form, self._secrets, str(values[0]), [credentials.body],
                now=now, tolerance=options.tolerance,
            )  # fmt: skip
        except BadSignature as e:
            raise Refused(str(e)) from None
        if signed.time is not None and self._store is not None:
            await self._once(signed.signature, signed.time + options.tolerance)
        return Principal(
            name=options.name or self.name, method=self.name, roles=tuple(options.roles)
        )

    async def _once(self, signature: bytes, until: float) -> None:
        assert self._store is not None
        scope, mark = f"signatures of {self.name}", hashlib.sha256(signature).hexdigest()
        claim = await self._store.claim(scope, mark, until)
        if claim.state != "new":
            raise Refused("the signature was used before")
        try:
            await self._store.commit((Confirm(scope, mark, until),))
        except BaseException:
            await give_up(self._store, (scope, mark))
            raise
