"""A Build for tests of one adapter or step alone; problems raise at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

from esb.adapter import BuildFailed
from esb.audit import AuditOptions
from esb.clock import REAL
from esb.envelope import Envelope
from esb.identity import PUBLIC, Authenticator
from esb.outline import Passage
from esb.step import SpanFacts, Step, identity


class FakeBuild:
    """Files are looked up in `folder`; `sections` and `sinks` hold what a test wants handed out."""

    route = "test"
    where = "steps[0].send.http"
    about = ""
    durable = False
    clock = REAL
    rehearsal = False
    asked: Collection[str] = ()
    checks: Sequence[Any] = ()

    def __init__(self, folder: Path | None = None, store: Any = None, **sections: Any) -> None:
        self.folder = folder or Path()
        self.sections = {"audit": AuditOptions(), **sections}
        self.objects: dict[object, Any] = {}
        self.claims: set[str] = set()
        self.store = store
        self.sinks: dict[str, Any] = {}
        self.passage = Passage()

    def stand_in(self) -> None:
        """There is a far side."""

    def nth(self, what: str) -> int:
        return 1

    def channel(self, name: str, *, outside: bool = False) -> None:
        """What an endpoint reads or feeds is of no interest here."""

    def promises(self, promise: str, *, provided: str = "", better: str = "") -> None:
        """What is promised is of no interest here."""

    def span(self, facts: SpanFacts) -> None:
        """Nor what telemetry would tell."""

    def checked(self, check: Any) -> None:
        """Nor who asks it how it is."""

    def body(self, *fates: str) -> Passage:
        """Bodies are whole, unless a test opens the passage."""
        return self.passage

    def gives(self, **known: Any) -> None:
        """Nor what is known of its messages."""

    def answer(self) -> FakeBuild:
        return self

    def problem(
        self, message: str, *path: str | int, code: str = "value", hint: str = "", key: bool = False
    ) -> BuildFailed:
        raise BuildFailed(f"{'.'.join(map(str, path))}: {message} ({hint})")

    def expression(
        self, source: str, *path: str | int, names: Collection[str] = ()
    ) -> Callable[[Envelope], Any]:
        compiled = ImmutableSandboxedEnvironment().compile_expression(source)
        return lambda e: compiled(body=e.body.data, headers=e.headers, **e.params)

    def text(self, source: str, *path: str | int) -> Callable[[Envelope], str]:
        template = ImmutableSandboxedEnvironment().from_string(source)
        return lambda e: template.render(body=e.body.data if "body" in source else None, **e.params)

    def file(self, name: str, *path: str | int, folder: str = "transforms") -> Path:
        if not (self.folder / name).is_file():
            raise self.problem(f"no file {name}", *path)
        return self.folder / name

    def data_folder(self, name: str) -> Path:
        return self.folder / name

    def credential(self, name: str, *path: str | int) -> Path:
        return self.file(name, *path)

    def root(self, file: Path) -> Path:
        return self.folder

    def json_schema(
        self, schema: str | Mapping[str, Any], *path: str | int
    ) -> Callable[[Envelope], None]:
        import jsonschema_rs

        from esb.errors import BadMessage

        loaded = json.loads(self.file(schema).read_text()) if isinstance(schema, str) else schema
        validator = jsonschema_rs.validator_for(dict(loaded))

        def check(envelope: Envelope) -> None:
            if not validator.is_valid(envelope.body.data):
                raise BadMessage("the body does not match the schema")

        return check

    def steps(self, raw: Sequence[Any], *path: str | int) -> Step:
        return identity

    def made(self) -> FakeBuild:
        return self

    def source(self, raw: Any, *path: str | int) -> Any:
        return self.sinks[next(iter(raw))]

    def sink(self, raw: Any, *path: str | int) -> Any:
        return self.sinks[next(iter(raw))]

    def caller(self, raw: Any, *path: str | int) -> Any:
        return self.sinks[next(iter(raw))]

    def shared(self, key: object, make: Callable[[], Any]) -> Any:
        if key not in self.objects:
            self.objects[key] = make()
        return self.objects[key]

    def once_running(self, key: object, act: Callable[[], None]) -> None:
        act()

    def section(self, name: str) -> Any:
        return self.sections[name]

    ways: Collection[str] = ()

    def auth(
        self, names: Sequence[str] | None, *path: str | int, section: str = ""
    ) -> Authenticator:
        """Everybody may call."""
        return PUBLIC

    def claim(self, name: str, *path: str | int) -> None:
        if name in self.claims:
            self.problem(f"{name} is taken", *path)
        self.claims.add(name)
