"""What is written a turn later."""

from __future__ import annotations

import asyncio
from typing import Any

from esb.outbox import Outbox


class Transport:
    """One that notes what it gets, or raises."""

    def __init__(self, error: Exception | None = None) -> None:
        self.got: list[bytes] = []
        self.error = error
        self.aborted = False

    def is_closing(self) -> bool:
        return self.aborted

    def write(self, data: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.got.append(data)

    def abort(self) -> None:
        self.aborted = True


async def test_it_leaves_in_the_next_turn_in_its_order() -> None:
    outbox, one, other = Outbox(asyncio.get_running_loop()), Transport(), Transport()
    for transport, data in ((one, b"1"), (other, b"2"), (one, b"3")):
        outbox.put(_as_any(transport), data)
    assert one.got == []
    await asyncio.sleep(0)
    assert (one.got, other.got) == ([b"1", b"3"], [b"2"])


async def test_one_that_fails_takes_nothing_from_the_others() -> None:
    outbox = Outbox(asyncio.get_running_loop())
    broken, good = Transport(RuntimeError("no more after the end")), Transport()
    outbox.put(_as_any(broken), b"1")
    outbox.put(_as_any(good), b"2")
    await asyncio.sleep(0)
    assert (good.got, broken.aborted) == ([b"2"], True)


def _as_any(transport: Transport) -> Any:
    return transport
