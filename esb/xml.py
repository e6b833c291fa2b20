"""The one XML parser of the bus, for everything that came over a wire.

A DOCTYPE is refused in any encoding: without it there are no entities, external or internal, and
none can be passed on to a backend (SOAP forbids it anyhow: SOAP 1.2 part 1, section 5). libxml2
itself limits depth (256) and the length of a text (10 MB); what it lets pass, many elements and
many attributes on one element, is counted here before it is parsed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from lxml import etree

from esb.errors import BadMessage, TooLarge

MAX_ELEMENTS = 500_000
"""Elements of one document."""

MAX_ATTRIBUTES = 1_000
"""Attributes and namespace declarations of one element."""

_OPTIONS = {
    "resolve_entities": False,
    "no_network": True,
    "load_dtd": False,
    "huge_tree": False,  # keeps libxml2's own limits: depth 256, text 10 MB
}
_SMALL = 64 * 1024  # fewer bytes hold nothing that takes longer than a few milliseconds
_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_WINDOW = MAX_ATTRIBUTES * 5 // 2  # the shortest attribute takes five bytes: `a="" `
_QUOTED = re.compile(rb"\"[^\"]*\"|'[^']*'")


def parse_xml(raw: bytes, *, what: str = "the body", charset: str | None = None) -> etree._Element:
    """The root element of `raw`.

    `charset` is the one that the transport declared: it wins over the document's declaration, a
    byte order mark wins over both (RFC 7303, section 3). Raises BadMessage, naming line and column,
    if it is not XML or has a DOCTYPE; TooLarge over `MAX_ELEMENTS` or `MAX_ATTRIBUTES`.
    """
    if not raw.strip():
        raise BadMessage(f"{what} is empty, XML was expected")
    if len(raw) > _SMALL:
        _check_counts(raw, what)
    if charset and raw.startswith(_BYTE_ORDER_MARKS):
        charset = None
    try:
        # A parser holds state while it feeds, so each call has its own (2 µs).
        parser = etree.XMLParser(encoding=charset, **_OPTIONS)  # type: ignore[arg-type]
    except LookupError as e:
        raise BadMessage(f"{what} is in an unknown charset") from e
    try:
        root = etree.fromstring(raw, parser)
    except (etree.XMLSyntaxError, ValueError) as e:
        line, column = getattr(e, "position", (0, 0))
        where = f" at line {line}, column {column}" if line else ""
        reason = str(getattr(e, "msg", e)).split(", line ")[0].strip()
        raise BadMessage(f"{what} is not well-formed XML{where}: {reason[:200]}") from e
    if root is None:
        raise BadMessage(f"{what} is not well-formed XML")
    docinfo = root.getroottree().docinfo
    if docinfo.internalDTD is not None or docinfo.externalDTD is not None:
        raise BadMessage(f"{what} has a DOCTYPE, which is not allowed")
    return root


def _check_counts(raw: bytes, what: str) -> None:
    # Counted on the bytes: no encoding that libxml2 reads writes "<" or "=" without their bytes,
    # save UTF-7, where an element takes so many bytes that the size limit alone bounds them.
    if raw.count(b"<") - raw.count(b"</") > MAX_ELEMENTS:
        raise TooLarge(f"{what} has more than {MAX_ELEMENTS} elements")
    if raw.count(b"=") <= MAX_ATTRIBUTES:
        return
    # A tag with that many attributes is longer than two windows, so one window has no "<" in it.
    position = 0
    while position < len(raw):
        if raw.find(b"<", position, position + _WINDOW) >= 0:
            position += _WINDOW
            continue
        start = raw.rfind(b"<", 0, position) + 1
        end = raw.find(b"<", position)
        tag = raw[start : end if end >= 0 else None]
        if (
            tag.count(b"=") > MAX_ATTRIBUTES
            and not tag.startswith((b"!", b"?"))
            and _QUOTED.sub(b"", tag).partition(b">")[0].count(b"=") > MAX_ATTRIBUTES
        ):
            raise TooLarge(f"{what} has an element with more than {MAX_ATTRIBUTES} attributes")
        if end < 0:
            return
        position = end


class XmlFileError(ValueError):
    """A file of the project that is not usable XML: `message`, and the `line` or 0."""

    def __init__(self, message: str, file: Path, line: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.file = file
        self.line = line


class FolderResolver(etree.Resolver):
    """Serves what a document of the project includes or imports from one folder, nothing else.

    `files` are those it served, `refused` says what it did not.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.files: set[Path] = set()
        self.refused: list[str] = []

    def resolve(self, url: str, pubid: str, context: Any) -> Any:  # type: ignore[override]
        """Called by lxml. Raises OSError for everything outside the folder or absent."""
        parts = urlsplit(url)
        why = f"{url} is not a file below {self.folder.name}/"
        if parts.scheme in ("", "file") and not parts.netloc:
            file = Path(unquote(parts.path) if parts.scheme else url).resolve()
            if file.is_relative_to(self.folder):
                if file.is_file():
                    self.files.add(file)
                    return self.resolve_filename(str(file), context)  # type: ignore[attr-defined]
                why = f"there is no file {file.relative_to(self.folder)}"
        self.refused.append(why)
        raise OSError(why)


def parse_file(path: Path, folder: Path) -> tuple[etree._Element, FolderResolver]:
    """The root of an XML file of the project (a stylesheet, a schema, a WSDL).

    What it includes or imports is later asked of the resolver, which serves files in `folder` only.
    Raises XmlFileError if it is not XML or has a DOCTYPE.
    """
    parser = etree.XMLParser(**_OPTIONS)  # type: ignore[arg-type]
    resolver = FolderResolver(folder)
    parser.resolvers.add(resolver)
    try:
        root = etree.fromstring(path.read_bytes(), parser, base_url=str(path.resolve()))
    except etree.XMLSyntaxError as e:
        reason = str(e.msg).split(", line ")[0].strip()
        raise XmlFileError(
            f"this is not well-formed XML: {reason[:200]}", path, e.lineno or 0
        ) from e
    except OSError as e:
        raise XmlFileError(f"{path.name} cannot be read", path) from e
    if root.getroottree().docinfo.internalDTD is not None:
        raise XmlFileError("a DOCTYPE is not allowed", path, 1)
    return root, resolver
