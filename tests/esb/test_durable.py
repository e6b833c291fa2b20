"""The unit of work: what one run changes in the store is there as a whole, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest
from support.stores import Place, message, opened
from support.waiting import until

from esb.durable import (
    Change,
    Confirm,
    Done,
    Move,
    Put,
    Release,
    Store,
    Superseded,
    Unit,
    at_once,
    change,
    part,
    unit_on,
)
from esb.envelope import Body, Envelope
from esb.errors import BadMessage, EsbError, Transient
from esb.middleware.retry import RetryOptions, retrying
from esb.middleware.transaction import transactional
from esb.step import Step, wrap

PLACES = ("sqlite", "served", "postgres")


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    async with opened(place) as one:
        yield one


def sending(store: Store, *channels: str, error: EsbError | None = None) -> Step:
    """A step that sends to channels, one after the other, and then may fail."""

    async def step(envelope: Envelope) -> Envelope:
        for channel in channels:
            await change(store, Put(channel, envelope))
        if error is not None:
            raise error
        return envelope

    return step


async def test_what_a_run_sends_is_there_once_it_is_through(store: Store) -> None:
    seen: list[dict[str, int]] = []

    async def looking(envelope: Envelope) -> Envelope:
        await sending(store, "a", "b")(envelope)
        seen.append(await store.counts())
        return envelope

    await transactional(store)(looking)(message())
    assert seen == [{}]
    assert await store.counts() == {"a": 1, "b": 1}
    assert unit_on(store) is None


async def test_a_run_that_fails_leaves_nothing(store: Store) -> None:
    with pytest.raises(Transient):
        await transactional(store)(sending(store, "a", error=Transient("no")))(message())
    assert await store.counts() == {}


async def test_a_part_that_is_tried_again_sends_once(store: Store) -> None:
    failures = 2

    async def failing(envelope: Envelope) -> Envelope:
        nonlocal failures
        await change(store, Put("part", envelope))
        failures -= 1
        if failures >= 0:
            raise Transient("not yet")
        return envelope

    retry = RetryOptions.model_validate({"attempts": 5, "backoff": "1ms"})
    part = wrap(failing, retrying(retry, route="r"), transactional(store))

    async def whole(envelope: Envelope) -> Envelope:
        await change(store, Put("before", envelope))
        envelope = await part(envelope)
        assert await store.counts() == {}
        return envelope

    await transactional(store)(whole)(message())
    assert await store.counts() == {"before": 1, "part": 1}


async def test_parts_that_run_side_by_side_undo_only_their_own(store: Store) -> None:
    others_are_through = asyncio.Event()

    async def part(envelope: Envelope) -> Envelope:
        await change(store, Put("kept" if envelope.id != "2" else "undone", envelope))
        if envelope.id == "2":
            await others_are_through.wait()
            raise Transient("no")
        return envelope

    each = transactional(store)(part)

    async def split(envelope: Envelope) -> Envelope:
        parts = [asyncio.create_task(each(message(id=str(i)))) for i in range(5)]
        await asyncio.wait([one for i, one in enumerate(parts) if i != 2])
        others_are_through.set()
        await asyncio.wait(parts)
        assert isinstance(parts[2].exception(), Transient)
        return envelope

    await transactional(store)(split)(message())
    assert await store.counts() == {"kept": 4}


async def test_a_message_that_cannot_be_stored_fails_where_it_is_sent(store: Store) -> None:
    bad = Envelope(body=Body.of({"a": object()}, "application/json"))
    async with Unit(store) as unit:
        with pytest.raises(EsbError):
            await change(store, Put("a", bad))
        await change(store, Put("a", message()))
        await unit.commit()
    assert await store.counts() == {"a": 1}
    with pytest.raises(BadMessage):
        store.prepare(Put("a", message(subject="\ud800")))


async def test_what_becomes_of_a_message_is_committed_with_what_its_run_sends(
    store: Store,
) -> None:
    await store.put("in", message("x"))
    [taken] = await store.take("in", 1)
    async with Unit(store, taken=taken) as unit:
        await transactional(store)(sending(store, "out"))(taken.envelope)
        unit.settle(Move(taken.key, "elsewhere", hold=taken.hold))
        unit.settle(Done(taken.key, taken.hold))  # the first word counts
        assert await store.counts() == {"in": 1}
        await unit.commit()
    assert await store.counts() == {"elsewhere": 1, "out": 1}


async def test_whoever_lost_a_message_changes_nothing(store: Store) -> None:
    await store.put("in", message("x"))
    [lost] = await store.take("in", 1)
    await store.move(lost.key, "in")  # given to another
    [held] = await store.take("in", 1)
    assert held.hold != lost.hold
    for late in (Done(lost.key, lost.hold), Move(lost.key, "in", hold=lost.hold)):
        async with Unit(store, taken=lost) as unit:
            await change(store, Put("out", lost.envelope))
            unit.settle(late)
            with pytest.raises(Superseded):
                await unit.commit()
    assert await store.counts() == {"in": 1}
    await store.commit((Done(held.key, held.hold),))


async def test_a_unit_that_could_not_be_committed_can_be_tried_again(store: Store) -> None:
    class Refusing:
        refusals = 1

        def __getattr__(self, name: str) -> object:
            return getattr(store, name)

        async def commit(self, changes: object) -> object:
            if self.refusals:
                self.refusals -= 1
                raise Transient("not now")
            return await store.commit(changes)  # type: ignore[arg-type]

    refusing: Store = Refusing()  # type: ignore[assignment]
    async with Unit(refusing) as unit:
        await change(refusing, Put("a", message()))
        with pytest.raises(Transient):
            await unit.commit()
        await unit.commit()
        await unit.commit()  # nothing is left to do
    assert await store.counts() == {"a": 1}


async def test_a_tap_is_not_part_of_the_run(store: Store) -> None:
    async def step(envelope: Envelope) -> Envelope:
        with at_once():
            await change(store, Put("tap", envelope))
        await change(store, Put("out", envelope))
        raise Transient("no")

    with pytest.raises(Transient):
        await transactional(store)(step)(message())
    assert await store.counts() == {"tap": 1}


async def test_a_part_that_raises_leaves_nothing(store: Store) -> None:
    async def step(envelope: Envelope) -> Envelope:
        for channel, error in (("kept", None), ("lost", Transient("no"))):
            with contextlib.suppress(Transient):
                async with part():
                    inner = unit_on(store)
                    assert inner is not None
                    inner.did(channel)
                    assert (inner.times(channel), inner.times("before")) == (1, 1)
                    await sending(store, channel, error=error)(envelope)
        unit = unit_on(store)
        assert unit is not None
        assert (unit.times("kept"), unit.times("lost")) == (1, 0)
        return envelope

    async def begun(envelope: Envelope) -> Envelope:
        unit = unit_on(store)
        assert unit is not None
        unit.did("before")
        return await step(envelope)

    await transactional(store)(begun)(message())
    assert await store.counts() == {"kept": 1}


async def test_a_task_that_outlives_its_run_changes_the_store_by_itself(store: Store) -> None:
    over = asyncio.Event()

    async def later() -> None:
        await over.wait()
        await change(store, Put("late", message()))

    async def step(envelope: Envelope) -> Envelope:
        tasks.append(asyncio.create_task(later()))
        return envelope

    tasks: list[asyncio.Task[None]] = []
    await transactional(store)(step)(message())
    over.set()
    await asyncio.gather(*tasks)
    assert await store.counts() == {"late": 1}


class TestClaims:
    async def test_a_claim_is_done_with_the_commit_and_free_without(self, store: Store) -> None:
        for commits in (False, True):
            async with Unit(store) as unit:
                assert (await unit.claim("s", "v", 9e9)).state == "new"
                assert (await unit.claim("s", "v", 9e9)).state == "new", "it is its own"
                assert (await store.claim("s", "v", 9e9)).state == "busy"
                unit.add(Confirm("s", "v", 9e9, message("answer")))
                if commits:
                    await unit.commit()
        claim = await store.claim("s", "v", 9e9)
        assert claim.state == "done"
        assert claim.answer is not None
        assert claim.answer.body.text == "answer"
        assert (await store.claim("s", "other", 9e9)).state == "new"
        assert (await store.claim("other", "v", 9e9)).state == "new"

    async def test_what_is_done_can_be_free_again(self, store: Store) -> None:
        await store.claim("s", "v", 9e9)
        await store.commit((Confirm("s", "v", 9e9),))
        await store.commit((Release("s", "v"),))
        assert (await store.claim("s", "v", 9e9)).state == "done"
        await store.commit((Release("s", "v", done=True),))
        assert (await store.claim("s", "v", 9e9)).state == "new"

    async def test_a_claim_outlives_the_try_it_was_made_in(self, store: Store) -> None:
        async with Unit(store) as unit:
            for _ in range(2):
                async with Unit(store, within=unit) as part:
                    assert (await part.claim("s", "v", 9e9)).state == "new"
            assert (await store.claim("s", "v", 9e9)).state == "busy"
        assert (await store.claim("s", "v", 9e9)).state == "new"

    async def test_of_the_parts_of_a_run_one_gets_it(self, store: Store) -> None:
        async def part(name: str, *, fails: bool = False) -> str:
            async with Unit(store, within=unit) as inner, Unit(store, within=inner) as innermost:
                claim = await innermost.claim("s", "v", 9e9, by=name)
                await innermost.commit()
                if not fails:
                    await inner.commit()
                return claim.state

        async with Unit(store) as unit:
            assert await part("failing", fails=True) == "new"
            states = await asyncio.gather(*(part(name) for name in "abc"))
            assert sorted(states) == ["done", "done", "new"]

    async def test_what_is_claimed_at_two_places_of_a_run_is_confirmed_once(
        self, store: Store
    ) -> None:
        async with Unit(store) as unit:
            for _ in range(2):
                assert (await unit.claim("s", "v", 9e9, by="m")).state == "new"
                unit.add(Confirm("s", "v", 9e9))
            await unit.commit()
        assert (await store.claim("s", "v", 9e9)).state == "done"

    async def test_what_the_run_did_not_confirm_is_free_with_its_commit(self, store: Store) -> None:
        async with Unit(store) as unit:
            await unit.claim("s", "v", 9e9)
            await unit.claim("s", "w", 9e9)
            unit.add(Confirm("s", "v", 9e9))
            await unit.commit()
            assert (await store.claim("s", "v", 9e9)).state == "done"
            assert (await store.claim("s", "w", 9e9)).state == "new"

    async def test_one_that_the_store_was_away_for_is_given_up_later(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("esb.durable.GIVE_UP_AGAIN", 0.01)
        commit, away = store.commit, 3

        async def now_and_then(changes: Sequence[Change]) -> list[int]:
            nonlocal away
            away -= 1
            if away >= 0:
                raise Transient("the store does not answer")
            return await commit(changes)

        monkeypatch.setattr(store, "commit", now_and_then)
        async with Unit(store) as unit:
            await unit.claim("s", "v", 9e9)
        await until(lambda: away < 0)
        await until(lambda: _is_new(store))

    async def test_one_of_many_at_once_gets_it(self, store: Store) -> None:
        claims = await asyncio.gather(*(store.claim("s", "v", 9e9) for _ in range(50)))
        assert sorted(claim.state for claim in claims) == ["busy"] * 49 + ["new"]


async def _is_new(store: Store) -> bool:
    return (await store.claim("s", "v", 9e9)).state == "new"
