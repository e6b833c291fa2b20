"""Lines of text: a list of texts, without their line ends."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, BinaryIO

from esb.codecs._format import Format, Piece, Stream, encoded, gathered, text_lines, told
from esb.codecs.text import TextOptions
from esb.envelope import Body, ContentType
from esb.errors import RouteFailure


class LinesCodec:
    """Lines to a list of `str` and back."""

    def __init__(self, options: TextOptions) -> None:
        self._options = options

    def decode(self, raw: bytes, content_type: ContentType) -> list[str]:
        """The lines. Raises BadMessage, naming the line, for what is not in the charset, TooLarge
        for more than are read as a whole."""
        return gathered(read(io.BytesIO(raw), self._options, content_type), "the text")

    def encode(self, data: Any, content_type: ContentType) -> bytes:
        """Write each text as a line. Raises RouteFailure for anything else than a list of texts."""
        if not isinstance(data, list | tuple):
            raise RouteFailure("lines are written from a list of texts")
        for number, line in enumerate(data, 1):
            if not isinstance(line, str) or "\n" in line or "\r" in line:
                raise RouteFailure(f"item {number} is no line: a text without a line break")
        return encoded("".join(f"{line}\n" for line in data), self._options.charset, "a line")


def read(stream: BinaryIO, options: TextOptions, content_type: ContentType) -> Iterator[Piece]:
    """Lines, one by one, empty ones too."""
    charset = told(options, content_type, "charset").charset
    for line in text_lines(stream, charset, "the text"):
        yield Piece(Body.of(line.rstrip("\r\n"), "text/plain; charset=utf-8"))


format = Format(
    LinesCodec,
    lambda options: f"text/plain; charset={options.charset}",
    TextOptions,
    stream=Stream(read, TextOptions),
)
