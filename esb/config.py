"""YAML to routes: read the project's files, validate them, compile every route.

Loading touches no network and starts nothing. Every mistake becomes a Diagnostic at its line, and
all are found in one go; `Project.routes` holds what could be built.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from esb.adapter import Adapter, BuildFailed, Section, Sink, Source
from esb.analysis import analyse
from esb.analysis.streaming import open_passages
from esb.audit import refusals
from esb.build import POLICIES, Builder, split_policies
from esb.bus import Shared
from esb.callers import add_ways
from esb.clock import REAL, Clock
from esb.errors import ConfigError, Diagnostic
from esb.identity import NOBODY, PUBLIC, Authenticator
from esb.loading import Continuation, Load, Stage, Stores
from esb.middleware.cache import Cache, CacheOptions
from esb.middleware.endpoint import EndpointPolicies
from esb.mistakes import did_you_mean, option_names, shown_path
from esb.options import Options
from esb.otel import Telemetry
from esb.policies import cached, route_policies
from esb.projects import LATER, SHARED, Projects
from esb.redaction import known_secrets, secret_values
from esb.route import Called, Route, RouteOptions, assemble
from esb.secrets import References, SecretsOptions
from esb.settings import SETTINGS, AdminOptions
from esb.slips import slips
from esb.step import Middleware, Watch
from esb.strict_yaml import Document, read_yaml
from esb.tracing import Sampling, TraceOptions, Tracing

_NAMES_SECRETS: Final = re.compile(r"""\bsecrets["']?\s*:""")
_CORE_KEYS = ("routes", "connections", *SHARED, *SETTINGS)


@dataclass
class Project:
    """What was loaded: `routes` in file order, `settings` by section, all `diagnostics`; these
    are errors, `warnings` would run.

    files: the route files. sources: the content of these and of every file they use, as it was
    when it was read; None for what is secret. references: what `${...}` stood for. operators: who
    may use the admin API.
    """

    routes: list[Route] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    diagnostics: list[Diagnostic] = field(default_factory=list)
    warnings: list[Diagnostic] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    sources: dict[Path, bytes | None] = field(default_factory=dict)
    references: References = field(default_factory=lambda: References(None))
    operators: Authenticator = NOBODY

    @property
    def kept(self) -> dict[Path, bytes]:
        """The sources without what is secret."""
        return {path: content for path, content in self.sources.items() if content is not None}

    def check(self) -> Project:
        """This project if nothing is wrong with it. Raises ConfigError else."""
        if self.diagnostics:
            raise ConfigError(self.diagnostics)
        return self


def load(
    paths: Sequence[Path],
    *,
    shared: Shared | None = None,
    environ: Mapping[str, str] | References | None = os.environ,
    root: Path | None = None,
    extra: Mapping[str, Any] | None = None,
    clock: Clock = REAL,
    stage: Stage | None = None,
    profile: str | None = None,
    stores: Stores | None = None,
) -> Project:
    """Load YAML files, and the *.yaml and *.yml of folders but those of tests.

    No vault is asked unless `environ` is References that may.

    shared: the running bus's registry, when routes are reloaded. environ: what `${NAME}` stands
    for, or what resolves it; None leaves references unresolved. root: the folder no file reference
    may leave; the working directory if left out. extra: a document of plain data loaded beside the
    files. clock: what the routes tell the time by. stage: what plays all that is outside, in tests.
    profile: the one of `profiles` that counts, "" for none; what ESB_PROFILE says if left out.
    stores: what opens the store, if that is not this process by itself.
    """
    references = environ if isinstance(environ, References) else References(environ)
    loader = _Loader(shared or Shared(), references, root, clock, stage, profile, stores)
    for path in paths:
        loader.add(path)
    if extra is not None:
        loader.read()
        document = Document("<command line>", root or Path.cwd(), deepcopy(dict(extra)))
        loader.documents.append(document)
    return loader.load()


def route_files_in(path: Path) -> list[Path]:
    """The route files of a folder and those in it; a file is the one. Files of tests and of callers
    (`*.keys.yaml`, `*.users.yaml`) are none."""
    if not path.is_dir():
        return [path]
    return sorted(
        p for p in path.rglob("*")
        if p.suffix in (".yaml", ".yml") and not p.stem.endswith((".test", ".keys", ".users"))
    )  # fmt: skip


