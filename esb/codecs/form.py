"""HTML form data (application/x-www-form-urlencoded, WHATWG URL standard, section 5)."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_to_bytes, urlencode

from esb.codecs._format import Format, NoOptions
from esb.envelope import ContentType
from esb.errors import BadMessage, RouteFailure, TooLarge

MAX_FIELDS = 10_000
_PIECE = 64 * 1024


class FormCodec:
    """`a=1&b=2&b=3` to `{"a": "1", "b": ["2", "3"]}` and back; fields keep their order."""

    def decode(self, raw: bytes, content_type: ContentType) -> dict[str, Any]:
        """The fields; one that comes more than once holds a list.

        Raises BadMessage when a field is not in its charset, TooLarge over `MAX_FIELDS`.
        """
        if raw.count(b"&") >= MAX_FIELDS:
            raise TooLarge(f"the form has more than {MAX_FIELDS} fields")
        fields: dict[str, Any] = {}
        charset = content_type.charset
        for part in raw.split(b"&"):
            if not part:
                continue
            try:
                name, _, value = (_plain(one).decode(charset) for one in part.partition(b"="))
            except UnicodeError as e:
                raise BadMessage(f"the form is not valid {charset}") from e
            if name not in fields:
                fields[name] = value
            elif isinstance(fields[name], list):
                fields[name].append(value)
            else:
                fields[name] = [fields[name], value]
        return fields

    def encode(self, data: Any, content_type: ContentType) -> bytes:
        """Write fields; null is left out. Raises RouteFailure for nested data."""
        if not isinstance(data, dict):
            raise RouteFailure(f"a form is written from fields, not from {type(data).__name__}")
        pairs = [
            (name, _text(name, value))
            for name, values in data.items()
            for value in (values if isinstance(values, list | tuple) else (values,))
            if value is not None
        ]
        try:
            return urlencode(pairs, encoding=content_type.charset, errors="strict").encode("ascii")
        except (UnicodeEncodeError, LookupError) as e:
            raise RouteFailure(f"the form has no form in {content_type.charset}") from e


def _plain(raw: bytes) -> bytes:
    """What stands behind `+` and `%41`; what is no escape stands for itself. In pieces, because
    each escape takes a hundred bytes meanwhile. Raises UnicodeError for what is no ASCII."""
    raw.decode("ascii")
    raw = raw.replace(b"+", b" ")
    if b"%" not in raw:
        return raw
    parts = []
    begin = 0
    while begin < len(raw):
        end = begin + _PIECE
        if (half := raw.rfind(b"%", end - 2, end)) > begin:
            end = half
        parts.append(unquote_to_bytes(raw[begin:end]))
        begin = end
    return b"".join(parts)


def _text(name: str, value: Any) -> str | bytes:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list | tuple):
        raise RouteFailure(f"the form field {name!r} holds nested data")
    return value if isinstance(value, bytes) else str(value)


FORM = "application/x-www-form-urlencoded"
format = Format(lambda options: FormCodec(), lambda options: FORM, NoOptions, types=(FORM,))
