"""Signed tokens: JWTs as issuers of OAuth 2 and OpenID Connect make them (RFC 7519, RFC 9068), held
to RFC 8725 (best current practices).

What the token says of itself decides nothing: the algorithm must be on our list and fit the key,
keys come from the issuer alone (`jku`, `x5u`, `jwk` are not looked at), and `kid` only picks one of
those that are there. Issuer, audience and end must be in it and right.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
import structlog
from pydantic import AfterValidator, Field, SecretStr, model_validator

from esb.auth.ways import Refused, bearer
from esb.clock import current
from esb.errors import EsbError, Unavailable
from esb.identity import Credentials, Principal
from esb.options import Duration, Options, Words

log = structlog.get_logger("esb.auth")

Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519",
    "EdDSA", "HS256", "HS384", "HS512",
]  # fmt: skip
_PUBLIC: Final[tuple[Algorithm, ...]] = ("RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519")
_SHARED: Final[tuple[Algorithm, ...]] = ("HS256",)
_KINDS: Final = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP", "HS": "oct"}
_SHORTEST_SECRET: Final = 32  # RFC 7518, section 3.2
_SHORTEST_RSA: Final = 2048  # RFC 7518, section 3.3
_LONGEST_RSA: Final = 16_384
"""Bits: what is longer takes as long to check as its issuer pleases."""
_LONGEST: Final = 16 * 1024
_MOST_KEYS: Final = 100
_NOT_AGAIN: Final = 30.0
"""Seconds between two looks for keys, whatever tokens say: else each could cause a request."""

Fetch = Callable[[str], Awaitable[bytes]]


def is_secure(url: str) -> bool:
    """Whether keys may come from there: nobody else can answer for it."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return bool(parts.hostname)
    try:
        near = ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        near = parts.hostname == "localhost"
    return parts.scheme == "http" and near


def _issuer(value: str) -> str:
    if not value:
        raise ValueError("an issuer is what tokens have as `iss`: https://login.example")
    return value


class JwtOptions(Options):
    """Signed tokens (`Authorization: Bearer`), as people have them after a login elsewhere. Needs
    esb[jwt]."""

    issuer: Annotated[str, AfterValidator(_issuer)] = Field(
        description="Who made the token: its `iss`, letter by letter. Its keys are found by OpenID "
        "Connect Discovery if nothing else says where they are."
    )
    audience: Words = Field(
        min_length=1, description="Whom it is for: one of these must be in its `aud`."
    )
    jwks: str | None = Field(
        None,
        description="The issuer's keys: a file of the project, one at an absolute path, or an "
        "https URL.",
    )
    secret: SecretStr | None = Field(
        None, description="A secret shared with the issuer, instead of keys (HS256)."
    )
    ca: str | None = Field(
        None, description="PEM file: trust these authorities for keys, not the system's."
    )
    algorithms: list[Algorithm] | None = Field(
        None,
        min_length=1,
        description="Signatures that are taken. RS256, PS256, ES256, ES384 and EdDSA if left out; "
        "HS256 with a `secret`.",
    )
    types: Words = Field(
        ["JWT", "at+jwt"],
        description="What `typ` may say; a token without one is taken. `[at+jwt]` takes access "
        "tokens alone (RFC 9068), and only such as say so.",
    )
    name: str = Field("sub", description="The claim that names the caller: `message.principal`.")
    roles: str = Field("roles", description="The claim that holds roles: realm_access.roles.")
    scopes: str = Field("scope", description="The claim that holds scopes: a text, or a list.")
    clock_skew: Duration = Field(30.0, description="How far the issuer's clock may be off.")
    refresh: Duration = Field(3600.0, description="How often the issuer is asked for its keys.")

    @model_validator(mode="after")
    def _one_kind(self) -> JwtOptions:
        if self.secret is not None:
            if self.jwks is not None:
                raise ValueError("keys are those of `jwks` or a `secret`, not both")
            if len(self.secret.get_secret_value().encode()) < _SHORTEST_SECRET:
                raise ValueError(f"a secret has at least {_SHORTEST_SECRET} bytes")
        elif self.jwks is None and not is_secure(self.issuer):
            raise ValueError("keys are asked for by https alone: write where they are as `jwks`")
        elif self.jwks is not None and "://" in self.jwks and not is_secure(self.jwks):
            raise ValueError("keys are asked for by https alone")
        for algorithm in self.allowed:
            if (algorithm[:2] == "HS") != (self.secret is not None):
                raise ValueError(
                    f"{algorithm} needs a `secret`"
                    if self.secret is None
                    else f"{algorithm} needs public keys, not a `secret`"
                )
        return self

    @property
    def allowed(self) -> tuple[Algorithm, ...]:
        """The algorithms that are taken."""
        return tuple(self.algorithms or (_PUBLIC if self.secret is None else _SHARED))


