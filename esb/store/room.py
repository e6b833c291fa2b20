"""How much a store may still grow, and the alarm before it may no longer.

Refusing new messages while there is still room keeps the bus alive: what lies in the store can be
delivered, moved and forgotten, which needs a little room itself.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from esb.adapter import Health
from esb.options import spelled_size

log = structlog.get_logger("esb.store")

MIN_FREE: Final = 256 * 1024**2
MIN_FREE_SHARE: Final = 0.05
"""What is kept free unless told otherwise: this share of the disk, but no more than MIN_FREE."""

WARN_SHARE: Final = 0.8
"""The part of `max_size` from which on people are warned."""
WARN_FREE: Final = 2
"""The multiple of `min_free` below which people are warned."""

Disk = Callable[[Path], tuple[int, int]]
"""The size of the disk that a file lies on, and what is left of it, in bytes."""


def disk_of(path: Path) -> tuple[int, int]:
    """What the file system says; root's own reserve is not counted as left."""
    found = os.statvfs(path)
    return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize


class Room:
    """The room of a store.

    max_size: bytes that messages may take up. folder: where on the disk; None if it is not ours to
    see. min_free: bytes that stay free on it; None for the default.
    """

    def __init__(
        self,
        max_size: int,
        folder: Path | None = None,
        min_free: int | None = None,
        disk: Disk = disk_of,
    ) -> None:
        self.max_size = max_size
        self.health = Health(True)
        self._folder = folder
        self._min_free = min_free
        self._disk = disk

    def left(self, used: int) -> int:
        """Bytes that messages which take up `used` may still grow by; below 0 if it is too much."""
        left = self.max_size - used
        if self._folder is not None:
            with contextlib.suppress(OSError):  # a disk that is not well tells whoever writes
                free, least = self._measured(self._folder)
                left = min(left, free - least)
        return left

    def free(self) -> int | None:
        """Bytes left on the disk, if that can be seen."""
        with contextlib.suppress(OSError):
            return None if self._folder is None else self._disk(self._folder)[1]
        return None

    def look(self, used: int) -> None:
        """See how things stand, for `health`, and log when that has changed."""
        before, self.health = self.health, self._judged(used)
        if self.health.up is not before.up:
            tell = log.info if self.health.up else log.error
            tell("there is room again" if self.health.up else self.health.detail)
        elif self.health.detail and not before.detail:
            log.warning(self.health.detail)

    def _judged(self, used: int) -> Health:
        share = f"messages take up {spelled_size(used)} of max_size ({spelled_size(self.max_size)})"
        if used >= self.max_size:
            return Health(False, f"{share}: new ones are refused")
        if self._folder is not None:
            free, least = self._measured(self._folder)
            short = f"the store's disk has {spelled_size(free)} left"
            if free <= least:
                refused = "new messages are refused"
                return Health(False, f"{short}, min_free is {spelled_size(least)}: {refused}")
            if free < WARN_FREE * least:
                return Health(True, f"{short}; below {spelled_size(least)} messages are refused")
        if used >= WARN_SHARE * self.max_size:
            return Health(True, share)
        return Health(True)

    def _measured(self, folder: Path) -> tuple[int, int]:
        size, free = self._disk(folder)
        if self._min_free is not None:
            return free, self._min_free
        return free, min(MIN_FREE, int(size * MIN_FREE_SHARE))
