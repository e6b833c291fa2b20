"""JSON Web Tokens (RFC 7519) of an OpenID provider, or of anybody whose keys are known, as
RFC 8725 wants them checked.

The issuer, the audience and the end of a token are required, algorithms are a list of the project's
and never the token's choice, and of the keys that a token points to only its `kid` is heeded, which
is looked up among the keys that the project names (RFC 7515, sections 4.1.2 to 4.1.8).
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Mapping
from functools import reduce
from typing import Any, Final
from urllib.error import HTTPError

from joserfc import jwt as tokens
from joserfc.errors import ExpiredTokenError, InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet, OctKey
from joserfc.jws import JWSRegistry

from esb.adapter import Build, BuildFailed
from esb.auth.jwt import Jwt, key_url
from esb.clock import Clock
from esb.credentials import Credentials, Principal
from esb.errors import Denied, Unavailable

AGAIN: Final = 30.0
"""Seconds between two looks for keys that a token names and that are not known."""

FRESH: Final = 600.0
"""Seconds after which keys are looked for anew, so that one that was withdrawn is not taken."""

STALE: Final = 24 * 3600.0
"""Seconds for which known keys are taken while their place does not answer."""

_PATIENCE: Final = 5.0
_LARGEST: Final = 512 * 1024  # bytes of a document with keys
_LONGEST: Final = 16 * 1024  # characters of a token


class Keys:
    """The keys behind an address, as they are there now. discover: whether it is that of an issuer,
    who says where they are (OpenID Connect Discovery 1.0, section 4)."""

    def __init__(self, url: str, *, discover: bool, clock: Clock) -> None:
        self._url = url
        self._discover = discover
        self._clock = clock
        self._keys: KeySet | None = None
        self._got = self._asked = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        self._problem = ""

    async def get(self, *, anew: bool = False) -> KeySet:
        """All there are. anew: since a token names one that was not there. Raises Unavailable."""
        now = self._clock.monotonic()
        if self._keys is None or anew or now - self._got > FRESH:
            await self._fetched(now, wait=self._keys is None or anew)
        if self._keys is None or now - self._got > STALE:
            raise Unavailable("tokens cannot be checked now").noted(
                f"the keys of {self._url}: {self._problem}"
            )
        return self._keys

    async def _fetched(self, now: float, *, wait: bool) -> None:
        if self._fetching is None:
            if now - self._asked < AGAIN and self._asked > self._got - AGAIN:
                return  # whoever sends tokens with made-up keys does not make us ask each time
            self._asked = now
            self._fetching = asyncio.create_task(self._fetch())
        if wait:
            await asyncio.shield(self._fetching)

    async def _fetch(self) -> None:
        try:
            self._keys = await asyncio.to_thread(self._found)
            self._got, self._problem = self._clock.monotonic(), ""
        except (OSError, ValueError, LookupError, TypeError, JoseError) as e:
            self._problem = f"{type(e).__name__}: {e}"[:300]
        finally:
            self._fetching = None

    def _found(self) -> KeySet:
        url = self._url
        if self._discover:
            about = _fetched_json(url.rstrip("/") + "/.well-known/openid-configuration")
            if about.get("issuer") != url:
                raise ValueError("it speaks of another issuer")
            url = key_url(str(about["jwks_uri"]))
        return _public(_fetched_json(url))


def _public(document: Mapping[str, Any]) -> KeySet:
    """Keys that signatures are checked with; none that signs, which has no business there."""
    keys = KeySet.import_key_set(document)  # type: ignore[arg-type]
    found = [key for key in keys.keys if key.key_type != "oct"]
    if not found:
        raise ValueError("there are no public keys")
    return KeySet(found)


def _fetched_json(url: str) -> dict[str, Any]:
    # Nobody but the project says whom to ask, so no redirect is followed and no proxy asked.
    opener = urllib.request.build_opener(_Straight, urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, headers={"Accept": "application/json"})  # noqa: S310
    with opener.open(request, timeout=_PATIENCE) as answer:
        raw = answer.read(_LARGEST + 1)
    if len(raw) > _LARGEST:
        raise ValueError("the document is too large")
    found = json.loads(raw)
    if not isinstance(found, dict):
        raise ValueError("the document is no object")
    return found


class _Straight(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        raise HTTPError(req.full_url, code, "a redirect is not followed", headers, fp)


class JwtGuard:
    """See Jwt."""

    needs_body = False

    def __init__(self, name: str, options: Jwt, build: Build) -> None:
        self._name = name
        self._options = options
        self._clock = build.clock
        self._audience = (
            [options.audience] if isinstance(options.audience, str) else options.audience
        )
        self._registry = JWSRegistry(algorithms=options.taken, strict_check_header=False)
        self._registry.max_header_length = 4096
        self._secret: OctKey | None = None
        self._keys: Keys | None = None
        self._known: KeySet | None = None
        if options.secret is not None:
            self._secret = OctKey.import_key(options.secret.get_secret_value())
        elif options.jwks is not None and "://" not in options.jwks:
            self._known = self._in_file(options.jwks, build)
        else:
            url, clock = options.jwks or options.issuer, build.clock
            discover = options.jwks is None
            self._keys = build.shared(
                ("auth keys", url, discover), lambda: Keys(url, discover=discover, clock=clock)
            )
        about = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
        self.schemes: Mapping[str, Mapping[str, Any]] = {name: about}
        self.challenge = f'Bearer realm="{name}"'

    def _in_file(self, name: str, build: Build) -> KeySet:
        file = build.file(name, "jwks")
        try:
            return _public(json.loads(file.read_bytes()))
        except (OSError, ValueError, LookupError, TypeError, JoseError) as e:
            raise _unreadable(build, e) from e

    def offered(self, shown: Credentials) -> bool:
        """Whether there is a token, and no key of another kind."""
        scheme, _, value = str(shown.headers.get("authorization", "")).partition(" ")
        return scheme.lower() == "bearer" and value.count(".") == 2

    async def admit(self, shown: Credentials) -> Principal:
        """Whose token it is. Raises Denied, Unavailable."""
        value = str(shown.headers.get("authorization", "")).partition(" ")[2].strip()
        if len(value) > _LONGEST or not value.isascii():
            raise self._denied("the token is malformed")
        try:
            token = await self._decoded(value)
        except (JoseError, ValueError, TypeError, KeyError, RecursionError) as e:
            raise self._denied("the token is not valid", e) from e
        claims = token.claims
        self._check(token.header, claims)
        name = _at(claims, self._options.name)
        if not isinstance(name, str) or not name:
            raise self._denied("the token names nobody")
        return Principal(
            name=name,
            auth=self._name,
            roles=_listed(_at(claims, self._options.roles)),
            scopes=_listed(_at(claims, self._options.scopes)),
            claims=claims,
        )

    async def _decoded(self, value: str) -> tokens.Token:
        if self._secret is not None:
            return self._with(value, self._secret)
        if self._keys is None:
            assert self._known is not None
            return self._with(value, self._known)
        try:
            return self._with(value, await self._keys.get())
        except InvalidKeyIdError:
            return self._with(value, await self._keys.get(anew=True))

    def _with(self, value: str, key: KeySet | OctKey) -> tokens.Token:
        return tokens.decode(value, key, registry=self._registry)

    def _check(self, header: Mapping[str, Any], claims: Mapping[str, Any]) -> None:
        options = self._options
        if "crit" in header:
            raise self._denied("the token has an extension that must be understood and is not")
        if options.type is not None:
            given = str(header.get("typ", "")).lower().removeprefix("application/")
            if given != options.type.lower().removeprefix("application/"):
                raise self._denied(f"the token is no {options.type}")
        registry = tokens.JWTClaimsRegistry(
            now=int(self._clock.time()),
            leeway=int(options.leeway),
            iss={"essential": True, "value": options.issuer},
            aud={"essential": True, "values": self._audience},
            exp={"essential": True},
        )
        try:
            registry.validate(dict(claims))
        except ExpiredTokenError as e:
            raise self._denied("the token has expired", e) from e
        except (JoseError, ValueError, TypeError) as e:
            raise self._denied("the token is not for this, or not valid now", e) from e

    def _denied(self, why: str, error: Exception | None = None) -> Denied:
        challenge = f'{self.challenge}, error="invalid_token", error_description="{why}"'
        denied = Denied(why, challenge=challenge)
        return denied if error is None else denied.noted(f"{type(error).__name__}: {error}"[:200])


def _unreadable(build: Build, error: Exception) -> BuildFailed:
    return build.problem(
        f"the file holds no public keys: {error}", "jwks", hint='{"keys": [{"kty": ...}]}'
    )


def _at(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by its name, or by the names on the way to it."""
    if path in claims:
        return claims[path]
    return reduce(
        lambda value, key: value.get(key) if isinstance(value, Mapping) else None,
        path.split("."),
        claims,
    )


def _listed(value: Any) -> list[str]:
    if isinstance(value, str):
        return value.split()
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
