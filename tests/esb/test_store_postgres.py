"""The store on PostgreSQL: several buses on one, leases, lost connections, what cannot be opened.

What is true of every store is in test_store.py, test_store_channels.py and test_durable.py.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from postgres import Postgres
from support.bus import load_text
from support.proxy import Proxy, proxy
from support.stores import message, opened, tidied
from support.waiting import until

from esb import record
from esb.durable import DEAD, MOST_CRASHES, Confirm, Done, Put, Receipt, Release, Stored, Superseded
from esb.errors import EsbError, RouteFailure, Transient
from esb.store import DAMAGED, StoreOptions, StoreUnusable, open_store
from esb.store import postgres as postgres_module
from esb.store import units as units_module
from esb.store.postgres import PostgresStore

PAGE = Path(__file__).parents[2] / "docs" / "postgresql.md"


def texts(found: Sequence[Stored]) -> list[str]:
    return [stored.envelope.body.text for stored in found]


def through(proxied: Proxy, url: str) -> str:
    """The URL with the proxy in the server's place."""
    parts = urlsplit(url)
    there = f"{parts.username}:{parts.password}@127.0.0.1:{proxied.port}"
    return parts._replace(netloc=there).geturl()


async def ask(url: str, sql: str, *values: Any) -> list[asyncpg.Record]:
    """What an outsider sees."""
    connection = await asyncpg.connect(url, server_settings={"search_path": "esb"})
    try:
        return await connection.fetch(sql, *values)
    finally:
        await connection.close()


async def everything(store: PostgresStore, channel: str) -> list[Stored]:
    found: list[Stored] = []
    while page := await store.browse(channel, limit=500, after=found[-1].key if found else 0):
        found += page
    return found


def stop_upkeep(store: PostgresStore) -> None:
    """What SIGSTOP does to a process: nobody hears of it any more."""
    for task in store._tasks:
        task.cancel()


