"""API keys: a secret of high entropy in a header, of which a file holds the SHA-256 alone.

A fast hash is enough: a key of 256 random bits cannot be guessed, whatever the hash costs. Two keys
of one name are both good while the new one takes the place of the old.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field

from esb.auth.ways import Refused, bearer
from esb.clock import current
from esb.identity import Credentials, Principal
from esb.options import Options, Words
from esb.renewed import Renewed

_PREFIX: Final = "esb_"


def _sha256(value: str) -> str:
    if len(value) != 64 or set(value.lower()) - set("0123456789abcdef"):
        raise ValueError("a SHA-256 has 64 hex digits: `esb auth key NAME` prints one")
    return value.lower()


def _moment(value: Any) -> Any:
    if isinstance(value, str) and len(value) == 10:
        value = f"{value}T00:00:00"
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError("a moment is 2026-01-31 or 2026-01-31T12:00:00Z") from None
    return found.replace(tzinfo=UTC) if isinstance(found, datetime) and not found.tzinfo else found


Moment = Annotated[datetime, BeforeValidator(_moment, json_schema_input_type=str)]


class ApiKey(Options):
    """One key."""

    name: str = Field(min_length=1, description="Whose it is: `message.principal`.")
    sha256: Annotated[str, AfterValidator(_sha256)] = Field(
        description="SHA-256 of the key in hex digits."
    )
    roles: Words = Field([], description="Roles of whoever has it.")
    scopes: Words = Field([], description="Scopes of whoever has it.")
    claims: dict[str, Any] = Field({}, description="What else is known: `principal.claims`.")
    not_before: Moment | None = Field(None, description="It is good from then on.")
    expires: Moment | None = Field(None, description="It is good until then.")


class KeyFile(Options):
    """A file of API keys."""

    keys: list[ApiKey] = Field(description="The keys; several of one name are all good.")


class ApiKeysOptions(Options):
    """Keys in a header, as programs have them. The file is read again when it changes."""

    file: str = Field(description="The YAML file of the keys: `keys: [{name: ..., sha256: ...}]`.")
    header: str = Field(
        "X-API-Key",
        description="The header that holds the key. `Authorization: Bearer <key>` is taken too.",
    )


def new_key() -> tuple[str, str]:
    """A key, and its SHA-256 for the file."""
    key = _PREFIX + secrets.token_urlsafe(32)
    return key, digest(key)


def digest(key: str) -> str:
    """What a file holds of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


class ApiKeys:
    """A Method; see ApiKeysOptions."""

    asks: frozenset[str] = frozenset()

    def __init__(self, name: str, options: ApiKeysOptions, table: Renewed[KeyFile]) -> None:
        self.name = name
        self._header = options.header.lower()
        self._table = table
        self._keys: dict[str, ApiKey] = {}
        self._of: KeyFile | None = None
        self.conceals = frozenset({self._header})
        self.challenge = f'ApiKey realm="esb", header="{options.header}"'
        self.scheme: Mapping[str, Any] = {"type": "apiKey", "in": "header", "name": options.header}

    def shown(self, credentials: Credentials) -> bool:
        return bool(self._given(credentials))

    def user(self, credentials: Credentials) -> str:
        return ""

    async def verify(self, credentials: Credentials) -> Principal:
        given = self._given(credentials)
        if len(given) != 1:
            raise Refused("several keys were shown")
        found = self._known().get(digest(given[0]))
        if found is None:
            raise Refused("the key is not known")
        now = datetime.fromtimestamp(current.get().time(), UTC)
        if found.not_before is not None and now < found.not_before:
            raise Refused(f"the key of {found.name} is not good yet")
        if found.expires is not None and now >= found.expires:
            raise Refused(f"the key of {found.name} has expired")
        return Principal(
            name=found.name,
            method=self.name,
            roles=tuple(found.roles),
            scopes=tuple(found.scopes),
            claims=found.claims,
        )

    def _given(self, credentials: Credentials) -> Sequence[str]:
        values = [str(value).strip() for value in credentials.headers.get_all(self._header)]
        if values and self._header != "authorization":
            return values
        token = bearer(credentials)
        # What has two dots is a signed token, which is somebody else's business.
        return [token] if token and token.count(".") != 2 else []

    def _known(self) -> dict[str, ApiKey]:
        content = self._table.content
        if content is not self._of:
            self._of, self._keys = content, {key.sha256: key for key in content.keys}
        return self._keys
