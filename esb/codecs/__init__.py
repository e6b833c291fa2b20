"""Codecs: one file per format, found by content type through `esb.envelope.codec_for`.

Importing this package registers them. What no format claims is bytes: `body.data` of an
application/pdf is its bytes, and a body without a content type is bytes too.
"""

from __future__ import annotations

from esb.codecs.binary import BinaryCodec
from esb.codecs.csv import CsvCodec
from esb.codecs.form import FormCodec
from esb.codecs.json import JsonCodec
from esb.codecs.text import TextCodec
from esb.codecs.xml import XmlCodec
from esb.envelope import register_codec

register_codec(JsonCodec(), "application/json", "text/json", "+json")
register_codec(XmlCodec(), "application/xml", "text/xml", "+xml")
register_codec(FormCodec(), "application/x-www-form-urlencoded")
register_codec(CsvCodec(), "text/csv")
register_codec(TextCodec(), "text/*")
register_codec(
    BinaryCodec(),
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
)

__all__ = ["BinaryCodec", "CsvCodec", "FormCodec", "JsonCodec", "TextCodec", "XmlCodec"]
