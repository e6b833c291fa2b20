"""The section `auth`, and what is made of it at load."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from pydantic import Field, RootModel, model_validator

from esb.auth.certificates import Certificates, MtlsOptions
from esb.auth.keys import ApiKeys, ApiKeysOptions, KeyFile
from esb.auth.passwords import Basic, BasicOptions, UserFile
from esb.auth.tokens import Fetch, JwtOptions, Keys, Tokens
from esb.auth.ways import Method
from esb.auth.webhooks import HmacOptions, Webhooks
from esb.durable import Store
from esb.options import NAME, Misplaced, Options
from esb.renewed import Renewed

T = TypeVar("T")
EVERYBODY = "public"
"""What stands where a name of the section might, if everybody may call."""


class Way(Options):
    """One way to prove who one is."""

    api_keys: ApiKeysOptions | None = Field(None, description="Keys of programs, in a header.")
    basic: BasicOptions | None = Field(None, description="Names and passwords of people.")
    jwt: JwtOptions | None = Field(None, description="Signed tokens of an issuer.")
    hmac: HmacOptions | None = Field(None, description="Signed bodies: webhooks.")
    mtls: MtlsOptions | None = Field(None, description="Certificates of machines.")

    @model_validator(mode="after")
    def _one(self) -> Way:
        if len(self.model_fields_set) != 1 or self.kind is None:
            raise ValueError(f"one of {', '.join(Way.model_fields)}, with its options")
        return self

    @property
    def kind(self) -> str | None:
        """Which one it is."""
        return next((name for name in Way.model_fields if getattr(self, name) is not None), None)


class AuthOptions(RootModel[dict[str, Way]]):
    """Ways to prove who one is, by name. Where callers come in, `auth` says which are taken. As
    soon as there is one, nothing is open that does not say `auth: public`."""

    @model_validator(mode="after")
    def _named(self) -> AuthOptions:
        for name in self.root:
            if not NAME.fullmatch(name) or name == EVERYBODY:
                raise Misplaced(f"'{name}' cannot be the name of a way to prove who one is", name)
        return self


class Place(Protocol):
    """What a way is given while it is made: see `esb.adapter.Build`."""

    @property
    def store(self) -> Store:
        """The project's."""
        ...

    def table(self, name: str, model: type[T], *path: str | int) -> Renewed[T]:
        """A file of callers."""
        ...

    def content(self, name: str, *path: str | int) -> bytes:
        """A file of the project, or one at an absolute path."""
        ...

    def fetch(self, ca: str | None, *path: str | int) -> Fetch:
        """What gets what is at a URL."""
        ...

    def problem(self, message: str, *path: str | int, code: str = ..., hint: str = ...) -> Any:
        """Records a mistake."""
        ...


def made(name: str, way: Way, place: Place) -> Method:
    """A way to prove who one is. Raises BuildFailed."""
    kind = way.kind or ""

    def needs(extra: str, make: Callable[[], Method]) -> Method:
        try:
            return make()
        except ImportError as e:
            raise place.problem(
                f"{kind} needs a library that is not installed", kind, code="extra",
                hint=f"pip install 'esb[{extra}]'",
            ) from e  # fmt: skip

    if way.api_keys is not None:
        keys = way.api_keys
        return ApiKeys(name, keys, place.table(keys.file, KeyFile, kind, "file"))
    if way.basic is not None:
        basic, users = way.basic, place.table(way.basic.users, UserFile, kind, "users")
        return needs("basic", lambda: Basic(name, basic, users))
    if way.jwt is not None:
        jwt = way.jwt
        return needs("jwt", lambda: Tokens(name, jwt, _keys(jwt, place)))
    if way.hmac is not None:
        return Webhooks(name, way.hmac, place.store if way.hmac.form == "stripe" else None)
    assert way.mtls is not None
    return Certificates(name, way.mtls)


def _keys(options: JwtOptions, place: Place) -> Keys:
    if options.secret is not None:
        return Keys(options)
    if options.jwks is None or "://" in options.jwks:
        return Keys(options, fetch=place.fetch(options.ca, "jwt", "ca"))
    content = place.content(options.jwks, "jwt", "jwks")
    try:
        return Keys(options, content)
    except ValueError as e:
        raise place.problem(f"{options.jwks}: {e}", "jwt", "jwks") from e
