"""Formats: one file each, with a `format: Format`, whose name is the format's name in routes.

Importing this package makes each the one for its media types (`esb.envelope.codec_for`). A new
format is a new file. A file that begins with an underscore is none.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Final

from esb.codecs._format import MAX_PIECE, Format, NoOptions, Piece, Stream
from esb.envelope import parse_content_type, register_codec

FORMATS: Final[dict[str, Format[Any]]] = {
    name: import_module(f"{__name__}.{name}").format
    for name in sorted(module.name for module in iter_modules(__path__))
    if not name.startswith("_")
}

_BY_TYPE: Final[dict[str, Format[Any]]] = {}
for _format in FORMATS.values():
    if _format.types:
        register_codec(_format.body or _format.make(_format.options()), *_format.types)
        _BY_TYPE.update(dict.fromkeys(_format.types, _format))


def format_of(content_type: str) -> Format[Any] | None:
    """The format whose codec `codec_for` finds."""
    essence = parse_content_type(content_type).essence
    _, plus, suffix = essence.rpartition("+")
    keys = (essence, f"+{suffix}" if plus else essence, essence.partition("/")[0] + "/*")
    return next((_BY_TYPE[key] for key in keys if key in _BY_TYPE), None)


__all__ = ["FORMATS", "MAX_PIECE", "Format", "NoOptions", "Piece", "Stream", "format_of"]
