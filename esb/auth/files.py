"""A file of callers that is read again when it changes, so that one who is taken out is out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

import structlog

from esb.clock import current

T = TypeVar("T")
log = structlog.get_logger("esb.auth")

LOOK_EVERY: Final = 2.0
"""Seconds between two looks at a file."""


class Table(Generic[T]):
    """What such a file says.

    read: reads it; raises ValueError for what cannot be used, and then what was read before stays.
    """

    def __init__(self, path: Path, content: T, read: Callable[[], T]) -> None:
        self._path = path
        self._content = content
        self._read = read
        self._stamp = self._look()
        self._next = current.get().monotonic() + LOOK_EVERY

    @property
    def content(self) -> T:
        """What the file says, as it was within the last seconds."""
        now = current.get().monotonic()
        if now >= self._next:
            self._next = now + LOOK_EVERY
            stamp = self._look()
            if stamp != self._stamp:
                self._stamp = stamp
                self._again()
        return self._content

    def _again(self) -> None:
        try:
            self._content = self._read()
        except (ValueError, OSError) as e:
            log.error("a file of callers cannot be read again: those it had stay",
                      file=self._path.name, why=str(e))  # fmt: skip
        else:
            log.info("a file of callers was read again", file=self._path.name)

    def _look(self) -> tuple[int, int, int]:
        try:
            found = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return (found.st_mtime_ns, found.st_size, found.st_ino)
