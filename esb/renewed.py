"""What files say that may change while a bus runs: callers, so that one who is taken out is out,
and certificates, as cert-manager and certbot renew them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Generic, TypeVar

import structlog

from esb.clock import current

T = TypeVar("T")
log = structlog.get_logger("esb.renewed")

LOOK_EVERY: Final = 2.0
"""Seconds between two looks at a file."""


class Renewed(Generic[T]):
    """What files say, read again when one of them changes.

    what: they, as people call them. first, read: read them, the first time and each other; if the
    latter raises ValueError or OSError, as while one of them is written, what was read before
    stays. Raises what `first` does.
    """

    def __init__(
        self, what: str, files: Sequence[Path], first: Callable[[], T], read: Callable[[], T]
    ) -> None:
        self._what = what
        self._files = files
        self._read = read
        self._stamps = self._look()  # before, so that no change is missed
        self._content = first()
        self._next = current.get().monotonic() + LOOK_EVERY

    @property
    def content(self) -> T:
        """What the files say, as it was within the last seconds."""
        now = current.get().monotonic()
        if now >= self._next:
            self._next = now + LOOK_EVERY
            stamps = self._look()
            if stamps != self._stamps:
                self._stamps = stamps
                self._again()
        return self._content

    def _again(self) -> None:
        try:
            self._content = self._read()
        except (ValueError, OSError) as e:
            log.error("what was renewed cannot be read: what was there before stays",
                      what=self._what, why=str(e))  # fmt: skip
        else:
            log.info("what was renewed was read again", what=self._what)

    def _look(self) -> list[tuple[int, int, int]]:
        return [_stamp(file) for file in self._files]


def _stamp(file: Path) -> tuple[int, int, int]:
    try:
        found = file.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)
