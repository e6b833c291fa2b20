"""Regular expressions of XML Schema (part 2, appendix F), translated and sampled.

They match whole values, know no anchors, and have escapes and class subtraction that others lack.
Python's `re` gets an equal expression; JSON Schema gets one where ECMA 262 can say the same.
"""

from __future__ import annotations

import random
import re
import sys
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

_INITIAL: Final = (
    ":A-Z_a-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02ff\u0370-\u037d\u037f-\u1fff\u200c-\u200d"
    "\u2070-\u218f\u2c00-\u2fef\u3001-\ud7ff\uf900-\ufdcf\ufdf0-\ufffd"
)
_NAME: Final = _INITIAL + "\\-.0-9\u00b7\u0300-\u036f\u203f-\u2040"
_BLOCKS: Final = {
    "BasicLatin": (0x0000, 0x007F), "Latin-1Supplement": (0x0080, 0x00FF),
    "LatinExtended-A": (0x0100, 0x017F), "LatinExtended-B": (0x0180, 0x024F),
    "IPAExtensions": (0x0250, 0x02AF), "SpacingModifierLetters": (0x02B0, 0x02FF),
    "CombiningDiacriticalMarks": (0x0300, 0x036F), "Greek": (0x0370, 0x03FF),
    "GreekandCoptic": (0x0370, 0x03FF), "Cyrillic": (0x0400, 0x04FF),
    "Armenian": (0x0530, 0x058F), "Hebrew": (0x0590, 0x05FF), "Arabic": (0x0600, 0x06FF),
    "Devanagari": (0x0900, 0x097F), "Thai": (0x0E00, 0x0E7F), "Georgian": (0x10A0, 0x10FF),
    "LatinExtendedAdditional": (0x1E00, 0x1EFF), "GreekExtended": (0x1F00, 0x1FFF),
    "GeneralPunctuation": (0x2000, 0x206F), "CurrencySymbols": (0x20A0, 0x20CF),
    "LetterlikeSymbols": (0x2100, 0x214F), "NumberForms": (0x2150, 0x218F),
    "Arrows": (0x2190, 0x21FF), "MathematicalOperators": (0x2200, 0x22FF),
    "Hiragana": (0x3040, 0x309F), "Katakana": (0x30A0, 0x30FF),
    "CJKUnifiedIdeographs": (0x4E00, 0x9FFF), "HangulSyllables": (0xAC00, 0xD7A3),
    "PrivateUse": (0xE000, 0xF8FF),
}  # fmt: skip
_QUANTIFIER: Final = re.compile(r"[?*+]|\{(\d+)(?:(,)(\d*))?\}")
_TRIED: Final = (
    "aA0bB1xXzZ9cdefghijklmnopqrstuvwyCDEFGHIJKLMNOPQRSTUVWY2345678"
    "_-. :/@#+,;!?()'\"&<>=%$*[]{}|\\^`~\n\t\u00df\u00e9\u4e2d"
)


class BadPattern(ValueError):
    """The pattern is no regular expression of XML Schema."""


@dataclass(frozen=True, slots=True)
class _Set:
    """A character class: its source for Python, for ECMA 262 (None: cannot be said)."""

    python: str
    ecma: str | None


@dataclass(frozen=True, slots=True)
class _Piece:
    atom: _Set | _Choice
    low: int
    high: int | None


@dataclass(frozen=True, slots=True)
class _Choice:
    branches: tuple[tuple[_Piece, ...], ...]


class Pattern:
    """One pattern facet. Raises BadPattern if it is none."""

    def __init__(self, source: str) -> None:
        self._tree = _Parser(source).parse()
        try:
            self._compiled = re.compile(_python(self._tree))
        except (re.error, OverflowError, RecursionError) as e:
            raise BadPattern(str(e)) from e
        self.matches = self._compiled.fullmatch

    @property
    def ecma(self) -> str | None:
        """The expression for JSON Schema; None where ECMA 262 has no equal one."""
        inner = _ecma(self._tree)
        return None if inner is None else f"^(?:{inner})$"

    def any(self, rng: random.Random) -> str:
        """Some text that matches."""
        return _drawn(self._tree, rng)

    def sample(self, least: int = 0, most: int | None = None) -> str:
        """A text that matches, `least` to `most` characters long if that is easily done."""
        text = _sample(self._tree, 0)
        for extra in (1, 2, 4, 8, 16, 32, 64, 128, 256):
            if len(text) >= least:
                break
            longer = _sample(self._tree, extra)
            if most is not None and len(longer) > most:
                for fewer in range(extra):
                    longer = _sample(self._tree, fewer)
                    if least <= len(longer) <= most:
                        return longer
                break
            text = longer
        return text


@lru_cache(maxsize=4096)
def pattern(source: str) -> Pattern:
    """The compiled pattern. Raises BadPattern."""
    return Pattern(source)


