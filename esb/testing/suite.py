"""Files of tests: `claims.test.yaml` beside `claims.yaml`. Found, read, checked and run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import structlog

from esb.adapter import BuildFailed
from esb.build import Builder
from esb.bus import Shared
from esb.clock import Clock
from esb.config import Project, load
from esb.envelope import NO_BODY, Body, Envelope, new_id
from esb.errors import ConfigError, Diagnostic, EsbError
from esb.loading import Load
from esb.mistakes import did_you_mean, shown_path
from esb.outline import Part
from esb.secrets import References
from esb.strict_yaml import read_yaml
from esb.testing.models import CaseOptions, Given, Reply, SuiteOptions, Written
from esb.testing.play import Coming, Played, Player, seeded
from esb.testing.stage import Answering, Endpoint, Mock, Stage, headers_of
from esb.testing.verdict import Answered, Expectation, Failure, Verdict
from esb.testing.virtual import PATIENCE, Restless, VirtualLoop, virtual_clock

SUFFIXES = (".test.yaml", ".test.yml")

NOW = datetime(2025, 1, 1, 12, tzinfo=UTC)
"""When tests begin that do not say when: the same time each time."""

_SHM = Path("/dev/shm")  # noqa: S108 - a folder of our own is made there
_IN_MEMORY = _SHM if os.access(_SHM, os.W_OK) else None
"""Where stores are that nobody needs to find again after a power cut."""

_BY_SUFFIX = {
    ".json": "application/json",
    ".xml": "application/xml",
    ".csv": "text/csv",
    ".yaml": "application/yaml",
    ".txt": "text/plain; charset=utf-8",
}


def files_of_tests(paths: Sequence[Path]) -> list[Path]:
    """The files of tests that were named or lie in the folders that were; of a route file, the one
    beside it."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.name.endswith(SUFFIXES))
        elif path.name.endswith(SUFFIXES):
            found.append(path)
        else:
            beside = (path.with_name(path.stem + suffix) for suffix in SUFFIXES)
            found += [one for one in beside if one.is_file()]
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Result:
    """What became of one test. seconds: of real time; took: of its own. last: the step that began
    last."""

    file: str
    name: str
    line: int
    failures: Sequence[Failure]
    seconds: float
    took: float = 0.0
    last: str = ""
    log: Sequence[str] = ()

    @property
    def passed(self) -> bool:
        """Whether all was as expected."""
        return not self.failures


@dataclass
class Coverage:
    """Which parts of routes ran in tests. parts: what routes are made of, by file and name; passed:
    how often messages went through places, with those."""

    parts: dict[tuple[str, str], Part] = field(default_factory=dict)
    passed: Counter[tuple[str, str, str]] = field(default_factory=Counter)


class _References(References):
    """What `${NAME}` stands for in tests: what the file of tests says; else its default, or the
    name itself in the place of an address or a secret that tests do not have."""

    def is_open(self, reference: str) -> bool:
        return False

    def resolve(self, reference: str, folder: Path) -> str:
        if reference.startswith("vault:"):
            return reference.partition(":")[2]  # no test asks one
        try:
            return super().resolve(reference, folder)
        except ValueError:
            return reference.partition(":")[2] or reference


def _nowhere() -> Stage:
    """Where nothing runs: to see what routes are made of."""
    loop = VirtualLoop()
    loop.close()
    return Stage("", loop, virtual_clock(loop, 0.0), Path())


ELSEWHERE: Final = frozenset(
    f"unknown-{what}" for what in ("connection", "policy", "profile", "route", "template")
)
"""Mistakes of a file whose other half another file may be."""


