"""`delay`, `throttle`, `sample`, `expire` and `fail`: when a message goes on, and if at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bus import running, store_of
from support.steps import compiled, data, mistakes
from support.waiting import Jumping, until

from esb.clock import Clock, moment
from esb.envelope import Envelope, Headers, Outcome
from esb.errors import (
    BadMessage,
    Denied,
    EsbError,
    Expired,
    Overloaded,
    RouteFailure,
    TimedOut,
    Transient,
)
from esb.step import Step
from esb.steps.throttle import Buckets, ThrottleOptions, parse_rate


@pytest.fixture
def jumping() -> Jumping:
    return Jumping()


def passed(results: list[Envelope]) -> list[bool]:
    return [result.outcome is Outcome.MESSAGE for result in results]


class TestDelay:
    async def test_it_waits(self, tmp_path: Path, jumping: Jumping) -> None:
        given = data({"a": 1})
        assert await compiled("- delay: 2s", tmp_path, clock=jumping.clock)(given) is given
        assert jumping.slept == [2.0]

    @pytest.mark.parametrize(("ahead", "slept"), [(30, 30.0), (-5, 0.0)])
    async def test_it_waits_for_a_time(
        self, ahead: int, slept: float, tmp_path: Path, jumping: Jumping
    ) -> None:
        step = compiled("- delay: {until: body}", tmp_path, clock=jumping.clock)
        when = datetime.fromtimestamp(jumping.now + ahead, UTC)
        await step(data(when.isoformat()))
        assert jumping.slept == [slept]

    async def test_a_wait_that_is_too_long_is_an_error(
        self, tmp_path: Path, jumping: Jumping
    ) -> None:
        step = compiled("- delay: {until: body}", tmp_path, clock=jumping.clock)
        with pytest.raises(RouteFailure, match="3600 seconds") as caught:
            await step(data(int(jumping.now) + 3600))
        assert "send: {queue" in caught.value.notes[0]
        with pytest.raises(BadMessage, match="no time"):
            await step(data("tomorrow"))
        assert jumping.slept == []

    async def test_a_caller_who_would_not_wait_learns_at_once(
        self, tmp_path: Path, jumping: Jumping
    ) -> None:
        step = compiled("- delay: 2s", tmp_path, clock=jumping.clock)
        with pytest.raises(TimedOut):
            await step(data({}, deadline=jumping.now + 1))
        await step(data({}, deadline=jumping.now + 3))
        assert jumping.slept == [2.0]

    def test_a_long_one_is_told_where_it_belongs(self, tmp_path: Path) -> None:
        [found, other] = mistakes("- delay: 2h\n- delay: {until: body, for: 1s}", tmp_path)
        assert found.startswith("5: a delay within a run is at most a minute (a queue keeps it")
        assert other.startswith("6: a delay has either")


class TestThrottle:
    async def test_so_many_pass_in_a_time(self, tmp_path: Path, jumping: Jumping) -> None:
        step = compiled("- throttle: {rate: 10/s, burst: 3}", tmp_path, clock=jumping.clock)
        begun = jumping.now
        for _ in range(13):
            await step(data({}))
        assert jumping.now - begun == pytest.approx(1.0)
        assert len(jumping.slept) == 10
        jumping.now += 60
        for _ in range(3):
            await step(data({}))
        assert len(jumping.slept) == 10, "it was quiet"

    async def test_each_key_counts_for_itself(self, tmp_path: Path, jumping: Jumping) -> None:
        step = compiled("- throttle: {rate: 1/m, by: body}", tmp_path, clock=jumping.clock)
        for key in ("a", "b", 1, "1"):
            await step(data(key))
        assert jumping.slept == []
        await step(data("a"))
        assert jumping.slept == [60.0]
        with pytest.raises(RouteFailure, match="single value"):
            await step(data([1]))

    async def test_who_would_wait_too_long_is_refused_and_takes_no_turn(
        self, tmp_path: Path, jumping: Jumping
    ) -> None:
        step = compiled("- throttle: 1/10s", tmp_path, clock=jumping.clock)
        await step(data({}))
        for _ in range(5):
            with pytest.raises(Overloaded) as caught:
                await step(data({}, deadline=jumping.now + 9))
            assert caught.value.retry_after == pytest.approx(10.0)
        await step(data({}, deadline=jumping.now + 11))
        assert jumping.slept == [10.0]

    async def test_it_can_refuse_instead(self, tmp_path: Path, jumping: Jumping) -> None:
        steps = "- throttle: {rate: 2/s, burst: 2, when_full: reject}"
        step = compiled(steps, tmp_path, clock=jumping.clock)
        await step(data({}))
        await step(data({}))
        for _ in range(3):
            with pytest.raises(Overloaded) as caught:
                await step(data({}))
            assert caught.value.retry_after == pytest.approx(0.5)
        jumping.now += 0.5
        await step(data({}))
        with pytest.raises(Overloaded):
            await step(data({}))

    async def test_whose_run_is_cancelled_leaves_the_turn_to_the_next(
        self, tmp_path: Path, jumping: Jumping
    ) -> None:
        forever = Clock(jumping.clock.time, jumping.clock.monotonic, lambda s: asyncio.sleep(9e6))
        steps = "- throttle: {rate: 1/s, when_full: wait}"
        step = compiled(steps, tmp_path, clock=forever)
        await step(data({}))
        for _ in range(5):
            waiting = asyncio.ensure_future(step(data({})))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        with pytest.raises(Overloaded) as caught:
            await step(data({}, deadline=jumping.now))
        assert caught.value.retry_after == pytest.approx(1.0)

    async def test_keys_are_bounded_and_none_gets_around_it(
        self, tmp_path: Path, jumping: Jumping
    ) -> None:
        steps = "- throttle: {rate: 1/s, by: body, keys: 3, when_full: reject}"
        step = compiled(steps, tmp_path, clock=jumping.clock)
        for key in "abc":
            await step(data(key))
        with pytest.raises(Overloaded):
            await step(data("d"))
        with pytest.raises(Overloaded):
            await step(data("a"))
        jumping.now += 1
        for key in "defg"[:3]:
            await step(data(key))

    @given(st.lists(st.floats(0, 3), max_size=60), st.integers(1, 5), st.integers(1, 20))
    def test_in_no_time_more_than_the_rate_and_the_burst_pass(
        self, pauses: list[float], burst: int, count: int
    ) -> None:
        jumping = Jumping()
        options = ThrottleOptions(rate=parse_rate(f"{count}/s"), burst=burst)
        buckets = Buckets(options, jumping.clock)
        times = []
        for pause in pauses:
            jumping.now += pause
            times.append(jumping.now + buckets.take(""))
        assert times == sorted(times), "who comes first goes first"
        for i, begin in enumerate(times):
            within = sum(1 for t in times[i:] if t < begin + 1 - 1e-6)
            assert within <= burst + count

    async def test_it_does_not_begin_anew_with_a_reload(
        self, tmp_path: Path, jumping: Jumping
    ) -> None:
        from esb.bus import Shared
        from esb.config import load

        file = tmp_path / "r.yaml"
        text = "routes: {r: {from: {http: /r}, steps: [{throttle: 1/h}%s]}}"
        shared = Shared()
        for more in ("", ", {log: x}"):
            file.write_text(text % more)
            project = load([file], root=tmp_path, shared=shared, clock=jumping.clock).check()
            await project.routes[0].step(data({}))
        assert jumping.slept == [3600.0]

    def test_mistakes_are_found_at_load(self, tmp_path: Path) -> None:
        found = mistakes(
            "- throttle: 10\n- throttle: 0/s\n- throttle: {rate: 1/s, keys: 2}", tmp_path
        )
        assert found[0] == "5: a rate is a number and a time: 10/s, 100/m or 5/10s"
        assert found[1] == "6: a rate is a number and a time: 10/s, 100/m or 5/10s"
        assert found[2] == "7: 'keys' belongs to 'by'"


class TestSample:
    async def test_every_so_manieth(self, tmp_path: Path) -> None:
        step = compiled("- sample: {every: 3}", tmp_path)
        results = [await step(data({})) for _ in range(7)]
        assert passed(results) == [True, False, False, True, False, False, True]
        step = compiled("- sample: {every: 1}", tmp_path)
        assert passed([await step(data({})) for _ in range(3)]) == [True] * 3

    async def test_one_in_a_time(self, tmp_path: Path, jumping: Jumping) -> None:
        step = compiled("- sample: {per: 10s}", tmp_path, clock=jumping.clock)
        found = []
        for _ in range(7):
            found.append(await step(data({})))
            jumping.now += 4
        assert passed(found) == [True, False, False, True, False, False, True]

    async def test_a_share_by_the_id(self, tmp_path: Path) -> None:
        step = compiled("- sample: {share: 0.25}", tmp_path)
        messages = [data({}, id=f"m{i}") for i in range(2000)]
        first = passed([await step(m) for m in messages])
        assert 400 < sum(first) < 600
        assert passed([await step(m) for m in messages]) == first
        everything = compiled("- sample: {share: 1.0}", tmp_path)
        assert all(passed([await everything(m) for m in messages]))

    async def test_what_is_run_again_passes_again(self, tmp_path: Path) -> None:
        text = """
            routes:
              r:
                from: {queue: in}
                steps: [{sample: {every: 2}}, {throttle: {rate: 1/10ms, when_full: reject}},
                        {send: {queue: out}}]
                retry: {attempts: 50, backoff: 5ms}
        """
        async with running(text, tmp_path) as bus:
            store = store_of(bus)
            for _ in range(8):
                await store.put("queue:in", data({}))
            await until(lambda: _counted(store, {"queue:out": 4}))

    def test_mistakes_are_found_at_load(self, tmp_path: Path) -> None:
        found = mistakes("- sample: {every: 2, share: 0.5}\n- sample: {share: 2}", tmp_path)
        assert found[0] == "5: a sample is one of 'every', 'share' and 'per'"
        assert found[1].startswith("6: ")


class TestExpire:
    @pytest.mark.parametrize(("age", "dead"), [(299, False), (300, True)])
    async def test_by_age(self, age: int, dead: bool, tmp_path: Path, jumping: Jumping) -> None:
        step = compiled("- expire: 5m", tmp_path, clock=jumping.clock)
        given = data({}, time=datetime.fromtimestamp(jumping.now - age, UTC))
        assert await _raises(step, given, Expired) is dead

    async def test_by_a_time_in_the_message(self, tmp_path: Path, jumping: Jumping) -> None:
        steps = """
            - expire:
                at: headers['expires'] | default(none)
                then: filter
        """
        step = compiled(steps, tmp_path, clock=jumping.clock)
        for ahead, outcome in ((1, Outcome.MESSAGE), (0, Outcome.FILTERED)):
            when = datetime.fromtimestamp(jumping.now + ahead, UTC).isoformat()
            result = await step(data({}, headers=Headers([("Expires", when)])))
            assert result.outcome is outcome
        assert (await step(data({}))).outcome is Outcome.MESSAGE

    async def test_since_a_time_in_the_message(self, tmp_path: Path, jumping: Jumping) -> None:
        step = compiled("- expire: {after: 1m, since: body.made}", tmp_path, clock=jumping.clock)
        assert not await _raises(step, data({"made": int(jumping.now) - 59}), Expired)
        assert await _raises(step, data({"made": int(jumping.now) - 60}), Expired)
        assert await _raises(step, data({"made": "yesterday"}), BadMessage)
        assert await _raises(step, data({"made": None}), BadMessage)

    async def test_where_nobody_waits_it_is_a_dead_letter(self, tmp_path: Path) -> None:
        text = "routes: {r: {from: {queue: in}, steps: [{expire: 1h}, {send: {queue: out}}]}}"
        async with running(text, tmp_path) as bus:
            store = store_of(bus)
            await store.put("queue:in", data({}, time=datetime(2020, 1, 1, tzinfo=UTC)))
            await store.put("queue:in", data({}))
            await until(lambda: _counted(store, {"queue:out": 1, "dead": 1}))
            [dead] = await store.browse("dead")
            assert dead.failure is not None
            assert (dead.failure.code, dead.failure.attempts) == ("expired", 1)

    def test_mistakes_are_found_at_load(self, tmp_path: Path) -> None:
        found = mistakes("- expire: {then: fail}\n- expire: {at: body, since: body}", tmp_path)
        assert found[0] == "5: a message expires either 'after' an age or 'at' a time"
        assert found[1] == "6: 'since' belongs to 'after'"


class TestFail:
    @pytest.mark.parametrize(
        ("kind", "error"),
        [
            ("bad-message", BadMessage),
            ("denied", Denied),
            ("route-failure", RouteFailure),
            ("transient", Transient),
            ("overloaded", Overloaded),
        ],
    )
    async def test_it_raises_what_it_is_asked_for(
        self, kind: str, error: type[EsbError], tmp_path: Path
    ) -> None:
        step = compiled(f'- fail: {{message: "no {{{{ body.id }}}}", as: {kind}}}', tmp_path)
        with pytest.raises(error) as caught:
            await step(data({"id": 5}))
        assert (type(caught.value), caught.value.detail) == (error, "no 5")
        assert caught.value.step == "steps[0].fail"

    async def test_a_bare_text_refuses_the_message(self, tmp_path: Path) -> None:
        with pytest.raises(BadMessage, match="no such customer"):
            await compiled("- fail: no such customer", tmp_path)(data({}))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1970-01-01T00:01:00Z", 60.0),
        ("1970-01-01T00:01:00", 60.0),
        ("1970-01-01T01:01:00+01:00", 60.0),
        (datetime(1970, 1, 1, 0, 1, tzinfo=UTC), 60.0),
        (60, 60.0),
    ],
)
def test_a_moment_has_many_spellings(value: object, seconds: float) -> None:
    assert moment(value) == seconds


@pytest.mark.parametrize("value", [None, True, "soon", [], {}])
def test_what_is_no_moment(value: object) -> None:
    with pytest.raises(ValueError):
        moment(value)


async def _raises(step: Step, given: Envelope, error: type[EsbError]) -> bool:
    try:
        assert (await step(given)).outcome is Outcome.MESSAGE
    except error:
        return True
    return False


async def _counted(store: object, wanted: dict[str, int]) -> bool:
    counts: Callable[[], object] = store.counts  # type: ignore[attr-defined]
    return await counts() == wanted  # type: ignore[misc]
