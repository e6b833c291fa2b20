"""What each change is in SQL. Runs in the writing thread, in a transaction (see `commit.py`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, cast

import apsw
import msgspec
import structlog

from esb import record
from esb.clock import Clock
from esb.durable import (
    DEAD,
    KEPT,
    MOST_CRASHES,
    Change,
    Claim,
    Confirm,
    Done,
    Failure,
    Move,
    Publish,
    Put,
    Release,
    Superseded,
    subscription,
)
from esb.errors import Overloaded, TooLarge
from esb.store import schema
from esb.store.schema import CLAIMED, CONFIRMED, FREE, SUSPECT

log = structlog.get_logger("esb.store")

FULL: Final = "the store has no room"
RETRY_AFTER: Final = 10.0
GRANT: Final = 16 * 1024**2
"""So many bytes at most are added between two looks at the room: others fill the disk, too."""
LARGEST: Final = 900 * 1024**2  # SQLite takes values below 1 GB
OVERHEAD: Final = 512  # a message's rows, index entries and share of half-filled pages

_FREE_ROW = "FROM message WHERE channel = ? AND hold = 0 AND blocked = 0 AND "
_LEVEL = f"SELECT max(priority) {_FREE_ROW} priority < ?"
# Two index ranges in the place of one sort over everything that waits.
_TURN = f"SELECT key, expires, crashes, attempts {_FREE_ROW} priority = ? AND "
_NOW = _TURN + "due = 0 ORDER BY key LIMIT ?"
_LATER = _TURN + "due > 0 AND due <= ? ORDER BY due, key LIMIT ?"
_ABOVE_ALL = 2**62

Taken = tuple[int, list[int]]
"""The hold of a take, and the keys it got."""


@dataclass(slots=True)
class Effects:
    """What a transaction brought about, told once it is on the disk."""

    rung: set[str] = field(default_factory=set)  # channels where something may now be due
    counts: Counter[str] = field(default_factory=Counter)  # messages more or less, by channel
    freed: bool = False  # whether who was turned away may have a turn now

    def add(self, other: Effects) -> None:
        self.rung |= other.rung
        self.freed |= other.freed
        for channel, more in other.counts.items():
            self.counts[channel] += more


def prepared(change: Change) -> Change:
    """See `Store.prepare`."""
    if not isinstance(change, Put | Publish) or change.written:
        return change
    content = record.encode(change.envelope)
    if len(content) > LARGEST:
        raise TooLarge("the message is larger than the store can hold")
    return msgspec.structs.replace(change, written=content)


class Writing:
    """Applies changes. `left` tells how many bytes the store may still grow by."""

    def __init__(self, clock: Clock, left: Callable[[apsw.Connection], int]) -> None:
        self._clock = clock
        self._left = left
        self._room = 0
        self._hold = 0
        self.suspects = False
        """Whether there may be messages with which the process died more than once."""
        self.turned_away: set[str] = set()
        """Channels where somebody has to wait for what is in hand, due or not."""

    def apply(self, db: apsw.Connection, effects: Effects, changes: Sequence[Change]) -> list[int]:
        """Make changes, all or none; the keys of what was put. Raises Superseded, Overloaded."""
        if len(changes) == 1:
            return list(self._one(db, effects, changes[0]))
        keys: list[int] = []
        with db:
            for change in changes:
                keys += self._one(db, effects, change)
        return keys

    def _one(self, db: apsw.Connection, effects: Effects, change: Change) -> Iterator[int]:
        match change:
            case Put():
                yield self._put(db, effects, change, change.channel)
            case Publish():
                rows = db.execute("SELECT name FROM subscription WHERE topic = ?", (change.topic,))
                for (name,) in rows.fetchall():
                    self._put(db, effects, change, subscription(change.topic, cast(str, name)))
            case Done():
                self._done(db, effects, change)
            case Move():
                self._move(db, effects, change)
            case Confirm():
                self._confirm(db, change)
            case Release():
                db.execute(
                    "DELETE FROM claim WHERE scope = ? AND value = ? AND state IN (?, ?)",
                    (change.scope, change.value, CLAIMED, CONFIRMED if change.done else CLAIMED),
                )

    # --- messages

    def _put(self, db: apsw.Connection, effects: Effects, put: Put | Publish, channel: str) -> int:
        if isinstance(put, Publish) or not put.instead:
            self._take_room(db, len(put.written) + OVERHEAD)
        attempts, failure = (put.attempts, put.failure) if isinstance(put, Put) else (0, None)
        blocked = bool(put.group) and self._occupied(db, channel, put.group)
        db.execute(
            "INSERT INTO message (channel, due, since, attempts, stored, failure, priority,"
            " expires, grp, blocked, id, business_key)"
            " VALUES (?, ?, ?3, ?, ?3, ?, ?, ?, ?, ?, ?, ?)",
            (
                channel, max(put.due, 0.0), self._clock.time(), attempts, pack(failure),
                put.priority, put.expires, put.group, blocked, put.envelope.id,
                put.envelope.business_key,
            ),
        )  # fmt: skip
        key = db.last_insert_rowid()
        db.execute(
            "INSERT INTO content VALUES (?, ?, ?)", (key, record.digest(put.written), put.written)
        )
        effects.rung.add(channel)
        effects.counts[channel] += 1
        return key

    def _done(self, db: apsw.Connection, effects: Effects, done: Done) -> None:
        gone = db.execute(
            "DELETE FROM message WHERE key = ?1 AND (?2 = 0 OR hold = ?2)"
            " AND (?3 = '' OR channel = ?3) RETURNING channel, grp",
            (done.key, done.hold, done.lying_in),
        ).fetchall()
        if not gone:
            raise Superseded(f"message {done.key} is not there any more")
        [(channel, group)] = gone
        self._left_channel(db, effects, cast(str, channel), cast(str, group))
        if receipt := done.receipt:
            db.execute(
                "INSERT INTO receipt VALUES (?, ?, ?, ?, ?, ?)",
                (
                    receipt.id, receipt.route, receipt.outcome, receipt.business_key,
                    receipt.principal, self._clock.time(),
                ),
            )  # fmt: skip

    def _move(self, db: apsw.Connection, effects: Effects, move: Move) -> None:
        found = db.execute(
            "SELECT channel, grp FROM message WHERE key = ?1 AND (?2 = 0 OR hold = ?2)"
            " AND (?3 = '' OR channel = ?3)",
            (move.key, move.hold, move.lying_in),
        ).fetchall()
        if not found:
            raise Superseded(f"message {move.key} is not there any more")
        [(was_in, group)] = cast(list[tuple[str, str]], found)
        stays = was_in == move.channel
        blocked = not stays and bool(group) and self._occupied(db, move.channel, group)
        db.execute(
            "UPDATE message SET channel = ?, due = ?, attempts = ?, failure = ?, hold = 0,"
            " crashes = 0, blocked = ?, priority = iif(?6, priority, 0),"
            " expires = iif(?6, expires, 0), since = ? WHERE key = ?",
            (
                move.channel,
                max(move.due, 0.0),
                move.attempts,
                pack(move.failure),
                blocked,
                stays,
                self._clock.time(),
                move.key,
            ),
        )
        effects.rung.add(move.channel)
        effects.freed = True
        if not stays:
            effects.counts[move.channel] += 1
            self._left_channel(db, effects, was_in, group)

    def _occupied(self, db: apsw.Connection, channel: str, group: str) -> bool:
        # Nobody takes dead letters in their turn: one hides no other of its group.
        return channel != DEAD and bool(
            db.execute(
                "SELECT 1 FROM message WHERE channel = ? AND grp = ? AND grp <> '' LIMIT 1",
                (channel, group),
            ).fetchall()
        )

    def _left_channel(
        self, db: apsw.Connection, effects: Effects, channel: str, group: str
    ) -> None:
        effects.counts[channel] -= 1
        effects.freed = True
        if group:
            # The one that is free may be younger than one that came back from the dead letters.
            db.execute(
                "UPDATE message SET blocked = 0 WHERE key = (SELECT min(key) FROM message"
                " WHERE channel = ?1 AND grp = ?2 AND grp <> '' AND blocked = 1)"
                " AND NOT EXISTS (SELECT 1 FROM message"
                " WHERE channel = ?1 AND grp = ?2 AND grp <> '' AND blocked = 0)",
                (channel, group),
            )
            effects.rung.add(channel)

    def look_again(self) -> None:
        """There is less room than was found before. From any thread: what is being written at this
        moment may use up a little of it."""
        self._room = 0

    def _take_room(self, db: apsw.Connection, size: int) -> None:
        if self._room < size:
            self._room = min(self._left(db), max(size, GRANT))
            if self._room < size:
                self._room = 0
                raise Overloaded(FULL, retry_after=RETRY_AFTER)
        self._room -= size

    # --- taking

    def take(
        self, db: apsw.Connection, effects: Effects, channel: str, limit: int, in_order: bool
    ) -> Taken:
        """Note as taken what may be taken."""
        if (in_order and self._in_hand(db, channel)) or (
            self.suspects and self._in_hand(db, suspect=True)
        ):
            self.turned_away.add(channel)
            return 0, []
        self._hold += 1
        keys: list[int] = []
        now = self._clock.time()
        for key, expires, crashes, attempts in self._due(db, channel, limit, now):
            if 0 < expires <= now:
                detail = "nobody took the message before its time was over"
                self._bury(db, effects, key, channel, attempts, "expired", detail)
                continue
            if crashes >= MOST_CRASHES:
                detail = f"the bus died {crashes} times in a row with this message in hand"
                self._bury(db, effects, key, channel, attempts, "poison", detail)
                continue
            alone = crashes >= SUSPECT
            if alone and (keys or self._in_hand(db)):
                self.turned_away.add(channel)
                break
            db.execute("UPDATE message SET hold = ? WHERE key = ?", (self._hold, key))
            keys.append(key)
            if alone or len(keys) == limit:
                break
        return self._hold, keys

    def give_back(self, db: apsw.Connection, effects: Effects, hold: int, keys: list[int]) -> None:
        """What was taken for nobody is free again."""
        effects.freed = True
        for key in keys:
            rows = db.execute(
                "UPDATE message SET hold = 0 WHERE key = ? AND hold = ? RETURNING channel",
                (key, hold),
            )
            effects.rung.update(cast(str, channel) for (channel,) in rows.fetchall())

    def _due(
        self, db: apsw.Connection, channel: str, limit: int, now: float
    ) -> Iterator[tuple[int, float, int, int]]:
        """What may be handed out, in its order, as it is asked for. Those put off come before
        those of the same priority that were not, being older."""
        level: Any = _ABOVE_ALL
        while (level := db.execute(_LEVEL, (channel, level)).get) is not None:
            while rows := (
                db.execute(_LATER, (channel, level, now, limit)).fetchall()
                or db.execute(_NOW, (channel, level, limit)).fetchall()
            ):
                yield from cast(list[tuple[int, float, int, int]], rows)

    def _in_hand(self, db: apsw.Connection, channel: str = "", *, suspect: bool = False) -> bool:
        which = "channel = ?1 AND " if channel else "?1 = '' AND "
        least = SUSPECT if suspect else 0
        sql = f"SELECT 1 FROM message WHERE {which} hold <> 0 AND crashes >= ?2 LIMIT 1"  # noqa: S608
        return bool(db.execute(sql, (channel, least)).fetchall())

    def _bury(
        self,
        db: apsw.Connection,
        effects: Effects,
        key: int,
        channel: str,
        attempts: int,
        code: str,
        detail: str,
    ) -> None:
        if channel.startswith(KEPT):
            self._done(db, effects, Done(key))
            return
        when = datetime.fromtimestamp(self._clock.time(), UTC)
        failure = Failure(code, detail, channel, "", attempts, when)
        self._move(db, effects, Move(key, DEAD, attempts=attempts, failure=failure))

    def left_behind(
        self,
        db: apsw.Connection,
        effects: Effects,
        held: Sequence[tuple[int, int]],
        claims: Sequence[tuple[str, str]],
    ) -> int:
        """What a process that is gone had in hand (keys, and the numbers of their takes), or was
        doing, is free again, and counted. Returns how many messages it had."""
        freed = 0
        for key, hold in held:
            rows = db.execute(
                "UPDATE message SET hold = 0, crashes = crashes + 1 WHERE key = ? AND hold = ?"
                " RETURNING channel, crashes",
                (key, hold),
            )
            for channel, crashes in cast(list[tuple[str, int]], rows.fetchall()):
                effects.rung.add(channel)
                self.suspects = self.suspects or crashes >= SUSPECT
                freed += 1
        db.executemany(
            "UPDATE claim SET state = ?, crashes = crashes + 1"
            " WHERE scope = ? AND value = ? AND state = ?",
            [(FREE, *claim, CLAIMED) for claim in claims],
        )
        effects.freed = True
        return freed

    # --- claims

    def claim(self, db: apsw.Connection, scope: str, value: str, until: float) -> Claim:
        """See `Store.claim`."""
        found = db.execute(
            "SELECT until, state, crashes, digest, answer FROM claim WHERE scope = ? AND value = ?",
            (scope, value),
        ).fetchall()
        crashes = 0
        if found:
            [(ends, state, crashes, digest, answer)] = cast(Any, found)
            if state == CLAIMED:
                return Claim("busy", crashes)
            if state == CONFIRMED and ends > self._clock.time():
                if answer is None:
                    return Claim("done")
                if record.digest(answer) == digest:
                    return Claim("done", answer=record.decode(answer))
                # An answer that is damaged is none, and to do it again is the lesser evil.
            crashes = crashes if state == FREE else 0
        else:
            self._take_room(db, OVERHEAD)
        db.execute(
            "INSERT OR REPLACE INTO claim VALUES (?, ?, ?, ?, ?, NULL, NULL)",
            (scope, value, until, CLAIMED, crashes),
        )
        return Claim("new", crashes)

    def unclaim(self, db: apsw.Connection, scope: str, value: str) -> None:
        """What was claimed for nobody is free again."""
        db.execute(
            "UPDATE claim SET state = ? WHERE scope = ? AND value = ? AND state = ?",
            (FREE, scope, value, CLAIMED),
        )

    def _confirm(self, db: apsw.Connection, confirm: Confirm) -> None:
        answer = digest = None
        if confirm.answer is not None:
            answer = record.encode(confirm.answer)
            digest = record.digest(answer)
            self._take_room(db, len(answer))
        db.execute(
            "INSERT OR REPLACE INTO claim VALUES (?, ?, ?, ?, 0, ?, ?)",
            (confirm.scope, confirm.value, confirm.until, CONFIRMED, digest, answer),
        )

    # --- what is over

    def tidy(self, db: apsw.Connection, effects: Effects, receipts_until: float) -> int:
        """Bury or forget expired messages, forget old claims and receipts: some of each. Returns
        how many."""
        now = self._clock.time()
        schema.rebase(db, now, effects.rung)
        most = 1000
        rows = db.execute(
            "SELECT key, channel, attempts FROM message"
            " WHERE expires > 0 AND expires <= ? AND hold = 0 LIMIT ?",
            (now, most),
        ).fetchall()
        for key, channel, attempts in cast(list[tuple[int, str, int]], rows):
            detail = "nobody took the message before its time was over"
            self._bury(db, effects, key, channel, attempts, "expired", detail)
        gone = len(rows)
        for sql, values in (
            (
                "DELETE FROM claim WHERE (scope, value) IN"
                " (SELECT scope, value FROM claim WHERE until <= ? AND state <> ? LIMIT ?)",
                (now, CLAIMED, most),
            ),
            (
                "DELETE FROM receipt WHERE rowid IN"
                " (SELECT rowid FROM receipt WHERE finished <= ? LIMIT ?)",
                (receipts_until, most),
            ),
        ):
            db.execute(sql, values)
            gone += db.changes()
        return gone


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
