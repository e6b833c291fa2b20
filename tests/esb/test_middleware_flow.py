"""accept, timeout, limit and trace."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from support.stores import message, opened
from support.waiting import until

from esb.durable import DEAD
from esb.envelope import Envelope, Outcome
from esb.errors import (
    Denied,
    OutcomeUnknown,
    Overloaded,
    Rejected,
    RouteFailure,
    TimedOut,
    Transient,
)
from esb.logs import ABOUT
from esb.metrics import registry
from esb.middleware.accept import accept_channel, accepted, accepting
from esb.middleware.dead_letter import dead_letters
from esb.middleware.limit import Bulkhead, limited
from esb.middleware.timeout import timed
from esb.middleware.trace import traced
from esb.step import identity, wrap
from esb.store import SqliteStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with opened(tmp_path / "bus.db") as store:
        yield store


class Gate:
    """A step that lets messages through once it is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.inside = 0
        self.seen: list[Envelope] = []

    async def __call__(self, envelope: Envelope) -> Envelope:
        self.inside += 1
        self.seen.append(envelope)
        try:
            await self.opened.wait()
        finally:
            self.inside -= 1
        return envelope


# --- accept: durable ------------------------------------------------------------------------------


async def test_accepted_is_on_the_disk_and_runs_after_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "bus.db"
    seen: list[Envelope] = []

    async def step(envelope: Envelope) -> Envelope:
        seen.append(envelope)
        return envelope

    async with opened(path) as store:
        sent = message("x", deadline=time.monotonic() + 9)
        answer = await accepting(route="r", store=store)(sent)
        assert (answer.outcome, answer.id) == (Outcome.ACCEPTED, sent.id)
        await store.take(accept_channel("r"), 1)  # a worker had it when the process died
    async with opened(path) as store:
        worker = accepted(store, "r")
        await worker.start(step)
        await until(lambda: seen)
        await until(lambda: _empty(store))
        await worker.stop(5)
    [envelope] = seen
    assert (envelope.id, envelope.body.text) == (sent.id, "x")
    assert (envelope.attempt, envelope.deadline, envelope.outcome) == (1, None, Outcome.MESSAGE)


async def test_nothing_is_accepted_that_could_not_be_stored(tmp_path: Path) -> None:
    closed = SqliteStore(tmp_path / "never-opened.db")
    with pytest.raises(Transient):
        await accepting(route="r", store=closed)(message())


async def test_an_accepted_message_that_fails_goes_to_the_dead_letters_and_can_be_replayed(
    store: SqliteStore,
) -> None:
    error: list[Rejected] = [Rejected("not now")]

    async def step(envelope: Envelope) -> Envelope:
        if error:
            raise error.pop()
        return envelope

    worker = accepted(store, "r")
    await worker.start(wrap(step, dead_letters(route="r", store=store)))
    await accepting(route="r", store=store)(message("x"))
    [dead] = await until(lambda: store.browse(DEAD))
    await until(lambda: _only_dead(store))
    assert await store.move(dead.key, accept_channel("r"), lying_in=DEAD)
    await until(lambda: _empty(store))
    await worker.stop(5)


async def _empty(store: SqliteStore) -> bool:
    return await store.counts() == {}


async def _only_dead(store: SqliteStore) -> bool:
    return await store.counts() == {DEAD: 1}


# --- timeout --------------------------------------------------------------------------------------


async def test_the_limit_is_told_and_the_result_has_the_callers_deadline() -> None:
    now = time.monotonic()
    seen: list[float | None] = []

    async def step(envelope: Envelope) -> Envelope:
        seen.append(envelope.deadline)
        return envelope

    run = timed(30)(step)
    assert (await run(message())).deadline is None
    assert (await run(message(deadline=now + 500))).deadline == now + 500
    assert (await run(message(deadline=now + 5))).deadline == now + 5
    assert seen[0] is not None
    assert seen[1] is not None
    assert 29 < seen[0] - now < 40
    assert 29 < seen[1] - now < 40
    assert seen[2] == now + 5, "never longer than the caller's own"


