"""One timer for many deadlines: what a timer of its own a request would cost more than a request.

A timer that is armed and cancelled for every request costs 1.5 to 2 µs, and nearly none ever fires.
So whoever may become late is put into a set, which costs a tenth of that; one timer waits for the
earliest of them and looks through the set when it fires.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

_GRAIN: Final = 0.01
"""Seconds within which deadlines are the same: bounds how often the set is looked through."""


class Due(Protocol):
    """What has a deadline.

    due: on the clock of the event loop (`loop.time()`). It may be moved to later at any time; one
        that is moved to earlier must be added again.
    """

    due: float

    def expired(self) -> None:
        """Called once when `due` is over, unless discarded before; it may add itself again."""


class Deadlines:
    """Those of whoever was added and not discarded, in one event loop."""

    __slots__ = ("_armed", "_timer", "_waiting", "discard", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._waiting: set[Due] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._armed = float("inf")
        self.discard = self._waiting.discard
        """Forget one; nothing if it was never added."""

    def add(self, one: Due) -> None:
        """Call `one.expired()` when its time is over, up to 10 ms later."""
        self._waiting.add(one)
        if one.due < self._armed:
            self._arm(one.due)

    def close(self) -> None:
        """Forget all."""
        self._waiting.clear()
        self._disarm()

    def __len__(self) -> int:
        return len(self._waiting)

    def _arm(self, due: float) -> None:
        self._disarm()
        self._armed = due
        self._timer = self.loop.call_at(due + _GRAIN, self._look)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._armed = float("inf")

    def _look(self) -> None:
        # Each deadline of the last 10 ms is over by now, so none of them arms a timer of its own.
        self._timer = None
        now = self.loop.time()
        late = sorted((one for one in self._waiting if one.due <= now), key=lambda one: one.due)
        for one in late:
            if one not in self._waiting:
                continue  # the end of another was its end
            self._waiting.discard(one)
            try:
                one.expired()
            except Exception as e:  # noqa: BLE001 - told to the loop, and the others go on
                self.loop.call_exception_handler(
                    {"message": f"what was to be done with a late {one!r} failed", "exception": e}
                )
        self._armed = float("inf")
        next_one = min((one.due for one in self._waiting), default=None)
        if next_one is not None:
            self._arm(next_one)


class TimeLimit:
    """As `asyncio.timeout`: cancels what runs here after so many seconds, and raises TimeoutError.

    For what nearly never takes so long; it may be up to 10 ms late. ran_out: whether it did.
    """

    __slots__ = ("_cancelling", "_deadlines", "_seconds", "_task", "due", "ran_out")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.ran_out = False

    def __enter__(self) -> TimeLimit:
        task = asyncio.current_task()
        assert task is not None, "a time limit is one of a task"
        self._task = task
        self._cancelling = task.cancelling()
        self._deadlines = _of_this_loop()
        self.due = self._deadlines.loop.time() + self._seconds
        self._deadlines.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        self._deadlines.discard(self)
        # If somebody else wants the task to end as well, it ends.
        if (
            self.ran_out
            and self._task.uncancel() <= self._cancelling
            and (kind is asyncio.CancelledError)
        ):
            raise TimeoutError from error

    def expired(self) -> None:
        """See Due."""
        self.ran_out = True
        self._task.cancel()


_last: Deadlines | None = None


def _of_this_loop() -> Deadlines:
    """The one of all time limits in the loop that runs, which is mostly the same."""
    global _last
    loop = asyncio.get_running_loop()
    if _last is None or _last.loop is not loop:
        _last = Deadlines(loop)
    return _last
