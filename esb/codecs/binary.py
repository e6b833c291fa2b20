"""Bytes, for every content type that no other codec reads."""

from __future__ import annotations

from typing import Any

from esb.codecs._format import Format, NoOptions
from esb.envelope import ContentType
from esb.errors import RouteFailure


class BinaryCodec:
    """Bytes as they are."""

    def decode(self, raw: bytes, content_type: ContentType) -> bytes:
        """The same bytes."""
        return raw

    def encode(self, data: Any, content_type: ContentType) -> bytes:
        """The same bytes; text in the declared charset. Raises RouteFailure for anything else."""
        if isinstance(data, bytes | bytearray | memoryview):
            return bytes(data)
        if data is None:
            return b""
        if isinstance(data, str):
            try:
                return data.encode(content_type.charset)
            except (UnicodeEncodeError, LookupError) as e:
                raise RouteFailure(f"the text has no form in {content_type.charset}") from e
        name = content_type.essence or "a body without a content type"
        raise RouteFailure(
            f"{type(data).__name__} data cannot be written as {name}: only bytes and text can"
        )


format = Format(
    lambda options: BinaryCodec(),
    lambda options: "application/octet-stream",
    NoOptions,
    types=(
        "application/octet-stream",
        "/*",  # no content type at all
        "application/*",
        "audio/*",
        "example/*",
        "font/*",
        "haptics/*",
        "image/*",
        "message/*",
        "model/*",
        "multipart/*",
        "video/*",
    ),
)
