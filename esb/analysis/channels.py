"""Queues and topics that only one side knows: fed and read by nobody, or read and fed by nobody."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

from esb.analysis.findings import Findings
from esb.outline import Channel, Part


def check(routes: Sequence[Part], found: Findings) -> None:
    """Loose ends of the bus's own channels, and those of others that look misspelt."""
    fed: dict[Channel, Part] = {}
    read: dict[Channel, Part] = {}
    for route in routes:
        for part in route.walk():
            if part.kind in ("source", "endpoint") and not part.place.startswith("dead_letter"):
                side = read if part.direction == "source" else fed
                for channel in part.channels:
                    side.setdefault(channel, part)
    patterns = [_pattern(channel) for channel in fed if channel.is_open]
    open_reads = [_pattern(channel) for channel in read if channel.is_open]
    unread = {c: p for c, p in fed.items() if not c.is_open and not _is_in(c, read, open_reads)}
    unfed = {c: p for c, p in read.items() if not c.is_open and not _is_in(c, fed, patterns)}
    for channel, part in unread.items():
        near = _near(channel, unfed if channel.outside else read)
        if near or not channel.outside:
            hint = f"did you mean '{near}'?" if near else f"from: {_spelled(channel)}"
            found.add(part, "unread", f"no route reads {channel.name}", hint)
    for channel, part in unfed.items():
        near = _near(channel, unread if channel.outside else fed)
        if near or not channel.outside:
            hint = f"did you mean '{near}'?" if near else f"send: {_spelled(channel)}"
            found.add(part, "unfed", f"no route sends to {channel.name}", hint)


def _is_in(
    channel: Channel, others: Iterable[Channel], patterns: Sequence[re.Pattern[str]]
) -> bool:
    names = {other.name for other in others}
    return channel.name in names or any(p.fullmatch(channel.name) for p in patterns)


def _pattern(channel: Channel) -> re.Pattern[str]:
    """What a name that messages fill in may become."""
    fixed = re.split(r"\{\{.*?\}\}", channel.name)
    return re.compile(".*".join(re.escape(part) for part in fixed))


def _spelled(channel: Channel) -> str:
    kind, _, name = channel.name.partition(" ")
    return f"{{{kind}: {name}}}"


def _near(channel: Channel, others: Mapping[Channel, Part]) -> str:
    """The name that most likely was meant; outside, where others may read and feed a channel, only
    one that differs in a letter."""
    kind, _, name = channel.name.rpartition(" ")
    names = {c.name.removeprefix(f"{kind} ") for c in others if c.name.startswith(f"{kind} ")}
    close = difflib.get_close_matches(name, names - {name}, n=1, cutoff=0.6)
    if not close or (channel.outside and not _one_slip(name, close[0])):
        return ""
    return close[0]


def _one_slip(one: str, other: str) -> bool:
    """Whether two names differ by one letter too many, too few, wrong, or two that changed places;
    a digit is no letter."""
    if min(len(one), len(other)) < 4:
        return False
    begin = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    if begin is None:
        rest = [one[len(other) :], other[len(one) :]]
    else:
        end = 0
        while end < min(len(one), len(other)) - begin and one[-1 - end] == other[-1 - end]:
            end += 1
        rest = [text[begin : len(text) - end] for text in (one, other)]
    changed = "".join(rest)
    swapped = len(rest[0]) == 2 and rest[0] == rest[1][::-1]
    return changed.isalpha() and (max(map(len, rest)) <= 1 or swapped)
