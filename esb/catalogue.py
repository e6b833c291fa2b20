"""What can be written in route files, for people: every step, adapter, format and section with its
options, from the models that validate them and the docstrings beside these.

Each option is told once. A model that several have (a base, or one that their options hold) has a
table of its own, which the others point to. A block that is set in in a docstring is an example.
"""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Final, get_args

from pydantic import BaseModel, RootModel, SecretStr, TypeAdapter

from esb.adapter import Adapter, Role
from esb.codecs import FORMATS
from esb.middleware.endpoint import EndpointPolicies
from esb.middleware.rate_limit import Rate
from esb.options import Options, Range
from esb.projects import SHARED, Use
from esb.route import RouteOptions, StepPolicies
from esb.settings import SETTINGS
from esb.steps import STEPS

Model = type[BaseModel]
WORDS: Final = {"source": "from", "sink": "send", "caller": "call"}
COMMON: Final = "In common"


@dataclass(frozen=True)
class Option:
    """One option. kind, default: as they are written in YAML; inner: the models that it holds."""

    name: str
    kind: str
    default: str
    required: bool
    meaning: str
    inner: tuple[Model, ...] = ()


@dataclass(eq=False)
class Entry:
    """Something that a page tells of. page: "A route", "Steps", "Adapters", "Formats", "Sections";
    subject: the verb, the adapter, the format, the section; title: its heading.

    text: Markdown. tables: its own, and those of models that only it has, each with a caption.
    also: models whose options it has as well, and which are told of elsewhere.
    """

    page: str
    subject: str
    title: str
    text: str = ""
    example: str = ""
    models: tuple[Model, ...] = ()
    tables: list[tuple[str, Model, list[Option]]] = field(default_factory=list)
    also: list[Model] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """Its first sentences."""
        return self.text.split("\n\n")[0].replace("\n", " ")


class Catalogue:
    """All entries, in the order of the pages."""

    def __init__(self) -> None:
        self.entries = list(_entries())
        self._uses: dict[Model, dict[object, str]] = {}  # by whom, and under which key
        self.homes: dict[Model, Entry] = {}
        for entry in self.entries:
            for model in entry.models:
                self.homes.setdefault(model, entry)
                self._count(model, set())
        self._share()
        for entry in self.entries:
            self._fill(entry)

    # --- which models have a table of their own

    def _count(self, model: Model, seen: set[Model]) -> None:
        if model in seen:
            return
        seen.add(model)
        for name, owner in _owners(model).items():
            if owner is not model:
                self._uses.setdefault(owner, {}).setdefault(model, "")
            for inner in _held(model.model_fields[name].annotation):
                key = model.model_fields[name].alias or name
                self._uses.setdefault(inner, {}).setdefault(owner, key)
                self._count(inner, seen)
            if owner is not model:
                self._count(owner, seen)

    def _share(self) -> None:
        """Find a place for models that several have and that are nobody's own."""
        for model, uses in self._uses.items():
            if len(uses) < 2 or model in self.homes or not _fields(model):
                continue
            keys = list(dict.fromkeys(key for key in uses.values() if key))
            users = [entry for entry in self.entries if self._reaches(entry, model)]
            subjects = list(dict.fromkeys((entry.page, entry.subject) for entry in users))
            page, subject = subjects[0] if len(subjects) == 1 else (COMMON, "")
            title = f"`{'`, `'.join(keys)}`" if keys else f"Of {_listed(users)}"
            entry = Entry(page, subject, title, _doc(model), models=(model,))
            self.homes[model] = entry
            last = max(
                (
                    n
                    for n, one in enumerate(self.entries)
                    if (one.page, one.subject) == (page, subject)
                ),
                default=len(self.entries) - 1,
            )
            self.entries.insert(last + 1, entry)

    def _reaches(self, entry: Entry, model: Model) -> bool:
        waiting, seen = list(entry.models), set()
        while waiting:
            one = waiting.pop()
            if one is model:
                return True
            if one not in seen:
                seen.add(one)
                waiting += [m for m in set(_owners(one).values()) if m is not one]
                for name in _fields(one):
                    waiting += _held(one.model_fields[name].annotation)
        return False

    # --- tables

    def _fill(self, entry: Entry) -> None:
        for model in entry.models:
            if self.homes[model] is entry:
                self._table(entry, model, "")
            else:
                entry.also.append(model)

    def _table(self, entry: Entry, model: Model, caption: str) -> None:
        own: list[Option] = []
        inner: dict[Model, list[str]] = {}
        for name, owner in _owners(model).items():
            if owner is not model and owner in self.homes:
                if owner not in entry.also:
                    entry.also.append(owner)
                continue
            if self._only_stands_in(model, name):
                continue
            option = _option(model, name)
            own.append(option)
            for one in option.inner:
                if one not in self.homes:
                    inner.setdefault(one, []).append(option.name)
        if own:
            entry.tables.append((caption, model, own))
        for one, keys in inner.items():
            if one is not model and one not in [table[1] for table in entry.tables]:
                self._table(entry, one, "`, `".join(dict.fromkeys(keys)))

    def _only_stands_in(self, model: Model, name: str) -> bool:
        """Whether a base has a field only until all that are made of it say what it is."""
        users = [user for user in self._uses.get(model, ()) if isinstance(user, type)]
        made = [user for user in users if issubclass(user, model)]
        return bool(made) and all(_owners(user)[name] is not model for user in made)


