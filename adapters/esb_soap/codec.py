"""Plain data to XML and back, by functions generated for each type (docs/soap-json.md).

The plan (`shape`) is turned into Python source when a type is first met: one function that reads
an lxml element into data and one that writes data as text. They take the straight way and stop at
the first thing that does not fit. What is then told, with pointers, is found by walking data and
plan once more (`explain`), or from the element where reading stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lxml import etree

from esb.errors import BadMessage
from esb_soap.components import (
    XML,
    XSD,
    XSI,
    ComplexType,
    Element,
    SimpleType,
    Type,
    Wildcard,
    local_name,
    namespace_of,
)
from esb_soap.explain import explain, locate
from esb_soap.generate import (
    ReadGenerator,
    WriteGenerator,
    constant_encoder,
    decoder,
    encoder,
    fixed_decoder,
)
from esb_soap.markup import (
    CONTROLS,
    MISSING,
    NIL,
    TRUE,
    XSI_NAMES,
    XSI_TYPE,
    Unfit,
    any_text,
    attribute_escaped,
    bad_message,
    clean,
    did_you_mean,
    is_nil,
    listed,
    missing,
    no_attributes,
    only_xsi,
    pointer_of,
    resolved,
    single_key,
    text_escaped,
    without_comments,
)
from esb_soap.scalars import QNAME
from esb_soap.shape import (
    NIL_KEY,
    Field,
    Mapping,
    Shape,
    Slot,
    Value,
    branch_of,
    fields,
)


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
            "Z": MISSING,
            "esc": text_escaped,
            "qesc": attribute_escaped,
            "read_any": self.read_any,
            "write_any": self.write_any,
            "read_given": self._read_given,
            "write_given": self._write_given,
            "bare": self._bare,
            "missing": missing,
            "unexpected": self._unexpected,
            "no_attributes": no_attributes,
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
        for namespace, prefix in foreign.items():
            used += f' xmlns:{prefix}="{attribute_escaped(namespace)}"'
        raw = (text[:at] + used + text[at:] if used else text).encode()
        if (
            len(raw.translate(None, CONTROLS)) != len(raw)
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
            return self._constant("p", decoder(type_), type_)
        decode = fixed_decoder(type_, element.fixed)

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
                    if key == NIL and text.strip() in TRUE:
                        if not nillable:
                            raise Unfit("must not be nil", c)
                        return None
                    if key not in XSI_NAMES:
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
            derived = variants.get(resolved(said, c)) if said is not None else None
            type_ = derived or value.type
            assert isinstance(type_, ComplexType)
            if len(c) or (c.text or "").strip():
                raise Unfit("is nil, so it must be empty", c)
            shape = self.mapping.nil_shape(type_)
            if not shape.has_attributes:
                only_xsi(c)
                return None
            data = self._names[self.shape_reader(shape)](c)
            if not data:
                return None
            head = {shape.discriminator: self.mapping.name(type_)} if derived else {}
            return {**head, NIL_KEY: True, **data}

        def variant(c: etree._Element) -> Any:
            if c.keys():
                if nillable and (c.get(NIL) or "").strip() in TRUE:
                    return nil(c)
                said = c.get(XSI_TYPE)
                if said is not None:
                    qualified = resolved(said, c)
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
        return self._function("w", shape, WriteGenerator(self).function)

    def formatter(self, element: Element, type_: SimpleType) -> str:
        """The name of the function value -> escaped text."""
        if element.fixed is None:
            return self._constant("f", encoder(type_), type_)
        encode = constant_encoder(type_, element.fixed)
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
            name = resolved(said, c)
            schemas = self.mapping.schemas
            if schemas.has_type(name) and name != f"{{{XSD}}}anyType":
                return self._read_typed(schemas.type(name), c)
        return self._read_untyped(c, self._read_lax)

    def _bare(self, c: etree._Element) -> etree._Element:
        """The element, of type xs:anySimpleType, if it is nothing but text."""
        if len(c):
            raise Unfit(f"must be text, not an element '{local_name(str(c[0].tag))}'", c)
        for name, text in c.items():
            if name not in XSI_NAMES:
                raise Unfit(f"has the attribute '{name!s}', which is not known", c)
            if name == XSI_TYPE:
                said, schemas = resolved(str(text), c), self.mapping.schemas
                known = schemas.has_type(said) and self.mapping.value(schemas.type(said))
                if not known or not isinstance(known.type, SimpleType):
                    raise Unfit(f"has the type '{str(text)[:60]}', which cannot stand here", c)
        return c

    def _read_given(self, c: etree._Element) -> Any:
        """An element of type xs:anyType that must not be nil."""
        if is_nil(c):
            raise Unfit("must not be nil", c)
        return self.read_any(c)

    def _read_raw(self, c: etree._Element) -> Any:
        """An element that no declaration says anything about (processContents skip)."""
        return self._read_untyped(c, self._read_raw)

    def _read_untyped(self, c: etree._Element, read: Callable[[etree._Element], Any]) -> Any:
        data: dict[str, Any] = {f"@{k!s}": v for k, v in c.items() if k not in XSI_NAMES}
        said = c.get(XSI_TYPE)
        if said is not None:
            data = {"@type": resolved(said, c), **data}
        elif "@type" in data:
            data = {"@xsi:type": None, **data}
        if is_nil(c):
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
        nil = is_nil(c)
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
            out(f"<{tag}>{any_text(data)}</{tag}>")
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
                    hint = did_you_mean(value, known)
                    raise Unfit(f"{key} names the type '{value[:60]}', which is not known{hint}")
                head += f' xsi:type="{self._wild_name(value)}"'
            else:
                head += f' {self._wild_name(key[1:])}="{attribute_escaped(clean(value))}"'
        rest = data.keys() - set(names)
        if NIL_KEY in data and rest:
            raise Unfit("is nil, so it takes only attributes")
        if not rest:
            out(f"<{tag}{head}/>")
        elif rest == {"#text"}:
            out(f"<{tag}{head}>{any_text(data['#text'])}</{tag}>")
        elif rest in ({"$any"}, {"#mixed"}):
            out(f"<{tag}{head}>")
            for part in data[next(iter(rest))]:
                if isinstance(part, str) and rest == {"#mixed"}:
                    out(any_text(part))
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
                inner.append(f"<{tag}>{any_text(data[key])}</{tag}>")
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
        name, _ = single_key(data)
        if not slot.wildcard.allows(name or "x") or name in slot.but:
            raise Unfit(f"'{name}' must not stand here")
        if slot.wildcard.process == "skip":
            self._write_raw(data, out)
        else:
            self._write_lax(data, out)

    def _write_lax(self, data: Any, out: Callable[[str], None]) -> None:
        name, inner = single_key(data)
        if self.mapping.schemas.has_element(name) and namespace_of(name) != XSD:
            self.writer(self.mapping.schemas.element(name))(inner, out, self.tag(name))
        else:
            self.write_any(inner, out, self._wild_name(name))

    def _write_raw(self, data: Any, out: Callable[[str], None]) -> None:
        name, inner = single_key(data)
        self._write_untyped(inner, out, self._wild_name(name), self._write_raw)

    def _read_substitute(self, table: dict[str, tuple[str, Element]], c: etree._Element) -> Any:
        key, element = table[str(c.tag)]
        return {key: self.reader(element)(c)}

    def _write_substitute(
        self, table: dict[str, Element], data: Any, out: Callable[[str], None]
    ) -> None:
        if not isinstance(data, dict) or len(data) != 1:
            raise Unfit(f"must be an object with one of {listed(table)}")
        [(key, inner)] = data.items()
        element = table.get(key)
        if element is None:
            raise Unfit(f"must be an object with one of {listed(table)}")
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
                out(any_text(part))
                continue
            if not isinstance(part, dict) or len(part) != 1:
                raise Unfit("#mixed holds strings and objects with one key")
            key, inner = single_key(part)
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
        raise Unfit("is not known" + did_you_mean(local, map(local_name, known)), c)
