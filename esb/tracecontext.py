"""W3C Trace Context as it comes in, whatever the protocol: what is to be ignored is not passed on.

https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z"
)
_MEMBER: Final = re.compile(
    r"([a-z0-9][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    r"=[ -+\--<>-~]{0,255}[!-+\--<>-~]\Z"
)
_MOST: Final = 32
_LONGEST: Final = 512
_LONG: Final = 128
"""Characters of a member from which on it goes first where there is no room for all."""


def valid_traceparent(value: str) -> bool:
    """Whether `value` is a traceparent that must not be ignored (section 3.2.2)."""
    return _TRACEPARENT.match(value) is not None


def tracestate(values: Iterable[object]) -> str:
    """A tracestate, which may have come in several fields, as it is passed on: "" if one of its
    members is none, is there twice or there are more than 32 (section 3.3.1); of one with more than
    512 characters as many members as there is room for, long ones go first (section 3.3.1.5)."""
    text = ",".join(value for value in values if isinstance(value, str))
    if len(text) > _MOST * _LONGEST:
        return ""
    members: dict[str, str] = {}
    for part in text.split(","):
        member = part.strip(" \t")
        if not member:
            continue  # an empty one may be there, and counts for nothing
        found = _MEMBER.match(member)
        if found is None or found[1] in members:
            return ""
        members[found[1]] = member
    if len(members) > _MOST:
        return ""
    kept = list(members.values())
    while len(",".join(kept)) > _LONGEST:
        long = [at for at, member in enumerate(kept) if len(member) > _LONG]
        kept.pop(long[-1] if long else -1)
    return ",".join(kept)
