"""What every adapter promises, as tests to inherit (EIP: Message Endpoint, Transactional Client).

    class TestAmqpSource(QueueSourceContract):
        @pytest.fixture
        async def far_side(self, rabbit): ...yield a QueueFarSide

A far side is the outside world of one endpoint: it makes the endpoint, and it looks at the world
without it. Each test gets a fresh one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from esb.adapter import Sink, Source
from esb.envelope import Body, Envelope, Headers, Outcome, new_id
from esb.errors import BadMessage, Permanent, Rejected, Transient, Unreachable
from support.waiting import until

BODIES = [b"{}", b"", b"\x00\xff\x01 not text", "žluťoučký kůň".encode(), b"x" * 300_000]


class Recorder:
    """A step that remembers what it got and does what it was told.

    fails: raised for the first messages, one after the other; then the message is returned.
    gate: if given, each message waits for it.
    """

    def __init__(self, fails: Sequence[Exception] = (), gate: asyncio.Event | None = None) -> None:
        self.got: list[Envelope] = []
        self.finished: list[Envelope] = []
        self.running = 0
        self.most = 0
        self._fails = list(fails)
        self._gate = gate

    async def __call__(self, envelope: Envelope) -> Envelope:
        self.got.append(envelope)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self._gate is not None:
                await self._gate.wait()
            if self._fails:
                raise self._fails.pop(0)
        finally:
            self.running -= 1
        self.finished.append(envelope)
        return envelope


# --- sources that can be asked again --------------------------------------------------------------


class FarSide(ABC):
    """The outside of a source: what brings its messages about, and what is left there."""

    @abstractmethod
    def source(self) -> Source:
        """A source, not started, that takes what is there. Options are such that a message given
        back comes again within a second."""

    @abstractmethod
    async def arrive(self) -> None:
        """A message is there to be taken."""

    @abstractmethod
    async def left(self) -> int:
        """Messages that are there for any consumer to take."""


class QueueFarSide(FarSide):
    """The outside of a source that consumes: who sends to it, and what is left there."""

    async def arrive(self) -> None:
        await self.put(b"once", id=new_id())

    @abstractmethod
    async def put(
        self,
        body: bytes,
        *,
        content_type: str = "application/octet-stream",
        id: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """A sender sends a message."""

    @abstractmethod
    async def refused(self) -> list[bytes]:
        """Bodies of the messages that the source refused for good."""

    refuses = True
    """Whether a refused message goes somewhere that `refused` can look at."""

    dead_go_apart = False
    """Whether what has become a dead letter of the bus goes there, too."""

    labelled = True
    """Whether a message carries an id, a content type and headers of its sender's."""


@contextlib.asynccontextmanager
async def started(source: Source, step: Recorder, grace: float = 10.0) -> AsyncIterator[Source]:
    """A source that is taking messages."""
    await source.start(step)
    try:
        yield source
    finally:
        await source.stop(grace)


