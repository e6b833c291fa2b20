"""The source of the functions that read and write objects, made from the plan of their types.

They take the straight way and stop at the first thing that does not fit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from lxml import etree

from esb_soap.components import Attribute, ComplexType, Element, SimpleType
from esb_soap.markup import (
    NIL,
    TRUE,
    XSI_NAMES,
    Unfit,
    attribute_escaped,
    clean,
    counted,
    listed,
    text_escaped,
)
from esb_soap.scalars import RANGES, UNMARKED, int_bounds, is_text, scalar
from esb_soap.shape import (
    NIL_KEY,
    Field,
    Node,
    Nodes,
    Shape,
    Slot,
    fields,
    is_nullable,
    keys,
    slots,
)

if TYPE_CHECKING:
    from esb_soap.codec import Codec


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
            if name in XSI_NAMES:
                if name == NIL and not shape.nil and text.strip() in TRUE:
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
        return fixed_decoder(attribute.type, attribute.fixed)

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
            detail = f"must have at least {counted(node.min)}"
            self._lines.append(f"{pad}if len(l) < {node.min}: raise Unfit({detail!r}, e, {key!r})")
        if node.max is not None:
            detail = f"must have at most {counted(node.max)}"
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
        tags, wilds = first_of(node)
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
            wanted = f"one of {listed(names)}"
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


class WriteGenerator:
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
            encode = codec._constant("f", encoder(shape.text), shape.text)
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
                    x += f' {codec._wild_name(name)}="{attribute_escaped(clean(value))}"'
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


def first_of(node: Node) -> tuple[set[str], list[Slot]]:
    """The elements and wildcards that may come first in a node."""
    if isinstance(node, Field):
        return set(node.tags), []
    if isinstance(node, Slot):
        return set(), [node]
    tags: set[str] = set()
    wilds: list[Slot] = []
    for item in node.items:
        more, others = first_of(item)
        tags |= more
        wilds += others
        if node.kind == "sequence" and not is_nullable(item):
            break
    return tags, wilds


def fixed_decoder(type_: SimpleType, fixed: str | None) -> Callable[..., Any]:
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


def constant_encoder(type_: SimpleType, fixed: str | None) -> Callable[[Any], str]:
    """What writes a value that must be `fixed`, if that is not None."""
    encode = scalar(type_).encode
    if fixed is None or type_.primitive in ("QName", "NOTATION"):
        return encode
    check = fixed_decoder(type_, fixed)

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


def decoder(type_: SimpleType) -> Callable[..., Any]:
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


def encoder(type_: SimpleType) -> Callable[[Any], str]:
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
    if type_.facets.enumeration:
        return _one_of(type_.facets.enumeration, encode)
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


def _one_of(texts: Iterable[str], encode: Callable[[Any], str]) -> Callable[[Any], str]:
    """What writes one of a few texts, each of which was tried at load."""
    table = {}
    for text in texts:
        with contextlib.suppress(ValueError):
            table[text] = text_escaped(encode(text))

    def one_of(value: Any) -> str:
        try:
            return table[value]
        except (KeyError, TypeError):
            return text_escaped(encode(value))

    return one_of


def _attribute_encoder(attribute: Attribute) -> Callable[[Any], str]:
    type_ = attribute.type
    marked = type_.variety != "atomic" or type_.primitive not in (*RANGES, *UNMARKED)
    if attribute.fixed is None and not marked:
        return encoder(type_)
    encode = constant_encoder(type_, attribute.fixed)
    return lambda value: attribute_escaped(encode(value))
