"""Copies of the SQLite store, checks of it, and one put in its place."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import apsw
import pytest
from support.stores import message, opened

from esb.durable import DEAD, Put
from esb.store import InUse, SqliteStore, StoreUnusable
from esb.store import files as files_module
from esb.store import schema as schema_module
from esb.store.files import backup, check, restore


def flip(file: Path, key: int) -> None:
    """A bit of a stored message changes while nobody looks."""
    db = apsw.Connection(str(file))
    [content] = [row[0] for row in db.execute("SELECT content FROM content WHERE key = ?", (key,))]
    assert isinstance(content, bytes)
    spoilt = content[:-1] + bytes([content[-1] ^ 1])
    db.execute("UPDATE content SET content = ? WHERE key = ?", (spoilt, key))
    db.close()


async def texts(file: Path, channel: str = "a") -> list[str]:
    async with opened(file) as store:
        return [one.envelope.body.text for one in await store.browse(channel, limit=10_000)]


async def test_a_copy_made_under_load_is_one_moment_of_the_store(tmp_path: Path) -> None:
    file, copy = tmp_path / "bus.db", tmp_path / "copy.db"
    stop = asyncio.Event()
    async with opened(file) as store:

        async def pairs() -> None:
            """Two messages in each commit: a copy with one of them only would be none."""
            while not stop.is_set():
                await store.commit([Put("a", message("x" * 2000)), Put("b", message())])

        writers = [asyncio.create_task(pairs()) for _ in range(5)]
        for _ in range(4):
            await asyncio.sleep(0)
            size = await asyncio.to_thread(backup, file, copy, force=True)
            assert size == copy.stat().st_size > 0
            assert copy.stat().st_mode & 0o777 == 0o600
            report = await asyncio.to_thread(check, copy)
            assert report.problems == []
            db = apsw.Connection(str(copy))
            sql = "SELECT channel, count(*) FROM message GROUP BY channel ORDER BY channel"
            counts = [row[1] for row in db.execute(sql)]
            db.close()
            assert len(set(counts)) <= 1, counts
            assert sum(counts) == report.messages
        stop.set()
        await asyncio.gather(*writers)
        assert store.health().up
        assert sorted(one.name for one in tmp_path.glob("copy*")) == ["copy.db"]


async def test_a_copy_is_put_back(tmp_path: Path) -> None:
    file, copy = tmp_path / "bus.db", tmp_path / "copy.db"
    async with opened(file) as store:
        kept = await store.put("a", message("kept"))
        backup(file, copy)
        await store.done(kept)
        await store.put("a", message("later"))
        with pytest.raises(InUse, match=r"in use by process \d+"):
            restore(copy, file, force=True)
    with pytest.raises(StoreUnusable, match="--force"):
        restore(copy, file)
    assert await texts(file) == ["later"]
    aside = restore(copy, file, force=True)
    assert aside == tmp_path / "bus.db.replaced"
    assert await texts(file) == ["kept"]
    assert await texts(aside) == ["later"]
    assert file.stat().st_mode & 0o777 == 0o600
    new = tmp_path / "elsewhere" / "bus.db"
    assert restore(copy, new) is None
    assert await texts(new) == ["kept"]


async def test_the_log_of_the_old_store_does_not_get_into_the_new_one(tmp_path: Path) -> None:
    """As a bus that was killed leaves it: what it wrote last is in the log alone."""
    file, copy = tmp_path / "bus.db", tmp_path / "copy.db"
    async with opened(file) as store:
        await store.put("a", message("kept"))
        backup(file, copy)
        await store.put("a", message("in the log"))
        for suffix in ("", "-wal"):
            (tmp_path / f"killed.db{suffix}").write_bytes(Path(f"{file}{suffix}").read_bytes())
    killed = tmp_path / "killed.db"
    aside = restore(copy, killed, force=True)
    assert await texts(killed) == ["kept"]
    assert aside is not None
    assert await texts(aside) == ["kept", "in the log"]


async def test_a_check_names_what_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "bus.db"
    async with opened(file) as store:
        keys = [await store.put(DEAD, message(str(n))) for n in range(250)]
        assert check(file) == files_module.Report(messages=250)
    flip(file, keys[120])
    report = check(file)
    assert report.problems == [f"message {keys[120]} in dead: its checksum does not match"]
    with pytest.raises(StoreUnusable, match=r"damaged and was not restored: message"):
        restore(file, tmp_path / "other.db")
    assert not (tmp_path / "other.db").exists()
    async with opened(file) as store:
        await store.browse(DEAD, limit=250)
    report = check(file)
    assert (report.problems, report.aside) == ([], 1), "it was set aside, where all can see it"


async def test_a_file_whose_structure_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "bus.db"
    async with opened(file) as store:
        for n in range(200):
            await store.put("a", message(str(n) + "x" * 500))
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 4096] = bytes(4096)
    file.write_bytes(raw)
    try:
        found = check(file).problems
    except StoreUnusable as e:
        found = [e.detail]
    assert found


@pytest.mark.parametrize("what", ["missing", "empty", "text", "newer"])
async def test_what_is_no_store_is_not_taken_for_one(tmp_path: Path, what: str) -> None:
    file = tmp_path / "bus.db"
    if what == "newer":
        async with opened(file):
            pass
        db = apsw.Connection(str(file))
        db.execute("PRAGMA user_version=99")
        db.close()
    elif what != "missing":
        file.write_text("not a database " * 100 if what == "text" else "")
    for action in (lambda: check(file), lambda: backup(file, tmp_path / "copy.db")):
        with pytest.raises(StoreUnusable):
            action()
    with pytest.raises(StoreUnusable):
        restore(file, tmp_path / "other.db")
    assert [one.name for one in tmp_path.glob("*.db") if one != file] == []


async def test_a_copy_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    file, copy = tmp_path / "bus.db", tmp_path / "copy.db"
    async with opened(file) as store:
        await store.put("a", message("one"))
        backup(file, copy)
        with pytest.raises(StoreUnusable, match="exists already"):
            backup(file, copy)
        await store.put("a", message("two"))
    before = copy.read_bytes()
    raw = file.read_bytes()
    file.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(StoreUnusable):
        backup(file, copy, force=True)
    assert copy.read_bytes() == before
    file.write_bytes(raw)
    with pytest.raises(OSError, match="No such file"):
        backup(file, tmp_path / "missing" / "copy.db")


async def test_before_a_new_format_the_old_one_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "bus.db"
    async with opened(file) as store:
        await store.put("a", message("old"))
        before = len(schema_module.MIGRATIONS)
    assert list(tmp_path.glob("*.bak")) == []
    later = (*schema_module.MIGRATIONS, "ALTER TABLE message ADD COLUMN colour TEXT;")
    with monkeypatch.context() as patch:
        patch.setattr(schema_module, "MIGRATIONS", later)
        async with opened(file):
            pass
    with pytest.raises(StoreUnusable, match="made by a newer bus"):
        await SqliteStore(file).open()
    kept = tmp_path / f"bus.db.v{before}.bak"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert await texts(kept) == ["old"]


async def test_a_copy_takes_no_part_in_who_owns_the_store(tmp_path: Path) -> None:
    """A bus may start while a copy is made, and the other way round."""
    file = tmp_path / "bus.db"
    async with opened(file) as store:
        await store.put("a", message("x" * 100_000))
    began = threading.Event()
    copying = asyncio.to_thread(lambda: (began.set(), backup(file, tmp_path / "copy.db")))
    task = asyncio.ensure_future(copying)
    await asyncio.to_thread(began.wait, 10)
    async with opened(file) as store:
        await store.put("a", message("y"))
    await task
    assert check(tmp_path / "copy.db").problems == []
