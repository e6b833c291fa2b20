"""Brings a WSDL with all that it imports to files. Only this part of the adapter asks the network
for WSDLs, and only when the user does.

What the catalogue has is not fetched, and hosts other than the WSDL's are only asked if the user
allows them: a WSDL is not to choose whom we talk to. The credentials go to the WSDL's own origin
alone.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, quote, urldefrag, urljoin, urlsplit

from lxml import etree
from pydantic import SecretStr

from esb.errors import BadMessage, EsbError
from esb.xml import parse_xml
from esb_soap.documents import CATALOGUE, MAX_BYTES, MAX_FILES
from esb_web.client import ClientOptions, WebClient
from esb_web.credentials import Auth, Basic
from esb_web.transport import Pool

MAX_DEPTH: Final = 50
"""Imports that lead from one document to the next."""

MAX_DOCUMENT: Final = 20 * 1024 * 1024
"""Bytes of one document."""

_MAX_REDIRECTS: Final = 5
_XSD: Final = "{http://www.w3.org/2001/XMLSchema}"
_WSDL: Final = "{http://schemas.xmlsoap.org/wsdl/}"
_LOCATIONS: Final = {
    f"{_WSDL}import": "location",
    f"{_XSD}import": "schemaLocation",
    f"{_XSD}include": "schemaLocation",
    f"{_XSD}redefine": "schemaLocation",
    f"{_XSD}override": "schemaLocation",
}
_ROOTS: Final = {f"{_WSDL}definitions": ".wsdl", f"{_XSD}schema": ".xsd"}
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class NotFetched(EsbError):
    """What was asked for cannot be brought; a note may hold a hint."""

    code = "not-fetched"


@dataclass(frozen=True)
class Brought:
    """A WSDL and what it imports, with locations that lead from one to the other.

    main: the WSDL's file name. documents: bytes by file name. sources: URLs by file name. missing:
    what could not be brought, and why.
    """

    main: str
    documents: dict[str, bytes]
    sources: dict[str, str]
    missing: list[str]

    def write(self, folder: Path, *, force: bool = False) -> dict[Path, str]:
        """Write all files; their paths and the URLs that they came from. Raises NotFetched if one
        is there already and it is not to be forced, before anything is written."""
        taken = [name for name in self.documents if (folder / name).exists()]
        if taken and not force:
            raise _told(f"{folder / taken[0]} is there already", "--force writes over it")
        folder.mkdir(parents=True, exist_ok=True)
        for name, raw in self.documents.items():
            (folder / name).write_bytes(raw)
        return {folder / name: self.sources[name] for name in self.documents}


async def fetch(
    url: str,
    *,
    allow: Iterable[str] = (),
    user: str = "",
    password: str = "",
    ca: Path | None = None,
    timeout: float = 60.0,
) -> Brought:
    """Fetch the WSDL at `url` and all that it imports.

    allow: other hosts that may be asked. user, password: credentials (RFC 7617) for the WSDL's own
    origin. ca: authorities to trust instead of the system's. timeout: seconds for everything.

    Raises NotFetched if the WSDL itself cannot be brought or a limit is reached.
    """
    url = _checked(url)
    try:
        context = ssl.create_default_context(cafile=str(ca) if ca else None)
    except OSError as e:
        raise NotFetched("the file of authorities holds no certificate") from e
    pool = Pool(context, None, 4)
    try:
        return await _Fetch(url, allow, user, password, pool, timeout).run()
    finally:
        await pool.close()


def _checked(url: str) -> str:
    """The URL as it is asked for, percent-encoded. Raises NotFetched for one that is none."""
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise NotFetched(f"'{url}' is no http:// or https:// URL")
    if parts.username is not None:
        raise _told("the URL has credentials in it", "give them with --user and --password")
    return _encoded(url.strip())


def _encoded(url: str) -> str:
    return quote(urldefrag(url).url, safe="%/:?#[]@!$&'()*+,;=~-._")


@dataclass(slots=True)
class _Document:
    """A document that was brought, under the name of its file; it refers to others by URL."""

    name: str
    url: str
    root: etree._Element
    references: list[tuple[etree._Element, str]] = field(default_factory=list)


class _Refused(Exception):
    """A document that cannot be brought: why, and a hint."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(f"{reason} ({hint})" if hint else reason)
        self.reason = reason
        self.hint = hint


