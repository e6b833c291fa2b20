"""A route as it runs: every section, template and connection put in, every default written out.

The text is YAML whose comments say where a value comes from. What came from the environment or from
a file is shown as the reference to it, never as what it holds.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Final

import yaml
from pydantic import BaseModel, SecretStr

from esb.adapter import Source
from esb.catalogue import kind_of, properties, spelled
from esb.codecs.yaml import plain_scalar
from esb.middleware.retry import RetryOptions
from esb.outline import Part
from esb.redaction import REDACTED, without_password
from esb.route import Called, Route

_SECTIONS: Final[dict[object, str]] = {
    "defaults": "defaults",
    "policies": "policy",
    "profiles": "profile",
}
"""Of what is written elsewhere, what is said of it."""
_COMMENT: Final = "#"
"""A key of a mapping that is shown as a comment."""
_PLAIN: Final = (BaseModel, SecretStr, Mapping, list, tuple, set, frozenset, str, int, float, Path,
                 NoneType)  # fmt: skip
_RAW: Final = frozenset({"from", "steps", "dead_letter"})
"""Of a route: what has parts of its own."""


@dataclass(frozen=True, slots=True)
class Noted:
    """A value, or a mapping or list of them, with a comment."""

    value: Any
    note: str = ""


def explain(route: Route, resolved: Mapping[str, str]) -> str:
    """`route` as YAML. resolved: what references stand for, by what is in their braces."""
    outline = route.outline
    writer = _Writer(resolved, outline.file)
    where = f"{outline.file}:{outline.line}" if outline.line else outline.file
    made = {o.path[1] for o in outline.origins.values() if o.path[0] == "templates"}
    template = f", made from template {made.pop()}" if made else ""
    out = [f"# {route.name}: {where}{template}"]
    if isinstance(route.source, Called):
        out.append("# a sub-route: the routes that run it have the source and the dead letters")
    tree = {"routes": {route.name: writer.route(route)}}
    return "\n".join([*out, *_lines(tree, 0)]) + "\n"


class _Writer:
    """Makes trees of mappings, lists and `Noted` values of the parts of a route."""

    def __init__(self, resolved: Mapping[str, str], file: str) -> None:
        self._file = file
        # The longest first: one may be a part of another.
        known = sorted(resolved.items(), key=lambda one: -len(one[1]))
        self._references = {value: f"${{{name}}}" for name, value in known if len(value) > 2}
        self._pattern = re.compile("|".join(map(re.escape, self._references)) or r"(?!)")

    # --- parts

    def route(self, route: Route) -> dict[str, Any]:
        parts = {part.kind: part for part in route.outline.parts}
        tree: dict[str, Any] = self.noted(self.model(route.options, skip=_RAW), route.outline)
        head: dict[str, Any] = {}
        if "description" in tree:
            head["description"] = tree.pop("description")
        if source := parts.get("source"):
            head["from"] = Noted(self.endpoint(source), _behaviour(route.source, source))
        head["steps"] = self.steps(parts["steps"]) if "steps" in parts else []
        dead = [part for part in route.outline.parts if part.place.startswith("dead_letter")]
        waits = route.source.waits and route.options.accept is None
        if dead:
            head["dead_letter"] = self.endpoint(dead[0])
        elif not waits and not isinstance(route.source, Called):
            head["dead_letter"] = Noted(None, "the bus's own store")
        if "retry" not in tree and not waits:
            retry = self.model(RetryOptions())
            tree["retry"] = Noted(retry, "default, since nobody waits for an answer")
        return head | tree

    def steps(self, part: Part) -> list[Any]:
        return [self.step(one) for one in part.parts if one.kind == "step"]

    def step(self, part: Part) -> dict[str, Any]:
        tree: Any = self.options(part)
        for inner in part.parts:
            path = _path(inner.place[len(part.place) :])
            if inner.kind == "steps":
                tree = _grafted(tree, path, self.steps(inner))
            elif inner.kind == "endpoint":
                tree = _grafted(tree, path[:-1], self.endpoint(inner))
        policies = {name: self.plain(value) for name, value in part.policies.items()}
        return {part.name: Noted(tree, self.place(part)), **policies}

    def endpoint(self, part: Part) -> dict[str, Any]:
        options = self.options(part)
        policies = {name: self.plain(value) for name, value in part.policies.items()}
        if isinstance(options, dict):
            options = {name: value for name, value in options.items() if name not in policies}
            last = {_COMMENT: options.pop(_COMMENT)} if _COMMENT in options else {}
            options |= policies | last
            for name in set(part.connected) & options.keys():
                options[name] = Noted(options.get(name), f"connection {part.connection}")
        return {part.name: options}

    def place(self, part: Part) -> str:
        """Where a step is written."""
        if not part.line:
            return ""
        here = part.file == self._file
        return f"line {part.line}" if here else f"{part.file}:{part.line}"

    def options(self, part: Part) -> Any:
        options = part.options
        return self.noted(self.model(options), part) if isinstance(options, BaseModel) else {}

    def noted(self, tree: Any, part: Part) -> Any:
        """With comments at what is written elsewhere."""
        for key, origin in part.origins.items():
            if isinstance(tree, dict) and key in tree and (what := _SECTIONS.get(origin.path[0])):
                named = f"{what} {origin.path[1]}" if len(origin.path) > 2 else what
                at = f"line {origin.line}" if origin.file == self._file else (
                    f"{origin.file}:{origin.line}"
                )  # fmt: skip
                tree[key] = Noted(tree[key], f"{named}, {at}")
        return tree

    # --- values

    def model(self, model: BaseModel, skip: frozenset[str] = frozenset()) -> Any:
        """A model's options by their names in YAML, with what they are if nobody set them."""
        if hasattr(model, "root"):
            return self.value(model.root, "")
        known = properties(type(model))
        tree: dict[str, Any] = {}
        unset: list[str] = []
        for name, field in type(model).model_fields.items():
            key, value = field.alias or name, getattr(model, name)
            if key not in known or key in skip:
                continue
            if not isinstance(value, _PLAIN):
                continue  # a section has put it there; no file can
            is_set = name in model.model_fields_set
            if not is_set and (value is None or value in ("", {}, [], ())):
                unset.append(key)
            else:
                shown = self.value(value, kind_of(known[key]))
                tree[key] = shown if is_set else Noted(shown, "default")
        if unset and tree:
            tree[_COMMENT] = f"not set: {', '.join(unset)}"
        return tree

    def value(self, value: Any, kind: str) -> Any:
        if isinstance(value, BaseModel) and (text := spelled(value, kind)) is None:
            return self.model(value)
        if isinstance(value, SecretStr):
            told = self.text(value.get_secret_value())
            return told if "${" in told or "://" in told else REDACTED
        if isinstance(value, Mapping):
            return {str(key): self.value(one, "") for key, one in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.value(one, "") for one in value]
        text = spelled(value, kind)
        return self.plain(value if text is None else text)

    def plain(self, value: Any) -> Any:
        """Raw data of a file, or a scalar."""
        if isinstance(value, Mapping):
            return {str(key): self.plain(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.plain(one) for one in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        return self.text(str(value))

    def text(self, text: str) -> str:
        named = self._pattern.sub(lambda found: self._references[found[0]], text)
        return without_password(named) if "${" not in named else named


def _behaviour(source: Source, part: Part) -> str:
    waits = "callers wait for the answer" if source.waits else "nobody waits for an answer"
    return f"{waits}; large bodies pass as they arrive" if part.passage.open else waits


def _path(place: str) -> list[str | int]:
    return [int(key) if key.isdecimal() else key for key in re.findall(r"[^.\[\]]+", place)]


def _grafted(tree: Any, path: list[str | int], value: Any) -> Any:
    """`tree` with `value` at a path; what is noted on the way there stays."""
    if not path:
        return value
    if isinstance(tree, Noted):
        return Noted(_grafted(tree.value, path, value), tree.note)
    key, *rest = path
    if isinstance(tree, list) and isinstance(key, int) and key < len(tree):
        return [_grafted(one, rest, value) if n == key else one for n, one in enumerate(tree)]
    if isinstance(tree, dict):
        return {**tree, str(key): _grafted(tree.get(str(key)), rest, value)}
    return _grafted({}, path, value) if isinstance(key, str) else [value]


# --- as text --------------------------------------------------------------------------------------


_WORD: Final = re.compile(r"[A-Za-z_][\w./-]*")
_WIDTH: Final = 100


def _lines(tree: Any, depth: int) -> Iterator[str]:
    indent = "  " * depth
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == _COMMENT:
                yield from textwrap.wrap(value, _WIDTH, initial_indent=f"{indent}# ",
                                         subsequent_indent=f"{indent}#   ")  # fmt: skip
            else:
                yield from _item(f"{indent}{_scalar(key)}:", value, depth)
    elif isinstance(tree, list):
        for value in tree:
            yield from _item(f"{indent}-", value, depth)


def _item(lead: str, value: Any, depth: int) -> Iterator[str]:
    note = ""
    while isinstance(value, Noted):
        note = f"{note}; {value.note}" if note and value.note else note or value.note
        value = value.value
    comment = f"  # {note}" if note else ""
    if isinstance(value, list) and not any(isinstance(v, dict | list | Noted) for v in value):
        yield f"{lead} [{', '.join(map(_scalar, value))}]{comment}"
    elif isinstance(value, dict | list) and value:
        if lead.endswith("-") and isinstance(value, dict):
            first, *rest = _lines(value, depth + 1)
            yield f"{lead} {first.lstrip()}{comment}"
            yield from rest
            return
        yield lead + comment
        yield from _lines(value, depth + 1)
    elif isinstance(value, str) and "\n" in value.rstrip("\n"):
        yield f"{lead} |{comment}"
        yield from (f"{'  ' * (depth + 1)}{line}" for line in value.splitlines())
    else:
        yield f"{lead} {_scalar(value)}{comment}"


def _scalar(value: Any) -> str:
    if isinstance(value, dict | list):
        return "{}" if isinstance(value, dict) else "[]"
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    text = str(value)
    if _WORD.fullmatch(text) and plain_scalar(text) == text:
        return text
    dumped = yaml.safe_dump(text, default_flow_style=True, width=10**6, allow_unicode=True)
    return str(dumped).removesuffix("\n").removesuffix("\n...")