async def test_who_heeds_the_limit_says_what_happened() -> None:
    async def step(envelope: Envelope) -> Envelope:
        assert envelope.deadline is not None
        await asyncio.sleep(max(0.0, envelope.deadline - time.monotonic()))
        raise TimedOut("nothing was sent")

    with pytest.raises(TimedOut, match="nothing was sent"):
        await timed(0.02)(step)(message())


async def test_who_does_not_is_cancelled_and_nobody_knows() -> None:
    gate = Gate()
    with pytest.raises(OutcomeUnknown, match=r"0\.01 seconds"):
        await timed(0.01, leeway=0.01)(gate)(message())
    assert gate.inside == 0


async def test_a_timeout_from_inside_is_not_taken_for_ours() -> None:
    async def step(envelope: Envelope) -> Envelope:
        raise TimeoutError("somebody else's")

    with pytest.raises(TimeoutError, match="somebody else's"):
        await timed(30)(step)(message())


async def test_cancelling_from_outside_stays_cancelling() -> None:
    gate = Gate()
    task = asyncio.create_task(_run(timed(30)(gate), message()))
    await until(lambda: gate.inside)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _run(step: object, envelope: Envelope) -> Envelope:
    return await step(envelope)  # type: ignore[operator, no-any-return]


# --- concurrency ----------------------------------------------------------------------------------


async def test_no_more_inside_than_allowed_and_all_get_their_turn() -> None:
    gate = Gate()
    run = limited(3, route="r")(gate)
    tasks = [asyncio.create_task(_run(run, message(str(i)))) for i in range(50)]
    await until(lambda: gate.inside == 3)
    assert len(gate.seen) == 3
    gate.opened.set()
    await asyncio.gather(*tasks)
    assert [envelope.body.text for envelope in gate.seen] == [str(i) for i in range(50)]


async def test_callers_that_find_no_room_to_wait_are_refused() -> None:
    gate = Gate()
    run = limited(1, route="r", waiting=2)(gate)
    deadline = time.monotonic() + 30
    tasks = [asyncio.create_task(_run(run, message(deadline=deadline))) for _ in range(5)]
    refused = await asyncio.gather(*tasks[3:], return_exceptions=True)
    assert all(isinstance(error, Overloaded) and error.retry_after for error in refused)
    held = asyncio.create_task(_run(run, message()))  # nobody waits for it: its source bounds it
    gate.opened.set()
    await asyncio.gather(*tasks[:3], held)


async def test_a_turn_that_does_not_come_in_time() -> None:
    gate = Gate()
    run = limited(1, route="r")(gate)
    first = asyncio.create_task(_run(run, message()))
    await until(lambda: gate.inside)
    with pytest.raises(Overloaded, match="in time"):
        await run(message(deadline=time.monotonic() + 0.01))
    with pytest.raises(Overloaded, match="in time"):
        await run(message(deadline=time.monotonic() - 1))
    waiting = asyncio.create_task(_run(run, message()))
    await asyncio.sleep(0)
    waiting.cancel()
    gate.opened.set()
    await first
    await run(message())  # the slot was not lost


async def test_a_turn_that_comes_as_it_is_given_up_is_somebody_elses() -> None:
    bulkhead = Bulkhead(1, what="it")
    await bulkhead.enter(message())
    first, second = (asyncio.create_task(bulkhead.enter(message())) for _ in range(2))
    await until(lambda: bulkhead.waiting == 2)
    bulkhead.leave()  # it is the turn of the first, which does not know yet
    first.cancel()
    await second
    assert first.cancelled()
    assert bulkhead.waiting == 0
    bulkhead.leave()
    await asyncio.wait_for(bulkhead.enter(message()), 5)


