"""Who is turned away when too many are there, so that those who are let in get an answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.stores import message
from support.waiting import until

from esb.clock import Clock
from esb.envelope import Envelope
from esb.errors import Overloaded
from esb.middleware.limit import SHED, Bulkhead, limited


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.clock = Clock(lambda: self.now, lambda: self.now, asyncio.sleep)

    def asks(self, patience: float | None = 10.0) -> Envelope:
        return message(deadline=None if patience is None else self.now + patience)


async def busy(bulkhead: Bulkhead, hand: Hand, waiting: int) -> list[asyncio.Task[None]]:
    """One is inside, and so many wait."""
    await bulkhead.enter(hand.asks())
    tasks = [asyncio.ensure_future(bulkhead.enter(hand.asks())) for _ in range(waiting)]
    await until(lambda: bulkhead.waiting == waiting)
    return tasks


async def turn(bulkhead: Bulkhead, hand: Hand, after: float) -> None:
    hand.now += after
    bulkhead.leave()
    await asyncio.sleep(0)


async def test_whose_turn_would_come_too_late_is_told_at_once() -> None:
    hand = Hand()
    bulkhead = Bulkhead(1, what="it", name="hopeless test", clock=hand.clock)
    tasks = await busy(bulkhead, hand, 3)
    await turn(bulkhead, hand, after=2.0)
    assert bulkhead.waiting == 2  # two seconds each, so a third waits for six
    with pytest.raises(Overloaded, match="no turn would come in time") as caught:
        await bulkhead.enter(hand.asks(patience=5.9))
    assert caught.value.retry_after == 6.0
    assert SHED.labels("hopeless test", "hopeless").value == 1
    tasks.append(asyncio.ensure_future(bulkhead.enter(hand.asks(patience=6.1))))
    await until(lambda: bulkhead.waiting == 3)
    for _ in tasks:
        await turn(bulkhead, hand, after=0.1)
    await asyncio.gather(*tasks)


async def test_what_nobody_waits_for_always_waits() -> None:
    hand = Hand()
    bulkhead = Bulkhead(1, what="it", waiting=1, clock=hand.clock)
    tasks = await busy(bulkhead, hand, 1)
    await turn(bulkhead, hand, after=100.0)
    tasks += [asyncio.ensure_future(bulkhead.enter(hand.asks(None))) for _ in range(5)]
    await until(lambda: bulkhead.waiting == 5)
    for _ in tasks:
        bulkhead.leave()
    await asyncio.gather(*tasks)


async def test_a_slow_hour_is_forgotten_when_it_is_over() -> None:
    hand = Hand()
    bulkhead = Bulkhead(1, what="it", clock=hand.clock)
    tasks = await busy(bulkhead, hand, 1)
    await turn(bulkhead, hand, after=100.0)  # a turn took that long, and now nobody waits
    await asyncio.gather(*tasks)
    again = asyncio.ensure_future(bulkhead.enter(hand.asks(patience=5.0)))
    await until(lambda: bulkhead.waiting == 1)
    await turn(bulkhead, hand, after=0.1)
    await again


async def test_as_many_wait_as_are_said() -> None:
    gate = asyncio.Event()

    async def work(envelope: Envelope) -> Envelope:
        await gate.wait()
        return envelope

    step = limited(2, route="full test", waiting=3)(work)
    loop = asyncio.get_running_loop()

    async def ask() -> Any:
        return await step(message(deadline=loop.time() + 1e6))

    tasks = [asyncio.ensure_future(ask()) for _ in range(20)]
    await until(lambda: sum(task.done() for task in tasks) == 15)
    gate.set()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(one, Envelope) for one in ended) == 5
    assert sum(isinstance(one, Overloaded) for one in ended) == 15
    assert SHED.labels("full test", "full").value == 15