class Suite:
    """One file of tests, with its routes loaded. Raises ConfigError for what is wrong with it, or
    with its routes."""

    def __init__(self, file: Path, *, root: Path | None = None) -> None:
        self.file = shown_path(file)
        self._path = file
        self._root = root
        self.top = self._read()
        self.options = self._valid(SuiteOptions, self.top)
        self._paths = self._routes()
        stage = _nowhere()
        self.project = self._checked(self._load(stage, Shared()))
        self._endpoints = stage.endpoints
        self.tests: dict[str, Case] = {}
        for name in self.options.tests:
            place = self.top.at("tests", name)
            with contextlib.suppress(BuildFailed):
                self.tests[name] = Case(name, place, self)
        self._check_names()
        if self.top.load.diagnostics:
            raise ConfigError(self.top.load.diagnostics)

    @property
    def outlines(self) -> dict[str, Part]:
        """What its routes are made of, by their names."""
        return {r.name: r.outline for r in self.project.routes if r.outline.kind == "route"}

    # --- reading

    def _read(self) -> Builder:
        load_ = Load(Shared(), References({}), self._root)
        try:
            text = self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            reason = getattr(e, "strerror", None) or "it is not UTF-8 text"
            raise ConfigError(
                [Diagnostic(self.file, 0, 0, "file", f"cannot be read: {reason}")]
            ) from e
        document = read_yaml(text, self.file, self._path.resolve().parent, References(None))
        load_.diagnostics += document.diagnostics
        top = Builder(load_, document, ())
        if document.data is None and not document.diagnostics:
            top.problem("the file is empty", code="empty", hint="tests: ...")
        if load_.diagnostics:
            raise ConfigError(load_.diagnostics)
        return top

    def _valid(self, model: Any, place: Builder) -> Any:
        try:
            return place.validate(model, place.data)
        except BuildFailed as e:
            raise ConfigError(place.load.diagnostics) from e

    def _routes(self) -> list[Path]:
        folder = self._path.parent
        paths = []
        for i, name in enumerate(self.options.routes):
            paths.append(folder / name)
            if not paths[-1].exists():
                self.top.problem(f"there is no {name}", "routes", i, code="missing-file")
        if self.top.load.diagnostics:
            raise ConfigError(self.top.load.diagnostics)
        if paths:
            return paths
        for suffix in SUFFIXES:
            same = folder / self._path.name.replace(suffix, suffix.removeprefix(".test"))
            if same != self._path and same.is_file():
                return [same]
        return [folder]

    def _load(self, stage: Stage, shared: Shared) -> Project:
        return load(
            self._paths,
            shared=shared,
            environ=_References(self.options.environ),
            root=self._root,
            clock=stage.clock,
            stage=stage,
            profile=self.options.profile,
        )

    def _checked(self, project: Project) -> Project:
        alone = not self.options.routes and self._paths[0].is_file()
        if alone and any(found.code in ELSEWHERE for found in project.diagnostics):
            self.top.problem(
                f"of the routes only {self._paths[0].name} is loaded", code="missing-file",
                hint='if it needs what other files of the folder say: routes: ["."]',
            )  # fmt: skip
            raise ConfigError([*project.diagnostics, *self.top.load.diagnostics])
        return project.check()

    def _check_names(self) -> None:
        """Each mock and each call means some endpoint, of the routes that run in its test."""
        for key in self.options.mocks:
            self._check_name(key, self._endpoints, "", self.top, "mocks", key)
        for test in self.tests.values():
            near = [e for e in self._endpoints if e.route in self.running(test)]
            for key in test.options.mocks:
                self._check_name(key, near, test.route, test.place, "mocks", key)
            for call in test.expect.calls:
                self._check_name(call.options.to, near, test.route, call.place, "to")

    def _check_name(
        self, name: str, endpoints: Sequence[Endpoint], route: str, place: Builder, *path: str
    ) -> None:
        if any(one.rank(name, route or one.route) for one in endpoints):
            return
        known = [one.places[0] for one in endpoints] + [
            known for one in endpoints for known in (*one.names, one.part.name)
        ]
        place.problem(
            f"no endpoint goes by '{name}'", *path, code="unknown-endpoint",
            key=path[0] == "mocks", hint=did_you_mean(name, list(dict.fromkeys(known))),
        )  # fmt: skip

    def running(self, test: Case) -> set[str]:
        """The routes that run in a test, and the sub-routes they run."""
        found = {test.route, *test.options.also}
        outlines, new = self.outlines, set(found)
        while new:
            parts = (part for name in new if name in outlines for part in outlines[name].walk())
            new = {part.name for part in parts if part.kind == "subroute"} - found
            found |= new
        return found

    # --- running

    def run(self, test: Case, coverage: Coverage | None = None) -> Result:
        """Play a test and judge it."""
        begun = time.perf_counter()
        seeded(test.name)
        with (
            tempfile.TemporaryDirectory(dir=_IN_MEMORY) as folder,
            logged() as log,
            asyncio.Runner(loop_factory=VirtualLoop) as runner,
        ):
            loop = runner.get_loop()
            assert isinstance(loop, VirtualLoop)
            now = (test.options.now or self.options.now or NOW).timestamp()
            clock = virtual_clock(loop, now)
            stage = Stage(test.route, loop, clock, Path(folder), test.mocks)
            shared = Shared()
            played = Played()
            try:
                project = self._load(stage, shared).check()
                player = Player(stage, project, shared, test.route, test.options.also)
                coming = [one.message(clock) for one in test.given]
                played = runner.run(player.play(coming, test.options.within))
            except EsbError as e:
                stage.problem(e.detail)
            except Restless:
                stage.problem(f"it did not come to rest within {PATIENCE:g} seconds")
            verdict = Verdict(test.place, played, stage, log.told, self.outlines.values())
            failures = verdict.failures(test.expect, [one.expect for one in test.given])
        if coverage is not None:
            outlines = self.outlines
            coverage.parts |= {(part.file, name): part for name, part in outlines.items()}
            for (name, place), count in played.passed.items():
                coverage.passed[outlines[name].file, name, place] += count
        return Result(
            self.file,
            test.name,
            test.place.mark((), key=True).line,
            failures,
            time.perf_counter() - begun,
            played.took,
            played.last,
            log.lines,
        )


