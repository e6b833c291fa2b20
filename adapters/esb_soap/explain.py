"""What is wrong with data, with JSON pointers; and where in the data an element is.

The generated functions stop at the first thing that does not fit. What is told to a sender is found
here, by walking data and plan once more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lxml import etree

from esb_soap.components import ComplexType, Element, SimpleType, local_name
from esb_soap.documents import WsdlError
from esb_soap.generate import constant_encoder, first_of
from esb_soap.markup import (
    MAX_ERRORS,
    XSI_TYPE,
    Unfit,
    counted,
    did_you_mean,
    listed,
    pointer_of,
    resolved,
)
from esb_soap.scalars import kind
from esb_soap.shape import (
    NIL_KEY,
    Field,
    Node,
    Nodes,
    Shape,
    Slot,
    Value,
    branch_of,
    fields,
    is_nullable,
    keys,
    slots,
)

if TYPE_CHECKING:
    from esb_soap.codec import Codec


def locate(codec: Codec, element: Element, root: etree._Element, at: etree._Element | None) -> str:
    """The JSON pointer that an element inside `root` has in the data."""
    if at is None or at is root:
        return ""
    chain = [at]
    while (parent := chain[-1].getparent()) is not None and parent is not root:
        chain.append(parent)
    path: list[str | int] = []
    current: Element | None = element
    node = root
    for child in reversed(chain):
        found = _step(codec, current, node, child)
        if found is None:
            path.append(local_name(str(child.tag)))
            current = None
        else:
            steps, current = found
            path += steps
        node = child
    return pointer_of(*path)


def _step(
    codec: Codec, element: Element | None, node: etree._Element, child: etree._Element
) -> tuple[list[str | int], Element | None] | None:
    if element is None:
        return None
    value = codec.mapping.value(element.type)
    before = [c.tag for c in child.itersiblings(preceding=True)]
    if value.kind == "array":
        return [len(before)], value.item
    if value.shape is None:
        return None
    shape = value.shape
    said = node.get(XSI_TYPE)
    if said is not None:
        with contextlib.suppress(Unfit, WsdlError):  # what is wrong with it is told elsewhere
            actual = codec.mapping.value(codec.mapping.schemas.type(resolved(said, node)))
            shape = actual.shape or shape
    if shape.content is None:
        return None
    return _find_step(shape.content, str(child.tag), before)


def _find_step(
    node: Node, tag: str, before: list[Any]
) -> tuple[list[str | int], Element | None] | None:
    if isinstance(node, Field):
        if tag not in node.tags:
            return None
        steps: list[str | int] = [node.key]
        if node.many:
            steps.append(sum(other in node.tags for other in before))
        element = node.element
        for key, other in node.substitutes:
            if other.name == tag:
                steps.append(key)
                element = other
        return steps, element
    if isinstance(node, Slot):
        if not node.wildcard.allows(tag) or tag in node.but:
            return None
        count = sum(isinstance(o, str) and node.wildcard.allows(o) and o not in node.but
                    for o in before)  # fmt: skip
        return [node.key, count, tag], None
    for item in node.items:
        found = _find_step(item, tag, before)
        if found is not None:
            if node.key:
                starts = first_of(node)[0]
                index = max(0, sum(other in starts for other in before) - (tag not in starts))
                return [node.key, index, *found[0]], found[1]
            return found
    return None


def explain(codec: Codec, element: Element, data: Any) -> list[dict[str, str]]:
    """Everything that is wrong with `data` as an instance of `element`."""
    explainer = _Explainer(codec)
    with contextlib.suppress(_Enough, RecursionError):
        explainer.element(element, data, ())
    return explainer.errors


class _Enough(Exception):
    pass


class _Explainer:
    """Walks data along the plan and notes what does not fit."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self.errors: list[dict[str, str]] = []

    def _note(self, at: tuple[str | int, ...], detail: str) -> None:
        self.errors.append({"pointer": pointer_of(*at), "detail": detail})
        if len(self.errors) >= MAX_ERRORS:
            raise _Enough

    def element(self, element: Element, data: Any, at: tuple[str | int, ...]) -> None:
        mapping = self._codec.mapping
        value = mapping.value(element.type)
        if data is None and element.nillable and value.shape is not None:
            self._object(value, value.shape, {}, at, nil=True)
            return
        if data is None and element.nillable:
            return
        if data is None:
            self._note(at, "must not be null; leave it out if there is no value")
        elif value.kind == "scalar":
            assert value.simple is not None
            self._scalar(value.simple, element.fixed, data, at)
        elif value.kind == "array":
            assert value.item is not None
            if not isinstance(data, list):
                self._note(at, f"must be an array, not {kind(data)}")
                return
            for number, item in enumerate(data):
                self.element(value.item, item, (*at, number))
        elif value.kind == "any":
            self._attempt(element, data, at)
        elif not isinstance(data, dict):
            self._note(at, f"must be an object, not {kind(data)}")
        else:
            assert value.shape is not None
            nil = element.nillable and data.get(NIL_KEY) is True
            self._object(value, value.shape, data, at, nil=nil)

    def _attempt(self, element: Element, data: Any, at: tuple[str | int, ...]) -> None:
        try:
            out: list[str] = []
            self._codec.writer(element)(data, out.append, "x")
            self._codec.finish("".join(out), 2)
        except Unfit as e:
            self._note(at, e.detail)
        except ValueError as e:
            self._note(at, str(e))
        except (KeyError, TypeError, AttributeError):
            self._note(at, "does not fit its type")

    def _scalar(
        self, type_: SimpleType, fixed: str | None, data: Any, at: tuple[str | int, ...]
    ) -> None:
        if type_.variety == "list" and isinstance(data, list) and type_.item is not None:
            count = len(self.errors)
            for number, item in enumerate(data):
                self._scalar(type_.item, None, item, (*at, number))
            if len(self.errors) > count:
                return
        try:
            constant_encoder(type_, fixed)(data)
        except ValueError as e:
            self._note(at, str(e))

    def _object(
        self,
        value: Value,
        shape: Shape,
        data: dict[str, Any],
        at: tuple[str | int, ...],
        *,
        nil: bool,
    ) -> None:
        mapping = self._codec.mapping
        used: set[str] = {NIL_KEY} if nil else set()
        if value.derived or value.abstract:
            key = shape.discriminator
            names = [mapping.name(one) for one in value.derived if not one.abstract]
            if not value.abstract:
                names.insert(0, shape.name)
            said = data.get(key)
            if said is None and value.abstract:
                self._note((*at, key), f"is missing; it is one of {listed(names)}")
                return
            if said is not None:
                found = mapping.named(said) if isinstance(said, str) else None
                if (
                    not isinstance(found, ComplexType)
                    or found.abstract
                    or (found is not value.type and found not in value.derived)
                ):
                    hint = did_you_mean(str(said), names)
                    self._note((*at, key), f"must be one of {listed(names)}{hint}")
                    return
                shape = mapping.shape(found)
                used.add(key)
            elif key in data:
                self._note((*at, key), "must not be null")
                return
        if nil:
            shape = mapping.nil_shape(shape.type)
        for each in shape.attributes:
            if each.key in data:
                used.add(each.key)
                attribute = each.attribute
                where = (*at, each.key)
                self._scalar(attribute.type, attribute.fixed, data[each.key], where)
            elif each.attribute.required and each.attribute.fixed is None:
                self._note((*at, each.key), "is missing")
        wild = shape.type.any_attribute
        if wild is not None:
            for key in data.keys() - used:
                if isinstance(key, str) and key[:1] == "@" and key[1:] and wild.allows(key[1:]):
                    used.add(key)
                    if not isinstance(data[key], str):
                        self._note((*at, key), "must be a string")
        if shape.text is not None:
            if "#text" not in data:
                self._note((*at, "#text"), "is missing")
            else:
                used.add("#text")
                self._scalar(shape.text, None, data["#text"], (*at, "#text"))
        elif shape.mixed:
            used.add("#mixed")
            if "#mixed" in data:
                self._mixed(shape, data["#mixed"], (*at, "#mixed"))
        elif shape.content is not None:
            self._node(shape.content, data, used, at)
        self._unknown(shape, data, used, at)

    def _unknown(
        self, shape: Shape, data: dict[str, Any], used: set[str], at: tuple[str | int, ...]
    ) -> None:
        known = [each.key for each in shape.attributes]
        known += list(keys(shape.content)) if shape.content is not None else []
        for key in data:
            if key not in used:
                excluded = key in known
                detail = "cannot be given beside the others" if excluded else "is not known"
                hint = (
                    "" if excluded else did_you_mean(str(key), [k for k in known if k not in data])
                )
                self._note((*at, key), detail + hint)

    def _mixed(self, shape: Shape, data: Any, at: tuple[str | int, ...]) -> None:
        if not isinstance(data, list):
            self._note(at, "must be an array of strings and objects with one key")
            return
        table = {f.key: f for f in fields(shape.content)}
        wilds = list(slots(shape.content))
        for number, part in enumerate(data):
            where = (*at, number)
            if isinstance(part, str):
                continue
            if not isinstance(part, dict) or len(part) != 1:
                self._note(where, "must be a string or an object with one key")
                continue
            [(key, inner)] = part.items()
            if key in table:
                self._one(table[key], inner, (*where, key))
            elif wilds:
                self._wild(wilds[0], part, where)
            else:
                self._note((*where, key), "is not known" + did_you_mean(str(key), table))

    def _one(self, node: Field, data: Any, at: tuple[str | int, ...]) -> None:
        if not node.substitutes:
            self.element(node.element, data, at)
            return
        table = dict(node.substitutes)
        if not isinstance(data, dict) or len(data) != 1 or next(iter(data)) not in table:
            self._note(at, f"must be an object with one of {listed(table)}")
            return
        [(key, inner)] = data.items()
        self.element(table[key], inner, (*at, key))

    def _wild(self, node: Slot, data: Any, at: tuple[str | int, ...]) -> None:
        try:
            out: list[str] = []
            self._codec._write_wild(node, data, out.append)
            return
        except Unfit as e:
            detail = e.detail
        except (ValueError, KeyError, TypeError, AttributeError):
            detail = "does not fit its type"
        if isinstance(data, dict) and len(data) == 1:
            [(name, inner)] = data.items()
            schemas = self._codec.mapping.schemas
            known = isinstance(name, str) and schemas.has_element(name)
            if known and node.wildcard.allows(name):
                count = len(self.errors)
                self.element(schemas.element(name), inner, (*at, name))
                if len(self.errors) > count:
                    return
        self._note(at, detail)

    def _list(self, node: Node, data: Any, at: tuple[str | int, ...]) -> Iterator[tuple[int, Any]]:
        if not isinstance(data, list):
            self._note(at, f"must be an array, not {kind(data)}")
            return
        if len(data) < node.min and not (isinstance(node, Nodes) and is_nullable(node)):
            self._note(at, f"must have at least {counted(node.min)}, not {len(data)}")
        if node.max is not None and len(data) > node.max:
            self._note(at, f"must have at most {counted(node.max)}, not {len(data)}")
        yield from enumerate(data)

    def _node(
        self, node: Node, data: dict[str, Any], used: set[str], at: tuple[str | int, ...]
    ) -> None:
        if isinstance(node, Nodes) and not node.key:
            self._group(node, data, used, at)
            return
        key = node.key
        if key not in data:
            if not is_nullable(node):
                self._note((*at, key), "is missing")
            return
        used.add(key)
        where = (*at, key)
        if isinstance(node, Field) and not node.many:
            self._one(node, data[key], where)
            return
        for number, item in self._list(node, data[key], where):
            if isinstance(node, Field):
                self._one(node, item, (*where, number))
            elif isinstance(node, Slot):
                self._wild(node, item, (*where, number))
            elif not isinstance(item, dict):
                self._note((*where, number), f"must be an object, not {kind(item)}")
            else:
                inner: set[str] = set()
                once = Nodes(node.kind, node.items, 1, 1)
                self._group(once, item, inner, (*where, number))
                for name in item:
                    if name not in inner:
                        known = [k for k in keys(once) if k not in item]
                        hint = did_you_mean(str(name), known)
                        self._note((*where, number, name), "is not known here" + hint)

    def _group(
        self, node: Nodes, data: dict[str, Any], used: set[str], at: tuple[str | int, ...]
    ) -> None:
        if node.kind != "choice":
            if node.min == 0 and not any(key in data for key in keys(node)):
                return
            for item in node.items:
                self._node(item, data, used, at)
            return
        present = [item for item in node.items if any(key in data for key in keys(item))]
        if not present:
            if not is_nullable(node):
                names = [key for item in node.items for key in keys(item)]
                self._note(at, f"needs one of {listed(names)}")
            return
        number = branch_of(node, data)
        chosen = present[0] if number is None else node.items[number]
        self._node(chosen, data, used, at)
