"""Several ways to prove who one is, of which any will do; and the pauses of those who guess."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import structlog

from esb.audit import Tell
from esb.errors import Denied, Throttled
from esb.guessing import Failures
from esb.identity import Credentials, Principal, network_of
from esb.metrics import AUTHENTICATIONS

log = structlog.get_logger("esb.auth")


class Refused(Exception):
    """Credentials that are not valid. str tells operators why, and holds nothing of them.

    challenge: what the caller is told instead of the way's own challenge.
    """

    def __init__(self, why: str, challenge: str = "") -> None:
        super().__init__(why)
        self.challenge = challenge


class Method(Protocol):
    """One way; see `esb.identity.Authenticator` for the attributes that are there too.

    challenge: what a 401 says of it. scheme: the OpenAPI Security Scheme Object.
    """

    name: str
    challenge: str
    scheme: Mapping[str, Any]
    asks: frozenset[str]
    conceals: frozenset[str]

    def shown(self, credentials: Credentials) -> bool:
        """Whether there are credentials of this kind, right or wrong."""
        ...

    def user(self, credentials: Credentials) -> str:
        """Whom they claim to be of, where that can be guessed at; else ""."""
        ...

    async def verify(self, credentials: Credentials) -> Principal:
        """Whose they are. Raises Refused, or Transient if that cannot be told now."""
        ...


class AnyOf:
    """An Authenticator that knows whoever one of its methods knows. tell: who is to be told of
    those it does not know."""

    def __init__(
        self, methods: Sequence[Method], failures: Failures, tell: Tell | None = None
    ) -> None:
        self._methods = tuple(methods)
        self._failures = failures
        self._tell = tell
        self.asks = frozenset[str]().union(*(method.asks for method in methods))
        self.conceals = frozenset[str]().union(*(method.conceals for method in methods))
        self.described = {method.name: method.scheme for method in methods}

    async def authenticate(self, credentials: Credentials) -> Principal:
        """See Authenticator."""
        challenges = [method.challenge for method in self._methods]
        refused, claimed = False, ""
        later: list[Callable[[], None]] = []
        for index, method in enumerate(self._methods):
            if not method.shown(credentials):
                continue
            address = f"{method.name} at {network_of(credentials.address)}"
            claimed = method.user(credentials)
            user = f"user {method.name} {claimed}" if claimed else address
            if claimed:
                self._check(method, address, user, credentials, claimed)
            try:
                found = await method.verify(credentials)
            except Refused as e:
                refused = True
                challenges[index] = e.challenge or method.challenge
                count: Callable[[], None] = partial(
                    self._refused, method, address, user, credentials, claimed, str(e)
                )
                # Where nobody can guess, this comes last: the next method may know what is shown,
                # and whoever shares an address with one who fails is let in meanwhile.
                if claimed:
                    count()
                else:
                    later.append(count)
            else:
                if user != address:
                    self._failures.passed(user)
                AUTHENTICATIONS.labels(method.name, "known").value += 1
                return found
        for count in later:
            count()
        if self._tell is not None:
            self._tell("unauthenticated", address=credentials.address, user=claimed)
        text = "the credentials are not valid" if refused else "credentials are needed"
        raise Denied(text, challenge=[one for one in dict.fromkeys(challenges) if one])

    def _refused(
        self, method: Method, address: str, user: str, credentials: Credentials, claimed: str,
        why: str,
    ) -> None:  # fmt: skip
        self._check(method, address, user, credentials, claimed)
        log.warning("not let in", method=method.name, why=why, user=claimed[:100],
                    address=credentials.address)  # fmt: skip
        self._failures.failed(*{address, user})
        AUTHENTICATIONS.labels(method.name, "refused").value += 1

    def _check(
        self, method: Method, address: str, user: str, credentials: Credentials, claimed: str
    ) -> None:
        try:
            self._failures.check(address, user)
        except Throttled:
            AUTHENTICATIONS.labels(method.name, "paused").value += 1
            if self._tell is not None:
                self._tell("locked out", address=credentials.address, user=claimed)
            raise


def bearer(credentials: Credentials) -> str:
    """The token of an `Authorization: Bearer` (RFC 6750, section 2.1); "" if there is none, or
    more than one header."""
    values = credentials.headers.get_all("authorization")
    scheme, _, token = str(values[0]).partition(" ") if len(values) == 1 else ("", "", "")
    return token.strip() if scheme.lower() == "bearer" else ""
