"""The WSDL of a hosted service as clients get it: its files by URL, with our address in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from html import escape
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

from lxml import etree

from esb_soap.documents import Document, Documents

_WSDL: Final = "{http://schemas.xmlsoap.org/wsdl/}"
_XSD: Final = "{http://www.w3.org/2001/XMLSchema}"
_SOAP: Final = tuple(f"{{http://schemas.xmlsoap.org/wsdl/{soap}/}}" for soap in ("soap", "soap12"))
_ADDRESSES: Final = tuple(f"{soap}address" for soap in _SOAP)
_REFERENCES: Final = {
    f"{_WSDL}import": ("location", "wsdl"),
    f"{_XSD}import": ("schemaLocation", "xsd"),
    f"{_XSD}include": ("schemaLocation", "xsd"),
    f"{_XSD}redefine": ("schemaLocation", "xsd"),
    f"{_XSD}override": ("schemaLocation", "xsd"),
}
_HERE: Final = "urn:esb:the-address-of-this-service"


class Published:
    """The files of a WSDL, with the repairs that were made. `service` and `ports` are what is
    served: others are taken out, so that no client takes an address that is not ours. One that is
    bindings alone gets them as its service: without an address no client could use it."""

    def __init__(self, documents: Documents, service: str, ports: Iterable[str]) -> None:
        main, *others = documents.loaded
        self._first = main.path
        self._names: dict[Path, str] = {}
        for path in (document.path for document in others):
            name, number = path.name, 2
            while name in self._names.values():
                name, number = f"{path.stem}-{number}{path.suffix}", number + 1
            self._names[path] = name
        self._service = service
        self._ports = frozenset(ports)
        self._bindings = {
            (document.root.get("targetNamespace", ""), binding.get("name", "")): soap
            for document in documents.loaded
            for binding in document.root.iterchildren(f"{_WSDL}binding")
            for soap in _SOAP
            if binding.find(f"{soap}binding") is not None
        }
        self._is_there = any(
            one.get("name") == service
            for document in documents.loaded
            for one in document.root.iterchildren(f"{_WSDL}service")
        )
        self._main = self._rewritten(main)
        self._others = {self._names[one.path]: self._rewritten(one) for one in others}

    def get(self, query: Mapping[str, Any], url: str) -> bytes | None:
        """The file that `?wsdl`, `?wsdl=name` or `?xsd=name` asks for (in any case), with `url` as
        the address of the service; None for anything else."""
        for key, value in query.items():
            if key.lower() in ("wsdl", "xsd"):
                raw = self._others.get(str(value)) if value else self._main
                return raw.replace(_HERE.encode(), escape(url).encode()) if raw else None
        return None

    def _rewritten(self, document: Document) -> bytes:
        path, root = document.path, deepcopy(document.root)
        for element in root.iter(*_REFERENCES):
            attribute, kind = _REFERENCES[str(element.tag)]
            location = element.get(attribute)
            name = self._name(path.parent, location) if location else None
            if name is not None:
                element.set(attribute, f"{_HERE}?{kind}={quote(name)}")
        if document.path == self._first and not self._is_there:
            self._add_service(root)
        for service in list(root.iterchildren(f"{_WSDL}service")):
            if service.get("name") != self._service:
                root.remove(service)
                continue
            for port in list(service.iterchildren(f"{_WSDL}port")):
                if port.get("name") not in self._ports:
                    service.remove(port)
                prefix, _, name = port.get("binding", "").rpartition(":")
                soap = self._bindings.get((port.nsmap.get(prefix or None, ""), name))
                if soap is not None and port.find(f"{soap}address") is None:
                    etree.SubElement(port, f"{soap}address")
                for address in port.iterchildren(*_ADDRESSES):
                    address.set("location", _HERE)
        return etree.tostring(root, encoding="utf-8", xml_declaration=True)

    def _add_service(self, root: etree._Element) -> None:
        service = etree.SubElement(root, f"{_WSDL}service", name=self._service)
        for namespace, name in self._bindings:
            if name in self._ports:  # where there is no service, they have the binding's name
                attributes = {"name": name, "binding": f"b:{name}" if namespace else name}
                prefixes = {"b": namespace} if namespace else None
                etree.SubElement(service, f"{_WSDL}port", attributes, prefixes)

    def _name(self, folder: Path, location: str) -> str | None:
        for spelled in (location, unquote(location)):
            name = self._names.get((folder / spelled).resolve())
            if name is not None:
                return name
        return None
