"""Answers that are kept: what may be, for whom, for how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis_server import RedisServer
from support.broker import unique
from support.waiting import Jumping, until

import esb.codecs  # noqa: F401 - answers are JSON
from esb.envelope import Body, Envelope, Headers, Outcome
from esb.errors import BadMessage, Denied, Rejected, TimedOut, Unavailable, Unreachable
from esb.middleware.cache import CACHE, Cache, CacheOptions
from esb.record import encode
from esb.redis import Redis, RedisOptions
from esb.step import Step


class FarSide:
    """Answers each question with how many there were; `answers` what else it does."""

    def __init__(self) -> None:
        self.asked = 0
        self.status = 200
        self.headers: list[tuple[str, str]] = []
        self.fails: BaseException | None = None
        self.gate: asyncio.Event | None = None

    async def __call__(self, envelope: Envelope) -> Envelope:
        self.asked += 1
        number = self.asked
        if self.gate is not None:
            await self.gate.wait()
        if self.fails is not None:
            raise self.fails
        body = Body.of({"number": number})
        return envelope.reply(body, Headers(self.headers), {"status": self.status})


@pytest.fixture(params=["memory", "redis"])
async def make(
    request: pytest.FixtureRequest, redis_url: str
) -> AsyncIterator[Callable[..., tuple[Cache, Step, FarSide, Jumping]]]:
    """Makes a cache before a far side, with each place that answers are kept in."""
    made: list[Any] = []
    redis = None
    if request.param == "redis":
        redis = Redis(redis_url, RedisOptions.model_validate({"prefix": unique("cache:")}))
        await redis.open()

    def make_one(**options: Any) -> tuple[Cache, Step, FarSide, Jumping]:
        time, far = Jumping(), FarSide()
        key = options.pop("key", None)
        model = CacheOptions.model_validate({"ttl": "60s", **options})
        cache = Cache(f"r{len(made)}", model, key=key, redis=redis, tells=True, clock=time.clock)
        made.append(cache)
        return cache, cache.around(far), far, time

    yield make_one
    for one in made:
        await one.close()
    if redis is not None:
        await redis.close()


def asks(path: str = "/a", **more: Any) -> Envelope:
    headers = Headers(more.pop("headers", ()))
    params = {"path": {}, "query": {}, "http": {"method": "GET"}, **more.pop("params", {})}
    return Envelope(subject=path, headers=headers, params=params, **more)


async def told(step: Step, envelope: Envelope) -> Any:
    return (await step(envelope)).body.data["number"]


async def test_the_same_question_is_asked_once_until_its_answer_is_too_old(make: Any) -> None:
    _, step, far, time = make()
    assert [await told(step, asks()) for _ in range(3)] == [1, 1, 1]
    time.now += 59.9
    answer = await step(asks())
    assert answer.params["cached"]["age"] == 59
    assert answer.params["reply"] == {"status": 200}
    assert answer.outcome is Outcome.REPLY
    time.now += 0.2
    assert await told(step, asks()) == 2
    assert far.asked == 2


@pytest.mark.parametrize(
    ("other", "options"),
    [
        (asks("/b"), {}),
        (asks(params={"path": {"id": "1"}}), {}),
        (asks(params={"query": {"q": "1"}}), {}),
        (asks(params={"query": {"q": ["1", "2"]}}), {}),
        (asks(params={"http": {"method": "POST"}}), {}),
        (asks(body=Body(b"{}", "application/json")), {}),
        (asks(body=Body.of({"a": 1})), {}),
        (asks(principal="ann"), {}),
        (asks(headers=[("Authorization", "Bearer x")]), {}),
        (asks(headers=[("Cookie", "s=1")]), {}),
        (asks(headers=[("Accept", "application/xml")]), {}),
        (asks(headers=[("X-Tenant", "a")]), {"vary": ["X-Tenant"]}),
        (asks(params={"principal": {"name": "ann", "roles": ["clerk"]}}), {}),
        (asks(params={"principal": {"claims": {"tenant": "a"}}}), {}),
    ],
)
async def test_what_differs_is_another_question(
    make: Any, other: Envelope, options: dict[str, Any]
) -> None:
    _, step, _, _ = make(**options)
    assert await told(step, asks()) == 1
    assert await told(step, other) == 2
    assert await told(step, other) == 2
    assert await told(step, asks()) == 1


@pytest.mark.parametrize(
    "same",
    [
        asks(headers=[("X-Request-Id", "1")]),
        asks(params={"http": {"method": "HEAD"}}),
        asks(id="other", correlation_id="c", traceparent="t"),
        asks(params={"principal": {}}),
    ],
)
async def test_what_makes_no_difference_is_the_same_question(make: Any, same: Envelope) -> None:
    _, step, far, _ = make()
    await step(asks())
    await step(same)
    assert far.asked == 1


async def test_nobody_gets_the_answer_of_another(make: Any) -> None:
    _, step, _, _ = make()
    people = [asks(principal="ann"), asks(principal="bob"), asks()]
    people += [asks(headers=[("Authorization", f"Bearer {n}")]) for n in range(2)]
    assert [await told(step, one) for one in people] == [1, 2, 3, 4, 5]
    assert [await told(step, one) for one in people] == [1, 2, 3, 4, 5]
    assert (await step(people[0])).params["cached"]["private"] is True
    assert (await step(people[2])).params["cached"]["private"] is False


async def test_another_token_of_the_same_is_no_other(make: Any) -> None:
    _, step, far, _ = make()
    for number in range(3):
        claims = {"exp": number, "jti": str(number), "tenant": "a"}
        principal = {"name": "ann", "method": "jwt", "claims": claims}
        await step(asks(principal="ann", params={"principal": principal}))
    assert far.asked == 1


async def test_one_answer_for_all_is_said(make: Any) -> None:
    _, step, far, _ = make(shared=True)
    await step(asks(principal="ann"))
    await step(asks(headers=[("Authorization", "Bearer x")]))
    assert far.asked == 1


async def test_a_key_says_what_an_answer_depends_on_and_still_not_for_whom(make: Any) -> None:
    _, step, far, _ = make(key=lambda envelope: envelope.params["path"]["id"])
    for path in ("/a", "/b"):
        await step(asks(path, params={"path": {"id": "1"}}))
    assert far.asked == 1
    await step(asks(params={"path": {"id": "1"}}, principal="ann"))
    assert far.asked == 2


@given(
    first=st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), max_size=3),
    second=st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), max_size=3),
    texts=st.tuples(*[st.text(alphabet="a/\0,'\"", max_size=3)] * 4),
)
def test_only_the_same_question_has_the_same_key(
    first: list[tuple[str, str]], second: list[tuple[str, str]], texts: tuple[str, ...]
) -> None:
    cache = Cache("keys", CacheOptions(ttl=1.0))

    def key(path: str, query: list[tuple[str, str]], who: str) -> bytes:
        return cache._key_of(asks(path, params={"query": dict(query)}, principal=who))[0]

    same = (texts[0], dict(first), texts[2]) == (texts[1], dict(second), texts[3])
    assert (key(texts[0], first, texts[2]) == key(texts[1], second, texts[3])) is same


@pytest.mark.parametrize(
    "headers",
    [
        [("Cache-Control", "no-store")],
        [("Cache-Control", "max-age=60, PRIVATE")],
        [("cache-control", 'private="x-a, x-b", max-age=9')],
        [("cache-control", 'max-age="0"')],
        [("cache-control", "private" + " " * 50_000)],
        [("Cache-Control", "no-cache")],
        [("Cache-Control", "max-age=0")],
        [("Cache-Control", "max-age=soon")],
        [("Cache-Control", "max-age=60"), ("Age", "60")],
        [("Cache-Control", "max-age=60, s-maxage=0")],
        [("Vary", "*")],
        [("Vary", "Accept"), ("Vary", "X-Tenant, *")],
        [("Set-Cookie", "s=1")],
    ],
)
async def test_what_the_far_side_does_not_want_kept_is_not(
    make: Any, headers: list[tuple[str, str]]
) -> None:
    _, step, far, _ = make()
    far.headers = headers
    assert [await told(step, asks()) for _ in range(3)] == [1, 2, 3]


async def test_what_is_not_in_the_key_is_not_in_the_message(make: Any) -> None:
    cache, _, _, _ = make(vary=["X-Tenant"])
    seen: list[list[str]] = []

    async def looks(envelope: Envelope) -> Envelope:
        seen.append(sorted(name for name, _ in envelope.headers))
        return envelope.reply(Body.of(1))

    given = {"X-Tenant": "a", "X-API-Key": "ann's", "Cookie": "c", "Authorization": "b"}
    await cache.around(looks)(asks(headers=list(given.items())))
    assert seen == [["Authorization", "Cookie", "X-Tenant"]]


async def test_the_far_side_says_for_how_long_if_that_is_shorter(make: Any) -> None:
    _, step, far, time = make(vary=["X-Tenant"])
    far.headers = [("Cache-Control", "public, max-age=10"), ("Vary", "X-Tenant, Accept")]
    assert (await step(asks())).params["cached"]["ttl"] == 10
    time.now += 9
    assert await told(step, asks()) == 1
    time.now += 2
    assert await told(step, asks()) == 2
    far.headers = [("Cache-Control", "max-age=1000")]
    time.now += 11
    assert (await step(asks())).params["cached"]["ttl"] == 60


@pytest.mark.parametrize("status", [201, 202, 206, 302, 404, 500])
async def test_only_good_answers_are_kept(make: Any, status: int) -> None:
    _, step, far, _ = make()
    far.status = status
    assert [await told(step, asks()) for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("outcome", [Outcome.FILTERED, Outcome.DEAD, Outcome.ACCEPTED])
async def test_what_is_no_answer_is_not_kept(make: Any, outcome: Outcome) -> None:
    cache, _, _, _ = make()
    asked = 0

    async def ends(envelope: Envelope) -> Envelope:
        nonlocal asked
        asked += 1
        return envelope.replace(outcome=outcome)

    step = cache.around(ends)
    for _ in range(2):
        assert (await step(asks())).outcome is outcome
    assert asked == 2


@pytest.mark.parametrize("error", [BadMessage("no"), Denied("no"), Rejected("no"), Unreachable("")])
async def test_errors_are_not_kept(make: Any, error: Exception) -> None:
    _, step, far, _ = make()
    far.fails = error
    for _ in range(2):
        with pytest.raises(type(error)):
            await step(asks())
    far.fails = None
    assert await told(step, asks()) == 3


async def test_what_came_with_a_question_is_not_in_the_answer_to_another(make: Any) -> None:
    cache, _, _, _ = make(shared=True)

    async def sets(envelope: Envelope) -> Envelope:
        headers = envelope.headers.replace({"X-Price": "7"})
        return envelope.replace(body=Body.of([1]), headers=headers)

    step = cache.around(sets)
    await step(asks(headers=[("Authorization", "secret"), ("X-Mine", "a")]))
    answer = await step(asks(headers=[("X-Mine", "b")]))
    assert list(answer.headers) == [("X-Price", "7")]
    assert answer.outcome is Outcome.MESSAGE
    assert answer.body.data == [1]


async def test_an_answer_may_still_be_written_as_each_wants_it(make: Any) -> None:
    _, step, _, _ = make()
    (await step(asks())).body.raw  # noqa: B018 - written, as for the caller
    again = await step(asks(headers=[("Accept", "text/csv")]))
    assert not again.body.is_written
    assert again.body.data == {"number": 2}


class OwnXml(Body):
    """Data that knows how it looked in XML."""

    def written_as(self, content_type: str) -> Body:
        if content_type == "application/xml":
            return Body(b"<own/>", content_type)
        return super().written_as(content_type)


async def test_an_answer_is_kept_with_the_xml_that_it_came_from(make: Any) -> None:
    cache, _, far, _ = make()

    async def answer(envelope: Envelope) -> Envelope:
        far.asked += 1
        return envelope.reply(OwnXml(None, "application/json", {"a": 1}), Headers(), {})

    step = cache.around(answer)
    first, again = await step(asks()), await step(asks())
    assert far.asked == 1
    for one in (first, again):
        assert one.body.data == {"a": 1}
        assert one.body.written_as("application/xml").raw == b"<own/>"
        assert one.body.written_as("application/json").raw == b'{"a":1}'


# --- past its time --------------------------------------------------------------------------------


async def test_a_stale_answer_is_given_at_once_and_renewed_behind_it(make: Any) -> None:
    _, step, far, time = make(stale="30s")
    await step(asks())
    time.now += 61
    far.gate = asyncio.Event()
    assert [await told(step, asks()) for _ in range(20)] == [1] * 20
    await until(lambda: far.asked == 2)
    far.gate.set()
    await until(lambda: asyncio.sleep(0, far.asked == 2))
    await until(lambda: _is(step, 2))
    assert far.asked == 2
    time.now += 91
    assert await told(step, asks()) == 3  # too old: whoever asks waits


async def _is(step: Step, number: int) -> bool:
    return bool(await told(step, asks()) == number)


async def test_who_cannot_be_renewed_rests_a_while(make: Any) -> None:
    _, step, far, time = make(stale="30s")
    await step(asks())
    time.now += 61
    far.fails = Unreachable("away")
    for _ in range(20):
        assert await told(step, asks()) == 1
        await asyncio.sleep(0.001)
    await until(lambda: far.asked == 2)
    time.now += 2
    assert await told(step, asks()) == 1
    await until(lambda: far.asked == 3)


async def test_an_old_answer_is_better_than_none(make: Any) -> None:
    _, step, far, time = make(stale_if_error="1h")
    await step(asks())
    time.now += 3000
    far.fails = Unreachable("away")
    assert await told(step, asks()) == 1
    far.fails = Denied("no")  # that is an answer
    with pytest.raises(Denied):
        await step(asks())
    time.now += 3000
    far.fails = Unreachable("away")
    with pytest.raises(Unreachable):
        await step(asks())


# --- one at a time --------------------------------------------------------------------------------


async def test_fifty_who_ask_the_same_are_one_question(make: Any) -> None:
    _, step, far, _ = make()
    far.gate = asyncio.Event()
    asking = [asyncio.create_task(told(step, asks())) for _ in range(50)]
    await until(lambda: far.asked == 1)
    await asyncio.sleep(0.02)
    far.gate.set()
    assert set(await asyncio.gather(*asking)) == {1}
    assert far.asked == 1


async def test_they_share_a_failure_and_it_is_not_kept(make: Any) -> None:
    _, step, far, _ = make()
    far.gate = asyncio.Event()
    far.fails = Rejected("refused", status=409)
    asking = [asyncio.create_task(step(asks())) for _ in range(5)]
    await until(lambda: far.asked == 1)
    await asyncio.sleep(0.02)
    far.gate.set()
    errors = await asyncio.gather(*asking, return_exceptions=True)
    assert [(type(one), one.status) for one in errors] == [(Rejected, 409)] * 5  # type: ignore[union-attr]
    assert len({id(one) for one in errors}) == 5
    far.fails = None
    assert await told(step, asks()) == 2


async def test_each_waits_for_as_long_as_he_has_time(make: Any) -> None:
    _, step, far, time = make()
    far.gate = asyncio.Event()
    first = asyncio.create_task(told(step, asks()))
    await until(lambda: far.asked == 1)
    with pytest.raises(TimedOut):
        await step(asks(deadline=time.now + 0.01))
    far.gate.set()
    assert await first == 1


async def test_when_the_first_gives_up_the_next_asks(make: Any) -> None:
    _, step, far, _ = make()
    far.gate = asyncio.Event()
    first = asyncio.create_task(told(step, asks()))
    await until(lambda: far.asked == 1)
    others = [asyncio.create_task(told(step, asks())) for _ in range(3)]
    await asyncio.sleep(0.02)
    first.cancel()
    await until(lambda: far.asked == 2)
    far.gate.set()
    assert set(await asyncio.gather(*others)) == {2}


async def test_that_the_first_had_no_time_left_is_his_alone(make: Any) -> None:
    _, step, far, time = make()
    far.gate = asyncio.Event()
    first = asyncio.create_task(told(step, asks(deadline=time.now + 5)))
    await until(lambda: far.asked == 1)
    other = asyncio.create_task(told(step, asks()))
    await asyncio.sleep(0.02)
    time.now += 6
    gate, far.gate, far.fails = far.gate, None, TimedOut("too late")
    gate.set()
    with pytest.raises(TimedOut):
        await first
    # The second asked for himself; he fails because the far side still does.
    with pytest.raises(TimedOut):
        await other
    assert far.asked == 2


async def test_what_cannot_be_kept_makes_nobody_wait_for_another(make: Any) -> None:
    _, step, far, _ = make()
    far.headers = [("Cache-Control", "no-store")]
    far.gate = asyncio.Event()
    asking = [asyncio.create_task(told(step, asks())) for _ in range(5)]
    await until(lambda: far.asked == 1)
    await asyncio.sleep(0.02)
    far.gate.set()
    assert sorted(await asyncio.gather(*asking)) == [1, 2, 3, 4, 5]
    far.gate = asyncio.Event()
    asking = [asyncio.create_task(told(step, asks())) for _ in range(5)]
    await until(lambda: far.asked == 10)  # side by side
    far.gate.set()
    await asyncio.gather(*asking)


# --- how much ------------------------------------------------------------------------------------


async def test_who_was_not_asked_for_longest_goes_first() -> None:
    cache = Cache("evicting", CacheOptions(ttl=60.0, max_entries=2))
    far = FarSide()
    step = cache.around(far)
    for path in ("/a", "/b", "/a", "/c"):
        await step(asks(path))
    assert far.asked == 3
    await step(asks("/a"))
    assert far.asked == 3
    await step(asks("/b"))
    assert far.asked == 4
    assert CACHE.labels("evicting", "evicted").value == 2


async def test_answers_take_up_no_more_bytes_than_they_may() -> None:
    cache = Cache("sizes", CacheOptions(ttl=60.0, max_size=1000))

    async def large(envelope: Envelope) -> Envelope:
        size = int(envelope.params["path"]["size"])
        return envelope.reply(Body(bytes(size), "application/octet-stream"))

    step = cache.around(large)
    for number in range(20):
        await step(asks(str(number), params={"path": {"size": "300"}}))
        assert cache.memory.size <= 1000
    assert len(cache.memory) == 3
    await step(asks("huge", params={"path": {"size": "1001"}}))
    assert len(cache.memory) == 3


async def test_a_cache_is_emptied_and_what_is_on_its_way_is_not_kept(make: Any) -> None:
    cache, step, far, _ = make()
    await step(asks("/a"))
    await step(asks("/b"))
    far.gate = asyncio.Event()
    late = asyncio.create_task(told(step, asks("/c")))
    await until(lambda: far.asked == 3)
    assert await cache.purge() == 2
    far.gate.set()
    assert await late == 3
    assert [await told(step, asks(path)) for path in ("/a", "/b", "/c")] == [4, 5, 6]
    assert await told(step, asks("/a")) == 4


async def test_a_message_without_a_key_passes(make: Any) -> None:
    def fails(envelope: Envelope) -> Any:
        raise BadMessage("nothing there")

    for key in (fails, lambda _: 10**30):
        _, step, far, _ = make(key=key)
        assert [await told(step, asks()) for _ in range(2)] == [1, 2]
        assert far.asked == 2


# --- Redis ----------------------------------------------------------------------------------------


async def test_while_redis_is_away_answers_are_kept_here(redis_of_its_own: RedisServer) -> None:
    redis = Redis(redis_of_its_own.url, RedisOptions())
    await redis.open()
    try:
        time, far = Jumping(), FarSide()
        cache = Cache("away", CacheOptions(ttl=60.0), redis=redis, clock=time.clock)
        step = cache.around(far)
        assert [await told(step, asks()) for _ in range(2)] == [1, 1]
        redis_of_its_own.kill()
        assert [await told(step, asks()) for _ in range(3)] == [2, 2, 2]
        redis_of_its_own.start()
        await until(lambda: _back(redis))
        assert [await told(step, asks()) for _ in range(2)] == [3, 3]
    finally:
        await redis.close()


async def _back(redis: Redis) -> bool:
    try:
        await redis.get("x")
    except Unavailable:
        return False
    return True


async def test_what_another_version_left_in_redis_is_asked_anew(redis_url: str) -> None:
    redis = Redis(redis_url, RedisOptions.model_validate({"prefix": unique("old:")}))
    await redis.open()
    try:
        far = FarSide()
        cache = Cache("old", CacheOptions(ttl=60.0), redis=redis)
        step = cache.around(far)
        await step(asks())
        kept: Any = cache._kept
        name = kept._start + cache._key_of(asks())[0].hex()
        about = {"times": [1.0, 2.0, 3.0, 4.0], "data": True, "size": 1}
        strange: list[dict[str, Any]] = [
            {}, {"kept": {}}, {"kept": {**about, "times": 1}}, {"kept": {**about, "times": "abcd"}},
            {"kept": {**about, "size": "1" * 5000}}, {"kept": about, "reply": {"status": "x"}},
        ]  # fmt: skip
        records = [encode(Envelope(body=Body(b"{", "application/json"), params=p)) for p in strange]
        for other in (b"", b"\x80\x04\x95pickle", b"\xff" * 100, *records):
            await redis.put(name, other, 60)
            far.asked = 7
            assert await told(step, asks()) == 8
            assert await told(step, asks()) == 8
    finally:
        await redis.close()


async def test_what_was_changed_gives_no_answer_of_before(redis_url: str) -> None:
    redis = Redis(redis_url, RedisOptions.model_validate({"prefix": unique("versions:")}))
    await redis.open()
    try:
        far = FarSide()
        for version, number in (("1", 1), ("2", 2), ("1", 1)):
            cache = Cache("same", CacheOptions(ttl=60.0), version=version, redis=redis)
            assert await told(cache.around(far), asks()) == number
    finally:
        await redis.close()
