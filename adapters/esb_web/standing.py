"""What all requests of an endpoint have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from esb_web.messages import UNSAFE

BITS: Final = {"accept": 1, "accept-encoding": 2, "authorization": 4, "user-agent": 8}
"""By lower-case name, the headers that requests may have in common."""


class Standing:
    """Headers that a request has unless it brings its own of that name, and how long it waits.

    raw: their lines. A name that has no bit is one that no request brings. connect_timeout,
    read_timeout: in seconds. Raises ValueError for a value that cannot be written.
    """

    __slots__ = ("_lines", "connect_timeout", "headers", "raw", "read_timeout")

    def __init__(
        self,
        headers: Sequence[tuple[str, str]],
        connect_timeout: float,
        read_timeout: float | None,
    ) -> None:
        for name, value in headers:
            if UNSAFE.search(value):
                raise ValueError(f"this {name} cannot be sent: it has a control character")
        self.headers = headers
        self.connect_timeout = connect_timeout
        self.read_timeout = read_timeout
        self._lines = [(BITS.get(n.lower(), 0), f"{n}: {v}\r\n".encode()) for n, v in headers]
        self.raw = self.without(0)

    def without(self, given: int) -> bytes:
        """The lines of those whose bits are not in `given`."""
        return b"".join([line for bit, line in self._lines if not bit & given])
