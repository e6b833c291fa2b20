"""The loop whose time passes only when nothing else is left to be done."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from esb.testing.virtual import Restless, VirtualLoop, virtual_clock

T = TypeVar("T")


def run(what: Callable[[VirtualLoop], Awaitable[T]]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)

        async def main() -> T:
            return await what(loop)

        return runner.run(main())


def test_a_year_takes_no_time() -> None:
    async def sleeping(loop: VirtualLoop) -> tuple[float, float]:
        clock = virtual_clock(loop, 1000.0)
        await clock.sleep(365 * 86_400)
        return clock.time(), clock.monotonic()

    begun = time.monotonic()
    assert run(sleeping) == (1000.0 + 365 * 86_400, 365 * 86_400)
    assert time.monotonic() - begun < 5


def test_timers_go_off_in_their_order_and_timeouts_hold() -> None:
    async def several(loop: VirtualLoop) -> list[object]:
        seen: list[object] = []

        async def after(seconds: float) -> None:
            await asyncio.sleep(seconds)
            seen.append((seconds, loop.time()))

        await asyncio.gather(*(after(seconds) for seconds in (30, 10, 20)))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.sleep(6)
        return [*seen, loop.time()]

    assert run(several) == [(10, 10), (20, 20), (30, 30), 35]


def test_time_stands_still_while_a_thread_works() -> None:
    async def beside(loop: VirtualLoop) -> tuple[bool, float]:
        done = threading.Event()

        def work() -> None:
            done.wait(0.05)
            done.set()

        timer = asyncio.create_task(asyncio.sleep(1000))
        await asyncio.to_thread(work)
        return timer.done(), loop.time()

    assert run(beside) == (False, 0.0)


def test_whoever_waits_for_rest_decides_how_time_passes() -> None:
    async def decided(loop: VirtualLoop) -> list[float | None]:
        sleeping = asyncio.create_task(asyncio.sleep(10))
        seen = [await loop.idle(), await loop.idle()]
        assert not sleeping.done()
        loop.jump(10)
        seen.append(await loop.idle())
        assert sleeping.done()
        return seen

    assert run(decided) == [10, 10, None]


def test_what_runs_in_circles_is_restless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esb.testing.virtual.PATIENCE", 0.05)

    async def circles(_: VirtualLoop) -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Restless):
        run(circles)
