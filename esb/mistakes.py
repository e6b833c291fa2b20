"""What a mistake is called, in the words of who writes routes, with the nearest right word."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, RootModel

from esb.steps import STEPS
from esb.steps._elsewhere import ELSEWHERE
from esb.strict_yaml import YamlPath


class Mistake(NamedTuple):
    """What is wrong at `path` below what was validated; at its key if `key`."""

    message: str
    path: YamlPath
    code: str
    hint: str = ""
    key: bool = False


def mistake(
    model: type[Any], error: dict[str, Any], path: YamlPath, also: Sequence[str]
) -> Mistake | None:
    """An error of pydantic's at `path` of something that was to be a `model`; None if another one
    says it. also: keys that may stand beside those of the model, to be hinted at."""
    kind = error["type"]
    context = error.get("ctx") or {}
    given = error.get("input")
    if kind == "extra_forbidden":
        names = [*option_names(model, path[:-1]), *(also if len(path) == 1 else ())]
        name = str(path[-1])
        glued = re.match(r"(\w+):\S", name)
        hint = f"put a space behind '{glued[1]}:'" if glued else did_you_mean(name, names)
        return Mistake(f"unknown key '{name}'", path, "unknown-key", hint, key=True)
    if kind == "missing":
        known = option_names(model, path[:-1])
        close = [k for k in given if k not in known] if isinstance(given, dict) else []
        name = str(path[-1])
        if any(did_you_mean(str(k), known, listed=False).endswith(f"'{name}'?") for k in close):
            return None  # it is there, misspelt, which is said already
        hint = f"is it what '{close[0]}' is meant to be?" if len(close) == 1 else ""
        return Mistake(f"'{name}' is missing", path[:-1], "missing-key", hint, key=True)
    if kind == "literal_error":
        expected = [part.strip(" '") for part in _split_or(str(context.get("expected", "")))]
        hint = did_you_mean(str(given), expected, listed=False)
        return Mistake(f"must be one of: {', '.join(expected)}", path, "value", hint)
    cause = context.get("error")
    message = str(cause) if cause is not None else str(error["msg"])
    path = (*path, *getattr(cause, "at", ()))
    message = re.sub(r"^\w+ should ", "must ", message)
    message = re.sub(r" after validation, not \w+$", "", message)
    hint = ""
    if kind == "string_type" and isinstance(given, int | float):
        hint = "put it in quotes to make it text"
    elif kind.startswith("int_"):
        message = "must be a whole number"
    elif kind == "too_long" and not context["max_length"]:
        message = f"there are no options of '{path[-1]}'"
    elif kind in ("list_type", "tuple_type"):
        message, hint = "must be a list", "put '- ' before each item"
    elif kind in ("model_type", "dict_type", "model_attributes_type"):
        message = "must be a mapping of options"
        names = option_names(model, path) if kind != "dict_type" else []
        if isinstance(given, list):
            hint = "steps: [...]" if "steps" in names else ""
        elif names:
            hint = f"there are: {', '.join(names[:8])}"
    return Mistake(message, path, "type" if "type" in kind else "value", hint)


def shown_path(path: Path) -> str:
    """A path as people want to read it: relative to where they are, if it is below."""
    absolute = path.resolve()
    here = Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(path)


def did_you_mean(word: str, options: Sequence[str], *, listed: bool = True) -> str:
    """The hint that names the nearest of `options`, or all of them if none is near."""
    close = difflib.get_close_matches(word.lower(), options, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"there are: {', '.join(options)}" if listed and 0 < len(options) <= 24 else ""


def nearest_step(word: str) -> str:
    """The hint that says which step is meant by a word that is none."""
    called = ELSEWHERE.get(word.lower().replace("_", "").replace("-", ""))
    return f"it is called '{called}' here" if called else did_you_mean(word, list(STEPS))


def _split_or(text: str) -> list[str]:
    return text.replace(" or ", ",").split(",") if text else []


def is_model(model: Any) -> bool:
    """Whether it is a model of options."""
    return isinstance(model, type) and issubclass(model, BaseModel)


def is_root(model: Any) -> bool:
    """Whether it is a model of something that is no mapping."""
    return isinstance(model, type) and issubclass(model, RootModel)


@lru_cache(maxsize=256)
def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {(f.alias or name): f.annotation for name, f in model.model_fields.items()}


def option_names(model: Any, path: YamlPath) -> list[str]:
    """The keys that may stand at `path` below something of type `model`."""
    for candidate in _models(model):
        fields = _fields(candidate)
        if not path:
            if not is_root(candidate):
                return list(fields)
            return option_names(fields["root"], path)
        if is_root(candidate):
            return option_names(fields["root"], path)
        if path[0] in fields:
            return option_names(fields[str(path[0])], path[1:])
    if path and typing.get_origin(model) in (list, dict, Sequence, Mapping):
        return option_names(typing.get_args(model)[-1], path[1:])
    for inner in typing.get_args(model):
        if found := option_names(inner, path):
            return found
    return []


def _models(annotation: Any) -> list[type[BaseModel]]:
    if is_model(annotation):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return [m for inner in typing.get_args(annotation) for m in _models(inner)]
    return []