def load_endpoint(
    text: str, direction: str, paths: Sequence[Path] = (), *, shared: Shared | None = None
) -> Any:
    """The endpoint that `text` spells as YAML, with the connections of the files in `paths`.

    direction: "sink" or "caller". Raises ConfigError.
    """
    loader = _Loader(shared or Shared(), References(os.environ, asks=True), None)
    for path in paths:
        loader.add(path)
    loader.load(routes=False)
    document = read_yaml(text, "<endpoint>", Path.cwd(), loader.common.references)
    loader.project.diagnostics += document.diagnostics
    endpoint = None
    with contextlib.suppress(BuildFailed):
        if document.diagnostics:
            raise BuildFailed("the text is no YAML")
        endpoint = Builder(loader.common, document, (), "esb send").endpoint(
            document.data, direction
        )
    loader.project.check()
    return endpoint


class _Loader:
    """The sequence of one load: files, connections, settings, sections, routes."""

    def __init__(
        self,
        shared: Shared,
        references: References,
        root: Path | None,
        clock: Clock = REAL,
        stage: Stage | None = None,
        profile: str | None = None,
        stores: Stores | None = None,
    ) -> None:
        self.common = Load(shared, references, root, clock, stage, stores)
        self.profile = os.environ.get("ESB_PROFILE", "") if profile is None else profile
        self.texts: list[tuple[Path, str]] = []
        self.documents: list[Document] = []
        self.project = Project(
            references=references,
            settings=self.common.settings,
            diagnostics=self.common.diagnostics,
            sources=self.common.sources,
        )
        self.dead: dict[str, Sink] = {}  # where dead letters go, by the names of routes
        self.places: list[Builder] = []  # of the project's routes, in their order
        self.sections: dict[str, Section] = {}

    # --- files

    def add(self, path: Path) -> None:
        if path.is_dir():
            found = route_files_in(path)
            if not found:
                self.common.diagnose(
                    str(path), None, "file", "there is no *.yaml file in this folder"
                )
            for one in found:
                self.add(one)
            return
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            reason = getattr(e, "strerror", None) or "it is not UTF-8 text"
            self.common.diagnose(str(path), None, "file", f"cannot be read: {reason}")
            return
        self.common.remember(path)
        self.project.files.append(path)
        self.texts.append((path, text))

    def read(self) -> None:
        """Read what was added."""
        references = self.common.references
        references.root = self.common.root
        if any("${k8s:" in text or "${vault:" in text for _, text in self.texts):
            self._where_secrets_are(references)
        for path, text in self.texts:
            document = read_yaml(
                text, shown_path(path), path.resolve().parent, references, later=LATER
            )
            self.project.diagnostics += document.diagnostics
            self.common.unread |= any(one.code == "yaml" for one in document.diagnostics)
            self.documents.append(document)
        self.texts = []

    def _where_secrets_are(self, references: References) -> None:
        """The section `secrets`, before anything is looked up by it. What is wrong with it is told
        when it is read with all the rest."""
        settled = True
        for path, text in self.texts:
            if not _NAMES_SECRETS.search(text):
                continue
            alone = References(references.environ)
            document = read_yaml(text, shown_path(path), path.resolve().parent, alone, later=LATER)
            settled &= not any(one.code != "reference" for one in document.diagnostics)
            place = Builder(Load(Shared(), alone, self.common.root), document, ())
            try:
                if isinstance(place.data, dict) and "secrets" in place.data:
                    at = place.at("secrets")
                    references.options = at.validate(SecretsOptions, at.data)
            except BuildFailed:
                references.asks = settled = False  # it would be for something else
            for where in document.open:
                if where[:1] == ("secrets",) and references.environ is not None:
                    references.asks = False
                    self.common.diagnose(
                        document.file, document.mark(where), "reference",
                        "what opens the vault cannot lie in it", "${NAME} or ${file:...}",
                    )  # fmt: skip
        references.settled = settled

    # --- the whole load

    def load(self, *, routes: bool = True) -> Project:
        self.read()
        tops = [Builder(self.common, document, ()) for document in self.documents]
        tops = [top for top in tops if self._top_level(top)]
        projects = Projects(self.common, tops, self.profile, self._known())
        for top in tops:
            self._connections(top)
        for name, model in SETTINGS.items():
            self._settings(name, model, tops)
        for top in tops:
            for name in top.data:
                self._section(name, top)
        for name, section in self.sections.items():
            if section.expand is None:
                self._settings(name, section.options, tops)
        self._callers(tops)
        for top in tops if routes else ():
            self._routes(top, projects)
            for name, section in self.sections.items():
                if section.expand is not None and name in top.data:
                    self._expand(name, section, top.at(name), projects)
        for place in list(self.common.routes.values()):
            self._route(place)
        for more in self.common.continuations:
            self._continue(more)
        if self.common.stage is None:  # tests may run what nobody else does
            self._all_run()
        self._fingerprints()
        for file in self.common.references.files:
            self.common.remember(file, secret=True)
        references = self.common.references
        secrets = secret_values(references.resolved, self.common.secrets, references.called_so)
        known_secrets(secrets)
        if self.project.routes:
            self._tracing().secrets |= secrets
        self._analyse()
        self.project.diagnostics.sort()
        return self.project

    def _analyse(self) -> None:
        """What is wrong with the routes together. What is missing because it could not be built
        says nothing of what the project lacks."""
        outlines = [place.part for place in dict.fromkeys(self.places)]
        found = analyse(outlines, whole=not self.project.diagnostics)
        self.project.diagnostics += [one for one in found if one.severity == "error"]
        self.project.warnings += [one for one in found if one.severity != "error"]
        self.project.warnings = sorted(set(self.project.warnings))

    def _top_level(self, top: Builder) -> bool:
        if top.data is None and not top.document.diagnostics:
            self.common.diagnose(
                top.document.file, None, "empty", "the file is empty", "routes: ..."
            )
        if not isinstance(top.data, dict):
            if top.data is not None:
                top.problem("a file is a mapping", code="type", hint="routes: ...")
            return False
        known = self._known()
        for key in top.data:
            if key not in known:
                hint = did_you_mean(key, known)
                if key in option_names(RouteOptions, ()):
                    hint = "if it belongs to a route, indent it further"
                self.common.unread = True
                top.problem(
                    f"unknown section '{key}'", key, code="unknown-key", key=True, hint=hint
                )
        return True

    def _known(self) -> list[str]:
        return [*_CORE_KEYS, *self.common.section_points]

    def _connections(self, top: Builder) -> None:
        for name, raw in top.mapping("connections").items():
            place = top.at("connections", name)
            if name in self.common.connections:
                place.problem(f"connection '{name}' exists already", code="duplicate", key=True)
                continue
            try:
                self._not_a_connection(name, raw, place)
                adapter_name, adapter = place.adapter(raw, "connection")
            except BuildFailed:
                self.common.connections[name] = ("", {})
                continue
            model = adapter.connection
            options = raw[adapter_name]
            if model is None:
                place.problem(
                    f"{adapter_name} has no connections to name", code="adapter", key=True
                )
            elif not isinstance(options, dict):
                place.problem("a connection is a mapping of options", adapter_name, code="type")
            else:
                with contextlib.suppress(BuildFailed):
                    self._connection(place.at(adapter_name), name, adapter, model, options)
                    self.common.connections[name] = (adapter_name, options)
                    continue
            self.common.connections[name] = ("", {})

    def _not_a_connection(self, name: str, raw: Any, place: Builder) -> None:
        """A line that is missing makes connections of what is something else."""
        if not isinstance(raw, dict) or raw.keys() & set(self.common.adapter_points):
            return
        if raw.keys() & {"from", "steps"}:
            self.common.unread = True
            raise place.problem(
                f"'{name}' is a route, not a connection", code="unknown-key", key=True,
                hint="put 'routes:' above it",
            )  # fmt: skip
        if name in self.common.adapter_points:
            self.common.unread = True
            raise place.problem(
                "a connection has a name", code="missing-key", key=True,
                hint=f"my-{name}: {{{name}: ...}}",
            )  # fmt: skip

    def _connection(
        self,
        place: Builder,
        name: str,
        adapter: Adapter,
        model: type[Options],
        options: dict[str, Any],
    ) -> None:
        also: tuple[str, ...] = ()
        if adapter.sink is not None or adapter.caller is not None:
            also = POLICIES
            options, policies = split_policies(options)
            self.common.policies[name] = place.validate(EndpointPolicies, policies)
        place.validate(model, options, partial=True, also=also)

    def _settings(self, name: str, model: type[Any], tops: Iterable[Builder]) -> None:
        first: Builder | None = None
        raw: Any = {}
        for top in tops:
            if name in top.data:
                place = top.at(name)
                if first is not None:
                    place.problem(
                        f"'{name}' is set already in {first.document.file}", code="duplicate",
                        key=True,
                    )  # fmt: skip
                    continue
                first, raw = place, top.data[name]
                self.common.places[name] = place
        try:
            self.common.settings[name] = (
                first.validate(model, raw) if first else TypeAdapter(model).validate_python({})
            )
        except BuildFailed:
            self.common.settings[name] = TypeAdapter(model).validate_python({})

    def _callers(self, tops: Iterable[Builder]) -> None:
        """The section `auth`, and who may use the admin API."""
        common = self.common
        for top in tops:
            if "auth" in top.data:
                add_ways(common, top.at("auth"), common.settings["auth"])
                break
        options: AdminOptions = common.settings["admin"]
        place = next((top.at("admin") for top in tops if "admin" in top.data), None)
        if place is not None and options.auth is not None:
            with contextlib.suppress(BuildFailed):
                found = place.auth(options.auth, "auth")
                if found.asks:
                    raise place.problem(
                        "neither signed bodies nor certificates are looked at here", "auth",
                        code="auth", hint="ways with api_keys, basic or jwt",
                    )  # fmt: skip
                self.project.operators = found
        elif options.is_near:
            self.project.operators = PUBLIC
        open_ = options.auth is None or self.project.operators is PUBLIC
        if place is not None and options.enabled and open_ and not options.is_near:
            place.problem(
                f"whoever reaches {options.host} could see and change everything", "host",
                code="auth", hint="say who may: admin: {auth: ...}; or listen at 127.0.0.1",
            )  # fmt: skip

    def _section(self, name: str, top: Builder) -> None:
        point = self.common.section_points.get(name)
        if point is None or name in self.sections:
            return
        try:
            self.sections[name] = point.load()
        except ImportError as e:
            top.problem(f"'{name}' cannot be loaded: {e}", name, code="adapter", key=True)

    def _routes(self, top: Builder, projects: Projects) -> None:
        for name in top.mapping("routes"):
            place = top.at("routes", name)
            place.begin(name)
            with contextlib.suppress(BuildFailed):
                projects.shape(place)
                place.locate(place.part)
                self._name(place)

    def _expand(self, name: str, section: Section, place: Builder, projects: Projects) -> None:
        expand = section.expand
        assert expand is not None
        try:
            options = place.validate(section.options, place.data)
            expanded = expand(options, place)
        except BuildFailed:
            return
        for route in expanded:
            inner = place.at(*route.at)
            inner.begin(route.name)
            inner.fixed = True
            inner.given = route.route
            projects.shape(inner)
            self._name(inner)

    def _name(self, place: Builder) -> None:
        """A route begins at this place: its name is taken before any route is built, so that each
        may run any other."""
        there = self.common.routes.setdefault(place.route, place)
        if there is not place:
            document, mark = there.spot((), key=True)
            at = f"{document.file}:{mark.line}"
            place.problem(
                f"route '{place.route}' exists already, at {at}", code="duplicate", key=True
            )

    def _route(self, place: Builder) -> None:
        with contextlib.suppress(BuildFailed):
            if place.is_sub:
                sub = place.built()
                if sub.options is not None and sub.step is not None:
                    self._tracing().watch(place.watch)
                    if (telemetry := self._telemetry()) is not None:
                        telemetry.watch(place.watch)
                    self._add(place, Route(place.route, sub.options, [(Called(), sub.step)],
                                           outline=place.part, watch=place.watch))  # fmt: skip
                return
            try:
                options = place.validate(RouteOptions, place.raw)
            except BuildFailed:
                self._mistakes_inside(place)
                raise
            place.part.options = options
            place.about, place.durable = options.description, options.accept == "durable"
            self._add(place, self._build(options, place))

    def _mistakes_inside(self, place: Builder) -> None:
        """Of a route that cannot be built: what else is wrong in it, and the sub-routes it runs."""
        raw = place.raw if isinstance(place.raw, dict) else {}
        place.durable = raw.get("accept") == "durable"
        if isinstance(raw.get("from"), dict):
            with contextlib.suppress(BuildFailed):
                place.endpoint(raw["from"], "source", "from")
        if isinstance(raw.get("steps"), list):
            place.steps(raw["steps"], "steps")

    def _add(self, place: Builder, route: Route) -> None:
        self.project.routes.append(route)
        self.places.append(place)

    def _build(self, options: RouteOptions, place: Builder) -> Route:
        failed: BuildFailed | None = None
        source: Source | None = None
        dead: Sink | None = None
        policies = route_policies(place, options.rate_limit, options.cache, options.allow)
        told = refusals(place)
        place.wanted, place.heard = policies.asked | ({"client"} if told else set()), []
        try:
            source = place.endpoint(options.from_, "source", "from")
        except BuildFailed as e:
            failed = e
        if source is not None and "client" in policies.asked and not place.heard:
            place.problem(
                f"what comes from a {next(iter(options.from_))} has no address of a caller",
                "rate_limit", key=True, hint="per: route, or an expression over the message",
            )  # fmt: skip
        if source is not None:
            self.project.warnings += slips(place, options)
        uses = self.common.store_uses
        place.endpoints = options.endpoints
        step = place.steps(options.steps, "steps")
        place.endpoints = None  # a circuit that refuses dead letters would help nobody
        changes_store = self.common.store_uses > uses
        try:
            if options.dead_letter is not None:
                dead = self.dead[place.route] = place.sink(options.dead_letter, "dead_letter")
        except BuildFailed as e:
            failed = e
        key = None
        if options.business_key is not None:
            key = place.expression(options.business_key, "business_key")
        if source is None or failed:
            raise failed or BuildFailed
        recorder = self._tracing().recorder(
            place.route, place.watch, self._sampling(options), source.where
        )
        if options.cache is not None:
            cache = self._answers(options.cache, source, place)
            policies = policies._replace(cache=cache)
        keeps = options.retry or options.dead_letter or options.accept or options.concurrency
        keeps = keeps or options.cache
        if source.waits and not keeps and not recorder.keeps_bodies and not self.common.stage:
            open_passages(place.part, {n: p.part for n, p in self.common.routes.items()})
        return assemble(
            place.route, options, source=source, step=step, dead_sink=dead,
            store=lambda: place.store, changes_store=changes_store, business_key=key,
            outline=place.part, watch=place.watch, clock=place.clock, recorder=recorder,
            limiter=policies.limiter, cache=policies.cache, allow=policies.allow,
            spans=self._spans(place.route, place.watch),
            refusal=told.of(f"route {place.route}") if told is not None else None,
        )  # fmt: skip

    def _answers(self, options: CacheOptions, source: Source, place: Builder) -> Cache:
        """Where the answers of a route are kept."""
        if not source.waits or place.durable:
            place.problem(
                "nobody waits for an answer that could be kept", "cache", key=True,
                hint="beside a `call` it keeps the answers of that",
            )  # fmt: skip
        for part in place.part.parts:
            if part.kind == "steps":
                place.all_keyed(options, part)
        return cached(place, options, place.route, version=place.fingerprint(), tells=True)

    def _continue(self, more: Continuation) -> None:
        """A route for what a step put aside: with the policies of the route that the step is in,
        where that has them."""
        parent = self.common.routes[more.place.route]
        name = f"{parent.route}/{more.name}"
        with contextlib.suppress(BuildFailed):
            options = parent.validate(RouteOptions, parent.raw)
            own = {"accept": None, "business_key": None}
            self._add(parent, assemble(
                name, options.model_copy(update=own), source=more.source, step=more.step,
                dead_sink=self.dead.get(parent.route), store=lambda: parent.store,
                changes_store=True,
                outline=more.place.part, watch=parent.watch, clock=parent.clock,
                recorder=self._tracing().recorder(
                    name, parent.watch, self._sampling(options), more.source.where
                ),
                spans=self._spans(name, parent.watch),
            ))  # fmt: skip

    def _tracing(self) -> Tracing:
        """What looks on at the messages of all routes, where somebody wants that."""
        common, settings = self.common, self.common.settings

        def make() -> Tracing:
            traces = common.stores.traces(settings["store"], common.root, common.clock)
            kept = settings["trace"] if common.stage is None else TraceOptions()
            return Tracing(kept, traces, clock=common.clock)

        return common.shared.get("traces", make)

    def _telemetry(self) -> Telemetry | None:
        """What makes spans for OpenTelemetry, if somebody wants them."""
        options = self.common.settings["telemetry"]
        if options.otlp is None or self.common.stage is not None:
            return None
        return self.common.shared.get("telemetry", lambda: Telemetry(options))

    def _spans(self, route: str, watch: Watch) -> Middleware | None:
        telemetry = self._telemetry()
        return telemetry.route(route, watch) if telemetry is not None else None

    def _sampling(self, options: RouteOptions) -> Sampling | None:
        """Of which messages of a route a trace is kept; none of those of tests."""
        return options.trace if self.common.stage is None else None

    def _all_run(self) -> None:
        """A route that has no source and that nobody runs was meant to have one of them."""
        places = self.common.routes
        run = {name for place in places.values() for name in place.runs - {place.route}}
        known = set(option_names(RouteOptions, ()))
        for name, place in places.items():
            misspelt = isinstance(place.raw, dict) and place.raw.keys() - known
            if place.is_sub and name not in run and not misspelt:
                place.problem(
                    f"route '{name}' has no 'from', and no other route runs it",
                    code="unreachable", key=True,
                    hint=f"from: {{...}}, or elsewhere: - run: {name}",
                )  # fmt: skip

    def _fingerprints(self) -> None:
        for place, route in zip(self.places, self.project.routes, strict=True):
            route.fingerprint = place.fingerprint()
