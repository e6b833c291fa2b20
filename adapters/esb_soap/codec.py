"""Plain data to XML and back, by functions generated for each type (docs/soap-json.md).

The plan (`shape`) is turned into Python source when a type is first met: one function that reads
an lxml element into data and one that writes data as text. They take the straight way and stop at
the first thing that does not fit. What is then told, with pointers, is found by walking data and
plan once more (`_Explainer`), or from the element where reading stopped.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator
from typing import Any, Final

from lxml import etree

from esb.errors import BadMessage
from esb_soap.documents import WsdlError
from esb_soap.scalars import (
    NCNAME,
    QNAME,
    RANGES,
    UNMARKED,
    int_bounds,
    is_text,
    kind,
    scalar,
)
from esb_soap.shape import (
    NIL_KEY,
    Field,
    Mapping,
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
from esb_soap.xsd import (
    XML,
    XSD,
    XSI,
    Attribute,
    ComplexType,
    Element,
    SimpleType,
    Type,
    Wildcard,
    clark,
    local_name,
    namespace_of,
)

NIL: Final = f"{{{XSI}}}nil"
XSI_TYPE: Final = f"{{{XSI}}}type"
MAX_ERRORS: Final = 20
"""Errors told of one message."""

_XSI_NAMES: Final = frozenset(
    {NIL, XSI_TYPE, f"{{{XSI}}}schemaLocation", f"{{{XSI}}}noNamespaceSchemaLocation"}
)
_TRUE: Final = frozenset({"true", "1"})
_CONTROLS: Final = bytes(c for c in range(32) if c not in (9, 10, 13))
_MISSING: Final = object()


class Unfit(Exception):
    """Something does not fit its type. element: where it was read; key: which part of it."""

    def __init__(self, detail: str, element: etree._Element | None = None, key: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.element = element
        self.key = key


def pointer_of(*parts: str | int) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join("/" + str(p).replace("~", "~0").replace("/", "~1") for p in parts)


def bad_message(what: str, errors: list[dict[str, str]]) -> BadMessage:
    """The error that tells `errors`, the first of them in its text."""
    first = errors[0]
    at = f" at {first['pointer']}" if first["pointer"] else ""
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return BadMessage(f"{what} does not fit{at}: {first['detail']}{more}", errors)


def text_escaped(text: str) -> str:
    """Text as it is written between tags."""
    if text.isalnum():
        return text
    if "&" in text:
        text = text.replace("&", "&amp;")
    if "<" in text:
        text = text.replace("<", "&lt;")
    if ">" in text:
        text = text.replace(">", "&gt;")
    if "\r" in text:
        text = text.replace("\r", "&#13;")
    return text


def attribute_escaped(text: str) -> str:
    """Text as it is written between double quotes."""
    text = text_escaped(text)
    for character, written in (('"', "&quot;"), ("\n", "&#10;"), ("\t", "&#9;")):
        if character in text:
            text = text.replace(character, written)
    return text


class Codec:
    """Reads and writes elements by the plan of a WSDL's types."""

    def __init__(self, mapping: Mapping) -> None:
        self.mapping = mapping
        self._prefixes: dict[str, str] = {XSI: "xsi", XSD: "xs"}
        self._declared: list[tuple[str, str]] = []
        self._numbers: dict[int, int] = {}
        self._kept: list[object] = []
        self._holders: dict[int, Element] = {}
        self._names: dict[str, Any] = {
            "Unfit": Unfit,
            "next": next,
            "iter": iter,
            "Z": _MISSING,
            "esc": text_escaped,
            "qesc": attribute_escaped,
            "read_any": self.read_any,
            "write_any": self.write_any,
            "read_given": self._read_given,
            "write_given": self._write_given,
            "bare": self._bare,
            "missing": _missing,
            "unexpected": self._unexpected,
            "no_attributes": _no_attributes,
            "one_of": self._read_substitute,
            "wild": self._read_wild,
            "write_one_of": self._write_substitute,
            "write_wild": self._write_wild,
            "write_mixed": self._write_mixed,
            "read_mixed": self._read_mixed,
            "branch": branch_of,
        }
        for namespace in (XSI, XSD):
            self._declare(namespace, self._prefixes[namespace])

    # --- whole elements

    def read(self, element: Element, node: etree._Element, what: str) -> Any:
        """The data of `node`, which must be an instance of `element`. Raises BadMessage."""
        node = without_comments(node)
        try:
            if node.tag != element.name:
                raise Unfit(f"is '{node.tag!s}' and not '{element.name}'", node)
            return self.reader(element)(node)
        except Unfit as e:
            pointer = locate(self, element, node, e.element)
            if e.key:
                pointer += pointer_of(e.key)
            raise bad_message(what, [{"pointer": pointer, "detail": e.detail}]) from None
        except RecursionError:
            raise BadMessage(f"{what} is nested too deep") from None

    def write(self, element: Element, data: Any, what: str) -> bytes:
        """The XML of `data` as an instance of `element`. Raises BadMessage, with all errors."""
        out: list[str] = []
        tag = self.tag(element.name)
        try:
            self.writer(element)(data, out.append, tag)
            return self.finish("".join(out), len(tag) + 1)
        except (Unfit, KeyError, TypeError, ValueError, AttributeError, RecursionError) as e:
            errors = explain(self, element, data)
            if not errors:
                if isinstance(e, RecursionError):
                    raise BadMessage(f"{what} is nested too deep") from None
                detail = "does not fit its type"
                if isinstance(e, Unfit):
                    detail = e.detail
                elif isinstance(e, ValueError):
                    detail = str(e)
                errors = [{"pointer": "", "detail": detail}]
            raise bad_message(what, errors) from None

    def finish(self, text: str, at: int) -> bytes:
        """A written element with the namespaces that it uses declared in its start tag, which can
        take attributes at position `at`. Raises ValueError for what XML cannot carry."""
        foreign: dict[str, str] = {}
        if "\0" in text:
            text = QNAME.sub(lambda match: self._prefixed(match[1], foreign), text)
            if "\0" in text:
                raise ValueError("has a character that XML does not allow")
        used = "".join([found for prefix, found in self._declared if prefix in text])
        used += "".join([f' xmlns:{p}="{attribute_escaped(n)}"' for n, p in foreign.items()])
        raw = (text[:at] + used + text[at:] if used else text).encode()
        if (
            len(raw.translate(None, _CONTROLS)) != len(raw)
            or b"\xef\xbf\xbe" in raw
            or b"\xef\xbf\xbf" in raw
        ):
            raise ValueError("has a character that XML does not allow")
        return raw

    def holder(self, type_: Type) -> Element:
        """An element for what is known only by its type, always the same: functions are kept for
        each element."""
        found = self._holders.get(id(type_))
        if found is None:
            found = self._holders[id(type_)] = Element("value", lambda: type_)
        return found

    # --- names

    def prefix(self, namespace: str) -> str:
        """The prefix that is written for a namespace."""
        known = self._prefixes.get(namespace)
        if known is None:
            if namespace == XML:
                return "xml"
            known = f"n{len(self._prefixes) - 1}"
            self._prefixes[namespace] = known
            self._declare(namespace, known)
        return known

    def _declare(self, namespace: str, prefix: str) -> None:
        spelled = f' xmlns:{prefix}="{attribute_escaped(namespace)}"'
        self._declared.append((f"{prefix}:", spelled))

    def tag(self, name: str) -> str:
        """An element's or attribute's name as it is written."""
        namespace = namespace_of(name)
        return f"{self.prefix(namespace)}:{local_name(name)}" if namespace else name

    def _prefixed(self, name: str, foreign: dict[str, str]) -> str:
        """A marked name as it is written. Namespaces that no schema has get prefixes for this
        message only: what messages bring must not pile up here."""
        name = name.replace("&amp;", "&")
        namespace = namespace_of(name)
        if namespace in self._prefixes or namespace in ("", XML):
            return self.tag(name)
        prefix = foreign.setdefault(namespace, f"f{len(foreign)}")
        return f"{prefix}:{local_name(name)}"

    # --- functions, made when first called

    @property
    def _generator(self) -> type[ReadGenerator]:
        return ReadGenerator

    def _number(self, thing: object) -> int:
        number = self._numbers.get(id(thing))
        if number is None:
            number = self._numbers[id(thing)] = len(self._numbers)
            self._kept.append(thing)
        return number

    def _function(self, prefix: str, shape: Shape, build: Callable[[Shape, str], str]) -> str:
        name = f"{prefix}{self._number(shape)}"
        if name not in self._names:

            def compiled(*args: Any) -> Any:
                if self._names[name] is compiled:
                    source = build(shape, name)
                    made: dict[str, Any] = {}
                    exec(compile(source, f"<{shape.name}>", "exec"), self._names, made)  # noqa: S102 - our own source, names quoted
                    self._names[name] = made[name]
                return self._names[name](*args)

            self._names[name] = compiled
        return name

    def _constant(self, prefix: str, thing: Any, key: object = None) -> str:
        name = f"{prefix}{self._number(key if key is not None else thing)}"
        self._names.setdefault(name, thing)
        return name

    def reader(self, element: Element) -> Callable[[etree._Element], Any]:
        """The function that reads an element."""
        name = f"E{self._number(element)}"
        found = self._names.get(name)
        if found is None:
            expression = self._generator(self).expression(element, "c")
            source = f"def {name}(c):\n try:\n  return {expression}\n except ValueError as x:\n"
            source += "  raise Unfit(str(x), c) from None\n"
            exec(source, self._names, self._names)  # noqa: S102 - our own source, names quoted
            found = self._names[name]
        return found  # type: ignore[no-any-return]

    def writer(self, element: Element) -> Callable[[Any, Callable[[str], None], str], None]:
        """The function that writes an element: data, where to, and the tag."""
        name = f"F{self._number(element)}"
        found = self._names.get(name)
        if found is None:
            found = self._names[name] = self._element_writer(element)
        return found

    def parser(self, element: Element, type_: SimpleType) -> str:
        """The name of the function (text, element) -> value, an empty text taking the element's
        default. Constants that are fixed are checked."""
        default = element.default if element.default is not None else element.fixed
        if default is None:
            return self._constant("p", _decoder(type_), type_)
        decode = _fixed(type_, element.fixed)

        def parse(text: str, at: etree._Element) -> Any:
            return decode(text or default, at)

        return self._constant("P", parse, element)

    def slow_parser(self, element: Element, type_: SimpleType, parse: str) -> str:
        """The name of the function that reads a simple element which has attributes or children."""
        name = f"S{self._number(element)}"
        if name not in self._names:
            nillable = element.nillable

            def slow(c: etree._Element) -> Any:
                if len(c):
                    raise Unfit(f"must be text, not an element '{local_name(str(c[0].tag))}'", c)
                for key, text in c.items():
                    if key == NIL and text.strip() in _TRUE:
                        if not nillable:
                            raise Unfit("must not be nil", c)
                        return None
                    if key not in _XSI_NAMES:
                        raise Unfit(f"has the attribute '{key!s}', which is not known", c)
                return self._names[parse](c.text or "", c)

            self._names[name] = slow
        return name

    def variant_reader(self, element: Element, value: Value) -> str:
        """The name of the function that reads an element that may be nil or of a derived type."""
        name = f"X{self._number(element)}"
        if name in self._names:
            return name
        assert value.shape is not None
        plain = self.shape_reader(value.shape)
        own = value.type.name
        variants = {one.name: one for one in value.derived if not one.abstract}
        nillable = element.nillable

        def nil(c: etree._Element) -> Any:
            said = c.get(XSI_TYPE)
            derived = variants.get(_resolved(said, c)) if said is not None else None
            type_ = derived or value.type
            assert isinstance(type_, ComplexType)
            if len(c) or (c.text or "").strip():
                raise Unfit("is nil, so it must be empty", c)
            shape = self.mapping.nil_shape(type_)
            if not shape.has_attributes:
                _only_xsi(c)
                return None
            data = self._names[self.shape_reader(shape)](c)
            if not data:
                return None
            head = {shape.discriminator: self.mapping.name(type_)} if derived else {}
            return {**head, NIL_KEY: True, **data}

        def variant(c: etree._Element) -> Any:
            if c.keys():
                if nillable and (c.get(NIL) or "").strip() in _TRUE:
                    return nil(c)
                said = c.get(XSI_TYPE)
                if said is not None:
                    qualified = _resolved(said, c)
                    if qualified != own:
                        derived = variants.get(qualified)
                        if derived is None:
                            raise Unfit(f"has the type '{said}', which cannot stand here", c)
                        shape = self.mapping.shape(derived)
                        data = self._names[self.shape_reader(shape)](c)
                        return {shape.discriminator: shape.name, **data}
            if value.abstract:
                raise Unfit("must say by xsi:type which type it is", c)
            return self._names[plain](c)

        self._names[name] = variant
        return name

    def shape_reader(self, shape: Shape) -> str:
        """The name of the function that reads an object."""
        return self._function("r", shape, self._generator(self).function)

    def shape_writer(self, shape: Shape) -> str:
        """The name of the function that writes an object."""
        return self._function("w", shape, _WriteGenerator(self).function)

    def formatter(self, element: Element, type_: SimpleType) -> str:
        """The name of the function value -> escaped text."""
        if element.fixed is None:
            return self._constant("f", _encoder(type_), type_)
        encode = _constant_encoder(type_, element.fixed)
        return self._constant("ff", lambda value: text_escaped(encode(value)), element)

    def _element_writer(
        self, element: Element
    ) -> Callable[[Any, Callable[[str], None], str], None]:
        value = self.mapping.value(element.type)
        nillable = element.nillable
        if value.kind == "any":
            write_any = self.write_any if nillable else self._write_given
            if isinstance(value.type, ComplexType):
                return write_any

            def write_simple(data: Any, out: Callable[[str], None], tag: str) -> None:
                if isinstance(data, dict) and data.keys() != {"@type", "#text"}:
                    raise Unfit("must be text or a number, or an object of @type and #text")
                write_any(data, out, tag)

            return write_simple
        if value.kind == "array":

            def write_array(data: Any, out: Callable[[str], None], tag: str) -> None:
                self._write_array(value, nillable, data, out, tag)

            return write_array
        if value.kind == "scalar":
            assert value.simple is not None
            encode = self._names[self.formatter(element, value.simple)]

            def write_scalar(data: Any, out: Callable[[str], None], tag: str) -> None:
                if data is None and nillable:
                    out(f'<{tag} xsi:nil="true"/>')
                else:
                    out(f"<{tag}>{encode(data)}</{tag}>")

            return write_scalar
        assert value.shape is not None
        plain = self.shape_writer(value.shape)
        return self._variant_writer(value, value.shape, nillable, plain)

    def _variant_writer(
        self, value: Value, shape: Shape, nillable: bool, plain: str
    ) -> Callable[[Any, Callable[[str], None], str], None]:
        key, own, abstract = shape.discriminator, shape.name, value.abstract
        variants = {self.mapping.name(one): one for one in value.derived if not one.abstract}
        bare = not any(each.attribute.required for each in shape.attributes)

        def write_nil(
            type_: Type, data: dict[str, Any], out: Callable[[str], None], tag: str, head: str
        ) -> None:
            assert isinstance(type_, ComplexType)
            said = (key in data) + (NIL_KEY in data)
            name = self.shape_writer(self.mapping.nil_shape(type_))
            self._names[name](data, out, tag, head + ' xsi:nil="true"', said)

        def write(data: Any, out: Callable[[str], None], tag: str) -> None:
            if data is None and nillable:
                if bare:
                    out(f'<{tag} xsi:nil="true"/>')
                else:
                    write_nil(value.type, {}, out, tag, "")
                return
            said = data.get(key)
            if type(said) is str and said[:1] == "{" and (found := self.mapping.named(said)):
                said = self.mapping.name(found)
            nil = nillable and data.get(NIL_KEY) is True
            if said is None or said == own:
                if abstract or (key in data and said is None):
                    raise Unfit(f"needs {key}")
                if nil:
                    write_nil(value.type, data, out, tag, "")
                else:
                    self._names[plain](data, out, tag, "", 0 if said is None else 1)
                return
            derived = variants.get(said)
            if derived is None:
                raise Unfit(f"{key} is no type that can stand here")
            head = f' xsi:type="{self.tag(derived.name or "")}"'
            if nil:
                write_nil(derived, data, out, tag, head)
                return
            name = self.shape_writer(self.mapping.shape(derived))
            self._names[name](data, out, tag, head, 1)

        return write

    # --- what is not generated: wildcards, xs:anyType, substitutes, mixed content, arrays

    def read_any(self, c: etree._Element) -> Any:
        """An element of type xs:anyType: by its xsi:type, else as it is."""
        said = c.get(XSI_TYPE) if c.keys() else None
        if said is not None:
            name = _resolved(said, c)
            schemas = self.mapping.schemas
            if schemas.has_type(name) and name != f"{{{XSD}}}anyType":
                return self._read_typed(schemas.type(name), c)
        return self._read_untyped(c, self._read_lax)

    def _bare(self, c: etree._Element) -> etree._Element:
        """The element, of type xs:anySimpleType, if it is nothing but text."""
        if len(c):
            raise Unfit(f"must be text, not an element '{local_name(str(c[0].tag))}'", c)
        for name, text in c.items():
            if name not in _XSI_NAMES:
                raise Unfit(f"has the attribute '{name!s}', which is not known", c)
            if name == XSI_TYPE:
                said, schemas = _resolved(str(text), c), self.mapping.schemas
                known = schemas.has_type(said) and self.mapping.value(schemas.type(said))
                if not known or not isinstance(known.type, SimpleType):
                    raise Unfit(f"has the type '{str(text)[:60]}', which cannot stand here", c)
        return c

    def _read_given(self, c: etree._Element) -> Any:
        """An element of type xs:anyType that must not be nil."""
        if _is_nil(c):
            raise Unfit("must not be nil", c)
        return self.read_any(c)

    def _read_raw(self, c: etree._Element) -> Any:
        """An element that no declaration says anything about (processContents skip)."""
        return self._read_untyped(c, self._read_raw)

    def _read_untyped(self, c: etree._Element, read: Callable[[etree._Element], Any]) -> Any:
        data: dict[str, Any] = {f"@{k!s}": v for k, v in c.items() if k not in _XSI_NAMES}
        said = c.get(XSI_TYPE)
        if said is not None:
            data = {"@type": _resolved(said, c), **data}
        elif "@type" in data:
            data = {"@xsi:type": None, **data}
        if _is_nil(c):
            return {**data, NIL_KEY: True} if data else None
        if not len(c):
            if not data:
                return c.text or ""
            if c.text:
                data["#text"] = c.text
            return data
        texts = [c.text or "", *(child.tail or "" for child in c)]
        if any(text.strip() for text in texts):
            mixed: list[Any] = [texts[0]] if texts[0] else []
            for child, tail in zip(c, texts[1:], strict=True):
                mixed.append({str(child.tag): read(child)})
                if tail:
                    mixed.append(tail)
            return {**data, "#mixed": mixed}
        data["$any"] = [{str(child.tag): read(child)} for child in c]
        return data

    def _read_typed(self, type_: Type, c: etree._Element) -> Any:
        value = self.mapping.value(type_)
        name = self.mapping.name(type_)
        nil = _is_nil(c)
        if value.kind == "object" and not nil:
            assert value.shape is not None
            data = self._names[self.shape_reader(value.shape)](c)
            return {value.shape.discriminator: name, **data}
        if nil:
            return {"@type": name, NIL_KEY: True}
        data = self.reader(self.holder(type_))(c) if value.kind != "any" else c.text or ""
        return {"@type": name, "$items" if value.kind == "array" else "#text": data}

    def _read_lax(self, c: etree._Element) -> Any:
        """An element inside something wild: by its declaration if there is one."""
        tag = str(c.tag)
        if self.mapping.schemas.has_element(tag) and namespace_of(tag) != XSD:
            return self.reader(self.mapping.schemas.element(tag))(c)
        return self.read_any(c)

    def _read_wild(self, wildcard: Wildcard, c: etree._Element) -> dict[str, Any]:
        if wildcard.process == "skip":
            return {str(c.tag): self._read_raw(c)}
        return {str(c.tag): self._read_lax(c)}

    def write_any(self, data: Any, out: Callable[[str], None], tag: str) -> None:
        """The reverse of `read_any`; numbers and booleans say their type."""
        said = data.get("@xsi:type", data.get("@type")) if isinstance(data, dict) else None
        type_ = self.mapping.named(said) if isinstance(said, str) else None
        if type_ is None or (isinstance(type_, ComplexType) and type_.is_any):
            self._write_untyped(data, out, tag, self._write_lax)
        else:
            self._write_typed(type_, data, out, tag)

    def _write_given(self, data: Any, out: Callable[[str], None], tag: str) -> None:
        if data is None or (isinstance(data, dict) and data.get(NIL_KEY) is True):
            raise Unfit("must not be null; leave it out if there is no value")
        self.write_any(data, out, tag)

    def _write_untyped(
        self,
        data: Any,
        out: Callable[[str], None],
        tag: str,
        write: Callable[[Any, Callable[[str], None]], None],
    ) -> None:
        """An element as it is; `write` writes those inside it."""
        if data is None:
            out(f'<{tag} xsi:nil="true"/>')
            return
        if isinstance(data, str):
            out(f"<{tag}>{_any_text(data)}</{tag}>")
            return
        if not isinstance(data, dict):
            if isinstance(data, list):
                raise Unfit("must not be an array where any type may stand")
            name = "boolean" if isinstance(data, bool) else "int" if isinstance(data, int) else (
                "double" if isinstance(data, float) else "decimal"
            )  # fmt: skip
            if name == "int" and not -(2**31) <= data < 2**31:
                name = "long" if -(2**63) <= data < 2**63 else "integer"
            type_ = self.mapping.schemas.type(f"{{{XSD}}}{name}")
            self._write_typed(type_, {"@type": f"xs:{name}", "#text": data}, out, tag)
            return
        head = ""
        names = [key for key in data if key[:1] == "@"]
        for key in names:
            value = data[key]
            if key == "@xsi:type" and value is None:
                continue
            if key == NIL_KEY and value is True:
                head += ' xsi:nil="true"'
                continue
            if not isinstance(value, str):
                raise Unfit(f"{key} must be a string")
            if key == "@xsi:type" or (key == "@type" and "@xsi:type" not in data):
                if value[:1] != "{":
                    known = map(local_name, self.mapping.schemas.names("type"))
                    hint = _did_you_mean(value, known)
                    raise Unfit(f"{key} names the type '{value[:60]}', which is not known{hint}")
                head += f' xsi:type="{self._wild_name(value)}"'
            else:
                head += f' {self._wild_name(key[1:])}="{attribute_escaped(_clean(value))}"'
        rest = data.keys() - set(names)
        if NIL_KEY in data and rest:
            raise Unfit("is nil, so it takes only attributes")
        if not rest:
            out(f"<{tag}{head}/>")
        elif rest == {"#text"}:
            out(f"<{tag}{head}>{_any_text(data['#text'])}</{tag}>")
        elif rest in ({"$any"}, {"#mixed"}):
            out(f"<{tag}{head}>")
            for part in data[next(iter(rest))]:
                if isinstance(part, str) and rest == {"#mixed"}:
                    out(_any_text(part))
                else:
                    write(part, out)
            out(f"</{tag}>")
        else:
            raise Unfit("takes attributes and one of #text, $any and #mixed")

    def _write_typed(
        self, type_: Type, data: dict[str, Any], out: Callable[[str], None], tag: str
    ) -> None:
        value = self.mapping.value(type_)
        head = f' xsi:type="{self.tag(type_.name or "")}"'
        if data.get(NIL_KEY) is True:
            out(f'<{tag}{head} xsi:nil="true"/>')
        elif value.kind == "object":
            assert value.shape is not None
            if value.shape.discriminator not in data:
                raise Unfit(f"needs {value.shape.discriminator}")
            self._names[self.shape_writer(value.shape)](data, out, tag, head, 1)
        else:
            key = "$items" if value.kind == "array" else "#text"
            if data.keys() - {"@type", key} or key not in data:
                raise Unfit(f"takes @type and {key}")
            inner: list[str] = []
            if value.kind == "any":
                inner.append(f"<{tag}>{_any_text(data[key])}</{tag}>")
            else:
                self.writer(self.holder(type_))(data[key], inner.append, tag)
            out(f"<{tag}{head}" + "".join(inner)[len(tag) + 1 :])

    def _wild_name(self, name: str) -> str:
        local = local_name(name)
        try:
            etree.QName("urn:x", local)
        except ValueError as e:
            raise Unfit(f"'{local[:60]}' is no name of XML") from e
        if not namespace_of(name):
            if name.startswith("{") or ":" in name:
                raise Unfit(f"'{name[:60]}' is no qualified name ({{namespace}}name)")
            return local
        return f"\0{attribute_escaped(name)}\0"

    def _write_wild(self, slot: Slot, data: Any, out: Callable[[str], None]) -> None:
        name, _ = _only(data)
        if not slot.wildcard.allows(name or "x") or name in slot.but:
            raise Unfit(f"'{name}' must not stand here")
        if slot.wildcard.process == "skip":
            self._write_raw(data, out)
        else:
            self._write_lax(data, out)

    def _write_lax(self, data: Any, out: Callable[[str], None]) -> None:
        name, inner = _only(data)
        if self.mapping.schemas.has_element(name) and namespace_of(name) != XSD:
            self.writer(self.mapping.schemas.element(name))(inner, out, self.tag(name))
        else:
            self.write_any(inner, out, self._wild_name(name))

    def _write_raw(self, data: Any, out: Callable[[str], None]) -> None:
        name, inner = _only(data)
        self._write_untyped(inner, out, self._wild_name(name), self._write_raw)

    def _read_substitute(self, table: dict[str, tuple[str, Element]], c: etree._Element) -> Any:
        key, element = table[str(c.tag)]
        return {key: self.reader(element)(c)}

    def _write_substitute(
        self, table: dict[str, Element], data: Any, out: Callable[[str], None]
    ) -> None:
        if not isinstance(data, dict) or len(data) != 1:
            raise Unfit(f"must be an object with one of {_listed(table)}")
        [(key, inner)] = data.items()
        element = table.get(key)
        if element is None:
            raise Unfit(f"must be an object with one of {_listed(table)}")
        self.writer(element)(inner, out, self.tag(element.name))

    def _read_mixed(
        self, table: dict[str, Field], wilds: list[Slot], e: etree._Element
    ) -> list[Any]:
        parts: list[Any] = [e.text] if e.text else []
        for c in e:
            tag = str(c.tag)
            found = table.get(tag)
            if found is not None:
                if found.substitutes:
                    names = {one.name: (key, one) for key, one in found.substitutes}
                    parts.append({found.key: self._read_substitute(names, c)})
                else:
                    parts.append({found.key: self.reader(found.element)(c)})
            else:
                slot = next((s for s in wilds if s.wildcard.allows(tag)), None)
                if slot is None:
                    raise Unfit("is not expected here", c)
                parts.append(self._read_wild(slot.wildcard, c))
            if c.tail:
                parts.append(c.tail)
        return parts

    def _write_mixed(
        self, table: dict[str, Field], wilds: list[Slot], data: Any, out: Callable[[str], None]
    ) -> None:
        if not isinstance(data, list):
            raise Unfit("#mixed must be an array")
        for part in data:
            if isinstance(part, str):
                out(_any_text(part))
                continue
            if not isinstance(part, dict) or len(part) != 1:
                raise Unfit("#mixed holds strings and objects with one key")
            key, inner = _only(part)
            found = table.get(key)
            if found is None:
                slot = next((s for s in wilds if s.wildcard.allows(key or "x")), None)
                if slot is None:
                    raise Unfit(f"'{key}' is not known")
                self._write_wild(slot, part, out)
            elif found.substitutes:
                self._write_substitute(dict(found.substitutes), inner, out)
            else:
                self.writer(found.element)(inner, out, self.tag(found.element.name))

    # --- arrays of the SOAP encoding, written literally

    def read_array(self, value: Value, c: etree._Element) -> Any:
        """The items of a SOAP encoded array."""
        assert value.item is not None
        read = self.reader(value.item)
        return [read(child) for child in c]

    def _write_array(
        self, value: Value, nillable: bool, data: Any, out: Callable[[str], None], tag: str
    ) -> None:
        if data is None and nillable:
            out(f'<{tag} xsi:nil="true"/>')
            return
        assert value.item is not None
        if not isinstance(data, list):
            raise Unfit("must be an array")
        write, inner = self.writer(value.item), self.tag(value.item.name)
        out(f"<{tag}>")
        for item in data:
            write(item, out, inner)
        out(f"</{tag}>")

    def _unexpected(self, shape: Shape, c: etree._Element) -> None:
        if not isinstance(c.tag, str):
            raise Unfit("is neither element nor text", c)
        known = {tag for f in fields(shape.content) for tag in f.tags}
        local = local_name(c.tag)
        if c.tag in known:
            raise Unfit("is out of place, or there are too many of it", c)
        for tag in known:
            if local_name(tag) == local:
                raise Unfit(
                    f"is in the namespace '{namespace_of(c.tag)}', it must be "
                    f"'{namespace_of(tag)}'", c,
                )  # fmt: skip
        raise Unfit("is not known" + _did_you_mean(local, map(local_name, known)), c)


