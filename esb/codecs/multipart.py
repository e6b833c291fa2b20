"""Multipart bodies (RFC 2046, section 5.1): form data (RFC 7578) and mixed.

A form is a dict of its fields: text is a `str`, a file `{"filename", "content_type", "content"}`
with its bytes as `content`; a field that comes more than once holds a list. Mixed is a list of
parts, each `{"headers", "content_type", "content"}`: text of a text type, else bytes.
"""

from __future__ import annotations

import binascii
import logging
import quopri
import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple
from uuid import uuid4

from pydantic import Field

from esb.codecs._format import Format, shown
from esb.envelope import ContentType, parse_content_type
from esb.errors import BadMessage, RouteFailure, TooLarge
from esb.options import Options

MAX_PARTS: Final = 1_000
MAX_HEADERS: Final = 50
MAX_HEADER: Final = 8 * 1024

# What it warns of, it also raises: a sender's mistake is none of the bus's.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

_FORM: Final = "multipart/form-data"
_TEXT: Final = "text/plain"
_DISPOSITION: Final = "content-disposition"
_QUOTED = re.compile(r"%22|%0D|%0A", re.IGNORECASE)
_UNSAFE = re.compile(r"[\r\n\0]")
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]\Z")


class MultipartOptions(Options):
    """Several parts in one body."""

    __shorthand__ = "kind"

    kind: Literal["form-data", "mixed"] = Field(
        "form-data",
        description="`form-data`: the fields and files of a form; `mixed`: a list of parts.",
    )


class _Part(NamedTuple):
    headers: dict[str, str]
    content: bytes

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "")


class MultipartCodec:
    """Parts to a dict (form data) or a list (mixed), and back."""

    def decode(self, raw: bytes, content_type: ContentType) -> Any:
        """The parts. Raises BadMessage, naming the part, for what is malformed; TooLarge over
        `MAX_PARTS`, `MAX_HEADERS` of a part or `MAX_HEADER` bytes of one."""
        parts = list(_parts(raw, _boundary(content_type, BadMessage)))
        if content_type.essence == _FORM:
            return _fields(parts)
        return [_mixed(part, number) for number, part in enumerate(parts, 1)]

    def encode(self, data: Any, content_type: ContentType) -> bytes:
        """Write parts between the boundary of the content type; bytes are taken for written.
        Raises RouteFailure, naming the part, for what is none."""
        if isinstance(data, bytes):
            return data
        boundary = _boundary(content_type, RouteFailure)
        if content_type.essence == _FORM:
            parts = list(_from_fields(data))
        else:
            parts = list(_from_mixed(data))
        out = bytearray()
        for part in parts:
            if boundary in part.content:
                raise RouteFailure("a part has the boundary in it that stands between the parts")
            out += b"--%b\r\n" % boundary
            for name, value in part.headers.items():
                if _UNSAFE.search(name + value) or ":" in name:
                    raise RouteFailure(f"a part has a header {shown(name)} with a line break in it")
                out += f"{name}: {value}\r\n".encode()
            out += b"\r\n%b\r\n" % part.content
        return bytes(out + b"--%b--\r\n" % boundary)


def _boundary(content_type: ContentType, error: type[BadMessage | RouteFailure]) -> bytes:
    boundary = content_type.params.get("boundary", "")
    if not _BOUNDARY.match(boundary):
        raise error(f"{content_type.essence} needs a boundary in its content type")
    return boundary.encode()


def _parts(raw: bytes, boundary: bytes) -> Iterator[_Part]:
    found: list[_Part] = []
    name, value, content = bytearray(), bytearray(), bytearray()
    headers: dict[str, str] = {}
    ended = False

    def begin() -> None:
        if len(found) == MAX_PARTS:
            raise TooLarge(f"the body has more than {MAX_PARTS} parts")
        headers.clear()
        content.clear()

    def header() -> None:
        key = name.decode("ascii", "replace").lower()
        if key in headers:
            raise BadMessage(f"part {len(found) + 1} has the header {shown(key)} twice")
        try:
            headers[key] = value.decode().strip()
        except UnicodeDecodeError as e:
            raise BadMessage(f"part {len(found) + 1} has a header that is not UTF-8") from e
        name.clear()
        value.clear()

    def end() -> None:
        nonlocal ended
        ended = True

    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser

    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": begin,
            "on_header_field": lambda data, start, stop: name.extend(data[start:stop]),
            "on_header_value": lambda data, start, stop: value.extend(data[start:stop]),
            "on_header_end": header,
            "on_part_data": lambda data, start, stop: content.extend(data[start:stop]),
            "on_part_end": lambda: found.append(_Part(dict(headers), bytes(content))),
            "on_end": end,
        },
        max_header_count=MAX_HEADERS,
        max_header_size=MAX_HEADER,
    )
    try:
        parser.write(raw)
        parser.finalize()
    except FormParserError as e:
        where = f"part {len(found) + 1}"
        if "exceeded" in str(e):
            raise TooLarge(f"{where} has too many headers, or one that is too long") from e
        raise BadMessage(f"the body is not valid multipart at {where}") from e
    if not ended:
        raise BadMessage(f"the multipart body ends too early, in part {len(found) + 1}")
    return iter(found)


