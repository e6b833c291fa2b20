"""Content types by the endings of names."""

from __future__ import annotations

from mimetypes import MimeTypes
from typing import Final

UNKNOWN: Final = "application/octet-stream"

# The built-in list alone: what else a machine has would make a route mean something else there.
_TYPES: Final = MimeTypes(())
for _type, _ending in (
    ("application/xml", ".xml"),
    ("application/yaml", ".yaml"),
    ("application/yaml", ".yml"),
    ("application/x-ndjson", ".jsonl"),
    ("application/x-ndjson", ".ndjson"),
    ("text/csv", ".csv"),
    ("text/plain", ".log"),
):
    _TYPES.add_type(_type, _ending)


def content_type(name: str, given: str = "", charset: str = "") -> str:
    """The content type of a file, the one that is `given` or else that of its ending; with the
    charset, if one is said."""
    found, packed = _TYPES.guess_type(name, strict=False)
    essence = given or (UNKNOWN if packed else found) or UNKNOWN
    return f"{essence}; charset={charset}" if charset else essence