class Case:
    """One test, checked. Raises BuildFailed for what is wrong with it."""

    def __init__(self, name: str, place: Builder, suite: Suite) -> None:
        self.name = name
        self.place = place
        self.options: CaseOptions = place.validate(CaseOptions, place.data)
        self.route = self._route(suite.outlines)
        given = self.options.given
        several = isinstance(given, list)
        self.given = [
            GivenMessage(place.at("given", *((i,) if several else ())), one)
            for i, one in enumerate(given if several else [given])
        ]
        self.expect = Expectation(place.at("expect"), self.options.expect)
        self.mocks = [
            *(_mock(place.at("mocks", key), key, raw, own=True)
              for key, raw in self.options.mocks.items()),
            *(_mock(suite.top.at("mocks", key), key, raw, own=False)
              for key, raw in suite.options.mocks.items()),
        ]  # fmt: skip
        if self.options.expect is None:
            raise place.problem(
                "it expects nothing", code="missing-key", key=True, hint="expect: {...}"
            )

    def _route(self, known: Mapping[str, Part]) -> str:
        for i, name in enumerate(self.options.also):
            if name not in known:
                raise self.place.problem(
                    f"there is no route '{name}'", "also", i, code="unknown-route",
                    hint=did_you_mean(name, list(known)),
                )  # fmt: skip
        name = self.options.route
        taking = [n for n, root in known.items() if any(p.kind == "source" for p in root.parts)]
        if not name and len(taking or known) == 1:
            return next(iter(taking or known))
        if name not in known:
            missing = f"there is no route '{name}'" if name else "'route' is missing"
            raise self.place.problem(
                missing, *(["route"] if name else []), code="unknown-route", key=not name,
                hint=did_you_mean(name, list(known)),
            )  # fmt: skip
        return name


class GivenMessage:
    """A message that comes in, checked. Raises BuildFailed."""

    def __init__(self, place: Builder, raw: Any) -> None:
        self.options: Given = place.validate(Given, raw)
        if self.options.trace:
            self.options = _traced(place, self.options)
        self.expect: Answered | None = None
        if self.options.expect is not None:
            self.expect = Answered(place.at("expect"), self.options.expect)
        self._body = body_of(place, self.options)
        try:
            self._headers = headers_of(self.options.headers)
        except EsbError as e:
            raise place.problem(e.detail, "headers") from e

    def message(self, clock: Clock) -> Coming:
        """The message, as it comes at this moment."""
        given = self.options
        attributes = {
            name: value
            for name in ("type", "subject", "correlation_id", "principal")
            if (value := getattr(given, name))
        }
        params: dict[str, Mapping[str, Any]] = {**given.params}
        if given.path:
            params["path"] = given.path
        if given.query:
            params["query"] = given.query
        if given.method:
            params["http"] = {"method": given.method.upper(), **params.get("http", {})}
        message = Envelope(
            body=self._body,
            id=given.id or new_id(),
            time=datetime.fromtimestamp(clock.time(), UTC),
            headers=self._headers,
            params=params,
            **attributes,
        )
        return Coming(message, given.after)


