"""What a file of this package offers: a format, as bodies, as data and piece by piece."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Generic, NamedTuple, TypeVar

from pydantic import ValidationError

from esb import envelope
from esb.envelope import Body, Codec, ContentType
from esb.errors import BadMessage, EsbError, RouteFailure, TooLarge
from esb.options import Options

O = TypeVar("O", bound=Options)  # noqa: E741

MAX_PIECE: Final = 16 * 1024 * 1024
"""How long one piece of a stream may be, in bytes (of text, in characters)."""


MAX_VALUES: Final = 1_000_000
"""Of a body that is read as a whole; a record counts for three besides those in it, because it
takes as much memory. Piece by piece there may be any number."""


class NoOptions(Options):
    """A format that has none."""


class Piece(NamedTuple):
    """One piece of a stream; `error` if it was found but is not what it should be."""

    body: Body
    error: BadMessage | None = None


@dataclass(frozen=True)
class Stream(Generic[O]):
    """How a format is read piece by piece, in constant memory.

    read: raises BadMessage where there is no telling where the next piece begins, TooLarge for a
        piece over MAX_PIECE. What it reads from is open for as long as it is iterated.
    joins: whether some of its pieces together are a list.
    """

    read: Callable[[BinaryIO, O, ContentType], Iterator[Piece]]
    options: type[O]
    joins: bool = True


@dataclass(frozen=True)
class Format(Generic[O]):
    """One format: what a file `esb/codecs/<name>.py` calls `format`.

    make: the codec that has these options. What the content type of a body tells (its charset, a
        CSV's delimiter) counts where the options don't say.
    options: of `convert: {to: {<name>: options}}`.
    types: media types or suffixes ("+json") whose bodies it reads and writes.
    written: the content type of what was written with these options.
    body: the codec of bodies of `types`; that without options if left out.
    """

    make: Callable[[O], Codec]
    written: Callable[[O], str]
    options: type[O]
    types: tuple[str, ...] = ()
    body: Codec | None = None
    stream: Stream[Any] | None = None


def gathered(pieces: Iterable[Piece], what: str) -> list[Any]:
    """The data of all pieces. Raises the error of a piece that has one, TooLarge over
    MAX_VALUES."""
    found = []
    values = 0
    for piece in pieces:
        if piece.error is not None:
            raise piece.error
        data = piece.body.data
        values += 1 if isinstance(data, str) else len(data) + 3
        if values > MAX_VALUES:
            raise too_many(what)
        found.append(data)
    return found


def too_many(what: str) -> TooLarge:
    """The error for a body with more than MAX_VALUES."""
    return TooLarge(f"{what} has more values than are read as a whole").noted(
        "a `split` with `stream` reads it piece by piece"
    )


def told(
    options: O, content_type: ContentType, *names: str, error: type[EsbError] = BadMessage
) -> O:
    """The options with what the parameters of the content type say where the options don't.

    Raises `error` for a parameter that makes no sense.
    """
    params = {
        name: content_type.params[name]
        for name in names
        if name in content_type.params and name not in options.model_fields_set
    }
    if not params:
        return options
    try:
        return type(options)(**{**options.model_dump(exclude_unset=True), **params})
    except ValidationError as e:
        name = ", ".join(sorted({str(one["loc"][0]) for one in e.errors() if one["loc"]}))
        raise error(f"the content type has a {name or 'parameter'} that is none") from e


def known_charset(name: str) -> str:
    """A validator: `name`, if it is read here. Raises ValueError."""
    try:
        envelope.known_charset(name)
    except BadMessage as e:
        raise ValueError(f"there is no charset {name!r}") from e
    return name


def one_character(text: str) -> str:
    """A validator. Raises ValueError."""
    if len(text) != 1:
        raise ValueError("must be one character")
    return text


def encoded(text: str, charset: str, what: str) -> bytes:
    """Text in a charset. Raises RouteFailure for what that lacks."""
    try:
        return text.encode(charset)
    except (UnicodeEncodeError, LookupError) as e:
        raise RouteFailure(f"{what} cannot be written in {charset}") from e


def text_lines(stream: BinaryIO, charset: str, what: str) -> Iterator[str]:
    """The lines of a stream with their ends, which are LF, CRLF or CR; no byte order mark.

    Raises BadMessage, naming the line, for what is not in the charset, TooLarge over MAX_PIECE.
    """
    number = 0
    try:
        for line in _decoded(stream, charset):
            number += 1
            yield line.removeprefix("\ufeff") if number == 1 else line
    except _LongLine as e:
        raise TooLarge(f"line {number + 1} of {what} is longer than {MAX_PIECE} bytes") from e
    except (UnicodeError, LookupError) as e:
        raise BadMessage(f"{what} is not valid {charset} at line {number + 1}") from e


class _LongLine(Exception):
    pass


def _decoded(stream: BinaryIO, charset: str) -> Iterator[str]:
    if "\n".encode(charset) != b"\n":
        # Where a line ends shows only once it is decoded.
        text = io.TextIOWrapper(stream, charset, newline="")
        try:
            while line := text.readline(MAX_PIECE):
                if len(line) >= MAX_PIECE:
                    raise _LongLine
                yield line
        finally:
            text.detach()
        return
    while raw := stream.readline(MAX_PIECE):
        if len(raw) >= MAX_PIECE:
            raise _LongLine
        line = raw.decode(charset)
        if "\r" in line.removesuffix("\n")[:-1]:
            yield from io.StringIO(line, newline="")
        else:
            yield line


def shown(text: str) -> str:
    """A value as an error may show it."""
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