# --- forms ----------------------------------------------------------------------------------------


def _fields(parts: list[_Part]) -> dict[str, Any]:
    from python_multipart.multipart import parse_options_header

    fields: dict[str, Any] = {}
    seen: set[str] = set()
    for number, part in enumerate(parts, 1):
        kind, params = parse_options_header(part.headers.get(_DISPOSITION, "").encode())
        if kind != b"form-data" or b"name" not in params:
            raise BadMessage(f"part {number} does not say which field of the form it is")
        name = _unquoted(params[b"name"])
        value: Any
        if b"filename" in params or part.content_type not in ("", _TEXT):
            value = {"content_type": part.content_type or _TEXT, "content": part.content}
            if b"filename" in params:
                value["filename"] = _unquoted(params[b"filename"])
        else:
            value = _decoded(part, f"the field {shown(name)}")
        if name not in seen:
            fields[name] = value
            seen.add(name)
        elif isinstance(fields[name], list):
            fields[name].append(value)
        else:
            fields[name] = [fields[name], value]
    return fields


def _unquoted(raw: bytes) -> str:
    # Browsers write these three percent-encoded (RFC 7578, section 2; HTML, section 4.10.22.8).
    return _QUOTED.sub(lambda found: chr(int(found[0][1:], 16)), raw.decode())


def _quoted(text: str) -> str:
    for character, written in (('"', "%22"), ("\r", "%0D"), ("\n", "%0A")):
        text = text.replace(character, written)
    return text


def _from_fields(data: Any) -> Iterator[_Part]:
    if not isinstance(data, Mapping):
        raise RouteFailure("form data is written from an object with its fields")
    for name, values in data.items():
        for value in values if isinstance(values, list | tuple) else (values,):
            if value is None:
                continue
            headers = {_DISPOSITION: f'form-data; name="{_quoted(str(name))}"'}
            where = f"the field {shown(str(name))}"
            if isinstance(value, Mapping):
                _known(value, ("filename", "content_type", "content"), where)
                if "filename" in value:
                    headers[_DISPOSITION] += f'; filename="{_quoted(str(value["filename"]))}"'
                headers["content-type"] = str(value.get("content_type", _TEXT))
                value = value.get("content")
            yield _Part(headers, _bytes(value, headers.get("content-type", ""), where))


# --- mixed ----------------------------------------------------------------------------------------


def _mixed(part: _Part, number: int) -> dict[str, Any]:
    headers = {name: value for name, value in part.headers.items() if name != "content-type"}
    encoding = headers.pop("content-transfer-encoding", "binary").lower()
    content = part.content
    if encoding == "base64":
        try:
            content = b64decode(b"".join(content.split()), validate=True)
        except binascii.Error as e:
            raise BadMessage(f"part {number} is not valid base64") from e
    elif encoding == "quoted-printable":
        content = quopri.decodestring(content)
    elif encoding not in ("binary", "8bit", "7bit"):
        raise BadMessage(f"part {number} has an encoding that is not known: {shown(encoding)}")
    part = _Part(part.headers, content)
    text = (part.content_type or _TEXT).lower().startswith("text/")
    return {
        "headers": headers,
        "content_type": part.content_type or _TEXT,
        "content": _decoded(part, f"part {number}") if text else content,
    }


def _from_mixed(data: Any) -> Iterator[_Part]:
    if not isinstance(data, list | tuple):
        raise RouteFailure("multipart/mixed is written from a list of parts")
    for number, part in enumerate(data, 1):
        where = f"part {number}"
        if not isinstance(part, Mapping):
            raise RouteFailure(f"{where} is no object with `content_type` and `content`")
        _known(part, ("headers", "content_type", "content"), where)
        headers = {str(name).lower(): str(v) for name, v in (part.get("headers") or {}).items()}
        headers["content-type"] = content_type = str(part.get("content_type", _TEXT))
        yield _Part(headers, _bytes(part.get("content"), content_type, where))


# --- both -----------------------------------------------------------------------------------------


def _known(part: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    if unknown := part.keys() - set(keys):
        raise RouteFailure(f"{where} has {shown(str(min(unknown)))}: it holds {', '.join(keys)}")


def _decoded(part: _Part, where: str) -> str:
    charset = parse_content_type(part.content_type).charset
    try:
        return part.content.decode(charset)
    except (UnicodeError, LookupError) as e:
        raise BadMessage(f"{where} is not valid {charset}") from e


def _bytes(value: Any, content_type: str, where: str) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, bool):
        value = "true" if value else "false"
    if value is None or isinstance(value, Mapping | list | tuple):
        raise RouteFailure(f"{where} has neither text nor bytes as its content")
    charset = parse_content_type(content_type).charset
    try:
        return str(value).encode(charset)
    except (UnicodeEncodeError, LookupError) as e:
        raise RouteFailure(f"{where} cannot be written in {charset}") from e


format = Format(
    lambda options: MultipartCodec(),
    lambda options: f"multipart/{options.kind}; boundary={uuid4().hex}",
    MultipartOptions,
    types=(_FORM, "multipart/mixed"),
)