def body_of(place: Builder, written: Written) -> Body:
    """A body as a test writes it. Raises BuildFailed."""
    content_type = written.content_type
    if written.file:
        file = place.file(written.file, "file")
        guess = _BY_SUFFIX.get(file.suffix.lower(), "application/octet-stream")
        return Body(file.read_bytes(), content_type or guess)
    if written.body is None:
        return Body(b"", content_type) if content_type else NO_BODY
    if isinstance(written.body, str):
        return Body(written.body.encode(), content_type or _guessed(written.body))
    try:
        kind = content_type or "application/json"
        # As bytes, so that the route reads it as it reads all that comes.
        return Body(Body.of(written.body, kind).raw, kind)
    except EsbError as e:
        raise place.problem(e.detail, "body") from e


def _traced(place: Builder, given: Given) -> Given:
    """With what a trace tells of the message. Raises BuildFailed."""
    file = place.file(given.trace, "trace")
    try:
        told = json.loads(file.read_text(encoding="utf-8").splitlines()[0])
        params = {group: dict(of) for group, of in told.get("params", {}).items()}
        headers: dict[str, list[str]] = {}
        for name, value in told.get("headers", ()):
            headers.setdefault(name, []).append(value)
        body = told.get("given") or {}
        found = {
            "headers": headers,
            "path": params.pop("path", {}),
            "query": params.pop("query", {}),
            "params": params,
            "body": body.get("text") or None,
            "content_type": body.get("content_type", ""),
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as e:
        raise place.problem(
            "this is no trace", "trace", code="file", hint="a line of: esb trace ROUTE --json"
        ) from e
    if body.get("cut"):
        raise place.problem(
            "the trace has only the beginning of the body", "trace", code="file",
            hint="`esb record` keeps whole ones",
        )  # fmt: skip
    own = given.model_fields_set
    hidden = {"body", "content_type"} if own & {"body", "file"} else set()
    return given.model_copy(update={k: v for k, v in found.items() if k not in own | hidden})


def _guessed(text: str) -> str:
    match text.lstrip()[:1]:
        case "<":
            return "application/xml"
        case "{" | "[":
            return "application/json"
    return "text/plain; charset=utf-8"


def _mock(place: Builder, key: str, raw: Any, *, own: bool) -> Mock:
    several = isinstance(raw, list)
    replies = []
    for i, one in enumerate(raw if several else [raw]):
        at = place.at(i) if several else place
        reply = at.validate(Reply, one)
        when = at.expression(reply.when, "when") if reply.when else None
        replies.append(Answering(reply, body_of(at, reply), when))
    return Mock(key, replies, not several, own)


# --- logs -----------------------------------------------------------------------------------------


@dataclass
class Log:
    """lines: all that was logged; told: what the steps `log` wrote."""

    lines: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


@contextlib.contextmanager
def logged() -> Iterator[Log]:
    """Keep what is logged, instead of showing it."""
    log = Log()

    def keep(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        text = str(event.pop("event", ""))
        if getattr(logger, "name", "") == "esb.route":
            log.told.append(text)
        more = " ".join(f"{name}={value}" for name, value in event.items())
        log.lines.append(f"{method:8} {text}  {more}".rstrip())
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(
        processors=[keep],
        logger_factory=_Named,
        wrapper_class=structlog.make_filtering_bound_logger("debug"),
        cache_logger_on_first_use=False,
    )
    try:
        yield log
    finally:
        structlog.configure(**before)


class _Named:
    def __init__(self, name: str = "", *_: Any) -> None:
        self.name = name