class _Parser:
    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0
        self._depth = 0

    def parse(self) -> _Choice:
        tree = self._choice()
        if self._at < len(self._source):
            raise BadPattern(f"there is a '{self._source[self._at]}' too many")
        return tree

    def _peek(self) -> str:
        return self._source[self._at : self._at + 1]

    def _next(self) -> str:
        c = self._peek()
        if not c:
            raise BadPattern("it ends too early")
        self._at += 1
        return c

    def _choice(self) -> _Choice:
        branches = [self._branch()]
        while self._peek() == "|":
            self._at += 1
            branches.append(self._branch())
        return _Choice(tuple(branches))

    def _branch(self) -> tuple[_Piece, ...]:
        pieces = []
        while (c := self._peek()) and c not in "|)":
            atom = self._atom()
            low, high = 1, 1
            found = _QUANTIFIER.match(self._source, self._at)
            bounds: tuple[int, int | None] = (low, high)
            if found:
                self._at = found.end()
                bounds = _bounds(found)
            pieces.append(_Piece(atom, *bounds))
        return tuple(pieces)

    def _atom(self) -> _Set | _Choice:
        c = self._next()
        if c == "(":
            self._depth += 1
            if self._depth > 50:
                raise BadPattern("it is nested too deep")
            if self._source.startswith("?:", self._at):
                self._at += 2  # not XML Schema, but written in real ones
            inner = self._choice()
            if self._next() != ")":
                raise BadPattern("a ')' is missing")
            self._depth -= 1
            return inner
        if c == "[":
            return self._class()
        if c == ".":
            return _Set(r"[^\n\r]", r"[^\n\r]")
        if c == "\\":
            return self._escape()
        if c in "?*+{":
            raise BadPattern(f"'{c}' has nothing to repeat")
        return _Set(re.escape(c), _ecma_literal(c))

    def _escape(self) -> _Set:
        body = self._escape_body()
        if len(body.python) > 1 and body.python[0] == "^":
            return _Set(f"[{body.python}]", None if body.ecma is None else f"[{body.ecma}]")
        return _Set(f"[{body.python}]", None if body.ecma is None else f"[{body.ecma}]")

    def _escape_body(self) -> _Set:
        """What an escape stands for, as the inside of a class; "^..." if it is a complement."""
        c = self._next()
        if c in "pP":
            if self._next() != "{":
                raise BadPattern(f"\\{c} needs a category in braces")
            end = self._source.find("}", self._at)
            if end < 0:
                raise BadPattern("a '}' is missing")
            name = self._source[self._at : end]
            self._at = end + 1
            inside = _category(name, complement=c == "P")
            return _Set(inside, None)
        simple = {"n": "\\n", "r": "\\r", "t": "\\t", "d": "0-9", "s": " \\t\\n\\r"}
        if c == "d":
            return _Set(r"\d", "0-9")
        if c == "D":
            return _Set(r"^\d", "^0-9")
        if c in simple:
            return _Set(simple[c], simple[c])
        if c == "S":
            return _Set("^ \\t\\n\\r", "^ \\t\\n\\r")
        if c in "iIcC":
            inside = _INITIAL if c in "iI" else _NAME
            return _Set(inside, inside) if c in "ic" else _Set("^" + inside, "^" + inside)
        if c in "wW":
            return _Set(_word(complement=c == "W"), None)
        return _Set(_in_class(c), _in_class(c))

    def _class(self) -> _Set:
        negated = self._peek() == "^"
        if negated:
            self._at += 1
        python: list[str] = []
        ecma: list[str] | None = []
        outside: list[_Set] = []  # complements among the members: [\D-], [^\S]
        first = True
        while True:
            c = self._next()
            if c == "]" and not first:
                break
            first = False
            if c == "-" and self._peek() == "[":
                self._at += 1
                minus = self._class()
                if self._next() != "]":
                    raise BadPattern("a ']' is missing after a subtraction")
                base = _as_set(negated, python, ecma, outside)
                return _Set(
                    f"(?!{minus.python}){base.python}",
                    None
                    if minus.ecma is None or base.ecma is None
                    else f"(?!{minus.ecma}){base.ecma}",
                )
            if c == "\\":
                member = self._escape_body()
                if member.python.startswith("^") and len(member.python) > 1:
                    outside.append(member)
                    continue
            else:
                member = _Set(_in_class(c), _in_class(c))
            if self._peek() == "-" and self._source[self._at + 1 : self._at + 2] not in ("]", "["):
                self._at += 1
                end = self._next()
                high = self._escape_body() if end == "\\" else _Set(_in_class(end), _in_class(end))
                member = _Set(
                    f"{member.python}-{high.python}",
                    None
                    if member.ecma is None or high.ecma is None
                    else f"{member.ecma}-{high.ecma}",
                )
            python.append(member.python)
            if member.ecma is None:
                ecma = None
            elif ecma is not None:
                ecma.append(member.ecma)
        return _as_set(negated, python, ecma, outside)


