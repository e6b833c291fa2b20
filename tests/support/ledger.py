"""The ledgers of those who stand at both ends of a bus, and the messages that are written in them.

A sender notes a message before it sends it and what it heard after; who receives notes what came
before it answers. None of it shares code, files or memory with the bus, so that what both ledgers
say is evidence. A line is one event, its fields parted by spaces:

    I id key seq sha256 fate time          the sender is about to send this message
    A id time                              it was taken: a 2xx, or the broker's confirm
    F id status time                       it was not: a 4xx, or nothing was ever sent (0)
    U id status time                       nobody knows: no answer (0), or a 5xx
    S id time                              a request with this message came in; not answered yet
    D id key seq sha256 attempt redelivered idempotency-key time
                                           it was taken; on the disk before the answer is sent
    W id time                              it was taken, and no good answer is sent
    R id status time                       it was refused with this status
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

FATES = ("deliver", "filter", "reject", "busy")
"""What becomes of a message: the route filters some by what they say, and the backend refuses some
for good and puts others off twice."""

_LARGE = 97  # each so many is larger than a page of any store


@dataclass(frozen=True)
class Message:
    """One message: the `seq`-th of the key `key` in the flow `flow`. No two are alike."""

    flow: str
    key: int
    seq: int
    fate: str = "deliver"

    @property
    def id(self) -> str:
        """What both ends know it by; it is in the body, where no bus reads it as control."""
        return f"{self.flow}.{self.key}.{self.seq}"

    @cached_property
    def body(self) -> bytes:
        """Its bytes, JSON."""
        about = {"id": self.id, "key": self.key, "seq": self.seq, "fate": self.fate}
        times = 2000 if self.seq % _LARGE == _LARGE - 1 else 1 + self.seq % 20
        return json.dumps({**about, "filling": sha256(self.id.encode()) * times}).encode()

    @property
    def sha256(self) -> str:
        """Of the body."""
        return sha256(self.body)


def sha256(body: bytes) -> str:
    """What a ledger knows a body by."""
    return hashlib.sha256(body).hexdigest()


class Ledger:
    """A file to which whole lines are added, each with the time."""

    def __init__(self, path: Path | str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, *lines: str, sync: bool = False) -> None:
        """Add lines; with `sync`, return when they are on the disk."""
        now = f" {time.time():.6f}\n"
        os.write(self._file, "".join(line + now for line in lines).encode())
        if sync:
            os.fsync(self._file)


def read(ledger: Path, kinds: str) -> Iterator[list[str]]:
    """The lines of these kinds, in order, each split into its fields. A last one that is not whole
    was never noted."""
    if not ledger.exists():
        return
    with ledger.open(encoding="ascii") as file:
        for line in file:
            if line[0] in kinds and line.endswith("\n"):
                yield line.split()


class Watch:
    """Counts the lines of growing ledgers, reading each once."""

    def __init__(self, *ledgers: Path) -> None:
        self._offsets = dict.fromkeys(ledgers, 0)
        self._counts: Counter[str] = Counter()

    def count(self, *events: str) -> int:
        """How many there are now of these: "A", or with its status "R 422"."""
        for ledger, offset in self._offsets.items():
            if ledger.exists():
                with ledger.open("rb") as file:
                    file.seek(offset)
                    whole, newline, _ = file.read().rpartition(b"\n")
                self._offsets[ledger] += len(whole) + len(newline)
                for line in whole.decode().splitlines():
                    kind, _, status, *_ = line.split(" ", 3)
                    self._counts[kind] += 1
                    self._counts[f"{kind} {status}"] += kind in "FUR"
        return sum(self._counts[event] for event in events)


def messages(flow: str, keys: int, count: int, fates: Sequence[str] = ()) -> Iterator[Message]:
    """The first `count` messages of a flow over `keys` keys."""
    for number in range(count):
        yield message_at(flow, number % keys, number // keys, fates)


def message_at(flow: str, key: int, seq: int, fates: Sequence[str]) -> Message:
    """The message at this place; fates come by turns, those of neighbours being different."""
    return Message(flow, key, seq, fates[(seq * 7 + key * 3) % len(fates)] if fates else "deliver")
