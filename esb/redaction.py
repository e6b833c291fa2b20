"""Keeps secrets out of what is kept and shown of messages: traces, stories, recorded tests.

Three things give a secret away: the header that carries it, the name of the field it is in, and
its value, if a route file got it from the environment or a file. What is none of these, such as a
password in the running text of a mail, cannot be known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

REDACTED: Final = "***"

CREDENTIAL_HEADERS: Final = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "authentication-info"}
)
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
    r""""(?:[^"\\]|\\.)*(?:"|\\?\Z)|'(?:[^'\\]|\\.)*(?:'|\\?\Z)|[\[{]|[^\s"'<>,;&{}\[\]]+)""",
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
        if values != self._known:
            self._known = values
            # A password may stand in a URL, where it is spelled otherwise.
            spelled = {*values, *(quote(value, safe="") for value in values)}
            ordered = sorted(spelled, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None
            self.longest = max(map(len, ordered), default=0)
        return self._pattern.sub(REDACTED, text) if self._pattern is not None else text

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


def secret_values(resolved: Mapping[str, str]) -> set[str]:
    """Which of the references of route files, by the text between their braces, are secrets: what
    lies in files, Secrets of Kubernetes or a vault, what has a name that says so, and passwords in
    URLs."""
    found: set[str] = set()
    for reference, value in resolved.items():
        if reference.startswith(OUTSIDE) or is_secret_name(reference.partition(":-")[0]):
            found.add(value)
        elif "@" in value and "://" in value:
            try:
                password = urlsplit(value).password
            except ValueError:
                continue
            found |= {password, unquote(password)} if password else set()
    return {value for value in found if len(value) >= SHORTEST}


_PASSWORD: Final = re.compile(r"(://[^/@\s:]*):[^/@\s]*@")


def without_password(url: str) -> str:
    """A URL, or several, as they may be shown."""
    return _PASSWORD.sub(rf"\1:{REDACTED}@", url)
