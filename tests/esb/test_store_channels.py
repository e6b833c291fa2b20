"""Channels of the store: priority, groups, order, expiry, topics, and what a crash leaves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.stores import Place, message, opened, tidied
from support.waiting import Jumping, until

from esb.durable import (
    DEAD,
    KEPT,
    MOST_CRASHES,
    Claim,
    Done,
    Move,
    Publish,
    Put,
    Receipt,
    Store,
    Stored,
    subscription,
)
from esb.errors import RouteFailure
from esb.metrics import DEAD_LETTERS
from esb.store import SqliteStore

PLACES = ("sqlite", "served", "postgres")


def texts(found: Sequence[Stored]) -> list[str]:
    return [stored.envelope.body.text for stored in found]


async def put(store: Store, text: str, channel: str = "a", **more: Any) -> int:
    [key] = await store.commit((Put(channel, message(text), **more),))
    return key


async def test_the_higher_priority_comes_first_and_within_one_the_older(place: Place) -> None:
    jumping = Jumping()
    async with opened(place, clock=jumping.clock) as store:
        await put(store, "low", priority=-1)
        await put(store, "1")
        await put(store, "2")
        await put(store, "high", priority=9)
        await put(store, "higher, later", priority=10, due=jumping.now + 5)
        assert texts(await store.take("a", 2)) == ["high", "1"]
        assert texts(await store.take("a", 9)) == ["2", "low"]
        jumping.now += 5
        await put(store, "high again", priority=9)
        assert texts(await store.take("a", 9)) == ["higher, later", "high again"]


async def test_a_clock_that_is_set_back_prolongs_no_wait(place: Place) -> None:
    jumping = Jumping()
    async with opened(place, clock=jumping.clock) as store:
        await put(store, "soon", due=jumping.now + 30)
        key = await put(store, "put off")
        await store.move(key, "a", due=jumping.now + 20)
        jumping.now -= 86_400
        await tidied(store)
        assert await store.take("a", 9) == []
        jumping.now += 25
        assert texts(await store.take("a", 9)) == ["put off"]
        jumping.now += 10
        assert texts(await store.take("a", 9)) == ["soon"]


class TestGroups:
    async def test_one_of_a_group_is_out_at_a_time_in_order(self, place: Place) -> None:
        async with opened(place) as store:
            for text, group in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("free", ""), ("a3", "a")):
                await put(store, text, group=group)
            first, other, free = await store.take("a", 9)
            assert texts([first, other, free]) == ["a1", "b1", "free"]
            assert await store.take("a", 9) == []
            await store.commit((Done(first.key, first.hold),))
            [second] = await store.take("a", 9)
            assert texts([second]) == ["a2"]

    async def test_one_that_is_put_off_keeps_its_group_waiting(self, place: Place) -> None:
        jumping = Jumping()
        async with opened(place, clock=jumping.clock) as store:
            await put(store, "a1", group="a")
            await put(store, "a2", group="a")
            [first] = await store.take("a", 9)
            await store.commit((Move(first.key, "a", due=jumping.now + 5, hold=first.hold),))
            await put(store, "b1", group="b")
            assert texts(await store.take("a", 9)) == ["b1"]
            jumping.now += 5
            assert texts(await store.take("a", 9)) == ["a1"]

    async def test_a_dead_letter_lets_its_group_go_on_and_comes_back_behind(
        self, place: Place
    ) -> None:
        async with opened(place) as store:
            for text in ("a1", "a2", "a3"):
                await put(store, text, group="a")
            [first] = await store.take("a", 9)
            await store.commit((Move(first.key, DEAD, hold=first.hold),))
            [second] = await store.take("a", 9)
            assert texts([second]) == ["a2"]
            await store.move(first.key, "a", lying_in=DEAD)
            assert await store.take("a", 9) == [], "a2 is still at work"
            await store.commit((Done(second.key, second.hold),))
            assert texts(await store.take("a", 9)) == ["a1"], "the older first"

    async def test_what_came_back_waits_whatever_else_leaves(self, place: Place) -> None:
        async with opened(place) as store:
            for text in ("a1", "a2", "a3"):
                await put(store, text, group="a")
            [first] = await store.take("a", 9)
            await store.commit((Move(first.key, DEAD, hold=first.hold),))
            [second] = await store.take("a", 9)
            await store.move(first.key, "a", lying_in=DEAD)
            [third] = [stored for stored in await store.browse("a") if stored.key > second.key]
            await store.done(third.key)
            assert await store.take("a", 9) == [], "a2 is still at work"
            await store.commit((Done(second.key, second.hold),))
            assert texts(await store.take("a", 9)) == ["a1"]

    async def test_dead_letters_of_a_group_are_all_seen_and_come_back_in_their_order(
        self, place: Place
    ) -> None:
        async with opened(place) as store:
            for text in ("a1", "a2", "a3"):
                await put(store, text, group="a")
                [taken] = await store.take("a", 9)
                await store.commit((Move(taken.key, DEAD, hold=taken.hold),))
            dead = await store.browse(DEAD)
            assert texts(dead) == ["a1", "a2", "a3"]
            await store.commit([Move(stored.key, "a", lying_in=DEAD) for stored in dead])
            for text in ("a1", "a2", "a3"):
                [taken] = await store.take("a", 9)
                assert texts([taken]) == [text]
                await store.commit((Done(taken.key, taken.hold),))

    async def test_dropping_one_that_waits_changes_nothing_for_the_others(
        self, place: Place
    ) -> None:
        async with opened(place) as store:
            keys = [await put(store, text, group="a") for text in ("a1", "a2", "a3")]
            [first] = await store.take("a", 9)
            await store.done(keys[1])
            assert await store.take("a", 9) == []
            await store.commit((Done(first.key, first.hold),))
            assert texts(await store.take("a", 9)) == ["a3"]


class TestEntries:
    async def test_a_group_is_read_alone_and_in_pages(self, place: Place) -> None:
        async with opened(place) as store:
            for text, group in (("a1", "a"), ("b1", "b"), ("a2", "a"), ("free", ""), ("a3", "a")):
                await put(store, text, group=group)
            await put(store, "elsewhere", channel="b", group="a")
            first, second = await store.browse("a", group="a", limit=2)
            assert texts([first, second]) == ["a1", "a2"]
            assert texts(await store.browse("a", group="a", after=second.key)) == ["a3"]
            assert await store.browse("a", group="c") == []

    async def test_what_is_known_of_groups_without_reading_them(self, place: Place) -> None:
        jumping = Jumping()
        async with opened(place, clock=jumping.clock) as store:
            for ident, group in (("1", "a"), ("2", ""), ("3", "b"), ("4", "a")):
                await store.commit((Put("a", message(id=ident), group=group),))
                jumping.now += 1
            await store.commit((Put("b", message(id="5"), group="a"),))
            one, three, four = await store.entries("a", limit=9)
            assert [(e.id, e.group) for e in (one, three, four)] == [
                ("1", "a"),
                ("3", "b"),
                ("4", "a"),
            ]
            assert four.stored - one.stored == 3
            assert await store.entries("a", limit=2) == [one, three]
            assert await store.entries("a", limit=2, after=three.key) == [four]
            assert await store.entries("a", limit=2, after=four.key) == []

    async def test_who_waits_for_news_hears_of_them_and_of_nothing_else(self, place: Place) -> None:
        async with opened(place) as store:
            await put(store, "due", group="a")
            waiting = asyncio.ensure_future(store.wait("a", 60, news=True))
            await asyncio.sleep(0)
            await put(store, "elsewhere", channel="b")
            assert not waiting.done()
            await put(store, "new", group="a")
            await asyncio.wait_for(waiting, 10)


async def test_a_damaged_failure_stops_nobody(place: Place) -> None:
    async with opened(place) as store:
        for text in ("x", "y"):
            await put(store, text)
        damage = "UPDATE message SET failure = content WHERE key = (SELECT min(key) FROM message)"
        if isinstance(place, Path):
            damage = damage.replace("content", "x'c1'")
            await store._writes().submit(lambda db, told: db.execute(damage).get)
        else:
            await store._fetch(damage)
        first, second = await store.take("a", 9)
        assert texts([first, second]) == ["x", "y"]
        assert first.failure is None


async def test_in_order_waits_for_what_is_in_anybodys_hand(place: Place) -> None:
    async with opened(place) as store:
        await put(store, "1")
        await put(store, "2")
        [first] = await store.take("a", 1)
        assert await store.take("a", 1, in_order=True) == []
        waiting = asyncio.create_task(store.wait("a", 60))
        await until(lambda: "a" in store._bells)
        assert not waiting.done(), "something is due, and yet not to be had"
        await store.commit((Done(first.key, first.hold),))
        await asyncio.wait_for(waiting, 10)
        assert texts(await store.take("a", 1, in_order=True)) == ["2"]


async def test_who_waits_for_a_turn_hears_of_it_though_another_commit_fails(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path / "bus.db") as store:
        await put(store, "1")
        await put(store, "2")
        [first] = await store.take("a", 1)
        assert await store.take("a", 1, in_order=True) == []
        waiting = asyncio.create_task(store.wait("a", 60))
        await until(lambda: "a" in store._bells)
        together = threading.Event()
        store._writes().post(lambda db, told: together.wait(10))
        settling = asyncio.create_task(store.commit((Done(first.key, first.hold),)))
        failing = asyncio.create_task(put(store, "no", channel="b", group="\ud800"))
        await asyncio.sleep(0)
        together.set()
        await settling
        with pytest.raises(RouteFailure):
            await failing
        await asyncio.wait_for(waiting, 10)


async def test_who_waits_in_order_is_handed_nothing_past_what_lies_there(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db") as store:
        await put(store, "1")
        [first] = await store.take("a", 1, in_order=True)
        waiting = asyncio.create_task(store.take("a", 1, in_order=True, wait=60))
        await asyncio.sleep(0)
        await put(store, "2")
        together = threading.Event()
        store._writes().post(lambda db, told: together.wait(10))
        settling = asyncio.create_task(store.commit((Done(first.key, first.hold),)))
        await asyncio.sleep(0)
        putting = asyncio.create_task(put(store, "3"))
        await asyncio.sleep(0)
        together.set()
        await asyncio.gather(settling, putting)
        assert texts(await waiting) == ["2"]


async def test_what_somebody_waited_for_is_noted_as_in_hand(place: Place) -> None:
    async with opened(place) as store:
        waiting = asyncio.create_task(store.take("a", 2, wait=60))
        await asyncio.sleep(0)
        await store.commit((Put("a", message("low")), Put("a", message("high"), priority=5)))
        taken = await asyncio.wait_for(waiting, 10)
        assert taken[0].hold
        assert await store.counts() == {"a": 2}
        held = {stored.key: stored for stored in await store.browse("a")}
        for stored in taken:
            assert held[stored.key].hold == stored.hold
            assert held[stored.key].envelope.id == stored.envelope.id
            await store.commit((Done(stored.key, stored.hold),))


class TestExpiry:
    async def test_one_whose_time_is_over_is_a_dead_letter(self, place: Place) -> None:
        jumping = Jumping()
        async with opened(place, clock=jumping.clock) as store:
            await put(store, "old", expires=jumping.now + 5, group="g")
            await put(store, "new", expires=jumping.now + 50, group="g")
            jumping.now += 6
            counted = DEAD_LETTERS.labels("a", "expired")
            before = counted.value
            assert texts(await store.take("a", 9)) == ["new"]
            [dead] = await store.browse(DEAD)
            assert dead.failure is not None
            assert (dead.failure.code, dead.failure.route) == ("expired", "a")
            assert counted.value == before + 1
            assert dead.expires == 0, "a replay has all the time it needs"

    async def test_nobody_need_ask_for_it(self, place: Place) -> None:
        jumping = Jumping()
        async with opened(place, clock=jumping.clock) as store:
            await put(store, "old", expires=jumping.now + 5)
            jumping.now += 6
            await tidied(store)
            assert await store.counts() == {DEAD: 1}

    async def test_what_is_only_kept_is_forgotten(self, place: Place) -> None:
        jumping = Jumping()
        async with opened(place, clock=jumping.clock) as store:
            await put(store, "old", channel=f"{KEPT}a", expires=jumping.now + 5, group="a")
            await put(store, "young", channel=f"{KEPT}a", expires=jumping.now + 50, group="a")
            jumping.now += 6
            await tidied(store)
            assert await store.counts() == {f"{KEPT}a": 1}
            assert texts(await store.browse(f"{KEPT}a", group="a")) == ["young"]


class TestTopics:
    async def test_each_subscription_gets_its_copy_with_everything_else(self, place: Place) -> None:
        async with opened(place) as store:
            for name in ("billing", "stock", "billing"):
                await store.subscribe("orders", name)
            await store.subscribe("prices", "web")
            await store.commit((Publish("orders", message("x")), Put("a", message("y"))))
            assert await store.counts() == {
                subscription("orders", "billing"): 1,
                subscription("orders", "stock"): 1,
                "a": 1,
            }
            assert await store.subscriptions("orders") == [
                ("orders", "billing"),
                ("orders", "stock"),
            ]
            assert len(await store.subscriptions()) == 3

    async def test_ending_one_forgets_what_lies_there(self, place: Place) -> None:
        async with opened(place) as store:
            await store.subscribe("orders", "billing")
            await store.commit((Publish("orders", message("x")),))
            assert await store.unsubscribe("orders", "billing")
            assert not await store.unsubscribe("orders", "billing")
            await store.commit((Publish("orders", message("x")),))
            assert await store.counts() == {}


async def test_what_is_through_can_be_looked_up_by_id_and_business_key(place: Place) -> None:
    jumping = Jumping()
    async with opened(place, clock=jumping.clock, receipts=60.0) as store:
        first = message("x", id="m1", business_key="order-7")
        await store.commit((Put("a", first), Put("b", message("y", id="order-7"))))
        [taken] = await store.take("a", 1)
        receipt = Receipt("m1", "work", "accepted", "order-7", "alice")
        await store.commit((Done(taken.key, taken.hold, receipt=receipt),))
        lying, through = await store.find("order-7")
        assert texts(lying) == ["y"]
        assert [(r.id, r.outcome, r.principal, r.finished) for r in through] == [
            ("m1", "accepted", "alice", jumping.now)
        ]
        assert (await store.find("m1"))[1] == through
        assert await store.find("nothing") == ([], [])
        jumping.now += 60
        await tidied(store)
        assert await store.find("m1") == ([], [])


class TestCrashes:
    """A store that is opened again without having been closed was left by a dead process; here the
    file is, which is all that counts."""

    async def test_who_died_with_a_message_in_hand_is_counted(self, place: Place) -> None:
        async with opened(place) as store:
            await put(store, "x")
            await put(store, "y")
        for died in range(MOST_CRASHES):
            async with opened(place) as store:
                [taken] = await store.take("a", 1)
                assert (taken.envelope.body.text, taken.crashes, taken.attempts) == ("x", died, 0)
        async with opened(place) as store:
            assert texts(await store.take("a", 1)) == ["y"], "a poison message stops nobody"
            [dead] = await store.browse(DEAD)
            assert dead.failure is not None
            assert dead.failure.code == "poison"

    async def test_a_run_that_ended_makes_up_for_the_crash(self, place: Place) -> None:
        async with opened(place) as store:
            await put(store, "x")
        for _ in range(MOST_CRASHES + 2):
            async with opened(place) as store:
                await store.take("a", 1)
            async with opened(place) as store:
                [taken] = await store.take("a", 1)
                assert taken.crashes == 1
                await store.commit((Move(taken.key, "a", attempts=1, hold=taken.hold),))

    async def test_a_suspect_is_handed_out_alone(self, place: Place) -> None:
        async with opened(place) as store:
            for text in ("suspect", "bystander"):
                await put(store, text)
            await put(store, "elsewhere", channel="b")
        for _ in range(MOST_CRASHES - 1):
            async with opened(place) as store:
                [_] = await store.take("a", 1)
        async with opened(place) as store:
            [other] = await store.take("b", 1)
            assert await store.take("a", 9) == [], "something else is in hand"
            waiting = asyncio.create_task(store.wait("a", 60))
            await until(lambda: "a" in store._bells)
            await store.commit((Done(other.key, other.hold),))
            await asyncio.wait_for(waiting, 10)
            [suspect] = await store.take("a", 9)
            assert texts([suspect]) == ["suspect"]
            await put(store, "more", channel="b")
            assert await store.take("b", 9) == []
            await store.commit((Done(suspect.key, suspect.hold),))
            assert texts(await store.take("b", 9)) == ["more"]
            assert texts(await store.take("a", 9)) == ["bystander"]

    async def test_a_take_that_nobody_waits_for_any_more_is_none(self, place: Place) -> None:
        async with opened(place) as store:
            await put(store, "x")
            taking = asyncio.create_task(store.take("a", 1))
            await asyncio.sleep(0)
            taking.cancel()
        async with opened(place) as store:
            [taken] = await store.take("a", 1)
            assert taken.crashes == 0

    async def test_a_claim_that_nobody_waits_for_any_more_is_free(self, place: Place) -> None:
        async with opened(place) as store:
            claiming = asyncio.create_task(store.claim("s", "v", 9e9))
            await asyncio.sleep(0)
            claiming.cancel()
            again = await until(lambda: _claimed(store))
            assert again.crashes == 0

    async def test_a_claim_of_a_dead_process_is_free_and_counted(self, place: Place) -> None:
        for died in range(3):
            async with opened(place) as store:
                claim = await store.claim("s", "v", 9e9)
                assert (claim.state, claim.crashes) == ("new", died)


async def _claimed(store: Store) -> Claim | None:
    claim = await store.claim("s", "v", 9e9)
    return claim if claim.state == "new" else None


class Channels(RuleBasedStateMachine):
    """The store beside a model of it: lists of texts with what was said of each."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.jumping = Jumping()
        self.path = Path(self.folder) / "bus.db"
        self.number = 0
        self.model: dict[int, dict[str, Any]] = {}
        self.store = SqliteStore(self.path, clock=self.jumping.clock)
        self.loop.run_until_complete(self.store.open())

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self._folder = tempfile.TemporaryDirectory()
        self.folder = self._folder.name

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.loop.run_until_complete(self.store.close())
            self.loop.close()
        self._folder.cleanup()

    def may_be_taken(self) -> list[int]:
        """Keys, in the order in which they may be handed out."""
        free: list[int] = []
        groups: set[str] = set()
        for key, one in sorted(self.model.items()):
            blocked = one["group"] in groups
            if one["group"]:
                groups.add(one["group"])
            if not blocked and not one["hold"] and one["due"] <= self.jumping.now:
                free.append(key)
        return sorted(
            free,
            key=lambda k: (
                -self.model[k]["priority"],
                self.model[k]["due"] <= 0,
                self.model[k]["due"],
                k,
            ),
        )

    @rule(
        priority=st.integers(0, 2),
        group=st.sampled_from(["", "", "g", "h"]),
        delay=st.sampled_from([0, 0, 3]),
    )
    def put(self, priority: int, group: str, delay: int) -> None:
        self.number += 1
        due = self.jumping.now + delay if delay else 0.0
        change = Put("a", message(str(self.number)), due, priority=priority, group=group)
        [key] = self.loop.run_until_complete(self.store.commit((change,)))
        self.model[key] = {"priority": priority, "group": group, "due": due, "hold": 0}

    @rule(limit=st.integers(1, 4))
    def take(self, limit: int) -> None:
        expected = self.may_be_taken()[:limit]
        taken = self.loop.run_until_complete(self.store.take("a", limit))
        # Within a take, one of a group never follows another: both cannot be free.
        assert [stored.key for stored in taken] == expected
        for stored in taken:
            self.model[stored.key]["hold"] = stored.hold

    @rule(pick=st.randoms(use_true_random=False), how=st.sampled_from(["done", "back", "later"]))
    def settle(self, pick: Any, how: str) -> None:
        held = sorted(key for key, one in self.model.items() if one["hold"])
        if not held:
            return
        key = pick.choice(held)
        one = self.model[key]
        if how == "done":
            change: Done | Move = Done(key, one["hold"])
            del self.model[key]
        else:
            due = self.jumping.now + 3 if how == "later" else 0.0
            change = Move(key, "a", due=due, hold=one["hold"])
            one.update(hold=0, due=due)
        self.loop.run_until_complete(self.store.commit((change,)))

    @rule()
    def time_passes(self) -> None:
        self.jumping.now += 2

    @rule()
    def restart(self) -> None:
        self.loop.run_until_complete(self.store.close())
        self.store = SqliteStore(self.path, clock=self.jumping.clock)
        self.loop.run_until_complete(self.store.open())
        for stored in self.loop.run_until_complete(self.store.browse("a", limit=1000)):
            self.model[stored.key]["hold"] = 0
            if stored.crashes:  # that is another story: see TestCrashes
                settle = (Move(stored.key, "a", due=stored.due),)
                self.loop.run_until_complete(self.store.commit(settle))
        self.store._writing.suspects = False

    @invariant()
    def counted(self) -> None:
        if hasattr(self, "store"):
            counts = self.loop.run_until_complete(self.store.counts())
            assert counts.get("a", 0) == len(self.model)


TestChannels = Channels.TestCase
TestChannels.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