class TestTwoBuses:
    async def test_share_what_there_is_without_a_double(self, database_url: str) -> None:
        async with opened(database_url) as one, opened(database_url) as two:
            count = 400
            await asyncio.gather(*(one.put("a", message(str(i))) for i in range(count)))
            seen: Counter[str] = Counter()

            async def consumer(store: PostgresStore) -> None:
                while (await store.counts()).get("a"):
                    for stored in await store.take("a", 7):
                        seen[stored.envelope.body.text] += 1
                        await store.commit((Done(stored.key, stored.hold),))

            await asyncio.gather(*(consumer(store) for store in (one, two) for _ in range(3)))
            assert seen == {str(i): 1 for i in range(count)}
            assert await one.counts() == await two.counts() == {}

    async def test_wake_each_other(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(postgres_module, "BEAT", 1000.0)
        async with (
            opened(database_url, lease=4000.0) as one,
            opened(database_url, lease=4000.0) as two,
        ):
            await until(lambda: one._others)
            waiting = asyncio.create_task(two.wait("a", 60))
            await until(lambda: "a" in two._bells)
            await one.put("a", message())
            await asyncio.wait_for(waiting, 10)

    async def test_look_by_themselves_too(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def lost(self: PostgresStore) -> None:
            self._to_tell.clear()

        monkeypatch.setattr(PostgresStore, "_tell", lost)
        monkeypatch.setattr(postgres_module, "BEAT", 0.1)
        async with opened(database_url) as one, opened(database_url) as two:
            waiting = asyncio.create_task(two.wait("a", 60))
            await until(lambda: "a" in two._bells)
            await one.put("a", message())
            await asyncio.wait_for(waiting, 10)

    async def test_learn_of_what_comes_to_light_behind_a_later_key(self, database_url: str) -> None:
        async with opened(database_url) as one, opened(database_url):
            await one._beat()
            slow = await asyncpg.connect(database_url, server_settings={"search_path": "esb"})
            commit = slow.transaction()
            await commit.start()
            written = record.encode(message(id="slow"))
            row = ("a", 0.0, 0, None, 0, 0.0, "g", "slow", "", record.digest(written), written)
            no_more: tuple[list[Any], ...] = ([], [], [], [], [])
            await slow.execute(
                "SELECT * FROM make(0, $1, 0, ARRAY[$2::put], $3, $4, $5, $6, $7)",
                *(uuid.uuid4(), row, *no_more),
            )
            [key] = await one.commit((Put("a", message(id="fast"), group="h"),))
            assert [entry.id for entry in await one.entries("a", limit=9)] == ["fast"]
            await commit.commit()
            await slow.close()
            found = await one.entries("a", limit=9, after=key)
            assert [entry.id for entry in found] == ["slow", "fast"]

    async def test_keep_the_order_of_a_group(self, database_url: str) -> None:
        async with opened(database_url) as one, opened(database_url) as two:
            groups = [f"g{i}" for i in range(5)]
            at_work: Counter[str] = Counter()
            seen: dict[str, list[int]] = {group: [] for group in groups}

            async def sender(store: PostgresStore, group: str) -> None:
                for number in range(20):
                    await store.commit((Put("a", message(f"{group} {number}"), group=group),))

            async def consumer(store: PostgresStore) -> None:
                while sum(map(len, seen.values())) < 100:
                    for stored in await store.take("a", 5):
                        group, number = stored.envelope.body.text.split()
                        assert not at_work[group], "one after the other"
                        at_work[group] = 1
                        seen[group].append(int(number))
                        await asyncio.sleep(0)
                        at_work[group] = 0
                        await store.commit((Done(stored.key, stored.hold),))

            stores = [one, two]
            await asyncio.gather(
                *(sender(stores[i % 2], group) for i, group in enumerate(groups)),
                *(consumer(store) for store in stores for _ in range(2)),
            )
            assert seen == {group: list(range(20)) for group in groups}

    async def test_do_not_miss_each_other_in_a_group(self, database_url: str) -> None:
        """One comes while the one before it leaves, in a commit that is not there yet."""
        async with opened(database_url) as store:
            [first] = await store.commit((Put("a", message("first"), group="g"),))
            other = await asyncpg.connect(database_url, server_settings={"search_path": "esb"})
            async with other.transaction():
                await other.execute(
                    "SELECT make(1, gen_random_uuid(), 0, '{}', '{}',"
                    f" ARRAY[({first}, 0, '', NULL, 0, 0, NULL)::settle], '{{}}', '{{}}', '{{}}')"
                )
                putting = asyncio.create_task(
                    store.commit((Put("a", message("second"), group="g"),))
                )
                waits = "SELECT FROM pg_stat_activity WHERE wait_event = 'advisory'"
                await until(lambda: ask_until(putting, database_url, waits))
            await other.close()
            await putting
            assert texts(await store.take("a", 9)) == ["second"]

    async def test_take_in_order_one_after_the_other(self, database_url: str) -> None:
        async with opened(database_url) as one, opened(database_url) as two:
            for i in range(30):
                await one.put("a", message(str(i)))
            seen: list[str] = []
            at_work = 0

            async def consumer(store: PostgresStore) -> None:
                nonlocal at_work
                while len(seen) < 30:
                    for stored in await store.take("a", 1, in_order=True):
                        at_work += 1
                        assert at_work == 1
                        seen.append(stored.envelope.body.text)
                        await asyncio.sleep(0)
                        at_work -= 1
                        await store.commit((Done(stored.key, stored.hold),))

            await asyncio.gather(consumer(one), consumer(two), consumer(two))
            assert seen == [str(i) for i in range(30)]

    async def test_that_open_an_empty_database_together_make_its_tables_once(
        self, database_url: str
    ) -> None:
        stores = [PostgresStore(database_url) for _ in range(5)]
        await asyncio.gather(*(store.open() for store in stores))
        assert [tuple(row) for row in await ask(database_url, "SELECT version FROM format")] == [
            (1,)
        ]
        await asyncio.gather(*(store.close() for store in stores))
        assert await ask(database_url, "SELECT * FROM holder") == []


class TestLeases:
    async def test_who_is_silent_loses_what_it_has_in_hand(self, database_url: str) -> None:
        async with opened(database_url, lease=0.5) as one, opened(database_url, lease=0.5) as two:
            await one.put("a", message("x"))
            await one.put("a", message("y"))
            [mine, _] = await one.take("a", 2)
            assert (await one.claim("s", "v", 9e9)).state == "new"
            stop_upkeep(one)
            [his] = await until(lambda: two.take("a", 1))
            assert (his.key, his.crashes) == (mine.key, 1)
            assert (await two.claim("s", "v", 9e9)).state == "new"

            # One comes back, and does not know.
            with pytest.raises(Superseded):
                await one.commit((Put("b", message()), Done(mine.key, mine.hold)))
            with pytest.raises(Superseded):
                await one.commit((Put("b", message()), Confirm("s", "v", 9e9)))
            await one.commit((Release("s", "v"),))
            assert (await one.claim("s", "v", 9e9)).state == "busy", "it was not one's to release"
            assert await one.counts() == {"a": 2}, "nothing of those commits was stored"
            assert texts(await one.take("a", 9)) == ["y"], "it goes on as somebody new"
            await two.commit((Done(his.key, his.hold), Confirm("s", "v", 9e9, message("z"))))
            claim = await one.claim("s", "v", 9e9)
            assert claim.answer is not None
            assert claim.answer.body.text == "z"

    async def test_a_message_whose_takers_fall_silent_is_a_dead_letter(
        self, database_url: str
    ) -> None:
        async with opened(database_url) as store:
            await store.put("a", message("x"))
            for _ in range(MOST_CRASHES):
                assert len(await store.take("a", 1)) == 1
                await ask(database_url, "SELECT bury($1)", store._me)
            assert await store.take("a", 1) == []
            [dead] = await store.browse(DEAD)
            assert dead.failure is not None
            assert dead.failure.code == "poison"

    async def test_nobody_is_dead_because_the_database_was_away(
        self, postgres_of_its_own: Postgres
    ) -> None:
        server = postgres_of_its_own
        async with opened(server.url, lease=1.0) as one, opened(server.url, lease=1.0) as two:
            await one.put("a", message("x"))
            [taken] = await one.take("a", 1)
            await asyncio.to_thread(server.stop)
            await until(lambda: not one.health().up and not two.health().up)
            end = time.monotonic() + 1.2
            await until(lambda: time.monotonic() > end)  # every lease is over
            await asyncio.to_thread(server.start)
            await until(lambda: one.health().up and two.health().up)
            await until(lambda: two.counts())
            assert len(await ask(server.url, "SELECT FROM holder WHERE until > now()")) == 2
            await one.commit((Done(taken.key, taken.hold),))


class TestLostConnections:
    async def test_terminated_sessions_are_made_anew_and_lose_nothing(
        self, database_url: str
    ) -> None:
        async with opened(database_url) as store:
            acknowledged: list[str] = []
            stop = False

            async def caller(name: int) -> None:
                number = 0
                while not stop:
                    text = f"{name} {number}"
                    try:
                        await store.put("a", message(text))
                    except Transient:
                        continue
                    acknowledged.append(text)
                    number += 1

            callers = [asyncio.create_task(caller(i)) for i in range(10)]
            ended = 0
            for goal in (50, 150, 250, 350):
                await until(lambda goal=goal: len(acknowledged) >= goal)
                ended += len(
                    await ask(
                        database_url,
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE application_name = 'esb' AND datname = current_database()",
                    )
                )
            stop = True
            await asyncio.gather(*callers)
            assert ended >= 8, "the sessions were there to be terminated"
            found = texts(await everything(store, "a"))
            assert sorted(found) == sorted(acknowledged), "each once"
            await until(lambda: not store._listener.is_closed() and store.health().up)

    async def test_the_answer_of_a_commit_is_lost(self, database_url: str) -> None:
        async with (
            proxy(urlsplit(database_url).port or 0) as proxied,
            opened(through(proxied, database_url)) as store,
        ):
            first = await store.put("a", message("first"))
            proxied.cut_after = 0
            putting = asyncio.create_task(store.put("a", message("second")))
            await until(lambda: ask(database_url, "SELECT FROM message WHERE key > $1", first))
            assert not putting.done(), "it does not know yet"
            proxied.cut_after = -1
            second = await asyncio.wait_for(putting, 20)
            assert second > first
            assert texts(await store.browse("a")) == ["first", "second"]

    async def test_a_commit_that_stays_in_doubt_says_so(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(units_module, "DOUBT", 0.2)
        async with (
            proxy(urlsplit(database_url).port or 0) as proxied,
            opened(through(proxied, database_url)) as store,
        ):
            await store.put("a", message("first"))
            proxied.cut_after = 0
            with pytest.raises(Transient, match="does not answer") as caught:
                await store.put("a", message("second"))
            assert any("may have been made" in note for note in caught.value.notes)
            proxied.refuse()
            with pytest.raises(Transient, match="does not answer") as caught:
                await store.put("a", message("third"))
            assert not any("may have been made" in note for note in caught.value.notes)
            await until(lambda: not store.health().up)
            proxied.cut_after = -1
            await proxied.open()
            await until(lambda: store.health().up)
            await store.put("a", message("fourth"))

    async def test_what_was_said_not_to_have_happened_never_does(self, database_url: str) -> None:
        """A statement that was sent, and that the server reads only after it was asked."""
        async with opened(database_url):
            unit = uuid.uuid4()
            [answer] = await ask(database_url, "SELECT * FROM made($1)", unit)
            assert not answer["happened"]
            empty: list[Any] = []
            with pytest.raises(asyncpg.UniqueViolationError):
                await ask(
                    database_url,
                    "SELECT make(1, $1, 0, $2, $3, $4, $5, $6, $7)",
                    *(unit, empty, empty, empty, empty, empty, empty),
                )

    async def test_a_take_whose_answer_is_lost_holds_nothing(self, database_url: str) -> None:
        async with (
            proxy(urlsplit(database_url).port or 0) as proxied,
            opened(through(proxied, database_url)) as store,
        ):
            await store.put("a", message("x"))
            for sql in (
                "CREATE TABLE seen (number bigint)",
                "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS"
                " 'BEGIN INSERT INTO seen VALUES (NEW.number); RETURN NULL; END'",
                "CREATE TRIGGER seen AFTER INSERT ON hold FOR EACH ROW EXECUTE FUNCTION see()",
            ):
                await ask(database_url, sql)
            await store.take("b", 1)  # the statement is known to the server from now on
            proxied.cut_after = 0
            with pytest.raises(Transient):
                await store.take("a", 1)

            async def was_taken() -> bool:
                return len(await ask(database_url, "SELECT * FROM seen")) == 1

            await until(was_taken)  # the server goes on when nobody listens any more
            proxied.cut_after = -1
            [again] = await until(lambda: taken(store))
            assert again.crashes == 0

    async def test_what_is_to_be_given_back_is_so_before_it_closes(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def lost(rows: object) -> None:
            raise asyncio.CancelledError

        async with opened(database_url) as store:
            await store.put("a", message("x"))
            monkeypatch.setattr(store, "_sorted_out", lost)
            with pytest.raises(asyncio.CancelledError):
                await store.take("a", 1)
        async with opened(database_url) as store:
            [again] = await store.take("a", 1)
            assert again.crashes == 0

    async def test_a_take_that_was_cancelled_holds_nothing(self, database_url: str) -> None:
        async with opened(database_url) as store:
            await store.put("a", message("x"))
            for turns in range(12):
                taking = asyncio.create_task(store.take("a", 1))
                for _ in range(turns):
                    await asyncio.sleep(0)
                taking.cancel()
                [result] = await asyncio.gather(taking, return_exceptions=True)
                # It may have found nothing: what the one before it had is on its way back.
                for one in result if isinstance(result, list) else ():
                    await store.move(one.key, "a")
                [again] = await until(lambda: taken(store))
                await store.move(again.key, "a")

    async def test_a_killed_server_loses_nothing_that_was_acknowledged(
        self, postgres_of_its_own: Postgres
    ) -> None:
        server = postgres_of_its_own
        async with opened(server.url) as store:
            acknowledged: list[int] = []
            refused = 0
            stop = False

            async def caller() -> None:
                nonlocal refused
                while not stop:
                    try:
                        key = await store.put("a", message("x"))
                        acknowledged.append(key)
                        if key % 3 == 0:
                            assert await store.done(key)
                    except EsbError:
                        refused += 1
                        await asyncio.sleep(0.02)

            callers = [asyncio.create_task(caller()) for _ in range(8)]
            for _ in range(2):
                before = len(acknowledged)
                await until(lambda before=before: len(acknowledged) > before + 50)
                await asyncio.to_thread(server.restart, hard=True)
            before = len(acknowledged)
            await until(lambda: len(acknowledged) > before + 50)
            stop = True
            await asyncio.gather(*callers)
            assert refused, "the server was away"
            lost = set(acknowledged) - {stored.key for stored in await everything(store, "a")}
            assert all(key % 3 == 0 for key in lost)
            counts = await store.counts()
            [[really]] = await ask(server.url, "SELECT count(*) FROM message")
            assert counts == {"a": really}


async def ask_until(task: asyncio.Task[Any], url: str, sql: str) -> bool:
    return task.done() or bool(await ask(url, sql))


async def taken(store: PostgresStore) -> list[Stored]:
    """What can be taken, also while connections fail."""
    try:
        return await store.take("a", 1)
    except Transient:
        return []


async def test_a_damaged_message_is_set_aside_and_never_delivered(database_url: str) -> None:
    async with opened(database_url) as store:
        keys = [await store.put("a", message(str(i)), attempts=1) for i in range(4)]
        await ask(
            database_url,
            "UPDATE message SET content = set_bit(content, 300, 1 - get_bit(content, 300))"
            " WHERE key = ANY ($1)",
            keys[1:3],
        )
        assert await store.get(keys[1]) is None, "however it is asked for"
        await until(lambda: store.browse(DAMAGED))
        assert texts(await store.take("a", 9)) == ["0", "3"]
        found = await store.browse(DAMAGED)
        assert [stored.key for stored in found] == keys[1:3]
        assert "2 damaged messages" in store.health().detail
        assert found[0].failure is not None
        assert (found[0].failure.code, found[0].failure.route) == ("damaged", "a")
        assert found[0].envelope.body.raw != b"", "what is left of it can be looked at"
        assert await store.done(keys[1])
    async with opened(database_url) as store:
        assert "1 damaged" in store.health().detail


async def test_texts_that_postgresql_would_not_take(database_url: str) -> None:
    long = "x" * 5000
    async with opened(database_url) as store:
        for name in ("with \0 in it", long):
            put = Put("a", message(name, id=name, business_key=name), group=name)
            await store.commit((put, put))
            [first] = await store.take("a", 9)
            assert first.envelope.id == name, "what it says itself is what it was"
            receipt = Receipt(name, "route", "message", name)
            await store.commit((Done(first.key, first.hold, receipt=receipt),))
            [second] = await store.take("a", 9)
            await store.commit((Done(second.key, second.hold),))
            assert (await store.claim("s", name, 9e9)).state == "new"
            assert (await store.claim("s", name + "y", 9e9)).state == "new"
            assert (await store.claim("s", name, 9e9)).state == "busy"
        assert len((await store.find(long))[1]) == 1
        with pytest.raises(RouteFailure):
            await store.put("a \ud800", message())


async def test_what_ended_sessions_counted_is_added_up(database_url: str) -> None:
    for number in range(3):
        async with opened(database_url) as store:
            await store.put("a", message(str(number)))
    async with opened(database_url) as store:
        await until(lambda: only_ours(database_url))
        await tidied(store)
        assert await store.counts() == {"a": 3}
        rows = await ask(database_url, "SELECT DISTINCT backend FROM tally")
        assert [tuple(row) for row in rows] == [(0,)]


async def only_ours(url: str) -> bool:
    rows = await ask(url, "SELECT FROM tally JOIN pg_stat_activity ON pid = backend")
    return not rows


class TestOpening:
    async def test_settings_name_the_database(self, database_url: str) -> None:
        store = open_store(StoreOptions.model_validate({"url": database_url, "max_size": "5MB"}))
        for number in range(2):
            await store.open()
            assert len(await ask(database_url, "SELECT FROM holder")) == 1
            await store.put("a", message())
            assert len(await store.take("a", 9)) == number + 1
            await store.close()
        assert len(await ask(database_url, "SELECT FROM message")) == 2

    @pytest.mark.parametrize(
        ("settings", "says"),
        [
            ({"url": "mysql://h/d"}, "postgresql://user:password@host"),
            ({"url": "postgresql://h/d", "path": "x.db"}, "a path or a url"),
        ],
    )
    def test_settings_that_make_no_sense_are_refused(
        self, settings: dict[str, str], says: str
    ) -> None:
        with pytest.raises(ValueError, match=says):
            StoreOptions.model_validate(settings)

    def test_a_missing_driver_is_told_with_the_other_mistakes(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("esb.store.find_spec", lambda name: None)
        with pytest.raises(ValueError, match=r"pip install 'esb\[postgres\]'"):
            StoreOptions.model_validate({"url": "postgresql://h/d"})

    async def test_the_routes_of_the_page_load(self, tmp_path: Path) -> None:
        blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
        assert blocks
        for block in blocks:
            environ = {"STORE_PASSWORD": "secret"}
            assert load_text(block, tmp_path, environ=environ).diagnostics == []

    async def test_a_role_with_no_more_rights_than_the_page_says(self, database_url: str) -> None:
        parts = urlsplit(database_url)
        role = f"bus_{uuid.uuid4().hex[:12]}"
        await ask(database_url, f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
        await ask(database_url, f"CREATE SCHEMA esb AUTHORIZATION {role}")
        url = parts._replace(netloc=f"{role}:secret@127.0.0.1:{parts.port}").geturl()
        try:
            async with opened(url) as store:
                await store.put("a", message("x"))
                [taken] = await store.take("a", 1)
                await store.commit((Done(taken.key, taken.hold),))
                await tidied(store)
                assert await store.counts() == {}
        finally:
            await ask(database_url, "DROP SCHEMA esb CASCADE")
            await ask(database_url, f"DROP ROLE {role}")

    async def test_a_database_that_is_not_there_or_not_ours(self, database_url: str) -> None:
        parts = urlsplit(database_url)
        elsewhere = parts._replace(path="/nowhere").geturl()
        secret = "the-wrong-password"
        stranger = parts._replace(netloc=f"postgres:{secret}@127.0.0.1:{parts.port}").geturl()
        for url, says in ((elsewhere, "does not exist"), (stranger, "authentication failed")):
            with pytest.raises(StoreUnusable, match=says) as caught:
                await PostgresStore(url).open()
            assert secret not in str(caught.value)

    async def test_a_server_that_does_not_answer_is_waited_for(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with proxy(urlsplit(database_url).port or 0) as proxied:
            proxied.refuse()
            store = PostgresStore(through(proxied, database_url))
            opening = asyncio.create_task(store.open())
            await asyncio.sleep(0.05)
            await proxied.open()
            await asyncio.wait_for(opening, 20)
            await store.close()
            proxied.refuse()
            monkeypatch.setattr(postgres_module, "WAIT_FOR_SERVER", 0.0)
            with pytest.raises(StoreUnusable, match="does not answer"):
                await store.open()

    async def test_one_that_may_lose_what_it_acknowledged_is_refused(
        self, database_url: str
    ) -> None:
        name = urlsplit(database_url).path[1:]
        await ask(database_url, f"ALTER DATABASE {name} SET synchronous_commit = off")
        with pytest.raises(StoreUnusable, match="synchronous_commit off"):
            await PostgresStore(database_url).open()
        with (
            Postgres(settings={"fsync": "off"}, in_memory=True) as server,
            pytest.raises(StoreUnusable, match="fsync off"),
        ):
            await PostgresStore(server.url).open()

    async def test_a_database_of_a_newer_bus_is_refused_and_left_alone(
        self, database_url: str
    ) -> None:
        async with opened(database_url):
            pass
        await ask(database_url, "INSERT INTO format VALUES (99)")
        with pytest.raises(StoreUnusable, match="format 99, made by a newer bus"):
            await PostgresStore(database_url).open()

    async def test_a_migration_that_fails_changes_nothing(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with opened(database_url) as store:
            await store.put("a", message("old"))
        broken = (*postgres_module.MIGRATIONS, "DROP TABLE message CASCADE; SELECT nonsense;")
        with monkeypatch.context() as patch:
            patch.setattr(postgres_module, "MIGRATIONS", broken)
            with pytest.raises(StoreUnusable, match="nonsense"):
                await PostgresStore(database_url).open()
        later = (*postgres_module.MIGRATIONS, "ALTER TABLE message ADD colour text;")
        monkeypatch.setattr(postgres_module, "MIGRATIONS", later)
        async with opened(database_url) as store:
            assert texts(await store.take("a", 1)) == ["old"]
        rows = await ask(database_url, "SELECT version FROM format ORDER BY 1")
        assert [tuple(row) for row in rows] == [(1,), (2,)]
