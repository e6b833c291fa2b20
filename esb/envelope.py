"""The canonical message: an immutable envelope around a body that is parsed only when read.

The attributes are those of CloudEvents 1.0 (section 3.1). Two rules hold everywhere:

* What the wire sends is data, never a command. Wire headers live in `Envelope.headers`, which no
  component reads as control; what controls delivery is a typed field that no wire name can reach.
* A body that nobody reads is never parsed. `Body` keeps the bytes it came with, so a message that
  no step changes leaves as it arrived; where a route proved at its load that nothing in it reads
  them, they may pass as they arrive.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from encodings.aliases import aliases
from enum import Enum
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import msgspec

from esb.errors import (
    BadMessage,
    Permanent,
    RouteFailure,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)

HeaderValue = str | bytes | int | float | bool | None | datetime | list[Any] | dict[str, Any]
"""A scalar, bytes, or (AMQP) a table. HTTP and SOAP carry `str` only."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_UNSAFE = re.compile(r"[\r\n\0]")
_NO_NAME = re.compile(r"[^a-z0-9]+")
_QUOTED_PAIR = re.compile(r"\\(.)")
_PARAMETER = re.compile(r"([^;=]*)(?:=\s*(?:(\"(?:[^\"\\]|\\.)*\")\s*(?=;|\Z)|([^;]*)))?(?:;|\Z)")


class ContentType(msgspec.Struct, frozen=True):
    """A parsed media type (RFC 9110, section 8.3): `essence` is lower case, without parameters."""

    essence: str
    params: dict[str, str] = {}

    @property
    def charset(self) -> str:
        """The declared charset, or "utf-8". Raises BadMessage for one that is not read here."""
        name = self.params.get("charset")
        return "utf-8" if name is None else known_charset(name)


_CODECS_READ: Final = frozenset(
    """
    ascii latin_1 utf_8 utf_8_sig utf_16 utf_16_le utf_16_be utf_32 utf_32_le utf_32_be iso8859_2
    iso8859_3 iso8859_4 iso8859_5 iso8859_6 iso8859_7 iso8859_8 iso8859_9 iso8859_10 iso8859_11
    iso8859_13 iso8859_14 iso8859_15 iso8859_16 cp1250 cp1251 cp1252 cp1253 cp1254 cp1255 cp1256
    cp1257 cp1258 cp037 cp273 cp437 cp500 cp775 cp850 cp852 cp855 cp857 cp858 cp866 cp874 cp932
    cp949 cp950 cp1026 cp1140 koi8_r koi8_u mac_roman tis_620 shift_jis euc_jp gb2312 gbk gb18030
    big5 big5hkscs euc_kr
    """.split()  # noqa: SIM905 - a list of them would be a page
)
_CHARSETS: Final = {alias: name for alias, name in aliases.items() if name in _CODECS_READ} | {
    name: name for name in _CODECS_READ
}


def known_charset(name: str) -> str:
    """The same charset, in lower case. Raises BadMessage for one that is none, and for codecs that
    are more than a table of characters (UTF-7, punycode, escapes): two readers would read two
    things. Python is never asked for a name from the wire; it would remember each."""
    name = name.lower()
    if _NO_NAME.sub("_", name) not in _CHARSETS:
        raise BadMessage(f"the charset {name[:40]!r} is not read here")
    return name


@lru_cache(maxsize=512)
def parse_content_type(value: str) -> ContentType:
    """Parse a Content-Type value; parameters are lower-cased by name and unquoted."""
    essence, _, rest = value.partition(";")
    params: dict[str, str] = {}
    at = 0
    while found := _PARAMETER.match(rest, at):
        name, quoted, bare = found.groups()
        if quoted is not None:
            params[name.strip().lower()] = _QUOTED_PAIR.sub(r"\1", quoted[1:-1])
        elif bare is not None:
            params[name.strip().lower()] = bare.strip().strip('"')
        if found.end() == at:
            break
        at = found.end()
    return ContentType(essence.strip().lower(), params)


class Codec(Protocol):
    """Turns bytes of one family of media types into plain data and back."""

    def decode(self, raw: bytes, content_type: ContentType) -> Any:
        """Parse `raw`. Raises BadMessage when it is not what its content type says."""

    def encode(self, data: Any, content_type: ContentType) -> bytes:
        """Write `data`. Raises EsbError when this format cannot hold it."""


_CODECS: dict[str, Codec] = {}


