"""Tokens of the bus itself: client credentials (RFC 6749, sections 4.4, 5 and 2.3)."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote_plus, urlencode

import msgspec
from pydantic import SecretStr

from esb.adapter import Build
from esb.clock import current
from esb.envelope import Body
from esb.errors import BadReply, EsbError, Rejected
from esb_web.client import ClientOptions, ClientReply, WebClient, error_of
from esb_web.credentials import OAuth2, basic
from esb_web.messages import Headerlist

if TYPE_CHECKING:
    from esb_web.transport import Pool

_FORM: Final = "application/x-www-form-urlencoded"
_ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_TOKEN: Final = re.compile(r"[!-~]{1,16384}\Z")
_CODE: Final = re.compile(r"[a-z_]{1,40}\Z")
_EARLY: Final = 30.0
"""Seconds before its end in which a token is used no more; at most a tenth of its life."""
_ASSERTED_FOR: Final = 60
_MAX_REPLY: Final = 256 * 1024


class Tokens:
    """The token of one client at one token endpoint. It is a Signer.

    client: what asks for it; None in tests of routes, where there is nobody to ask. Raises
    ValueError for a private key that is none.
    """

    def __init__(self, options: OAuth2, client: WebClient | None) -> None:
        self._options = options
        self._client = client
        self._token = "" if client is not None else "of-a-test"
        self._until = float("inf")
        self._asking: asyncio.Task[str] | None = None
        self._key: Any = None
        if options.private_key is not None:
            from joserfc.jwk import import_key

            kind = {"ES256": "EC", "EdDSA": "OKP"}.get(options.algorithm, "RSA")
            try:
                self._key = import_key(options.private_key.get_secret_value(), kind)  # type: ignore[call-overload]
            except Exception as e:
                raise ValueError("private_key holds no key for this algorithm") from e

    async def sign(
        self, method: str, url: str, headers: Sequence[tuple[str, str]], body: bytes | Body | None
    ) -> Headerlist:
        """See Signer."""
        token = self._token
        if not token or current.get().monotonic() >= self._until:
            token = await self._new()
        return [("Authorization", f"Bearer {token}")]

    def refused(self, signed: Headerlist) -> bool:
        """See Signer. Of many requests with one token that is over, the first asks for another."""
        if signed == [("Authorization", f"Bearer {self._token}")]:
            self._token = ""
        return True

    async def _new(self) -> str:
        """Another token; all who need one wait for the same answer."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="esb: a token")
        return await asyncio.shield(self._asking)

    async def _ask(self) -> str:
        assert self._client is not None
        form, headers = self._form(), [("Content-Type", _FORM), ("Accept", "application/json")]
        options = self._options
        if options.client_secret is not None and options.client_auth == "basic":
            # Both are form-encoded first (RFC 6749, section 2.3.1).
            secret = quote_plus(options.client_secret.get_secret_value())
            headers.append(("Authorization", basic(quote_plus(options.client_id), secret)))
        try:
            # Asking twice gives two tokens and does no other harm.
            reply = await self._client.request(
                "POST", options.token_url, headers=headers, body=urlencode(form).encode(),
                idempotent=True,
            )  # fmt: skip
            return self._take(reply)
        except EsbError as e:
            e.add_note(f"this was about a token of {options.token_url.partition('?')[0]}")
            raise

    def _form(self) -> dict[str, str]:
        options = self._options
        form = {"grant_type": "client_credentials"}
        if options.scope:
            form["scope"] = options.scope
        if options.audience:
            form["audience"] = options.audience
        if self._key is not None:
            form |= {"client_id": options.client_id, "client_assertion_type": _ASSERTION}
            form["client_assertion"] = self._assertion()
        elif options.client_secret is not None and options.client_auth == "body":
            form["client_id"] = options.client_id
            form["client_secret"] = options.client_secret.get_secret_value()
        return form

    def _assertion(self) -> str:
        """Who the bus is, signed (RFC 7523, section 3)."""
        from joserfc import jwt

        options, now = self._options, int(current.get().time())
        header: dict[str, Any] = {"alg": options.algorithm, "typ": "JWT"}
        if options.key_id:
            header["kid"] = options.key_id
        claims = {
            "iss": options.client_id, "sub": options.client_id, "aud": options.token_url,
            "iat": now, "exp": now + _ASSERTED_FOR, "jti": secrets.token_urlsafe(16),
        }  # fmt: skip
        return str(jwt.encode(header, claims, self._key, algorithms=[options.algorithm]))

    def _take(self, reply: ClientReply) -> str:
        """The token of an answer. Raises what the answer means, none of which quotes it."""
        error = error_of(reply, idempotent=True)
        if error is not None:
            # It may repeat what it was sent, so no more than its code is told.
            error.__notes__ = [f"status {reply.status} {_code(reply.body)}".strip()]
            if isinstance(error, Rejected):
                refused = Rejected("the bus gets no token for the service")
                refused.status = reply.status
                raise refused.noted(*error.__notes__)
            raise error
        told = _data(reply.body)
        token, life = told.get("access_token"), told.get("expires_in")
        if not isinstance(token, str) or not _TOKEN.match(token):
            raise BadReply("the token endpoint answered without a token")
        if str(told.get("token_type", "")).lower() != "bearer":
            raise BadReply("the token endpoint gave a token of another kind than bearer")
        self._until = float("inf")  # one that does not say lasts until somebody refuses it
        if isinstance(life, int | float) and not isinstance(life, bool) and life > 0:
            self._until = current.get().monotonic() + life - min(_EARLY, life / 10)
        self._token = token
        return token


def tokens(
    build: Build, oauth2: OAuth2, options: ClientOptions, pool: Callable[[], Pool] | None
) -> Tokens:
    """The tokens of an endpoint with these options, shared with those that ask for the same. pool:
    as in `signed.signing_client`. Raises ValueError as Tokens does."""
    if pool is None:
        return Tokens(oauth2, None)
    through = pool()
    kept = ("timeout", "connect_timeout", "tls", "proxy", "no_proxy", "max_connections")
    plain = ClientOptions.model_construct(
        **{name: getattr(options, name) for name in kept}, max_reply=_MAX_REPLY
    )
    # A key may be shown, so none of this is in it as it is.
    all_of_it = [
        value.get_secret_value() if isinstance(value, SecretStr) else value
        for _, value in oauth2
    ]  # fmt: skip
    same = hashlib.sha256(repr(all_of_it).encode()).hexdigest()
    client = WebClient(through, plain)
    return build.shared(("oauth2", same, id(through)), lambda: Tokens(oauth2, client))


def _data(raw: bytes) -> Mapping[str, Any]:
    try:
        told = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise BadReply("the token endpoint answered something that is no JSON") from e
    if not isinstance(told, dict):
        raise BadReply("the token endpoint answered something else than a token")
    return told


def _code(raw: bytes) -> str:
    try:
        code = str(_data(raw).get("error", ""))
    except BadReply:
        return ""
    return code if _CODE.match(code) else ""