# --- generated source ----------------------------------------------------------------------------


class ReadGenerator:
    """The source of the functions that read."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._lines: list[str] = []
        self._count = 0

    def expression(self, element: Element, c: str) -> str:
        """The Python expression that reads the element in variable `c`."""
        codec = self._codec
        value = codec.mapping.value(element.type)
        if value.kind == "any":
            read = "read_any" if element.nillable else "read_given"
            return f"{read}({c if isinstance(value.type, ComplexType) else f'bare({c})'})"
        if value.kind == "array":
            reader = codec._constant("ar", lambda node: codec.read_array(value, node), value)
            return f"{reader}({c})"
        if value.kind == "scalar":
            assert value.simple is not None
            parse = codec.parser(element, value.simple)
            slow = codec.slow_parser(element, value.simple, parse)
            fast = self._text(parse, value.simple, c)
            special = self._special(element, c)
            return f"({slow}({c}) if {special} else {fast})" if special else fast
        assert value.shape is not None
        if element.nillable or value.derived or value.abstract:
            return f"{codec.variant_reader(element, value)}({c})"
        return f"{codec.shape_reader(value.shape)}({c})"

    def _special(self, element: Element, c: str) -> str:
        """The condition that a simple element is more than text; "" where it never is."""
        return f"{c}.keys() or len({c})"

    def _text(self, parse: str, type_: SimpleType, c: str) -> str:
        """The expression that reads the text of an element."""
        if parse[0] == "p" and _is_plain(type_):
            return f"({c}.text or '')"
        return f"{parse}({c}.text or '', {c})"

    def function(self, shape: Shape, name: str) -> str:
        """The source of a function from an element to an object."""
        self._lines = lines = [f"def {name}(e):", " c = e", " d = {}", " try:"]
        self._attributes(shape)
        if shape.text is not None:
            holder = Element("#text", lambda: shape.text)  # type: ignore[arg-type,return-value]
            parse = self._codec.parser(holder, shape.text)
            self._codec._kept.append(holder)
            lines.append("  if len(e): raise Unfit('must be text, not elements', e)")
            lines.append(f"  d['#text'] = {parse}(e.text or '', e)")
        elif shape.mixed:
            table = {tag: f for f in fields(shape.content) for tag in f.tags}
            tables = self._codec._constant("mt", table, table)
            wilds = self._codec._constant("ms", list(slots(shape.content)), (shape, "ms"))
            lines.append(f"  m = read_mixed({tables}, {wilds}, e)")
            lines.append("  if m: d['#mixed'] = m")
        elif shape.content is None:
            what = self._codec._constant("sh", shape)
            lines.append(f"  if len(e): unexpected({what}, e[0])")
        else:
            lines += [
                "  it = iter(e)",
                "  c = next(it, None)",
                "  t = None if c is None else c.tag",
            ]
            self._node(shape.content, "d", "  ")
            self._end(shape)
        lines += ["  return d", " except ValueError as x:"]
        lines.append("  raise Unfit(str(x), e if c is None else c) from None")
        return "\n".join(lines) + "\n"

    def _attributes(self, shape: Shape) -> None:
        codec, lines = self._codec, self._lines
        if not shape.attributes and shape.type.any_attribute is None:
            self._no_attributes()
            return
        table = {}
        for each in shape.attributes:
            attribute = each.attribute
            table[attribute.name] = (each.key, self._attribute(attribute))
        wild = shape.type.any_attribute

        def other(d: dict[str, Any], e: etree._Element, name: str, text: str) -> None:
            if name in _XSI_NAMES:
                if name == NIL and not shape.nil and text.strip() in _TRUE:
                    raise Unfit("must not be nil", e)
            elif wild is not None and wild.allows(name):
                d[f"@{name}"] = text
            else:
                raise Unfit(f"has the attribute '{name!s}', which is not known", e)

        attributes = codec._constant("at", table, table)
        others = codec._constant("ot", other, other)
        lines += [
            "  for k, v in e.items():",
            f"   a = {attributes}.get(k)",
            f"   if a is None: {others}(d, e, k, v)",
            "   else: d[a[0]] = a[1](v, e)",
        ]
        for each in shape.attributes:
            if each.attribute.required:
                lines.append(f"  if {each.key!r} not in d: missing(e, None, {each.key!r})")

    def _attribute(self, attribute: Attribute) -> Callable[..., Any]:
        return _fixed(attribute.type, attribute.fixed)

    def _no_attributes(self) -> None:
        self._lines.append("  if e.keys(): no_attributes(e)")

    def _end(self, shape: Shape) -> None:
        """Nothing may be left."""
        what = self._codec._constant("sh", shape)
        self._lines.append(f"  if t is not None: unexpected({what}, c)")

    def _next(self, pad: str) -> None:
        self._lines.append(f"{pad}c = next(it, None); t = None if c is None else c.tag")

    def _look(self, pad: str) -> None:
        """Before a condition on what comes next, and where two ways meet."""

    def _expect(self, node: Field, pad: str) -> None:
        """What comes next must be `node`."""
        lacks = _negated(self._is(node))
        self._lines.append(f"{pad}if {lacks}: missing(e, c, {node.key!r})")

    def _node(self, node: Node, d: str, pad: str) -> None:
        if isinstance(node, Field):
            self._field(node, d, pad)
        elif isinstance(node, Slot):
            self._slot(node, d, pad)
        elif node.key:
            self._repeating(node, d, pad)
        elif node.kind == "choice":
            self._choice(node, d, pad)
        elif node.kind == "all":
            self._all(node, d, pad)
        elif node.min == 0 and not all(item.min == 0 for item in node.items):
            self._look(pad)
            self._lines.append(f"{pad}if {self._starts(node)}:")
            self._sequence(node, d, pad + " ")
            self._look(pad + " ")
        else:
            self._sequence(node, d, pad)

    def _sequence(self, node: Nodes, d: str, pad: str) -> None:
        # A run of optional elements is skipped at once when nothing is left.
        run = 0
        for number, item in enumerate(node.items):
            if run == 0:
                run = _optional_run(node.items[number:])
                if run >= 4:
                    self._look(pad)
                    self._lines.append(f"{pad}if t is not None:")
            self._node(item, d, pad + " " if run >= 4 or run < 0 else pad)
            if run >= 4:
                run = -(run - 1)
            elif run < 0:
                run += 1
            else:
                run = max(run - 1, 0)

    def _read(self, node: Field) -> str:
        if node.substitutes:
            table = {one.name: (key, one) for key, one in node.substitutes}
            return f"one_of({self._codec._constant('su', table, (node, 'su'))}, c)"
        return self.expression(node.element, "c")

    def _is(self, node: Field) -> str:
        if len(node.tags) == 1:
            return f"t == {node.tags[0]!r}"
        tags = frozenset(node.tags)
        return f"t in {self._codec._constant('fs', tags, (node, 'fs'))}"

    def _field(self, node: Field, d: str, pad: str) -> None:
        if not node.tags:
            return  # abstract, and nothing may stand for it
        lines, key = self._lines, node.key
        if node.many or not node.min:
            self._look(pad)
        if node.many:
            lines.append(f"{pad}if {self._is(node)}:")
            lines.append(f"{pad} l = {d}[{key!r}] = []")
            # What is more may be for what comes next.
            more = "" if node.max is None else f" and len(l) < {node.max}"
            lines.append(f"{pad} while {self._is(node)}{more}:")
            lines.append(f"{pad}  l.append({self._read(node)})")
            self._next(pad + "  ")
            self._look(pad + "  ")
            self._bounds(node, key, pad + " ")
            if node.min:
                lines.append(f"{pad}else: missing(e, c, {key!r})")
        elif node.min:
            self._expect(node, pad)
            lines.append(f"{pad}{d}[{key!r}] = {self._read(node)}")
            self._next(pad)
        else:
            lines.append(f"{pad}if {self._is(node)}:")
            lines.append(f"{pad} {d}[{key!r}] = {self._read(node)}")
            self._next(pad + " ")
            self._look(pad + " ")

    def _bounds(self, node: Node, key: str, pad: str) -> None:
        if node.min > 1 and not is_nullable(node):
            detail = f"must have at least {_items(node.min)}"
            self._lines.append(f"{pad}if len(l) < {node.min}: raise Unfit({detail!r}, e, {key!r})")
        if node.max is not None:
            detail = f"must have at most {_items(node.max)}"
            self._lines.append(f"{pad}if len(l) > {node.max}: raise Unfit({detail!r}, e, {key!r})")

    def _wild(self, node: Slot) -> str:
        namespaces = node.wildcard

        def matches(tag: Any) -> bool:
            return type(tag) is str and namespaces.allows(tag) and tag not in node.but

        return f"{self._codec._constant('wi', matches, (node, 'wi'))}(t)"

    def _slot(self, node: Slot, d: str, pad: str) -> None:
        wildcard = self._codec._constant("wc", node.wildcard, node.wildcard)
        lines = self._lines
        self._look(pad)
        lines.append(f"{pad}if {self._wild(node)}:")
        lines.append(f"{pad} l = {d}[{node.key!r}] = []")
        more = "" if node.max is None else f" and len(l) < {node.max}"
        lines.append(f"{pad} while {self._wild(node)}{more}:")
        lines.append(f"{pad}  l.append(wild({wildcard}, c))")
        self._next(pad + "  ")
        self._look(pad + "  ")
        if node.min > 1:
            self._bounds(node, node.key, pad + " ")
        if node.min:
            lines.append(f"{pad}else: missing(e, c, {node.key!r})")

    def _starts(self, node: Node) -> str:
        """The condition that what comes next begins `node`."""
        tags, wilds = _first(node)
        parts = []
        if len(tags) == 1:
            parts.append(f"t == {next(iter(tags))!r}")
        elif tags:
            parts.append(f"t in {self._codec._constant('fi', frozenset(tags), (node, 'fi'))}")
        parts += [self._wild(slot) for slot in wilds]
        return " or ".join(parts) or "False"

    def _choice(self, node: Nodes, d: str, pad: str) -> None:
        word = "if"
        self._look(pad)
        for item in node.items:
            self._lines.append(f"{pad}{word} {self._starts(item)}:")
            self._node(item, d, pad + " ")
            self._look(pad + " ")
            self._lines.append(f"{pad} pass")
            word = "elif"
        if not is_nullable(node):
            names = [k for item in node.items for k in keys(item)]
            wanted = f"one of {_listed(names)}"
            self._lines.append(f"{pad}else: missing(e, c, '', {wanted!r})")

    def _repeating(self, node: Nodes, d: str, pad: str) -> None:
        self._count += 1
        number = self._count
        lines = self._lines
        self._look(pad)
        lines.append(f"{pad}g{number} = []")
        lines.append(f"{pad}while {self._starts(node)}:")
        lines.append(f"{pad} d{number} = {{}}")
        lines.append(f"{pad} g{number}.append(d{number})")
        once = Nodes(node.kind, node.items, 1, 1)
        self._node(once, f"d{number}", pad + " ")
        self._look(pad + " ")
        lines.append(f"{pad}if g{number}:")
        lines.append(f"{pad} l = {d}[{node.key!r}] = g{number}")
        self._bounds(node, node.key, pad + " ")
        if not is_nullable(node):
            lines.append(f"{pad}else: missing(e, c, {node.key!r})")

    def _all(self, node: Nodes, d: str, pad: str) -> None:
        lines = self._lines
        self._look(pad)
        lines.append(f"{pad}while True:")
        word = "if"
        members = [item for item in node.items if isinstance(item, Field) and item.tags]
        for item in members:
            key = item.key
            lines.append(f"{pad} {word} {self._is(item)}:")
            if item.many:
                lines.append(f"{pad}  {d}.setdefault({key!r}, []).append({self._read(item)})")
            else:
                twice = "raise Unfit('must be there only once', c)"
                lines.append(f"{pad}  if {key!r} in {d}: {twice}")
                lines.append(f"{pad}  {d}[{key!r}] = {self._read(item)}")
            self._next(pad + "  ")
            self._look(pad + "  ")
            word = "elif"
        lines.append(f"{pad} else: break" if members else f"{pad} break")
        needed = [item for item in members if item.min]
        if not node.min and needed:
            # All of it or nothing of it.
            some = " or ".join(f"{item.key!r} in {d}" for item in members)
            lines.append(f"{pad}if {some}:")
            pad += " "
        for item in needed:
            lines.append(f"{pad}if {item.key!r} not in {d}: missing(e, c, {item.key!r})")


class _WriteGenerator:
    """The source of the functions that write."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._lines: list[str] = []
        self._pending = ""
        self._count = 0

    def function(self, shape: Shape, name: str) -> str:
        """The source of a function from an object to text: data, where to, tag, more attributes,
        and how many keys are dealt with already."""
        codec = self._codec
        self._lines = lines = [f"def {name}(d, o, g, x, n):"]
        lines.append(" if type(d) is not dict: raise Unfit('must be an object')")
        for each in shape.attributes:
            encode = codec._constant("qf", _attribute_encoder(each.attribute), each.attribute)
            tag = codec.tag(each.attribute.name)
            key = each.key
            lines.append(f" v = d.get({key!r}, Z)")
            lines.append(" if v is not Z:")
            lines.append(f"  n += 1; x += f' {tag}=\"{{{encode}(v)}}\"'")
            if each.attribute.required:
                if each.attribute.fixed is not None:
                    fixed = f' {tag}="{attribute_escaped(each.attribute.fixed)}"'
                    lines.append(f" else: x += {fixed!r}")
                else:
                    lines.append(f" else: raise Unfit({key + ' is missing'!r})")
        if shape.type.any_attribute is not None:
            known = {each.key for each in shape.attributes} | {shape.discriminator, NIL_KEY}
            other = codec._constant(
                "oa", self._other_attributes(shape, frozenset(known)), (shape, "oa")
            )
            lines.append(f" if n != len(d): n, x = {other}(d, n, x)")
        self._pending = "<{g}{x}>"
        required = 0
        if shape.text is not None:
            encode = codec._constant("f", _encoder(shape.text), shape.text)
            self._pending += f"{{{encode}(d['#text'])}}"
            required += 1
        elif shape.mixed:
            self._flush(" ")
            table = {f.key: f for f in fields(shape.content)}
            tables = codec._constant("mw", table, table)
            wilds = codec._constant("mx", list(slots(shape.content)), (shape, "mx"))
            lines.append(" if '#mixed' in d:")
            lines.append(f"  n += 1; write_mixed({tables}, {wilds}, d['#mixed'], o)")
        elif shape.content is not None:
            required = self._node(shape.content, "d", "n", " ")
        self._pending += "</{g}>"
        self._flush(" ")
        total = f"n + {required}" if required else "n"
        lines.append(f" if {total} != len(d): raise Unfit('has a key that is not known')")
        return "\n".join(lines) + "\n"

    def _other_attributes(
        self, shape: Shape, known: frozenset[str]
    ) -> Callable[[dict[str, Any], int, str], tuple[int, str]]:
        wild, codec = shape.type.any_attribute, self._codec
        assert wild is not None

        def others(d: dict[str, Any], n: int, x: str) -> tuple[int, str]:
            for key, value in d.items():
                if key[:1] == "@" and key not in known:
                    name = key[1:]
                    if not name or not wild.allows(name) or not isinstance(value, str):
                        raise Unfit(f"{key} is not known")
                    n += 1
                    x += f' {codec._wild_name(name)}="{attribute_escaped(_clean(value))}"'
            return n, x

        return others

    def _flush(self, pad: str) -> None:
        if self._pending:
            text = self._pending.replace("\\", "\\\\").replace('"', '\\"')
            self._lines.append(f'{pad}o(f"{text}")')
            self._pending = ""

    def _node(self, node: Node, d: str, n: str, pad: str) -> int:
        """Source for a node of object `d`, whose other keys are counted in variable `n`; how many
        keys it has dealt with in any case."""
        if isinstance(node, Field):
            return self._field(node, d, n, pad)
        if isinstance(node, Slot):
            return self._slot(node, d, n, pad)
        if node.key:
            return self._repeating(node, d, n, pad)
        if node.kind == "choice":
            self._choice(node, d, n, pad)
            return 0
        if node.min == 0 and not all(item.min == 0 for item in node.items):
            self._flush(pad)
            self._lines.append(f"{pad}if {self._has(node, d)}:")
            self._body(node.items, d, n, pad + " ")
            return 0
        return sum(self._node(item, d, n, pad) for item in node.items)

    def _body(self, items: tuple[Node, ...], d: str, n: str, pad: str) -> None:
        count = sum(self._node(item, d, n, pad) for item in items)
        self._flush(pad)
        self._lines.append(f"{pad}{n} += {count}" if count else f"{pad}pass")

    def _has(self, node: Node, d: str) -> str:
        names = list(keys(node))
        if len(names) <= 3:
            return " or ".join(f"{name!r} in {d}" for name in names) or "False"
        table = self._codec._constant("ks", frozenset(names), (node, "ks"))
        return f"not {table}.isdisjoint({d})"

    def _value(self, node: Field, v: str, pad: str) -> None:
        """Source that writes the element of a field from the expression `v`."""
        codec = self._codec
        if node.substitutes:
            self._flush(pad)
            table = codec._constant("sw", dict(node.substitutes), (node, "sw"))
            self._lines.append(f"{pad}write_one_of({table}, {v}, o)")
            return
        element = node.element
        tag = codec.tag(element.name)
        value = codec.mapping.value(element.type)
        if value.kind == "scalar" and not element.nillable:
            assert value.simple is not None
            encode = codec.formatter(element, value.simple)
            self._pending += f"<{tag}>{{{encode}({v})}}</{tag}>"
            return
        self._flush(pad)
        plain = value.kind == "object" and not (element.nillable or value.derived or value.abstract)
        if plain:
            assert value.shape is not None
            writer = codec.shape_writer(value.shape)
            self._lines.append(f"{pad}{writer}({v}, o, {tag!r}, '', 0)")
        elif value.kind == "any" and isinstance(value.type, ComplexType):
            write = "write_any" if element.nillable else "write_given"
            self._lines.append(f"{pad}{write}({v}, o, {tag!r})")
        else:
            name = f"F{codec._number(element)}"
            codec.writer(element)
            self._lines.append(f"{pad}{name}({v}, o, {tag!r})")

    def _field(self, node: Field, d: str, n: str, pad: str) -> int:
        key = repr(node.key)
        if node.many:
            self._flush(pad)
            lines = self._lines
            lines.append(f"{pad}v = {d}.get({key}, Z)")
            lines.append(f"{pad}if v is not Z:")
            lines.append(f"{pad} if type(v) is not list: raise Unfit('must be an array')")
            self._check_length(node, pad + " ")
            lines.append(f"{pad} for i in v:")
            self._value(node, "i", pad + "  ")
            self._flush(pad + "  ")
            lines.append(f"{pad} {n} += 1")
            if node.min:
                lines.append(f"{pad}else: raise Unfit({node.key + ' is missing'!r})")
            return 0
        if node.min:
            self._value(node, f"{d}[{key}]", pad)
            return 1
        self._flush(pad)
        self._lines.append(f"{pad}v = {d}.get({key}, Z)")
        self._lines.append(f"{pad}if v is not Z:")
        self._value(node, "v", pad + " ")
        self._flush(pad + " ")
        self._lines.append(f"{pad} {n} += 1")
        return 0

    def _check_length(self, node: Node, pad: str) -> None:
        least = 1 if isinstance(node, Nodes) and node.min and is_nullable(node) else node.min
        if least and not (isinstance(node, Nodes) and is_nullable(node)):
            self._lines.append(f"{pad}if len(v) < {least}: raise Unfit('has too few items')")
        if node.max is not None:
            self._lines.append(f"{pad}if len(v) > {node.max}: raise Unfit('has too many items')")

    def _slot(self, node: Slot, d: str, n: str, pad: str) -> int:
        self._flush(pad)
        lines = self._lines
        slot = self._codec._constant("sl", node)
        lines.append(f"{pad}v = {d}.get({node.key!r}, Z)")
        lines.append(f"{pad}if v is not Z:")
        lines.append(f"{pad} if type(v) is not list: raise Unfit('must be an array')")
        self._check_length(node, pad + " ")
        lines.append(f"{pad} for i in v: write_wild({slot}, i, o)")
        lines.append(f"{pad} {n} += 1")
        if node.min:
            lines.append(f"{pad}else: raise Unfit({node.key + ' is missing'!r})")
        return 0

    def _choice(self, node: Nodes, d: str, n: str, pad: str) -> None:
        self._flush(pad)
        branches = [frozenset(keys(item)) for item in node.items]
        everything = [key for branch in branches for key in branch]
        if len(everything) == len(set(everything)):
            tests = [self._has(item, d) for item in node.items]
        else:
            table = self._codec._constant("br", node)
            self._lines.append(f"{pad}b = branch({table}, {d})")
            tests = [f"b == {number}" for number in range(len(branches))]
        word = "if"
        for item, test in zip(node.items, tests, strict=True):
            self._lines.append(f"{pad}{word} {test}:")
            self._body((item,), d, n, pad + " ")
            word = "elif"
        if not is_nullable(node):
            self._lines.append(f"{pad}else: raise Unfit('needs one of a choice')")

    def _repeating(self, node: Nodes, d: str, n: str, pad: str) -> int:
        self._flush(pad)
        self._count += 1
        number, lines = self._count, self._lines
        lines.append(f"{pad}v = {d}.get({node.key!r}, Z)")
        lines.append(f"{pad}if v is not Z:")
        lines.append(f"{pad} if type(v) is not list: raise Unfit('must be an array')")
        self._check_length(node, pad + " ")
        lines.append(f"{pad} for d{number} in v:")
        lines.append(f"{pad}  if type(d{number}) is not dict: raise Unfit('must be an object')")
        lines.append(f"{pad}  n{number} = 0")
        once = Nodes(node.kind, node.items, 1, 1)
        count = self._node(once, f"d{number}", f"n{number}", pad + "  ")
        self._flush(pad + "  ")
        lines.append(f"{pad}  if n{number} + {count} != len(d{number}): raise Unfit('has a key')")
        lines.append(f"{pad} {n} += 1")
        if not is_nullable(node):
            lines.append(f"{pad}else: raise Unfit({node.key + ' is missing'!r})")
        return 0


