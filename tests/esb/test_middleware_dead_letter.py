"""Dead letters: the message as it came, the reason beside it, and never nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from support.stores import message, opened

from esb.durable import DEAD
from esb.envelope import Body, Envelope, Headers, Outcome
from esb.errors import BadMessage, Denied, EsbError, Rejected, RouteFailure, Transient, Unreachable
from esb.middleware.dead_letter import dead_letters
from esb.step import Step, identity, pipeline, wrap
from esb.store import SqliteStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with opened(tmp_path / "bus.db") as store:
        yield store


def raising(error: BaseException) -> Step:
    async def step(envelope: Envelope) -> Envelope:
        raise error

    return step


class Sending:
    """A sink that keeps what it gets, or fails."""

    def __init__(self, error: Exception | None = None, *, hangs: bool = False) -> None:
        self.error = error
        self.hangs = hangs
        self.got: list[Envelope] = []

    async def send(self, envelope: Envelope) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.error:
            raise self.error
        self.got.append(envelope)


async def test_what_passes_passes(store: SqliteStore) -> None:
    sent = message()
    assert await dead_letters(route="r", store=store)(identity)(sent) is sent
    assert await store.counts() == {}


async def test_what_senders_are_not_told_is_stored_for_operators(store: SqliteStore) -> None:
    error = Unreachable("the broker cannot be reached now").noted("amqp://broker:5672/ refused")
    await dead_letters(route="r", store=store)(raising(error))(message())
    [dead] = await store.browse(DEAD)
    assert dead.failure is not None
    assert dead.failure.detail == "the broker cannot be reached now"
    assert dead.failure.notes == ("amqp://broker:5672/ refused",)


async def test_the_original_and_the_reason_are_stored(store: SqliteStore) -> None:
    async def change(envelope: Envelope) -> Envelope:
        return envelope.replace(headers=Headers([("changed", "yes")])).with_body(
            Body(b"new", "text/x")
        )

    steps = pipeline([("steps[0].set", change), ("steps[1].send", raising(Rejected("a 404")))])
    original = message("as it came", headers=Headers([("a", "1")]), deadline=1.0, attempt=3)
    result = await wrap(steps, dead_letters(route="orders", store=store))(original)
    assert result.outcome is Outcome.DEAD
    [dead] = await store.browse(DEAD)
    assert dead.envelope.body.raw == b"as it came"
    assert list(dead.envelope.headers) == [("a", "1")]
    assert (dead.envelope.id, dead.envelope.outcome) == (original.id, Outcome.MESSAGE)
    assert dead.failure is not None
    assert (dead.failure.code, dead.failure.detail) == ("rejected", "a 404")
    assert (dead.failure.route, dead.failure.step) == ("orders", "steps[1].send")
    assert dead.failure.attempts == dead.attempts == 3


async def test_a_sink_gets_it_with_headers_that_cannot_be_split() -> None:
    sink = Sending()
    error = Rejected("no:\r\nX-Evil: 1\x00\u2028" + "long " * 200)
    error.attempts = 4
    error.step = "steps[0].call"
    original = message("x", headers=Headers([("a", "1"), ("X-ESB-Route", "forged")]))
    result = await dead_letters(route="r", sink=sink)(raising(error))(original)
    assert result.outcome is Outcome.DEAD
    [sent] = sink.got
    assert sent.body is original.body
    assert sent.headers.get("a") == "1"
    assert sent.headers.get_all("x-esb-route") == ["r"]
    assert sent.headers.get("x-esb-error-code") == "rejected"
    detail = sent.headers.get("x-esb-error-detail")
    assert detail.startswith("no: X-Evil: 1 long")
    assert len(detail) == 500
    assert sent.headers.get("x-esb-attempts") == "4"
    assert sent.headers.get("x-esb-step") == "steps[0].call"
    assert sent.headers.get("x-esb-message-id") == original.id


@pytest.mark.parametrize(
    "sink",
    [
        Sending(Unreachable("broker down")),
        Sending(Rejected("x")),
        Sending(ValueError("a bug")),
        Sending(hangs=True),
    ],
)
async def test_a_sink_that_fails_is_replaced_by_the_store(
    store: SqliteStore, sink: Sending
) -> None:
    run = dead_letters(route="r", sink=sink, store=store, sink_timeout=0.01)
    result = await run(raising(Rejected("no")))(message("x"))
    assert result.outcome is Outcome.DEAD
    [dead] = await store.browse(DEAD)
    assert dead.failure is not None
    assert dead.failure.code == "rejected"


async def test_if_nothing_takes_it_the_source_keeps_it(tmp_path: Path) -> None:
    closed = SqliteStore(tmp_path / "never-opened.db")
    for sink in (None, Sending(Unreachable("down"))):
        run = dead_letters(route="r", sink=sink, store=closed)
        with pytest.raises(Transient, match="no dead letter") as caught:
            await run(raising(Rejected("a 404")))(message())
        assert isinstance(caught.value.__cause__, Rejected)


async def test_a_bug_is_logged_and_says_nothing_to_the_outside(store: SqliteStore) -> None:
    with capture_logs() as logs:
        result = await dead_letters(route="r", store=store)(raising(KeyError("hunter2")))(message())
    assert result.outcome is Outcome.DEAD
    [dead] = await store.browse(DEAD)
    assert dead.failure is not None
    assert (dead.failure.code, dead.failure.detail) == ("route-failure", "internal error")
    assert [log for log in logs if isinstance(log.get("exc_info"), KeyError)]


async def test_cancelling_is_no_failure(store: SqliteStore) -> None:
    with pytest.raises(asyncio.CancelledError):
        await dead_letters(route="r", store=store)(raising(asyncio.CancelledError()))(message())
    assert await store.counts() == {}


async def test_a_caller_gets_the_error_and_the_dead_letter_is_written(store: SqliteStore) -> None:
    sink = Sending()
    run = dead_letters(route="r", sink=sink, waits=True)
    error = Unreachable("down")
    with pytest.raises(Unreachable) as caught:
        await run(raising(error))(message())
    assert caught.value is error
    assert len(sink.got) == 1
    with pytest.raises(RouteFailure, match="internal error"):
        await run(raising(ZeroDivisionError()))(message())
    assert len(sink.got) == 2
    # It is no loss if that fails: the caller knows.
    failing = dead_letters(route="r", sink=Sending(Unreachable("too")), waits=True)
    with pytest.raises(Rejected):
        await failing(raising(Rejected("no")))(message())


@pytest.mark.parametrize("error", [BadMessage("not JSON"), Denied("who are you")])
async def test_a_callers_own_mistake_is_told_to_the_caller_alone(
    store: SqliteStore, error: EsbError
) -> None:
    sink = Sending()
    with pytest.raises(type(error)):
        await dead_letters(route="r", sink=sink, waits=True)(raising(error))(message())
    assert sink.got == []
    result = await dead_letters(route="r", sink=sink)(raising(error))(message())
    assert result.outcome is Outcome.DEAD
    assert len(sink.got) == 1


async def test_a_message_that_cannot_be_stored_whole_is_no_poison(store: SqliteStore) -> None:
    """Else it would be given back, come again and be given back for ever."""
    poison = message("x", id="id-\ud800", headers=Headers([("a", "\ud800")]), subject="\ud800")
    result = await dead_letters(route="r", store=store)(raising(Rejected("quoting \ud800")))(poison)
    assert result.outcome is Outcome.DEAD
    [dead] = await store.browse(DEAD)
    assert dead.envelope.body.raw == b"x"
    assert dead.envelope.id == r"id-\ud800"
    sink = Sending()
    await dead_letters(route="r", sink=sink)(raising(Rejected("quoting \ud800")))(poison)
    assert sink.got[0].headers.get("x-esb-error-detail") == r"quoting \ud800"
