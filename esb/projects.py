"""What larger projects share: profiles per environment, defaults and policies of routes, and
templates of routes.

Each puts something written in one place into another, before anything is validated: the data of a
document change, and `Document.origins` says where the parts are written, so that a mistake is told
there.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import Field, RootModel

from esb.adapter import BuildFailed
from esb.build import Builder
from esb.loading import Load
from esb.mistakes import did_you_mean
from esb.options import Options, RawRoute
from esb.route import OF_CALLERS, RoutePolicies
from esb.strict_yaml import REFERENCE, Document, YamlPath, resolved

LATER: Final = ("templates", "profiles")
"""Sections whose references are resolved where they are used."""

_WHOLE: Final = re.compile(r"\$\{([^{}]*)\}\Z")

_DEEP: Final = {"connections": 3, "routes": 2, "policies": 2}
"""How many keys below a section what a profile replaces is: of connections the name, the adapter
and the option. In other sections it is the option."""


class Parameter(Options):
    """A parameter of a template."""

    description: str = Field("", description="What it is for.")
    default: Any = Field(None, description="Its value if none is given; without it one must be.")


class Template(Options):
    """A route with `${parameter}` in its values. A value that is nothing else takes the parameter's
    as it is, be it a number, a mapping or a list of steps."""

    description: str = Field("", description="What its routes are for.")
    parameters: dict[str, Parameter] = Field({}, description="Its parameters, by their names.")
    route: RawRoute = Field(description="The route, as it would be written.")


class Use(Options):
    """A route that is made from a template. Options of a route that stand beside these replace the
    template's."""

    use: str = Field(description="The template.")
    with_: dict[str, Any] = Field({}, alias="with", description="Its parameters.")


class Profile(RootModel[dict[str, Any]]):
    """What is different in one environment: `esb run --profile NAME` (or `ESB_PROFILE`). It has the
    sections of a route file. An option in it replaces that of the same name; of a route the whole
    option, such as `retry`, is replaced, and of a connection each single one. What the other files
    do not have is added."""


SHARED: Final[dict[str, Any]] = {
    "defaults": RoutePolicies,
    "policies": dict[str, RoutePolicies],
    "templates": dict[str, Template],
    "profiles": dict[str, Profile],
}
"""The sections of all this, with their models."""