class SourceContract:
    """Returning acknowledges, raising gives back, stopping drains, nothing is lost."""

    async def test_returning_acknowledges(self, far_side: FarSide) -> None:
        step = Recorder()
        async with started(far_side.source(), step):
            await far_side.arrive()
            await until(lambda: step.finished)
        assert len(step.got) == 1
        assert await far_side.left() == 0

    @pytest.mark.parametrize("outcome", list(Outcome))
    async def test_every_outcome_acknowledges(self, far_side: FarSide, outcome: Outcome) -> None:
        got = []

        async def step(envelope: Envelope) -> Envelope:
            got.append(envelope)
            return envelope.replace(outcome=outcome)

        source = far_side.source()
        await source.start(step)
        await far_side.arrive()
        await until(lambda: got)
        await source.stop(10)
        assert len(got) == 1
        assert await far_side.left() == 0
        if isinstance(far_side, QueueFarSide):
            dead = outcome is Outcome.DEAD and far_side.dead_go_apart
            assert len(await far_side.refused()) == dead

    async def test_what_may_pass_comes_again(self, far_side: FarSide) -> None:
        step = Recorder([Transient("not now"), Transient("not yet")])
        async with started(far_side.source(), step):
            await far_side.arrive()
            await until(lambda: step.finished)
        assert len(step.got) == 3
        assert len({e.id for e in step.got}) == 1
        assert len({e.body.raw for e in step.got}) == 1
        assert await far_side.left() == 0

    async def test_a_failure_does_not_spin(self, far_side: FarSide) -> None:
        step = Recorder([Transient("down")] * 10_000)
        async with started(far_side.source(), step):
            await far_side.arrive()
            await until(lambda: len(step.got) >= 3)
            assert len(step.got) < 20
        await until(lambda: _left(far_side, 1))

    async def test_a_bug_in_the_route_loses_nothing(self, far_side: FarSide) -> None:
        step = Recorder([ZeroDivisionError("a bug")])
        async with started(far_side.source(), step):
            await far_side.arrive()
            await until(lambda: step.finished)
        assert await far_side.left() == 0

    async def test_stopping_lets_what_is_in_the_route_finish(self, far_side: FarSide) -> None:
        gate = asyncio.Event()
        step = Recorder(gate=gate)
        source = far_side.source()
        await source.start(step)
        await far_side.arrive()
        await until(lambda: step.running)
        first = step.got[0]
        stopping = asyncio.ensure_future(source.stop(30))
        await far_side.arrive()
        gate.set()
        await stopping
        await until(lambda: _left(far_side, 2 - len(step.finished)))
        assert first.id in [e.id for e in step.finished]

    async def test_stopping_gives_back_what_does_not_finish(self, far_side: FarSide) -> None:
        step = Recorder(gate=asyncio.Event())
        source = far_side.source()
        await source.start(step)
        await far_side.arrive()
        await until(lambda: step.running == 1)
        began = time.monotonic()
        await source.stop(0.2)
        assert time.monotonic() - began < 5
        assert step.finished == []
        await until(lambda: _left(far_side, 1))

        again = Recorder()
        async with started(far_side.source(), again):
            await until(lambda: len(again.finished) == 1)
        assert again.finished[0].id == step.got[0].id

    async def test_what_waits_before_the_start_is_taken(self, far_side: FarSide) -> None:
        source = far_side.source()
        await far_side.arrive()
        step = Recorder()
        async with started(source, step):
            await until(lambda: step.finished)
            await until(lambda: source.health().up)

    async def test_a_source_starts_again_after_a_stop(self, far_side: FarSide) -> None:
        source, step = far_side.source(), Recorder()
        async with started(source, step):
            await far_side.arrive()
            await until(lambda: len(step.finished) == 1)
        async with started(source, step):
            await far_side.arrive()
            await until(lambda: len(step.finished) == 2)

    async def test_nobody_waits_for_its_answers(self, far_side: FarSide) -> None:
        assert far_side.source().waits is False


