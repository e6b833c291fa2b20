"""The judge: reads what both ends, the admin API and the store say, and holds it against what the
bus promises."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from support.ledger import sha256

HONEST_DOUBT = frozenset({"outcome-unknown", "bad-reply", "poison"})
"""Codes of dead letters that say of themselves that the far side may have taken the message; what
the bus died with each time, it may have died with when all was done."""

_SHOWN = 5


@dataclass(frozen=True)
class Dead:
    """A dead letter. time: what the clock of the bus said when it was buried."""

    id: str
    sha256: str
    code: str
    time: datetime

    @classmethod
    def of(cls, letter: Mapping[str, Any]) -> Dead:
        """From what the admin API tells of one."""
        body = letter["body"]
        time = datetime.fromisoformat(letter["time"])
        return cls(json.loads(body)["id"], sha256(body.encode()), letter["code"], time)


@dataclass(frozen=True)
class Evidence:
    """What is known from outside. sent, got: the lines of the ledgers. waiting: messages that are
    on their way in the store or a broker. damaged: those the store has set aside. whole: whether
    the store says that it is sound."""

    sent: Sequence[Sequence[str]]
    got: Sequence[Sequence[str]]
    dead: Sequence[Dead]
    waiting: int
    damaged: int
    whole: bool


@dataclass
class Allowance:
    """What a fault excuses.

    duplicates: how many deliveries too many, beside those that ends themselves asked for (a message
        sent again, an answer withheld). ordered: flows that keep the order of each key. apart:
        flows whose messages lie elsewhere than their dead letters, so that these may come twice.
        once: flows that skip what they have seen, so that all copies of a message are one.
    damaged: how many messages somebody else than the bus has destroyed in its store. waiting: how
        many messages lie where nobody takes them.
    """

    duplicates: int = 0
    ordered: Sequence[str] = ("ordered",)
    apart: Sequence[str] = ("amqp-out",)
    once: Sequence[str] = ("once",)
    damaged: int = 0
    waiting: int = 0


@dataclass
class Verdict:
    """What the judge found. `problems` is empty if every promise was kept.

    accepted, delivered, dead, filtered: messages. refused: messages that were refused for good.
    unknown: outcomes that senders did not learn. redeliveries: requests to the far side beyond the
    first of their message. duplicates: messages taken there more than once, counting each time.
    doubtful: dead letters that say that the far side may have taken the message, and it had.
    """

    accepted: int = 0
    delivered: int = 0
    dead: int = 0
    filtered: int = 0
    refused: int = 0
    unknown: int = 0
    redeliveries: int = 0
    duplicates: int = 0
    doubtful: int = 0
    lost: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass
class _Sent:
    flow: str
    key: str
    seq: int
    sha256: str
    fate: str
    accepted: int = 0
    refused: int = 0
    unknown: int = 0

    @property
    def copies(self) -> int:
        """As often the bus may have it."""
        return self.accepted + self.unknown


def judge(evidence: Evidence, allowance: Allowance) -> Verdict:
    """Hold the evidence against the promises.

    1. What was accepted ends delivered, dead or filtered by its rule: exactly one of them.
    2. What is delivered was sent, and its bytes are the same; so with dead letters.
    3. Duplicates are at most what was in hand at crashes, sent again, or not answered; each copy
       that was accepted has one idempotency key.
    4. First deliveries of a key are in the order of sending, where a flow promises that.
    5. What was refused for good, and what a rule filters, is never delivered.
    6. Nothing is on its way any more, and the store is sound.
    """
    sent = _sent(evidence.sent)
    delivered: dict[str, int] = Counter()
    keys: dict[str, set[str]] = defaultdict(set)
    last: dict[tuple[str, str], int] = {}
    dead = Counter(letter.id for letter in evidence.dead)
    seen: Counter[str] = Counter()
    withheld = 0
    found = _Problems()
    for line in evidence.got:
        kind, ident = line[0], line[1]
        if kind == "W":
            withheld += 1
            continue
        seen[ident] += 1
        if kind == "R":
            continue
        about = sent.get(ident)
        if about is None:
            found.add("delivered, and never sent", ident)
            continue
        if line[4] != about.sha256:
            found.add("delivered with other bytes than were sent", ident)
        if not delivered[ident] and about.flow in allowance.ordered:
            place = (about.flow, about.key)
            if about.seq < last.get(place, -1):
                found.add("delivered after a later one of its key", ident)
            last[place] = about.seq
        delivered[ident] += 1
        if line[7] != "-":
            keys[ident].add(line[7])
    for letter in evidence.dead:
        if letter.id not in sent:
            found.add("a dead letter that was never sent", letter.id)
        elif letter.sha256 != sent[letter.id].sha256:
            found.add("a dead letter with other bytes than were sent", letter.id)

    verdict = Verdict(
        delivered=len(delivered),
        dead=len(dead),
        unknown=sum(one.unknown for one in sent.values()),
        redeliveries=sum(count - 1 for count in seen.values()),
        duplicates=sum(count - 1 for count in delivered.values()),
    )
    doubt = {letter.id for letter in evidence.dead if letter.code in HONEST_DOUBT}
    missing = []
    for ident, one in sent.items():
        there = ident in delivered, ident in dead
        verdict.doubtful += there[0] and ident in doubt
        if not one.copies:
            verdict.refused += one.refused > 0
            if any(there):
                found.add("refused, and yet it went on", ident)
            continue
        verdict.accepted += one.accepted > 0
        if one.fate == "filter":
            verdict.filtered += one.accepted > 0
            if any(there):
                found.add("filtered by its rule, and yet it went on", ident)
        elif one.accepted and not any(there):
            missing.append(ident)
        elif all(there) and one.copies == 1 and ident not in doubt:
            found.add("both delivered and dead", ident)
        elif one.fate == "reject" and there[0]:
            found.add("refused by the far side, and yet taken there", ident)
        if len(keys[ident]) > (1 if one.flow in allowance.once else one.copies):
            found.add("delivered under more idempotency keys than there are copies", ident)
        if dead[ident] > one.copies and one.flow not in allowance.apart:
            found.add("more dead letters than copies", ident)
    verdict.lost = max(0, len(missing) - min(evidence.damaged, allowance.damaged))
    if verdict.lost:
        found.add_all("accepted and lost", missing)
    allowed = allowance.duplicates + verdict.unknown + withheld
    if verdict.duplicates > allowed:
        found.text(f"{verdict.duplicates} duplicates, where {allowed} are excused")
    if evidence.damaged > allowance.damaged:
        found.text(f"{evidence.damaged} messages in the store are damaged")
    if evidence.waiting != allowance.waiting:
        left = f", {allowance.waiting} of them where nobody takes them" if allowance.waiting else ""
        found.text(f"{evidence.waiting} messages are still on their way{left}")
    if not evidence.whole:
        found.text("the store is damaged")
    verdict.problems = found.told()
    return verdict


def _sent(lines: Sequence[Sequence[str]]) -> dict[str, _Sent]:
    sent: dict[str, _Sent] = {}
    for line in lines:
        kind, ident = line[0], line[1]
        if kind == "I":
            flow = ident.split(".")[0]
            sent.setdefault(ident, _Sent(flow, line[2], int(line[3]), line[4], line[5]))
        elif kind == "A":
            sent[ident].accepted += 1
        elif kind == "F":
            sent[ident].refused += 1
        else:
            sent[ident].unknown += 1
    return sent


class _Problems:
    """What went wrong, with the first few messages of each kind."""

    def __init__(self) -> None:
        self._by_kind: dict[str, list[str]] = defaultdict(list)
        self._texts: list[str] = []

    def add(self, kind: str, ident: str) -> None:
        self._by_kind[kind].append(ident)

    def add_all(self, kind: str, idents: Sequence[str]) -> None:
        self._by_kind[kind] += idents

    def text(self, text: str) -> None:
        self._texts.append(text)

    def told(self) -> list[str]:
        listed = [
            f"{len(idents)} {kind}: {', '.join(idents[:_SHOWN])}"
            + (", ..." if len(idents) > _SHOWN else "")
            for kind, idents in self._by_kind.items()
        ]
        return listed + self._texts
