"""Retry: what is tried again, when, how often, and where it waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support.stores import message, opened
from support.waiting import Jumping, until

from esb.consumer import Consumer
from esb.durable import DEAD, Change, Unit
from esb.envelope import Envelope, Outcome
from esb.errors import (
    BadReply,
    CircuitOpen,
    EsbError,
    Fault,
    OutcomeUnknown,
    Overloaded,
    Rejected,
    TimedOut,
    Transient,
    Unreachable,
)
from esb.metrics import registry
from esb.middleware.dead_letter import dead_letters
from esb.middleware.retry import RetryOptions, park_channel, parked, retrying
from esb.options import Range
from esb.step import Step, wrap
from esb.store import SqliteStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with opened(tmp_path / "bus.db") as store:
        yield store


class Failing:
    """A step that raises each of `errors` in turn, then passes."""

    def __init__(self, *errors: EsbError) -> None:
        self.errors = list(errors)
        self.attempts: list[int] = []

    async def __call__(self, envelope: Envelope) -> Envelope:
        self.attempts.append(envelope.attempt)
        if self.errors:
            raise self.errors.pop(0)
        return envelope


def around(step: Step, jumping: Jumping, **options: Any) -> Step:
    """Retry without its jitter: each wait is as long as it may be."""
    store = options.pop("store", None)
    return retrying(
        RetryOptions.model_validate(options),
        route="r",
        store=store,
        clock=jumping.clock,
        random=lambda: 1.0,
    )(step)


async def test_the_wait_doubles_up_to_the_longest() -> None:
    jumping, step = Jumping(), Failing(*(Transient("no") for _ in range(6)))
    result = await around(step, jumping, attempts=7, backoff="1s..6s")(message("x"))
    assert jumping.slept == [1, 2, 4, 6, 6, 6]
    assert len(step.attempts) == 7
    assert result.outcome is Outcome.MESSAGE
    assert result.attempt == 1, "a caller's message is as it was"


async def test_it_gives_up_with_the_last_error() -> None:
    jumping = Jumping()
    step = Failing(Unreachable("one"), Unreachable("two"), TimedOut("three"), Transient("four"))
    with pytest.raises(TimedOut, match="three") as caught:
        await around(step, jumping, attempts=3)(message())
    assert caught.value.attempts == 3
    assert len(step.attempts) == 3


@pytest.mark.parametrize("error", [Rejected("no"), OutcomeUnknown("who knows"), EsbError("?")])
async def test_what_cannot_help_is_not_tried_again(error: EsbError) -> None:
    jumping, step = Jumping(), Failing(error)
    with pytest.raises(type(error)):
        await around(step, jumping)(message())
    assert jumping.slept == []
    assert error.attempts == 1


async def test_only_the_errors_that_were_named() -> None:
    jumping = Jumping()
    with pytest.raises(TimedOut):
        await around(Failing(Unreachable("a"), TimedOut("b")), jumping, on=["unreachable"])(
            message()
        )
    assert len(jumping.slept) == 1


async def test_retry_after_is_heeded_and_capped() -> None:
    jumping = Jumping()
    step = Failing(
        Overloaded("a", retry_after=7),
        Overloaded("b", retry_after=0.1),
        Overloaded("c", retry_after=1e9),
    )
    await around(step, jumping, backoff="1s..60s", retry_after_max="9s")(message())
    assert jumping.slept == [7, 2, 9]


async def test_no_wait_goes_beyond_the_callers_deadline() -> None:
    jumping, step = Jumping(), Failing(*(Transient(str(i)) for i in range(9)))
    begun = jumping.now
    with pytest.raises(Transient, match="2"):
        await around(step, jumping, attempts=9)(message(deadline=jumping.now + 5))
    assert jumping.slept == [1, 2]
    assert jumping.now - begun < 5


@given(
    st.integers(1, 2000),
    st.floats(0.001, 100),
    st.floats(1, 1000),
    st.floats(0, 1, exclude_max=True),
)
def test_backoff_stays_in_its_range(
    attempt: int, first: float, times: float, random: float
) -> None:
    backoff = Range(first=first, longest=first * times)
    assert 0 <= backoff.delay(attempt, lambda: random) <= first * times
    assert backoff.delay(1, lambda: 1.0) == min(first, first * times)


def test_options() -> None:
    for wrong in ({"attempts": 0}, {"backoff": "60s..1s"}, {"on": ["rejectd"]}, {"tries": 3},
                  {"on": [200]}, {"on": [True]}, {"on": [[]]}, {"within": 5}):  # fmt: skip
        with pytest.raises(ValidationError):
            RetryOptions.model_validate(wrong, context={})


def refused(status: int) -> EsbError:
    error = Rejected("no")
    error.status = status
    return error


async def test_errors_by_their_code_and_by_the_status_of_an_answer() -> None:
    jumping = Jumping()
    step = Failing(refused(409), Fault("f"), BadReply("?"), OutcomeUnknown("?"), Transient("t"))
    on = ["transient", 409, "fault", "bad-reply", "outcome-unknown"]
    await around(step, jumping, on=on, attempts=9)(message())
    assert len(step.attempts) == 6
    for error in (refused(404), Rejected("no status"), Unreachable("?")):
        with pytest.raises(type(error)):
            await around(Failing(error), jumping, on=[409])(message())
    overloaded = Overloaded("429")
    overloaded.status = 429
    await around(Failing(overloaded), jumping, on=[429])(message())


async def test_the_total_time_of_the_tries() -> None:
    jumping, step = Jumping(), Failing(*(Transient(str(i)) for i in range(9)))
    begun = jumping.now
    with pytest.raises(Transient, match="3") as caught:
        await around(step, jumping, attempts=99, within="10s")(message())
    assert jumping.slept == [1, 2, 4]
    assert jumping.now - begun <= 10
    assert caught.value.attempts == 4


async def test_the_total_time_counts_what_was_waited_in_the_store(tmp_path: Path) -> None:
    """From the first try on, over a restart; not from when the message was stored."""
    jumping, step = Jumping(), Failing(*(Transient("no") for _ in range(99)))

    def run(store: SqliteStore) -> Step:
        options: dict[str, Any] = {"attempts": 99, "within": "150s", "park_after": "0s"}
        retry = around(step, jumping, backoff="60s", store=store, **options)
        return dead_letters(route="r", store=store, clock=jumping.clock)(retry)

    path = tmp_path / "bus.db"
    async with opened(path, clock=jumping.clock) as store:
        await store.put("queue:in", message())
        jumping.now += 1000
    for life in range(1, 4):
        async with opened(path, clock=jumping.clock) as store:
            worker = Consumer(store, "queue:in", route="r", clock=jumping.clock)
            await worker.start(run(store))
            await until(lambda life=life: len(step.attempts) == life)
            await until(lambda store=store: _nobody_has_it(store))
            await worker.stop(5)
            jumping.now += 60
    async with opened(path, clock=jumping.clock) as store:
        assert await store.counts() == {DEAD: 1}
        [dead] = await store.browse(DEAD)
        assert dead.attempts == 3


async def _nobody_has_it(store: SqliteStore) -> bool:
    return all(
        one.hold == 0 for one in [*await store.browse("queue:in"), *await store.browse(DEAD)]
    )


# --- what a circuit breaker refused ---------------------------------------------------------------


def circuit_open(seconds: float) -> CircuitOpen:
    return CircuitOpen("not asked for now", retry_after=seconds)


async def test_a_refusal_by_a_circuit_is_no_attempt(store: SqliteStore) -> None:
    jumping = Jumping()
    step = Failing(Transient("1"), *(circuit_open(3) for _ in range(20)), Transient("2"))
    run = around(step, jumping, attempts=3, backoff="1s", park_after="100s", store=store)
    result = await run(message())
    assert result.outcome is Outcome.MESSAGE
    # It waits until the circuit closes, and a little so that not all come at once.
    assert jumping.slept == [1, *([4] * 20), 1]
    assert step.attempts == [1, *([2] * 20), 2, 3]


async def test_it_ends_with_the_total_time(store: SqliteStore) -> None:
    jumping, step = Jumping(), Failing(*(circuit_open(3) for _ in range(99)))
    with pytest.raises(CircuitOpen) as caught:
        await around(step, jumping, within="20s", backoff="1s", store=store)(message())
    assert jumping.slept == [4] * 5
    assert caught.value.attempts == 0, "it was never tried"


async def test_a_brokers_queue_does_not_move_into_the_store_at_once(store: SqliteStore) -> None:
    jumping, step = Jumping(), Failing(*(circuit_open(30) for _ in range(9)))
    run = around(step, jumping, backoff="1s", park_after="10s", store=store)
    assert (await run(message())).outcome is Outcome.ACCEPTED
    assert jumping.slept == [10], "what comes from a broker is held back for a while"
    [lying] = await store.browse(park_channel("r"))
    assert (lying.attempts, lying.due) == (0, jumping.now + 31)


async def test_what_lies_in_the_store_anyhow_waits_there(tmp_path: Path) -> None:
    jumping, step = Jumping(), Failing(Transient("no"), circuit_open(30))
    async with opened(tmp_path / "bus.db", clock=jumping.clock) as store:
        await store.put("queue:in", message())
        worker = Consumer(store, "queue:in", route="r", clock=jumping.clock)
        await worker.start(around(step, jumping, backoff="1s", park_after="10s", store=store))
        await until(lambda: len(step.attempts) == 2)
        await until(lambda: _nobody_has_it(store))
        await worker.stop(5)
        [lying] = await store.browse("queue:in")
        assert (lying.attempts, lying.due) == (1, jumping.now + 31)
        assert jumping.slept == [1]


async def test_without_a_store_a_long_wait_for_a_circuit_is_not_begun() -> None:
    jumping, step = Jumping(), Failing(circuit_open(3), circuit_open(30))
    with pytest.raises(CircuitOpen) as caught:
        await around(step, jumping, backoff="1s", park_after="10s")(message())
    assert (jumping.slept, caught.value.attempts) == ([3], 2)


# --- a route that stops ---------------------------------------------------------------------------


async def test_who_waits_when_the_route_stops_is_parked_at_once(store: SqliteStore) -> None:
    stopping = asyncio.Event()
    options = RetryOptions(backoff=Range(first=3600, longest=3600), park_after=7200.0)
    step = Failing(*(Transient("no") for _ in range(2)))
    run = retrying(options, route="r", store=store, stopping=stopping, random=lambda: 1.0)(step)
    waiting = asyncio.create_task(run(message("x")))
    await until(lambda: step.attempts)
    await asyncio.sleep(0)
    assert not waiting.done()
    stopping.set()
    assert (await waiting).outcome is Outcome.ACCEPTED
    # And who fails from now on does not begin to wait.
    assert (await run(message("y"))).outcome is Outcome.ACCEPTED
    lying = await store.browse(park_channel("r"))
    assert [one.envelope.body.raw for one in lying] == [b"x", b"y"]
    assert all(3500 < one.due - time.time() <= 3600 and one.attempts == 1 for one in lying)


async def test_in_order_it_keeps_its_place_when_the_route_stops(store: SqliteStore) -> None:
    stopping = asyncio.Event()
    options = RetryOptions(backoff=Range(first=3600, longest=3600), park_after=7200.0)
    step = Failing(Transient("no"))
    run = retrying(options, route="r", store=store, stopping=stopping, random=lambda: 1.0)(step)
    for text in "ab":
        await store.put("queue:in", message(text))
    worker = Consumer(store, "queue:in", route="r", order=True)
    await worker.start(run)
    await until(lambda: step.attempts)
    stopping.set()
    await worker.stop(5)
    lying = await store.browse("queue:in")
    assert [(one.envelope.body.raw, one.attempts) for one in lying] == [(b"a", 1), (b"b", 0)]
    [first] = await store.take("queue:in", 1, in_order=True)
    assert first.envelope.body.raw == b"a", "it is due at once, and nobody is before it"


async def test_what_cannot_be_parked_is_given_back_when_the_route_stops(
    store: SqliteStore, tmp_path: Path
) -> None:
    """In order, where the broker keeps the place of a message; or with a store that is away."""
    options = RetryOptions(backoff=Range(first=3600, longest=3600), park_after=7200.0)
    for where in (store, SqliteStore(tmp_path / "never-opened.db")):
        stopping = asyncio.Event()
        step = Failing(Transient("no"))
        run = retrying(options, route="r", store=where, stopping=stopping, random=lambda: 1.0)(step)
        async with Unit(where, in_order=True):
            waiting = asyncio.create_task(run(message("x")))
            await until(lambda step=step: step.attempts)
            assert not waiting.done()
            stopping.set()
            with pytest.raises(asyncio.CancelledError):
                await waiting
    assert await store.counts() == {}


# --- waiting messages and the others --------------------------------------------------------------


async def test_messages_that_wait_block_nobody_and_outlive_the_process(tmp_path: Path) -> None:
    """More wait than the source handles at a time; the others pass, and the waiting ones come when
    it is their time, in whatever process."""
    jumping, down, passed = Jumping(), True, list[str]()

    async def step(envelope: Envelope) -> Envelope:
        if down and envelope.body.text.startswith("slow"):
            raise Overloaded("later", retry_after=100)
        passed.append(envelope.body.text)
        return envelope

    path = tmp_path / "bus.db"
    async with opened(path, clock=jumping.clock) as store:
        for number in range(20):
            await store.put("queue:in", message(f"slow {number}"))
        for number in range(20):
            await store.put("queue:in", message(f"quick {number}"))
        worker = Consumer(store, "queue:in", route="r", concurrency=3, clock=jumping.clock)
        await worker.start(around(step, jumping, backoff="1s", store=store))
        await until(lambda: len(passed) == 20)
        await until(lambda: _nobody_has_it(store))
        await worker.stop(5)
        assert jumping.slept == [], "nobody waited in the process"
        assert await store.counts() == {"queue:in": 20}
    assert sorted(passed) == sorted(f"quick {number}" for number in range(20))
    passed.clear()
    down = False
    async with opened(path, clock=jumping.clock) as store:
        worker = Consumer(store, "queue:in", route="r", concurrency=3, clock=jumping.clock)
        await worker.start(around(step, jumping, backoff="1s", store=store))
        jumping.now += 99
        assert await store.take("queue:in", 1) == []
        jumping.now += 1
        await worker.stop(5)
        await worker.start(around(step, jumping, backoff="1s", store=store))
        await until(lambda: len(passed) == 20)
        await worker.stop(5)
        assert await store.counts() == {}
    assert sorted(passed) == sorted(f"slow {number}" for number in range(20))


async def test_a_step_that_ends_as_if_it_were_cancelled_has_failed(store: SqliteStore) -> None:
    failing = True

    async def step(envelope: Envelope) -> Envelope:
        nonlocal failing
        if failing:
            failing = False
            waited_for: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            waited_for.cancel()
            await waited_for
        return envelope

    await store.put("queue:in", message("x"))
    worker = Consumer(store, "queue:in", route="r", backoff=Range(first=0.01, longest=0.01))
    await worker.start(step)
    await until(lambda: _is_empty(store))
    await worker.stop(5)


async def test_what_is_given_back_does_not_wait_for_each_other(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, commit, all_of_them = asyncio.Event(), store.commit, asyncio.Barrier(3)

    async def step(envelope: Envelope) -> Envelope:
        begun.set()
        await asyncio.Event().wait()
        return envelope

    async def together(changes: Sequence[Change]) -> list[int]:
        await all_of_them.wait()
        return await commit(changes)

    for text in "abc":
        await store.put("queue:in", message(text))
    worker = Consumer(store, "queue:in", route="r", concurrency=3)
    await worker.start(step)
    await begun.wait()
    monkeypatch.setattr(store, "commit", together)
    async with asyncio.timeout(10):
        await worker.stop(0)
    assert len(await store.take("queue:in", 9)) == 3


# --- parking --------------------------------------------------------------------------------------


async def test_a_long_wait_is_spent_in_the_store(store: SqliteStore) -> None:
    jumping, step = Jumping(), Failing(*(Transient("no") for _ in range(9)))
    run = around(step, jumping, backoff="1s..60s", attempts=9, park_after="3s", store=store)
    original = message("as it came", subject="s")
    result = await run(original)
    assert result.outcome is Outcome.ACCEPTED
    assert jumping.slept == [1, 2]
    [lying] = await store.browse(park_channel("r"))
    assert lying.envelope.body.raw == b"as it came"
    assert (lying.envelope.id, lying.envelope.attempt) == (original.id, 1)
    assert lying.attempts == 3
    assert lying.due == jumping.now + 4
    assert lying.failure is not None
    assert (lying.failure.code, lying.failure.route) == ("transient", "r")
    # The counting goes on where it stopped.
    step.attempts.clear()
    again = await run(lying.envelope.replace(attempt=lying.attempts + 1))
    assert again.outcome is Outcome.ACCEPTED
    assert step.attempts == [4]
    assert jumping.slept == [1, 2]


async def test_a_deadline_of_the_route_parks_what_nobody_waits_for(store: SqliteStore) -> None:
    jumping, step = Jumping(), Failing(Transient("no"))
    result = await around(step, jumping, store=store)(message(deadline=jumping.now + 0.5))
    assert result.outcome is Outcome.ACCEPTED
    assert await store.counts() == {park_channel("r"): 1}


async def test_a_message_that_cannot_be_parked_waits_in_process(tmp_path: Path) -> None:
    jumping, step = Jumping(), Failing(Transient("no"))
    closed = SqliteStore(tmp_path / "never-opened.db")
    result = await around(step, jumping, backoff="50s", store=closed)(message())
    assert result.outcome is Outcome.MESSAGE
    assert jumping.slept == [50]


async def test_parked_messages_come_back_until_they_pass(store: SqliteStore) -> None:
    step = Failing(*(Unreachable("down") for _ in range(3)))
    options = RetryOptions(attempts=5, backoff=Range(first=0.001, longest=0.02), park_after=0.0)
    run = wrap(
        step, dead_letters(route="r", store=store), retrying(options, route="r", store=store)
    )
    worker = parked(store, "r")
    await worker.start(run)
    assert (await run(message())).outcome is Outcome.ACCEPTED
    await until(lambda: len(step.attempts) == 4)
    await until(lambda: _empty(store))
    await worker.stop(5)
    assert step.attempts == [1, 2, 3, 4]


async def test_parked_messages_end_as_dead_letters_with_every_attempt_counted(
    store: SqliteStore,
) -> None:
    step = Failing(*(Unreachable("down") for _ in range(99)))
    options = RetryOptions(attempts=4, backoff=Range(first=0.001, longest=0.02), park_after=0.0)
    run = wrap(
        step, dead_letters(route="r", store=store), retrying(options, route="r", store=store)
    )
    worker = parked(store, "r")
    await worker.start(run)
    await run(message("x"))
    await until(lambda: store.browse(DEAD))
    await worker.stop(5)
    [dead] = await store.browse(DEAD)
    assert await store.counts() == {DEAD: 1}
    assert dead.attempts == 4
    assert dead.failure is not None
    assert (dead.failure.code, dead.failure.attempts) == ("unreachable", 4)
    assert step.attempts == [1, 2, 3, 4]


async def _empty(store: SqliteStore) -> bool:
    return await store.counts() == {}


async def test_further_tries_are_counted(store: SqliteStore) -> None:
    def count(how: str) -> float:
        labels = {"route": "counted", "how": how}
        return registry().get_sample_value("esb_retries_total", labels) or 0.0

    jumping = Jumping()
    run = retrying(
        RetryOptions(park_after=1.5),
        route="counted",
        store=store,
        clock=jumping.clock,
        random=lambda: 1.0,
    )
    await run(Failing(Transient("a"), Transient("b")))(message())
    assert (count("in-process"), count("parked")) == (1, 1)
    assert time.time() < 1e11


async def _is_empty(store: SqliteStore) -> bool:
    return await store.counts() == {}