def _optional_run(items: tuple[Node, ...]) -> int:
    run = 0
    for item in items:
        if item.min:
            break
        run += 1
    return run


def _negated(condition: str) -> str:
    return condition.replace(" == ", " != ").replace("t in ", "t not in ")


def _first(node: Node) -> tuple[set[str], list[Slot]]:
    """The elements and wildcards that may come first in a node."""
    if isinstance(node, Field):
        return set(node.tags), []
    if isinstance(node, Slot):
        return set(), [node]
    tags: set[str] = set()
    wilds: list[Slot] = []
    for item in node.items:
        more, others = _first(item)
        tags |= more
        wilds += others
        if node.kind == "sequence" and not is_nullable(item):
            break
    return tags, wilds


def _missing(e: etree._Element, c: etree._Element | None, key: str, wanted: str = "it") -> None:
    found = ""
    if c is not None:
        local, of = local_name(str(c.tag)), namespace_of(str(c.tag))
        # The name alone would say that it is missing and there.
        where = f" of {f'the namespace {of!r}' if of else 'no namespace'}" if local == key else ""
        found = f"; '{local}'{where} stands in its place"
    if not key:
        raise Unfit(f"{wanted} is missing{found}", e)
    raise Unfit(f"is missing{found}", e, key)


def _no_attributes(e: etree._Element) -> None:
    for name, text in e.items():
        if name == NIL and text.strip() in _TRUE:
            raise Unfit("must not be nil", e)
    _only_xsi(e)