def _listed(entries: list[Entry]) -> str:
    titles = list(dict.fromkeys(entry.title for entry in entries))
    return ", ".join(titles[:4]) + (", ..." if len(titles) > 4 else "")


# --- where it comes from --------------------------------------------------------------------------


def _entries() -> Iterator[Entry]:
    yield Entry("A route", "", "Options of a route", _doc(RouteOptions), models=(RouteOptions,))
    yield Entry("A route", "", "A route made from a template", _doc(Use), models=(Use,))
    yield Entry(
        "Steps", "", "Beside any verb", "Policies that may stand beside the verb of any step.",
        models=(StepPolicies,),
    )  # fmt: skip
    for verb, step in STEPS.items():
        text, example = _parted(_said(step.make))
        yield _entry("Steps", verb, verb, _with_doc(text, step.options), example, step.options)
    yield Entry(
        "Adapters", "", "Of any endpoint", _doc(EndpointPolicies), models=(EndpointPolicies,)
    )
    for name, adapter in adapters().items():
        for direction, word in WORDS.items():
            role: Role[Any, Any] | None = getattr(adapter, direction)
            if role is not None:
                text, example = _parted(_doc(role.options))
                yield _entry("Adapters", name, f"{word}: {name}", text, example, role.options)
        if adapter.connection is not None:
            text, example = _parted(_doc(adapter.connection))
            text = text or f"What a named connection of {name} may hold."
            yield _entry(
                "Adapters", name, f"connections: {name}", text, example, adapter.connection
            )
    for name, one in FORMATS.items():
        text, example = _parted(_said(one.make))
        types = ", ".join(f"`{kind}`" for kind in one.types)
        text += f"\n\nMedia types: {types}." if types else ""
        models = (one.options, one.stream.options) if one.stream else (one.options,)
        yield _entry("Formats", name, name, text, example, *models)
    for name, model in sections().items():
        text, example = _parted(next(filter(None, map(_doc, _models(model))), ""))
        yield _entry("Sections", name, name, text, example, *_held(model))


def _entry(page: str, subject: str, title: str, text: str, example: str, *models: Model) -> Entry:
    held = [one for model in models for one in _unrooted(model)]
    return Entry(page, subject, title, text, example, tuple(dict.fromkeys(held)))


def adapters() -> dict[str, Adapter]:
    """Every adapter by its name."""
    points = sorted(entry_points(group="esb.adapters"), key=lambda point: point.name)
    return {point.name: point.load() for point in points}


def sections() -> dict[str, Any]:
    """The model of every top-level section but those of routes."""
    points = sorted(entry_points(group="esb.sections"), key=lambda point: point.name)
    return {**SHARED, **SETTINGS, **{point.name: point.load().options for point in points}}


def _said(made: Any) -> str:
    """The docstring of the module that something is made in."""
    return (getattr(inspect.getmodule(made), "__doc__", "") or "").strip()


def _doc(model: Model) -> str:
    """The docstring of a model itself."""
    doc = model.__doc__ or ""
    if "!!!" in doc or model.__doc__ is BaseModel.__doc__:
        return ""
    return inspect.cleandoc(doc)


def _with_doc(text: str, model: Model) -> str:
    """What a step is, and what the docstring of its options adds to that."""
    more, _ = _parted(_doc(model))
    return f"{text}\n\n{more}" if more and more not in text else text


def _parted(doc: str) -> tuple[str, str]:
    """A docstring without its example, and that: its block that is set in."""
    blocks = re.split(r"\n\s*\n", doc)
    examples = [block for block in blocks if block.startswith("    ")]
    text = "\n\n".join(b for b in blocks if b not in examples and b != "For example:")
    return text, textwrap.dedent("\n\n".join(examples))


