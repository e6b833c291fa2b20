"""The one XML parser of the bus, for everything that came over a wire.

A DOCTYPE is refused in any encoding: without it there are no entities, external or internal, and
none can be passed on to a backend (SOAP forbids it anyhow: SOAP 1.2 part 1, section 5). libxml2
itself limits depth (256) and the length of a text (10 MB); what it lets pass, many elements and
many attributes on one element, is counted here before it is parsed.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit
from weakref import WeakSet

from lxml import etree

from esb.envelope import known_charset
from esb.errors import BadMessage, TooLarge

MAX_ELEMENTS = 250_000
"""Elements and attributes of one document, each of which takes a few hundred bytes."""

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
_LONGEST_PROLOG = 1024 * 1024
_FORGET_AFTER = 8 * 1024 * 1024
_thread_state = ctypes.pythonapi.PyThreadState_GetDict
_thread_state.restype = ctypes.c_void_p  # what it returns is borrowed, so no py_object
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
    parser = _PARSERS.of(charset)
    if parser is None:
        raise BadMessage(f"{what} is in an unknown charset")
    try:
        root = etree.fromstring(raw, parser)
    except (etree.XMLSyntaxError, ValueError) as e:
        raise _malformed(e, what) from e
    finally:
        _PARSERS.used(len(raw))
    if root is None:
        raise BadMessage(f"{what} is not well-formed XML")
    _refuse_overlooked(parser.error_log, what)
    _refuse_doctype(root, what)
    return root


def _refuse_overlooked(log: Any, what: str) -> None:
    """lxml judges by what libxml2 said last: a warning behind an undeclared prefix, or behind an
    attribute that is there twice, hides that. Of errors the log has the first hundred, however many
    warnings there are."""
    if log.last_error is not None and (errors := log.filter_from_errors()):
        error = errors[0]
        raise BadMessage(
            f"{what} is not well-formed XML at line {error.line}, column {error.column}: "
            f"{error.message[:200]}"
        )


def _names() -> dict[str, Any]:
    """Where lxml keeps the names of this thread: there is no other way to them."""
    found: dict[str, Any] = ctypes.cast(_thread_state(), ctypes.py_object).value
    return found


class _Parsers(threading.local):
    """Parsers of a thread: to make one takes as long as to parse a few hundred bytes, and threads
    that shared one would wait for each other.

    streams: the documents that are being read piece by piece in this thread.
    """

    def __init__(self) -> None:
        self.streams: WeakSet[StreamedXml] = WeakSet()
        self._make()

    def _make(self) -> None:
        self._used = 0
        self._usual = {
            charset: etree.XMLParser(encoding=charset, **_OPTIONS)  # type: ignore[arg-type]
            for charset in (None, "utf-8", "UTF-8")
        }

    def used(self, size: int) -> None:
        """So many bytes were parsed. lxml keeps every name that a thread has ever read, and whoever
        sends new ones would fill the memory with them: from time to time they are forgotten. A
        document holds on to those that it has; one that has not ended must not get others."""
        self._used += size
        if self._used > _FORGET_AFTER and not self.streams:
            _names().pop("_ParserDictionaryContext", None)
            self._make()
            etree.fromstring(b"<a/>", self._usual[None])  # its names are the thread's from now on

    def of(self, charset: str | None) -> etree.XMLParser | None:
        """The parser for a charset that the transport declared; None for one nobody knows."""
        parser = self._usual.get(charset)
        if parser is None:
            try:
                known_charset(charset or "utf-8")
                parser = etree.XMLParser(encoding=charset, **_OPTIONS)  # type: ignore[arg-type]
            except (LookupError, BadMessage):
                return None
        return parser


_PARSERS = _Parsers()

_SOAP = {
    f"{{{namespace}}}Envelope": (f"{{{namespace}}}Header", f"{{{namespace}}}Body")
    for namespace in (
        "http://schemas.xmlsoap.org/soap/envelope/",  # SOAP 1.1, section 3
        "http://www.w3.org/2003/05/soap-envelope",  # SOAP 1.2 part 1, section 5
    )
}

_ENVELOPE = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml\b[^>]*>\s*)?<((?:[\w.-]+:)?)Envelope\b")
_NAME_ENDS = frozenset((b" ", b"\t", b"\r", b"\n", b"/", b">"))


def parse_soap_header(
    raw: bytes, *, what: str = "the body", charset: str | None = None
) -> etree._Element:
    """The Header of a SOAP envelope, in an Envelope of its own; one without blocks if there is
    none. What follows the Header is neither parsed nor checked, however much it is.

    Raises BadMessage for what is no envelope of SOAP 1.1 or 1.2, and for a second Header or
    another element where the Body should be; up to the Body as `parse_xml` does.
    """
    root = _before_body(raw, what, charset)
    if root is None:
        root = parse_xml(raw, what=what, charset=charset)
    names = _SOAP.get(str(root.tag))
    if names is None:
        raise BadMessage(f"{what} is no SOAP envelope but an element '{_local(root)}'")
    header: etree._Element | None = None
    for child in root.iterchildren("*"):
        if child.tag == names[1]:
            for later in (child, *child.itersiblings()):
                root.remove(later)
            break
        if header is not None or child.tag != names[0]:
            raise BadMessage(f"{what} has an element '{_local(child)}' out of place")
        header = child
    return etree.SubElement(root, names[0]) if header is None else header


def _local(element: etree._Element) -> str:
    return etree.QName(element).localname


def _before_body(raw: bytes, what: str, charset: str | None) -> etree._Element | None:
    """The envelope without its Body: what is before that, closed and parsed; None if that does not
    work, which may have reasons that are none of the sender's.

    Where the Body begins is told by its bytes. Should they stand for something else (in a comment,
    inside of a block, in another encoding), then what is before them is not well-formed once the
    Envelope is closed. So whatever is well-formed is right, and one parser reads all XML.
    """
    envelope = _ENVELOPE.match(raw)
    if envelope is None:
        return None
    begin = b"<%bBody" % envelope[1]
    at = raw.find(begin, envelope.end())
    if at < 0 or raw[at + len(begin) : at + len(begin) + 1] not in _NAME_ENDS:
        return None
    try:
        return parse_xml(b"%b</%bEnvelope>" % (raw[:at], envelope[1]), what=what, charset=charset)
    except TooLarge:
        raise
    except BadMessage:
        return None


def _malformed(error: Exception, what: str) -> BadMessage:
    line, column = getattr(error, "position", (0, 0))
    where = f" at line {line}, column {column}" if line else ""
    reason = str(getattr(error, "msg", error)).split(", line ")[0].strip()
    return BadMessage(f"{what} is not well-formed XML{where}: {reason[:200]}")


def _refuse_doctype(element: etree._Element, what: str) -> None:
    docinfo: Any = element.getroottree().docinfo
    if docinfo.doctype:  # internalDTD would copy all that is declared
        raise BadMessage(f"{what} has a DOCTYPE, which is not allowed")
    if docinfo.encoding not in ("UTF-8", "utf-8", None):
        known_charset(docinfo.encoding)  # it declares one by itself


def _too_many_attributes(what: str) -> TooLarge:
    return TooLarge(f"{what} has an element with more than {MAX_ATTRIBUTES} attributes")


def _check_counts(raw: bytes, what: str) -> None:
    # Counted on the bytes: no encoding that libxml2 reads writes "<" or "=" without their bytes,
    # save UTF-7, where an element takes so many bytes that the size limit alone bounds them.
    attributes = raw.count(b"=")
    elements = raw.count(b"<") - raw.count(b"</")
    if elements + attributes > MAX_ELEMENTS:
        bare = raw.translate(None, b" \t\r\n\0")
        elements += bare.count(b'="') + bare.count(b"='")
    if elements > MAX_ELEMENTS:
        raise TooLarge(f"{what} has more than {MAX_ELEMENTS} elements and attributes")
    if attributes <= MAX_ATTRIBUTES:
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
            raise _too_many_attributes(what)
        if end < 0:
            return
        position = end


class StreamedXml:
    """A document that is parsed as it comes, and of which what is over is forgotten.

    It tells of the elements with the local name `name`, in any namespace. The same is refused as by
    `parse_xml`; of elements there may be any number.
    """

    def __init__(self, name: str, charset: str | None = None, *, what: str = "the body") -> None:
        self._name = name
        self._charset = charset
        self._what = what
        self._root: etree._Element | None = None
        self._begun: bytes | None = b""  # what came before the root was there
        _PARSERS.streams.add(self)
        self._parser = self._new()

    def feed(self, chunk: bytes) -> Iterator[tuple[str, etree._Element]]:
        """Read on; b"" is the end. Gives what began ("start") and what ended ("end") meanwhile.

        Raises BadMessage, naming line and column, if it is not well-formed or has a DOCTYPE,
        TooLarge if even the root does not begin within a megabyte.
        """
        self._read(chunk)
        if self._begun is not None and not self._begin(chunk):
            return
        for event, element in self._events():
            if self._root is None:
                self._root = element
            if element is not self._root or element.tag.rpartition("}")[2] == self._name:
                yield event, element

    def forget(self, but: etree._Element | None) -> None:
        """Give up all that came so far; but not what is in an element that has not ended."""
        node = self._root
        while node is not None and node is not but and len(node):
            # The last child stays: the parser may still be at it, or at the text behind it.
            del node[:-1]
            node = node[-1]

    def _new(self, *tags: str) -> etree.XMLPullParser:
        try:
            known_charset(self._charset or "utf-8")
            return etree.XMLPullParser(
                ("start", "end"),
                tag=tags or None,
                encoding=self._charset,
                **_OPTIONS,  # type: ignore[arg-type]
            )
        except (LookupError, BadMessage) as e:
            raise BadMessage(f"{self._what} is in an unknown charset") from e

    def _begin(self, chunk: bytes) -> bool:
        """Whether the root is there. Once it is, everything so far is for a parser that tells of
        the root and of what is asked for alone."""
        assert self._begun is not None
        self._begun += chunk
        root = next((element for _, element in self._events()), None)
        if root is None:
            if len(self._begun) > _LONGEST_PROLOG:
                raise TooLarge(
                    f"{self._what} has more than {_LONGEST_PROLOG} bytes before its root"
                )
            return False
        _refuse_doctype(root, self._what)
        begun, self._begun = self._begun, None
        self._parser = self._new(str(root.tag), f"{{*}}{self._name}")
        self._read(begun)
        if not chunk:
            self._read(b"")
        return True

    def _events(self) -> Iterator[tuple[str, etree._Element]]:
        # Elements, whatever the stubs say: these two events have nothing else.
        return cast(Iterator[tuple[str, etree._Element]], self._parser.read_events())

    def _read(self, chunk: bytes) -> None:
        try:
            if chunk:
                self._parser.feed(chunk)
            else:
                self._parser.close()
        except etree.XMLSyntaxError as e:
            raise _malformed(e, self._what) from e
        _refuse_overlooked(self._parser.feed_error_log, self._what)


class XmlFileError(ValueError):
    """A file of the project that is not usable XML: `message`, and the `line` or 0."""

    def __init__(self, message: str, file: Path, line: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.file = file
        self.line = line


class FolderResolver(etree.Resolver):
    """Serves what a document of the project includes or imports from one folder, nothing else.

    read: gives the content of a file, or raises OSError. `files` are those it served, `refused`
    says what it did not.
    """

    def __init__(self, folder: Path, read: Callable[[Path], bytes]) -> None:
        self.folder = folder.resolve()
        self._read = read
        self.files: set[Path] = set()
        self.refused: list[str] = []

    def resolve(self, url: str, pubid: str, context: Any) -> Any:  # type: ignore[override]
        """Called by lxml. Raises OSError for everything outside the folder or absent."""
        parts = urlsplit(url)
        why = f"{url} is not a file below {self.folder.name}/"
        if parts.scheme in ("", "file") and not parts.netloc:
            file = Path(unquote(parts.path) if parts.scheme else url).resolve()
            if file.is_relative_to(self.folder):
                try:
                    raw = self._read(file)
                except OSError:
                    why = f"there is no file {file.relative_to(self.folder)}"
                else:
                    self.files.add(file)
                    return self.resolve_string(raw, context, base_url=str(file))
        self.refused.append(why)
        raise OSError(why)


def parse_file(
    path: Path, folder: Path, read: Callable[[Path], bytes] = Path.read_bytes
) -> tuple[etree._Element, FolderResolver]:
    """The root of an XML file of the project (a stylesheet, a schema, a WSDL).

    What it includes or imports is later asked of the resolver, which serves files in `folder` only.
    read: gives the content of each. Raises XmlFileError if it is not XML or has a DOCTYPE.
    """
    parser = etree.XMLParser(**_OPTIONS)  # type: ignore[arg-type]
    resolver = FolderResolver(folder, read)
    parser.resolvers.add(resolver)
    try:
        root = etree.fromstring(read(path), parser, base_url=str(path.resolve()))
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
