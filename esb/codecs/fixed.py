"""Fixed width: a list of records, each a dict by the names of a layout; one record a line.

Every field has its place by its width. Blanks that fill it up are no part of a value; in `decimals`
the point is left out, as COBOL's PICTURE does with `V`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from decimal import Context, Decimal
from typing import Annotated, Any, BinaryIO, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from esb.codecs._format import (
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
)
from esb.envelope import Body, ContentType
from esb.errors import BadMessage, RouteFailure
from esb.options import Options

_EXACT = Context(prec=4300)
_WHOLE = re.compile(r"[-+]?[0-9]+\Z")
_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)\Z")


class FixedField(Options):
    """One field of a record."""

    width: int = Field(ge=1, le=100_000, description="How many characters it takes.")
    type: Literal["text", "int", "decimal"] = Field("text", description="What it holds.")
    decimals: int = Field(
        0,
        ge=0,
        le=30,
        description="How many of its last digits stand behind a decimal point that is not "
        "written: `00001250` with 2 is 12.50.",
    )
    align: Literal["left", "right"] | None = Field(
        None, description="Where the value stands in it; left out, text left and numbers right."
    )
    pad: Annotated[str, AfterValidator(one_character)] = Field(
        " ", description="What fills it up; `'0'` for numbers with leading zeros."
    )

    @model_validator(mode="after")
    def _numbers(self) -> Self:
        if self.decimals and self.type != "decimal":
            raise ValueError("only a field of type decimal has decimals")
        if self.pad in ("\r", "\n") or (self.pad.isdigit() and self.pad != "0"):
            raise ValueError("a field is not padded with a line break, or a digit other than 0")
        return self

    @property
    def left(self) -> bool:
        """Whether what fills it up stands behind the value."""
        return (self.align or ("left" if self.type == "text" else "right")) == "left"


def _layout(raw: Any) -> Any:
    if not isinstance(raw, list):
        return raw
    fields = {}
    for one in raw:
        if not isinstance(one, dict) or len(one) != 1:
            raise ValueError(
                "each field of the layout is `- name: width` or `- name: {width: ...}`"
            )
        [(name, field)] = one.items()
        if name in fields:
            raise ValueError(f"the layout has the field '{name}' twice")
        fields[name] = {"width": field} if isinstance(field, int | str) else field
    return fields


class FixedOptions(Options):
    """Records of fixed width."""

    layout: Annotated[dict[str, FixedField], BeforeValidator(_layout)] = Field(
        min_length=1,
        description="The fields of a record, in their order: `- name: width`, or `- name: {...}`.",
        json_schema_extra={"type": "array"},
    )
    short: bool = Field(
        False, description="Whether a record may end early: what is missing is blank."
    )
    charset: Annotated[str, AfterValidator(known_charset)] = Field(
        "utf-8", description="How the text is encoded: utf-8, cp1252, cp037 (EBCDIC), ..."
    )


class FixedCodec:
    """Records to a list of dicts and back."""

    def __init__(self, options: FixedOptions) -> None:
        self._options = options

    def decode(self, raw: bytes, content_type: ContentType) -> list[dict[str, Any]]:
        """The records. Raises BadMessage, naming record, field and column, TooLarge for more than
        are read as a whole."""
        return gathered(read(io.BytesIO(raw), self._options, content_type), "the text")

    def encode(self, data: Any, content_type: ContentType) -> bytes:
        """Write records. Raises RouteFailure, naming record and field, for what has no place."""
        if not isinstance(data, list | tuple) or not all(isinstance(r, dict) for r in data):
            raise RouteFailure("records of fixed width are written from a list of objects")
        layout = self._options.layout
        lines = []
        for number, record in enumerate(data, 1):
            if unknown := record.keys() - layout.keys():
                raise RouteFailure(f"record {number}: the layout has no {shown(min(unknown))}")
            values = [
                _write(field, record.get(name), f"record {number}, {shown(name)}")
                for name, field in layout.items()
            ]
            lines.append("".join([*values, "\n"]))
        return encoded("".join(lines), self._options.charset, "a record")


def read(stream: BinaryIO, options: FixedOptions, content_type: ContentType) -> Iterator[Piece]:
    """Records, one by one; one that does not fit the layout has an error."""
    charset = told(options, content_type, "charset").charset
    layout = list(options.layout.items())
    width = sum(field.width for _, field in layout)
    for number, line in enumerate(text_lines(stream, charset, "the text"), 1):
        text = line.rstrip("\r\n")
        if not text:
            continue
        try:
            if len(text) > width or (len(text) < width and not options.short):
                raise BadMessage(
                    f"record {number} has {len(text)} characters, the layout has {width}"
                )
            yield Piece(Body.of(_record(layout, text, number)))
        except BadMessage as e:
            yield Piece(Body(text.encode(), "text/plain; charset=utf-8"), e)


def _record(layout: Sequence[tuple[str, FixedField]], text: str, number: int) -> dict[str, Any]:
    record = {}
    at = 0
    for name, field in layout:
        piece = text[at : at + field.width]
        where = f"record {number}, {shown(name)} (column {at + 1})"
        record[name] = _read(field, piece, where)
        at += field.width
    return record


def _read(field: FixedField, text: str, where: str) -> Any:
    value = text.rstrip(field.pad) if field.left else text.lstrip(field.pad)
    if field.type == "text":
        return value
    if field.pad == "0":
        value = text
    value = value.strip()
    if not value:
        return None
    if field.type == "int" or field.decimals:
        if not _WHOLE.match(value):
            raise BadMessage(f"{where}: {shown(value)} is no whole number")
        return Decimal(f"{int(value)}E-{field.decimals}") if field.decimals else int(value)
    if not _NUMBER.match(value):
        raise BadMessage(f"{where}: {shown(value)} is no number")
    return Decimal(value)


def _write(field: FixedField, value: Any, where: str) -> str:
    text = _text(field, value, where)
    if len(text) > field.width:
        raise RouteFailure(f"{where}: {shown(text)} is longer than {field.width} characters")
    if field.pad == "0" and text[:1] in ("-", "+") and not field.left:
        return text[0] + text[1:].rjust(field.width - 1, "0")
    filled = text.ljust if field.left else text.rjust
    return filled(field.width, " " if value is None else field.pad)


def _text(field: FixedField, value: Any, where: str) -> str:
    if value is None:
        return ""
    if isinstance(value, str) and field.type != "text":
        value = _parsed(field, value, where)
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise RouteFailure(f"{where} is neither a text nor a number")
    if field.type == "text":
        text = str(value)
        if "\n" in text or "\r" in text:
            raise RouteFailure(f"{where} has a line break in it")
        return text
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not number.is_finite():
        raise RouteFailure(f"{where} is no number")
    scaled = _EXACT.scaleb(number, field.decimals)
    if field.type == "int" or field.decimals:
        if scaled != scaled.to_integral_value():
            raise RouteFailure(f"{where}: {number} has more decimals than its place")
        return str(int(scaled))
    return f"{number:f}"


def _parsed(field: FixedField, text: str, where: str) -> Decimal:
    if not _NUMBER.match(text.strip()):
        raise RouteFailure(f"{where}: {shown(text)} is no number")
    return Decimal(text.strip())


format = Format(
    FixedCodec,
    lambda options: f"text/plain; charset={options.charset}",
    FixedOptions,
    stream=Stream(read, FixedOptions),
)