@given(st.lists(st.tuples(st.sampled_from(["enter", "cancel", "leave"]), st.integers(0, 9))))
async def test_no_more_are_inside_than_may_be_and_no_turn_is_lost(plan: list[Any]) -> None:
    bulkhead = Bulkhead(2, what="it", waiting=100)
    inside: set[int] = set()
    tasks: dict[int, asyncio.Task[None]] = {}
    leaving: dict[int, asyncio.Event] = {}

    async def one(number: int) -> None:
        await bulkhead.enter(message())
        inside.add(number)
        try:
            await leaving[number].wait()
        finally:
            inside.discard(number)
            bulkhead.leave()

    for number, (what, which) in enumerate(plan):
        if what == "enter":
            leaving[number] = asyncio.Event()
            tasks[number] = asyncio.create_task(one(number))
        elif tasks:
            chosen = list(tasks)[which % len(tasks)]
            tasks[chosen].cancel() if what == "cancel" else leaving[chosen].set()
        if which % 2:
            await asyncio.sleep(0)
        assert len(inside) <= 2
    for event in leaving.values():
        event.set()
    await asyncio.wait_for(asyncio.gather(*tasks.values(), return_exceptions=True), 5)
    assert (bulkhead.waiting, inside) == (0, set())
    for _ in range(2):
        await asyncio.wait_for(bulkhead.enter(message()), 5)  # both turns are free


# --- trace ----------------------------------------------------------------------------------------


def count(route: str, outcome: str) -> float:
    labels = {"route": route, "outcome": outcome}
    return registry().get_sample_value("esb_messages_total", labels) or 0.0


async def test_every_end_is_counted() -> None:
    async def step(envelope: Envelope) -> Envelope:
        match envelope.subject:
            case "refused":
                raise Rejected("no")
            case "failed":
                raise Transient("not now")
            case "broken":
                raise KeyError("hunter2")
            case "cancelled":
                raise asyncio.CancelledError
        return envelope.replace(outcome=Outcome(envelope.subject))

    run = traced("all-ends")(step)
    for outcome in Outcome:
        await run(message(subject=outcome.value))
    for subject, error in {
        "refused": Rejected,
        "failed": Transient,
        "broken": RouteFailure,
        "cancelled": asyncio.CancelledError,
    }.items():
        with pytest.raises(error):
            await run(message(subject=subject))
    ends = [outcome.value for outcome in Outcome] + ["refused", "failed", "broken", "cancelled"]
    assert [count("all-ends", end) for end in ends] == [1] * len(ends)
    labels = {"route": "all-ends"}
    assert registry().get_sample_value("esb_message_seconds_count", labels) == len(ends)
    assert registry().get_sample_value("esb_in_flight", labels) == 0


async def test_what_is_in_flight_shows() -> None:
    gate = Gate()
    task = asyncio.create_task(_run(traced("in-flight")(gate), message()))
    await until(lambda: gate.inside)
    assert registry().get_sample_value("esb_in_flight", {"route": "in-flight"}) == 1
    gate.opened.set()
    await task
    assert registry().get_sample_value("esb_in_flight", {"route": "in-flight"}) == 0


async def test_logs_know_the_route_and_the_message() -> None:
    inside: list[tuple[str, str, str]] = []

    async def step(envelope: Envelope) -> Envelope:
        inside.append(ABOUT.get())
        raise Rejected("the far side said no")

    sent = message()
    with capture_logs() as logs, pytest.raises(Rejected):
        await traced("logged")(step)(sent)
    assert inside == [("logged", sent.id, sent.traceparent)]
    assert ABOUT.get() == ("", "", "")
    [line] = [log for log in logs if log["log_level"] == "warning"]
    assert line["code"] == "rejected"
    assert "said no" in line["error"]


@pytest.mark.parametrize(
    ("waits", "step", "level"),
    [(True, "", "debug"), (True, "steps[0].call", "warning"), (False, "", "warning")],
)
async def test_who_is_denied_does_not_fill_the_log(waits: bool, step: str, level: str) -> None:
    async def denying(envelope: Envelope) -> Envelope:
        error = Denied("not you")
        error.step = step
        raise error

    name = f"denying-{waits}-{level}"
    with capture_logs() as logs, pytest.raises(Denied):
        await traced(name, waits=waits)(denying)(message())
    assert [log["log_level"] for log in logs] == [level]
    assert registry().get_sample_value("esb_denied_total", {"route": name}) == 1


async def test_nothing_is_said_of_what_passes_but_for_debugging() -> None:
    with capture_logs() as logs:
        await traced("quiet")(identity)(message())
    assert [log["log_level"] for log in logs] == ["debug"]
