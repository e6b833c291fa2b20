"""The reference tells every option, once, and what it says can be written can be."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections import Counter
from os.path import normpath
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, RootModel, TypeAdapter
from support.bus import load_text

from esb.adapter import Adapter
from esb.catalogue import WORDS, Catalogue, Entry, adapters, page, pages, sections
from esb.codecs import FORMATS
from esb.middleware.endpoint import EndpointPolicies
from esb.options import Options
from esb.projects import Use
from esb.route import RouteOptions, StepPolicies
from esb.steps import STEPS

CATALOGUE = Catalogue()
PAGE = page(CATALOGUE)


def roots() -> list[Any]:
    """Every model that something in a route file is validated by."""
    found: list[Any] = [RouteOptions, Use, StepPolicies, EndpointPolicies, *sections().values()]
    found += [role.options for role in STEPS.values()]
    for adapter in adapters().values():
        found += [getattr(adapter, way).options for way in WORDS if getattr(adapter, way)]
        found += [adapter.connection] if adapter.connection else []
    for one in FORMATS.values():
        found += [one.options] + ([one.stream.options] if one.stream else [])
    return found


def options() -> set[tuple[str, str]]:
    """Every option there is: the class that says it, and its name in YAML."""
    found: set[tuple[str, str]] = set()
    waiting, seen = roots(), set()
    while waiting:
        one = waiting.pop()
        if get_args(one):
            waiting += get_args(one)
        if not isinstance(one, type) or not issubclass(one, Options | RootModel) or one in seen:
            continue
        seen.add(one)
        properties = TypeAdapter(one).json_schema(by_alias=True).get("properties", {})
        for name, field in one.model_fields.items():
            waiting.append(field.annotation)
            key = field.alias or name
            if key in properties and not issubclass(one, RootModel):
                found.add((said_by(one, name), key))
    return found


def said_by(model: type[BaseModel], name: str) -> str:
    said = next(c for c in model.__mro__ if name in inspect.get_annotations(c))
    return f"{said.__module__}.{said.__qualname__}"


def told() -> Counter[tuple[str, str]]:
    """Every option that the catalogue tells."""
    found: Counter[tuple[str, str]] = Counter()
    for entry in CATALOGUE.entries:
        for _, model, rows in entry.tables:
            names = {field.alias or name: name for name, field in model.model_fields.items()}
            found.update((said_by(model, names[row.name]), row.name) for row in rows)
    return found


def test_every_option_is_told_of_and_none_twice() -> None:
    counted = told()
    assert options() - counted.keys() == set()
    assert [option for option, times in counted.items() if times > 1] == []


def test_every_option_says_what_it_is_for() -> None:
    for entry in CATALOGUE.entries:
        for _, _, rows in entry.tables:
            for row in rows:
                assert row.meaning, f"{entry.title}: {row.name}"


def test_whoever_has_options_from_elsewhere_says_from_where() -> None:
    """An option of a model is in its entry, or in one that its entry points to."""
    validating = set(roots())
    for entry in CATALOGUE.entries:
        if validating.isdisjoint(entry.models):
            continue  # a base: its table lacks what all that are made of it say anew
        near = [entry, *(CATALOGUE.homes[model] for model in entry.also)]
        near += [CATALOGUE.homes[model] for one in near for model in one.also]
        names = {row.name for one in near for _, _, rows in one.tables for row in rows}
        for model in entry.models:
            properties = TypeAdapter(model).json_schema(by_alias=True).get("properties", {})
            assert properties.keys() <= names, entry.title


def test_every_step_and_adapter_has_a_heading() -> None:
    for verb in STEPS:
        assert f"### {verb}\n" in PAGE
    for name, adapter in adapters().items():
        for way, word in WORDS.items():
            assert (f"### {word}: {name}\n" in PAGE) == bool(getattr(adapter, way))


def test_links_within_the_page_lead_somewhere() -> None:
    taken: Counter[str] = Counter()
    anchors = set()
    for title in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        anchors.add(f"{slug}-{taken[slug]}" if taken[slug] else slug)
        taken[slug] += 1
    links = set(re.findall(r"\]\(#([^)]*)\)", PAGE))
    assert links
    assert links <= anchors


def test_links_between_pages_lead_somewhere() -> None:
    made = pages(CATALOGUE)
    for name, text in made.items():
        for target in re.findall(r"\]\(([^)#\s]+\.md)[^)]*\)", text):
            if "://" not in target:
                there = normpath(Path(name).parent / target)
                assert there in made, f"{name}: {target}"


def test_each_subject_has_a_page() -> None:
    made = pages(CATALOGUE)
    for verb in STEPS:
        assert f"steps/{verb}.md" in made
    for name in adapters():
        assert f"adapters/{name}.md" in made
    assert all(f"]({name})" in made["index.md"] for name in made if name != "index.md")


def test_the_page_in_the_project_is_that_of_the_models() -> None:
    written = Path(__file__).resolve().parents[2] / "docs" / "options.md"
    assert written.read_text() == PAGE, "run `make fmt`"


EXAMPLES = [entry for entry in CATALOGUE.entries if entry.example]


def test_every_step_and_endpoint_has_an_example() -> None:
    subjects = {entry.title for entry in EXAMPLES}
    expected = [*STEPS]
    for name, adapter in adapters().items():
        expected += [f"{word}: {name}" for way, word in WORDS.items() if _has(adapter, way)]
    assert [title for title in expected if title not in subjects] == []


def _has(adapter: Adapter, way: str) -> bool:
    return getattr(adapter, way) is not None


@pytest.mark.parametrize("entry", EXAMPLES, ids=lambda entry: str(entry.title))
def test_the_examples_load(entry: Entry, tmp_path: Path) -> None:
    """As far as they can without the files that they name."""
    step = "routes:\n  example:\n    from: {queue: example}\n    steps:\n      - "
    if entry.page == "Steps" or entry.title.startswith(("send:", "call:")):
        text = step + textwrap.indent(entry.example, " " * 8).lstrip()
    elif entry.title.startswith("from:"):
        head = textwrap.indent(entry.example, "    ")
        text = f"routes:\n  example:\n{head}\n    steps: [log]\n"
    else:
        text = entry.example
    found = load_text(text, tmp_path).diagnostics
    lacking = {"missing-file", "unknown-connection", "unknown-route", "reference", "python"}
    assert [one for one in found if one.code not in lacking] == []
