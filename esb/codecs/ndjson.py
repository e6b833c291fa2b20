"""Newline-delimited JSON (https://github.com/ndjson/ndjson-spec): a list of values, one a line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from esb.codecs._format import MAX_PIECE, MAX_VALUES, Format, NoOptions, Piece, Stream, too_many
from esb.codecs.json import dumps, loads
from esb.envelope import Body, ContentType
from esb.errors import RouteFailure, TooLarge

NDJSON = "application/x-ndjson"


class NdjsonCodec:
    """Lines of JSON to a list of what they hold, and back."""

    def decode(self, raw: bytes, content_type: ContentType) -> list[Any]:
        """The values. Raises BadMessage, naming line and column, TooLarge for more than are read
        as a whole."""
        if raw.count(b"\n") + raw.count(b"\r") + raw.count(b",") > MAX_VALUES:
            raise too_many("the JSON")
        return [
            loads(line, number) for number, line in enumerate(raw.splitlines(), 1) if line.strip()
        ]

    def encode(self, data: Any, content_type: ContentType) -> bytes:
        """Write each item of a list as a line. Raises RouteFailure for what JSON cannot hold."""
        if not isinstance(data, list | tuple):
            raise RouteFailure("newline-delimited JSON is written from a list")
        return b"".join(dumps(item) + b"\n" for item in data)


def read(stream: BinaryIO, options: NoOptions, content_type: ContentType) -> Iterator[Piece]:
    """Lines that are not empty, each parsed when it is read."""
    number = 0
    while line := stream.readline(MAX_PIECE):
        number += 1
        if len(line) >= MAX_PIECE:
            raise TooLarge(f"line {number} of the JSON is longer than {MAX_PIECE} bytes")
        if line := line.strip():
            yield Piece(Body(line, "application/json"))


format = Format(
    lambda options: NdjsonCodec(),
    lambda options: NDJSON,
    NoOptions,
    types=(NDJSON, "application/ndjson", "application/jsonl", "application/x-jsonlines"),
    stream=Stream(read, NoOptions),
)
