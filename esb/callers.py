"""The section `auth` of a project, compiled: each way to prove who one is, when it is first named.

What a way needs from its project comes through `Callers`: files that are read again, and keys that
are fetched by the adapter `http`, as any route would.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from esb.adapter import BuildFailed, RequestReply
from esb.auth import AuthOptions, Way, made
from esb.auth.tokens import Fetch
from esb.auth.ways import Method
from esb.build import Builder
from esb.durable import Store
from esb.envelope import Envelope
from esb.loading import Load
from esb.mistakes import shown_path
from esb.renewed import Renewed
from esb.strict_yaml import read_yaml

T = TypeVar("T")


def add_ways(load: Load, place: Builder, options: AuthOptions) -> None:
    """Make what the section at this place holds known to all who name it, and find what is wrong
    with it, also with what nobody names."""
    if not place.data:
        place.problem("'auth' is empty", code="empty", key=True, hint="partners: {api_keys: ...}")
    ways = options.root or _right_ones(place)
    load.unread |= len(ways) < len(place.data)  # what is wrong with the others is said
    for name, way in ways.items():
        inner = place.at(name)
        inner.begin(f"auth {name}")
        load.ways[name] = KnownWay(_Place(inner), name, way)
    for known in load.ways.values():
        with contextlib.suppress(BuildFailed):
            known.method()


def _right_ones(place: Builder) -> dict[str, Way]:
    """The entries of a section with a mistake that have none themselves: they may name files that
    are not there."""
    found: dict[str, Way] = {}
    for name in place.data if isinstance(place.data, dict) else ():
        inner = place.at(name)
        with contextlib.suppress(BuildFailed):
            found[name] = inner.validate(Way, inner.data)
    return found


class KnownWay:
    """An entry of the section. mark: another when what is written there is."""

    def __init__(self, place: _Place, name: str, way: Way) -> None:
        self._place, self._name, self._way = place, name, way
        self._method: Method | None = None
        self._failed = False
        # It may hold secrets, so nothing keeps it as it is.
        self.mark = hashlib.sha256(repr(place.build.data).encode()).hexdigest()

    def method(self) -> Method:
        """What it is made to; the same one as before a reload, if nothing changed. Raises
        BuildFailed."""
        if self._method is None:
            if self._failed:
                raise BuildFailed(self._name)
            try:
                self._method = self._place.build.load.shared.get(
                    (f"auth {self._name}", self.mark),
                    lambda: made(self._name, self._way, self._place),
                )
            except BuildFailed:
                self._failed = True
                raise
        return self._method


@dataclass(frozen=True)
class _Place:
    """See `esb.auth.options.Place`."""

    build: Builder

    @property
    def store(self) -> Store:
        return self.build.store

    def table(self, name: str, model: type[T], *path: str | int) -> Renewed[T]:
        file = self.build.credential(name, *path)
        load = self.build.load

        def at_load() -> T:
            return _read(file, load, model, self.build, path)

        def again() -> T:
            # What is wrong is said in the log, not among the mistakes of a load long over.
            aside = Load(load.shared, load.references, load.root, load.clock)
            try:
                return _read(file, aside, model, self.build, path)
            except BuildFailed:
                raise ValueError("; ".join(map(str, aside.diagnostics))) from None

        return Renewed(file.name, [file], at_load, again)

    def content(self, name: str, *path: str | int) -> bytes:
        return self.build.credential(name, *path).read_bytes()

    def fetch(self, ca: str | None, *path: str | int) -> Fetch:
        if self.build.rehearsal:
            return _nothing
        # An issuer says himself where his keys are, and whoever trusts his keys trusts that.
        options: dict[str, Any] = {
            "url": "{{ query.url }}", "method": "GET", "timeout": "5s", "max_reply": "1MB",
            "allow_hosts": ["*"], "allow_networks": ["0.0.0.0/0", "::/0"],
            "forward_headers": False, "headers": {"Accept": "application/json"},
        }  # fmt: skip
        if ca is not None:
            options["tls"] = {"ca": str(self.build.credential(ca, *path))}
        caller: RequestReply = self.build.made().caller({"http": options})

        async def fetch(url: str) -> bytes:
            reply = await caller.call(Envelope(params={"query": {"url": url}}))
            return reply.body.raw

        return fetch

    def problem(
        self, message: str, *path: str | int, code: str = "value", hint: str = ""
    ) -> BuildFailed:
        return self.build.problem(message, *path, code=code, hint=hint)


async def _nothing(url: str) -> bytes:
    raise AssertionError("nobody calls in a test of routes")


def _read(file: Path, load: Load, model: type[T], build: Builder, path: tuple[str | int, ...]) -> T:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        problem = f"{file.name} cannot be read as UTF-8 text"
        if load is build.load:
            raise build.problem(problem, *path, code="file") from e
        raise ValueError(problem) from e
    document = read_yaml(text, shown_path(file), file.parent, load.references)
    load.diagnostics += document.diagnostics
    if document.diagnostics:
        raise BuildFailed(file.name)
    return Builder(load, document, ()).validate(model, document.data)