def _only_xsi(e: etree._Element) -> None:
    for name in e.keys():  # noqa: SIM118 - an element is no mapping
        if name not in _XSI_NAMES:
            raise Unfit(f"has the attribute '{name!s}', which is not known", e)


def _items(count: int) -> str:
    return "1 item" if count == 1 else f"{count} items"


def _only(data: Any) -> tuple[str, Any]:
    if not isinstance(data, dict) or len(data) != 1:
        raise Unfit("must be an object with one key, the element's name")
    [(name, inner)] = data.items()
    if not isinstance(name, str):
        raise Unfit("has a key that is no text")
    return name, inner


def _is_nil(c: etree._Element) -> bool:
    return (c.get(NIL) or "").strip() in _TRUE


def _resolved(text: str, c: etree._Element) -> str:
    """The qualified name that `text` is at an element. Raises Unfit."""
    prefix, colon, local = text.strip().rpartition(":")
    namespace = c.nsmap.get(prefix if colon else None)
    if namespace is None and colon:
        raise Unfit(f"has the type '{text[:60]}', whose prefix is not declared", c)
    if not NCNAME.match(local):
        raise Unfit(f"has the type '{text[:60]}', which is no qualified name", c)
    return clark(namespace or "", local)


def without_comments(node: etree._Element) -> etree._Element:
    """The element, or a copy that has no comments and processing instructions in it."""
    if next(node.iter(etree.Comment, etree.PI), None) is None:
        return node
    copied = etree.fromstring(
        etree.tostring(node, with_tail=False, encoding="UTF-8"),
        etree.XMLParser(remove_comments=True, remove_pis=True, resolve_entities=False),
    )
    return copied


