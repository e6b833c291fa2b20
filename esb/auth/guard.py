"""The options of the section `auth`, and one guard out of those that a listener or a route names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Annotated, Any, Final, Protocol

import structlog
from pydantic import BeforeValidator, Field, model_validator

from esb.adapter import Build
from esb.auth.basic import Basic, BasicGuard
from esb.auth.jwt import Jwt
from esb.auth.keys import ApiKeys, KeyGuard
from esb.auth.mtls import Mtls, MtlsGuard
from esb.auth.webhook import Hmac, HmacGuard
from esb.credentials import Credentials, Guard, Principal
from esb.errors import Denied, EsbError
from esb.metrics import Counter
from esb.options import Options

log = structlog.get_logger("esb.auth")

CALLERS: Final = Counter("esb_auth", "Callers who had to say who they are.", ("auth", "outcome"))

PUBLIC: Final = "public"
"""What is written where everybody may come."""

_QUIET: Final = 1.0  # seconds between two lines about callers who were not let in


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Given = Annotated[list[str], BeforeValidator(_listed, json_schema_input_type=str | list[str])]
"""Names of the section `auth`, any one of which is enough; or `public`."""


class AuthOptions(Options):
    """A way to prove who one is: one of these."""

    api_keys: ApiKeys | None = Field(None, description="Keys in a header.")
    basic: Basic | None = Field(None, description="User name and password.")
    jwt: Jwt | None = Field(None, description="Tokens of an OpenID provider.")
    hmac: Hmac | None = Field(None, description="Signed webhooks.")
    mtls: Mtls | None = Field(None, description="Client certificates.")

    @model_validator(mode="after")
    def _one(self) -> AuthOptions:
        if len(self.model_fields_set) != 1 or None in (getattr(self, n) for n in self.kinds):
            raise ValueError(f"one of these is expected: {', '.join(type(self).model_fields)}")
        return self

    @property
    def kinds(self) -> list[str]:
        """Which of them it is."""
        return sorted(self.model_fields_set)


class _Kind(Guard, Protocol):
    """A guard of one kind. challenge: what it wants, for `WWW-Authenticate` (RFC 9110, 11.6.1)."""

    challenge: str

    def offered(self, shown: Credentials) -> bool:
        """Whether the caller shows something of this kind."""
        ...


def make_guard(name: str, options: AuthOptions, build: Build) -> Guard:
    """The guard of an entry of the section. Raises BuildFailed."""
    [kind] = options.kinds
    chosen = getattr(options, kind)
    made: _Kind
    if isinstance(chosen, ApiKeys):
        made = KeyGuard(name, chosen, build)
    elif isinstance(chosen, Basic):
        made = BasicGuard(name, chosen, build)
    elif isinstance(chosen, Hmac):
        made = HmacGuard(name, chosen, build)
    elif isinstance(chosen, Mtls):
        made = MtlsGuard(name, chosen, build)
    else:
        made = _tokens(name, chosen, build)
    return _Watched(name, made)


def _tokens(name: str, options: Jwt, build: Build) -> _Kind:
    try:
        from esb.auth.tokens import JwtGuard
    except ImportError as e:
        raise build.problem(
            "the library for tokens is not installed", key=True, hint="pip install 'esb[jwt]'"
        ) from e
    return JwtGuard(name, options, build)


class _Watched:
    """A guard that is counted, and that says in the log who was not let in."""

    def __init__(self, name: str, kind: _Kind) -> None:
        self._name = name
        self._kind = kind
        self._told = float("-inf")
        self._untold = 0
        self.needs_body = kind.needs_body
        self.schemes = kind.schemes
        self.challenge = kind.challenge
        self.offered = kind.offered

    async def admit(self, shown: Credentials) -> Principal:
        try:
            principal = await self._kind.admit(shown)
        except EsbError as e:
            CALLERS.labels(self._name, e.code).value += 1
            self._tell(shown, e)
            raise
        CALLERS.labels(self._name, "ok").value += 1
        return principal

    def _tell(self, shown: Credentials, error: EsbError) -> None:
        # Not a line for each: that would be what whoever tries keys wants.
        now = monotonic()
        if now - self._told < _QUIET:
            self._untold += 1
            return
        more, self._untold, self._told = self._untold, 0, now
        log.warning(
            "a caller was not let in", auth=self._name, address=shown.address, path=shown.path,
            code=error.code, error=error.detail, notes=list(error.notes), more=more,
        )  # fmt: skip


class AnyOf:
    """Lets in whom one of several guards knows."""

    def __init__(self, guards: Sequence[_Kind]) -> None:
        self._guards = guards
        self.needs_body = any(one.needs_body for one in guards)
        self.schemes: Mapping[str, Mapping[str, Any]] = {
            name: scheme for one in guards for name, scheme in one.schemes.items()
        }
        self._challenge = ", ".join(dict.fromkeys(one.challenge for one in guards if one.challenge))

    async def admit(self, shown: Credentials) -> Principal:
        """See Guard. What the last guard has against a caller that offered something is told."""
        error: EsbError | None = None
        for guard in self._guards:
            if guard.offered(shown):
                try:
                    return await guard.admit(shown)
                except Denied as e:
                    error = e
        if error is None:
            error = Denied("this takes credentials, and there are none")
        if isinstance(error, Denied) and not error.challenge:
            error.challenge = self._challenge
        raise error


__all__ = ["PUBLIC", "AnyOf", "AuthOptions", "Given", "make_guard"]
