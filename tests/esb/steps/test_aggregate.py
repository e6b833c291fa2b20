"""`aggregate`: each group completes once, whatever happens in between."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bus import load_text, running, store_of, url
from support.stores import Place, lying, opened, setting
from support.waiting import Jumping, until

from esb import gathering
from esb.bus import Bus
from esb.config import load
from esb.control import Refused, Selection, replay
from esb.durable import DEAD, Put, Store
from esb.envelope import Body, Envelope, Headers
from esb.errors import Overloaded
from esb.steps.aggregate import AggregateOptions, _Groups

ROUTE = """
routes:
  orders:
    from: {{queue: {{name: in, concurrency: 20}}}}
    steps:
      - aggregate:
          by: body.order
          {options}
          steps: [{{send: {{queue: out}}}}]
    retry: {{attempts: 1}}
"""
PROCESS = Path(__file__).parents[2] / "support" / "crashing_bus.py"
WAITING = "aggregate:orders/aggregate"


def route(*options: str) -> str:
    return ROUTE.format(options="\n          ".join(options))


def line(order: str, number: int, **fields: Any) -> Envelope:
    return Envelope(
        body=Body.of({"order": order, "line": number, **fields.pop("body", {})}), **fields
    )


async def put(bus: Bus, *messages: Envelope) -> None:
    """Put messages one after the other, each when the one before is through."""
    store = store_of(bus)
    for message in messages:
        await store.put("queue:in", message)
        await until(lambda: _empty(store, "queue:in"))


async def _empty(store: Store, *channels: str) -> bool:
    counts = await store.counts()
    return not any(counts.get(channel) for channel in channels)


async def out(bus: Bus, count: int, channel: str = "queue:out") -> list[Envelope]:
    """What came out, once there are so many."""
    store = store_of(bus)

    async def enough() -> bool:
        return (await store.counts()).get(channel, 0) >= count

    await until(enough)
    found = [stored.envelope for stored in await store.browse(channel, limit=1000)]
    assert len(found) == count
    return found


def lines(envelope: Envelope) -> list[int]:
    return [member["line"] for member in envelope.body.data]


async def test_a_group_is_complete_at_its_size(tmp_path: Path, place: Place) -> None:
    text = route("size: 3") + setting(place)
    async with running(text, tmp_path) as bus:
        await put(bus, *(line(order, n) for n in (1, 2, 3) for order in ("a", "b")))
        found = {one.body.data[0]["order"]: one for one in await out(bus, 2)}
        assert {order: lines(one) for order, one in found.items()} == {
            "a": [1, 2, 3],
            "b": [1, 2, 3],
        }
        assert found["a"].correlation_id == "a"
        assert found["a"].params["group"] == {"key": "a", "size": 3, "complete": True}
        await put(bus, line("a", 4))
        await until(lambda: _empty(store_of(bus), "accept:orders/aggregate"))
        assert await store_of(bus).counts() == {"queue:out": 2, WAITING: 1}


async def test_of_many_at_once_none_is_lost_and_each_is_in_one_group(
    tmp_path: Path, place: Place
) -> None:
    async with running(route("size: 7") + setting(place), tmp_path) as bus:
        store = store_of(bus)
        messages = [line(f"o{n % 11}", n) for n in range(11 * 7 * 3)]
        await asyncio.gather(*(store.put("queue:in", message) for message in messages))
        found = await out(bus, 33)
        assert sorted(n for one in found for n in lines(one)) == list(range(11 * 7 * 3))
        for one in found:
            assert {member["order"] for member in one.body.data} == {one.params["group"]["key"]}


async def test_members_outlive_a_restart(tmp_path: Path, place: Place) -> None:
    text = route("size: 3") + setting(place)
    async with running(text, tmp_path) as bus:
        await put(bus, line("a", 1), line("a", 2))
    async with running(text, tmp_path) as bus:
        await put(bus, line("a", 3))
        assert lines((await out(bus, 1))[0]) == [1, 2, 3]


async def test_one_that_is_delivered_again_is_no_new_member(tmp_path: Path, place: Place) -> None:
    text = route("size: 2") + setting(place)
    async with running(text, tmp_path) as bus:
        await put(bus, line("a", 1, id="x"), line("a", 1, id="x"))
    async with running(text, tmp_path) as bus:
        await put(bus, line("a", 1, id="x"), line("a", 2, id="y"))
        assert [lines(one) for one in await out(bus, 1)] == [[1, 2]]
        await until(lambda: _empty(store_of(bus), WAITING, "accept:orders/aggregate"))


async def test_a_run_that_fails_leaves_no_member(tmp_path: Path) -> None:
    text = route("size: 2").replace("    retry:", "      - filter: body.nothing\n    retry:")
    async with running(text, tmp_path) as bus:
        await put(bus, line("a", 1))
        assert await store_of(bus).counts() == {DEAD: 1}


class Gathered:
    """Groups on a clock that is set, and what was passed on."""

    def __init__(self, store: Any, jumping: Jumping, **options: Any) -> None:
        self.store = store
        self.jumping = jumping
        given = AggregateOptions.model_validate({"by": "key", "steps": [{}], **options})
        self.groups = _Groups(given, store, "here", "ready", None, jumping.clock)
        self.newest = 0

    def forget(self) -> None:
        """Somebody else goes on."""
        self.groups.forget()
        self.newest = 0

    async def put(self, key: str, ident: object) -> None:
        """A member comes."""
        one = Envelope(id=str(ident), body=Body.of(str(ident)))
        await self.store.commit([Put("here", one, group=key)])

    async def look(self) -> None:
        """Do what is to be done now."""
        for entry in await self.store.entries("here", limit=100, after=self.newest):
            self.groups.learn(entry, self.jumping.now)
            self.newest = entry.key
        await self.groups.act(self.jumping.now)

    async def out(self) -> list[tuple[str, list[str]]]:
        """The groups that were passed on, each with its key."""
        ready = [stored.envelope for stored in await self.store.browse("ready")]
        return [(one.correlation_id, one.body.data) for one in ready]


class TestTime:
    async def test_a_group_ends_so_long_after_its_first_member(
        self, tmp_path: Path, place: Place
    ) -> None:
        async with running(route("timeout: 500ms") + setting(place), tmp_path) as bus:
            await store_of(bus).commit([Put("queue:in", line("a", n)) for n in (1, 2)])
            [one] = await out(bus, 1)
            assert sorted(lines(one)) == [1, 2]
            assert one.params["group"]["complete"]

    @pytest.mark.parametrize(("option", "end"), [("timeout", 10), ("idle", 16)])
    async def test_after_its_first_or_its_last(
        self, tmp_path: Path, option: str, end: float
    ) -> None:
        jumping = Jumping()
        begun = jumping.now
        async with opened(tmp_path / "bus.db", clock=jumping.clock) as store:
            gathered = Gathered(store, jumping, **{option: 10.0})
            for ident, at in ((1, 0), (2, 3), (2, 5), (3, 6)):
                jumping.now = begun + at
                await gathered.put("a", ident)
                await gathered.look()
            while (due := gathered.groups.due()) is not None and due < begun + end:
                jumping.now = due
                await gathered.look()
                assert await gathered.out() == []
            assert due == begun + end
            jumping.now = due
            await gathered.look()
            assert await gathered.out() == [("a", ["1", "2", "3"])]
            assert gathered.groups.due() is None

    async def test_the_next_group_of_a_key_has_its_own_time(self, tmp_path: Path) -> None:
        jumping = Jumping()
        begun = jumping.now
        async with opened(tmp_path / "bus.db", clock=jumping.clock) as store:
            gathered = Gathered(store, jumping, size=2, timeout=10.0)
            for ident in range(5):
                await gathered.put("a", ident)
                await gathered.look()
                jumping.now += 3
            jumping.now = begun + 20
            await gathered.look()
            assert (await gathered.out())[2:] == []
            assert gathered.groups.due() == begun + 22

    async def test_what_was_due_while_nobody_ran_ends_at_the_start(self, tmp_path: Path) -> None:
        async with running(route("timeout: 10s"), tmp_path) as bus:
            await put(bus, line("a", 1))
        async with running(route("timeout: 1ms"), tmp_path) as bus:
            assert [lines(one) for one in await out(bus, 1)] == [[1]]

    async def test_one_that_was_waited_for_in_vain_passes_and_says_so(self, tmp_path: Path) -> None:
        async with running(route("size: 3", "timeout: 50ms"), tmp_path) as bus:
            await put(bus, line("a", 1))
            [one] = await out(bus, 1)
            assert one.params["group"] == {"key": "a", "size": 1, "complete": False}

    async def test_or_is_a_dead_letter_until_somebody_wants_it(self, tmp_path: Path) -> None:
        text = route("size: 3", "timeout: 50ms", "incomplete: dead")
        async with running(text, tmp_path) as bus:
            store = store_of(bus)
            await put(bus, line("a", 1))
            [dead] = await out(bus, 1, DEAD)
            assert lines(dead) == [1]
            [stored] = await store.browse(DEAD)
            assert stored.failure is not None
            assert (stored.failure.code, stored.failure.route, stored.failure.detail) == (
                "incomplete",
                "orders/aggregate",
                "the group was not complete in time: 1 came",
            )
            assert (await replay(store, bus.routes, Selection(all=True), None)).done == 1
            assert lines((await out(bus, 1))[0]) == [1]


class TestWhen:
    async def test_the_first_member_with_which_it_is_true_is_the_last(self, tmp_path: Path) -> None:
        text = route("when: body[-1].last is defined", "size: 5")
        async with running(text.replace("in, conc", "in, order: true, conc"), tmp_path) as bus:
            store = store_of(bus)
            last = {"body": {"last": True}}
            for one in (line("a", 1), line("a", 2, **last), line("a", 3), line("b", 4, **last)):
                await store.put("queue:in", one)
            found = await out(bus, 2)
            assert sorted(map(lines, found)) == [[1, 2], [4]]
            await put(bus, *(line("a", n) for n in range(4, 8)))
            assert lines((await out(bus, 3))[-1]) == [3, 4, 5, 6, 7], "at its size as well"

    async def test_it_sees_the_key_and_the_size(self, tmp_path: Path) -> None:
        async with running(route("when: group.size == 2 and group.key == 'a'"), tmp_path) as bus:
            await put(bus, line("a", 1), line("b", 2), line("b", 3), line("a", 4))
            assert lines((await out(bus, 1))[0]) == [1, 4]

    async def test_where_it_fails_the_group_is_a_dead_letter(self, tmp_path: Path) -> None:
        async with running(route("when: body[-1].nothing"), tmp_path) as bus:
            store = store_of(bus)
            await put(bus, line("a", 1))
            await out(bus, 1, DEAD)
            [stored] = await store.browse(DEAD)
            assert stored.failure is not None
            assert stored.failure.route == "orders/aggregate"
            assert "nothing" in stored.failure.detail
            assert (await replay(store, bus.routes, Selection(all=True), None)).done == 1
            assert lines((await out(bus, 1))[0]) == [1]


async def test_no_group_gets_larger_than_the_most(tmp_path: Path) -> None:
    async with running(route("timeout: 1h", "most: 2"), tmp_path) as bus:
        await put(bus, line("a", 1), line("a", 2), line("a", 3))
        [one] = await out(bus, 1)
        assert one.params["group"] == {"key": "a", "size": 2, "complete": False}


async def test_without_by_all_are_of_one_group(tmp_path: Path) -> None:
    text = route("size: 2").replace("by: body.order\n", "most: 9\n")
    async with running(text, tmp_path) as bus:
        await put(bus, *(line(order, n) for n, order in enumerate("abc")))
        [one] = await out(bus, 1)
        assert lines(one) == [0, 1]
        assert one.params["group"]["key"] == ""


async def test_what_members_have_in_common_stays(tmp_path: Path) -> None:
    async with running(route("size: 2"), tmp_path) as bus:
        for n in (1, 2):
            headers = Headers([("x-tenant", "blue"), ("x-line", str(n))])
            await put(bus, line("a", n, headers=headers, subject="orders", type=f"t{n}"))
        [one] = await out(bus, 1)
        assert list(one.headers) == [("x-tenant", "blue")]
        assert (one.subject, one.type) == ("orders", "message")


class TestBody:
    async def test_an_expression_over_the_group_makes_it(self, tmp_path: Path) -> None:
        text = route("size: 2", "body: body | map(attribute='line') | sum")
        async with running(text, tmp_path) as bus:
            await put(bus, line("a", 3), line("a", 4))
            assert [one.body.data for one in await out(bus, 1)] == [7]

    async def test_where_it_fails_the_list_is_kept(self, tmp_path: Path) -> None:
        async with running(route("size: 1", "body: body[0].nothing"), tmp_path) as bus:
            await put(bus, line("a", 1))
            assert lines((await out(bus, 1, DEAD))[0]) == [1]
        async with running(route("size: 1", "body: body[0].line"), tmp_path) as bus:
            assert (await replay(store_of(bus), bus.routes, Selection(all=True), None)).done == 1
            assert [one.body.data for one in await out(bus, 1)] == [1]

    async def test_xml_is_text_there(self, tmp_path: Path) -> None:
        text = route("size: 2").replace("body.order", "\"xpath('//@order')\"")
        async with running(text, tmp_path) as bus:
            xml = [f'<line order="a">{n}</line>' for n in (1, 2)]
            await put(bus, *(Envelope(body=Body(x.encode(), "application/xml")) for x in xml))
            assert [one.body.data for one in await out(bus, 1)] == [xml]

    async def test_one_that_cannot_be_read_fails_alone(self, tmp_path: Path) -> None:
        text = route("size: 2").replace("body.order", "message.subject")
        async with running(text, tmp_path) as bus:
            await put(bus, Envelope(subject="a", body=Body(b"{", "application/json")))
            await put(bus, *(line("a", n, subject="a") for n in (1, 2)))
            assert lines((await out(bus, 1))[0]) == [1, 2]
            [dead] = await store_of(bus).browse(DEAD)
            assert dead.failure is not None
            assert (dead.failure.code, dead.failure.route) == ("bad-message", "orders")


@pytest.mark.parametrize("key", ["", None, [1], True, "x" * 401, "a\0b"])
async def test_one_that_belongs_to_no_group_fails(tmp_path: Path, key: Any) -> None:
    async with running(route("size: 2"), tmp_path) as bus:
        await put(bus, line(key, 1))
        [dead] = await store_of(bus).browse(DEAD)
        assert dead.failure is not None
        assert dead.failure.code == "bad-message"


async def test_members_that_cannot_be_stored_as_one_are_dead_letters_and_join_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(route("size: 3"), tmp_path) as bus:
        store = store_of(bus)
        monkeypatch.setattr(gathering, "LOOK_AFRESH", 0.1)
        with monkeypatch.context() as patch:
            patch.setattr("esb.store.rows.LARGEST", 1000)
            big = {"body": {"text": "x" * 500}}
            await put(bus, *(line("a", n, **big) for n in (1, 2, 3)))
            await out(bus, 3, DEAD)
        codes = {one.failure and one.failure.code for one in await store.browse(DEAD)}
        assert codes == {"too-large"}
        with pytest.raises(Refused, match="no route takes messages from aggregate"):
            await replay(store, bus.routes, Selection(all=True), {"aggregate": "orders/aggregate"})
        assert (await replay(store, bus.routes, Selection(all=True), None)).done == 3
        assert lines((await out(bus, 1))[0]) == [1, 2, 3]


async def test_a_group_whose_steps_fail_goes_back_to_them(tmp_path: Path) -> None:
    failing = route("size: 2").replace("[{send", "[{filter: 'body[0].nothing'}, {send")
    async with running(failing, tmp_path) as bus:
        await put(bus, line("a", 1), line("a", 2))
        await out(bus, 1, DEAD)
        [dead] = await store_of(bus).browse(DEAD)
        assert dead.failure is not None
        assert dead.failure.route == "orders/aggregate"
        assert dead.failure.step == "steps[0].aggregate.steps[0].filter"
    async with running(route("size: 2"), tmp_path) as bus:
        assert (await replay(store_of(bus), bus.routes, Selection(all=True), None)).done == 1
        assert lines((await out(bus, 1))[0]) == [1, 2]


async def test_a_group_is_completed_when_the_store_has_no_room(
    tmp_path: Path, place: Place
) -> None:
    full = setting(place, max_size="1MB")
    text = route("timeout: 1s").replace("[{send: {queue: out}}]", "[{log: group}]")
    async with opened(place, max_size=1024**2) as store:
        for size in (50_000, 0):
            with contextlib.suppress(Overloaded):
                for n in itertools.count():
                    one = line("a", n, body={"text": "x" * size})
                    await store.commit([Put(WAITING, one, group="a")])
    async with running(text + full, tmp_path) as bus:
        await until(lambda: _empty(store_of(bus), WAITING, "accept:orders/aggregate"))


async def test_a_caller_hears_that_it_was_accepted(tmp_path: Path) -> None:
    text = route("size: 2").replace(
        "{queue: {name: in, concurrency: 20}}", "{http: {path: /lines, method: POST}}"
    )
    async with running(text, tmp_path) as bus, aiohttp.ClientSession() as client:
        for n in (1, 2):
            async with client.post(f"{url(bus)}/lines", json={"order": "a", "line": n}) as answer:
                assert answer.status == 202
        assert lines((await out(bus, 1))[0]) == [1, 2]


async def test_routes_that_run_the_same_steps_share_its_groups(tmp_path: Path) -> None:
    text = """
    routes:
      one: {from: {queue: in}, steps: [{run: gathered}]}
      two: {from: {queue: in2}, steps: [{run: gathered}]}
      gathered:
        steps: [{aggregate: {by: body.order, size: 2, steps: [{send: {queue: out}}]}}]
    """
    async with running(text, tmp_path) as bus:
        await put(bus, line("a", 1))
        await store_of(bus).put("queue:in2", line("a", 2))
        assert lines((await out(bus, 1))[0]) == [1, 2]
        assert "gathered/aggregate" in bus.routes


async def test_groups_may_be_gathered_into_groups(tmp_path: Path) -> None:
    text = route("size: 2").replace(
        "[{send: {queue: out}}]",
        "[{aggregate: {name: pairs, size: 2, steps: [{send: {queue: out}}]}}]",
    )
    async with running(text, tmp_path) as bus:
        await put(bus, *(line(order, n) for n in (1, 2) for order in ("a", "b")))
        [one] = await out(bus, 1)
        found = sorted(
            [member["order"], member["line"]] for pair in one.body.data for member in pair
        )
        assert found == [["a", 1], ["a", 2], ["b", 1], ["b", 2]]


class TestSeveral:
    async def test_buses_on_one_store_complete_each_group_once(
        self, tmp_path: Path, database_url: str
    ) -> None:
        text = route("size: 5", "timeout: 200ms") + setting(database_url)
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
        async with (
            running(text, tmp_path / "one") as one,
            running(text, tmp_path / "two") as two,
        ):
            stores = (store_of(one), store_of(two))
            messages = [line(f"o{n % 50}", n) for n in range(300)]
            await asyncio.gather(
                *(stores[n % 2].put("queue:in", message) for n, message in enumerate(messages))
            )

            async def all_out() -> bool:
                found = await stores[0].browse("queue:out", limit=1000)
                return sum(stored.envelope.params["group"]["size"] for stored in found) >= 300

            await until(all_out)
            found = [s.envelope for s in await stores[0].browse("queue:out", limit=1000)]
            assert sorted(n for each in found for n in lines(each)) == list(range(300))

    async def test_another_goes_on_when_the_one_that_gathers_ends(
        self, tmp_path: Path, database_url: str
    ) -> None:
        text = route("size: 2") + setting(database_url)
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
        async with running(text, tmp_path / "one") as one:
            await put(one, line("a", 1))
            async with running(text, tmp_path / "two") as two:
                await one.stop()
                await put(two, line("a", 2))
                assert lines((await out(two, 1))[0]) == [1, 2]

    async def test_a_route_that_is_replaced_goes_on_where_it_was(self, tmp_path: Path) -> None:
        async with running(route("size: 2"), tmp_path) as bus:
            await put(bus, line("a", 1))
            text = route("size: 3") + f"\nlisten: {{port: 0}}\nstore: {{path: {tmp_path}/bus.db}}\n"
            (tmp_path / "routes.yaml").write_text(text)
            bus.shared.begin()
            project = load([tmp_path / "routes.yaml"], root=tmp_path, shared=bus.shared).check()
            await bus.replace(project.routes)
            await put(bus, line("a", 2), line("a", 3))
            assert lines((await out(bus, 1))[0]) == [1, 2, 3]


@given(
    size=st.integers(1, 4),
    # One after the other: whose group, which id, and whether it is looked at before the next;
    # None: somebody else goes on.
    steps=st.lists(
        st.none() | st.tuples(st.sampled_from("ab"), st.integers(1, 6), st.booleans()), max_size=30
    ),
)
@settings(max_examples=25, deadline=None)
def test_when_it_looks_makes_no_difference(
    size: int, steps: list[tuple[str, int, bool] | None]
) -> None:
    expected: list[tuple[str, list[str]]] = []
    waiting: dict[str, list[str]] = {}
    for step in steps:
        if step is not None and str(step[1]) not in (group := waiting.setdefault(step[0], [])):
            group.append(str(step[1]))
            if len(group) == size:
                expected.append((step[0], waiting.pop(step[0])))

    async def played() -> list[tuple[str, list[str]]]:
        with tempfile.TemporaryDirectory() as folder:
            async with opened(Path(folder) / "bus.db") as store:
                gathered = Gathered(store, Jumping(), size=size)
                for step in steps:
                    if step is None:
                        gathered.forget()
                        continue
                    key, ident, now = step
                    await gathered.put(key, ident)
                    if now:
                        await gathered.look()
                await gathered.look()
                return await gathered.out()

    found = asyncio.run(played())
    for key in "ab":
        assert [group for of, group in found if of == key] == [
            group for of, group in expected if of == key
        ]


async def test_a_process_that_is_killed_loses_no_member_and_completes_no_group_twice(
    tmp_path: Path, place: Place
) -> None:
    size, groups = 10, (500 if isinstance(place, Path) else 200)
    messages = [line(f"o{i // size}", i) for i in range(size * groups)]
    generator = random.Random(7)
    # Each group's members come among those of others, and groups are complete all the time.
    mixed = sorted(messages, key=lambda one: one.body.data["line"] + generator.randint(0, 300))
    text = route("size: 10").replace("20", "100") + setting(place, lease="1s")
    (tmp_path / "routes.yaml").write_text(text)
    async with opened(place) as store:
        for at in range(0, len(mixed), 500):
            await store.commit([Put("queue:in", one) for one in mixed[at : at + 500]])
    done = 0
    for goal in (
        generator.randint(20, groups // 3),
        generator.randint(groups // 3 + 1, groups - 80),
        groups,
    ):
        process = subprocess.Popen([sys.executable, str(PROCESS), str(tmp_path)])
        try:
            await until(lambda goal=goal: more_than(place, goal - 1), timeout=60)
        finally:
            process.kill()
        assert process.wait() == -9, "it was alive until it was killed"
        before, done = done, await lying(place, "queue:out")
        assert before <= done <= groups  # a quick machine may be through before it is killed
    async with opened(place) as store:
        found = [stored.envelope for stored in await store.browse("queue:out", limit=1000)]
        assert (await store.counts()).keys() == {"queue:out"}
    assert sorted(n for one in found for n in lines(one)) == list(range(size * groups))
    assert {one.params["group"]["key"] for one in found} == {f"o{n}" for n in range(groups)}


async def more_than(place: Place, count: int) -> bool:
    """Whether more than `count` groups have come through."""
    await asyncio.sleep(0.1)  # to look costs those who work
    return await lying(place, "queue:out") > count


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("most: 5", "nothing says when a group is complete"),
        ("size: 2000", "no group has more than 1000 members"),
        ("size: 0", "greater than or equal to 1"),
        ("size: 2\n          name: a/b", "a name has letters"),
        ("size: 2\n          when: body.[", ""),
        ("size: 2\n          incomplete: drop", "must be one of: pass, dead"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, options: str, said: str) -> None:
    [found] = load_text(route(options), tmp_path).diagnostics
    assert said in found.message
    assert found.line > 6


def test_two_of_one_name_are_a_mistake_and_two_names_are_none(tmp_path: Path) -> None:
    step = """\
      - aggregate: {size: 2, steps: [{send: {queue: more}}]}
    retry:"""
    [found] = load_text(route("size: 2").replace("    retry:", step), tmp_path).diagnostics
    assert found.message == "there are two routes 'orders/aggregate'"
    assert "name" in found.hint
    named = step.replace("size", "name: other, size")
    project = load_text(route("size: 2").replace("    retry:", named), tmp_path).check()
    names = {one.name for one in project.routes}
    assert names == {"orders", "orders/aggregate", "orders/other"}