class Keys:
    """The keys of an issuer.

    content: what holds them, for those that stay; else fetch gets what is at a URL. Raises
    ValueError for a content that holds no keys.
    """

    def __init__(
        self, options: JwtOptions, content: bytes | None = None, fetch: Fetch | None = None
    ) -> None:
        self._options = options
        self._fetch = fetch
        self._asking: asyncio.Task[None] | None = None
        self._asked = -float("inf")
        self._read = -float("inf")
        self._failed = False
        self._keys: list[tuple[str | None, Any]] = []
        if options.secret is not None:
            from joserfc.jwk import OctKey

            self._keys = [(None, OctKey.import_key(options.secret.get_secret_value()))]
        elif content is not None:
            self._keys = _keys(content)

    async def find(self, algorithm: str, kid: Any) -> list[Any]:
        """Those that may have signed a token. Raises Unavailable if the issuer does not answer."""
        now = current.get().monotonic()
        found = self._fitting(algorithm, kid)
        if self._fetch is None:
            return found
        if not self._keys or (not found and now - self._asked >= _NOT_AGAIN):
            await self._again()
            found = self._fitting(algorithm, kid)
        elif now - self._read >= self._options.refresh and now - self._asked >= _NOT_AGAIN:
            self._start()  # those that are known are good meanwhile
        return found

    def _fitting(self, algorithm: str, kid: Any) -> list[Any]:
        kind = _KINDS[algorithm[:2]]
        return [
            key for name, key in self._keys
            if key.key_type == kind and (kid is None or name is None or name == kid)
            and key.get("alg", algorithm) == algorithm and key.get("use", "sig") == "sig"
        ]  # fmt: skip

    def _start(self) -> asyncio.Task[None]:
        if self._asking is None or self._asking.done():
            self._asked = current.get().monotonic()
            self._asking = asyncio.create_task(self._ask(), name="esb: keys of an issuer")
        return self._asking

    async def _again(self) -> None:
        waiting = self._asking is not None and not self._asking.done()
        lately = current.get().monotonic() - self._asked < _FAILED_WAIT
        if waiting or not (self._failed and lately):
            await asyncio.shield(self._start())
        if not self._keys:
            raise Unavailable("the keys of the issuer are not known now")

    async def _ask(self) -> None:
        """Ask the issuer; if that fails, those that were known stay."""
        assert self._fetch is not None
        options = self._options
        try:
            url = options.jwks
            if url is None:
                # OpenID Connect Discovery 1.0, section 4
                about = options.issuer.rstrip("/") + "/.well-known/openid-configuration"
                told = msgspec.json.decode(await self._fetch(about), type=_Metadata)
                if told.issuer != options.issuer:
                    raise ValueError("the issuer calls itself otherwise")
                url = told.jwks_uri
                far = options.issuer.startswith("https:")
                if not is_secure(url) or (far and urlsplit(url).scheme != "https"):
                    raise ValueError("the issuer's keys are not at an https URL")
            self._keys = _keys(await self._fetch(url))
            self._read = current.get().monotonic()
            self._failed = False
        except (EsbError, ValueError, msgspec.MsgspecError, RecursionError) as e:
            self._failed = True
            log.error("the keys of an issuer cannot be had", issuer=options.issuer, why=str(e))


_FAILED_WAIT: Final = 2.0
"""Seconds in which an issuer that could not be asked is not asked again."""


class _Metadata(msgspec.Struct):
    issuer: str
    jwks_uri: str


def _keys(content: bytes) -> list[tuple[str | None, Any]]:
    """The public keys of a JWK Set (RFC 7517, section 5); those that cannot be used are left out.
    Raises ValueError."""
    from joserfc.errors import JoseError
    from joserfc.jwk import RSAKey, import_key

    try:
        told = msgspec.json.decode(content)["keys"]
    except (msgspec.MsgspecError, KeyError, TypeError, RecursionError) as e:
        raise ValueError("it is no JWK Set: {keys: [...]}") from e
    found: list[tuple[str | None, Any]] = []
    for one in told[:_MOST_KEYS] if isinstance(told, list) else []:
        if not isinstance(one, Mapping) or one.get("kty") not in ("RSA", "EC", "OKP"):
            continue  # a secret that lies in public is none
        try:
            key = import_key(dict(one))
            if key.is_private:
                raise ValueError("it is the private key: whoever reads it there can sign")
            if isinstance(key, RSAKey) and key.raw_value.key_size < _SHORTEST_RSA:
                raise ValueError(f"an RSA key has at least {_SHORTEST_RSA} bits")
            if isinstance(key, RSAKey) and key.raw_value.key_size > _LONGEST_RSA:
                raise ValueError(f"an RSA key has at most {_LONGEST_RSA} bits")
            found.append((one.get("kid"), key))
        except (JoseError, ValueError, TypeError, KeyError) as e:
            log.warning("a key of an issuer cannot be used", kid=one.get("kid"), why=str(e))
    if not found:
        raise ValueError("there is no public key in it")
    return found