class QueueSourceContract(SourceContract):
    """What a sender sends arrives as it was sent, refused for good if it fails for good, and none
    holds up the others."""

    @pytest.mark.parametrize("body", BODIES, ids=["json", "empty", "bytes", "utf-8", "large"])
    async def test_a_body_arrives_untouched(self, far_side: QueueFarSide, body: bytes) -> None:
        step = Recorder()
        async with started(far_side.source(), step):
            await far_side.put(body, content_type="text/x-any; charset=utf-8")
            await until(lambda: step.finished)
        assert step.got[0].body.raw == body
        if far_side.labelled:
            assert step.got[0].content_type == "text/x-any; charset=utf-8"

    async def test_ids_and_headers_arrive(self, far_side: QueueFarSide) -> None:
        if not far_side.labelled:
            pytest.skip("its messages have neither")
        step = Recorder()
        async with started(far_side.source(), step):
            await far_side.put(b"1", id="order-1", headers={"X-Tenant": "acme", "x-empty": ""})
            await until(lambda: step.finished)
        envelope = step.got[0]
        assert envelope.id == "order-1"
        assert envelope.headers.get("x-tenant") == "acme"
        assert envelope.headers.get("X-Empty") == ""
        assert envelope.attempt == 1
        assert envelope.deadline is None
        assert envelope.principal == ""

    async def test_messages_without_an_id_get_one_each(self, far_side: QueueFarSide) -> None:
        step = Recorder()
        async with started(far_side.source(), step):
            for _ in range(20):
                await far_side.put(b"same")
            await until(lambda: len(step.finished) == 20)
        assert len({e.id for e in step.got}) == 20

    async def test_what_comes_again_is_the_same(self, far_side: QueueFarSide) -> None:
        step = Recorder([Transient("not now"), Transient("not yet")])
        async with started(far_side.source(), step):
            await far_side.put(b"patience", id="m1", headers={"x-a": "b"})
            await until(lambda: step.finished)
        assert [e.body.raw for e in step.got] == [b"patience"] * 3
        if far_side.labelled:
            assert {e.id for e in step.got} == {"m1"}
            assert [e.headers.get("x-a") for e in step.got] == ["b"] * 3
        assert await far_side.left() == 0

    async def test_one_that_fails_stops_nobody_else(self, far_side: QueueFarSide) -> None:
        async def step(envelope: Envelope) -> Envelope:
            if envelope.body.raw == b"poison":
                raise Transient("never")
            done.append(envelope.body.raw)
            return envelope

        done: list[bytes] = []
        source = far_side.source()
        await source.start(step)
        await far_side.put(b"poison")
        for number in range(50):
            await far_side.put(b"%d" % number)
        await until(lambda: len(done) == 50)
        await source.stop(10)
        await until(lambda: _left(far_side, 1))

    async def test_what_can_never_succeed_is_refused(self, far_side: QueueFarSide) -> None:
        step = Recorder([BadMessage("broken"), Permanent("hopeless")])
        async with started(far_side.source(), step):
            await far_side.put(b"first")
            await until(lambda: len(step.got) == 1)
            await far_side.put(b"second")
            await far_side.put(b"third")
            await until(lambda: step.finished)
        assert len(step.got) == 3
        assert await far_side.left() == 0
        if far_side.refuses:
            refused = await until(lambda: _at_least(far_side, 2))
            assert sorted(refused) == [b"first", b"second"]

    async def test_messages_are_in_the_route_at_the_same_time(self, far_side: QueueFarSide) -> None:
        step = Recorder(gate=asyncio.Event())
        assert step._gate is not None
        async with started(far_side.source(), step):
            for number in range(10):
                await far_side.put(b"%d" % number)
            await until(lambda: step.running == 10)
            step._gate.set()
        assert len(step.finished) == 10
        assert await far_side.left() == 0

    async def test_all_that_does_not_finish_is_given_back(self, far_side: QueueFarSide) -> None:
        step = Recorder(gate=asyncio.Event())
        source = far_side.source()
        await source.start(step)
        for number in range(5):
            await far_side.put(b"%d" % number)
        await until(lambda: step.running == 5)
        await source.stop(0.2)
        assert step.finished == []
        await until(lambda: _left(far_side, 5))

        again = Recorder()
        async with started(far_side.source(), again):
            await until(lambda: len(again.finished) == 5)


async def _at_least(far_side: QueueFarSide, count: int) -> list[bytes]:
    refused = await far_side.refused()
    return refused if len(refused) >= count else []


async def _left(far_side: FarSide, count: int) -> bool:
    return await far_side.left() == count


# --- sinks ----------------------------------------------------------------------------------------


@dataclass
class Arrived:
    """A message as the far side got it."""

    body: bytes
    content_type: str = ""
    id: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