def _clean(text: str) -> str:
    if "\0" in text:
        raise Unfit("has a character that XML does not allow")
    return text


def _any_text(value: Any) -> str:
    if not isinstance(value, str):
        raise Unfit(f"must be a string, not {kind(value)}")
    return text_escaped(_clean(value))


def _listed(names: Any) -> str:
    known = list(dict.fromkeys(f"'{name}'" for name in names))
    return ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")


def _did_you_mean(word: str, names: Any) -> str:
    close = difflib.get_close_matches(word, list(names), n=1)
    return f": did you mean '{close[0]}'?" if close else ""


def _fixed(type_: SimpleType, fixed: str | None) -> Callable[..., Any]:
    """What reads a value that must be `fixed`, if that is not None."""
    decode = scalar(type_).decode
    if fixed is None or type_.primitive in ("QName", "NOTATION"):
        return decode  # the prefix of a fixed name means something only in the schema
    try:
        constant = decode(fixed, None)
    except ValueError:
        return decode  # the schema is wrong, libxml2 says so

    def checked(text: str, at: etree._Element | None) -> Any:
        value = decode(text, at)
        if value != constant:
            raise ValueError(f"must be '{fixed}'")
        return value

    return checked


def _constant_encoder(type_: SimpleType, fixed: str | None) -> Callable[[Any], str]:
    """What writes a value that must be `fixed`, if that is not None."""
    encode = scalar(type_).encode
    if fixed is None or type_.primitive in ("QName", "NOTATION"):
        return encode
    check = _fixed(type_, fixed)

    def checked(value: Any) -> str:
        text = encode(value)
        check(text, None)
        return text

    return checked


