"""Names and passwords (RFC 7617), kept as argon2id hashes (RFC 9106).

A check is meant to cost much: it runs in a thread, few at a time, and who was let in is remembered
for a short while under a keyed digest that means nothing outside of this process.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field

from esb.auth.ways import Refused
from esb.clock import current
from esb.errors import Overloaded
from esb.identity import Credentials, Principal
from esb.options import Duration, Options, Words
from esb.renewed import Renewed

_AT_ONCE: Final = 2
_WAITING: Final = 50
_REMEMBERED: Final = 1000
_LONGEST: Final = 1024  # characters of either: it is remembered which names have failed


def _hash(value: str) -> str:
    if not value.startswith("$argon2id$"):
        raise ValueError("a password is an argon2id hash: `esb auth password` prints one")
    return value


class User(Options):
    """One user."""

    name: str = Field(min_length=1, description="The user's name: `message.principal`.")
    password: Annotated[str, AfterValidator(_hash)] = Field(
        description="argon2id hash of the password: `$argon2id$v=19$...`."
    )
    roles: Words = Field([], description="The user's roles.")
    scopes: Words = Field([], description="The user's scopes.")
    claims: dict[str, Any] = Field({}, description="What else is known: `principal.claims`.")


class UserFile(Options):
    """A file of users."""

    users: list[User] = Field(description="The users.")


class BasicOptions(Options):
    """HTTP basic: a name and a password, as people have them. The file is read again when it
    changes. Needs esb[basic]."""

    users: str = Field(
        description="The YAML file of the users: `users: [{name: ..., password: $argon2id$...}]`."
    )
    realm: str = Field("esb", pattern=r'^[^"\\\r\n]*$', description="What a browser shows.")
    remember: Duration = Field(
        60.0, description="How long a password that was right is not checked again."
    )


def hashed(password: str) -> str:
    """What a file holds of a password. Raises ImportError without esb[basic]."""
    from argon2 import PasswordHasher

    return PasswordHasher().hash(password)


class Basic:
    """A Method; see BasicOptions. Raises ImportError without esb[basic]."""

    asks: frozenset[str] = frozenset()
    conceals: frozenset[str] = frozenset()  # Authorization is forwarded and kept nowhere

    def __init__(self, name: str, options: BasicOptions, table: Renewed[UserFile]) -> None:
        from argon2 import PasswordHasher

        self.name = name
        self._hasher = PasswordHasher()
        self._table = table
        self._named: dict[str, User] = {}
        self._of: UserFile | None = None
        self._remember = options.remember
        self._key = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, float] = OrderedDict()
        self._threads = ThreadPoolExecutor(_AT_ONCE, "esb-passwords")
        self._waiting = 0
        self._nobody = self._hasher.hash(secrets.token_hex())
        self.challenge = f'Basic realm="{options.realm}", charset="UTF-8"'
        self.scheme: Mapping[str, Any] = {"type": "http", "scheme": "basic"}

    def shown(self, credentials: Credentials) -> bool:
        values = credentials.headers.get_all("authorization")
        return any(str(value)[:6].lower() == "basic " for value in values)

    def user(self, credentials: Credentials) -> str:
        try:
            return _given(credentials)[0]
        except Refused:
            return ""

    async def verify(self, credentials: Credentials) -> Principal:
        name, password = _given(credentials)
        found = self._users().get(name)
        expected = found.password if found is not None else self._nobodys(name)
        if not await self._right(name, password, expected) or found is None:
            raise Refused("the password is wrong" if found else "the user is not known")
        return Principal(
            name=name,
            method=self.name,
            roles=tuple(found.roles),
            scopes=tuple(found.scopes),
            claims=found.claims,
        )

    def _users(self) -> dict[str, User]:
        content = self._table.content
        if content is not self._of:
            # Of two of one name the first counts.
            self._of, self._named = content, {one.name: one for one in reversed(content.users)}
        return self._named

    def _nobodys(self, name: str) -> str:
        """A hash for a name that nobody has, which takes as long as that of somebody: of another
        for each name, since not all need have been made alike. No password fits it."""
        if not (users := self._table.content.users):
            return self._nobody
        number = int.from_bytes(hashlib.blake2b(name.encode(), key=self._key).digest())
        made, _, digest = users[number % len(users)].password.rpartition("$")
        return f"{made}${_other(digest)}"

    async def _right(self, name: str, password: str, expected: str) -> bool:
        # With the hash in it: whoever gets another password has the old one no longer.
        about = "\0".join((name, expected, password)).encode()
        mark = hashlib.blake2b(about, key=self._key).digest()
        now = current.get().monotonic()
        if self._known.get(mark, 0.0) > now:
            return True
        if self._waiting >= _WAITING:
            raise Overloaded("too many passwords are being checked", retry_after=1.0)
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            right = await loop.run_in_executor(self._threads, self._checked, expected, password)
        finally:
            self._waiting -= 1
        if right:
            self._known.pop(mark, None)
            self._known[mark] = now + self._remember
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return right

    def _checked(self, expected: str, password: str) -> bool:
        from argon2.exceptions import InvalidHashError, VerificationError

        try:
            return self._hasher.verify(expected, password)
        except (VerificationError, InvalidHashError):
            return False


def _other(digest: str) -> str:
    """Another digest of the same length."""
    length = len(digest) * 3 // 4
    return base64.b64encode(secrets.token_bytes(length)).decode().rstrip("=")


def _given(credentials: Credentials) -> tuple[str, str]:
    values = credentials.headers.get_all("authorization")
    if len(values) != 1:
        raise Refused("several credentials were shown")
    try:
        text = base64.b64decode(str(values[0])[6:].strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        raise Refused("the credentials are malformed") from None
    name, colon, password = text.partition(":")
    if not colon or max(len(name), len(password)) > _LONGEST:
        raise Refused("the credentials are malformed")
    return name, password
