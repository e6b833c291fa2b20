"""How often a route may be asked, on a clock of the test's own."""

from __future__ import annotations

import asyncio
import gc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import structlog
import trustme
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from redis_server import RedisServer
from servers import ports
from support.broker import unique
from support.stores import message, store_at
from support.waiting import Jumping

from esb.envelope import Envelope, Outcome
from esb.errors import Throttled, Unavailable
from esb.middleware.rate_limit import (
    HELD_FOR,
    Ask,
    InProcess,
    InRedis,
    Limiter,
    Rate,
    RateLimitOptions,
    Windows,
    limiting,
    parse_rate,
    shared_by,
)
from esb.middleware.retry import park_channel
from esb.redis import Redis, RedisOptions
from esb.step import Step, identity


def limited(
    *options: dict[str, Any], time: Jumping, counts: Any = None, waits: bool = True, **more: Any
) -> Step:
    """The identity, as often as these options let it be asked."""
    models = [RateLimitOptions.model_validate(one) for one in options]
    keys = [shared_by(one.per, lambda text: lambda e: e.params["path"][text]) for one in models]
    limiter = Limiter(models, keys, InProcess() if counts is None else counts)
    return limiting(limiter, route="r", waits=waits, clock=time.clock, **more)(identity)


async def passed(step: Step, times: int, envelope: Envelope | None = None) -> int:
    """How many of so many messages pass."""
    count = 0
    for _ in range(times):
        try:
            await step(envelope or message())
        except Throttled:
            continue
        count += 1
    return count


def rate(amount: int, seconds: float, calendar: Any = "") -> Rate:
    return Rate(amount=amount, seconds=seconds, calendar=calendar)


@pytest.mark.parametrize(
    ("text", "told", "again"),
    [
        ("10/s", rate(10, 1.0), "10/1s"),
        ("100/1m", rate(100, 60.0), "100/1m"),
        ("5/500ms", rate(5, 0.5), "5/0.5s"),
        ("1000/1d", rate(1000, 86_400.0), "1000/1d"),
        ("1000/day", rate(1000, 86_400, "day"), "1000/day"),
        (" 7 / month ", rate(7, 2_592_000, "month"), "7/month"),
    ],
)
def test_rates_are_spelled_so(text: str, told: Rate, again: str) -> None:
    assert parse_rate(text) == told
    assert told.spelled == again
    assert parse_rate(again) == told


@pytest.mark.parametrize(
    "text", ["0/s", "10", "10/", "10/0s", "-1/s", "1.5/s", "10/week", 10, "", "1" + "0" * 13 + "/s"]
)
def test_what_is_no_rate_is_told(text: Any) -> None:
    with pytest.raises(ValidationError, match="a limit is a number and a time"):
        RateLimitOptions.model_validate({"limit": text})


async def test_so_many_pass_and_the_next_is_told_when_to_come_back() -> None:
    time = Jumping()
    step = limited({"limit": "3/1m"}, time=time)
    assert await passed(step, 3) == 3
    with pytest.raises(Throttled, match="the limit 3-per-60s is used up") as caught:
        await step(message())
    assert caught.value.retry_after is not None
    [quota] = caught.value.quotas
    assert (quota.limit, quota.window, quota.left, quota.broken) == (3, 60, 0, True)
    time.now += caught.value.retry_after - 0.01
    assert await passed(step, 1) == 0
    time.now += 0.02
    assert await passed(step, 1) == 1


async def test_what_passes_is_told_what_is_left() -> None:
    step = limited({"limit": "3/1m"}, time=Jumping())
    left = [(await step(message())).params["limits"]["quotas"][0].left for _ in range(3)]
    assert left == [2, 1, 0]


async def test_who_is_over_one_limit_counts_for_none() -> None:
    time = Jumping()
    step = limited({"limit": "2/1s"}, {"limit": "5/day"}, time=time)
    assert await passed(step, 10) == 2  # the eight others have not used up the day
    time.now += 10
    assert await passed(step, 10) == 2
    time.now += 10
    assert await passed(step, 1) == 1
    with pytest.raises(Throttled, match="5-per-day") as caught:
        await step(message())
    assert [quota.broken for quota in caught.value.quotas] == [False, True]