def register_codec(codec: Codec, *media_types: str) -> None:
    """Make `codec` the one for `media_types`: "application/json", or a suffix such as "+json"."""
    for media_type in media_types:
        _CODECS[media_type] = codec


def codec_for(content_type: str) -> Codec:
    """The codec of a content type, found by media type, then by structured suffix (RFC 6839).

    Raises UnsupportedMedia when there is none.
    """
    essence = parse_content_type(content_type).essence
    codec = _CODECS.get(essence)
    if codec is None:
        _, plus, suffix = essence.rpartition("+")
        codec = _CODECS.get(f"+{suffix}") if plus else None
    if codec is None:
        codec = _CODECS.get(essence.partition("/")[0] + "/*")
    if codec is None:
        raise UnsupportedMedia(f"no codec reads {essence or 'a body without a content type'}")
    return codec


_UNSET: Final = object()

MAX_WHOLE: Final = 64 * 1024 * 1024
"""Bytes of a file that may be read into memory as a whole, if nobody says otherwise."""

PIECE: Final = 256 * 1024
"""Bytes of a file that are read at a time where it is passed on piece by piece."""


class _File(msgspec.Struct, frozen=True):
    """Where the bytes of a body lie, and how many there are."""

    path: Path
    size: int
    max_whole: int
    which: tuple[int, int]  # device and inode: another may get its name, or a link to another

    def open(self) -> BinaryIO:
        try:
            # Without O_NONBLOCK a named pipe would keep us waiting for its writer.
            stream = os.fdopen(os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
            found = os.fstat(stream.fileno())
        except OSError as e:
            raise _unreadable(self.path, e) from e
        if (found.st_dev, found.st_ino) != self.which:
            stream.close()
            raise Permanent("the file with the body is gone").noted(f"{self.path} is another now")
        return stream

    def read(self) -> bytes:
        with self.open() as stream:
            try:
                raw = stream.read(self.max_whole + 1)
            except OSError as e:
                raise _unreadable(self.path, e) from e
        if len(raw) > self.max_whole:
            raise TooLarge(
                f"the body has {self.size} bytes; at most {self.max_whole} are read as a whole"
            ).noted("a `split` with `stream` reads it piece by piece")
        return raw

    async def chunks(self) -> AsyncIterator[bytes]:
        stream = await asyncio.to_thread(self.open)
        try:
            while piece := await asyncio.to_thread(stream.read, PIECE):
                yield piece
        except OSError as e:
            raise _unreadable(self.path, e) from e
        finally:
            stream.close()


class _Stream:
    """What is still arriving; everybody who holds the body holds this."""

    __slots__ = ("_arriving", "_taken", "size")

    def __init__(self, arriving: AsyncIterator[bytes], size: int | None) -> None:
        self._arriving = arriving
        self._taken = False
        self.size = size

    def chunks(self) -> AsyncIterator[bytes]:
        if self._taken:
            raise Permanent("the body passed as it arrived and cannot be had a second time")
        self._taken = True
        return self._arriving

    async def close(self) -> None:
        self._taken = True
        aclose = getattr(self._arriving, "aclose", None)
        if aclose is not None:
            await aclose()

    def open(self) -> BinaryIO:
        raise RouteFailure("the body passes as it arrives, and nothing can read it here")

    def read(self) -> bytes:
        raise RouteFailure("the body passes as it arrives, and nothing can read it here")


async def _at_once(raw: bytes) -> AsyncIterator[bytes]:
    if raw:
        yield raw


def _unreadable(path: Path, error: OSError) -> Permanent | Unavailable:
    if isinstance(error, FileNotFoundError):
        return Permanent("the file with the body is gone").noted(str(path))
    return Unavailable("the file with the body cannot be read now").noted(f"{path}: {error}")


class Body:
    """Content in its bytes, its data, or both; each is made from the other at most once.

    Data is plain: None, bool, int, float, Decimal, str, bytes, list, dict; an lxml element for
    XML. It is shared by everyone who holds the body: never change it in place. The bytes may lie in
    a file (EIP: Claim Check), which is read when somebody asks for them; `open` reads it as a
    stream. Or they are still arriving: then `chunks` gives them, once, and nothing else does.
    """

    __slots__ = ("_data", "_part", "_raw", "_source", "content_type", "weight")

    content_type: str
    weight: int  # of data that is not written yet: about how many bytes, 0 if nobody said
    _part: tuple[Callable[[Body], Any], Any]  # not there until somebody asks
    _raw: bytes | None
    _data: Any
    _source: _File | _Stream | None  # where the bytes come from, if they are not at hand

    def __init__(self, raw: bytes | None, content_type: str, data: Any = _UNSET) -> None:
        self._raw = raw
        self._data = data
        self._source = None
        self.content_type = content_type
        self.weight = 0

    @classmethod
    def of(cls, data: Any, content_type: str = "application/json") -> Body:
        """A body from plain data, written as `content_type` when somebody asks for its bytes."""
        return cls(None, content_type, data)

    @classmethod
    def from_file(
        cls,
        path: Path,
        content_type: str,
        *,
        max_whole: int = MAX_WHOLE,
        status: os.stat_result | None = None,
    ) -> Body:
        """A body that lies in a file, which stays there and as it is while the body is in use.

        max_whole: up to this size in bytes it may be read into memory as a whole. status: of the
        file that is meant, if the path might lead to another meanwhile. Raises Permanent when there
        is no such file, Unavailable when it cannot be looked at.
        """
        body = cls(None, content_type)
        try:
            found = status or path.stat()
            which = found.st_dev, found.st_ino
            body._source = _File(path, found.st_size, max_whole, which)
        except OSError as e:
            raise _unreadable(path, e) from e
        return body

    @classmethod
    def from_stream(
        cls, chunks: AsyncIterator[bytes], content_type: str, size: int | None = None
    ) -> Body:
        """A body that is still arriving. size: how many bytes there will be, if that is known.

        Only for a route whose load proved that nothing in it reads the body or needs it twice.
        Whoever made it sees to it that what nobody takes comes to an end (`close`).
        """
        body = cls(None, content_type)
        body._source = _Stream(chunks, size)
        return body

    def chunks(self) -> AsyncIterator[bytes]:
        """The bytes, piece by piece: what is at hand at once, a file off the event loop, a stream
        as it arrives. Whoever breaks off closes the body (`close`).

        Raises as `raw` does, except for the size; Permanent for a stream that was taken before, and
        whatever ends a stream early.
        """
        if self._raw is None and self._source is not None:
            return self._source.chunks()
        return _at_once(self.raw)

    async def close(self) -> None:
        """Give up a stream that nobody takes to its end; nothing for any other body."""
        if isinstance(self._source, _Stream):
            await self._source.close()

    def open(self) -> BinaryIO:
        """The bytes as a stream, from their beginning; whoever opens it closes it.

        A file is not read whole. Raises as `raw` does, except for the size.
        """
        if self._raw is None and self._source is not None:
            return self._source.open()
        return io.BytesIO(self.raw)

    def typed(self, content_type: str) -> Body:
        """The same bytes under another content type, not read or parsed for it."""
        body = Body(self._raw if self._source is not None else self.raw, content_type)
        body._source = self._source
        return body

    @property
    def raw(self) -> bytes:
        """The bytes: those that came, or the data written by its codec.

        Raises EsbError when the data cannot be written; of a file TooLarge when it is too large to
        be read whole, Permanent or Unavailable when it cannot be read; RouteFailure for a stream.
        """
        if self._raw is None:
            if self._source is not None:
                self._raw = self._source.read()
            else:
                codec = codec_for(self.content_type)
                self._raw = codec.encode(self._data, parse_content_type(self.content_type))
        return self._raw

    @property
    def data(self) -> Any:
        """The parsed content. Raises BadMessage or UnsupportedMedia when it cannot be read."""
        if self._data is _UNSET:
            raw = self.raw if self._source is not None else self._raw or b""
            if not raw and not self.content_type:
                self._data = None
            else:
                codec = codec_for(self.content_type)
                self._data = codec.decode(raw, parse_content_type(self.content_type))
        return self._data

    def part(self, read: Callable[[Body], Any]) -> Any:
        """What `read` makes of the body, where all of its data would be too much: looked for once
        for all who ask in the same way. Raises as `read` does."""
        known = getattr(self, "_part", None)
        if known is None or known[0] is not read:
            known = self._part = (read, read(self))
        return known[1]

    @property
    def text(self) -> str:
        """The bytes decoded with the declared charset. Raises BadMessage if they are not that."""
        charset = parse_content_type(self.content_type).charset
        try:
            return self.raw.decode(charset)
        except (UnicodeError, LookupError) as e:
            raise BadMessage(f"the body is not valid {charset}") from e

    def written_as(self, content_type: str) -> Body:
        """The same content in another format, for a receiver who asks for it. A body that knows
        how its data looked there may say more than a codec. Writing it may raise EsbError."""
        return Body.of(self.data, content_type)

    @property
    def is_empty(self) -> bool:
        """No bytes and no data; reading this never parses or writes anything. A stream is not
        empty unless its size says so."""
        if self._source is not None:
            return self._source.size == 0
        return not self._raw and (self._data is _UNSET or self._data is None)

    @property
    def is_parsed(self) -> bool:
        """Whether `data` is at hand without parsing."""
        return self._data is not _UNSET

    @property
    def is_written(self) -> bool:
        """Whether `raw` is at hand without writing."""
        return self._raw is not None or isinstance(self._source, _File)

    @property
    def is_stream(self) -> bool:
        """Whether it is still arriving: only `chunks` gives it, and only once."""
        return isinstance(self._source, _Stream)

    @property
    def size(self) -> int | None:
        """How many bytes there are; None if they are not written yet, or nobody knows."""
        if self._source is not None:
            return self._source.size
        return None if self._raw is None else len(self._raw)

    def __repr__(self) -> str:
        size = "data" if self.size is None else f"{self.size} bytes"
        return f"<Body {self.content_type or 'untyped'} {size}>"


NO_BODY: Final = Body(b"", "")


class Headers:
    """An ordered, immutable multi-map; names compare without case, values keep their type.

    Raises BadMessage for a name that is no token (RFC 9110, section 5.6.2) or a text value with
    CR, LF or NUL: a header that cannot be smuggled in cannot be smuggled on.
    """

    __slots__ = ("_index", "_pairs")

    def __init__(self, pairs: Iterable[tuple[str, HeaderValue]] = ()) -> None:
        self._pairs = tuple(pairs)
        self._index: Mapping[str, HeaderValue] | None = None
        for name, value in self._pairs:
            _check_header(name, value)

    @classmethod
    def trusted(cls, pairs: Iterable[tuple[str, HeaderValue]]) -> Headers:
        """Headers whose names and values a protocol parser has already checked."""
        headers = cls.__new__(cls)
        headers._pairs = tuple(pairs)
        headers._index = None
        return headers

    @classmethod
    def parsed(
        cls, pairs: Iterable[tuple[str, HeaderValue]], index: Mapping[str, HeaderValue]
    ) -> Headers:
        """The same, with the first value of each name: all names are in lower case already."""
        headers = cls.__new__(cls)
        headers._pairs = tuple(pairs)
        headers._index = index
        return headers

    def get(self, name: str, default: Any = None) -> Any:
        """The first value under `name`, or `default`."""
        if self._index is None:
            self._index = {n.lower(): v for n, v in reversed(self._pairs)}
        return self._index.get(name.lower(), default)

    def get_all(self, name: str) -> list[HeaderValue]:
        """Every value under `name`, in order."""
        name = name.lower()
        return [v for n, v in self._pairs if n.lower() == name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name, _UNSET) is not _UNSET

    def __iter__(self) -> Iterator[tuple[str, HeaderValue]]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self._pairs == other._pairs

    def __hash__(self) -> int:
        return hash(tuple(name.lower() for name, _ in self._pairs))

    def __repr__(self) -> str:
        # Values may be credentials, so only names are ever shown.
        return f"<Headers {', '.join(name for name, _ in self._pairs)}>"

    def replace(self, changes: Mapping[str, HeaderValue]) -> Headers:
        """A copy where each changed name has exactly that value; None removes it."""
        if not changes:
            return self
        gone = {name.lower() for name in changes}
        for name, value in changes.items():
            _check_header(name, value)
        kept = [pair for pair in self._pairs if pair[0].lower() not in gone]
        kept += [(name, value) for name, value in changes.items() if value is not None]
        return Headers.trusted(kept)

    def keep(self, wanted: Callable[[str], bool]) -> Headers:
        """A copy of the headers whose lower-case name is `wanted`."""
        return Headers.trusted(pair for pair in self._pairs if wanted(pair[0].lower()))


def _check_header(name: str, value: HeaderValue) -> None:
    if not _TOKEN.match(name):
        raise BadMessage(f"{name[:40]!r} is no header name")
    if isinstance(value, str) and _UNSAFE.search(value):
        raise BadMessage(f"the value of header {name!r} has a line break or a NUL")


NO_HEADERS: Final = Headers()
NO_PARAMS: Final[Mapping[str, Mapping[str, Any]]] = {}


class Outcome(Enum):
    """What a returned envelope stands for, so that its source can answer for it."""

    MESSAGE = "message"  # the message itself, as the steps left it
    REPLY = "reply"  # the answer that a call brought
    ACCEPTED = "accepted"  # taken durably by somebody else; there is nothing more to tell
    FILTERED = "filtered"  # a rule stopped it: acknowledged, counted, not passed on
    DEAD = "dead"  # gave up; it lies in the dead letters with its reason

    # There is one of each, and Enum's own hash is made in Python each time.
    __hash__ = object.__hash__


# Of ids to come, and of those of this millisecond: to ask the system for a few random bytes takes
# longer than all else about an id.
_random_parts: Final[list[str]] = []
_millis, _time_part = 0, ""
_DIGITS: Final = re.compile("(...)(...)(.{12})")
_TO_VARIANT: Final = str.maketrans("0123456789abcdef", "89ab" * 4)
os.register_at_fork(after_in_child=_random_parts.clear)


def new_id() -> str:
    """A time-ordered unique id (UUID version 7, RFC 9562 section 5.7)."""
    global _millis, _time_part
    if (now := time.time_ns() // 1_000_000) != _millis:
        _millis, _time_part = now, f"{now >> 16:08x}-{now & 0xFFFF:04x}-7"
    try:
        return _time_part + _random_parts.pop()
    except IndexError:
        variants = os.urandom(128).hex().translate(_TO_VARIANT)
        digits = _DIGITS.findall(os.urandom(256 * 9).hex())
        _random_parts.extend(
            f"{a}-{v}{b}-{c}" for (a, b, c), v in zip(digits, variants, strict=True)
        )
        return _time_part + _random_parts.pop()


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """One message on its way through the bus.

    id, source, type, time, subject: CloudEvents 1.0 attributes. A source gives a message that it
        may be asked for again the same id each time.
    correlation_id: ties a reply, or the parts of a split, to what they belong to.
    business_key: what people look the message up by, if its route says so; never read as control.
    headers: what the wire sent or `set` wrote; data only.
    params: what a source knows beside headers and body, by group: {"path": {...}, "query": {...}};
        "reply" holds what the last call's protocol told (see `reply`).
    attempt: 1 for the first try; counted by the bus, never read from the wire.
    deadline: when the waiting caller gives up, on the clock of `time.monotonic`; None: never.
    principal: who the listener authenticated, or "".
    traceparent, tracestate: W3C Trace Context.
    """

    body: Body = NO_BODY
    id: str = msgspec.field(default_factory=new_id)
    source: str = "esb"
    type: str = "message"
    time: datetime = msgspec.field(default_factory=partial(datetime.now, UTC))
    subject: str = ""
    correlation_id: str = ""
    business_key: str = ""
    headers: Headers = NO_HEADERS
    params: Mapping[str, Mapping[str, Any]] = NO_PARAMS
    outcome: Outcome = Outcome.MESSAGE
    attempt: int = 1
    deadline: float | None = None
    reply_to: str = ""
    principal: str = ""
    traceparent: str = ""
    tracestate: str = ""

    @property
    def content_type(self) -> str:
        """The content type of the body, "" if it has none."""
        return self.body.content_type

    def replace(self, **changes: Any) -> Envelope:
        """A copy with the named fields changed."""
        return msgspec.structs.replace(self, **changes)

    def with_body(self, body: Body) -> Envelope:
        """A copy with a new body; a message only accepted so far has something to answer again."""
        outcome = Outcome.MESSAGE if self.outcome is Outcome.ACCEPTED else self.outcome
        return self.replace(body=body, outcome=outcome)

    def reply(
        self, body: Body, headers: Headers = NO_HEADERS, facts: Mapping[str, Any] | None = None
    ) -> Envelope:
        """The answer to this message: same correlation, trace, params and deadline.

        `facts` is what the far side's protocol told beside headers and body ({"status": 201}). They
        are the params "reply", in place of those of an earlier reply.
        """
        return self.replace(
            body=body,
            headers=headers,
            params={**self.params, "reply": facts or {}},
            correlation_id=self.correlation_id or self.id,
            outcome=Outcome.REPLY,
        )


__all__ = [
    "NO_BODY",
    "NO_HEADERS",
    "Body",
    "Codec",
    "ContentType",
    "Envelope",
    "HeaderValue",
    "Headers",
    "Outcome",
    "codec_for",
    "new_id",
    "parse_content_type",
    "register_codec",
]
