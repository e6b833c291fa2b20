"""Firings: when, how often, by whom; on a clock that the test moves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis.strategies import floats, sampled_from
from pydantic import ValidationError
from support.contract import FarSide, Recorder, SourceContract, started
from support.fake_build import FakeBuild
from support.stores import opened
from support.waiting import until

import esb.codecs  # noqa: F401 - registers them
from esb.adapter import BuildFailed
from esb.clock import Clock
from esb.durable import Claim, Put, Release, change, unit_on
from esb.envelope import Envelope
from esb.errors import Permanent, Transient, Unavailable
from esb.middleware.transaction import transactional
from esb.step import Step
from esb.store import SqliteStore
from esb_schedule.options import SourceOptions
from esb_schedule.source import KNOWN, ScheduleSource, _value
from esb_schedule.when import Cron, Every

VIENNA = ZoneInfo("Europe/Vienna")
NOON = datetime(2031, 3, 3, 12, tzinfo=UTC).timestamp()
"""A Monday to come, so that the store, which has a clock of its own, forgets nothing."""
HOUR = 3600.0


class Wall:
    """A clock that stands, or runs so many times as fast; a test sets it."""

    def __init__(self, now: float = NOON, speed: float = 0.0) -> None:
        self._set = now
        self._at = time.monotonic()
        self._speed = speed
        self.clock = Clock(lambda: self.now, lambda: self.now, self._sleep)

    @property
    def now(self) -> float:
        return self._set + (time.monotonic() - self._at) * self._speed

    @now.setter
    def now(self, value: float) -> None:
        self._set, self._at = value, time.monotonic()

    async def _sleep(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            await asyncio.sleep(0.002)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with opened(tmp_path / "bus.db") as store:
        yield store


def make(store: Any, wall: Wall, *, random: float = 0.0, **options: Any) -> ScheduleSource:
    build = FakeBuild(store=store)
    build.clock = wall.clock
    valid = SourceOptions.model_validate({"every": "1h"} | options)
    return ScheduleSource(valid, build, random=lambda: random)


def cron(store: Any, wall: Wall, expression: str, **options: Any) -> ScheduleSource:
    return make(store, wall, every=None, cron=expression, **options)


def dues(step: Recorder) -> list[datetime]:
    return [e.params["schedule"]["due"] for e in step.got]


async def settled(source: ScheduleSource, wall: Wall, next_at: float) -> None:
    """The source sleeps until then."""
    at = datetime.fromtimestamp(next_at, UTC)

    def sleeps() -> bool:
        detail = source.health().detail
        return detail.startswith("next at ") and datetime.fromisoformat(detail[8:]) == at

    await until(sleeps)
    await asyncio.sleep(0)


async def known(store: Any, wall: Wall, **options: Any) -> None:
    """There was a bus once."""
    source = make(store, wall, **options)
    async with started(source, Recorder()):
        await until(lambda: source.health().detail.startswith("next"))


# --- the contract ---------------------------------------------------------------------------------


class Firings(FarSide):
    """Firings arrive when the clock is set on by an hour; it runs fast, so that waits are short."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.wall = Wall(speed=20.0)

    def source(self) -> ScheduleSource:
        return make(self.store, self.wall)

    async def arrive(self) -> None:
        # One at a time: several that were due count as one.
        self.wall.now = (self.wall.now // HOUR + 1) * HOUR + 1.0

    async def left(self) -> int:
        last = self.wall.now // HOUR * HOUR
        scope = self.source()._scope
        claim = await self.store.claim(scope, _value(last), self.wall.now + HOUR)
        if claim.state == "new":
            await self.store.commit((Release(scope, _value(last)),))
        return 0 if claim.state == "done" else 1


@pytest.fixture
async def far_side(store: SqliteStore) -> Firings:
    far = Firings(store)
    await known(store, far.wall)
    return far


class TestSchedule(SourceContract):
    pass


# --- when -----------------------------------------------------------------------------------------


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def told(when: Cron, *, begin: str, count: int) -> list[str]:
    moment, found = at(begin), []
    for _ in range(count):
        due = when.after(moment)
        assert due is not None
        moment = due
        found.append(datetime.fromtimestamp(due, when.zone).isoformat(timespec="minutes"))
    return found


def test_every_is_counted_from_1970() -> None:
    assert Every(300.0).after(at("2031-03-03T12:00:00Z")) == at("2031-03-03T12:05:00Z")
    assert Every(300.0).after(at("2031-03-03T12:04:59.9Z")) == at("2031-03-03T12:05:00Z")
    assert Every(300.0).before(at("2031-03-03T12:00:00Z")) == at("2031-03-03T12:00:00Z")
    assert Every(86_400.0).after(at("2031-03-03T12:00:00Z")) == at("2031-03-04T00:00:00Z")
    assert Every(0.05).after(NOON) == NOON + 0.05


@pytest.mark.parametrize(
    ("expression", "begin", "expected"),
    [
        pytest.param(
            "0 6 * * MON-FRI",
            "2031-03-28T06:00+01:00",
            # From Saturday to Sunday the clocks go forward.
            ["2031-03-31T06:00+02:00", "2031-04-01T06:00+02:00"],
            id="working days",
        ),
        pytest.param(
            "30 2 * * *",
            "2031-03-29T02:30+01:00",
            ["2031-03-30T03:00+02:00", "2031-03-31T02:30+02:00"],
            id="an hour that is missing",
        ),
        pytest.param(
            "30 2 * * *",
            "2031-10-25T02:30+02:00",
            ["2031-10-26T02:30+02:00", "2031-10-27T02:30+01:00"],
            id="an hour that comes twice",
        ),
        pytest.param(
            "30 * * * *",
            "2031-10-26T01:30+02:00",
            ["2031-10-26T02:30+02:00", "2031-10-26T02:30+01:00", "2031-10-26T03:30+01:00"],
            id="each hour, that one too",
        ),
        pytest.param(
            "0 0 L * *",
            "2032-02-01T00:00+01:00",
            ["2032-02-29T00:00+01:00", "2032-03-31T00:00+02:00"],
            id="the last day of the month",
        ),
    ],
)
def test_cron_in_a_time_zone(expression: str, begin: str, expected: list[str]) -> None:
    assert told(Cron(expression, VIENNA), begin=begin, count=len(expected)) == expected


def test_in_the_hour_that_comes_twice_nothing_is_due_that_is_over() -> None:
    when = Cron("30 2 * * *", VIENNA)
    second = at("2031-10-26T02:10:00+01:00")  # forty minutes after the first 02:30
    assert when.before(second) == at("2031-10-26T02:30:00+02:00")
    assert when.after(second) == at("2031-10-27T02:30:00+01:00")


@given(
    moment=floats(at("2031-03-29T00:00Z"), at("2031-04-01T00:00Z"))
    | floats(at("2031-10-25T00:00Z"), at("2031-10-28T00:00Z"))
    | floats(0, at("2060-01-01T00:00Z")),
    when=sampled_from(
        [
            *(Every(seconds) for seconds in (0.25, 7.0, 3600.0, 86_400.0)),
            *(
                Cron(expression, VIENNA)
                for expression in (
                    "*/7 * * * *",
                    "30 2 * * *",
                    "15,45 1-3 * * *",
                    "0 */2 * * *",
                    "30 * * * * *",
                    "0 6 1 JAN *",
                )
            ),
            Cron("59 23 31 12 FRI", ZoneInfo("America/St_Johns")),
        ]
    ),
)
def test_before_and_after_agree(moment: float, when: Every | Cron) -> None:
    before, after = when.before(moment), when.after(moment)
    assert before is not None
    assert after is not None
    assert before <= moment + 0.0005
    assert moment - 0.0005 < after
    assert when.after(before) == after
    assert when.before(after) == after
    assert when.after(before - 0.001) == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "one of `every` and `cron`"),
        ({"every": "1h", "cron": "0 6 * * *"}, "one of `every` and `cron`"),
        ({"cron": "0 25 * * *"}, "bad hour"),
        ({"cron": "daily"}, "wrong number of fields"),
        ({"cron": "0 0 30 2 *"}, "bad day-of-month"),
        ({"cron": "0 6 * * *", "zone": "Europe/Wien"}, "no time zone 'Europe/Wien'"),
        ({"cron": "0 6 * * *", "zone": "Europe/Viena"}, "did you mean 'Europe/Vienna'"),
        ({"cron": "0 6 * * *", "zone": "../etc/passwd"}, "no time zone"),
        ({"cron": "0 6 * * *", "zone": "Europe"}, "no time zone"),
        ({"every": "1h", "zone": "Europe/Vienna"}, "`zone` is for `cron`"),
        ({"every": "1m", "jitter": "2m"}, "`jitter` is less"),
        ({"every": "0s"}, "greater than"),
    ],
)
def test_a_schedule_that_is_none(options: dict[str, str], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        SourceOptions.model_validate(options)


def test_a_body_that_cannot_be_written(store: SqliteStore) -> None:
    with pytest.raises(BuildFailed, match="body"):
        make(store, Wall(), body={"a": 1}, content_type="application/pdf")


# --- one after the other --------------------------------------------------------------------------


async def test_what_a_firing_says(store: SqliteStore) -> None:
    wall, step = Wall(), Recorder()
    source = cron(store, wall, "0 13 * * *", zone="Europe/Vienna", body={"scope": ["all"]})
    async with started(source, step):
        await settled(source, wall, NOON + 24 * HOUR)
        wall.now = NOON + 24 * HOUR + 2
        await until(lambda: step.finished)
    (message,) = step.got
    due = datetime(2031, 3, 4, 13, tzinfo=VIENNA)
    assert message.params["schedule"] == {
        "due": due,
        "fired": due + timedelta(seconds=2),
        "number": 1,
    }
    assert message.params["schedule"]["due"].isoformat() == "2031-03-04T13:00:00+01:00"
    assert (message.time, message.type, message.source) == (due, "schedule", "schedule:test")
    assert message.body.data == {"scope": ["all"]}
    assert message.body.raw == b'{"scope":["all"]}'
    assert message.content_type == "application/json"


async def test_it_fires_when_it_is_due_and_not_before(store: SqliteStore) -> None:
    wall, step = Wall(NOON + 1), Recorder()
    source = make(store, wall)
    async with started(source, step):
        await settled(source, wall, NOON + HOUR)
        wall.now = NOON + HOUR - 0.5
        for number in (1, 2, 3):
            wall.now = NOON + number * HOUR
            await settled(source, wall, NOON + (number + 1) * HOUR)
    assert dues(step) == [datetime.fromtimestamp(NOON + n * HOUR, UTC) for n in (1, 2, 3)]
    assert [e.params["schedule"]["fired"] for e in step.got] == dues(step)
    assert [e.params["schedule"]["number"] for e in step.got] == [1, 2, 3]
    assert step.got[0].body.is_empty


async def test_jitter_puts_it_off(store: SqliteStore) -> None:
    wall, step = Wall(), Recorder()
    source = make(store, wall, jitter="10m", random=0.5)
    async with started(source, step):
        await settled(source, wall, NOON + HOUR)
        wall.now = NOON + HOUR + 299
        await settled(source, wall, NOON + HOUR)
        wall.now = NOON + HOUR + 300
        await until(lambda: step.finished)
    assert dues(step) == [datetime.fromtimestamp(NOON + HOUR, UTC)]
    assert step.got[0].params["schedule"]["fired"].timestamp() == NOON + HOUR + 300


@pytest.mark.parametrize("missed", ["once", "skip"])
async def test_firings_do_not_overlap(store: SqliteStore, missed: str) -> None:
    wall, step = Wall(), Recorder(gate=asyncio.Event())
    assert step._gate is not None
    source = make(store, wall, missed=missed)
    async with started(source, step):
        await settled(source, wall, NOON + HOUR)
        wall.now = NOON + HOUR
        await until(lambda: step.running)
        wall.now = NOON + 4.5 * HOUR
        step._gate.set()
        await settled(source, wall, NOON + 5 * HOUR)
    # What was due three times meanwhile is due once, or never.
    expected = [1, 4] if missed == "once" else [1]
    assert dues(step) == [datetime.fromtimestamp(NOON + n * HOUR, UTC) for n in expected]
    assert step.most == 1


async def test_what_was_due_meanwhile_is_left_out_however_little_late(store: SqliteStore) -> None:
    wall, step = Wall(), Recorder(gate=asyncio.Event())
    assert step._gate is not None
    source = make(store, wall, every="10s", missed="skip")
    async with started(source, step):
        await settled(source, wall, NOON + 10)
        wall.now = NOON + 10
        await until(lambda: step.running)
        wall.now = NOON + 25
        step._gate.set()
        await settled(source, wall, NOON + 30)
    assert len(step.got) == 1


async def test_firings_of_two_do_not_overlap(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy: list[str] = []
    claim = store.claim

    async def noted(scope: str, value: str, until: float) -> Claim:
        answer = await claim(scope, value, until)
        if answer.state == "busy":
            busy.append(value)
        return answer

    monkeypatch.setattr(store, "claim", noted)
    wall, step = Wall(speed=20.0), Recorder(gate=asyncio.Event())
    assert step._gate is not None
    first, second = (make(store, wall, missed="skip") for _ in range(2))
    await first.start(step)
    await settled(first, wall, NOON + HOUR)
    wall.now = NOON + HOUR
    await until(lambda: step.running)
    # It comes while the first has a firing in hand, of which it knows nothing.
    await second.start(step)
    await settled(second, wall, NOON + 2 * HOUR)
    wall.now = NOON + 2 * HOUR
    await until(lambda: busy or step.running > 1)
    step._gate.set()
    for source in (first, second):
        await settled(source, wall, NOON + 3 * HOUR)
        await source.stop(5)
    assert step.most == 1
    assert [due.timestamp() - NOON for due in dues(step)] == [HOUR, 2 * HOUR]


async def test_firings_may_overlap(store: SqliteStore) -> None:
    wall, step = Wall(), Recorder(gate=asyncio.Event())
    assert step._gate is not None
    source = make(store, wall, overlap=True)
    async with started(source, step):
        for number in (1, 2):
            await settled(source, wall, NOON + number * HOUR)
            wall.now = NOON + number * HOUR
            await until(lambda number=number: step.running == number)
        step._gate.set()
    assert len(step.finished) == 2


@pytest.mark.parametrize("overlap", [False, True])
async def test_what_is_tried_again_keeps_its_place_unless_firings_may_overlap(
    store: SqliteStore, overlap: bool
) -> None:
    wall = Wall()
    kept: list[bool] = []

    async def step(envelope: Envelope) -> Envelope:
        unit = unit_on(store)
        assert unit is not None
        kept.append(unit.in_order)
        return envelope

    source = make(store, wall, overlap=overlap)
    async with started(source, step):
        await settled(source, wall, NOON + HOUR)
        wall.now = NOON + HOUR
        await until(lambda: kept)
    assert kept == [not overlap]


async def test_one_that_starts_fires_if_so_asked(store: SqliteStore) -> None:
    wall, step = Wall(NOON + 90), Recorder()
    for _ in range(2):
        source = make(store, wall, at_start=True)
        async with started(source, step):
            await settled(source, wall, NOON + HOUR)
        wall.now += 1
    assert [due.timestamp() - NOON for due in dues(step)] == [90, 91]


# --- what was missed ------------------------------------------------------------------------------


async def test_what_a_new_schedule_would_have_fired_was_not_missed(store: SqliteStore) -> None:
    wall, step = Wall(), Recorder()
    await known(store, wall)
    wall.now += 5.5 * HOUR
    source = make(store, wall, every="30m")  # another schedule of the same route
    async with started(source, step):
        await settled(source, wall, NOON + 6 * HOUR)
    assert step.got == []


@pytest.mark.parametrize("missed", ["once", "skip"])
async def test_a_bus_that_was_away(store: SqliteStore, missed: str) -> None:
    wall, step = Wall(), Recorder()
    await known(store, wall, missed=missed)
    wall.now += 5.5 * HOUR
    for _ in range(2):  # and a restart in which nothing is due
        source = make(store, wall, missed=missed)
        async with started(source, step):
            await settled(source, wall, NOON + 6 * HOUR)
    expected = [datetime.fromtimestamp(NOON + 5 * HOUR, UTC)] if missed == "once" else []
    assert dues(step) == expected


async def test_a_machine_that_slept(store: SqliteStore) -> None:
    wall, step = Wall(), Recorder()
    source = cron(store, wall, "0 13 * * *", missed="skip")
    async with started(source, step):
        await settled(source, wall, NOON + HOUR)
        wall.now = NOON + HOUR + 61
        await settled(source, wall, NOON + 25 * HOUR)
        assert step.got == []
        wall.now = NOON + 25 * HOUR + 59
        await until(lambda: step.finished)
    assert dues(step) == [datetime.fromtimestamp(NOON + 25 * HOUR, UTC)]


async def test_a_clock_that_is_set_forward(store: SqliteStore) -> None:
    wall, step, ahead = Wall(), Recorder(), 0.0
    source = make(store, wall)
    source._clock = Clock(lambda: wall.now + ahead, lambda: wall.now, wall._sleep)
    async with started(source, step):
        await settled(source, wall, NOON + HOUR)
        ahead = HOUR
        wall.now += 60
        await until(lambda: step.finished)


async def test_a_clock_that_is_set_back_fires_nothing_twice(store: SqliteStore) -> None:
    wall, step = Wall(), Recorder()
    source = make(store, wall)
    async with started(source, step):
        await settled(source, wall, NOON + HOUR)
        wall.now = NOON + HOUR
        await settled(source, wall, NOON + 2 * HOUR)
        for now in (NOON + HOUR - 30, NOON + HOUR + 30):
            wall.now = now
            await settled(source, wall, NOON + 2 * HOUR)
    wall.now = NOON + HOUR - 30
    source = make(store, wall)
    async with started(source, step):
        await settled(source, wall, NOON + HOUR)
        wall.now = NOON + HOUR + 30
        await settled(source, wall, NOON + 2 * HOUR)
    assert len(step.got) == 1


# --- several buses, crashes and the store ---------------------------------------------------------


async def test_one_of_two_fires(store: SqliteStore) -> None:
    # It runs: whoever comes second asks again in a second whether the first is through.
    wall, step = Wall(speed=20.0), Recorder()
    sources = [make(store, wall) for _ in range(2)]
    for source in sources:
        await source.start(step)
    for number in (1, 2, 3):
        for source in sources:
            await settled(source, wall, NOON + number * HOUR)
        wall.now = NOON + number * HOUR
    for source in sources:
        await settled(source, wall, NOON + 4 * HOUR)
        await source.stop(5)
    assert dues(step) == [datetime.fromtimestamp(NOON + n * HOUR, UTC) for n in (1, 2, 3)]


async def test_of_two_new_ones_neither_missed_anything(store: SqliteStore) -> None:
    wall, step = Wall(NOON + 90, speed=100.0), Recorder()
    sources = [make(store, wall) for _ in range(2)]
    await asyncio.gather(*(source.start(step) for source in sources))
    for source in sources:
        await until(lambda source=source: source.health().detail.startswith("next"))
        await source.stop(5)
    assert step.got == []


async def test_another_goes_on_if_the_first_gives_up(store: SqliteStore) -> None:
    wall = Wall()
    stuck, step = Recorder(gate=asyncio.Event()), Recorder()
    first, second = make(store, wall), make(store, wall)
    await first.start(stuck)
    await settled(first, wall, NOON + HOUR)
    await second.start(step)
    await settled(second, wall, NOON + HOUR)
    wall.now = NOON + HOUR
    await until(lambda: stuck.running + step.running + len(step.finished))
    if stuck.running:
        await first.stop(0)
        wall.now += 2
        await until(lambda: step.finished)
        assert step.got[0].id == stuck.got[0].id
    await first.stop(0)
    await second.stop(5)
    assert len(step.finished) == 1


async def test_what_fails_for_now_is_tried_again_as_the_same(store: SqliteStore) -> None:
    wall, step = Wall(speed=50.0), Recorder([Unavailable("the store is away"), Transient("no")])
    source = make(store, wall)
    async with started(source, step):
        await until(lambda: source.health().detail.startswith("next"))
        wall.now = NOON + HOUR
        await until(lambda: len(step.got) > 1 or source.health().detail == "the store is away")
        await until(lambda: step.finished)
        await until(lambda: source.health().up)
    assert len({e.id for e in step.got}) == 1
    assert len(step.got) == 3


async def test_what_fails_for_good_is_through(store: SqliteStore) -> None:
    wall, step = Wall(), Recorder([Permanent("hopeless")])
    source = make(store, wall)
    async with started(source, step):
        await settled(source, wall, NOON + HOUR)
        wall.now = NOON + HOUR
        await settled(source, wall, NOON + 2 * HOUR)
    source = make(store, wall)
    async with started(source, step):
        await settled(source, wall, NOON + 2 * HOUR)
    assert len(step.got) == 1


async def test_what_the_route_sends_is_there_once_with_the_firing(store: SqliteStore) -> None:
    wall = Wall(speed=50.0)
    fails = [Transient("no")]

    async def step(envelope: Envelope) -> Envelope:
        await change(store, Put("queue:q", envelope))
        if fails:
            raise fails.pop()
        return envelope

    inner: Step = transactional(store)(step)
    source = make(store, wall)
    await source.start(inner)
    await until(lambda: source.health().detail.startswith("next"))
    wall.now = NOON + HOUR

    async def there() -> bool:
        return (await store.counts()).get("queue:q") == 1

    await until(there)
    await source.stop(5)
    assert await there()


async def test_a_firing_that_kills_the_process_is_refused_in_the_end(tmp_path: Path) -> None:
    wall = Wall()
    path = tmp_path / "bus.db"
    async with opened(path) as store:
        await known(store, wall)
    wall.now += HOUR
    for crashes in range(4):
        async with opened(path) as store:
            source = make(store, wall)
            step = Recorder()

            async def admitted(envelope: Envelope, source: Any = source, step: Any = step) -> Any:
                return await step(await source.admit(envelope))

            if crashes < 3:
                # What is left of a process that dies in the midst of it.
                claim = await store.claim(source._scope, _value(NOON + HOUR), wall.now + HOUR)
                assert (claim.state, claim.crashes) == ("new", crashes)
                continue
            async with started(source, admitted):
                await settled(source, wall, NOON + 2 * HOUR)
            assert step.got == []
            # It is through, and a replay of its dead letter is a run like any other.
            assert (await store.claim(source._scope, _value(NOON + HOUR), 0)).state == "done"
            assert await source.admit(source._message(NOON + HOUR))


async def test_it_waits_for_the_store(store: SqliteStore) -> None:
    class Away(SqliteStore):
        away = True

        async def claim(self, scope: str, value: str, until: float) -> Any:
            if self.away:
                raise Unavailable("the store is away")
            return await store.claim(scope, value, until)

        async def commit(self, changes: Any) -> list[int]:
            return await store.commit(changes)

    away, wall = Away(Path("none")), Wall(speed=50.0)
    source = make(away, wall)
    await source.start(Recorder())
    await until(lambda: source.health().detail == "the store is away")
    assert not source.health().up
    away.away = False
    await until(lambda: source.health().up)
    assert (await store.claim(source._scope, KNOWN, 0)).state == "done"
    await source.stop(1)
    assert (source.health().up, source.health().detail) == (False, "stopped")
