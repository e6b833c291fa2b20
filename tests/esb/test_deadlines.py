"""One timer for many deadlines, in a loop whose time passes at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esb.deadlines import Deadlines, TimeLimit
from esb.testing.virtual import VirtualLoop


class One:
    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, then: Any = None) -> None:
        self._loop = loop
        self._then: Callable[[], None] = then or (lambda: None)
        self.due = loop.time() + seconds
        self.late: list[float] = []

    def expired(self) -> None:
        self.late.append(self._loop.time())
        self._then()


class Counting(VirtualLoop):
    """Counts its timers."""

    timers = 0

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        self.timers += 1
        return super().call_at(when, callback, *args, context=context)


def run(what: Callable[[Counting], Any]) -> Any:
    with asyncio.Runner(loop_factory=Counting) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, Counting)
        return runner.run(what(loop))


@given(
    st.lists(
        st.tuples(st.integers(0, 300), st.booleans(), st.integers(0, 100)), min_size=1, max_size=30
    )
)
def test_whoever_is_late_is_told_once_and_soon(plan: list[tuple[int, bool, int]]) -> None:
    async def main(loop: Counting) -> None:
        deadlines = Deadlines(loop)
        made = []
        for seconds, forgotten, later in plan:
            one = One(loop, seconds / 10)
            deadlines.add(one)
            one.due += later / 10
            if forgotten:
                deadlines.discard(one)
            made.append((one, forgotten))
        await asyncio.sleep(100)
        assert len(deadlines) == 0
        for one, forgotten in made:
            if forgotten:
                assert one.late == []
            else:
                (when,) = one.late
                assert one.due <= when <= one.due + 0.011

    run(main)


def test_what_is_over_in_time_needs_no_timer_of_its_own() -> None:
    async def main(loop: Counting) -> None:
        deadlines = Deadlines(loop)
        before = loop.timers
        for _ in range(1000):
            one = One(loop, 30)
            deadlines.add(one)
            deadlines.discard(one)
        assert loop.timers == before + 1

    run(main)


def test_an_earlier_deadline_takes_the_timer() -> None:
    async def main(loop: Counting) -> None:
        deadlines = Deadlines(loop)
        long, short = One(loop, 60), One(loop, 1)
        deadlines.add(long)
        deadlines.add(short)
        await asyncio.sleep(2)
        assert short.late
        assert not long.late
        await asyncio.sleep(60)
        assert long.late

    run(main)


def test_the_end_of_one_may_be_the_end_of_another_or_its_own_next_deadline() -> None:
    async def main(loop: Counting) -> None:
        deadlines = Deadlines(loop)

        def again() -> None:
            deadlines.discard(other)
            if len(one.late) < 3:
                one.due = loop.time() + 5
                deadlines.add(one)

        one, other = One(loop, 1, again), One(loop, 1.001)
        deadlines.add(other)
        deadlines.add(one)
        await asyncio.sleep(30)
        assert one.late == pytest.approx([1.01, 6.02, 11.03], abs=0.01)
        assert other.late == []

    run(main)


def test_one_that_fails_keeps_nobody_waiting() -> None:
    async def main(loop: Counting) -> None:
        deadlines = Deadlines(loop)
        told: list[Any] = []
        loop.set_exception_handler(lambda _, context: told.append(context["exception"]))

        def fail() -> None:
            raise ValueError("no")

        first, second = One(loop, 1, fail), One(loop, 1)
        deadlines.add(first)
        deadlines.add(second)
        await asyncio.sleep(2)
        assert second.late
        assert [type(e) for e in told] == [ValueError]

    run(main)


def test_closed_it_tells_nobody() -> None:
    async def main(loop: Counting) -> None:
        deadlines = Deadlines(loop)
        one = One(loop, 1)
        deadlines.add(one)
        deadlines.close()
        await asyncio.sleep(5)
        assert one.late == []
        assert len(deadlines) == 0

    run(main)


# --- time limits ----------------------------------------------------------------------------------


async def forever() -> str:
    await asyncio.Event().wait()
    return "never"


async def swallows() -> str:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return "swallowed"
    return "never"


async def translates() -> str:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        raise ValueError("mine") from None
    return "never"


async def waits_then(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"


async def raises() -> str:
    await asyncio.sleep(0)
    raise ValueError("mine")


INSIDE = {
    "forever": forever,
    "swallows": swallows,
    "translates": translates,
    "in time": lambda: waits_then(1),
    "raises": raises,
}


@pytest.mark.parametrize("outer", [None, 3, 8])
@pytest.mark.parametrize("cancelled_at", [None, 2, 5, 7])
@pytest.mark.parametrize("inside", INSIDE)
def test_a_time_limit_ends_as_a_timeout_of_asyncio_does(
    inside: str, cancelled_at: float | None, outer: float | None
) -> None:
    async def end(loop: Counting, limit: Callable[[float | None], Any]) -> tuple[str, int]:
        async def limited() -> str:
            async with limit(outer), limit(5):
                return await INSIDE[inside]()

        task = asyncio.ensure_future(limited())
        if cancelled_at is not None:
            loop.call_later(cancelled_at, task.cancel)
        await asyncio.wait((task,))
        if task.cancelled():
            return "cancelled", task.cancelling()
        error = task.exception()
        return repr(error) if error else task.result(), task.cancelling()

    @contextlib.asynccontextmanager
    async def ours(seconds: float | None) -> AsyncIterator[None]:
        # 10 ms earlier, since it may be as much too late.
        with TimeLimit(seconds - 0.01) if seconds is not None else contextlib.nullcontext():
            yield

    async def main(loop: Counting) -> None:
        assert await end(loop, ours) == await end(loop, asyncio.timeout)

    run(main)


def test_time_limits_that_do_not_run_out_need_one_timer() -> None:
    async def main(loop: Counting) -> None:
        before = loop.timers
        for _ in range(1000):
            with TimeLimit(30) as limit:
                pass
            assert not limit.ran_out
        assert loop.timers <= before + 1

    run(main)
