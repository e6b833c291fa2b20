"""A message as rows of the SQLite store, and the row as a message again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, cast

import apsw
import msgspec
import structlog

from esb import record
from esb.durable import Change, Confirm, Failure, Publish, Put, Stored
from esb.envelope import Body, Envelope
from esb.errors import TooLarge

log = structlog.get_logger("esb.store")

DAMAGED: Final = "damaged"
"""The channel where messages lie that are not what was stored; they are never delivered."""

LARGEST: Final = 900 * 1024**2  # SQLite takes values below 1 GB

ROW: Final = (
    "SELECT m.key, channel, due, attempts, stored, failure, hold, crashes, priority, expires, grp,"
    " digest, content FROM message m LEFT JOIN content c ON c.key = m.key WHERE "
)
"""What `stored` takes."""

ABOVE_ALL: Final = 2**62
"""More than any priority."""

_TURN = "FROM message WHERE channel = ? AND hold = 0 AND blocked = 0 AND priority"
LEVEL: Final = f"SELECT max(priority) {_TURN} < ?"
_NEXT_DUE = f"SELECT min(due) {_TURN} = ?"


def prepared(change: Change, largest: int | None = None) -> Change:
    """See `Store.prepare`. largest: bytes that a message may take up, if not what SQLite
    takes."""
    match change:
        case Put(written=b"") | Publish(written=b""):
            written = record.encode(change.envelope)
        case Confirm(written=b"", answer=Envelope() as answer):
            written = record.encode(answer)
        case _:
            return change
    if len(written) > (largest or LARGEST):
        raise TooLarge("the message is larger than the store can hold")
    return msgspec.structs.replace(change, written=written)


def stored(row: Any, hold: int = 0) -> Stored:
    """The message of a row, as it will be in the hand of a take. Raises record.Damaged."""
    key, channel, due, attempts, since, failure, held, *more, digest, content = row
    envelope = remains(key, since, content) if channel == DAMAGED else verified(content, digest)
    why = unpack(failure)
    return Stored(key, channel, envelope, attempts, due, since, why, hold or held, *more)


def damage(channel: str, attempts: int, now: float, cause: record.Damaged) -> Failure:
    """Why a message is set aside that cannot be read."""
    when = datetime.fromtimestamp(now, UTC)
    return Failure(
        "damaged", f"the stored message is damaged: {cause}", channel, "", attempts, when
    )


def verified(content: bytes | None, digest: bytes | None) -> Envelope:
    """The envelope of what was written, if that is what it was. Raises record.Damaged."""
    if content is None or record.digest(content) != digest:
        raise record.Damaged("its checksum does not match")
    return record.decode(content)


def remains(key: int, since: float, content: bytes | None) -> Envelope:
    """What an operator is shown of a damaged message: its bytes as they lie there."""
    return Envelope(
        id=f"damaged-{key}",
        type="damaged",
        time=datetime.fromtimestamp(since, UTC),
        body=Body(content or b"", "application/octet-stream"),
    )


def next_due(db: apsw.Connection, channel: str) -> float | None:
    """When the next free message of a channel is due (0: it is), None if there is none."""
    soonest: float | None = None
    level: Any = ABOVE_ALL
    while (level := db.execute(LEVEL, (channel, level)).get) is not None:
        due = cast(float, db.execute(_NEXT_DUE, (channel, level)).get)
        soonest = due if soonest is None else min(soonest, due)
    return soonest


def used(db: apsw.Connection) -> int:
    """Bytes of a database's file that are in use; what was freed is not."""
    pages = cast(int, db.pragma("page_count")) - cast(int, db.pragma("freelist_count"))
    return pages * cast(int, db.pragma("page_size"))


def unpack(failure: bytes | None) -> Failure | None:
    """What `pack` made bytes of; None also if they are damaged: the message itself is well."""
    try:
        return msgspec.msgpack.decode(failure, type=Failure) if failure else None
    except (msgspec.MsgspecError, ValueError):
        log.error("why a stored message failed is damaged and forgotten")
        return None


def pack(failure: Failure | None) -> bytes | None:
    """A failure as bytes for the disk."""
    if failure is None:
        return None
    try:
        return msgspec.msgpack.encode(failure)
    except UnicodeEncodeError:
        # A reason may quote what was wrong with a message, and must not itself be what is wrong.
        detail = failure.detail.encode(errors="backslashreplace").decode()
        return msgspec.msgpack.encode(msgspec.structs.replace(failure, detail=detail))
