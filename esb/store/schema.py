"""The tables of the SQLite store, and how an older file gets them.

message  what moves: a row is small, so that a retry or a dead letter rewrites a few bytes only
content  a message's bytes and their checksum, written once
receipt  what is left of messages that are through
claim    what is being done or was done already (EIP: Idempotent Receiver)
"""

from __future__ import annotations

from typing import Any, Final, cast

import apsw

from esb import record
from esb.durable import MOST_CRASHES

SUSPECT: Final = MOST_CRASHES - 1
"""A message with which the process died so often is handed out alone."""

SET_BACK: Final = 5.0
"""Seconds that a clock may be off before it counts as set back."""

FREE, CLAIMED, CONFIRMED = range(3)
"""States of a claim; FREE is one whose process died."""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE message (
        key INTEGER PRIMARY KEY AUTOINCREMENT,
        channel TEXT NOT NULL,
        due REAL NOT NULL,
        attempts INTEGER NOT NULL,
        stored REAL NOT NULL,
        failure BLOB
    ) STRICT;
    CREATE INDEX message_by_turn ON message (channel, due, key);
    CREATE TABLE content (
        key INTEGER PRIMARY KEY,
        digest BLOB NOT NULL,
        content BLOB NOT NULL
    ) STRICT;
    CREATE TRIGGER message_gone AFTER DELETE ON message
    BEGIN DELETE FROM content WHERE key = old.key; END;
    """,
    # The index of turns holds only what may be handed out, so that neither what is in hand nor
    # what is blocked by another of its group is ever walked over.
    """
    ALTER TABLE message ADD COLUMN since REAL NOT NULL DEFAULT 0;
    ALTER TABLE message ADD COLUMN hold INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE message ADD COLUMN crashes INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE message ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE message ADD COLUMN expires REAL NOT NULL DEFAULT 0;
    ALTER TABLE message ADD COLUMN grp TEXT NOT NULL DEFAULT '';
    ALTER TABLE message ADD COLUMN blocked INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE message ADD COLUMN id TEXT NOT NULL DEFAULT '';
    ALTER TABLE message ADD COLUMN business_key TEXT NOT NULL DEFAULT '';
    UPDATE message SET id = ifnull(
        (SELECT id_of(content) FROM content WHERE content.key = message.key), '');
    DROP INDEX message_by_turn;
    CREATE INDEX message_by_turn ON message (channel, priority, due, key)
        WHERE hold = 0 AND blocked = 0;
    CREATE INDEX message_in_hand ON message (channel) WHERE hold <> 0;
    CREATE INDEX message_by_group ON message (channel, grp, blocked, key) WHERE grp <> '';
    CREATE INDEX message_by_expiry ON message (expires) WHERE expires > 0;
    CREATE INDEX message_by_wait ON message (since) WHERE due > 0;
    CREATE INDEX message_by_id ON message (id);
    CREATE INDEX message_by_business_key ON message (business_key) WHERE business_key <> '';
    CREATE TABLE receipt (
        id TEXT NOT NULL,
        route TEXT NOT NULL,
        outcome TEXT NOT NULL,
        business_key TEXT NOT NULL,
        principal TEXT NOT NULL,
        finished REAL NOT NULL
    ) STRICT;
    CREATE INDEX receipt_by_id ON receipt (id);
    CREATE INDEX receipt_by_business_key ON receipt (business_key) WHERE business_key <> '';
    CREATE INDEX receipt_by_age ON receipt (finished);
    CREATE TABLE claim (
        scope TEXT NOT NULL,
        value TEXT NOT NULL,
        until REAL NOT NULL,
        state INTEGER NOT NULL,
        crashes INTEGER NOT NULL,
        digest BLOB,
        answer BLOB,
        PRIMARY KEY (scope, value)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX claim_by_age ON claim (until);
    CREATE TABLE subscription (
        topic TEXT NOT NULL,
        name TEXT NOT NULL,
        PRIMARY KEY (topic, name)
    ) STRICT, WITHOUT ROWID;
    """,
)
"""Each brings the file from the version before to the next; `user_version` counts them. Never
change one that was released: add another."""


def migrate(db: apsw.Connection, version: int) -> None:
    """Bring a file of `version` up to date, each step in a transaction of its own."""
    db.create_scalar_function("id_of", _id_of, 1, deterministic=True)
    for number, migration in enumerate(MIGRATIONS[version:], version + 1):
        with db:
            db.execute(migration)
            db.execute(f"PRAGMA user_version={number}")
    db.create_scalar_function("id_of", None)


def after_a_crash(db: apsw.Connection) -> int:
    """What a dead process had in hand, or was doing, is free again, and counted. Returns how many
    messages it had."""
    with db:
        db.execute("UPDATE message SET hold = 0, crashes = crashes + 1 WHERE hold <> 0")
        freed = db.changes()
        db.execute(
            "UPDATE claim SET state = ?, crashes = crashes + 1 WHERE state = ?", (FREE, CLAIMED)
        )
    return freed


def rebase(db: apsw.Connection, now: float) -> set[str]:
    """Where a wait began in the future, the clock was set back: only so long as was meant from
    the beginning is waited from now on. Returns the channels that it concerns."""
    rows = db.execute(
        "UPDATE message SET due = ?1 + due - since, since = ?1"
        " WHERE due > 0 AND since > ?1 + ?2 RETURNING channel",
        (now, SET_BACK),
    )
    return {channel for (channel,) in cast(list[tuple[str]], rows.fetchall())}


def _id_of(*values: Any) -> str:
    try:
        return record.decode(values[0]).id
    except record.Damaged:
        return ""