# --- scalars, the fast way -----------------------------------------------------------------------


def _is_plain(type_: SimpleType) -> bool:
    """Whether any text is a value, and it is itself."""
    facets = type_.facets
    return (
        type_.variety == "atomic"
        and type_.primitive == "string"
        and facets.white_space == "preserve"
        and not _has_checks(type_)
    )


def _has_checks(type_: SimpleType) -> bool:
    f = type_.facets
    limits = (
        f.length, f.min_length, f.max_length, f.min_inclusive, f.max_inclusive, f.min_exclusive,
        f.max_exclusive, f.total_digits, f.fraction_digits,
    )  # fmt: skip
    return bool(f.enumeration or f.patterns) or any(limit is not None for limit in limits)


def _decoder(type_: SimpleType) -> Callable[..., Any]:
    decode = scalar(type_).decode
    bounds = int_bounds(type_)
    if bounds is None or is_text(type_):
        return decode
    least, most = bounds

    def integer(text: str, at: etree._Element) -> Any:
        try:
            number = int(text)
            if least <= number <= most and str(number) == text:
                return number
        except ValueError:
            pass
        return decode(text, at)

    return integer


def _encoder(type_: SimpleType) -> Callable[[Any], str]:
    """value -> escaped text."""
    encode = scalar(type_).encode
    if type_.variety != "atomic":
        return lambda value: text_escaped(encode(value))
    if type_.primitive in RANGES:
        bounds = int_bounds(type_)
        if bounds is None:
            return encode
        least, most = bounds

        def integer(value: Any) -> str:
            if type(value) is int and least <= value <= most:
                return str(value)
            return encode(value)

        return integer
    if type_.primitive in UNMARKED:
        return encode
    if type_.primitive in ("string", "anyURI", "token", "normalizedString") and not _has_checks(
        type_
    ):

        def string(value: Any) -> str:
            if type(value) is str:
                if value.isalnum():
                    return value
                if "\0" not in value:
                    return text_escaped(value)
            return text_escaped(encode(value))

        return string
    return lambda value: text_escaped(encode(value))


