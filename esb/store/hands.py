"""What is in hand and who waits for more, as the writing thread knows it without asking the file.

There is one process to a file and one thread that writes it, so this memory is never wrong. The
file says what was in hand as well, for the process that comes after one that died.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import NamedTuple

from esb.durable import Stored


class Lying(NamedTuple):
    """Where a message lies, and the hold of the take that has it in hand (0: nobody has)."""

    channel: str
    group: str
    hold: int = 0
    crashes: int = 0


class Asked:
    """Somebody asks for up to `limit` messages of a channel.

    waits: until there is one; else the answer may be that there is none. in_order: only while
    nothing of the channel is in hand. answer: what was found, set in the event loop.
    """

    __slots__ = (
        "answer", "channel", "got", "hold", "in_order", "limit", "over", "turned_away", "waits",
    )  # fmt: skip

    def __init__(
        self,
        channel: str,
        limit: int,
        answer: asyncio.Future[list[Stored]],
        *,
        in_order: bool = False,
        waits: bool = False,
    ) -> None:
        self.channel = channel
        self.limit = limit
        self.answer = answer
        self.in_order = in_order
        self.waits = waits
        self.hold = 0
        self.got: list[Stored] = []
        self.turned_away = False
        """Whoever asked has to wait for what is in hand, whatever lies there."""
        self.over = False
        """It is answered, or nobody wants to know any more."""


class Hands:
    """Keeps account of both. What a transaction changes here can be undone until it is `kept`."""

    def __init__(self) -> None:
        self._lying: dict[int, Lying] = {}
        self._count: Counter[str] = Counter()
        self._before: list[tuple[int, Lying | None]] = []
        self._holds = 0
        self.waiting: dict[str, deque[Asked]] = {}
        """By channel: who found nothing there and has the next message that comes."""

    def __getitem__(self, key: int) -> Lying | None:
        return self._lying.get(key)

    def __bool__(self) -> bool:
        """Whether anything is in hand."""
        return bool(self._lying)

    def new_hold(self) -> int:
        """A number for a take."""
        self._holds += 1
        return self._holds

    def in_hand(self, channel: str) -> bool:
        """Whether anything of a channel is."""
        return self._count[channel] > 0

    def any_with(self, crashes: int) -> bool:
        """Whether anything is with which the process died so often."""
        return any(lying.crashes >= crashes for lying in self._lying.values())

    def of(self, channel: str) -> list[int]:
        """The keys of what is in hand of a channel."""
        return [key for key, lying in self._lying.items() if lying.channel == channel]

    def take(self, key: int, lying: Lying) -> None:
        """A message is in hand now."""
        self._before.append((key, self._set(key, lying)))

    def let_go(self, key: int) -> None:
        """A message is in nobody's hand now, if it was in anybody's."""
        self._before.append((key, self._set(key, None)))

    def kept(self) -> None:
        """What was changed is on the disk."""
        self._before.clear()

    def undo(self) -> None:
        """What was changed since the last that was kept is not so."""
        while self._before:
            self._set(*self._before.pop())

    def _set(self, key: int, lying: Lying | None) -> Lying | None:
        before = self._lying.pop(key, None)
        if before is not None:
            self._count[before.channel] -= 1
        if lying is not None:
            self._lying[key] = lying
            self._count[lying.channel] += 1
        return before

    def wait(self, asked: Asked) -> None:
        """The next message of its channel is for whoever asked, those before it first."""
        self.waiting.setdefault(asked.channel, deque()).append(asked)

    def turned_away(self) -> list[Asked]:
        """Those of them who have to wait for what is in hand."""
        return [one for queue in self.waiting.values() for one in queue if one.turned_away]

    def withdraw(self, asked: Asked) -> None:
        """Whoever asked waits no more."""
        queue = self.waiting.get(asked.channel)
        if queue is not None and asked in queue:
            queue.remove(asked)
            if not queue:
                del self.waiting[asked.channel]