@pytest.mark.parametrize(
    ("per", "one", "other"),
    [
        ("principal", {"principal": "ann"}, {"principal": "bob"}),
        (
            "address",
            {"params": {"client": {"address": "10.0.0.1"}}},
            {"params": {"client": {"address": "10.0.0.2"}}},
        ),
        ("tenant", {"params": {"path": {"tenant": "a"}}}, {"params": {"path": {"tenant": "b"}}}),
    ],
)
async def test_each_has_a_limit_of_his_own(
    per: str, one: dict[str, Any], other: dict[str, Any]
) -> None:
    step = limited({"limit": "2/1m", "per": per}, time=Jumping())
    assert await passed(step, 5, message(**one)) == 2
    assert await passed(step, 5, message(**other)) == 2


async def test_an_ipv6_address_is_one_of_a_network() -> None:
    def of(address: str) -> Envelope:
        return message(params={"client": {"address": address}})

    step = limited({"limit": "2/1m", "per": "address"}, time=Jumping())
    same = ["2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:DB8:1:2::3%eth0"]
    assert sum([await passed(step, 1, of(one)) for one in same]) == 2
    assert await passed(step, 1, of("2001:db8:1:3::1")) == 1
    mapped = ["192.0.2.1", "::ffff:192.0.2.1", "::ffff:c000:201"]
    assert sum([await passed(step, 1, of(one)) for one in mapped]) == 2
    assert await passed(step, 1, of("unix:")) == 1


async def test_two_limits_do_not_share_their_counts() -> None:
    counts, time = InProcess(), Jumping()
    step = limited({"limit": "2/1m", "per": "principal"}, {"limit": "3/1m"}, time=time,
                   counts=counts)  # fmt: skip
    assert await passed(step, 5, message(principal="ann")) == 2
    assert await passed(step, 5, message(principal="bob")) == 1


async def test_routes_of_one_scope_share_a_limit() -> None:
    counts, time = InProcess(), Jumping()
    models = [RateLimitOptions.model_validate({"limit": "3/1m", "scope": "api"})]
    steps = [
        limiting(Limiter(models, [None], counts), route=route, waits=True, clock=time.clock)(
            identity
        )
        for route in ("one", "other")
    ]
    assert [await passed(step, 2) for step in steps] == [2, 1]


async def test_a_higher_limit_after_a_reload_goes_on_counting() -> None:
    counts, time = InProcess(), Jumping()
    assert await passed(limited({"limit": "2/1m"}, time=time, counts=counts), 5) == 2
    assert await passed(limited({"limit": "3/1m"}, time=time, counts=counts), 5) == 1


async def test_of_too_many_keys_the_one_unseen_for_longest_is_forgotten() -> None:
    counts, time = InProcess(most=100), Jumping()
    step = limited({"limit": "1/1d", "per": "principal"}, time=time, counts=counts)
    for number in range(1000):
        assert await passed(step, 1, message(principal=f"{number} {'x' * 10_000}")) == 1
        assert await passed(step, 1, message(principal="ann")) == (number == 0)
    assert len(counts) == 100
    assert all(len(key) == 16 for key in counts._known)


# --- the arithmetic -------------------------------------------------------------------------------


@given(
    limit=st.integers(1, 20),
    seconds=st.floats(0.1, 1e5),
    gaps=st.lists(st.floats(0, 1e5), min_size=1, max_size=60),
)
def test_a_wait_is_just_long_enough_and_no_window_has_twice_as_many(
    limit: int, seconds: float, gaps: list[float]
) -> None:
    async def run() -> None:
        counts, now = InProcess(), 1.7e9
        every = rate(limit, seconds)
        for gap in gaps:
            now += gap
            window = Windows(every).at(now)
            fit, [(before, count)] = await counts.take([Ask(b"k", limit, window)])
            assert count + fit <= limit
            wait = window.wait(limit, before, count)
            assert (wait == 0) is fit
            assert 0 <= wait <= 2 * seconds
            if not fit:
                later = Windows(every).at(now + wait + seconds * 1e-6)
                assert later.fits(limit, *counts.known(b"k", later.number))
            quota = window.quota("q", limit, before, count, broken=not fit)
            assert 0 <= quota.left <= limit
            assert quota.reset >= 0

    asyncio.run(run())


