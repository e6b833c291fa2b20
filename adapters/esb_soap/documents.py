"""The documents a WSDL consists of: its own file, what it imports, and the catalogue.

Nothing is ever fetched. A location is a path relative to the document that names it; it must lie
below the project's folder. The standard schemas (XML, SOAP encoding, WS-Addressing, XML signature
and so on) come from the catalogue inside this package, whatever location is given for them, unless
there is such a file beside the WSDL.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from lxml import etree

from esb.errors import BadMessage
from esb.xml import parse_xml
from esb_soap.repairs import REPAIRS

MAX_FILES: Final = 500
"""Documents of one WSDL."""

MAX_BYTES: Final = 64 * 1024 * 1024
"""Bytes of all documents of one WSDL together."""

CATALOGUE: Final = {
    "http://www.w3.org/XML/1998/namespace": "xml.xsd",
    "http://schemas.xmlsoap.org/soap/encoding/": "soap-encoding-1.1.xsd",
    "http://www.w3.org/2003/05/soap-encoding": "soap-encoding-1.2.xsd",
    "http://schemas.xmlsoap.org/soap/envelope/": "soap-envelope-1.1.xsd",
    "http://www.w3.org/2003/05/soap-envelope": "soap-envelope-1.2.xsd",
    "http://www.w3.org/2000/09/xmldsig#": "xmldsig-core.xsd",
    "http://www.w3.org/2001/04/xmlenc#": "xmlenc.xsd",
    "http://www.w3.org/2005/08/addressing": "ws-addressing-2005.xsd",
    "http://schemas.xmlsoap.org/ws/2004/08/addressing": "ws-addressing-2004.xsd",
    "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd": (
        "wss-secext-1.0.xsd"
    ),
    "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd": (
        "wss-utility-1.0.xsd"
    ),
    "http://www.w3.org/2004/08/xop/include": "xop-include.xsd",
    "http://www.w3.org/2005/05/xmlmime": "xmlmime.xsd",
    "http://ws-i.org/profiles/basic/1.1/xsd": "swaref.xsd",
    "http://schemas.xmlsoap.org/wsdl/": "wsdl-1.1.xsd",
    "http://www.w3.org/2006/05/addressing/wsdl": "ws-addressing-wsdl-2006.xsd",
    "http://www.w3.org/2007/05/addressing/metadata": "ws-addressing-metadata-2007.xsd",
    "http://schemas.xmlsoap.org/ws/2004/09/policy": "ws-policy-2004.xsd",
    "http://www.w3.org/ns/ws-policy": "ws-policy-2007.xsd",
    "http://docs.oasis-open.org/wsn/b-2": "ws-base-notification-1.3.xsd",
    "http://docs.oasis-open.org/wsn/t-1": "ws-topics-1.3.xsd",
    "http://docs.oasis-open.org/wsrf/bf-2": "ws-base-faults-1.2.xsd",
    "http://docs.oasis-open.org/wsrf/r-2": "ws-resource-1.2.xsd",
    "http://www.w3.org/2009/xmldsig11#": "xmldsig-1.1.xsd",
    "http://www.w3.org/2009/xmlenc11#": "xmlenc-1.1.xsd",
    "urn:oasis:names:tc:SAML:2.0:assertion": "saml-assertion-2.0.xsd",
    "urn:oasis:names:tc:SAML:2.0:protocol": "saml-protocol-2.0.xsd",
    "http://www.w3.org/1999/xlink": "xlink.xsd",
    "http://microsoft.com/wsdl/types/": "ms-wsdl-types.xsd",
    "http://schemas.microsoft.com/2003/10/Serialization/": "ms-serialization.xsd",
}
"""Files of the catalogue by target namespace."""

_FOLDER: Final = Path(__file__).parent / "catalogue"


class WsdlError(Exception):
    """A WSDL that cannot be used: what is wrong, in which file and line (0: the whole file), and a
    hint what to do about it ("" if there is none)."""

    def __init__(self, message: str, file: Path, line: int = 0, hint: str = "") -> None:
        where = f"{file.name}:{line}" if line else file.name
        super().__init__(f"{where}: {message}")
        self.message = message
        self.file = file
        self.line = line
        self.hint = hint


@dataclass(frozen=True, eq=False)
class Document:
    """A parsed file. `catalogued` if it is one of ours."""

    path: Path
    root: etree._Element
    catalogued: bool = False

    def error(self, message: str, node: etree._Element | None = None, hint: str = "") -> WsdlError:
        """An error at `node`."""
        line = node.sourceline if node is not None else None
        return WsdlError(message, self.path, line if isinstance(line, int) else 0, hint)


class Documents:
    """Loads documents, each once.

    root: the folder that no location may leave; None: locations may be any relative path. repairs:
    names of those that are made in every file; ValueError for one that there is not.
    """

    def __init__(self, root: Path | None, repairs: Iterable[str] = ()) -> None:
        self._root = root.resolve() if root is not None else None
        self.repairs = check_repairs(repairs)
        self._loaded: dict[Path, Document] = {}
        self._bytes = 0
        self._offers: dict[Path, str] = {}
        self.missing: list[str] = []

    @property
    def files(self) -> list[Path]:
        """The files that were read, in order; those of the catalogue are not among them."""
        return [document.path for document in self.loaded]

    @property
    def loaded(self) -> list[Document]:
        """What was read of `files`."""
        return [document for document in self._loaded.values() if not document.catalogued]

    def load(self, path: Path) -> Document:
        """The document at `path`. Raises WsdlError if it is not readable XML or over a limit."""
        return self._load(path.resolve(), catalogued=False)

    def catalogue(self, namespace: str) -> Document | None:
        """The catalogue's schema of a namespace."""
        name = CATALOGUE.get(namespace)
        return self._load(_FOLDER / name, catalogued=True) if name else None

    def hint(self, error: WsdlError) -> str:
        """What could be done about an error: its own hint, and the repairs that nobody asked for
        and that would change the file that it is in."""
        path = error.file.resolve()
        if path not in self._offers:
            self._offers[path] = self._offered(path)
        return "; ".join(filter(None, (error.hint, self._offers[path])))

    def _offered(self, path: Path) -> str:
        """The hint that names the repairs of a file."""
        document = self._loaded.get(path)
        if document is not None and document.catalogued:
            return ""
        try:
            raw = path.read_bytes()
        except OSError:
            return ""
        root = document.root if document is not None else None
        found = [
            repair
            for name, repair in REPAIRS.items()
            if name not in self.repairs and repair.changes(raw, root, path)
        ]
        return " or ".join(f"the repair '{one.name}' {one.about}" for one in found)

    def resolve(
        self, location: str | None, namespace: str | None, base: Document, node: etree._Element
    ) -> Document | None:
        """The document that `node` of `base` refers to; None if there is none, which is noted in
        `missing` where a location was given.

        Raises WsdlError for a location outside the root.
        """
        path = self._path(location, base, node) if location else None
        if path is not None and path.is_file():
            if namespace in CATALOGUE and b"<!DOCTYPE" in path.read_bytes()[:4096]:
                return self.catalogue(namespace)  # W3C's own files of some standards have one
            return self.load(path)
        found = self.catalogue(namespace) if namespace else None
        if found is None and location:
            self.missing.append(location)
        return found

    def _path(self, location: str, base: Document, node: etree._Element) -> Path | None:
        parts = urlsplit(location.strip().replace("\\", "/"))
        if parts.scheme or parts.netloc:
            return None
        if base.catalogued:
            return None
        relative = Path(unquote(parts.path) + (f"?{parts.query}" if parts.query else ""))
        if relative.is_absolute():
            raise base.error(f"'{location}' is an absolute path, only relative ones are read", node)
        path = (base.path.parent / relative).resolve()
        if self._root is not None and not path.is_relative_to(self._root):
            raise base.error(f"'{location}' is outside the project's folder", node)
        return path

    def _load(self, path: Path, *, catalogued: bool) -> Document:
        known = self._loaded.get(path)
        if known is not None:
            return known
        if len(self._loaded) >= MAX_FILES:
            raise WsdlError(f"it consists of more than {MAX_FILES} files", path)
        try:
            raw = path.read_bytes()
        except FileNotFoundError as e:
            raise WsdlError("there is no such file", path, hint=_fetch(path)) from e
        except IsADirectoryError as e:
            raise WsdlError("it is a folder, not a file", path) from e
        except OSError as e:
            raise WsdlError("the file cannot be read", path) from e
        self._bytes += len(raw)
        if self._bytes > MAX_BYTES:
            raise WsdlError(f"it is larger than {MAX_BYTES // 1024 // 1024} MB", path)
        asked = [] if catalogued else [REPAIRS[name] for name in self.repairs]
        for repair in asked:
            raw = repair.raw(raw) if repair.raw is not None else raw
        try:
            root = parse_xml(raw, what="the file")
        except BadMessage as e:
            raise WsdlError(str(e), path, hint=_hint(raw)) from e
        for repair in asked:
            root = repair.tree(root, path) if repair.tree is not None else root
        document = Document(path, root, catalogued)
        self._loaded[path] = document
        return document


def check_repairs(names: Iterable[str]) -> tuple[str, ...]:
    """The names of repairs, each once and in the order in which they are made. Raises ValueError
    for one that there is not."""
    asked = set(names)
    for name in sorted(asked - REPAIRS.keys()):
        close = difflib.get_close_matches(name, REPAIRS, n=1)
        known = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(REPAIRS)}"
        raise ValueError(f"there is no repair '{name}': {known}")
    return tuple(name for name in REPAIRS if name in asked)


def _fetch(path: Path) -> str:
    if {"http:", "https:"}.isdisjoint(path.parts):
        return ""
    return "only `esb wsdl fetch URL` uses the network: it brings a WSDL with all that it imports"


def _hint(raw: bytes) -> str:
    start = raw[:500].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "this is a web page: the WSDL was not what the server answered"
    return ""
