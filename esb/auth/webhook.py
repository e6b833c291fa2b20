"""Webhooks: bodies that whoever sends them has signed with a shared secret (see esb.signing)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, SecretStr

from esb.adapter import Build
from esb.credentials import Credentials, Principal
from esb.durable import Confirm, Store, give_up
from esb.errors import Denied
from esb.options import Duration, Options
from esb.signing import BadSignature, Form, verify

_HEADERS: Final[Mapping[Form, str]] = {
    "github": "X-Hub-Signature-256",
    "stripe": "Stripe-Signature",
    "hex": "X-Signature",
    "base64": "X-Signature",
}


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


class Hmac(Options):
    """A signature of the body in a header.

    For example:

        auth:
          hooks: {hmac: {secret: "${HOOK_SECRET}"}}
    """

    secret: Annotated[
        list[SecretStr],
        BeforeValidator(_listed, json_schema_input_type=str | list[str]),
        Field(min_length=1),
    ] = Field(
        description="The secret; several while one is replaced, each of which will do. Write "
        "${NAME} or name a secret file."
    )
    form: Form = Field(
        "github",
        description="github: sha256=<hex>. stripe: t=<time>,v1=<hex>, with the time signed as well. "
        "hex, base64: the signature alone.",
    )
    header: str | None = Field(
        None, description="The header that it is in; that which the form usually has if left out."
    )
    tolerance: Duration = Field(
        300.0,
        description="How old a signature with a time may be. For as long none is taken twice, also "
        "over restarts.",
    )
    principal: str | None = Field(None, description="Who sends; the name of this if left out.")
    roles: list[str] = Field([], description="The principal's roles.")
    scopes: list[str] = Field([], description="The principal's scopes.")


class HmacGuard:
    """See Hmac."""

    needs_body = True

    def __init__(self, name: str, options: Hmac, build: Build) -> None:
        header = options.header or _HEADERS[options.form]
        self._options = options
        self._header = header.lower()
        self._secrets = [one.get_secret_value().encode() for one in options.secret]
        if not all(self._secrets):
            build.problem("the secret is empty", "secret")
        self._clock = build.clock
        self._scope = f"webhooks of {name}"
        self._store: Store | None = build.store if options.form == "stripe" else None
        self._principal = Principal(
            name=options.principal or name, auth=name, roles=options.roles, scopes=options.scopes
        )
        about = {"type": "apiKey", "in": "header", "name": header,
                 "description": "HMAC-SHA256 of the body."}  # fmt: skip
        self.schemes: Mapping[str, Mapping[str, Any]] = {name: about}
        self.challenge = f'Signature realm="{name}"'

    def offered(self, shown: Credentials) -> bool:
        """Whether there is a signature."""
        return self._header in shown.headers

    async def admit(self, shown: Credentials) -> Principal:
        """Who signed. Raises Denied; Transient if the store cannot say whether it is new."""
        options, now = self._options, self._clock.time()
        values = shown.headers.get_all(self._header)
        if len(values) != 1:
            raise Denied("there are several signatures")
        try:
            signed = verify(
                options.form, self._secrets, str(values[0]), [shown.body],
                now=now, tolerance=options.tolerance,
            )  # fmt: skip
        except BadSignature as e:
            raise Denied("the signature is not valid").noted(str(e)) from e
        if self._store is not None and signed.time is not None:
            await self._once(self._store, signed.signature.hex(), signed.time)
        return self._principal

    async def _once(self, store: Store, signature: str, time: float) -> None:
        expires = time + 2 * self._options.tolerance
        claim = await store.claim(self._scope, signature, expires)
        if claim.state != "new":
            raise Denied("the signature was used already")
        try:
            await store.commit((Confirm(self._scope, signature, expires),))
        except BaseException:
            await give_up(store, (self._scope, signature))
            raise


__all__ = ["Hmac", "HmacGuard"]