# --- models ---------------------------------------------------------------------------------------


@cache
def properties(model: Model) -> dict[str, Any]:
    """The JSON Schema of each option of a model, by its name in YAML."""
    found: dict[str, Any] = TypeAdapter(model).json_schema(by_alias=True).get("properties", {})
    return found


@cache
def _fields(model: Model) -> list[str]:
    """The fields that route files may fill."""
    if issubclass(model, RootModel):
        return []
    return [n for n, f in model.model_fields.items() if (f.alias or n) in properties(model)]


@cache
def _owners(model: Model) -> dict[str, Model]:
    """Which class says what each field of a model is: itself or a base."""
    return {
        name: next((c for c in model.__mro__ if name in inspect.get_annotations(c)), model)
        for name in _fields(model)
    }


def _held(annotation: Any) -> list[Model]:
    """The models of options in an annotation."""
    return [
        model
        for one in _models(annotation)
        if issubclass(one, Options | RootModel)
        for model in _unrooted(one)
    ]


def _models(annotation: Any) -> list[Model]:
    """The models in an annotation, as they stand there."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]


def _unrooted(model: Model) -> list[Model]:
    if issubclass(model, RootModel):
        return _held(model.model_fields["root"].annotation)
    return [model]


def _option(model: Model, name: str) -> Option:
    info = model.model_fields[name]
    key = info.alias or name
    value = info.get_default(call_default_factory=True, validated_data={})
    kind = kind_of(properties(model)[key])
    text = None if info.is_required() or isinstance(value, BaseModel) else spelled(value, kind)
    if isinstance(value, Range):
        text = spelled(value, kind)
    if text is None and not info.is_required() and value not in (None, "", {}, [], ()):
        text = "" if isinstance(value, BaseModel) else json.dumps(value, default=str)
    meaning = " ".join((info.description or "").split())
    inner = tuple(one for one in _held(info.annotation) if one is not model)
    return Option(key, kind, text or "", info.is_required(), meaning, inner)


def spelled(value: Any, kind: str) -> str | None:
    """A value of a kind as it would be written in YAML, if that is not how it prints."""
    match value:
        case (SecretStr() as only,):
            return json.dumps(only.get_secret_value())  # what everybody has is no secret
        case Rate():
            return value.spelled
        case Range():
            first, longest = _seconds(value.first), _seconds(value.longest)
            return first if first == longest else f"{first}..{longest}"
    if isinstance(value, float | int) and not isinstance(value, bool):
        if kind.startswith("duration"):
            return _seconds(value)
        if kind.startswith("size"):
            for unit, size in (("GB", 1024**3), ("MB", 1024**2), ("KB", 1024)):
                if value and value % size == 0:
                    return f"{value // size}{unit}"
    return None


def _seconds(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    days = seconds / 86400
    return f"{days:g}d" if days == 1 else f"{seconds:g}s"


def kind_of(schema: dict[str, Any]) -> str:
    """What kind of value a JSON Schema describes, in a word or a few."""
    if "enum" in schema:
        return " | ".join(f"`{one}`" for one in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "x-esb" in schema:
        return "step" if schema["x-esb"] == "step" else "endpoint"
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return str(name) if name.islower() else "mapping"
    if "anyOf" in schema:
        kinds = [kind_of(one) for one in schema["anyOf"] if one.get("type") != "null"]
        return " | ".join(dict.fromkeys(kinds))
    if schema.get("type") == "array":
        return f"list of {kind_of(schema.get('items', {}))}"
    pattern = str(schema.get("pattern", ""))
    if "ms|s" in pattern:
        return "duration"
    if "[bB]" in pattern:
        return "size"
    kind = schema.get("type", "any")
    words = {"string": "text", "object": "mapping", "boolean": "true | false"}
    return words.get(kind, str(kind)) if isinstance(kind, str) else " | ".join(kind)


# --- as Markdown ----------------------------------------------------------------------------------

_PAGES: Final = {
    "A route": "",
    "Steps": "What is done with a message, one verb a step.",
    "Adapters": "What messages come from and go to: `from`, `send` and `call` take one of them.",
    "Formats": "What bodies are written in: by content type, and for `convert` and `split`.",
    "Sections": "What may stand at the top of a file beside `routes` and `connections`.",
    COMMON: "What several of the above have.",
}
Link = Callable[[Entry], str]


def page(catalogue: Catalogue | None = None) -> str:
    """Everything on one page of Markdown."""
    catalogue = catalogue or Catalogue()
    out = [
        "# Options",
        "",
        "Everything that can be written in route files. This page is made by `esb schema "
        "--markdown` from the models that validate them; `esb docs` makes a page of each part.",
        "",
    ]
    slugs = _slugs(catalogue)
    pages = _by_page(catalogue)
    for name, entries in pages.items():
        links = [f"[{entry.title}](#{slugs[id(entry)]})" for entry in entries]
        out.append(f"* [{name}](#{_slug(name)}): {', '.join(links)}")
    for name, entries in pages.items():
        out += ["", f"## {name}"]
        if _PAGES[name]:
            out += ["", _PAGES[name]]
        for entry in entries:
            out += ["", f"### {entry.title}", ""]
            out += _entry_lines(catalogue, entry, lambda one: f"#{slugs[id(one)]}")
    return _tidy(out)


def pages(catalogue: Catalogue | None = None) -> dict[str, str]:
    """The same as pages, by the names of their files: one a step, an adapter, a format, a section,
    and `index.md`."""
    catalogue = catalogue or Catalogue()
    files: dict[str, list[Entry]] = {}
    for entry in catalogue.entries:
        files.setdefault(_file(entry), []).append(entry)
    slugs = {
        id(entry): _slug(entry.title) if len(entries) > 1 else ""
        for entries in files.values()
        for entry in entries
    }
    made: dict[str, str] = {}
    for file, entries in files.items():

        def link(entry: Entry, here: str = file) -> str:
            there, slug = _file(entry), slugs[id(entry)]
            up = "../" * here.count("/")
            return ("" if there == here else up + there) + (f"#{slug}" if slug else "")

        subject = entries[0].subject or entries[0].page
        out = [f"# {subject}"]
        for entry in entries:
            alone = len(entries) == 1
            out += ["", *([] if alone else [f"## {entry.title}", ""])]
            out += _entry_lines(catalogue, entry, link)
        made[file] = _tidy(out)
    index = ["# Reference", "", "What can be written in route files, a page each."]
    for name, entries in _by_page(catalogue).items():
        index += ["", f"## {name}", ""]
        seen = set()
        for entry in entries:
            if (file := _file(entry)) not in seen:
                seen.add(file)
                index.append(f"* [{entry.subject or entry.title}]({file}): {entry.summary}")
    made["index.md"] = "\n".join(index) + "\n"
    return made


def _tidy(lines: list[str]) -> str:
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def _file(entry: Entry) -> str:
    folder = _slug(entry.page)
    return f"{folder}/{_slug(entry.subject)}.md" if entry.subject else f"{folder}.md"


def _by_page(catalogue: Catalogue) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {
        name: [entry for entry in catalogue.entries if entry.page == name] for name in _PAGES
    }
    return {name: entries for name, entries in found.items() if entries}


def _slug(title: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _slugs(catalogue: Catalogue) -> dict[int, str]:
    taken: dict[str, int] = {_slug(name): 1 for name in ("Options", *_PAGES)}
    found: dict[int, str] = {}
    for entries in _by_page(catalogue).values():
        for entry in entries:
            slug = _slug(entry.title)
            number = taken.get(slug, 0)
            taken[slug] = number + 1
            found[id(entry)] = f"{slug}-{number}" if number else slug
    return found


def _entry_lines(catalogue: Catalogue, entry: Entry, link: Link) -> Iterator[str]:
    if entry.text:
        yield from (entry.text, "")
    if entry.example:
        yield from ("```yaml", entry.example, "```", "")
    for caption, _, options in entry.tables:
        if caption:
            yield from (f"`{caption}`:", "")
        yield from ("| option | type | default | meaning |", "| --- | --- | --- | --- |")
        for option in options:
            yield _row(catalogue, entry, option, link)
        yield ""
    others = [catalogue.homes[model] for model in entry.also]
    if others:
        links = [f"[{one.title}]({link(one)})" for one in dict.fromkeys(others)]
        yield from (f"And the options {' and '.join(_of(one) for one in links)}.", "")


def _of(link: str) -> str:
    return link.replace("[Of ", "[of ") if link.startswith("[Of ") else f"of {link}"


def _row(catalogue: Catalogue, entry: Entry, option: Option, link: Link) -> str:
    kind = option.kind.replace("|", "\\|")
    default = "required" if option.required else f"`{option.default}`" if option.default else ""
    meaning = option.meaning.replace("|", "\\|")
    homes = [catalogue.homes[one] for one in option.inner if one in catalogue.homes]
    for home in dict.fromkeys(homes):
        if home is not entry:
            meaning += f" See [{home.title}]({link(home)})."
    return f"| `{option.name}` | {kind} | {default} | {meaning} |"
