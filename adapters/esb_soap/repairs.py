"""Repairs of defects that WSDLs often have, each with a name: made only for who asks for it, in
memory, the files stay as they are.

    repair: [qualify-names]          in expose, call, send and hosted services
    --repair qualify-names           on the command line

What is wrong with a WSDL is an error as long as nobody asked; its hint names the repairs that would
change the file that it is in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from lxml import etree

from esb.errors import BadMessage
from esb.xml import parse_xml

_WSDL: Final = "{http://schemas.xmlsoap.org/wsdl/}"
_XSD: Final = "http://www.w3.org/2001/XMLSchema"
_X: Final = f"{{{_XSD}}}"
_SOAP: Final = tuple(f"{{http://schemas.xmlsoap.org/wsdl/{soap}/}}" for soap in ("soap", "soap12"))

RawRepair = Callable[[bytes], bytes]
TreeRepair = Callable[[etree._Element, Path], etree._Element]


@dataclass(frozen=True)
class Repair:
    """about: what it takes the defect for. raw: the bytes of a file without the defect; tree: its
    root, which may be changed in place. Both give back what they were given where there is nothing
    to repair. applies: whether a root has the defect, where the reader of the WSDL repairs it."""

    name: str
    about: str
    raw: RawRepair | None = None
    tree: TreeRepair | None = None
    applies: Callable[[etree._Element], bool] | None = None

    def changes(self, raw: bytes, root: etree._Element | None, path: Path) -> bool:
        """Whether it would change a file; root is None where the file is no XML."""
        if self.raw is not None and self.raw(raw) != raw:
            return True
        if root is None:
            return False
        if self.applies is not None:
            return self.applies(root)
        if self.tree is None:
            return False
        before = etree.tostring(root)
        return bool(etree.tostring(self.tree(deepcopy(root), path)) != before)


# --- before-xml ----------------------------------------------------------------------------------

_START: Final = re.compile(rb"<\?xml\s|<(?:[\w.-]+:)?(?:definitions|schema)[\s>]")
_MARK: Final = b"\xef\xbb\xbf"


def _without_preamble(raw: bytes) -> bytes:
    found = _START.search(raw)
    if found is None or not raw[: found.start()].removeprefix(_MARK):
        return raw
    return raw[found.start() :]


# --- drop-doctype --------------------------------------------------------------------------------

_DOCTYPE: Final = re.compile(
    rb"<!DOCTYPE\s[^\[>]{0,2000}(?:\[(?P<subset>(?:[^\]\"']|\"[^\"]*\"|'[^']*'){0,100000})\]\s*)?>"
)
_ENTITY: Final = re.compile(rb"<!ENTITY\s+([\w.-]+)\s+(?:\"([^\"&%<]*)\"|'([^'&%<]*)')\s*>")
_MOST_EXPANDED: Final = 10_000


def _without_doctype(raw: bytes) -> bytes:
    found = _DOCTYPE.search(raw)
    if found is None:
        return raw
    rest = raw[: found.start()] + raw[found.end() :]
    # Plain texts alone, each replaced once: what refers to others could grow without end.
    for name, one, other in _ENTITY.findall(found["subset"] or b""):
        rest = rest.replace(b"&" + name + b";", one or other, _MOST_EXPANDED)
    return rest


# --- old-schema ----------------------------------------------------------------------------------

_OLD: Final = re.compile(rb"http://www\.w3\.org/(?:1999|2000/10)/XMLSchema(-instance)?(?=[\"'])")
_OLD_TYPE: Final = re.compile(
    rb"(?<=[:\"'])(timeInstant|timeDuration|uriReference|CDATA)(?=\s*[\"'])"
)
_NEW_TYPE: Final = {
    b"timeInstant": b"dateTime",
    b"timeDuration": b"duration",
    b"uriReference": b"anyURI",
    b"CDATA": b"normalizedString",
}


def _of_2001(raw: bytes) -> bytes:
    if not _OLD.search(raw):
        return raw
    raw = _OLD.sub(rb"http://www.w3.org/2001/XMLSchema\1", raw)
    return _OLD_TYPE.sub(lambda found: _NEW_TYPE[found[1]], raw)


# --- qualify-names -------------------------------------------------------------------------------

_KINDS: Final = {
    f"{_X}element": "element", f"{_X}complexType": "type", f"{_X}simpleType": "type",
    f"{_X}group": "group", f"{_X}attributeGroup": "attributeGroup", f"{_X}attribute": "attribute",
    f"{_WSDL}message": "message", f"{_WSDL}portType": "portType", f"{_WSDL}binding": "binding",
}  # fmt: skip
_REFERRING: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    f"{_WSDL}port": (("binding", "binding"),),
    f"{_WSDL}binding": (("type", "portType"),),
    f"{_WSDL}input": (("message", "message"),),
    f"{_WSDL}output": (("message", "message"),),
    f"{_WSDL}fault": (("message", "message"),),
    f"{_WSDL}part": (("element", "element"), ("type", "type")),
    **{f"{soap}header": (("message", "message"),) for soap in _SOAP},
    f"{_X}element": (("type", "type"), ("ref", "element"), ("substitutionGroup", "element")),
    f"{_X}attribute": (("type", "type"), ("ref", "attribute")),
    f"{_X}group": (("ref", "group"),),
    f"{_X}attributeGroup": (("ref", "attributeGroup"),),
    f"{_X}extension": (("base", "type"),),
    f"{_X}restriction": (("base", "type"),),
    f"{_X}list": (("itemType", "type"),),
    f"{_X}union": (("memberTypes", "type"),),
}
_BUILTIN: Final = frozenset(
    {"anyType", "anySimpleType", "string", "boolean", "decimal", "float", "double", "duration",
     "dateTime", "time", "date", "gYearMonth", "gYear", "gMonthDay", "gDay", "gMonth", "hexBinary",
     "base64Binary", "anyURI", "QName", "normalizedString", "token", "language", "integer",
     "nonPositiveInteger", "negativeInteger", "long", "int", "short", "byte", "unsignedLong",
     "nonNegativeInteger", "unsignedInt", "unsignedShort", "unsignedByte", "positiveInteger"}
)  # fmt: skip


def _qualified(root: etree._Element, _path: Path) -> etree._Element:
    """Gives prefixes to names without one that mean nothing as they are: of the only component of
    that name that the document defines, or else of XML Schema."""
    homes: dict[tuple[str, str], set[str]] = {}
    for owner in (root, *root.iterfind(f"{_WSDL}types/{_X}schema")):
        for node in owner.iterchildren(*_KINDS):
            key = (_KINDS[str(node.tag)], node.get("name", ""))
            homes.setdefault(key, set()).add(owner.get("targetNamespace", ""))
    wrong = [
        (node, attribute, words)
        for node, attribute, kind in _references(root)
        if (words := _homed(node, attribute, kind, homes)) is not None
    ]
    needed = {namespace for _, _, words in wrong for namespace, _ in words if namespace}
    if not wrong:
        return root
    root, prefixes = _with_prefixes(root, needed)
    for node, attribute, words in wrong:
        said = [f"{prefixes[home]}:{word}" if home else word for home, word in words]
        node.set(attribute, " ".join(said))
    return root


def _references(root: etree._Element) -> Iterator[tuple[etree._Element, str, str]]:
    for node in root.iter(*_REFERRING):
        for attribute, kind in _REFERRING[str(node.tag)]:
            if node.get(attribute) is not None:
                yield node, attribute, kind


def _homed(
    node: etree._Element, attribute: str, kind: str, homes: dict[tuple[str, str], set[str]]
) -> list[tuple[str, str]] | None:
    """The words of a reference with the namespaces that they are to get, "" for none; None if no
    word of it needs one."""
    default = node.nsmap.get(None) or ""
    found: list[tuple[str, str]] = []
    for word in (node.get(attribute) or "").split():
        known = homes.get((kind, word), set())
        builtin = kind == "type" and word in _BUILTIN
        home = ""
        if ":" not in word and default not in known and not (builtin and default == _XSD):
            if len(known) == 1:
                [home] = known
            elif builtin and not known:
                home = _XSD
        found.append((home, word))
    return found if any(home for home, _ in found) else None


def _with_prefixes(
    root: etree._Element, namespaces: set[str]
) -> tuple[etree._Element, dict[str, str]]:
    """The root with a prefix of its own for each namespace: one in use may mean something else
    further in."""
    taken = {prefix for node in root.iter("*") for prefix in node.nsmap}
    names = (f"q{number}" for number in range(len(taken) + len(namespaces) + 1))
    free = (name for name in names if name not in taken)
    prefixes = {namespace: next(free) for namespace in sorted(namespaces)}
    nsmap: dict[str | None, str] = dict(root.nsmap)
    nsmap.update((prefix, namespace) for namespace, prefix in prefixes.items())
    made = etree.Element(str(root.tag), None, nsmap)  # type: ignore[arg-type]
    made.attrib.update(root.attrib)
    made.text = root.text
    made.sourceline = root.sourceline
    made.extend(list(root))
    return made, prefixes


# --- include-as-import ---------------------------------------------------------------------------


def _imported(root: etree._Element, path: Path) -> etree._Element:
    for node in root.iter(f"{_X}include"):
        schema = node.getparent()
        location = node.get("schemaLocation")
        own = schema.get("targetNamespace") if schema is not None else None
        if own is None or not location or "://" in location:
            continue
        try:
            included = parse_xml((path.parent / unquote(location)).read_bytes())
        except (OSError, BadMessage):
            continue  # told when it is loaded
        other = included.get("targetNamespace")
        if other is not None and other != own:
            node.tag = f"{_X}import"
            node.set("namespace", other)
    return root


# --- local-copies --------------------------------------------------------------------------------

_LOCATIONS: Final = {
    f"{_WSDL}import": "location",
    f"{_X}import": "schemaLocation",
    f"{_X}include": "schemaLocation",
    f"{_X}redefine": "schemaLocation",
}


def _local(root: etree._Element, path: Path) -> etree._Element:
    for node in root.iter(*_LOCATIONS):
        location = node.get(_LOCATIONS[str(node.tag)], "")
        if "://" in location:
            for name in _names(location):
                if (path.parent / name).is_file():
                    node.set(_LOCATIONS[str(node.tag)], name)
                    break
    return root


def _names(location: str) -> Iterator[str]:
    """Names that a copy of what is at a URL may have: those of its path and of its query."""
    parts = urlsplit(location.strip())
    names = [Path(unquote(parts.path)).name, *(value for _, value in parse_qsl(parts.query))]
    for name in names:
        name = Path(name.replace("\\", "/")).name
        if name not in ("", ".", ".."):
            yield name
            yield f"{name}.xsd"
            yield f"{name}.wsdl"


# --- typed-parts ---------------------------------------------------------------------------------


def _has_typed_parts(root: etree._Element) -> bool:
    styles = [
        node.get("style", "document")
        for binding in root.iterchildren(f"{_WSDL}binding")
        for node in binding.iterchildren(*(f"{soap}binding" for soap in _SOAP))
    ]
    if styles and "document" not in styles:
        return False
    return any(
        part.get("element") is None and part.get("type") is not None
        for part in root.iterfind(f"{_WSDL}message/{_WSDL}part")
    )


REPAIRS: Final = {
    repair.name: repair
    for repair in (
        Repair("before-xml", "leaves out what stands before the XML", raw=_without_preamble),
        Repair("drop-doctype", "leaves out the DOCTYPE", raw=_without_doctype),
        Repair(
            "old-schema", "takes the XML Schema drafts of 1999 and 2000 for that of 2001",
            raw=_of_2001,
        ),
        Repair(
            "qualify-names", "takes names without a prefix for those that the document defines",
            tree=_qualified,
        ),
        Repair(
            "include-as-import", "imports included schemas of another namespace", tree=_imported
        ),
        Repair(
            "local-copies", "reads what is imported by URL from files of that name", tree=_local
        ),
        Repair(
            "typed-parts",
            "takes a part that has a type in a document message for an element of its name",
            applies=_has_typed_parts,
        ),
    )
}  # fmt: skip
"""All repairs by name, in the order in which they are made."""