def test_a_day_and_a_month_begin_at_midnight_of_their_zone() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    day, month = rate(1, 86_400, "day"), rate(1, 2_592_000, "month")
    before = datetime(2026, 3, 28, 22, 59, 59, tzinfo=UTC).timestamp()
    after = before + 1
    assert Windows(day, berlin).at(before).left == 1
    assert Windows(day, berlin).at(before).number + 1 == Windows(day, berlin).at(after).number
    assert Windows(day, berlin).at(after).length == 23 * 3600  # the clocks go forward
    assert Windows(day, ZoneInfo("UTC")).at(after).left == 3600
    december = datetime(2026, 12, 31, 23, 0, 0, tzinfo=berlin).timestamp()
    assert Windows(month, berlin).at(december).left == 3600
    assert Windows(month, berlin).at(december).length == 31 * 86_400
    assert Windows(month, berlin).at(december + 3600).number == (
        Windows(month, berlin).at(december).number + 1
    )


async def test_a_quota_is_there_again_at_midnight() -> None:
    time = Jumping()
    time.now = datetime(2026, 6, 1, 12, tzinfo=UTC).timestamp()
    step = limited({"limit": "2/day", "name": "daily"}, time=time)
    assert await passed(step, 3) == 2
    with pytest.raises(Throttled, match="daily") as caught:
        await step(message())
    assert caught.value.retry_after == 12 * 3600
    time.now += 12 * 3600
    assert await passed(step, 3) == 2


# --- what nobody waits for ------------------------------------------------------------------------


async def test_what_nobody_waits_for_waits_and_none_is_lost() -> None:
    time = Jumping()
    step = limited({"limit": "2/1m"}, time=time, waits=False)
    begun = time.now
    for _ in range(6):
        assert (await step(message())).outcome is Outcome.MESSAGE
    assert time.now - begun > 60


async def test_what_has_long_to_wait_is_put_aside_in_the_store(tmp_path: Any) -> None:
    time = Jumping()
    store = store_at(tmp_path / "bus.db", clock=time.clock)
    await store.open()
    try:
        step = limited({"limit": "1/day"}, time=time, waits=False, store=store)
        await step(message("first"))
        begun = time.now
        assert (await step(message("second"))).outcome is Outcome.ACCEPTED
        assert time.now - begun == HELD_FOR
        assert await store.counts() == {park_channel("r"): 1}
        time.now += 86_400
        [kept] = await store.take(park_channel("r"), 1)
        assert kept.envelope.body.raw == b"second"
        assert kept.attempts == 0  # it was not tried
    finally:
        await store.close()


async def test_a_route_that_stops_keeps_nobody_waiting(tmp_path: Any) -> None:
    stopping = asyncio.Event()
    store = store_at(tmp_path / "bus.db")
    await store.open()
    try:
        for kept in (None, store):
            limit = RateLimitOptions.model_validate({"limit": "1/1d"})
            limiter = Limiter([limit], [None], InProcess())
            step = limiting(limiter, route="r", waits=False, store=kept, stopping=stopping)(
                identity
            )
            stopping.clear()
            await step(message())
            waiting = asyncio.ensure_future(step(message()))
            await asyncio.sleep(0)
            stopping.set()
            if kept is None:
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            else:
                assert (await waiting).outcome is Outcome.ACCEPTED
        assert await store.counts() == {park_channel("r"): 1}
    finally:
        await store.close()


# --- in Redis -------------------------------------------------------------------------------------


async def opened(server: RedisServer, **more: Any) -> Redis:
    redis = Redis(server.url, RedisOptions.model_validate({"prefix": "t:", **more}))
    await redis.open()
    return redis


async def test_counts_in_redis_are_those_of_the_process(redis_url: str) -> None:
    redis = Redis(redis_url, RedisOptions.model_validate({"prefix": unique("counts:")}))
    await redis.open()
    try:
        here, there = InProcess(), InRedis(redis)
        now = 1.7e9
        for number, gap in enumerate([0, 0, 0.1, 0.3, 0.7, 0.2, 0.1, 5, 0.4, 0.1, 0.7, 0.1] * 4):
            now += gap
            asks = [
                Ask(b"a", 3, Windows(rate(3, 1.0)).at(now)),
                Ask(b"b", 11, Windows(rate(11, 86_400, "day"), ZoneInfo("UTC")).at(now)),
            ]
            assert await here.take(asks) == await there.take(asks), number
    finally:
        await redis.close()


async def test_of_many_at_once_redis_lets_no_more_in_than_it_says(redis_url: str) -> None:
    options = RedisOptions.model_validate({"prefix": unique("many:")})
    buses = [Redis(redis_url, options) for _ in range(4)]
    for redis in buses:
        await redis.open()
    try:
        time = Jumping()
        steps = [limited({"limit": "20/1h"}, time=time, counts=InRedis(one)) for one in buses]
        tries = [passed(step, 1) for step in steps for _ in range(25)]
        assert sum(await asyncio.gather(*tries)) == 20
    finally:
        for redis in buses:
            await redis.close()


