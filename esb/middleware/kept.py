"""Where the answers of a cache lie: in this process, or in Redis for several."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

import msgspec

from esb.envelope import Body, Envelope, Headers, codec_for
from esb.envelope import parse_content_type as parsed
from esb.errors import EsbError, Unavailable
from esb.metrics import Number
from esb.record import decode, encode
from esb.redis import Redis


class Entry(msgspec.Struct, frozen=True):
    """An answer. made, fresh, stale, rescue: when it was; until when it is good; is good while
    another is fetched; is better than none. size: in bytes. ttl: how long it was to be good."""

    body: Body
    headers: Headers
    facts: Mapping[str, Any] | None
    made: float
    fresh: float
    stale: float
    rescue: float
    size: int

    @property
    def until(self) -> float:
        """When nobody wants it any more."""
        return max(self.fresh, self.stale, self.rescue)

    def answer(self, envelope: Envelope) -> Envelope:
        """It, as the answer to a message."""
        if self.facts is None:
            return envelope.replace(body=self.body, headers=self.headers)
        return envelope.reply(self.body, self.headers, self.facts)


class Memory:
    """Answers in this process; the least recently used go when there are too many."""

    def __init__(self, most: int, max_size: int, evicted: Number) -> None:
        self._most, self._max_size, self._evicted = most, max_size, evicted
        self._kept: OrderedDict[bytes, Entry] = OrderedDict()
        self.size = 0

    def __len__(self) -> int:
        return len(self._kept)

    async def get(self, key: bytes, now: float) -> Entry | None:
        """What is kept under a key."""
        entry = self._kept.get(key)
        if entry is None:
            return None
        if entry.until <= now:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return entry

    async def put(self, key: bytes, entry: Entry, now: float) -> None:
        """Keep an answer, if it is no larger than all may be together."""
        self._drop(key)
        if entry.size > self._max_size:
            return
        self._kept[key] = entry
        self.size += entry.size
        while len(self._kept) > self._most or self.size > self._max_size:
            self._drop(next(iter(self._kept)))
            self._evicted.value += 1

    async def purge(self) -> int:
        """Forget all; how many there were."""
        count = len(self._kept)
        self._kept.clear()
        self.size = 0
        return count

    def _drop(self, key: bytes) -> None:
        entry = self._kept.pop(key, None)
        if entry is not None:
            self.size -= entry.size


class Shared:
    """Answers in Redis. While that is away they are kept in `memory`."""

    def __init__(self, redis: Redis, scope: str, memory: Memory) -> None:
        self._redis, self._memory = redis, memory
        self._start = f"cache:{blake2b(scope.encode(), digest_size=8).hexdigest()}:"

    async def get(self, key: bytes, now: float) -> Entry | None:
        """See Memory."""
        try:
            kept = await self._redis.get(self._start + key.hex())
        except Unavailable:
            return await self._memory.get(key, now)
        if kept is None:
            return None
        try:
            return _read(kept)
        except Exception:  # noqa: BLE001 - another version's, or of who knows whom: a miss
            return None

    async def put(self, key: bytes, entry: Entry, now: float) -> None:
        """See Memory."""
        try:
            written = _written(entry)
        except EsbError:
            await self._memory.put(key, entry, now)
            return
        try:
            await self._redis.put(self._start + key.hex(), written, entry.until - now)
        except Unavailable:
            await self._memory.put(key, entry, now)

    async def purge(self) -> int:
        """See Memory. Raises Unavailable."""
        return await self._memory.purge() + await self._redis.forget(self._start)


_XML: Final = "application/xml"


def _written(entry: Entry) -> bytes:
    # What nobody has written yet may still be written as whoever asks wants it.
    is_data = entry.body.is_parsed and not entry.body.is_written
    times = [entry.made, entry.fresh, entry.stale, entry.rescue]
    about: dict[str, Any] = {"times": times, "data": is_data, "size": entry.size}
    params: dict[str, Mapping[str, Any]] = {"kept": about}
    if entry.facts is not None:
        params["reply"] = entry.facts
    if is_data and type(entry.body).written_as is not Body.written_as:
        about["xml"] = entry.body.written_as(_XML).raw  # it knows that, and data alone does not
    body = unwritten(entry.body) if is_data else entry.body
    return encode(Envelope(body=body, headers=entry.headers, params=params))


def _read(kept: bytes) -> Entry:
    envelope = decode(kept)
    about, body = envelope.params["kept"], envelope.body
    if about["data"]:
        kind = body.content_type
        data = codec_for(kind).decode(body.raw, parsed(kind))
        body = Body.of(data, kind) if "xml" not in about else _WasXml(data, kind, about["xml"])
    facts = envelope.params.get("reply")
    made, fresh, stale, rescue = map(float, about["times"])
    return Entry(body, envelope.headers, facts, made, fresh, stale, rescue, int(about["size"]))


class _WasXml(Body):
    """Data that came from XML, and is that XML for whoever asks for XML."""

    __slots__ = ("_xml",)

    def __init__(self, data: Any, content_type: str, xml: bytes) -> None:
        super().__init__(None, content_type, data)
        self._xml = xml

    def written_as(self, content_type: str) -> Body:
        if parsed(content_type).essence in (_XML, "text/xml"):
            return Body(self._xml, f"{content_type}; charset=utf-8")
        return super().written_as(content_type)


def unwritten(body: Body) -> Body:
    """The same data under the same type, to be written without the other's being written."""
    return Body.of(body.data, body.content_type)