class SinkFarSide(ABC):
    """The outside of a sink: what it takes, and how it refuses."""

    labelled = True
    """Whether a message arrives with its content type and headers."""

    @abstractmethod
    def sink(self) -> Sink:
        """A sink that delivers to what `arrived` looks at."""

    @abstractmethod
    def unreachable(self) -> Sink:
        """A sink whose far side is not there. Its options are such that it fails within seconds."""

    @abstractmethod
    def refusing(self) -> Sink:
        """A sink whose far side is there and refuses the message for good."""

    @abstractmethod
    async def arrived(self, count: int) -> list[Arrived]:
        """The next `count` messages."""

    @abstractmethod
    async def more(self) -> int:
        """How many there are that `arrived` has not yet given."""


class SinkContract:
    """Returning means taken; raising means typed by what to do; nothing is changed on the way."""

    @pytest.mark.parametrize("body", BODIES, ids=["json", "empty", "bytes", "utf-8", "large"])
    async def test_a_body_leaves_untouched(self, far_side: SinkFarSide, body: bytes) -> None:
        await far_side.sink().send(Envelope(body=Body(body, "text/x-any; charset=utf-8")))
        (message,) = await far_side.arrived(1)
        assert message.body == body
        if body and far_side.labelled:
            assert message.content_type == "text/x-any; charset=utf-8"

    async def test_data_is_written_by_its_codec(self, far_side: SinkFarSide) -> None:
        import esb.codecs  # noqa: F401 - registers them

        await far_side.sink().send(Envelope(body=Body.of({"a": [1, "ž"]}, "application/json")))
        (message,) = await far_side.arrived(1)
        assert message.body == '{"a":[1,"ž"]}'.encode()

    async def test_headers_leave_with_it(self, far_side: SinkFarSide) -> None:
        if not far_side.labelled:
            pytest.skip("nothing leaves but the body")
        headers = Headers([("X-Tenant", "acme")])
        await far_side.sink().send(Envelope(body=Body(b"1", "text/plain"), headers=headers))
        (message,) = await far_side.arrived(1)
        found = {name.lower(): value for name, value in message.headers.items()}
        assert found["x-tenant"] == "acme"

    async def test_credentials_do_not(self, far_side: SinkFarSide) -> None:
        if not far_side.labelled:
            pytest.skip("nothing leaves but the body")
        secrets = Headers(
            [("Authorization", "Bearer s3cr3t"), ("Cookie", "s=s3cr3t"), ("X-Ok", "1")]
        )
        await far_side.sink().send(Envelope(body=Body(b"1", "text/plain"), headers=secrets))
        (message,) = await far_side.arrived(1)
        assert "s3cr3t" not in str(message.headers)

    async def test_many_at_once_all_arrive_once(self, far_side: SinkFarSide) -> None:
        sink = far_side.sink()
        bodies = [b"%d" % number for number in range(200)]
        await asyncio.gather(
            *(sink.send(Envelope(body=Body(body, "text/plain"))) for body in bodies)
        )
        assert sorted(m.body for m in await far_side.arrived(200)) == sorted(bodies)
        assert await far_side.more() == 0

    async def test_a_far_side_that_is_away_may_come_back(self, far_side: SinkFarSide) -> None:
        with pytest.raises(Unreachable) as caught:
            await far_side.unreachable().send(Envelope(body=Body(b"1", "text/plain")))
        assert caught.value.detail

    async def test_a_far_side_that_refuses_is_not_asked_again(self, far_side: SinkFarSide) -> None:
        with pytest.raises(Rejected) as caught:
            await far_side.refusing().send(Envelope(body=Body(b"1", "text/plain")))
        assert caught.value.detail

    async def test_a_deadline_bounds_it(self, far_side: SinkFarSide) -> None:
        began = time.monotonic()
        with pytest.raises(Transient):
            await far_side.unreachable().send(
                Envelope(body=Body(b"1", "text/plain"), deadline=time.monotonic() + 0.2)
            )
        assert time.monotonic() - began < 2

    async def test_the_message_itself_stays_as_it_is(self, far_side: SinkFarSide) -> None:
        envelope = Envelope(body=Body(b"1", "text/plain"), headers=Headers([("a", "b")]))
        before = envelope.replace()
        await far_side.sink().send(envelope)
        assert envelope == before
