"""How the bus shows who it is at far sides: the options of `auth`.

A user's name and password, a token or a key are the same for every request, so their header is
written once. What depends on the request or the time is made for each (see esb_web.signed).
"""

from __future__ import annotations

import base64
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, SecretStr, model_validator

from esb.options import Options
from esb.signing import Form
from esb_web.messages import HOP_BY_HOP, TOKEN

_NOT_OURS: Final = HOP_BY_HOP | {"content-length", "content-type", "host"}


def _header(name: str) -> str:
    if not TOKEN.match(name) or name.lower() in _NOT_OURS:
        raise ValueError("this is no header that credentials can stand in")
    return name


HeaderName = Annotated[str, AfterValidator(_header)]


class Basic(Options):
    """A user's name and password (RFC 7617)."""

    username: str = Field(description="The name.")
    password: SecretStr = Field(description="The password; write ${NAME} or name a secret file.")


class ApiKey(Options):
    """A key in a header."""

    key: SecretStr = Field(description="The key; write ${NAME} or name a secret file.")
    header: HeaderName = Field("X-API-Key", description="The header it stands in.")


class Hmac(Options):
    """A signature of the body by a secret that both sides have (HMAC with SHA-256), as webhooks
    have it. The body is read for it."""

    secret: SecretStr = Field(description="The secret; write ${NAME} or name a secret file.")
    header: HeaderName = Field("X-Hub-Signature-256", description="The header it stands in.")
    form: Form = Field(
        "github",
        description="How it is written: github (sha256=<hex>), stripe (t=<time>,v1=<hex>, over "
        "time and body), hex or base64.",
    )


class OAuth2(Options):
    """A token for the bus itself (client credentials; RFC 6749, section 4.4).

    It is asked for when the first message needs it, kept until shortly before it ends, and shared
    by all endpoints with the same options. If a service answers 401, another is asked for and the
    request is sent once more.
    """

    token_url: str = Field(description="The token endpoint: https://login.example/oauth2/token.")
    client_id: str = Field(description="Who the bus is there.")
    client_secret: SecretStr | None = Field(
        None, description="Its secret; write ${NAME} or name a secret file."
    )
    client_auth: Literal["basic", "body"] = Field(
        "basic", description="How the secret is shown: in a header, or in the form that is sent."
    )
    private_key: SecretStr | None = Field(
        None,
        description="Instead of a secret: the private key (PEM) that signs who the bus is "
        "(private_key_jwt; RFC 7523). Write ${file:...}.",
    )
    key_id: str = Field("", description="The key's name, where the far side knows several.")
    algorithm: Literal["RS256", "PS256", "ES256", "EdDSA"] = Field(
        "RS256", description="How the key signs."
    )
    scope: str = Field("", description="What is asked for, with spaces in between.")
    audience: str = Field("", description="Who the token is for, where the far side wants that.")

    @model_validator(mode="after")
    def _complete(self) -> OAuth2:
        if (self.client_secret is None) == (self.private_key is None):
            raise ValueError("oauth2 is with client_secret or private_key, one of them")
        if not self.token_url.startswith(("https://", "http://", "${")):
            raise ValueError("token_url starts with https://")
        return self


class AwsSigV4(Options):
    """A signature for services of AWS, version 4. It needs `esb[aws]`."""

    service: str = Field(description="The service: s3, execute-api, lambda.")
    region: str = Field(description="Its region: eu-central-1.")
    access_key_id: str = Field(description="The key's name.")
    secret_access_key: SecretStr = Field(
        description="The key; write ${NAME} or name a secret file."
    )
    session_token: SecretStr | None = Field(None, description="What goes with temporary keys.")
    payload: Literal["signed", "unsigned"] = Field(
        "signed",
        description="unsigned: the body is not read for the signature, so that a large one passes "
        "as it arrives; only with https.",
    )


class Auth(Options):
    """How the bus shows who it is: one of these."""

    basic: Basic | None = Field(None, description="User name and password.")
    bearer: SecretStr | None = Field(None, description="A token (RFC 6750).")
    api_key: ApiKey | None = Field(None, description="A key in a header.")
    oauth2: OAuth2 | None = Field(None, description="A token that a token endpoint gives.")
    hmac: Hmac | None = Field(None, description="A signature of the body.")
    aws_sigv4: AwsSigV4 | None = Field(None, description="A signature for services of AWS.")

    @model_validator(mode="after")
    def _one(self) -> Auth:
        if sum(getattr(self, name) is not None for name in type(self).model_fields) != 1:
            raise ValueError("auth is one of basic, bearer, api_key, oauth2, hmac or aws_sigv4")
        return self

    def header(self) -> tuple[str, str] | None:
        """The header of every request, where that is the same each time."""
        if self.bearer is not None:
            return "Authorization", f"Bearer {self.bearer.get_secret_value()}"
        if self.api_key is not None:
            return self.api_key.header, self.api_key.key.get_secret_value()
        if self.basic is not None:
            return "Authorization", basic(
                self.basic.username, self.basic.password.get_secret_value()
            )
        return None

    @property
    def writes(self) -> tuple[str, ...]:
        """Headers that neither a message nor an option may set beside these credentials."""
        if self.api_key is not None:
            return (self.api_key.header,)
        if self.hmac is not None:
            return (self.hmac.header,)
        if self.oauth2 is not None:
            return ("Authorization",)
        return AWS if self.aws_sigv4 is not None else ()

    @property
    def reads_body(self) -> bool:
        """Whether the body must be there before the request is sent."""
        return self.hmac is not None or (
            self.aws_sigv4 is not None and self.aws_sigv4.payload == "signed"
        )


AWS: Final = ("Authorization", "X-Amz-Date", "X-Amz-Content-SHA256", "X-Amz-Security-Token")


def basic(username: str, password: str) -> str:
    """The value of an Authorization header (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
