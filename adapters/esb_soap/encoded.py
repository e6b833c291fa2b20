"""The SOAP encoding of rpc/encoded services (SOAP 1.1, section 5; SOAP 1.2 part 2, section 3).

Written: every accessor with its xsi:type, arrays with their item type and size, values in place.
Read: accessors in any order and by local name, values in place or by reference ("multiref"), types
said or unsaid; what is absent or nil is left out or null. The data are those of the literal
mapping, so nobody who sends JSON needs to know. This is legacy: interpreted and not compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from lxml import etree

from esb_soap.codec import Codec
from esb_soap.components import (
    BUILTINS,
    SOAPENC,
    XSD,
    ComplexType,
    Element,
    SimpleType,
    Type,
    clark,
    local_name,
    namespace_of,
)
from esb_soap.markup import (
    NIL,
    XSI_TYPE,
    Unfit,
    bad_message,
    pointer_of,
    text_escaped,
    without_comments,
)
from esb_soap.scalars import kind, scalar
from esb_soap.shape import Field, Nodes, Shape, Value, fields, keys, slots

MAX_VALUES: Final = 200_000
"""Values of one message, those that several refer to counted each time."""

MAX_DEPTH: Final = 200
"""How deep values may be in each other, by what they refer to."""

_ENC: Final = {
    "1.1": "http://schemas.xmlsoap.org/soap/encoding/",
    "1.2": "http://www.w3.org/2003/05/soap-encoding",
}
_ENVELOPE: Final = {
    "1.1": "http://schemas.xmlsoap.org/soap/envelope/",
    "1.2": "http://www.w3.org/2003/05/soap-envelope",
}
_TRUE: Final = frozenset({"1", "true"})
_NULL: Final = "{http://www.w3.org/1999/XMLSchema-instance}null"

Path = tuple[str | int, ...]


class EncodedCodec:
    """Reads and writes elements by the SOAP encoding of one SOAP version."""

    def __init__(self, codec: Codec, version: Literal["1.1", "1.2"]) -> None:
        self.codec = codec
        self.mapping = codec.mapping
        self._enc = _ENC[version]
        self._version = version
        style = codec.tag(f"{{{_ENVELOPE[version]}}}encodingStyle")
        self._style = f' {style}="{self._enc}"'

    def read(self, element: Element, node: etree._Element, what: str) -> Any:
        """The data of `node`, an instance of `element`. Raises BadMessage."""
        body = node.getparent()
        if body is None:
            node = without_comments(node)
        else:
            # What it refers to stands beside it, so comments are taken out of all of the Body.
            position = list(body.iterchildren("*")).index(node)
            node = list(without_comments(body).iterchildren("*"))[position]
        try:
            if node.tag != element.name:
                raise Unfit(f"is '{node.tag!s}' and not '{element.name}'")
            return _Reading(self, node).element(element, node, ())
        except _At as e:
            raise bad_message(
                what, [{"pointer": pointer_of(*e.path), "detail": e.detail}]
            ) from None
        except Unfit as e:
            raise bad_message(what, [{"pointer": "", "detail": e.detail}]) from None

    def write(self, element: Element, data: Any, what: str) -> bytes:
        """The XML of `data` as an instance of `element`. Raises BadMessage."""
        out: list[str] = []
        tag = self.codec.tag(element.name)
        try:
            _Writing(self, out.append).element(element, data, tag, (), self._style)
            return self.codec.finish("".join(out), len(tag) + 1)
        except _At as e:
            raise bad_message(
                what, [{"pointer": pointer_of(*e.path), "detail": e.detail}]
            ) from None
        except (Unfit, ValueError) as e:
            detail = e.detail if isinstance(e, Unfit) else str(e)
            raise bad_message(what, [{"pointer": "", "detail": detail}]) from None


class _At(Exception):
    def __init__(self, path: Path, detail: str) -> None:
        super().__init__(detail)
        self.path = path
        self.detail = detail


def _is_struct(shape: Shape) -> bool:
    """Whether a type is a struct of the encoding: named accessors and nothing else."""
    if shape.mixed or next(slots(shape.content), None) is not None:
        return False
    inside = keys(shape.content) if shape.content is not None else ()
    return not any(key.startswith("$") for key in inside)


def _always(shape: Shape) -> Iterator[Field]:
    """The accessors that a struct always has; those that stand in a choice it may lack."""
    content = shape.content
    whole = isinstance(content, Nodes) and content.kind != "choice" and content.min == 1
    for item in content.items if isinstance(content, Nodes) and whole else (content,):
        if isinstance(item, Field) and item.min:
            yield item


@dataclass
class _Reading:
    """One message being read. `open`: ids that are being read, against circles."""

    owner: EncodedCodec
    root: etree._Element
    count: int = 0
    open: list[etree._Element] = field(default_factory=list)
    _ids: dict[str, etree._Element | None] | None = None

    def _target(self, node: etree._Element, path: Path) -> etree._Element:
        """What a reference refers to, or the element itself."""
        for _ in range(20):
            said = node.get("href")
            if said is not None and said.startswith("#"):
                name = said[1:]
            elif said is not None and not len(node) and not (node.text or "").strip():
                raise _At(path, "refers to something outside of the message")
            else:
                name = node.get(f"{{{_ENC['1.2']}}}ref", "") if said is None else ""
                name = name or (node.get("ref", "") if said is None and not len(node) else "")
                if not name:
                    return node
            if self._ids is None:
                self._ids = {}
                top = self.root.getparent()
                for each in (top if top is not None else self.root).iter("*"):
                    for key in ("id", f"{{{_ENC['1.2']}}}id"):
                        if (own := each.get(key)) is not None:
                            twice = self._ids.get(own, each) is not each
                            self._ids[own] = None if twice else each
            found = self._ids.get(name)
            if found is None:
                fault = "is there more than once" if name in self._ids else "is not there"
                raise _At(path, f"refers to '{name[:60]}', which {fault}")
            node = found
        raise _At(path, "is a reference to a reference to a reference and so on")

    def element(self, element: Element, node: etree._Element, path: Path) -> Any:
        """The data of an accessor."""
        return self.typed(element.type, node, path)

    def typed(self, type_: Type, node: etree._Element, path: Path) -> Any:
        """The data of a value of a type."""
        node = self._target(node, path)
        self._enter(node, path)
        try:
            if (node.get(NIL) or node.get(_NULL) or "").strip() in _TRUE:
                return None
            return self._value(self.owner.mapping.value(type_), type_, node, path)
        finally:
            self.open.pop()

    def _enter(self, node: etree._Element, path: Path) -> None:
        """A value is being read: they are counted, and none may be inside of itself."""
        self.count += 1
        if self.count > MAX_VALUES:
            raise _At(path, f"the message has more than {MAX_VALUES} values")
        if any(node is one for one in self.open):
            raise _At(path, "contains itself, which data cannot")
        if len(self.open) > MAX_DEPTH:
            raise _At(path, f"is nested deeper than {MAX_DEPTH}")
        self.open.append(node)

    def _value(self, value: Value, type_: Type, node: etree._Element, path: Path) -> Any:
        if value.kind == "any":
            return self._any(node, path)
        if value.kind == "array":
            assert value.item is not None
            return self._items(value.item.type, node, path)
        if value.kind == "scalar":
            assert value.simple is not None
            return self._scalar(value.simple, node, path)
        assert value.shape is not None
        shape = value.shape
        said = node.get(XSI_TYPE)
        head: dict[str, Any] = {}
        if said is not None and value.derived:
            found = self._type(said, node)
            if found is not type_ and found in value.derived:
                assert isinstance(found, ComplexType)
                shape = self.owner.mapping.shape(found)
                head = {shape.discriminator: shape.name}
        return {**head, **self._struct(shape, node, path)}

    def _scalar(self, type_: SimpleType, node: etree._Element, path: Path) -> Any:
        if len(node):
            raise _At(path, "must be text, not elements")
        try:
            return scalar(type_).decode(node.text or "", node)
        except ValueError as e:
            raise _At(path, str(e)) from None

    def _struct(self, shape: Shape, node: etree._Element, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for each in shape.attributes:
            text = node.get(each.attribute.name)
            if text is not None and namespace_of(each.attribute.name) not in SOAPENC:
                try:
                    data[each.key] = scalar(each.attribute.type).decode(text, node)
                except ValueError as e:
                    raise _At((*path, each.key), str(e)) from None
        if shape.text is not None:
            data["#text"] = self._scalar(shape.text, node, path)
            return data
        self._no_text(node, path)
        known: dict[str, Field] = {}
        for each_field in fields(shape.content):
            known.setdefault(each_field.element.local, each_field)
        for child in node:
            local = local_name(str(child.tag))
            accessor = known.get(local)
            if accessor is None:
                raise _At((*path, local), "is not known")
            if accessor.many:
                items = data.setdefault(accessor.key, [])
                items.append(
                    self.element(accessor.element, child, (*path, accessor.key, len(items)))
                )
            elif accessor.key in data:
                raise _At((*path, accessor.key), "must be there only once")
            else:
                data[accessor.key] = self.element(accessor.element, child, (*path, accessor.key))
        for accessor in _always(shape):
            if accessor.element.nillable and not accessor.many:
                data.setdefault(accessor.key, None)  # left out means the same as nil
        return data

    def _no_text(self, node: etree._Element, path: Path) -> None:
        texts = [node.text, *(child.tail for child in node)]
        if any(text and not text.isspace() for text in texts):
            raise _At(path, "must hold elements, not text")

    def _items(self, item: Type, node: etree._Element, path: Path) -> list[Any]:
        self._no_text(node, path)
        for enc in _ENC.values():
            # To take such items one after the other would put them in places that are not theirs.
            if node.get(f"{{{enc}}}offset") or any(c.get(f"{{{enc}}}position") for c in node):
                raise _At(path, "is an array in part, which is not supported")
            size = node.get(f"{{{enc}}}arrayType", "").rpartition("[")[2]
            if "," in size or len((node.get(f"{{{enc}}}arraySize") or "").split()) > 1:
                raise _At(path, "is an array of several dimensions, which is not supported")
        return [self.typed(item, child, (*path, i)) for i, child in enumerate(node)]

    def _type(self, said: str, node: etree._Element) -> Type | None:
        prefix, colon, local = said.strip().rpartition(":")
        name = clark(node.nsmap.get(prefix if colon else None) or "", local)
        schemas = self.owner.mapping.schemas
        return schemas.type(name) if schemas.has_type(name) else None

    def _part(self, node: etree._Element, path: Path) -> Any:
        """One of the elements in a value that nobody says a type of."""
        node = self._target(node, path)
        self._enter(node, path)
        try:
            return self._any(node, path)
        finally:
            self.open.pop()

    def _any(self, node: etree._Element, path: Path) -> Any:
        """A value whose type only the message says: strings are strings, all else has "@type"."""
        mapping = self.owner.mapping
        said = node.get(XSI_TYPE)
        array = node.get(f"{{{_ENC['1.1']}}}arrayType") or node.get(f"{{{_ENC['1.2']}}}itemType")
        found = self._type(said, node) if said is not None else None
        if array is not None and (found is None or mapping.value(found).kind != "object"):
            item = self._type(array.partition("[")[0], node)
            inner = item if item is not None else mapping.schemas.type(f"{{{XSD}}}anyType")
            items = self._items(inner, node, path)
            return {"@type": f"{mapping.name(inner)}[]", "$items": items}
        if found is None or found.name == f"{{{XSD}}}anyType":
            if not len(node):
                return node.text or ""
            return {"$any": [{str(c.tag): self._part(c, path)} for c in node]}
        if found.name == f"{{{XSD}}}string":
            return self._scalar(BUILTINS[f"{{{XSD}}}string"], node, path)
        value = mapping.value(found)
        data = self._value(value, found, node, path)
        if value.kind == "object":
            assert value.shape is not None
            key = value.shape.discriminator
            return {key: value.shape.name, **data}
        return {"@type": mapping.name(found), "$items" if value.kind == "array" else "#text": data}


@dataclass
class _Writing:
    """One message being written."""

    owner: EncodedCodec
    out: Callable[[str], None]

    def element(self, element: Element, data: Any, tag: str, path: Path, head: str = "") -> None:
        """An accessor, or the message's own element, which has no xsi:type but `head`."""
        self.typed(element.type, data, tag, path, head, say=not head)

    def typed(
        self, type_: Type, data: Any, tag: str, path: Path, head: str = "", *, say: bool = True
    ) -> None:
        """A value of a type."""
        codec, mapping = self.owner.codec, self.owner.mapping
        value = mapping.value(type_)
        if data is None:
            self.out(f'<{tag}{head} xsi:nil="true"/>')
        elif value.kind == "any":
            self._any(data, tag, path)
        elif value.kind == "array":
            self._array(value, data, tag, path, head)
        elif value.kind == "scalar":
            assert value.simple is not None
            if say:
                head += f' xsi:type="{codec.tag(_known(value.simple))}"'
            self.out(f"<{tag}{head}>{self._text(value.simple, data, path)}</{tag}>")
        else:
            assert value.shape is not None
            self._struct(value, value.shape, data, tag, path, head, say=say)

    def _text(self, type_: SimpleType, data: Any, path: Path) -> str:
        try:
            return text_escaped(scalar(type_).encode(data))
        except ValueError as e:
            raise _At(path, str(e)) from None

    def _struct(
        self, value: Value, shape: Shape, data: Any, tag: str, path: Path, head: str, *, say: bool
    ) -> None:
        codec, mapping = self.owner.codec, self.owner.mapping
        if not isinstance(data, dict):
            raise _At(path, f"must be an object, not {kind(data)}")
        used: set[str] = set()
        said = data.get(shape.discriminator)
        if said is not None:
            found = mapping.named(said) if isinstance(said, str) else None
            if (
                not isinstance(found, ComplexType)
                or found.abstract
                or (found is not value.type and found not in value.derived)
            ):
                raise _At((*path, shape.discriminator), "is no type that can stand here")
            used.add(shape.discriminator)
            shape = mapping.shape(found)
        if shape.type.abstract:
            raise _At((*path, shape.discriminator), "is missing")
        if not _is_struct(shape):
            # Nothing the encoding knows: literally, then.
            codec.writer(codec.holder(value.type))(data, self.out, tag)
            return
        if say and shape.type.name is not None:
            head += f' xsi:type="{codec.tag(shape.type.name)}"'
        for each in shape.attributes:
            if each.key in data:
                used.add(each.key)
                text = self._text(each.attribute.type, data[each.key], (*path, each.key))
                quoted = text.replace('"', "&quot;").replace("\n", "&#10;").replace("\t", "&#9;")
                head += f' {codec.tag(each.attribute.name)}="{quoted}"'
        self.out(f"<{tag}{head}>")
        if shape.text is not None:
            used.add("#text")
            self.out(self._text(shape.text, data.get("#text"), (*path, "#text")))
        needed = {accessor.key for accessor in _always(shape)}
        for accessor in fields(shape.content):
            if accessor.key in needed and accessor.key not in data:
                raise _At((*path, accessor.key), "is missing")
            self._accessor(accessor, data, used, path)
        self.out(f"</{tag}>")
        for key in data:
            if key not in used:
                raise _At((*path, key), "is not known")

    def _accessor(self, accessor: Field, data: dict[str, Any], used: set[str], path: Path) -> None:
        key, element = accessor.key, accessor.element
        where = (*path, key)
        if key not in data:
            if accessor.min and not element.nillable:
                raise _At(where, "is missing")
            return
        used.add(key)
        tag = self.owner.codec.tag(element.name)
        if not accessor.many:
            self.element(element, data[key], tag, where)
            return
        if not isinstance(data[key], list):
            raise _At(where, f"must be an array, not {kind(data[key])}")
        for number, item in enumerate(data[key]):
            self.element(element, item, tag, (*where, number))

    def _array(self, value: Value, data: Any, tag: str, path: Path, head: str) -> None:
        item = value.item
        assert item is not None
        if value.dimensions > 1:
            raise _At(path, "is an array of several dimensions, which is not supported")
        if not isinstance(data, list):
            raise _At(path, f"must be an array, not {kind(data)}")
        self._items(item.type, item.local, data, tag, path, head)

    def _items(
        self, type_: Type, local: str, data: list[Any], tag: str, path: Path, head: str
    ) -> None:
        codec, enc = self.owner.codec, self.owner._enc
        array = codec.tag(f"{{{enc}}}Array")
        suffix, inner = "", type_
        while isinstance(inner, ComplexType) and inner.name is None and inner.array_of is not None:
            suffix += "[]"
            item = self.owner.mapping.value(inner).item
            assert item is not None
            inner = item.type
        name = codec.tag(_known(inner)) + suffix
        if self.owner._version == "1.1":
            size = f'{codec.tag(f"{{{enc}}}arrayType")}="{name}[{len(data)}]"'
        else:
            # There it is the name of a type and no more: arrays of arrays hold arrays.
            size = f'{codec.tag(f"{{{enc}}}itemType")}="{array if suffix else name}" '
            size += f'{codec.tag(f"{{{enc}}}arraySize")}="{len(data)}"'
        self.out(f'<{tag}{head} xsi:type="{array}" {size}>')
        for number, one in enumerate(data):
            self.typed(type_, one, local, (*path, number))
        self.out(f"</{tag}>")

    def _any(self, data: Any, tag: str, path: Path) -> None:
        codec, mapping = self.owner.codec, self.owner.mapping
        if isinstance(data, str):
            self.typed(BUILTINS[f"{{{XSD}}}string"], data, tag, path)
            return
        said = data.get("@type", data.get("@xsi:type")) if isinstance(data, dict) else None
        if isinstance(said, str) and said.endswith("[]"):
            found = mapping.named(said[:-2])
            items = data.get("$items")
            if found is None or not isinstance(items, list):
                raise _At(path, "needs the name of a known type and $items")
            self._items(found, "item", items, tag, path, "")
            return
        found = mapping.named(said) if isinstance(said, str) else None
        if found is not None:
            value = mapping.value(found)
            if value.kind == "object":
                self.typed(found, data, tag, path)
            else:
                self.typed(
                    found, data.get("$items" if value.kind == "array" else "#text"), tag, path
                )
            return
        try:
            codec.write_any(data, self.out, tag)
        except Unfit as e:
            raise _At(path, e.detail) from None


def _known(type_: Type) -> str:
    """The name of the nearest type that has one."""
    while isinstance(type_, SimpleType) and type_.name is None:
        if type_.base is None:
            return f"{{{XSD}}}string"
        type_ = type_.base
    return type_.name or f"{{{XSD}}}anyType"