class Tokens:
    """A Method; see JwtOptions. Raises ImportError without esb[jwt]."""

    asks: frozenset[str] = frozenset()
    conceals: frozenset[str] = frozenset()  # Authorization is forwarded and kept nowhere

    def __init__(self, name: str, options: JwtOptions, keys: Keys) -> None:
        from joserfc.jws import JWSRegistry
        from joserfc.jwt import JWTClaimsRegistry

        self.name = name
        self._options = options
        self._keys = keys
        self._registry = JWSRegistry(algorithms=options.allowed, strict_check_header=False)
        self._registry.max_header_length = 4096  # some carry a certificate, which nobody reads
        self._claims = JWTClaimsRegistry(
            now=lambda: int(current.get().time()),
            leeway=int(options.clock_skew),
            iss={"essential": True, "value": options.issuer},
            aud={"essential": True, "values": list(options.audience)},
            exp={"essential": True},
        )
        self._types = {kind.lower() for kind in options.types}
        self._may_be_bare = "jwt" in self._types
        self.challenge = 'Bearer realm="esb"'
        # Not "openIdConnect", though its issuer may speak that: one could not enter a token then.
        self.scheme: Mapping[str, Any] = {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": f"A token of {options.issuer} for {' or '.join(options.audience)}.",
        }

    def shown(self, credentials: Credentials) -> bool:
        return bearer(credentials).count(".") == 2

    def user(self, credentials: Credentials) -> str:
        return ""

    async def verify(self, credentials: Credentials) -> Principal:
        try:
            return await self._verify(bearer(credentials))
        except Refused as e:
            # RFC 6750, section 3.1
            raise Refused(str(e), f'{self.challenge}, error="invalid_token"') from None

    async def _verify(self, token: str) -> Principal:
        from joserfc import jws, jwt
        from joserfc.errors import (
            BadSignatureError,
            InvalidKeyCurveError,
            InvalidKeyTypeError,
            JoseError,
        )

        unreadable = (JoseError, ValueError, TypeError, RecursionError)
        if len(token) > _LONGEST:
            raise Refused("the token is too long")
        try:
            header = jws.extract_compact(token.encode(), registry=self._registry).headers()
        except unreadable as e:
            raise Refused(f"the token is malformed: {type(e).__name__}") from None
        self._check_header(header)
        algorithm = header["alg"]
        for key in await self._keys.find(algorithm, header.get("kid")):
            try:
                claims = jwt.decode(token, key, [algorithm], registry=self._registry).claims
                break
            except (BadSignatureError, InvalidKeyCurveError, InvalidKeyTypeError):
                continue
            except unreadable as e:
                raise Refused(f"the token cannot be checked: {e}") from None
        else:
            raise Refused("no key of the issuer made its signature")
        try:
            self._claims.validate(claims)
        except (JoseError, ValueError, TypeError) as e:
            raise Refused(f"a claim is not right: {e}") from None
        return self._principal(claims)

    def _check_header(self, header: Mapping[str, Any]) -> None:
        if header.get("alg") not in self._options.allowed:
            raise Refused("its algorithm is not taken")
        if "crit" in header:
            raise Refused("it has extensions that must be understood")  # RFC 7515, section 4.1.11
        kind = header.get("typ")
        if kind is None and self._may_be_bare:
            return
        if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in (
            self._types
        ):
            raise Refused("it is of another type")

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        name = _claim(claims, self._options.name)
        if not isinstance(name, str) or not name or not name.isprintable():
            raise Refused(f"it names nobody as '{self._options.name}'")
        return Principal(
            name=name,
            method=self.name,
            roles=_texts(_claim(claims, self._options.roles)),
            scopes=_texts(_claim(claims, self._options.scopes)),
            claims=claims,
        )


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """A claim, or what is in it: some have URLs as names, so the whole is tried first."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(value.split())
    return tuple(v for v in value if isinstance(v, str)) if isinstance(value, list) else ()