class _Fetch:
    def __init__(
        self,
        url: str,
        allow: Iterable[str],
        user: str,
        password: str,
        pool: Pool,
        timeout: float,
    ) -> None:
        self._url = url
        self._hosts = {urlsplit(url).hostname, *(host.lower() for host in allow)}
        plain = ClientOptions(max_reply=MAX_DOCUMENT)
        auth = Auth(basic=Basic(username=user, password=SecretStr(password))) if user else None
        self._has_user = bool(user)
        self._client = WebClient(pool, plain)
        self._trusted = WebClient(pool, plain.model_copy(update={"auth": auth}))
        self._deadline = time.monotonic() + timeout
        self._documents: dict[str, _Document] = {}
        self._names: set[str] = set()
        self._missing: dict[str, str] = {}
        self._bytes = 0

    async def run(self) -> Brought:
        try:
            main = await self._bring(self._url)
        except _Refused as e:
            raise _told(f"{self._url}: {e.reason}", e.hint) from None
        if main.root.tag != f"{_WSDL}definitions":
            raise _told(f"{self._url}: this is a schema and no WSDL",
                        "fetch the WSDL that imports it")  # fmt: skip
        level = [main]
        for _ in range(MAX_DEPTH):
            level = [inner for outer in level for inner in await self._imports(outer)]
            if not level:
                break
        else:
            raise NotFetched(f"its imports are more than {MAX_DEPTH} documents deep")
        return self._brought(main)

    async def _imports(self, document: _Document) -> list[_Document]:
        """The documents that one refers to and that were not known before."""
        found = []
        for _, url in document.references:
            if url in self._documents or url in self._missing:
                continue
            try:
                found.append(await self._bring(url))
            except _Refused as e:
                self._missing[url] = f"not fetched: {url}: {e}"
        return found

    async def _bring(self, url: str) -> _Document:
        raw, final = await self._get(url)
        if final in self._documents:  # two names of one document
            self._documents[url] = self._documents[final]
            return self._documents[url]
        if len(self._documents) >= MAX_FILES:
            raise NotFetched(f"it consists of more than {MAX_FILES} documents")
        self._bytes += len(raw)
        if self._bytes > MAX_BYTES:
            raise NotFetched(f"it is larger than {MAX_BYTES // 1024 // 1024} MB")
        root = _parsed(raw)
        document = _Document(self._name(url, _ROOTS[str(root.tag)]), url, root)
        for node in root.iter(*_LOCATIONS):
            location = (node.get(_LOCATIONS[str(node.tag)]) or "").strip()
            namespace = node.get("namespace")
            if location and not (node.tag == f"{_XSD}import" and namespace in CATALOGUE):
                document.references.append((node, _encoded(urljoin(final, location))))
            elif location:
                # The catalogue has it, whatever the location; a local file would come first.
                node.set(_LOCATIONS[str(node.tag)], urljoin(final, location))
        self._documents[url] = self._documents[final] = document
        return document

    async def _get(self, url: str) -> tuple[bytes, str]:
        """What is at a URL, and the URL that it was found at in the end."""
        for _ in range(_MAX_REDIRECTS + 1):
            client = self._client_for(url)
            try:
                reply = await client.request(
                    "GET", url, headers=[("Accept", "text/xml, application/xml, */*;q=0.1")],
                    deadline=self._deadline,
                )  # fmt: skip
            except EsbError as e:
                if time.monotonic() >= self._deadline:
                    raise _told("it took too long", "--timeout gives it more time") from None
                raise _Refused(e.detail) from None
            location = reply.headers.get("location")
            if reply.status in (301, 302, 303, 307, 308) and isinstance(location, str):
                url = _encoded(urljoin(url, location))
                continue
            if reply.status == 401:
                hint = "" if client is self._trusted and self._has_user else "give --user"
                raise _Refused("the server asks for credentials that it accepts", hint)
            if reply.status != 200:
                raise _Refused(f"the server answered with status {reply.status}")
            return reply.body, url
        raise _Refused("the server redirects without an end")

    def _client_for(self, url: str) -> WebClient:
        """The client for a URL. Raises _Refused if it may not be asked."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            raise _Refused("it is not at an http:// or https:// URL")
        if parts.hostname not in self._hosts:
            raise _Refused("it is at another host", f"--allow {parts.hostname}")
        return self._trusted if _origin(url) == _origin(self._url) else self._client

    def _name(self, url: str, suffix: str) -> str:
        """A free file name made from a URL."""
        parts = urlsplit(url)
        words = [Path(parts.path).stem, *(value for _, value in parse_qsl(parts.query))]
        words = [re.sub(r"[^A-Za-z0-9_-]+", "-", word).strip("-") for word in words]
        stem = "-".join(filter(None, words))[:80] or "service"
        stem = stem.removesuffix(suffix.replace(".", "-"))
        name, number = stem + suffix, 2
        while name.lower() in self._names:
            name, number = f"{stem}-{number}{suffix}", number + 1
        self._names.add(name.lower())
        return name

    def _brought(self, main: _Document) -> Brought:
        documents = list(
            {document.name: document for document in self._documents.values()}.values()
        )
        for document in documents:
            for node, url in document.references:
                target = self._documents.get(url)
                # What is missing keeps its URL: the WSDL's reader tells of it.
                node.set(_LOCATIONS[str(node.tag)], target.name if target else url)
        return Brought(
            main.name,
            {one.name: _written(one.root) for one in documents},
            {one.name: one.url for one in documents},
            list(self._missing.values()),
        )


def _parsed(raw: bytes) -> etree._Element:
    """The root of a WSDL or schema. Raises _Refused for anything else."""
    start = raw[:1000].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        raise _Refused("the server answered with a web page", "the WSDL is often there with ?wsdl")
    try:
        root = parse_xml(raw, what="what the server answered")
    except BadMessage as e:
        raise _Refused(e.detail) from None
    if root.tag not in _ROOTS:
        name = etree.QName(root)
        hint = "the WSDL is often there with ?wsdl" if name.localname.lower() == "html" else ""
        raise _Refused(f"this is no WSDL and no schema but <{name.localname}>", hint)
    return root


def _written(root: etree._Element) -> bytes:
    raw: bytes = etree.tostring(root.getroottree(), encoding="utf-8", xml_declaration=True)
    return raw


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)


def _told(text: str, hint: str) -> NotFetched:
    error = NotFetched(text)
    if hint:
        error.add_note(hint)
    return error
