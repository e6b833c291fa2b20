"""Plain text (text/*) in the charset of its content type, UTF-8 without one."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from esb.codecs._format import Format, encoded, known_charset, told
from esb.envelope import ContentType
from esb.errors import BadMessage, RouteFailure
from esb.options import Options

_SCALARS = (str, int, float, Decimal, datetime)


class TextOptions(Options):
    """Plain text."""

    charset: Annotated[str, AfterValidator(known_charset)] = Field(
        "utf-8", description="How the text is encoded: utf-8, cp1252, utf-16, ..."
    )


class TextCodec:
    """Text to `str` and back; numbers and booleans are written as text too."""

    def __init__(self, options: TextOptions | None = None) -> None:
        self._options = options or TextOptions()

    def decode(self, raw: bytes, content_type: ContentType) -> str:
        """The text, without a byte order mark. Raises BadMessage if it is not in its charset."""
        charset = told(self._options, content_type, "charset").charset
        try:
            return raw.decode(charset).removeprefix("\ufeff")
        except (UnicodeError, LookupError) as e:
            raise BadMessage(f"the body is not valid {charset}") from e

    def encode(self, data: Any, content_type: ContentType) -> bytes:
        """Write a scalar. Raises RouteFailure for structures and what the charset lacks."""
        if isinstance(data, bytes):
            return data
        if data is None:
            return b""
        if isinstance(data, bool):
            data = "true" if data else "false"
        elif not isinstance(data, _SCALARS):
            raise RouteFailure(f"{type(data).__name__} data cannot be written as text")
        text = data.isoformat() if isinstance(data, datetime) else str(data)
        options = told(self._options, content_type, "charset", error=RouteFailure)
        return encoded(text, options.charset, "the text")


format = Format(
    TextCodec, lambda options: f"text/plain; charset={options.charset}", TextOptions, ("text/*",)
)
