"""What each change is in SQL. Runs in the writing thread, in a transaction (see `commit.py`).

All that can speak against a list of changes is asked before any of it is made. So lists of many
callers share statements, and one that is refused leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final, cast

import apsw
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
    Stored,
    Superseded,
    subscription,
)
from esb.errors import Overloaded
from esb.metrics import buried
from esb.store import schema
from esb.store.hands import Asked, Hands, Lying
from esb.store.rows import ABOVE_ALL, DAMAGED, LEVEL, ROW, damage, next_due, pack, stored, unpack
from esb.store.schema import CLAIMED, CONFIRMED, FREE, SUSPECT

log = structlog.get_logger("esb.store")

FULL: Final = "the store has no room"
RETRY_AFTER: Final = 10.0
GRANT: Final = 16 * 1024**2
"""So many bytes at most are added between two looks at the room: others fill the disk, too."""
OVERHEAD: Final = 512  # a message's rows, index entries and share of half-filled pages

_TURN = ROW + "channel = ? AND hold = 0 AND blocked = 0 AND priority = ? AND "
# Two index ranges in the place of one sort over everything that waits.
_NOW = _TURN + "due = 0 ORDER BY m.key LIMIT ?"
_LATER = _TURN + "due > 0 AND due <= ? ORDER BY due, m.key LIMIT ?"

_MESSAGE = (
    "INSERT INTO message (key, channel, due, since, attempts, stored, failure, priority, expires,"
    " grp, blocked, id, business_key, hold) VALUES (?, ?, ?, ?4, ?, ?4, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_CONTENT = "INSERT INTO content VALUES (?, ?, ?)"
_HOLD = "UPDATE message SET hold = ? WHERE key = ?"
_GONE = "DELETE FROM message WHERE key = ?"
_RECEIPT = "INSERT INTO receipt VALUES (?, ?, ?, ?, ?, ?)"


class Transaction:
    """What one transaction changes and brings about.

    Rows are gathered and written with one statement for all of a kind: before something else is
    asked or told of the tables, see `Writing.flush`, and before the commit.
    """

    def __init__(self, db: apsw.Connection) -> None:
        self.db = db
        self.rung: set[str] = set()
        """Channels where something may now be due."""
        self.free: set[str] = set()
        """Those of them where it lies, since it was not handed to one who waited for it."""
        self.freed = False
        """Whether who was turned away may have a turn now."""
        self.counts: dict[str, int] = {}
        """Messages more or less, by channel."""
        self.asked: list[Asked] = []
        """Who asked in this transaction and is not answered."""
        self.handed: list[Asked] = []
        """Who waited and was handed something."""
        self.answers: list[Asked] = []
        """Who is to be told what they got, once it is on the disk."""
        self.messages: list[list[Any]] = []
        self.contents: list[tuple[int, bytes, bytes]] = []
        self.gone: list[tuple[int]] = []
        self.receipts: list[tuple[Any, ...]] = []

    def ring(self, channel: str) -> None:
        """Something lies there that may be due."""
        self.rung.add(channel)
        self.free.add(channel)

    def count(self, channel: str, more: int) -> None:
        self.counts[channel] = self.counts.get(channel, 0) + more


class Writing:
    """Applies changes. `left` tells how many bytes the store may still grow by."""

    def __init__(self, clock: Clock, left: Callable[[apsw.Connection], int]) -> None:
        self._clock = clock
        self._left = left
        self._room = 0
        self._hands = Hands()
        self._last_key = 0
        self.suspects = False
        """Whether there may be messages with which the process died more than once."""
        self.turned_away: set[str] = set()
        """Channels where somebody has to wait for what is in hand, due or not."""

    def begin(self, db: apsw.Connection) -> None:
        """Learn what the file says. Before anything else, outside of a transaction."""
        rows = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'message'").get
        self._last_key = cast(int, rows or 0)
        self.suspects = bool(
            db.execute("SELECT exists(SELECT 1 FROM message WHERE crashes >= ?)", (SUSPECT,)).get
        )

    # --- a transaction

    def flush(self, told: Transaction) -> None:
        """Write what was gathered."""
        db = told.db
        if told.messages:
            if self._hands.waiting:
                self._hand_over(told)
            db.executemany(_MESSAGE, told.messages)
            db.executemany(_CONTENT, told.contents)
            told.messages, told.contents = [], []
        if told.gone:
            db.executemany(_GONE, told.gone)
            told.gone = []
        if told.receipts:
            db.executemany(_RECEIPT, told.receipts)
            told.receipts = []

    def committed(self, told: Transaction) -> None:
        """What was done in a transaction is on the disk."""
        hands = self._hands
        hands.kept()
        told.answers += told.handed
        for channel in told.free & hands.waiting.keys():
            told.answers += hands.waiting[channel]  # to look again
        if told.freed:
            told.answers += hands.turned_away()
        for asked in told.answers:
            hands.withdraw(asked)
            asked.over = True

    def undone(self, told: Transaction) -> None:
        """Nothing of it was."""
        self._hands.undo()
        for asked in (*told.asked, *told.handed, *told.answers):
            asked.got, asked.hold = [], 0
            self._hands.withdraw(asked)
        for asked in told.handed:
            self._hands.wait(asked)

    # --- changes

    def apply(self, db: apsw.Connection, told: Transaction, changes: Sequence[Change]) -> list[int]:
        """Make changes, all or none; the keys of what was put. Raises Superseded, Overloaded."""
        lying, names = self._admitted(told, changes)
        keys: list[int] = []
        for change in changes:
            match change:
                case Put():
                    keys.append(self._put(told, change, change.channel))
                case Done():
                    self._done(told, change, next(lying))
                case Move():
                    self._move(told, change, next(lying))
                case Publish():
                    for name in names[change.topic]:
                        self._put(told, change, subscription(change.topic, name))
                case Confirm():
                    self._confirm(db, change)
                case Release():
                    db.execute(
                        "DELETE FROM claim WHERE scope = ? AND value = ? AND state IN (?, ?)",
                        (
                            change.scope, change.value, CLAIMED,
                            CONFIRMED if change.done else CLAIMED,
                        ),
                    )  # fmt: skip
        return keys

    def _admitted(
        self, told: Transaction, changes: Sequence[Change]
    ) -> tuple[Iterator[Lying], dict[str, list[str]]]:
        """See to it that all can be done, before anything is. Returns where those lie that are
        forgotten or moved, and the subscriptions of topics."""
        size = 0
        found: list[Lying] = []
        names: dict[str, list[str]] = {}
        moved: dict[int, Lying | None] = {}
        for change in changes:
            match change:
                case Put():
                    if not change.instead:
                        size += len(change.written) + OVERHEAD
                case Done() | Move():
                    key = change.key
                    lies = moved[key] if key in moved else self._lying(told, key)
                    if (
                        lies is None
                        or (change.hold and change.hold != lies.hold)
                        or (change.lying_in and change.lying_in != lies.channel)
                    ):
                        raise Superseded(f"message {key} is not there any more")
                    found.append(lies)
                    moved[key] = (
                        Lying(change.channel, lies.group) if isinstance(change, Move) else None
                    )
                case Publish():
                    sql = "SELECT name FROM subscription WHERE topic = ?"
                    rows = told.db.execute(sql, (change.topic,)).fetchall()
                    names[change.topic] = [cast(str, name) for (name,) in rows]
                    size += len(rows) * (len(change.written) + OVERHEAD)
                case Confirm():
                    size += len(change.written)
        if size:
            self._take_room(told, size)
        return iter(found), names

    def _lying(self, told: Transaction, key: int) -> Lying | None:
        if (held := self._hands[key]) is not None:
            return held
        self.flush(told)
        rows = told.db.execute("SELECT channel, grp FROM message WHERE key = ?", (key,)).fetchall()
        return Lying(*cast(tuple[str, str], rows[0])) if rows else None

    # --- messages

    def _put(self, told: Transaction, put: Put | Publish, channel: str) -> int:
        attempts, failure = (put.attempts, put.failure) if isinstance(put, Put) else (0, None)
        blocked = bool(put.group) and self._occupied(told, channel, put.group)
        self._last_key += 1
        key = self._last_key
        told.messages.append(
            [
                key, channel, max(put.due, 0.0), self._clock.time(), attempts, pack(failure),
                put.priority, put.expires, put.group, blocked, put.envelope.id,
                put.envelope.business_key, 0,
            ]
        )  # fmt: skip
        told.contents.append((key, record.digest(put.written), put.written))
        told.rung.add(channel)
        told.count(channel, 1)
        return key

    def _hand_over(self, told: Transaction) -> None:
        """What was put where somebody waits, and may be taken at once, is in hand from the first:
        it is never looked for, and never read back."""
        now = self._clock.time()
        waiting = self._hands.waiting
        in_turn: Sequence[tuple[list[Any], tuple[int, bytes, bytes]]] = [
            *zip(told.messages, told.contents, strict=True)
        ]
        if any(row[6] for row in told.messages):
            in_turn = sorted(in_turn, key=lambda both: -both[0][6])
        for row, (key, _, written) in in_turn:
            (_, channel, due, since, attempts, failure, priority, expires, group, blocked,
             *_) = row  # fmt: skip
            queue = waiting.get(channel)
            if not queue or blocked or channel in told.free:
                continue  # for nobody, or behind something that lies there
            asked = queue[0]
            if (
                self.suspects
                or due > now
                or 0 < expires <= now
                or asked.turned_away
                or (asked.in_order and self._hands.in_hand(channel))
            ):
                told.free.add(channel)
                continue
            if not asked.got:
                asked.hold = self._hands.new_hold()
                told.handed.append(asked)
            row[-1] = asked.hold
            self._hands.take(key, Lying(channel, group, asked.hold))
            asked.got.append(
                Stored(
                    key, channel, record.decode(written), attempts, due, since, unpack(failure),
                    asked.hold, 0, priority, expires, group,
                )
            )  # fmt: skip
            if len(asked.got) >= asked.limit:
                self._hands.withdraw(asked)
            else:
                queue.rotate(-1)

    def _done(self, told: Transaction, done: Done, lies: Lying) -> None:
        self._hands.let_go(done.key)
        told.gone.append((done.key,))
        self._left_channel(told, lies.channel, lies.group)
        if receipt := done.receipt:
            told.receipts.append(
                (
                    receipt.id, receipt.route, receipt.outcome, receipt.business_key,
                    receipt.principal, self._clock.time(),
                )
            )  # fmt: skip

    def _move(self, told: Transaction, move: Move, lies: Lying) -> None:
        was_in, group = lies.channel, lies.group
        stays = was_in == move.channel
        blocked = not stays and bool(group) and self._occupied(told, move.channel, group)
        self.flush(told)
        self._hands.let_go(move.key)
        told.db.execute(
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
        told.ring(move.channel)
        told.freed = True
        if not stays:
            told.count(move.channel, 1)
            self._left_channel(told, was_in, group)

    def _occupied(self, told: Transaction, channel: str, group: str) -> bool:
        # Nobody takes dead letters in their turn: one hides no other of its group.
        if channel == DEAD:
            return False
        self.flush(told)
        return bool(
            told.db.execute(
                "SELECT 1 FROM message WHERE channel = ? AND grp = ? AND grp <> '' LIMIT 1",
                (channel, group),
            ).fetchall()
        )

    def _left_channel(self, told: Transaction, channel: str, group: str) -> None:
        told.count(channel, -1)
        told.freed = True
        if group:
            self.flush(told)
            # The one that is free may be younger than one that came back from the dead letters.
            told.db.execute(
                "UPDATE message SET blocked = 0 WHERE key = (SELECT min(key) FROM message"
                " WHERE channel = ?1 AND grp = ?2 AND grp <> '' AND blocked = 1)"
                " AND NOT EXISTS (SELECT 1 FROM message"
                " WHERE channel = ?1 AND grp = ?2 AND grp <> '' AND blocked = 0)",
                (channel, group),
            )
            told.ring(channel)

    def clear(self, told: Transaction, channel: str) -> None:
        """All that lies in a channel is forgotten."""
        self.flush(told)
        for key in self._hands.of(channel):
            self._hands.let_go(key)
        told.db.execute("DELETE FROM message WHERE channel = ?", (channel,))
        told.count(channel, -told.db.changes())

    def look_again(self) -> None:
        """There is less room than was found before. From any thread: what is being written at this
        moment may use up a little of it."""
        self._room = 0

    def _take_room(self, told: Transaction, size: int) -> None:
        if self._room < size:
            self.flush(told)  # what is only gathered takes up none yet
            self._room = min(self._left(told.db), max(size, GRANT))
            if self._room < size:
                self._room = 0
                raise Overloaded(FULL, retry_after=RETRY_AFTER)
        self._room -= size

    # --- taking

    def take(self, db: apsw.Connection, told: Transaction, asked: Asked) -> float | None:
        """Hand out what may be taken. Whoever waits and gets nothing has what comes next; then it
        is returned when something is due that lies there, if there is."""
        self.flush(told)
        if asked.over:
            return None
        hands, channel = self._hands, asked.channel
        told.asked.append(asked)
        asked.turned_away = (asked.in_order and hands.in_hand(channel)) or (
            self.suspects and hands.any_with(SUSPECT)
        )
        if not asked.turned_away:
            asked.hold = hands.new_hold()
            asked.got = self._seized(told, asked)
        if asked.turned_away:
            self.turned_away.add(channel)
        if asked.got or not asked.waits:
            told.answers.append(asked)
            return None
        hands.wait(asked)
        return None if asked.turned_away else next_due(db, channel)

    def given_up(self, told: Transaction, asked: Asked) -> None:
        """Nobody wants to know any more what was asked; what was taken for it is free again."""
        self._hands.withdraw(asked)
        asked.over = True
        self.give_back(told, asked.hold, [message.key for message in asked.got])

    def give_back(self, told: Transaction, hold: int, keys: list[int]) -> None:
        """What was taken for nobody is free again."""
        self.flush(told)
        told.freed = True
        for key in keys:
            lies = self._hands[key]
            if lies is not None and lies.hold == hold:
                self._hands.let_go(key)
                told.db.execute("UPDATE message SET hold = 0 WHERE key = ?", (key,))
                told.ring(lies.channel)

    def look_again_at(self, told: Transaction, asked: Asked) -> None:
        """Whoever waits is told to ask again: time has passed."""
        if not asked.over:
            told.answers.append(asked)

    def _seized(self, told: Transaction, asked: Asked) -> list[Stored]:
        """What may be handed out, by priority. Those put off come before those of the same priority
        that were not, being older."""
        db, channel = told.db, asked.channel
        now = self._clock.time()
        seized: list[Stored] = []
        level: Any = ABOVE_ALL
        while (level := db.execute(LEVEL, (channel, level)).get) is not None:
            while left := asked.limit - len(seized):
                rows = (
                    db.execute(_LATER, (channel, level, now, left)).fetchall()
                    or db.execute(_NOW, (channel, level, left)).fetchall()
                )
                if not rows:
                    break
                before = len(seized)
                go_on = self._sorted_out(told, asked, rows, seized)
                hold = asked.hold
                db.executemany(_HOLD, [(hold, message.key) for message in seized[before:]])
                if not go_on:
                    return seized
            else:
                return seized
        return seized

    def _sorted_out(
        self, told: Transaction, asked: Asked, rows: Sequence[Any], seized: list[Stored]
    ) -> bool:
        """Add to `seized` those of the rows that may be handed out, and put the others where they
        belong. Returns whether more may be: one with which the process died more than once goes
        alone."""
        now = self._clock.time()
        channel, hold, hands = asked.channel, asked.hold, self._hands
        for row in rows:
            key, _, _, attempts, _, _, _, crashes, _, expires, group, *_ = row
            if 0 < expires <= now:
                detail = "nobody took the message before its time was over"
                self._bury(told, key, channel, attempts, "expired", detail)
            elif crashes >= MOST_CRASHES:
                detail = f"the bus died {crashes} times in a row with this message in hand"
                self._bury(told, key, channel, attempts, "poison", detail)
            elif crashes >= SUSPECT and hands:
                asked.turned_away = True
                return False
            else:
                try:
                    message = stored(row, hold)
                except record.Damaged as e:
                    about = {"key": key, "channel": channel}
                    log.error("a stored message is damaged and is set aside", **about)
                    failure = damage(channel, attempts, now, e)
                    move = Move(key, DAMAGED, attempts=attempts, failure=failure)
                    self._move(told, move, Lying(channel, group))
                    continue
                hands.take(key, Lying(channel, group, hold, crashes))
                seized.append(message)
                if crashes >= SUSPECT:
                    return False
        return True

    def _bury(
        self, told: Transaction, key: int, channel: str, attempts: int, code: str, detail: str
    ) -> None:
        lies = self._lying(told, key)
        assert lies is not None, "it was found a moment ago, by the thread that writes"
        if channel.startswith(KEPT):
            self._done(told, Done(key), lies)
            self.flush(told)
            return
        when = datetime.fromtimestamp(self._clock.time(), UTC)
        failure = Failure(code, detail, channel, "", attempts, when)
        buried(channel, code)
        self._move(told, Move(key, DEAD, attempts=attempts, failure=failure), lies)

    def left_behind(
        self,
        told: Transaction,
        held: Sequence[tuple[int, int]],
        claims: Sequence[tuple[str, str]],
    ) -> int:
        """What a process that is gone had in hand (keys, and the numbers of their takes), or was
        doing, is free again, and counted. Returns how many messages it had."""
        self.flush(told)
        freed = 0
        for key, hold in held:
            lies = self._hands[key]
            if lies is not None and lies.hold == hold:
                self._hands.let_go(key)
                sql = "UPDATE message SET hold = 0, crashes = crashes + 1 WHERE key = ?"
                told.db.execute(sql, (key,))
                told.ring(lies.channel)
                self.suspects = self.suspects or lies.crashes + 1 >= SUSPECT
                freed += 1
        told.db.executemany(
            "UPDATE claim SET state = ?, crashes = crashes + 1"
            " WHERE scope = ? AND value = ? AND state = ?",
            [(FREE, *claim, CLAIMED) for claim in claims],
        )
        told.freed = True
        return freed

    # --- claims

    def claim(
        self, db: apsw.Connection, told: Transaction, scope: str, value: str, until: float
    ) -> Claim:
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
            self._take_room(told, OVERHEAD)
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
        answer = confirm.written or None
        digest = record.digest(answer) if answer else None
        db.execute(
            "INSERT OR REPLACE INTO claim VALUES (?, ?, ?, ?, 0, ?, ?)",
            (confirm.scope, confirm.value, confirm.until, CONFIRMED, digest, answer),
        )

    # --- what is over

    def tidy(self, db: apsw.Connection, told: Transaction, receipts_until: float) -> int:
        """Bury or forget expired messages, forget old claims and receipts: some of each. Returns
        how many."""
        self.flush(told)
        now = self._clock.time()
        for channel in schema.rebase(db, now):
            told.ring(channel)
        most = 1000
        rows = db.execute(
            "SELECT key, channel, attempts FROM message"
            " WHERE expires > 0 AND expires <= ? AND hold = 0 LIMIT ?",
            (now, most),
        ).fetchall()
        for key, channel, attempts in cast(list[tuple[int, str, int]], rows):
            detail = "nobody took the message before its time was over"
            self._bury(told, key, channel, attempts, "expired", detail)
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
