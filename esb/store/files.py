"""The SQLite store as a file: who may open it, copies, whether it is whole, and one put in its
place. Everything here blocks.

A copy is made by `VACUUM INTO` from a connection of its own: it is what was committed at one
moment, while the bus goes on.
https://sqlite.org/lang_vacuum.html#vacuuminto
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import apsw

from esb import record
from esb.errors import EsbError
from esb.store import schema
from esb.store.rows import DAMAGED, verified

BUSY_MILLIS: Final = 10_000
PAGE: Final = 100
MOST_TOLD: Final = 100


class StoreUnusable(EsbError):
    """The store cannot be opened: in use by another process, damaged, or made by a newer bus."""

    code = "store-unusable"


@dataclass
class Report:
    """What a check found. problems: what is wrong with the file, and with messages by their keys,
    for people; a damaged message that was set aside before is told in `aside` alone."""

    messages: int = 0
    aside: int = 0
    problems: list[str] = field(default_factory=list)


def lock(path: Path) -> int:
    """Keep every other process off the store at `path`, until the descriptor is closed. Raises
    StoreUnusable with the process that has it."""
    descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 32).decode(errors="replace").strip()
        os.close(descriptor)
        raise InUse(
            f"the store {path} is in use by process {holder or 'unknown'}; "
            "two buses need two stores"
        ) from None
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


class InUse(StoreUnusable):
    """Another process has the store open."""


def snapshot(db: apsw.Connection, target: Path) -> None:
    """Write what `db` holds to `target`, for its owner alone: all of it is on the disk, or the file
    is as it was. Raises apsw.Error or OSError."""
    partial = target.with_name(f"{target.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        db.execute("VACUUM INTO ?", (str(partial),))
        _sync(partial, os.O_RDWR)
        partial.replace(target)
        sync_folder(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def backup(path: Path, target: Path, *, force: bool = False) -> int:
    """Copy the store at `path` to `target`, whether or not a bus is at work on it. Returns the
    copy's size. Raises StoreUnusable; OSError for the target.

    force: if there is such a file already, it is replaced.
    """
    if target.exists() and not force:
        raise StoreUnusable(f"{target} exists already; --force replaces it")
    with _reading(path) as db:
        snapshot(db, target)
    return target.stat().st_size


def check(path: Path) -> Report:
    """Read all of the store at `path`: the structure of the file, and each message against its
    checksum. A bus may be at work on it. Raises StoreUnusable if it cannot be read at all."""
    report = Report()
    with _reading(path) as db:
        found = [str(row[0]) for row in db.execute(f"PRAGMA integrity_check({MOST_TOLD})")]
        report.problems += [] if found == ["ok"] else found
        after = 0
        while rows := db.execute(
            "SELECT m.key, m.channel, c.digest, c.content FROM message m"
            " LEFT JOIN content c ON c.key = m.key WHERE m.key > ? ORDER BY m.key LIMIT ?",
            (after, PAGE),
        ).fetchall():
            for key, channel, digest, content in cast(Any, rows):
                report.messages += 1
                if channel == DAMAGED:
                    report.aside += 1
                    continue
                try:
                    verified(content, digest)
                except record.Damaged as e:
                    report.problems.append(f"message {key} in {channel}: {e}")
            after = cast(int, rows[-1][0])
    return report


def restore(source: Path, path: Path, *, force: bool = False) -> Path | None:
    """Put a copy that `backup` made in the place of the store at `path`. Returns where the store
    that was there lies now, if there was one.

    Raises StoreUnusable, and changes nothing, if the copy is damaged, a bus is at work, or there is
    a store already. force: that one is set aside instead.
    """
    if problems := check(source).problems:
        raise StoreUnusable(f"{source} is damaged and was not restored: {problems[0]}")
    path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
    try:
        locked = lock(path)
    except InUse as e:
        who = e.detail.partition(";")[0]
        raise InUse(f"{who}: stop that bus first, nothing was changed") from e
    try:
        if path.exists() and path.stat().st_size and not force:
            raise StoreUnusable(f"there is a store at {path} already; --force sets it aside")
        fresh = path.with_name(f"{path.name}.restored")
        with _reading(source) as db:
            snapshot(db, fresh)
        aside = _set_aside(path)
        fresh.replace(path)
        sync_folder(path.parent)
        return aside
    finally:
        os.close(locked)


def _set_aside(path: Path) -> Path | None:
    """Keep the store under another name. It stays where it is, too: at no moment is there none, or
    a bus that starts then would begin with an empty one."""
    if not path.exists():
        return None
    aside = path.with_name(f"{path.name}.replaced")
    with contextlib.suppress(apsw.Error):  # of what is damaged, file and log are kept as they are
        db = apsw.Connection(str(path))
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        db.close()
    for suffix in ("", "-wal"):
        Path(f"{aside}{suffix}").unlink(missing_ok=True)
    os.link(path, aside)
    log = Path(f"{path}-wal")
    if log.exists():
        log.replace(f"{aside}-wal")  # it belongs to that file, and would spoil another
    Path(f"{path}-shm").unlink(missing_ok=True)
    return aside


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[apsw.Connection]:
    """A connection beside that of a bus, which changes nothing."""
    if not path.is_file():
        raise StoreUnusable(f"there is no store at {path}")
    db: apsw.Connection | None = None
    try:
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        db.set_busy_timeout(BUSY_MILLIS)
        # Whether its log may be written back is for the bus to say.
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        version = cast(int, db.pragma("user_version"))
        if not 0 < version <= len(schema.MIGRATIONS):
            what = "was made by a newer bus" if version else "is no store of a bus"
            raise StoreUnusable(f"{path} {what}")
        yield db
    except apsw.FullError as e:
        raise StoreUnusable("there is no room for a copy of the store") from e
    except apsw.Error as e:
        raise StoreUnusable(f"the store {path} cannot be read: {e}") from e
    finally:
        if db is not None:
            with contextlib.suppress(apsw.Error):
                db.close()


def sync_folder(folder: Path) -> None:
    """See to it that names in a folder outlive a power cut."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
