"""Several ways to prove who one is, of which any will do; and the pauses of those who guess."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address, ip_address
from typing import Any, Final, Protocol

import structlog

from esb.clock import current
from esb.errors import Denied, Throttled
from esb.identity import Credentials, Principal
from esb.metrics import AUTHENTICATIONS

log = structlog.get_logger("esb.auth")

FREE: Final = 10
"""Failures of an address, or for a name, that cost nothing."""
LONGEST: Final = 60.0
"""Seconds of the longest pause. Whoever fails for somebody else's name makes that one wait too."""
FORGOTTEN: Final = 900.0
_MOST: Final = 10_000


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


class Failures:
    """Who failed how often lately, in this process. After some failures each costs a pause, twice
    as long as the one before."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def check(self, *keys: str) -> None:
        """Raises Throttled for whoever has to wait."""
        now = current.get().monotonic()
        for key in keys:
            count, last = self._known.get(key, (0, 0.0))
            left = last + _pause(count) - now
            if left > 0:
                raise Throttled("too many attempts failed", retry_after=left)

    def failed(self, *keys: str) -> None:
        """One more."""
        now = current.get().monotonic()
        for key in keys:
            count, last = self._known.pop(key, (0, now))
            self._known[key] = ((count if now - last < FORGOTTEN else 0) + 1, now)
        while len(self._known) > _MOST:
            self._known.popitem(last=False)

    def passed(self, key: str) -> None:
        """The failures for a name are over."""
        self._known.pop(key, None)


def _pause(count: int) -> float:
    return min(LONGEST, 2.0 ** min(count - FREE, 10)) if count >= FREE else 0.0


class AnyOf:
    """An Authenticator that knows whoever one of its methods knows."""

    def __init__(self, methods: Sequence[Method], failures: Failures) -> None:
        self._methods = tuple(methods)
        self._failures = failures
        self.asks = frozenset[str]().union(*(method.asks for method in methods))
        self.conceals = frozenset[str]().union(*(method.conceals for method in methods))
        self.described = {method.name: method.scheme for method in methods}

    async def authenticate(self, credentials: Credentials) -> Principal:
        """See Authenticator."""
        challenges = [method.challenge for method in self._methods]
        refused = False
        address = f"address {_network(credentials.address)}"
        for index, method in enumerate(self._methods):
            if not method.shown(credentials):
                continue
            claimed = method.user(credentials)
            user = f"user {method.name} {claimed}" if claimed else address
            try:
                self._failures.check(address, user)
            except Throttled:
                AUTHENTICATIONS.labels(method.name, "paused").value += 1
                raise
            try:
                found = await method.verify(credentials)
            except Refused as e:
                refused = True
                challenges[index] = e.challenge or method.challenge
                log.warning("not let in", method=method.name, why=str(e), user=claimed[:100],
                            address=credentials.address)  # fmt: skip
                self._failures.failed(*{address, user})
                AUTHENTICATIONS.labels(method.name, "refused").value += 1
            else:
                if user != address:
                    self._failures.passed(user)
                AUTHENTICATIONS.labels(method.name, "known").value += 1
                return found
        text = "the credentials are not valid" if refused else "credentials are needed"
        raise Denied(text, challenge=[one for one in dict.fromkeys(challenges) if one])


def _network(address: str) -> str:
    """What stands for an address: of IPv6 its network, of which a caller has all the rest."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(IPv6Address(int(parsed) >> 64 << 64))
    return address


def bearer(credentials: Credentials) -> str:
    """The token of an `Authorization: Bearer` (RFC 6750, section 2.1); "" if there is none, or
    more than one header."""
    values = credentials.headers.get_all("authorization")
    scheme, _, token = str(values[0]).partition(" ") if len(values) == 1 else ("", "", "")
    return token.strip() if scheme.lower() == "bearer" else ""