def _as_set(negated: bool, python: list[str], ecma: list[str] | None, outside: list[_Set]) -> _Set:
    def build(members: list[str], complements: list[str]) -> str:
        inside = "".join(members)
        if not complements:
            return f"[{'^' if negated else ''}{inside}]"
        parts = [f"[{inside}]"] if inside else []
        parts += [f"[{one}]" for one in complements]
        either = "|".join(parts)
        return f"(?!{either})[\\s\\S]" if negated else f"(?:{either})"

    said = None
    if ecma is not None and all(one.ecma is not None for one in outside):
        said = build(ecma, [one.ecma or "" for one in outside])
    return _Set(build(python, [one.python for one in outside]), said)


def _bounds(found: re.Match[str]) -> tuple[int, int | None]:
    text = found[0]
    if text in "?*+":
        return (1 if text == "+" else 0), (1 if text == "?" else None)
    low = int(found[1])
    if found[2] is None:
        return low, low
    return low, int(found[3]) if found[3] else None


def _in_class(c: str) -> str:
    return "\\" + c if c in "\\]^-[&~|" else c


def _ecma_literal(c: str) -> str:
    return "\\" + c if c in "^$\\.*+?()[]{}|/" else c


def _times(piece: _Piece) -> str:
    match (piece.low, piece.high):
        case (1, 1):
            return ""
        case (0, 1):
            return "?"
        case (0, None):
            return "*"
        case (1, None):
            return "+"
        case (low, None):
            return f"{{{low},}}"
        case (low, high) if low == high:
            return f"{{{low}}}"
        case (low, high):
            return f"{{{low},{high}}}"


def _python(tree: _Choice) -> str:
    branches = []
    for pieces in tree.branches:
        text = ""
        for piece in pieces:
            atom = (
                f"(?:{_python(piece.atom)})"
                if isinstance(piece.atom, _Choice)
                else piece.atom.python
            )
            times = _times(piece)
            if times and atom.startswith("(?!"):
                atom = f"(?:{atom})"
            text += atom + times
        branches.append(text)
    return "|".join(branches)


def _ecma(tree: _Choice) -> str | None:
    branches = []
    for pieces in tree.branches:
        text = ""
        for piece in pieces:
            if isinstance(piece.atom, _Choice):
                inner = _ecma(piece.atom)
                atom = None if inner is None else f"(?:{inner})"
            else:
                atom = piece.atom.ecma
            if atom is None:
                return None
            times = _times(piece)
            if times and atom.startswith("(?!"):
                atom = f"(?:{atom})"
            text += atom + times
        branches.append(text)
    return "|".join(branches)


def _sample(tree: _Choice, extra: int) -> str:
    text = ""
    for piece in max(tree.branches, key=lambda b: bool(b)) if extra == 0 else tree.branches[-1]:
        high = piece.high if piece.high is not None else piece.low + max(extra, 1)
        count = min(high, max(piece.low, piece.low + extra, 1 if piece.low else 0))
        for _ in range(count):
            text += (
                _sample(piece.atom, extra)
                if isinstance(piece.atom, _Choice)
                else _member(piece.atom.python)
            )
    return text


def _drawn(tree: _Choice, rng: random.Random) -> str:
    text = ""
    for piece in rng.choice(tree.branches):
        most = piece.low + 2 if piece.high is None else min(piece.high, piece.low + 2)
        for _ in range(rng.randint(piece.low, most)):
            if isinstance(piece.atom, _Choice):
                text += _drawn(piece.atom, rng)
            else:
                text += rng.choice(_members(piece.atom.python) or _member(piece.atom.python) or " ")
    return text


@lru_cache(maxsize=4096)
def _members(python: str) -> str:
    compiled = re.compile(python)
    return "".join(c for c in _TRIED if compiled.fullmatch(c))


@lru_cache(maxsize=4096)
def _member(python: str) -> str:
    compiled = re.compile(python)
    for c in _TRIED:
        if compiled.fullmatch(c):
            return c
    for code in range(0x80, 0xD800):
        if compiled.fullmatch(chr(code)):
            return chr(code)
    return ""


@lru_cache(maxsize=256)
def _category(name: str, *, complement: bool) -> str:
    """The inside of a Python class for \\p{name}."""
    if name.startswith("Is"):
        block = _BLOCKS.get(name[2:])
        if block is None:
            return r"\s\S"  # a block we have no table of: not checked
        return ("^" if complement else "") + f"\\u{block[0]:04x}-\\u{block[1]:04x}"
    if not re.fullmatch("[LMNPZSC][a-z]?", name):
        raise BadPattern(f"there is no category {name}")
    return ("^" if complement else "") + _ranges(name)


@lru_cache(maxsize=2)
def _word(*, complement: bool) -> str:
    """\\w is everything but punctuation, separators and others."""
    return ("" if complement else "^") + _ranges("P", "Z", "C")


@lru_cache(maxsize=64)
def _ranges(*categories: str) -> str:
    result = []
    start: int | None = None
    for code in range(sys.maxunicode + 2):
        inside = code <= sys.maxunicode and unicodedata.category(chr(code)).startswith(categories)
        if inside and start is None:
            start = code
        elif not inside and start is not None:
            last = code - 1
            low = f"\\U{start:08x}"
            result.append(low if start == last else f"{low}-\\U{last:08x}")
            start = None
    return "".join(result)
