"""Those who guess at keys and passwords, and the pauses they have to make."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from esb.clock import current
from esb.errors import Throttled

FREE: Final = 10
"""Failures of an address, or for a name, that cost nothing."""
LONGEST: Final = 60.0
"""Seconds of the longest pause. Whoever fails for somebody else's name makes that one wait too."""
FORGOTTEN: Final = 900.0
_MOST: Final = 10_000


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
