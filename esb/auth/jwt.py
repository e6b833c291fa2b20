"""What is taken of JSON Web Tokens (RFC 7519): the options. See esb.auth.tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from esb.options import Duration, Options

Asymmetric = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512",
                     "EdDSA", "Ed25519"]  # fmt: skip
Symmetric = Literal["HS256", "HS384", "HS512"]

_SHORTEST_SECRET: Final = 32  # characters (RFC 7518, section 3.2)


def key_url(value: str) -> str:
    """An address that keys may come from. Raises ValueError."""
    parts = urlsplit(value)
    if parts.scheme == "https" and parts.hostname:
        return value
    if parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1"):
        return value
    raise ValueError("keys are fetched by https:// alone, or from this machine")


class Jwt(Options):
    """Tokens in `Authorization: Bearer` (RFC 6750).

    For example:

        auth:
          people: {jwt: {issuer: "https://login.example", audience: orders}}
    """

    issuer: str = Field(
        min_length=1,
        description="Who must have made a token (`iss`). Its keys are found by OpenID discovery, if "
        "neither `jwks` nor `secret` says where they are.",
    )
    audience: str | list[str] = Field(
        description="For whom a token must be made (`aud`): one of these."
    )
    jwks: str | None = Field(
        None,
        description="Where the keys are: an https:// address, or a file of the project (JWKS).",
    )
    secret: SecretStr | None = Field(
        None, description="A secret shared with whoever makes tokens, instead of public keys."
    )
    algorithms: list[Asymmetric | Symmetric] | None = Field(
        None,
        min_length=1,
        description="Which signatures are taken. RS256, PS256, ES256, EdDSA, Ed25519 if left out; "
        "with `secret` HS256.",
    )
    type: str | None = Field(
        None, description="What the token must be by its `typ`, such as `at+jwt` (RFC 9068)."
    )
    leeway: Duration = Field(30.0, description="How far clocks may differ.")
    name: str = Field("sub", description="The claim that names the principal.")
    roles: str = Field(
        "roles", description="The claim that lists roles, such as `realm_access.roles`."
    )
    scopes: str = Field(
        "scope", description="The claim that lists scopes, as a list or with spaces between them."
    )

    @field_validator("audience")
    @classmethod
    def _some(cls, value: str | list[str]) -> str | list[str]:
        if not value or not all(value):
            raise ValueError("an audience is needed: without one, tokens for others would do")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Jwt:
        if self.secret is not None:
            if self.jwks is not None:
                raise ValueError("either `jwks` or `secret`")
            if len(self.secret.get_secret_value()) < _SHORTEST_SECRET:
                raise ValueError(f"the secret is too short: {_SHORTEST_SECRET} characters at least")
        shared = [one for one in self.algorithms or [] if one.startswith("HS")]
        # With both, whoever knows a public key could sign with it as if it were the secret.
        if self.algorithms and bool(self.secret) != (len(shared) == len(self.algorithms)):
            raise ValueError("HS256, HS384 and HS512 are for `secret`, and nothing else is")
        if self.secret is None and (self.jwks is None or "://" in self.jwks):
            key_url(self.jwks or self.issuer)
        return self

    @property
    def taken(self) -> Sequence[str]:
        """The algorithms that are."""
        if self.algorithms:
            return self.algorithms
        return ["HS256"] if self.secret else ["RS256", "PS256", "ES256", "EdDSA", "Ed25519"]