def _attribute_encoder(attribute: Attribute) -> Callable[[Any], str]:
    encode = _constant_encoder(attribute.type, attribute.fixed)
    return lambda value: attribute_escaped(encode(value))


# --- telling what is wrong -----------------------------------------------------------------------


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
            actual = codec.mapping.value(codec.mapping.schemas.type(_resolved(said, node)))
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
                starts = _first(node)[0]
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
            _constant_encoder(type_, fixed)(data)
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
                self._note((*at, key), f"is missing; it is one of {_listed(names)}")
                return
            if said is not None:
                found = mapping.named(said) if isinstance(said, str) else None
                if (
                    not isinstance(found, ComplexType)
                    or found.abstract
                    or (found is not value.type and found not in value.derived)
                ):
                    hint = _did_you_mean(str(said), names)
                    self._note((*at, key), f"must be one of {_listed(names)}{hint}")
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
                    "" if excluded else _did_you_mean(str(key), [k for k in known if k not in data])
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
                self._note((*where, key), "is not known" + _did_you_mean(str(key), table))

    def _one(self, node: Field, data: Any, at: tuple[str | int, ...]) -> None:
        if not node.substitutes:
            self.element(node.element, data, at)
            return
        table = dict(node.substitutes)
        if not isinstance(data, dict) or len(data) != 1 or next(iter(data)) not in table:
            self._note(at, f"must be an object with one of {_listed(table)}")
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
            self._note(at, f"must have at least {_items(node.min)}, not {len(data)}")
        if node.max is not None and len(data) > node.max:
            self._note(at, f"must have at most {_items(node.max)}, not {len(data)}")
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
                        hint = _did_you_mean(str(name), known)
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
                self._note(at, f"needs one of {_listed(names)}")
            return
        number = branch_of(node, data)
        chosen = present[0] if number is None else node.items[number]
        self._node(chosen, data, used, at)