async def test_more_at_once_than_there_are_connections_wait_for_one(redis_url: str) -> None:
    redis = Redis(redis_url, RedisOptions.model_validate({"prefix": unique("crowd:")}))
    await redis.open()
    try:
        step = limited({"limit": "20/1h"}, time=Jumping(), counts=InRedis(redis))
        assert sum(await asyncio.gather(*(passed(step, 1) for _ in range(400)))) == 20
        assert redis.health().detail == ""
    finally:
        await redis.close()


async def test_when_redis_is_away_a_limit_says_what_then(redis_of_its_own: RedisServer) -> None:
    redis = await opened(redis_of_its_own)
    try:
        time = Jumping()
        lenient = limited({"limit": "1/1h"}, time=time, counts=InRedis(redis))
        strict = limited({"limit": "1/1h", "on_failure": "refuse"}, time=time,
                         counts=InRedis(redis))  # fmt: skip
        assert await passed(lenient, 3) == 1
        redis_of_its_own.kill()
        assert await passed(lenient, 3) == 3
        with pytest.raises(Unavailable) as caught:
            await strict(message())
        assert "redis" not in str(caught.value).lower()
        assert redis.health().up
        assert "away" in redis.health().detail
    finally:
        await redis.close()


async def test_a_redis_that_does_not_answer_costs_one_call_its_timeout_and_not_each(
    redis_of_its_own: RedisServer,
) -> None:
    redis = await opened(redis_of_its_own, timeout="200ms")
    loop = asyncio.get_running_loop()
    try:
        step = limited({"limit": "1/1h"}, time=Jumping(), counts=InRedis(redis))
        await step(message())
        redis_of_its_own.pause()
        begun = loop.time()
        for _ in range(200):
            await step(message())
        assert loop.time() - begun < 20  # had each waited, it would be 40
        redis_of_its_own.resume()
    finally:
        await redis.close()


async def test_over_tls_and_only_to_whom_it_should_be(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    made = authority.issue_cert("localhost")
    made.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    with ports(0) as (port,):
        pass
    settings = [
        f"tls-port {port}", f"tls-cert-file {tmp_path}/server.pem",
        f"tls-key-file {tmp_path}/server.pem", f"tls-ca-cert-file {tmp_path}/ca.pem",
        "tls-auth-clients no",
    ]  # fmt: skip
    with RedisServer(settings=settings) as server:
        url = f"rediss://:{server.password}@localhost:{port}/0"
        for address, known in ((f"{url}?ssl_ca_certs={tmp_path}/ca.pem", True), (url, False)):
            redis = Redis(address, RedisOptions())
            await redis.open()
            try:
                if known:
                    await redis.put("x", b"1", 60)
                    assert await redis.get("x") == b"1"
                else:
                    with pytest.raises(Unavailable):
                        await redis.get("x")
            finally:
                await redis.close()


@pytest.mark.parametrize("url", ["redis://:s3/cret@host:1", "redis://s3/cret@host", "redis://h:x"])
def test_a_url_that_would_tell_of_its_password_is_none(url: str) -> None:
    with pytest.raises(ValidationError, match="%2F") as caught:
        RedisOptions.model_validate({"url": url})
    assert "s3" not in str(caught.value)


async def test_one_that_is_closed_before_it_has_answered_leaves_no_error(
    redis_of_its_own: RedisServer,
) -> None:
    wrong = redis_of_its_own.url.replace(redis_of_its_own.password, "wrong")
    errors: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: errors.append(told))
    redis = Redis(wrong, RedisOptions())
    await redis.open()
    with pytest.raises(Unavailable):
        await redis.get("x")
    await redis.close()
    gc.collect()
    assert errors == []


async def test_a_password_is_in_nothing_that_is_told(redis_of_its_own: RedisServer) -> None:
    url = redis_of_its_own.url.replace(redis_of_its_own.password, "s3cret-not-it")
    redis = Redis(url, RedisOptions.model_validate({"url": url}))
    await redis.open()
    try:
        with structlog.testing.capture_logs() as logs, pytest.raises(Unavailable) as caught:
            await redis.get("x")
        told = repr((str(caught.value), caught.value.notes, logs, redis.health()))
        assert "s3cret" not in told + repr(RedisOptions.model_validate({"url": url}))
        assert "AuthenticationError" in told
    finally:
        await redis.close()
