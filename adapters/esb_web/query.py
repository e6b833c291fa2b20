"""Query strings."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from esb.errors import BadMessage

_MAX_QUERY: Final = 1000


def parse_query(text: str) -> dict[str, str | list[str]]:
    """The parameters of a query string; those that come more than once as lists, in order.

    Raises BadMessage for more than a thousand, a broken escape, a NUL or bytes that are not UTF-8.
    """
    found: dict[str, str | list[str]] = {}
    parts = text.split("&")
    if len(parts) > _MAX_QUERY:
        raise BadMessage(f"the query has more than {_MAX_QUERY} parameters")
    for part in parts:
        if not part:
            continue
        name, _, value = part.partition("=")
        if "%" in part or "+" in part:
            name, value = _plain(name), _plain(value)
        before = found.get(name)
        if before is None:
            found[name] = value
        elif isinstance(before, list):
            before.append(value)
        else:
            found[name] = [before, value]
    return found


def _plain(text: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise BadMessage("the query has a % that starts no escape")
    try:
        plain = unquote_to_bytes(text.replace("+", " ")).decode()
    except UnicodeDecodeError as e:
        raise BadMessage("the query is not UTF-8") from e
    if "\0" in plain:
        raise BadMessage("the query has a NUL")
    return plain