class Projects:
    """Shapes the documents of one load. profile: the name of the one that counts, or ""."""

    def __init__(
        self, load: Load, tops: Sequence[Builder], profile: str, sections: Sequence[str]
    ) -> None:
        self._load = load
        self._tops = tops
        self._profile(profile, sections)
        self._defaults: dict[Path, Builder] = {}
        self._policies: dict[str, Builder] = {}
        self._templates: dict[str, Builder | None] = {}
        for top in tops:
            self._collect(top)

    def _collect(self, top: Builder) -> None:
        if "defaults" in top.data:
            place = top.at("defaults")
            there = self._defaults.setdefault(top.document.folder, place)
            if there is not place:
                place.problem(
                    f"the defaults of this folder are set already in {there.document.file}",
                    code="duplicate", key=True,
                )  # fmt: skip
            with contextlib.suppress(BuildFailed):
                place.validate(RoutePolicies, place.data)
        for name in top.mapping("policies"):
            place = top.at("policies", name)
            if self._policies.setdefault(name, place) is not place:
                place.problem(f"policy '{name}' exists already", code="duplicate", key=True)
            with contextlib.suppress(BuildFailed):
                place.validate(RoutePolicies, place.data)
        for name in top.mapping("templates"):
            place = top.at("templates", name)
            if name in self._templates:
                place.problem(f"template '{name}' exists already", code="duplicate", key=True)
                continue
            self._templates[name] = None  # it is there, and wrong
            with contextlib.suppress(BuildFailed):
                self._check(place)
                self._templates[name] = place

    # --- routes

    def shape(self, place: Builder) -> None:
        """Make the route that begins at `place` what it is: from its template, with its policy and
        the defaults of its folder. Raises BuildFailed."""
        raw = place.raw
        if not isinstance(raw, dict):
            return
        if place.given is None and ("use" in raw or "with" in raw):
            self._used(place, raw)
        own, sub = dict(raw), raw.get("from") is None
        for source in self._policies_of(place, raw, sub):
            for key, value in source.data.items() if isinstance(source.data, dict) else ():
                if key in own or (sub and key not in OF_CALLERS):
                    continue
                own[key] = value
                if place.given is None:
                    raw[key] = value
                    place.document.origins[(*place.path, key)] = (
                        source.document, (*source.path, key),
                    )  # fmt: skip
                else:
                    place.shaped[key] = value
        if place.shaped:
            place.given = own

    def _policies_of(self, place: Builder, raw: dict[str, Any], sub: bool) -> Iterator[Builder]:
        """Where policies come from that the route does not have itself, the nearest first."""
        name = raw.get("policy")
        if isinstance(name, str):
            if name not in self._policies:
                hint = did_you_mean(name, list(self._policies))
                place.problem(f"there is no policy '{name}'", "policy", code="unknown-policy",
                              hint=hint or "policies: {" + name + ": {...}}")  # fmt: skip
            else:
                yield self._policies[name]
        if sub:
            return  # its callers have the defaults already
        folder = place.document.folder
        for above in (folder, *folder.parents):
            if above in self._defaults:
                yield self._defaults[above]

    # --- templates

    def _check(self, place: Builder) -> None:
        """A template by itself. Raises BuildFailed."""
        template = place.validate(Template, place.data)
        if not isinstance(template.route, dict):
            raise place.problem("a route is a mapping of options", "route", code="type")
        used = set(_references(template.route))
        for name in template.parameters:
            if name not in used:
                place.problem(
                    f"nothing in the route uses the parameter '{name}'", "parameters", name,
                    code="unused", key=True, hint='use it as "${' + name + '}", or remove it',
                )  # fmt: skip

    def _used(self, place: Builder, raw: dict[str, Any]) -> None:
        """Put the template's route in the place of one that uses it."""
        if "use" not in raw:
            raise place.problem("'with' goes with 'use'", "with", code="missing-key", key=True,
                                hint="use: the name of a template")  # fmt: skip
        options = place.validate(Use, {key: raw[key] for key in ("use", "with") if key in raw})
        if options.use not in self._templates:
            raise place.problem(
                f"there is no template '{options.use}'", "use", code="unknown-template",
                hint=did_you_mean(options.use, list(self._templates)),
            )  # fmt: skip
        template = self._templates[options.use]
        if template is None:
            raise BuildFailed("the template itself is wrong")
        values = self._values(place, options, template)
        document, mark = place.spot((), key=True)
        view = template.document.view(f"used by '{place.route}' at {document.file}:{mark.line}")
        at = (*template.path, "route")
        route = self._filled(template.data["route"], at, view, values)
        for key in ("use", "with"):
            raw.pop(key, None)
        for key, value in route.items():
            if key not in raw:
                raw[key] = value
                place.document.origins[(*place.path, key)] = (view, (*at, key))

    def _values(
        self, place: Builder, options: Use, template: Builder
    ) -> dict[str, tuple[Any, Document, YamlPath]]:
        """The parameters, with where each is written. Raises BuildFailed."""
        declared: Mapping[str, Any] = template.data.get("parameters") or {}
        failed: BuildFailed | None = None
        for name in options.with_:
            if name not in declared:
                failed = place.problem(
                    f"template '{options.use}' has no parameter '{name}'", "with", name,
                    code="unknown-parameter", key=True, hint=did_you_mean(name, list(declared)),
                )  # fmt: skip
        document, mark = template.spot((), key=True)
        mine = place.document.view(f"for template '{options.use}' at {document.file}:{mark.line}")
        values: dict[str, tuple[Any, Document, YamlPath]] = {}
        for name, parameter in declared.items():
            if name in options.with_:
                values[name] = options.with_[name], mine, (*place.path, "with", name)
            elif isinstance(parameter, dict) and "default" in parameter:
                path = (*template.path, "parameters", name, "default")
                default = self._filled(parameter["default"], path, template.document, {})
                values[name] = default, template.document, path
            else:
                known = [one for one in options.with_ if one not in declared]
                hint = f"is it what '{known[0]}' is meant to be?" if len(known) == 1 else ""
                failed = place.problem(
                    f"the parameter '{name}' of template '{options.use}' is missing",
                    "with" if options.with_ else "use", code="missing-key", key=True,
                    hint=hint or f"with: {{{name}: ...}}",
                )  # fmt: skip
        if failed is not None:
            raise failed
        return values

    def _filled(
        self,
        value: Any,
        path: YamlPath,
        document: Document,
        values: Mapping[str, tuple[Any, Document, YamlPath]],
    ) -> Any:
        """A part of a document whose references are open yet, with their values: those of
        parameters, or what they are everywhere."""
        if isinstance(value, dict):
            return {k: self._filled(v, (*path, k), document, values) for k, v in value.items()}
        if isinstance(value, list):
            return [self._filled(v, (*path, i), document, values) for i, v in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        whole = _WHOLE.match(value)
        if whole and whole[1] in values:
            given, there, at = values[whole[1]]
            document.origins[path] = (there, at)
            return given

        def problem(message: str, hint: str) -> None:
            mark = document.mark(path)
            unknown = re.search(r"variable (\w+) is not set", message)
            if unknown and (near := did_you_mean(unknown[1], list(values), listed=False)):
                message, hint = f"there is no parameter '{unknown[1]}'", near
            note = "; ".join(filter(None, (hint, document.note)))
            self._load.diagnose(document.file, mark, "reference", message, note)

        def one(match: re.Match[str]) -> str:
            if match[1] or match[2] not in values:
                return resolved(match[0], document.folder, self._load.references, problem)
            given = values[match[2]][0]
            if isinstance(given, dict | list):
                problem(f"'{match[2]}' is no text, so it cannot stand in one", "")
                return ""
            if isinstance(given, bool):
                return "true" if given else "false"
            return "" if given is None else str(given)

        return REFERENCE.sub(one, value)

    # --- profiles

    def _profile(self, wanted: str, sections: Sequence[str]) -> None:
        places = [
            top.at("profiles", name) for top in self._tops for name in top.mapping("profiles")
        ]
        known = [section for section in sections if section not in LATER]
        for place in places:
            if not isinstance(place.data, dict):
                place.problem("a profile is a mapping of sections", code="type")
                continue
            for section in place.data:
                if section not in known:
                    place.problem(
                        f"unknown section '{section}'", section, code="unknown-key", key=True,
                        hint=did_you_mean(section, known),
                    )  # fmt: skip
        names = [str(place.path[-1]) for place in places]
        if wanted and wanted not in names:
            hint = did_you_mean(wanted, list(dict.fromkeys(names)))
            message = f"there is no profile '{wanted}'"
            self._load.diagnose("--profile", None, "unknown-profile", message, hint)
        for place in places:
            if place.path[-1] == wanted and isinstance(place.data, dict):
                data = self._filled(place.data, place.path, place.document, {})
                for section, value in data.items():
                    if section in known:
                        self._overlay(section, value, place)

    def _overlay(self, section: str, value: Any, place: Builder) -> None:
        """Put a section of a profile over that of the files."""
        origin = place.document, (*place.path, section)
        named = section in _DEEP or self._is_named(section)
        if not named or not isinstance(value, dict):
            there = self._having(section, None, place)
            _put(there, (section,), value, origin, _DEEP.get(section, 1))
            return
        for name, one in value.items():
            there = self._having(section, name, place)
            if not isinstance(there.data.get(section), dict):
                there.data[section] = {}
                there.origins[(section,)] = origin
            inner = (origin[0], (*origin[1], name))
            _put(there, (section, name), one, inner, _DEEP.get(section, 2) - 1)

    def _is_named(self, section: str) -> bool:
        """Whether a section of an adapter holds what makes routes, by their names."""
        point = self._load.section_points.get(section)
        return point is not None and point.load().expand is not None

    def _having(self, section: str, name: str | None, place: Builder) -> Document:
        """The document that has the section, and in it the name; else the profile's own."""
        for top in self._tops:
            there = top.data.get(section)
            mine = section != "defaults" or top.document.folder == place.document.folder
            if mine and section in top.data and (
                name is None or (isinstance(there, dict) and name in there)
            ):  # fmt: skip
                return top.document
        return place.document


def _put(
    document: Document, path: YamlPath, value: Any, origin: tuple[Document, YamlPath], depth: int
) -> None:
    """Replace what is at `path`, or, as long as there is `depth` and both are mappings, what is in
    it key by key. One of several that exclude each other (an adapter) replaces the other."""
    parent = document.data
    for key in path[:-1]:
        parent = parent[key]
    here = parent.get(path[-1])
    adapter = path[0] == "connections" and len(path) == 2
    if (
        depth > 0
        and isinstance(here, dict)
        and isinstance(value, dict)
        and not (adapter and here.keys() != value.keys())
    ):
        for key, one in value.items():
            _put(document, (*path, key), one, (origin[0], (*origin[1], key)), depth - 1)
        return
    parent[path[-1]] = value
    document.origins[path] = origin


def _references(value: Any) -> Iterator[str]:
    """What stands in the braces of all references in plain data."""
    if isinstance(value, str):
        yield from (match[2] for match in REFERENCE.finditer(value) if not match[1])
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _references(one)
