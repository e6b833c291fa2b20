"""HTTP basic (RFC 7617), with passwords hashed by argon2id (RFC 9106).

A hash takes tens of milliseconds and megabytes, which is its purpose and would be an attack: few are
computed at a time, beside the event loop; what was right is remembered for a while under a digest
that only this process can make; and whoever was wrong too often waits.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import os
import re
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field

from esb.adapter import Build
from esb.credentials import Credentials, Principal
from esb.errors import Denied, Overloaded, Quota, Throttled
from esb.options import Options

REMEMBERED: Final = 60.0
"""Seconds for which a password that was right is not hashed again."""

_MOST: Final = 10_000  # that are remembered
_AT_ONCE: Final = 2
_WAITING: Final = 50
_LONGEST: Final = 1024  # characters of a header

FREE_TRIES: Final = 5
"""How often one may be wrong before one has to wait, a second at first."""
LONGEST_PAUSE: Final = 300.0

_HASH: Final = re.compile(r"\$argon2id\$v=\d+\$m=\d+,t=\d+,p=\d+\$[\w+/=]+\$[\w+/=]+\Z", re.ASCII)
_POOL: Final = ThreadPoolExecutor(_AT_ONCE, "argon2")
os.register_at_fork(after_in_child=lambda: globals().update(_POOL=ThreadPoolExecutor(_AT_ONCE)))


def _hash(value: str) -> str:
    if not _HASH.match(value):
        raise ValueError("a hash of argon2id is expected: `esb auth password` prints one")
    return value


@cache
def _hasher() -> Any:
    from argon2 import PasswordHasher  # not needed by those who have no passwords

    return PasswordHasher()


class User(Options):
    """A user, without the password."""

    password: Annotated[str, AfterValidator(_hash)] = Field(
        description="The hash of the password; `esb auth password` makes one."
    )
    roles: list[str] = Field([], description="The user's roles.")
    scopes: list[str] = Field([], description="The user's scopes.")


class UserFile(Options):
    """A file of users."""

    users: dict[str, User] = Field({}, description="The users, by their names.")


class Basic(Options):
    """User name and password. Over anything but TLS whoever listens can read them.

    For example:

        auth:
          staff: {basic: {users: staff.yaml}}
    """

    users: str = Field(
        description='YAML: `users: {alice: {password: "$argon2id$...", roles: [clerk]}}`. A reload '
        "reads it again."
    )


class BasicGuard:
    """See Basic."""

    needs_body = False

    def __init__(self, name: str, options: Basic, build: Build) -> None:
        found, _ = build.include(options.users, UserFile, "users", secret=True)
        self._name = name
        self._users = found.users
        self._nobody = hash_password(secrets.token_hex(16))
        self._clock = build.clock
        self._right = build.shared(("auth", name, "right"), _Remembered)
        self._tries = build.shared(("auth", name, "tries"), _Tries)
        self._waiting = 0
        self.schemes: Mapping[str, Mapping[str, Any]] = {name: {"type": "http", "scheme": "basic"}}
        self.challenge = f'Basic realm="{name}", charset="UTF-8"'

    def offered(self, shown: Credentials) -> bool:
        """Whether there is a user name and a password."""
        return str(shown.headers.get("authorization", ""))[:6].lower() == "basic "

    async def admit(self, shown: Credentials) -> Principal:
        """Which user it is. Raises Denied, Throttled, or Overloaded if too many are asking."""
        user, password = _read(str(shown.headers.get("authorization", "")))
        known = self._users.get(user)
        hashed = known.password if known is not None else self._nobody
        now = self._clock.monotonic()
        if not self._right.has(user, password, hashed, now):
            tried = (shown.address, user)
            self._tries.check(tried, now)
            right = await self._verified(hashed, password)
            if not right or known is None:
                self._tries.failed(tried, now)
                raise Denied("the user name or the password is wrong")
            self._tries.forget(tried)
            self._right.add(user, password, hashed, now + REMEMBERED)
        assert known is not None
        return Principal(name=user, auth=self._name, roles=known.roles, scopes=known.scopes)

    async def _verified(self, hashed: str, password: str) -> bool:
        if self._waiting >= _WAITING:
            raise Overloaded("too many passwords are being looked at", retry_after=1.0)
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(_POOL, _is_right, hashed, password)
        finally:
            self._waiting -= 1


def _is_right(hashed: str, password: str) -> bool:
    from argon2.exceptions import InvalidHashError, VerificationError

    try:
        return bool(_hasher().verify(hashed, password))
    except (VerificationError, InvalidHashError):
        return False


def _read(header: str) -> tuple[str, str]:
    """User and password. Raises Denied."""
    try:
        if len(header) > _LONGEST:
            raise ValueError
        text = base64.b64decode(header[6:].strip(), validate=True).decode()
        user, colon, password = text.partition(":")
        if not colon or any(ord(c) < 32 for c in text):
            raise ValueError
    except (binascii.Error, ValueError) as e:
        raise Denied("the credentials are malformed") from e
    return user, password


class _Remembered:
    """Passwords that were right not long ago, by a digest with a key of this process."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def _mark(self, *texts: str) -> bytes:
        made = hashlib.blake2b(key=self._key, digest_size=32)
        for text in texts:
            raw = text.encode()
            made.update(len(raw).to_bytes(4, "big") + raw)
        return made.digest()

    def has(self, user: str, password: str, hashed: str, now: float) -> bool:
        return self._until.get(self._mark(user, password, hashed), 0.0) > now

    def add(self, user: str, password: str, hashed: str, until: float) -> None:
        self._until[self._mark(user, password, hashed)] = until
        if len(self._until) > _MOST:
            self._until.popitem(last=False)


class _Tries:
    """Who was wrong how often, by address and user: nobody locks out a user elsewhere."""

    def __init__(self) -> None:
        self._wrong: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()

    def check(self, who: tuple[str, str], now: float) -> None:
        """Raises Throttled if it is too early to try again."""
        _, until = self._wrong.get(who, (0, 0.0))
        if now < until:
            pause = until - now
            quota = Quota("login", FREE_TRIES, int(LONGEST_PAUSE), 0, pause, broken=True)
            raise Throttled("too many wrong passwords", retry_after=pause, quotas=[quota])

    def failed(self, who: tuple[str, str], now: float) -> None:
        """Once more."""
        count = self._wrong.pop(who, (0, 0.0))[0] + 1
        over = count - FREE_TRIES
        pause = min(2.0 ** min(over, 16), LONGEST_PAUSE) if over >= 0 else 0.0
        self._wrong[who] = (count, now + pause)
        if len(self._wrong) > _MOST:
            self._wrong.popitem(last=False)

    def forget(self, who: tuple[str, str]) -> None:
        """It was right."""
        self._wrong.pop(who, None)


def hash_password(password: str) -> str:
    """What is written down of a password."""
    return str(_hasher().hash(password))
