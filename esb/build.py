"""Compiling one place of a document: `esb.adapter.Build`, with diagnostics at the right line."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import typing
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

import esb.codecs  # noqa: F401 - registers the codecs that routes may need
from esb.adapter import (
    Adapter,
    Build,
    BuildFailed,
    Expression,
    Renderer,
    RequestReply,
    Resource,
    Role,
    Sink,
    Source,
    Text,
    Validator,
)
from esb.audit import Tell, refusals
from esb.auth import EVERYBODY, AnyOf
from esb.clock import Clock
from esb.durable import Store
from esb.envelope import Body, Envelope
from esb.errors import RouteFailure
from esb.expressions import (
    PARAMS,
    ExpressionError,
    Known,
    compile_expression,
    compile_text,
)
from esb.guessing import Failures
from esb.identity import NOBODY, PUBLIC, Authenticator
from esb.loading import Continuation, Load, StandIn, Subroute
from esb.middleware.breaker import Breaker
from esb.middleware.cache import CacheOptions
from esb.middleware.endpoint import EndpointPolicies, Guard, GuardedCaller, GuardedSink
from esb.middleware.limit import Bulkhead
from esb.mistakes import (
    did_you_mean,
    is_model,
    is_root,
    mistake,
    nearest_step,
    option_names,
    shown_path,
)
from esb.options import secrets_of
from esb.outline import Channel, Fate, Given, Kind, Origin, Part, Passage, Promise, Spot, Use
from esb.policies import cached, unkeyed
from esb.route import OF_CALLERS, RouteOptions, StepPolicies, step_policies, subroute
from esb.schemas import SchemaError, compile_json_schema, compile_xsd
from esb.step import SpanFacts, Step, Watch, identity, in_turn, pipeline
from esb.steps import STEPS
from esb.strict_yaml import (
    Document,
    Environment,
    Mark,
    YamlPath,
    read_yaml,
)
from esb.templates import TemplateError, compile_jinja, compile_xslt

T = TypeVar("T")

_FROM_YAML = {"yaml": True}
_POLICIES = tuple(StepPolicies.model_fields)
_KINDS = {"source": "consumer", "sink": "client", "caller": "client"}
POLICIES = tuple(EndpointPolicies.model_fields)
"""Keys that may stand among the options of any endpoint of `send` and `call`."""


class Builder:
    """`esb.adapter.Build` for one place in a document."""

    def __init__(self, load: Load, document: Document, path: YamlPath, route: str = "") -> None:
        self.load = load
        self.document = document
        self.path = path
        self.route = route
        self.about = ""
        self.durable = False
        self.wanted: frozenset[str] = frozenset()  # what policies ask of the source
        self.heard: list[Part] = []  # who looked what that is
        self.fixed = False
        self.files: set[Path] = set()
        self.runs: set[str] = set()  # the sub-routes it calls
        self.counted: Counter[str] = Counter()  # see `nth`
        self.checks: list[Resource] = []
        self.check: Resource | None = None  # of the endpoint at this place
        self.connections: set[str] = set()
        self.callers: set[str] = set()  # the ways by which these are known
        self.endpoints: EndpointPolicies | None = None  # for those that have none of their own
        self.shaped: dict[str, Any] = {}  # what a route that a section made has of the project's
        self.inside: YamlPath = ()  # the place within the route
        self.about_answer = False
        self.given: Any = None  # a route that a section made
        self.part = Part("route", route)
        self.watch = Watch(route)
        self.played: StandIn | None = None
        self.taken = False

    # --- places

    def at(self, *path: str | int) -> Builder:
        """The same for a place further in."""
        inner = Builder(
            self.load, self.document, self.path if self.fixed else (*self.path, *path), self.route
        )
        inner.about, inner.durable, inner.fixed = self.about, self.durable, self.fixed
        inner.wanted, inner.heard = self.wanted, self.heard
        inner.files, inner.runs, inner.connections = self.files, self.runs, self.connections
        inner.counted, inner.callers = self.counted, self.callers
        inner.checks = self.checks
        inner.endpoints = self.endpoints
        inner.inside = (*self.inside, *path)
        inner.part, inner.watch = self.part, self.watch
        return inner

    def begin(self, route: str) -> None:
        """A route begins at this place."""
        self.route, self.inside = route, ()
        self.files, self.connections, self.runs = set(self.files), set(self.connections), set()
        self.counted, self.callers, self.checks = Counter(), set(), []
        self.watch = Watch(route)
        self.part = Part("route", route)
        self.locate(self.part)

    def outlined(self, kind: Kind, name: str, direction: str = "") -> None:
        """From here on this is the place of a part of its own."""
        part = Part(kind, name, self.where, direction=direction)
        self.locate(part)
        self.part.parts.append(part)
        self.part = part

    def locate(self, part: Part) -> None:
        """Say where a part, which is at this place, is written."""
        document, (part.line, part.column) = self.spot((), key=True)
        part.file = document.file
        base, path = self.document.origin(self.path)
        for key in () if self.fixed else self._keys():
            there, at = self.document.origin((*self.path, key))
            if (there.file, at) != (base.file, (*path, key)):
                part.origins[key] = Origin(there.file, there.mark(at, key=True).line, at)

    def _keys(self) -> tuple[str, ...]:
        """The keys of the mapping at this place, if there is one."""
        try:
            return tuple(self.data) if isinstance(self.data, dict) else ()
        except (LookupError, TypeError):
            return ()  # a bare word stands for it

    @property
    def where(self) -> str:
        """This place in the route, "steps[1].send"; "" outside a route."""
        parts = (f"[{p}]" if isinstance(p, int) else f".{p}" for p in self.inside)
        return "".join(parts).lstrip(".")

    @property
    def data(self) -> Any:
        """The plain data at this place."""
        value = self.document.data
        for key in self.path:
            value = value[key]
        return value

    @property
    def raw(self) -> Any:
        """The route that begins at this place, as it is written or as a section made it."""
        return self.data if self.given is None else self.given

    def mapping(self, key: str) -> dict[str, Any]:
        """The mapping under `key`, empty if absent or (a problem) no mapping."""
        value = self.data.get(key)
        if value is None:
            if key in self.data:
                self.problem(f"'{key}' is empty", key, code="empty", key=True)
                self.load.unread = True
            return {}
        if not isinstance(value, dict):
            self.load.unread = True
            self.problem(f"'{key}' maps names to what they are", key, code="type")
            return {}
        return value

    def origin(self, path: YamlPath = ()) -> tuple[Document, YamlPath]:
        """Where it is written: of what comes from elsewhere, another document."""
        return self.document.origin(self.path if self.fixed else (*self.path, *path))

    def spot(self, path: YamlPath, *, key: bool = False) -> tuple[Document, Mark]:
        document, there = self.origin(path)
        return document, document.mark(there, key=key)

    def mark(self, path: YamlPath, *, key: bool = False) -> Mark:
        return self.spot(path, key=key)[1]

    def problem(
        self, message: str, *path: str | int, code: str = "value", hint: str = "", key: bool = False
    ) -> BuildFailed:
        document, there = self.origin(path)
        if not key and self.load.left_open(document, there):
            return BuildFailed(message)
        at = document.mark(there, key=key or self.fixed)
        if document.is_referenced(there):
            message, hint = self.load.references.named(message), self.load.references.named(hint)
        hint = "; ".join(filter(None, (hint, document.note)))
        self.load.diagnose(document.file, at, code, message, hint)
        return BuildFailed(message)

    def _problem_in_text(
        self, path: YamlPath, offset: int, code: str, message: str, hint: str
    ) -> BuildFailed:
        if self.fixed:
            return self.problem(message, *path, code=code, hint=hint)
        document, there = self.origin(path)
        if self.load.left_open(document, there):
            return BuildFailed(message)
        if document.is_referenced(there):
            message, hint = self.load.references.named(message), self.load.references.named(hint)
        hint = "; ".join(filter(None, (hint, document.note)))
        self.load.diagnose(document.file, document.text_mark(there, offset), code, message, hint)
        return BuildFailed(message)

    # --- validation

    def validate(
        self, model: type[T], raw: Any, *, partial: bool = False, also: Sequence[str] = ()
    ) -> T:
        """`raw` as `model`. partial: missing keys are no problem (and nothing is returned). also:
        keys that may stand there too, to be hinted at."""
        shorthand = getattr(model, "__shorthand__", "")
        if shorthand and raw is not None and not isinstance(raw, dict):
            raw = {shorthand: raw}
        elif raw is None and is_model(model) and not is_root(model):
            raw = {}
        try:
            context = None if self.fixed else _FROM_YAML  # what a section made is no YAML any more
            valid = TypeAdapter(model).validate_python(raw, context=context)
            self.load.secrets.update(secrets_of(valid))
            return valid
        except ValidationError as e:
            failed = False
            for error in e.errors(include_url=False):
                if partial and error["type"] == "missing":
                    continue
                failed = True
                self._report(model, dict(error), also)
            if partial and not failed:
                return typing.cast(T, None)
            raise BuildFailed(str(model)) from e

    def _report(self, model: type[Any], error: dict[str, Any], also: Sequence[str]) -> None:
        found = mistake(model, error, self._known_path(error["loc"]), also)
        if found is not None:
            self.problem(
                found.message, *found.path, code=found.code, hint=found.hint, key=found.key
            )

    def _known_path(self, loc: tuple[str | int, ...]) -> YamlPath:
        """`loc` without the names of union members that pydantic puts into it."""
        path: YamlPath = ()
        value: Any = self.data if not self.fixed else None
        for at, part in enumerate(loc, 1):
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                if at < len(loc) and not self.fixed:
                    continue
                value = None
            path = (*path, part)
        return path

    # --- compiling

    def steps(self, raw: Sequence[Any], *path: str | int) -> Step:
        if not isinstance(raw, list):
            self.problem("steps are a list", *path, code="type", hint="put '- ' before each step")
            return identity
        compiled: list[tuple[str, Step]] = []
        outer = self.at(*path)
        outer.outlined("steps", outer.where[len(self.where) :].lstrip("."))
        for i, item in enumerate(raw):
            try:
                compiled.append(outer.at(i).step(item))
            except BuildFailed:
                continue
        return pipeline(compiled, self.watch)

    def step(self, item: Any) -> tuple[str, Step]:
        """One item of a list of steps: its place and what it does."""
        if isinstance(item, str):
            if item not in STEPS:
                raise self.problem(
                    f"there is no step '{item}'", code="unknown-step",
                    hint=nearest_step(item),
                )  # fmt: skip
            item = {item: None}
        if not isinstance(item, dict) or not item:
            raise self.problem(
                "a step is a verb with its options", code="step", hint="- send: {...}"
            )
        verbs = [key for key in item if key not in _POLICIES]
        known = [verb for verb in verbs if verb in STEPS]
        for verb in verbs:
            if verb not in STEPS:
                hint = nearest_step(verb)
                if known and item[known[0]] is None:
                    hint = f"if it belongs to '{known[0]}', indent it further"
                elif known and (close := did_you_mean(verb, _POLICIES, listed=False)):
                    hint = close
                elif verb in self.load.adapter_points:
                    hint = (
                        f"an endpoint needs a verb: send: {{{verb}: ...}} or call: {{{verb}: ...}}"
                    )
                self.problem(f"there is no step '{verb}'", verb, code="unknown-step", key=True,
                             hint=hint)  # fmt: skip
        if not known:
            raise BuildFailed
        if len(known) > 1:
            raise self.problem(
                f"one step has two verbs, '{known[0]}' and '{known[1]}'", known[1], code="step",
                key=True, hint="put '- ' before the second",
            )  # fmt: skip
        if len(verbs) > 1:
            raise BuildFailed
        verb = known[0]
        place = self.at(verb)
        place.outlined("step", verb)
        role = STEPS[verb]
        uses = self.load.store_uses
        policies = {key: item[key] for key in item if key in _POLICIES}
        place.part.policies = policies
        place.part.options = options = place.validate(role.options, item[verb])
        step = role.make(options, place)
        if policies:
            store = self.store if self.load.store_uses > uses else None
            valid = self.validate(StepPolicies, policies)
            step = step_policies(step, valid, self.route, store, self.clock)
            if valid.cache is not None:
                step = self.remembered(step, valid.cache, place)
        return place.where, step

    def remembered(self, step: Step, options: CacheOptions, place: Builder) -> Step:
        """A `call` whose answers are kept."""
        if place.part.name != "call":
            raise self.problem(
                "only the answers of `call` are kept", "cache", key=True,
                hint="beside the steps of a route `cache` keeps the answers of the route",
            )  # fmt: skip
        self.all_keyed(options, place.part)
        name = f"{self.route}/{place.where}"
        return cached(self, options, name, version=self.fingerprint()).around(step)

    def all_keyed(self, options: CacheOptions, part: Part) -> None:
        """Record a mistake if what the answers of a part depend on is not in their key."""
        use = unkeyed(options, part.walk())
        if use is not None:
            self.problem(
                f"answers depend on headers, in line {use.spot.line}, that `cache` does not tell "
                "apart", "cache", key=True,
                hint="name them: vary: [X-Tenant]",
            )  # fmt: skip

    def endpoint(self, raw: Any, direction: str, *path: str | int) -> Any:
        """Build the endpoint `{adapter: options}` in a direction: source, sink or caller."""
        place = self.at(*path)
        name, adapter = place.adapter(raw, direction)
        role: Role[Any, Any] | None = getattr(adapter, direction)
        inner = place.at(name)
        if role is None:
            verbs = {"source": "from", "sink": "send", "caller": "call"}
            can = [verb for attr, verb in verbs.items() if getattr(adapter, attr) is not None]
            raise place.problem(
                f"'{verbs[direction]}' cannot use {name}", name, code="adapter", key=True,
                hint=f"{name} can be used with {' and '.join(can)}",
            )  # fmt: skip
        inner.outlined("source" if direction == "source" else "endpoint", name, direction)
        options = inner.connect(name, raw[name])
        if options is not raw[name]:
            inner.part.connection = raw[name]["connection"]
            inner.part.connected = tuple(key for key in options if key not in raw[name])
        also = ["connection"] if adapter.connection is not None else []
        own: dict[str, Any] = {}
        if direction != "source":
            options, own = split_policies(options)
            also += POLICIES
            policies = inner.validate(EndpointPolicies, own)
        inner.part.policies = own
        inner.part.options = valid = inner.validate(role.options, options, also=also)
        if self.load.stage is not None:
            inner.played = self.load.stage.stand_in(inner, raw[name])
        self.watch.spans[inner.where] = SpanFacts(_KINDS[direction], name)
        made = role.make(valid, inner)
        if inner.played is not None:
            made = inner.played.instead(made, taken=inner.taken)
            inner.part.fates = ()
        if direction == "source":
            return made
        guard = place.guard(name, policies, raw[name], inner.check)
        if guard.bulkhead is not None or guard.breaker is not None:
            # A sender who is slow would take the turns of others, or look like a far side that is.
            inner.part.fates = ()
        guarded = GuardedSink if direction == "sink" else GuardedCaller
        return guarded(made, guard, self.watch, inner.where)

    def guard(self, adapter: str, own: EndpointPolicies, raw: Any, check: Resource | None) -> Guard:
        """What stands around the endpoint at this place: policies of its own, else those of its
        connection, which are one for all endpoints on that."""
        name = f"{self.route}/{self.where}".rstrip("/")
        connection = str(raw.get("connection")) if isinstance(raw, dict) else ""
        common = self.load.policies.get(connection, EndpointPolicies())

        def shared(kind: str, make: Callable[[Any, str], T]) -> T | None:
            options, of = getattr(own, kind), name
            if options is None:
                options, of = getattr(common, kind), f"connection {connection}"
            if options is None:
                options, of = getattr(self.endpoints, kind, None), name
            if options is None:
                return None
            # The first part is what people read where it is down.
            return self.shared((f"{kind} of {of}", options), lambda: make(options, of))

        clock = self.clock
        bulkhead = shared(
            "concurrency", lambda most, of: Bulkhead(most, what="the service", clock=clock)
        )
        breaker = shared(
            "circuit_breaker", lambda options, of: Breaker(options, name=of, clock=clock)
        )
        key = (f"endpoint {name}", adapter, bulkhead, breaker, check)
        return self.shared(
            key, lambda: Guard(name, adapter, bulkhead=bulkhead, breaker=breaker, check=check)
        )

    def adapter(self, raw: Any, direction: str) -> tuple[str, Adapter]:
        """The adapter that a one-key mapping names."""
        names = list(self.load.adapter_points)
        if isinstance(raw, str) and raw in names:
            raise self.problem(f"{raw} needs options", code="type", hint=f"{{{raw}: {{...}}}}")
        if not isinstance(raw, dict) or not raw:
            example = {"source": "http", "connection": "amqp"}.get(direction, "queue")
            raise self.problem(
                "an endpoint is one adapter with its options", code="type",
                hint=f"{{{example}: {{...}}}}; there are: {', '.join(names)}",
            )  # fmt: skip
        name = next(iter(raw))
        if not raw.keys() & set(names):
            raise self.problem(
                f"there is no adapter '{name}'", name, code="unknown-adapter", key=True,
                hint=self._adapter_meant(raw, direction),
            )  # fmt: skip
        if len(raw) > 1:
            extra = list(raw)[1]
            hint = f"if '{extra}' is an option of '{name}', indent it further"
            if extra in _POLICIES:
                hint = f"'{extra}' stands beside the verb or the route's steps"
            raise self.problem(
                f"an endpoint is one adapter, here are {len(raw)} keys", extra, code="type",
                key=True, hint=hint,
            )  # fmt: skip
        try:
            return name, self.load.adapter(name)
        except ImportError as e:
            raise self.problem(
                f"the adapter '{name}' cannot be loaded: {e}", name, code="adapter", key=True
            ) from e

    def _adapter_meant(self, raw: dict[str, Any], direction: str) -> str:
        """The hint where no key is an adapter: the nearest name, or whose options these are."""
        names = list(self.load.adapter_points)
        if len(raw) == 1 and (close := did_you_mean(next(iter(raw)), names, listed=False)):
            return close
        for name in names:
            with contextlib.suppress(ImportError):
                part = getattr(self.load.adapter(name), direction)
                model = part.options if isinstance(part, Role) else part
                known = {*option_names(model, ()), *POLICIES, "connection"} if model else set()
                if raw.keys() <= known:
                    return f"these are options of '{name}': put '{name}:' above them"
        return did_you_mean(next(iter(raw)), names)

    def connect(self, adapter: str, options: Any) -> Any:
        """Options with those of the named connection merged below them."""
        if not isinstance(options, dict) or "connection" not in options:
            return options
        name = options["connection"]
        connections = self.load.connections
        if not isinstance(name, str):
            raise self.problem("a connection is named", "connection", code="type")
        if name not in connections and self.load.unread:
            raise BuildFailed("the connection may be in what could not be read")
        if name not in connections:
            raise self.problem(
                f"there is no connection '{name}'", "connection", code="unknown-connection",
                hint=did_you_mean(name, list(connections)),
            )  # fmt: skip
        self.connections.add(name)
        owner, given = connections[name]
        base, _ = split_policies(given)
        if owner and owner != adapter:
            raise self.problem(
                f"connection '{name}' is one of {owner}, not of {adapter}", "connection"
            )
        if not owner:
            raise BuildFailed("the connection itself is wrong")
        return {**base, **{k: v for k, v in options.items() if k != "connection"}}

    def subroute(self, name: str, *path: str | int) -> Step:
        there = self.load.routes.get(name)
        hint = ""
        if there is None:
            hint = did_you_mean(name, [n for n, place in self.load.routes.items() if place.is_sub])
        elif not there.is_sub:
            hint = "it has its own messages: only a route without `from` is called by name"
        if there is None or hint:
            missing = "there is no sub-route" if there is None else "this is no sub-route:"
            raise self.problem(f"{missing} '{name}'", *path, code="unknown-route", hint=hint)
        place = self.at(*path)
        place.outlined("subroute", name)
        self.runs.add(name)
        sub = there.built()
        self.load.store_uses += sub.store_uses
        self.checks += there.checks
        number = self.nth(f"run {name}")
        called = name if number == 1 else f"{name}{number}"
        if (step := sub.step) is not None:

            async def run(envelope: Envelope) -> Envelope:
                with in_turn(called):
                    return await step(envelope)

            return run
        # It is being built, so it runs itself, or somebody it runs does.
        self.load.store_uses += 1

        async def again(envelope: Envelope) -> Envelope:
            if sub.step is None:
                raise BuildFailed("a part that could not be compiled was run")
            depth = _depth.get()
            if depth >= MOST_DEPTH:
                raise RouteFailure(f"sub-route '{name}' runs itself without an end")
            token = _depth.set(depth + 1)
            try:
                with in_turn(called):
                    return await sub.step(envelope)
            finally:
                _depth.reset(token)

        return again

    def nth(self, what: str) -> int:
        self.counted[what] += 1
        return self.counted[what]

    @property
    def is_sub(self) -> bool:
        """Whether the route at this place is called by name."""
        return isinstance(self.raw, dict) and "from" not in self.raw

    def built(self) -> Subroute:
        """The sub-route at this place, built when it is first asked for."""
        subroutes = self.load.subroutes
        if self.route in subroutes:
            return subroutes[self.route]
        sub = subroutes[self.route] = Subroute()
        uses = self.load.store_uses
        try:
            self.part.options = sub.options = options = self.validate(RouteOptions, self.raw)
            for key in sorted(options.model_fields_set - {*OF_CALLERS, "from_"}):
                self.problem(
                    f"a sub-route has no '{key}'", key, key=True,
                    hint="it belongs to the routes that run it",
                )  # fmt: skip
            self.endpoints = options.endpoints
            step = self.steps(options.steps, "steps")
            sub.store_uses = int(self.load.store_uses > uses)
            store = self.store if sub.store_uses else None
            sub.step = subroute(self.route, options, step, store, self.clock)
        except BuildFailed:
            sub.step = _never
        return sub

    def continuation(self, name: str, source: Source, step: Step) -> None:
        full = f"{self.route}/{name}"
        others = {f"{other.place.route}/{other.name}" for other in self.load.continuations}
        if full in others or full in self.load.routes:
            self.problem(
                f"there are two routes '{full}'", code="duplicate", key=True,
                hint="give this step a `name` of its own: what it puts aside lies under it",
            )  # fmt: skip
        self.load.continuations.append(Continuation(self, name, source, step))

    def channel(self, name: str, *, outside: bool = False) -> None:
        self.part.channels.append(Channel(name, outside))

    @property
    def asked(self) -> frozenset[str]:
        self.heard.append(self.part)
        return self.wanted

    @property
    def clock(self) -> Clock:
        return self.load.clock

    @property
    def rehearsal(self) -> bool:
        return self.load.stage is not None

    def stand_in(self) -> RequestReply | None:
        self.taken = True
        return self.played

    def promises(self, promise: Promise, *, provided: str = "", better: str = "") -> None:
        part = self.part
        part.promise, part.provided, part.better = promise, provided, better

    def span(self, facts: SpanFacts) -> None:
        self.watch.spans[self.where] = facts

    def checked(self, check: Resource) -> None:
        self.check = check
        self.checks.append(check)

    def body(self, *fates: Fate) -> Passage:
        self.part.fates = fates
        return self.part.passage

    def gives(
        self,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, Collection[str]] | None = None,
        faults: Collection[str] | None = None,
        methods: Collection[str] = (),
        anonymous: bool = False,
    ) -> None:
        places = None
        if faults is not None:
            spots = {name: self.spot(("faults", name), key=True) for name in faults}
            places = {name: Spot(document.file, *mark) for name, (document, mark) in spots.items()}
        said = self.part.given
        self.part.given = Given(
            body if body is not None else said.body, params or said.params,
            places if places is not None else said.faults, methods or said.methods,
            anonymous or said.anonymous,
        )  # fmt: skip

    def answer(self) -> Builder:
        inner = self.at()
        inner.about_answer = True
        return inner

    def _use(self, what: Literal["expression", "text", "template"], source: str | Path,
             path: YamlPath) -> None:  # fmt: skip
        document, there = self.origin(path)
        spot = Spot(document.file, *document.text_mark(there, 0))
        exact = not self.fixed and document.is_text(there)
        self.part.uses.append(Use(what, source, spot, exact, self.about_answer))

    def made(self) -> Builder:
        inner = self.at()
        inner.fixed = True
        return inner

    def source(self, raw: Any, *path: str | int) -> Source:
        source: Source = self.endpoint(raw, "source", *path)
        return source

    def sink(self, raw: Any, *path: str | int) -> Sink:
        sink: Sink = self.endpoint(raw, "sink", *path)
        return sink

    def caller(self, raw: Any, *path: str | int) -> RequestReply:
        caller: RequestReply = self.endpoint(raw, "caller", *path)
        return caller

    def expression(self, source: str, *path: str | int, names: Collection[str] = ()) -> Expression:
        self._use("expression", source, path)
        try:
            return compile_expression(source, names=(*PARAMS, *names), known=self._known)
        except ExpressionError as e:
            self._problem_in_text(path, e.offset or 0, "expression", e.message, e.hint)
            return _never

    def text(self, source: str, *path: str | int) -> Text:
        self._use("text", source, path)
        try:
            return compile_text(source, known=self._known)
        except ExpressionError as e:
            self._problem_in_text(path, e.offset or 0, "expression", e.message, e.hint)
            return _never

    @property
    def _known(self) -> Known:
        """What expressions may name that is known by now."""
        return {"env": Environment(self.load.references), "route": {"name": self.route}}

    def file(self, name: str, *path: str | int, folder: str = "transforms") -> Path:
        if "://" in name:
            raise self.problem(
                f"{name} is no file, and loading touches no network", *path, code="missing-file",
                hint="bring it into the project and name it there",
            )  # fmt: skip
        home = self.origin(path)[0].folder
        folders = [home, self.load.root / folder]
        inside = [self.load.root, home]
        for place in folders:
            found = (place / name).resolve()
            if found.is_file():
                if not any(found.is_relative_to(root.resolve()) for root in inside):
                    raise self.problem(f"{name} lies outside the project", *path, code="file")
                self.files.add(found)
                self.load.remember(found)
                return found
        near: list[str] = []
        for place in folders:
            parent = (place / name).parent
            if parent.is_dir():
                near += [p.name for p in parent.iterdir() if p.is_file()]
        where = f"{folder}/" if folder else "the project's own folder"
        close = difflib.get_close_matches(Path(name).name, near, n=1)
        hint = f"did you mean '{Path(name).with_name(close[0])}'?" if close else (
            f"it is looked for beside the YAML file, then in {where}"
        )  # fmt: skip
        raise self.problem(f"there is no file {name}", *path, code="missing-file", hint=hint)

    def data_folder(self, name: str) -> Path:
        return self.load.root / name

    def credential(self, name: str, *path: str | int) -> Path:
        found = Path(name)
        if not found.is_absolute():
            found = self.file(name, *path)
        elif not found.is_file():
            raise self.problem(f"there is no file {name}", *path, code="missing-file")
        self.files.add(found)
        self.load.remember(found, secret=True)
        return found

    def root(self, file: Path) -> Path:
        root = self.load.root
        return root if file.resolve().is_relative_to(root) else self.document.folder

    def include(self, name: str, model: type[T], *path: str | int) -> tuple[T, Build]:
        file = self.file(name, *path)
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise self.problem(f"{name} is no UTF-8 text", *path, code="file") from e
        document = read_yaml(text, shown_path(file), file.parent, self.load.references)
        self.load.diagnostics += document.diagnostics
        inner = Builder(self.load, document, (), self.route)
        inner.files, inner.connections = self.files, self.connections
        return inner.validate(model, document.data), inner

    def json_schema(self, schema: str | Mapping[str, Any], *path: str | int) -> Validator:
        source = self.file(schema, *path) if isinstance(schema, str) else dict(schema)
        self.part.schema = source
        return self._compiled(path, lambda: compile_json_schema(source))

    def xml_schema(self, name: str, *path: str | int) -> Validator:
        file = self.file(name, *path)
        return self._compiled(path, lambda: compile_xsd(file))

    def jinja(self, name: str, content_type: str, *path: str | int) -> Renderer:
        source: Path | str = name if "\n" in name else self.file(name, *path)
        folders = (self.origin(path)[0].folder, self.load.root / "transforms")
        self._use("template", source, path)
        return self._compiled(
            path,
            lambda: compile_jinja(source, content_type, folders=folders, known=self._known),
        )

    def xslt(self, name: str, content_type: str, *path: str | int) -> Renderer:
        file = self.file(name, *path)
        return self._compiled(path, lambda: compile_xslt(file, content_type, folder=file.parent))

    def aside(
        self,
        kind: Literal["xslt", "xsd"],
        name: str,
        content_type: str,
        limits: tuple[float, int],
        *path: str | int,
    ) -> Callable[[Envelope], Awaitable[Body]]:
        from esb.aside import Pool, compile_aside

        file, (seconds, memory) = self.file(name, *path), limits
        work = self._compiled(
            path, lambda: compile_aside(kind, file, content_type, file.parent, seconds, memory)
        )
        if not self.rehearsal:
            work.pool = self.shared(("aside", memory), lambda: Pool(memory))
        return work

    def _compiled(self, path: YamlPath, compile_: Callable[[], T]) -> T:
        try:
            compiled = compile_()
            # What a template includes or a schema refers to is part of the route as well.
            for file in getattr(compiled, "files", ()):
                self.files.add(file)
                self.load.remember(file)
            return compiled
        except (TemplateError, SchemaError) as e:
            file = shown_path(Path(e.file)) if e.file else ""
            if file and e.line:
                # The mistake is in the template: point there, and say who uses it.
                user, mark = self.spot(path)
                at = f"{user.file}:{mark.line}"
                self.load.diagnose(
                    file, Mark(e.line, 1), "template", e.message, e.hint or f"used at {at}"
                )
                raise BuildFailed(e.message) from e
            raise self.problem(e.message, *path, code="template", hint=e.hint) from e

    # --- what is shared

    def shared(self, key: object, make: Callable[[], T]) -> T:
        files = set(self.files)
        found = self.load.shared.get(key, make)
        # What it is made from is read by the first who wants it, and makes no part of a route.
        self.files &= files
        return found

    def once_running(self, key: object, act: Callable[[], None]) -> None:
        self.load.shared.once_running(key, act)

    def section(self, name: str) -> Any:
        return self.load.section_value(name)

    @property
    def ways(self) -> Collection[str]:
        return self.load.ways

    def auth(
        self, names: Sequence[str] | None, *path: str | int, section: str = ""
    ) -> Authenticator:
        ways = self.load.ways
        said = self.load.places.get(section, self)  # where it is written
        if names is None:
            if not ways:
                return PUBLIC
            self.problem(
                "it is not said who may call", code="auth", key=True,
                hint=f"auth: {next(iter(ways))}, or `auth: {EVERYBODY}`; for all that says nothing "
                "itself: listen: {auth: ...}",
            )  # fmt: skip
            return NOBODY
        if EVERYBODY in names:
            if len(names) > 1:
                said.problem(f"'{EVERYBODY}' stands alone: everybody may call", *path, code="auth")
            return PUBLIC
        methods = []
        for name in names:
            if name not in ways:
                if self.load.unread:
                    raise BuildFailed("it may be in what could not be read")
                hint = did_you_mean(name, [*ways, EVERYBODY])
                hint = hint if ways else f"auth: {{{name}: {{api_keys: {{file: ...}}}}}}"
                raise said.problem(
                    f"there is no '{name}' in the section 'auth'", *path, code="auth", hint=hint
                )
            methods.append(ways[name].method())
            self.callers.add(name)
        tell: Tell | None = None
        if (section or self.route) and (told := refusals(self)) is not None:
            tell = partial(told.tell, "listener" if section else f"route {self.route}")
        return AnyOf(methods, self.shared("failed logins", Failures), tell)

    def claim(self, name: str, *path: str | int) -> None:
        document, at = self.spot(path, key=self.fixed)
        here = f"'{self.route}' at {document.file}:{at.line}"
        taken = self.load.claims.setdefault(name, here)
        if taken is not here:
            self.problem(f"{name} is served already by route {taken}", *path, code="duplicate")

    @property
    def store(self) -> Store:
        self.load.store_uses += 1
        if self.load.stage is not None:
            return self.shared(("store",), self.load.stage.store)
        options = self.load.settings["store"]
        place = options.url or options.path
        return self.shared(
            ("store", place),
            lambda: self.load.stores.store(options, self.load.root, self.clock),
        )

    @property
    def written(self) -> Any:
        """What the route at this place is made from: of one that a section made, the whole entry of
        the section, since what is said there for all of its routes is in each."""
        if self.given is None:
            return self.data
        value = self.document.data
        for key in self.path[:2]:
            value = value[key]
        return value

    def fingerprint(self) -> str:
        """Changes when the route, its files, what it runs or what it shares by name changes."""
        parts: list[str] = []
        todo, seen = [self], {self.route}
        while todo:
            place = todo.pop()
            parts.append(repr((place.written, place.shaped)))
            parts += [repr(self.load.connections.get(name)) for name in sorted(place.connections)]
            parts += [self.load.ways[name].mark for name in sorted(place.callers)]
            parts += [
                f"{file}:{self.load.digests.get(file.resolve())}" for file in sorted(place.files)
            ]
            new = sorted(place.runs - seen)
            seen.update(new)
            todo += [self.load.routes[name] for name in new]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


MOST_DEPTH: Final = 100
_depth: ContextVar[int] = ContextVar("depth of sub-routes", default=0)


def _never(envelope: Any) -> Any:
    raise BuildFailed("a part that could not be compiled was run")


def split_policies(options: Any) -> tuple[Any, dict[str, Any]]:
    """An endpoint's or a connection's options: those of its adapter, and its policies."""
    if not isinstance(options, dict):
        return options, {}
    own = {key: value for key, value in options.items() if key in POLICIES}
    return {key: value for key, value in options.items() if key not in own}, own
