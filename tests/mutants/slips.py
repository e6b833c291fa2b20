"""The slips: from the text of a route file to wrong texts, each with the lines that are to blame.

Only what is a mistake counts, and nothing here asks the code that is being judged. What a slip
leaves legal is left out by the rules below: names and texts that users choose themselves, values
where any type may stand, and texts that another YAML parser reads as the same data.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Slip:
    """A wrong text. kind: the class of the slip; what: of what it is made, for people; lines: those
    that may be named as the place; file: which file is wrong, if it is not the route file."""

    kind: str
    what: str
    text: str
    lines: frozenset[int]
    file: str = ""


# --- what stands where ---------------------------------------------------------------------------

OTHERS_NAMES = frozenset({"operations", "faults"})
"""The keys below these are names in a WSDL."""

FILES = frozenset({"schema", "wsdl", "jinja", "json_schema", "xsd", "xslt"})
WORDS = frozenset({"method", "accept", "type"})
DURATIONS = frozenset({"timeout", "backoff", "expires", "delay", "window"})
EXPRESSIONS = frozenset({"when", "each", "filter"})
CHANNELS = frozenset({"queue", "topic"})
PROSE = frozenset({"description", "title", "summary"})

REQUIRED: dict[str, frozenset[str]] = {
    # below which key, which keys cannot be left out
    "routes/*": frozenset({"from"}),
    "choose/*": frozenset({"when", "otherwise", "steps"}),
    "split": frozenset({"each", "steps"}),
    "expose/*": frozenset({"wsdl", "at"}),
    "soap": frozenset({"wsdl", "operation"}),
    "http": frozenset({"path", "url"}),
    "from/amqp": frozenset({"queue"}),
    "transform": frozenset({"jinja"}),
    "queue": frozenset({"name"}),
    "topic": frozenset({"name"}),
    "bind/*": frozenset({"exchange"}),
}

ANY_TYPE = frozenset({"headers", "fields", "body"})
"""`set` takes any value there: a constant, a list, a tree."""

SHORTHANDS = frozenset(
    {"http", "queue", "topic", "file", "api", "retry", "schema", "headers", "body"}
)
"""A bare text may stand there, or (schema) a mapping."""

LISTS = frozenset({"method", "bind", "glob"})
"""One or several: a list may stand there, as for the `url` of amqp."""


@dataclass
class Node:
    """A value of the document, with its key if it stands in a mapping."""

    path: Path
    value: Any
    key: Any = None
    children: list[Node] = field(default_factory=list)

    @property
    def name(self) -> str:
        return next((p for p in reversed(self.path) if isinstance(p, str)), "")

    @property
    def start(self) -> int:
        return int(self.value.start_mark.index)

    @property
    def end(self) -> int:
        return int(self.value.end_mark.index)

    @property
    def line(self) -> int:
        return int((self.key or self.value).start_mark.line) + 1

    @property
    def value_line(self) -> int:
        return int(self.value.start_mark.line) + 1

    @property
    def is_scalar(self) -> bool:
        return isinstance(self.value, yaml.ScalarNode)

    @property
    def is_flow(self) -> bool:
        return bool(getattr(self.value, "flow_style", False))

    def walk(self) -> Iterator[Node]:
        yield self
        for child in self.children:
            yield from child.walk()

    def inside(self, name: str, *, but_one: bool = False) -> bool:
        """Whether it is below a key `name`."""
        return name in (self.path[:-2] if but_one else self.path[:-1])


def read(text: str) -> Node:
    """The tree of a document."""

    def node(value: Any, path: Path, key: Any = None) -> Node:
        made = Node(path, value, key)
        if isinstance(value, yaml.MappingNode):
            made.children = [node(v, (*path, k.value), k) for k, v in value.value]
        elif isinstance(value, yaml.SequenceNode):
            made.children = [node(v, (*path, i)) for i, v in enumerate(value.value)]
        return made

    return node(yaml.compose(text), ())


def data(text: str) -> Any:
    """What a YAML parser that is not ours reads; None if it cannot. Keys that stand twice, which
    it would not mind, make a difference."""
    try:
        tree = yaml.compose(text)
    except yaml.YAMLError:
        return None

    def plain(node: Any) -> Any:
        if isinstance(node, yaml.MappingNode):
            return {"pairs": [(plain(k), plain(v)) for k, v in node.value]}
        if isinstance(node, yaml.SequenceNode):
            return [plain(v) for v in node.value]
        return (node.tag, node.value)

    return plain(tree)


def _is_own_name(node: Node) -> bool:
    """Whether users choose this key."""
    parent = node.path[-2] if len(node.path) > 1 else ""
    if parent in ("routes", "connections", "expose"):
        return len(node.path) == 2
    if parent == "map":
        return True
    if node.inside("set") or parent == "headers":
        return node.name not in ("set", *ANY_TYPE) or parent in ANY_TYPE
    return False


def _takes_anything(node: Node) -> bool:
    """Whether any type of value would be right."""
    if node.inside("map") or node.name == "map":
        return True
    return node.inside("set") and bool(ANY_TYPE & set(node.path[:-1]) or node.name == "body")


# --- slips of the pen ----------------------------------------------------------------------------


def misspelt(word: str, chance: random.Random) -> str:
    """The word with two letters the wrong way round, one too few, one twice or a wrong one."""
    letters = [i for i, c in enumerate(word) if c.isalpha()]
    for _ in range(40):
        at = chance.choice(letters)
        made = chance.choice(
            [
                word[:at] + word[at + 1 : at + 2] + word[at] + word[at + 2 :],
                word[:at] + word[at + 1 :],
                word[:at] + word[at] + word[at:],
                word[:at] + chance.choice("abcdefghijklmnopqrstuvwxyz") + word[at + 1 :],
            ]
        )
        if made.lower() != word.lower() and made.strip() and made[0].isalpha():
            return made
    return word + word[-1]


def _replaced(text: str, start: int, end: int, new: str) -> str:
    return text[:start] + new + text[end:]


def _lines(*numbers: int) -> frozenset[int]:
    return frozenset(numbers)


class Slips:
    """All slips in one file. `chance` chooses how a word is misspelt, never what is left out.

    times: how often each word is misspelt.
    """

    def __init__(self, text: str, chance: random.Random, times: int = 2) -> None:
        self.text = text
        self.chance = chance
        self.times = times
        self.root = read(text)
        self.same = data(text)
        self.raw = text.splitlines(keepends=True)
        self.channels = self._channels()

    def _channels(self) -> dict[str, set[str]]:
        """Which queues and topics of the bus are read and fed here: their names by direction."""
        found: dict[str, set[str]] = {"read": set(), "fed": set()}
        for node in self.root.walk():
            if node.name in CHANNELS and node.path[-2] in ("from", "send"):
                for name in [node, *node.children]:
                    if name.is_scalar and name.name in (*CHANNELS, "name"):
                        side = "read" if node.path[-2] == "from" else "fed"
                        found[side].add(name.value.value)
        return found

    def all(self) -> Iterator[Slip]:
        """Every slip that is a mistake, each text once."""
        seen: set[str] = {self.text}
        for make in (
            *(self.keys, self.names, self.words, self.durations, self.expressions, self.braces),
            *(self.types, self.required, self.doubled, self.dropped, self.indented, self.marks),
        ):
            for slip in make():
                if slip.text in seen or data(slip.text) == self.same:
                    continue
                seen.add(slip.text)
                yield slip

    # keys

    def keys(self) -> Iterator[Slip]:
        """A key of the language is misspelt."""
        for node in self.root.walk():
            if node.key is None or _is_own_name(node) or node.path[-2:-1] == ("faults",):
                continue
            if len(node.path) > 1 and node.path[-2] == "operations":
                continue
            yield from self._spelt("key misspelt", node.key, node.name, node.line)

    def _spelt(self, kind: str, node: Any, word: str, *lines: int) -> Iterator[Slip]:
        start = node.start_mark.index
        start += self.text[start : node.end_mark.index].find(word)
        for _ in range(self.times):
            wrong = misspelt(word, self.chance)
            text = _replaced(self.text, start, start + len(word), wrong)
            yield Slip(kind, f"{word} -> {wrong}", text, _lines(*lines))

    # names

    def names(self) -> Iterator[Slip]:
        """The name of a file, a connection, an operation, a fault, a queue of the bus is misspelt,
        where it is used or where it is defined."""
        uses: dict[str, set[int]] = {}
        for node in self.root.walk():
            if node.name == "connection" and node.is_scalar:
                uses.setdefault(node.value.value, set()).add(node.value_line)
        for node in self.root.walk():
            if node.key is not None and len(node.path) > 1:
                if node.path[-2] == "connections" and len(node.path) == 2 and node.name in uses:
                    # Whether the definition or its uses are wrong is not for a machine to say.
                    lines = {node.line, *uses[node.name]}
                    yield from self._spelt("name misspelt", node.key, node.name, *lines)
                if node.path[-2] in OTHERS_NAMES:
                    yield from self._spelt("name misspelt", node.key, node.name, node.line)
            if not node.is_scalar:
                continue
            word = node.value.value
            if node.name in FILES:
                yield from self._spelt("file misspelt", node.value, word, node.value_line)
            elif node.name in ("connection", "operation") or self._is_parameter(node):
                yield from self._spelt("name misspelt", node.value, word, node.value_line)
            elif self._is_channel(node) and "{{" not in word:
                lines = {
                    n.value_line
                    for n in self.root.walk()
                    if n.is_scalar and self._is_channel(n) and n.value.value == word
                }
                yield from self._spelt("channel misspelt", node.value, word, *lines)

    @staticmethod
    def _is_parameter(node: Node) -> bool:
        """Whether it is a field of an operation's input that a parameter fills."""
        return node.path[-2:-1] == ("bind",) and not node.inside("declare")

    def _is_channel(self, node: Node) -> bool:
        """Whether it is the name of a queue or topic of the bus that is read and fed here."""
        at = node.path[:-1] if node.name == "name" else node.path
        return (
            len(at) > 1
            and at[-1] in CHANNELS
            and at[-2] in ("from", "send")
            and node.value.value in self.channels["read"] & self.channels["fed"]
        )

    # values

    def words(self) -> Iterator[Slip]:
        """One of a few words is misspelt: a method, a boolean, the scheme of a URL."""
        for node in self.root.walk():
            if not node.is_scalar or node.key is None:
                continue
            word = node.value.value
            is_word = node.name in WORDS and not node.inside("set")
            if is_word or word in ("true", "false"):
                yield from self._spelt("word misspelt", node.value, word, node.value_line)
            elif len(node.path) > 1 and node.path[-2] == "operations":
                method = word.partition(" ")[0]
                yield from self._spelt("word misspelt", node.value, method, node.value_line)
            for scheme in re.findall(r"\b(https?|amqps?)://", word):
                for slip in self._spelt("word misspelt", node.value, scheme, node.value_line):
                    if not re.search(r"\b(https?|amqps?)://", slip.text[node.start :][: len(word)]):
                        yield slip
            if node.name in ("path", "at") and word.startswith("/"):
                text = self.text[: node.start] + self.text[node.start :].replace("/", "", 1)
                yield Slip("word misspelt", "no slash", text, _lines(node.value_line))

    def durations(self) -> Iterator[Slip]:
        """A time lacks its unit or has one that there is not, or its range is written wrongly."""
        for node in self.root.walk():
            if node.name not in DURATIONS or not node.is_scalar:
                continue
            word = node.value.value
            for wrong in (
                re.sub(r"(ms|s|m|h)$", "", word),
                re.sub(r"(ms|s|m|h)$", " sec", word),
                re.sub(r"(ms|s|m|h)$", "x", word),
                word.replace("..", "-"),
                "..".join(reversed(word.split(".."))),
            ):
                if wrong != word:
                    text = _replaced(self.text, node.start, node.end, wrong)
                    yield Slip("time wrong", f"{word} -> {wrong}", text, _lines(node.value_line))

    def _expressions(self) -> Iterator[tuple[Node, int, str]]:
        """Every expression: its node, where in the text it begins, and itself."""
        for node in self.root.walk():
            if not node.is_scalar:
                continue
            written = self.text[node.start : node.end]
            tree = _takes_anything(node) and "set" in node.path
            if node.name in EXPRESSIONS or tree:
                inner = written.strip('"') if written.startswith('"') else written
                if inner:
                    yield node, node.start + written.find(inner), inner
            for found in re.finditer(r"\{\{(.*?)\}\}", written):
                yield node, node.start + found.start(1), found[1]

    def expressions(self) -> Iterator[Slip]:
        """In an expression a name, a filter, an operator, a quote is wrong."""
        for node, start, inner in self._expressions():
            plain = re.sub(r"'[^']*'", lambda m: " " * len(m[0]), inner)
            words = [
                *re.finditer(r"(?<![\w.'\]])(body|path|query|headers|message|now|text)\b", plain),
                *re.finditer(r"(?<=\|)\s*(\w+)", plain),
            ]
            for found in words:
                at, word = start + found.start(1), found[1]
                for _ in range(self.times):
                    wrong = misspelt(word, self.chance)
                    text = _replaced(self.text, at, at + len(word), wrong)
                    yield Slip("expression", f"{word} -> {wrong}", text, _lines(node.value_line))
            for old, new in (
                *(("==", "="), (" and ", " && "), (" or ", " || "), (" not ", " ! ")),
                *(("(", ""), (")", ""), ("[", ""), ("]", ""), (" > ", " >> "), ("'", "")),
            ):
                if old in inner:
                    at = start + inner.find(old)
                    text = _replaced(self.text, at, at + len(old), new)
                    yield Slip("expression", f"{old!r} -> {new!r}", text, _lines(node.value_line))
            for found in re.finditer(r"\bbody\.([A-Za-z]\w*)", plain):
                at, word = start + found.start(1), found[1]
                for _ in range(self.times):
                    wrong = misspelt(word, self.chance)
                    text = _replaced(self.text, at, at + len(word), wrong)
                    what = f"body.{word} -> body.{wrong}"
                    yield Slip("field of the body", what, text, _lines(node.value_line))
            for found in re.finditer(r"\bpath\.(\w+)", plain):
                at, word = start + found.start(1), found[1]
                for _ in range(self.times):
                    wrong = misspelt(word, self.chance)
                    text = _replaced(self.text, at, at + len(word), wrong)
                    what = f"path.{word} -> path.{wrong}"
                    yield Slip("expression", what, text, _lines(node.value_line))

    def braces(self) -> Iterator[Slip]:
        """A brace of `{{ }}` or `${ }` is missing."""
        for found in re.finditer(r"\{\{|\}\}|\$\{[A-Z]", self.text):
            line = self.text[: found.start()].count("\n") + 1
            if self.raw[line - 1].lstrip().startswith("#"):
                continue
            start, end = found.start(), found.end()
            if found[0] == "}}" and "{{" not in self.raw[line - 1]:
                continue  # the end of two mappings
            cut = (
                _replaced(self.text, start, start + 1, "")
                if found[0] != "}}"
                else (_replaced(self.text, end - 1, end, ""))
            )
            yield Slip("brace", f"{found[0]} loses one", cut, _lines(line))

    # types

    def types(self) -> Iterator[Slip]:
        """A value has the wrong type: a text for a mapping, a list for a text."""
        for node in self.root.walk():
            if not node.path or _takes_anything(node) or node.path[-1:] == ("otherwise",):
                continue
            written = self.text[node.start : node.end]
            line = node.value_line
            wrong: list[str] = []
            if node.is_scalar:
                if not written:
                    continue
                wrong.append(f"{{value: {written}}}" if node.name not in SHORTHANDS else "")
                if node.name not in (*LISTS, *CHANNELS) and node.path[-2:] != ("amqp", "url"):
                    wrong.append(f"[{written}]")
                if re.fullmatch(r"\d+|\$\{\w+:-\d+\}", written):
                    wrong.append("many")
                elif node.name not in PROSE:
                    wrong.append("17")
            elif not node.children:
                continue
            elif isinstance(node.value, yaml.MappingNode):
                parts = ["[]", "17"] if node.is_flow else ["[a, b]", "17"]
                if node.name not in SHORTHANDS:
                    parts.append("nothing")
                wrong += parts
            else:
                wrong += ["{a: b}", "17"]
                if node.name not in LISTS:
                    wrong.append("nothing")
            for new in filter(None, wrong):
                yield from self._swapped(node, written, new, line)

    def _swapped(self, node: Node, written: str, new: str, line: int) -> Iterator[Slip]:
        shown = written.split("\n")[0][:30]
        if node.is_scalar or node.is_flow:
            text = _replaced(self.text, node.start, node.end, new)
            yield Slip("type wrong", f"{node.name}: {shown} -> {new}", text, _lines(line))
        elif node.key is not None:
            # A block: the value goes behind the key, and the lines below go away.
            after = node.key.end_mark.index + 1
            end = len(self.text[: node.end].rstrip())
            text = _replaced(self.text, after, end, f" {new}")
            yield Slip("type wrong", f"{node.name}: (block) -> {new}", text, _lines(node.line))

    # lines

    def _block(self, node: Node) -> tuple[int, int] | None:
        """The lines of a key and all below it, from 0, if it has lines of its own."""
        first = node.key.start_mark.line
        before = self.raw[first][: node.key.start_mark.column]
        last = self.text[: len(self.text[: node.end].rstrip())].count("\n")
        return (first, last) if not before.strip() else None

    def required(self) -> Iterator[Slip]:
        """A key that cannot be left out is left out, with all that is below it."""
        for node in self.root.walk():
            if node.key is None or len(node.path) < 2 or not self._is_required(node):
                continue
            parent = self._at(node.path[:-1])
            what = f"no {node.name}"
            near = {parent.line, parent.value_line}
            if block := self._block(node):
                text = "".join(self.raw[: block[0]] + self.raw[block[1] + 1 :])
                yield Slip("key left out", what, text, frozenset(near | {block[0] + 1, block[0]}))
            elif parent.is_flow:
                start, end = node.key.start_mark.index, node.end
                rest = self.text[end:]
                comma = re.match(r"\s*,\s*", rest)
                end += comma.end() if comma else 0
                if not comma:
                    start = len(self.text[:start].rstrip().rstrip(","))
                text = _replaced(self.text, start, end, "")
                yield Slip("key left out", what, text, frozenset(near))

    def _at(self, path: Path) -> Node:
        return next(node for node in self.root.walk() if node.path == path)

    def _is_required(self, node: Node) -> bool:
        names = [p for p in node.path[:-1] if isinstance(p, str)]
        above = node.path[-2]
        if node.name == "steps" and not node.inside("choose") and not node.inside("split"):
            return False  # a route may do nothing with its messages
        spelled = [
            f"{names[-1]}/*" if isinstance(above, int) else str(above),
            "/".join(names[-2:]),
            f"{names[-2]}/*" if len(names) > 1 and not isinstance(above, int) else "",
        ]
        return any(node.name in REQUIRED.get(place, ()) for place in spelled)

    def doubled(self) -> Iterator[Slip]:
        """A line with a key stands there twice."""
        for node in self.root.walk():
            if node.key is None:
                continue
            block = self._block(node)
            if block and block[0] == block[1]:
                at = block[0]
                text = "".join([*self.raw[: at + 1], self.raw[at], *self.raw[at + 1 :]])
                yield Slip("key twice", node.name, text, _lines(at + 1, at + 2))

    def dropped(self) -> Iterator[Slip]:
        """The line that opens a block is missing, and what is below it stands alone."""
        for node in self.root.walk():
            opened = node.value_line if node.key is None else node.line
            last = self.text[: len(self.text[: node.end].rstrip())].count("\n") + 1
            if not node.path or node.is_scalar or last == opened:
                continue
            if node.key is None:
                continue
            at = node.key.start_mark.line
            if self.raw[at].strip().rstrip(":").lstrip("- ") != node.name:
                continue
            text = "".join(self.raw[:at] + self.raw[at + 1 :])
            above = self._at(node.path[:-1]).line
            yield Slip("line dropped", self.raw[at].strip(), text, _lines(at, at + 1, above))

    def indented(self) -> Iterator[Slip]:
        """A line is moved to the right or the left."""
        for at, line in enumerate(self.raw):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            depth = len(line) - len(line.lstrip())
            for by in (-2, -1, 1, 2):
                if depth + by < 0:
                    continue
                moved = " " * (depth + by) + line.lstrip()
                text = "".join([*self.raw[:at], moved, *self.raw[at + 1 :]])
                near = _lines(at + 1, at + 2)  # where the line behind it no longer fits
                yield Slip("indentation", f"{by:+d}: {line.strip()[:40]}", text, near)
            tab = "".join([*self.raw[:at], "\t" + line.lstrip(), *self.raw[at + 1 :]])
            yield Slip("indentation", f"tab: {line.strip()[:40]}", tab, _lines(at, at + 1))

    def marks(self) -> Iterator[Slip]:
        """A colon, a dash, a quote, a bracket or the space behind a colon is missing."""
        for at, line in enumerate(self.raw):
            bare = line.strip()
            if not bare or bare.startswith("#"):
                continue
            wrong = {
                "no colon": re.sub(r":(\s)", r"\1", line, count=1),
                "no space": re.sub(r": (\S)", r":\1", line, count=1),
                "no dash": re.sub(r"^(\s*)- ", r"\1  ", line),
                "no space behind the dash": re.sub(r"^(\s*)- ", r"\1-", line),
                **{f"no {mark}": line.replace(mark, "", 1) for mark in '{}[]"'},
                "no last }": line[::-1].replace("}", "", 1)[::-1],
            }
            if not bare.startswith(("description:", "- when:")):  # there a comma is one of a text
                wrong["no comma"] = line.replace(", ", " ", 1)
            for what, new in wrong.items():
                if new != line:
                    text = "".join([*self.raw[:at], new, *self.raw[at + 1 :]])
                    yield Slip("punctuation", f"{what}: {bare[:40]}", text, _lines(at + 1, at + 2))
