"""Keeps secrets out of what is kept and shown of messages: traces, stories, recorded tests.

Three things give a secret away: the header that carries it, the name of the field it is in, and
its value, if a route file got it from the environment or a file, or has it where a secret belongs.
What is none of these, such as a password in the running text of a mail, cannot be known.

What a process knows to be secret is left out of all its logs and of all notes on errors (`shown`):
a far side that is not well may answer with the very request it got.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final
from urllib.parse import quote, quote_plus, unquote, urlsplit

REDACTED: Final = "***"

CREDENTIALS: Final = frozenset(
    {
        *("authorization", "proxy-authorization", "cookie", "set-cookie"),
        *("x-api-key", "api-key", "apikey", "x-auth-token", "x-access-token"),
    }
)
"""Headers that say who somebody is: they are not stored, and go on to nobody who is not named."""

CREDENTIAL_HEADERS: Final = CREDENTIALS | {"authentication-info"}
OUTSIDE: Final = ("file:", "k8s:", "vault:")
"""How references begin to what is kept elsewhere because it is a secret."""
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_WORDS: Final = frozenset(
    {
        *("password", "passwd", "passphrase", "passcode", "pwd", "secret", "secrets", "apikey"),
        *("token", "tokens", "credential", "credentials", "authorization", "cvv", "cvc"),
    }
)
_PAIRS: Final = frozenset({("api", "key"), ("private", "key"), ("access", "key"), ("pass", "word")})
SHORTEST: Final = 4
"""A shorter value is too common a text to be told from others."""

# `"name": "value"`, `name=value`, `"name": {`; what was cut off ends where the text does.
_PAIR: Final = re.compile(
    r"""(?<![\w.-])(?P<quote>["']?)(?P<name>[A-Za-z_][\w.-]{0,99})(?P=quote)\s{0,9}[:=]\s{0,9}(?P<value>"""
    r""""(?:[^"\\]|\\.)*(?:"|\\?\Z)|'(?:[^'\\]|\\.)*(?:'|\\?\Z)|[\[{]|"""
    r"""(?:(?i:basic|bearer|digest|negotiate|token)\s{1,9})?[^\s"'<>,;&{}\[\]]+)""",
    re.DOTALL,
)
_BRACKETS: Final = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_TAG: Final = re.compile(r"<((?:[\w.-]+:)?([A-Za-z_][\w.-]*))(?:\s[^<>]*[^<>/])?>")


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Whether what goes by this name is a secret: "password", "accessToken", "X-Api-Key"."""
    words = [word.lower() for word in _WORD.findall(name[:200])]
    return not _WORDS.isdisjoint(words) or any(pair in _PAIRS for pair in pairwise(words))


class Redactor:
    """Replaces secrets by `REDACTED`.

    names: further names of headers and fields that hold secrets, compared without case. values:
    gives the secrets that route files got from outside, as they are now (see `secret_values`).
    """

    def __init__(
        self, names: Iterable[str] = (), values: Callable[[], Iterable[str]] = tuple
    ) -> None:
        self._names = frozenset(name.lower() for name in names)
        self._values = values
        self._known: frozenset[str] = frozenset()
        self._pattern: re.Pattern[str] | None = None
        self._piece, self._pieces = 1, frozenset[str]()
        self.longest = 0

    def is_secret(self, name: str) -> bool:
        """Whether a header or a field of this name is a secret."""
        lower = name.lower()
        return lower in self._names or lower in CREDENTIAL_HEADERS or is_secret_name(name)

    def headers(self, pairs: Iterable[tuple[str, Any]]) -> list[tuple[str, str]]:
        """Headers as text."""
        return [
            (name, REDACTED if self.is_secret(name) else self.value(str(value)))
            for name, value in pairs
        ]

    def value(self, text: str) -> str:
        """A text without the values that are secrets."""
        values = frozenset(self._values())
        if values is not self._known and values != self._known:
            forms = {form for value in values for form in spelled(value)}
            ordered = sorted(forms, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None
            self.longest = max(map(len, ordered), default=0)
            self._look_for(ordered)
            self._known = values
        if self._pattern is None or self._has_none(text):
            return text
        return self._pattern.sub(REDACTED, text)

    def _look_for(self, forms: list[str]) -> None:
        """Parts of them by which a text that has none is told at once, however many there are:
        whatever stands in a text covers one of its pieces of this length, counted from its
        beginning, and that begins in the first characters of the form."""
        self._piece = (min(map(len, forms), default=1) + 1) // 2
        self._pieces = frozenset(
            form[at : at + self._piece] for form in forms for at in range(self._piece)
        )

    def _has_none(self, text: str) -> bool:
        step, pieces = self._piece, self._pieces
        return not any(text[at : at + step] in pieces for at in range(0, len(text), step))

    def text(self, text: str) -> str:
        """A text in JSON, XML, a form or the like, or the beginning of one, without the values that
        are secrets and without what stands in fields whose names say so."""
        return self._each(_TAG, _element, self._each(_PAIR, _value, self.value(text)))

    def data(self, data: Any) -> Any:
        """Plain data, copied where something is replaced."""
        if isinstance(data, str):
            return self.value(data)
        if isinstance(data, Mapping):
            return {
                key: REDACTED
                if isinstance(key, str) and value is not None and self.is_secret(key)
                else self.data(value)
                for key, value in data.items()
            }
        if isinstance(data, list | tuple):
            return [self.data(value) for value in data]
        return data

    def _each(self, pattern: re.Pattern[str], place: _Place, text: str) -> str:
        """With all replaced that is at the `place` of a match whose name is one of a secret."""
        out: list[str] = []
        done = at = 0
        while found := pattern.search(text, at):
            begin, end, name, instead = place(found)
            at = begin
            if self.is_secret(name):
                out += (text[done:begin], instead)
                done = at = end
        return "".join((*out, text[done:]))


_Place = Callable[[re.Match[str]], tuple[int, int, str, str]]
"""Where a value begins and ends, its name, and what may stand in its place."""


def _value(found: re.Match[str]) -> tuple[int, int, str, str]:
    begin, end = found.span("value")
    value, quote = found["value"], found["quote"]
    if value[0] in "\"'":
        return begin + 1, end - (len(value) > 1 and value[-1] == value[0]), found["name"], REDACTED
    if value[0] in "[{":
        end = _closed(found.string, begin)
    return begin, end, found["name"], f"{quote}{REDACTED}{quote}"


def _closed(text: str, begin: int) -> int:
    depth = 0
    for found in _BRACKETS.finditer(text, begin):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return found.end()
    return len(text)


def _element(found: re.Match[str]) -> tuple[int, int, str, str]:
    end = found.string.find(f"</{found[1]}", found.end())
    return found.end(), end if end >= 0 else len(found.string), found[2], REDACTED


def spelled(value: str) -> set[str]:
    """How it may be written: as it is, in a URL, a form, JSON, XML, and as base64."""
    forms = {value, quote_plus(value), *(quote(value, safe=safe) for safe in ("", "/", _IN_URLS))}
    forms |= {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    forms |= {html.escape(value, quote=False), html.escape(value)}
    raw = value.encode("utf-8", "surrogateescape")
    for before in range(3):  # it may begin anywhere in the three bytes of a group
        whole = base64.b64encode(b"\0" * before + raw).decode()
        part = whole[(0, 2, 3)[before] : (before + len(raw)) * 8 // 6]
        if len(part) >= SHORTEST_SHOWN:
            forms |= {part, part.translate(_URL_SAFE)}
    return forms


_IN_URLS: Final = "/:?&=%#[]@"  # what stands in them anyhow
_URL_SAFE: Final = str.maketrans("+/", "-_")

SHORTEST_SHOWN: Final = 8
"""A shorter value may be a part of words that people write in logs."""

_known: frozenset[str] = frozenset()


def known_secrets(values: Iterable[str]) -> None:
    """These are secrets, for as long as the process lives."""
    global _known
    _known |= {value for value in values if len(value) >= SHORTEST_SHOWN}


_of_this_process: Final = Redactor(values=lambda: _known)


def shown(text: str) -> str:
    """A text for those who run the bus, without the secrets that are known."""
    return _of_this_process.value(text)


def heard(text: str) -> str:
    """What a far side said, for those who run the bus: without the secrets that are known, and
    without what stands in fields whose names say so, which it may only have repeated."""
    return _of_this_process.text(text)


def holds_secret(raw: bytes) -> bool:
    """Whether there is one of them in these bytes."""
    text = raw.decode("utf-8", "replace")
    return shown(text) != text


def secret_values(
    resolved: Mapping[str, str], given: Iterable[str] = (), called_so: Collection[str] = ()
) -> set[str]:
    """Which of the references of route files, by the text between their braces, are secrets: what
    lies in files, Secrets of Kubernetes or a vault, what has a name that says so, and passwords in
    URLs. given: what options have where a secret belongs. called_so: references below a key whose
    name says so."""
    found: set[str] = set()
    for reference, value in resolved.items():
        name = reference.partition(":-")[0]
        if reference.startswith(OUTSIDE) or is_secret_name(name) or reference in called_so:
            found.add(value)
        else:
            found |= _passwords(value)
    for value in given:
        if "${" in value:  # it stands for itself, since nobody knows what it stands for
            continue
        if "://" in value:  # of which all else may be told
            found |= _passwords(value)
        elif len(value) >= SHORTEST_SHOWN:
            found.add(value)
    return {value for value in found if len(value) >= SHORTEST}


def _passwords(value: str) -> set[str]:
    """Those in a URL."""
    if "@" not in value or "://" not in value:
        return set()
    try:
        password = urlsplit(value).password
    except ValueError:
        return set()
    return {password, unquote(password)} if password else set()


_PASSWORD: Final = re.compile(r"(://[^/@\s:]*):[^/@\s]*@")


def without_password(url: str) -> str:
    """A URL, or several, as they may be shown."""
    return _PASSWORD.sub(rf"\1:{REDACTED}@", url)
