"""Comma-separated values (RFC 4180): a list of rows, each a dict by the names of the first row.

Without a header each row is a list. Every value is text. What is not as in the RFC (a semicolon,
another quote, no header) is told by options, or by parameters of the content type:
`text/csv; delimiter=";"; header=absent`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, BinaryIO, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from esb.codecs._format import (
    MAX_VALUES,
    Format,
    Piece,
    Stream,
    encoded,
    gathered,
    known_charset,
    one_character,
    shown,
    text_lines,
    told,
    too_many,
)
from esb.envelope import Body, ContentType
from esb.errors import BadMessage, EsbError, RouteFailure
from esb.options import Options


def _header(value: Any) -> Any:
    # As text/csv spells it (RFC 4180, section 3).
    return {"present": True, "absent": False}.get(str(value).lower(), value)


class CsvOptions(Options):
    """Comma-separated values."""

    delimiter: Annotated[str, AfterValidator(one_character)] = Field(
        ",", description="The character between two values."
    )
    quote: str = Field(
        '"',
        max_length=1,
        description="The character around a value that has a delimiter or a line break in it; "
        "doubled, it stands for itself. `''`: values are never quoted.",
    )
    header: Annotated[bool, BeforeValidator(_header)] = Field(
        True, description="Whether the first row has the names of the columns."
    )
    columns: list[str] = Field(
        default_factory=list,
        description="The names of the columns, in their order: of a file without a header, or of "
        "what is written (left out, those of the first row).",
    )
    charset: Annotated[str, AfterValidator(known_charset)] = Field(
        "utf-8", description="How the text is encoded: utf-8, cp1252, utf-16, ..."
    )

    @model_validator(mode="after")
    def _different(self) -> Self:
        if self.delimiter == self.quote or {self.delimiter, self.quote} & {"\r", "\n"}:
            raise ValueError("delimiter and quote are two different characters, no line breaks")
        if len(set(self.columns)) != len(self.columns):
            raise ValueError("the same column is named twice")
        return self


class CsvCodec:
    """CSV to a list of dicts (or, of rows without names, of lists) and back."""

    def __init__(self, options: CsvOptions | None = None) -> None:
        self._options = options or CsvOptions()

    def decode(self, raw: bytes, content_type: ContentType) -> list[Any]:
        """The rows. Raises BadMessage, naming row and line, when one has too few or too many
        values, TooLarge for more than are read as a whole."""
        # In one line, too, which would be read at once; and empty ones take their time.
        delimiter = self._options.delimiter.encode()
        if raw.count(delimiter) + raw.count(b"\n") + raw.count(b"\r") > 2 * MAX_VALUES:
            raise too_many("the CSV")
        return gathered(read(io.BytesIO(raw), self._options, content_type), "the CSV")

    def encode(self, data: Any, content_type: ContentType) -> bytes:
        """Write rows; without `columns` they have those of the first one. Raises RouteFailure,
        naming the row, for what is none."""
        if not isinstance(data, list | tuple):
            raise RouteFailure("CSV is written from a list of rows")
        options = _told(self._options, content_type, RouteFailure)
        out = io.StringIO(newline="")
        writer = csv.writer(out, lineterminator="\r\n", **_dialect(options))
        names = options.columns
        if not names and data and isinstance(data[0], dict):
            names = list(data[0])
        number = 0
        try:
            if names and options.header:
                writer.writerow(names)
            for number, row in enumerate(data, 1):
                writer.writerow(_values(row, names, number))
        except csv.Error as e:
            raise RouteFailure(f"row {number} cannot be written as CSV without quotes") from e
        return encoded(out.getvalue(), options.charset, "the CSV")


def read(stream: BinaryIO, options: CsvOptions, content_type: ContentType) -> Iterator[Piece]:
    """Rows, one by one; a row that has not as many values as there are columns has an error."""
    options = _told(options, content_type)
    lines = _Lines(text_lines(stream, options.charset, "the CSV"))
    reader = csv.reader(lines, strict=True, **_dialect(options))
    names = options.columns
    number = 0
    while True:
        lines.read.clear()
        begun = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as e:
            raise BadMessage(f"the CSV is not valid at line {begun}: {e}") from e
        if row is None:
            return
        if not row:
            continue  # an empty line
        number += 1
        if number == 1 and options.header:
            names = _names(row, options.columns)
        elif not names:
            yield Piece(Body.of(row))
        elif len(row) == len(names):
            yield Piece(Body.of(dict(zip(names, row, strict=True))))
        else:
            error = BadMessage(
                f"row {number} of the CSV (line {begun}) has {len(row)} values, there are "
                f"{len(names)} columns"
            )
            yield Piece(Body("".join(lines.read).encode(), "text/plain; charset=utf-8"), error)


class _Lines:
    """Lines for a reader, and which of them it has `read` since that was cleared."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self.read: list[str] = []

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.read.append(line)
        return line


def _told(
    options: CsvOptions, content_type: ContentType, error: type[EsbError] = BadMessage
) -> CsvOptions:
    return told(options, content_type, "charset", "header", "delimiter", "quote", error=error)


def _dialect(options: CsvOptions) -> dict[str, Any]:
    quoting = csv.QUOTE_MINIMAL if options.quote else csv.QUOTE_NONE
    return {"delimiter": options.delimiter, "quotechar": options.quote or None, "quoting": quoting}


def _names(row: Sequence[str], wanted: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    for name in row:
        if name in seen:
            raise BadMessage(f"the CSV has the column {shown(name)} twice")
        seen.add(name)
    for name in wanted:
        if name not in seen:
            raise BadMessage(f"the CSV has no column {shown(name)}")
    return list(row)


def _values(row: Any, names: Sequence[str], number: int) -> Iterable[str]:
    if isinstance(row, dict):
        if not names:
            raise RouteFailure(f"row {number} has names, the first row has none")
        if unknown := row.keys() - set(names):
            raise RouteFailure(
                f"row {number} has {shown(min(unknown))}, which is none of the columns"
            )
        return [_text(row.get(name), number) for name in names]
    if not isinstance(row, list | tuple):
        raise RouteFailure(f"row {number} is no row: CSV is written from objects or lists")
    if names and len(row) != len(names):
        raise RouteFailure(f"row {number} has {len(row)} values, there are {len(names)} columns")
    return [_text(value, number) for value in row]


def _text(value: Any, number: int) -> str:
    if isinstance(value, dict | list | tuple | bytes):
        raise RouteFailure(f"a value of row {number} is nested data: in CSV it is text or a number")
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _written(options: CsvOptions) -> str:
    params = [f"text/csv; charset={options.charset}"]
    if not options.header:
        params.append("header=absent")
    if options.delimiter != ",":
        params.append(f'delimiter="{_escaped(options.delimiter)}"')
    if options.quote != '"':
        params.append(f'quote="{_escaped(options.quote)}"')
    return "; ".join(params)


def _escaped(character: str) -> str:
    return f"\\{character}" if character in ('"', "\\") else character


format = Format(
    CsvCodec, _written, CsvOptions, types=("text/csv",), stream=Stream(read, CsvOptions)
)
