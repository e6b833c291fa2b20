"""The items of one array of a JSON text, one by one, in constant memory.

Only where an item ends is looked for here (RFC 8259's strings and brackets). Each keeps the bytes
it came with, and is parsed by the codec when somebody reads it: so the same is refused, and numbers
are as exact, as in a text that is read whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import BinaryIO, Final

from pydantic import Field

from esb.codecs._format import MAX_PIECE, Piece, shown
from esb.envelope import Body, ContentType
from esb.errors import BadMessage, TooLarge
from esb.options import Options

_CHUNK: Final = 64 * 1024
_SPACE = re.compile(rb"[ \t\r\n]*")
_SCALAR = re.compile(rb"[^\s,:\[\]{}\"]+")
_STRING: Final = rb"\"(?:[^\"\\]++|\\.)*+\""


def _nested(levels: int) -> bytes:
    inner = rb"|" + _nested(levels - 1) if levels > 1 else rb""
    return rb"[\[{](?:[^\"\[\]{}]++|" + _STRING + inner + rb")*+[\]}]"


# As far as the next bracket that is in no string, or as far as can be told. Possessive, here as
# above: no text takes longer than its length.
_ON = re.compile(rb"(?:[^\"\[\]{}]++|" + _STRING + rb")*+([\[\]{}]?)", re.DOTALL)
_SHALLOW = re.compile(_nested(4) + rb"|" + _STRING, re.DOTALL)
"""A whole value that is in the buffer and not nested deep: by far the most, and found at once."""


class ItemsOptions(Options):
    """An array in a JSON text."""

    __shorthand__ = "at"

    at: str = Field(
        "",
        description="Where the array is, `data.orders`; left out, the whole text is the array.",
    )


def read_items(
    stream: BinaryIO, options: ItemsOptions, content_type: ContentType
) -> Iterator[Piece]:
    """The items, each as it was written. Raises BadMessage, naming line and column, where there is
    no such array or it does not end, TooLarge for an item over MAX_PIECE."""
    text = _Text(stream)
    keys = options.at.split(".") if options.at else []
    for key in keys:
        _enter(text, key, options.at)
    if text.peek() != b"[":
        what = f"what is at {shown(options.at)}" if options.at else "it"
        raise text.error(f"{what} is no array")
    text.skip(1)
    if text.peek() == b"]":
        text.skip(1)
    else:
        while True:
            yield Piece(Body(text.value(), "application/json"))
            found = text.peek()
            text.skip(1)
            if found == b"]":
                break
            if found != b",":
                raise text.error("a comma or the end of the array was expected", back=1)
    for key in reversed(keys):
        _leave(text, key)
    if text.peek():
        raise text.error("there is something behind the end")


def _enter(text: _Text, wanted: str, path: str) -> None:
    """Go to the value under a key of the object that begins here."""
    if text.peek() != b"{":
        raise text.error(f"there is no array at {shown(path)}: no object has {shown(wanted)}")
    text.skip(1)
    while text.peek() != b"}":
        if _key(text) == wanted:
            return
        text.peek()
        text.value(keep=False)
        if text.peek() == b",":
            text.skip(1)
        elif text.peek() != b"}":
            raise text.error("a comma or the end of the object was expected")
    raise text.error(f"there is no array at {shown(path)}: {shown(wanted)} is missing")


def _leave(text: _Text, read: str) -> None:
    """Go behind the end of the object that we are in, of which the value under a key was read. The
    same key once more would be the one that other readers take."""
    while (found := text.peek()) == b",":
        text.skip(1)
        if _key(text) == read:
            raise text.error(f"the key {shown(read)} is there twice")
        text.value(keep=False)
    if found != b"}":
        expected = "a comma or the end of the object was expected"
        raise text.error(expected if found else "the JSON ends too early")
    text.skip(1)


def _key(text: _Text) -> str:
    """The key that begins here; go behind its colon."""
    key = text.value()
    if text.peek() != b":":
        raise text.error("a key and a colon were expected")
    text.skip(1)
    try:
        return str(json.loads(key))
    except ValueError:
        return ""


class _Text:
    """The text, of which only what is looked at is in memory."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._buffer = b""
        self._at = 0
        self._line = 1
        self._column = 1  # of the buffer's first byte
        self._more()
        if self._buffer.startswith(b"\xef\xbb\xbf"):
            self._at = 3

    def _more(self) -> bool:
        """Read on, ever larger pieces as long as nothing is given up. Whether there was more."""
        chunk = self._stream.read(max(_CHUNK, len(self._buffer)))
        self._buffer += chunk
        return bool(chunk)

    def _give_up(self) -> None:
        """Forget what is behind us."""
        gone = self._buffer[: self._at]
        if lines := gone.count(b"\n"):
            self._line += lines
            self._column = 1
        self._column += len(gone) - gone.rfind(b"\n") - 1
        self._buffer = self._buffer[self._at :]
        self._at = 0

    def peek(self) -> bytes:
        """The next byte that is no space, without going behind it; b"" at the end."""
        while True:
            found = _SPACE.match(self._buffer, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._buffer):
                return self._buffer[self._at : self._at + 1]
            self._give_up()
            if not self._more():
                return b""

    def skip(self, count: int) -> None:
        """Go on over bytes that were peeked at."""
        self._at += count

    def value(self, *, keep: bool = True) -> bytes:
        """The value that begins here, and go behind it. keep: else it may be of any size, and
        nothing is returned."""
        if self._at > _CHUNK:
            self._give_up()
        first = self.peek()
        if not first:
            raise self.error("the JSON ends too early")
        if first not in b'"[{':
            return self._scalar()
        at, depth = self._at, 0
        while True:
            if not depth and (whole := _SHALLOW.match(self._buffer, self._at)):
                at = whole.end()
                break
            if first != b'"':
                found = _ON.match(self._buffer, at)
                assert found is not None
                at = found.end()
                depth += {b"": 0, b"[": 1, b"{": 1}.get(found[1], -1)
                if found[1] and not depth:
                    break
                if found[1]:
                    continue
            if not keep and first != b'"':
                self._at = at
            if len(self._buffer) - self._at > MAX_PIECE:
                raise self._too_large()
            at -= self._at
            self._give_up()
            if not self._more():
                self._at = len(self._buffer)
                raise self.error("the JSON ends too early")
        begin, self._at = self._at, at
        if keep and at - begin > MAX_PIECE:
            raise self._too_large()
        return self._buffer[begin:at] if keep else b""

    def _scalar(self) -> bytes:
        while True:
            found = _SCALAR.match(self._buffer, self._at)
            if found is None:
                raise self.error("a value was expected")
            if found.end() < len(self._buffer) or not self._more():
                break
            if len(self._buffer) - self._at > MAX_PIECE:
                raise self._too_large()
        self._at = found.end()
        return found[0]

    def _too_large(self) -> TooLarge:
        return TooLarge(f"a value of the JSON at line {self._line} is over {MAX_PIECE} bytes")

    def error(self, what: str, *, back: int = 0) -> BadMessage:
        """That something is wrong here, or so many bytes before."""
        self._at -= back
        if self._buffer[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in self._buffer[:2]:
            return BadMessage("the JSON is UTF-16 or UTF-32, it must be UTF-8")
        self._give_up()
        where = f"line {self._line}, column {self._column}"
        return BadMessage(f"the body is not valid JSON at {where}: {what}")
