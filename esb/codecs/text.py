"""Plain text (text/*) in the charset of its content type, UTF-8 without one."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from esb.envelope import ContentType
from esb.errors import BadMessage, RouteFailure

_SCALARS = (str, int, float, Decimal, datetime)


class TextCodec:
    """Text to `str` and back; numbers and booleans are written as text too."""

    def decode(self, raw: bytes, content_type: ContentType) -> str:
        """The text, without a byte order mark. Raises BadMessage if it is not in its charset."""
        try:
            return raw.decode(content_type.charset).removeprefix("\ufeff")
        except (UnicodeError, LookupError) as e:
            raise BadMessage(f"the body is not valid {content_type.charset}") from e

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
        try:
            text = data.isoformat() if isinstance(data, datetime) else str(data)
            return text.encode(content_type.charset)
        except (UnicodeEncodeError, LookupError) as e:
            raise RouteFailure(f"the text has no form in {content_type.charset}") from e
