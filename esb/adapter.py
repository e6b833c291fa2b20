"""The contracts at the edge: what an adapter gives (Source, Sink, RequestReply) and is given.

An adapter is one package with an `adapter: Adapter` object, named by an entry point in the group
`esb.adapters`; the entry point's name is its key in YAML. It imports floors 0 and 1 and nothing
else of the engine: the store, expressions, validators and what is shared come through `Build`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Literal, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel

from esb.clock import Clock
from esb.durable import Store
from esb.envelope import Body, Envelope
from esb.identity import Authenticator
from esb.options import Options
from esb.outline import Fate, Passage, Promise
from esb.step import SpanFacts, Step

T = TypeVar("T")
O = TypeVar("O", bound=BaseModel)  # noqa: E741
E_co = TypeVar("E_co", covariant=True)


# --- what an adapter gives -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Health:
    """`up` says whether the thing works now; `detail` why not, or what to heed although it does:
    for people, without secrets."""

    up: bool
    detail: str = ""


class Source(Protocol):
    """Message endpoint, inbound: takes messages from outside and hands each to its step.

    The step returning acknowledges the message; the envelope it returned is the answer, told by
    `Envelope.outcome`. The step raising refuses the message: an error to a waiting caller, given
    back (`Transient`) or rejected (`Permanent`) where the far side can take it back.
    """

    waits: bool
    """Whether a caller waits for the answer (so an error can be told to somebody)."""

    where: str
    """Where messages come from, for people: "POST /orders", "queue orders"."""

    async def start(self, step: Step) -> None:
        """Begin to take messages. A far side that is not there yet is no error: keep trying."""

    async def stop(self, grace: float) -> None:
        """Stop taking, let what is in flight finish for `grace` seconds, give the rest back."""

    def health(self) -> Health:
        """Whether messages can arrive now."""


@runtime_checkable
class Pausing(Protocol):
    """A Source that callers come to. While its route is stopped by those who run the bus, it is to
    tell them to come back later; for any other source `stop` is enough."""

    async def pause(self, grace: float) -> None:
        """As `stop`, but whoever calls from now on is refused for a while, until `start` or `stop`.
        It need not have been started."""
        ...


@runtime_checkable
class Admitting(Protocol):
    """A Source that has a first look at its messages inside the route: what it refuses there goes
    the way of everything that fails, to the dead letters if nobody waits."""

    async def admit(self, envelope: Envelope) -> Envelope:
        """The message for the route's first step. Raises Permanent for one that must not get
        there."""
        ...


@runtime_checkable
class Repeating(Protocol):
    """A Source that may know the answer to a message. It hands over such a message all the same,
    with `repeated` set: what raises then says that the sender may not have the answer, or not now.

    repeats: whether it ever does.
    """

    repeats: bool


repeated: Final[ContextVar[bool]] = ContextVar("repeated", default=False)
"""Whether the answer to the message at hand is known, and nothing is to be done for it."""


@runtime_checkable
class Rehearsing(Protocol):
    """A Source that can be tried without anybody outside: for tests of routes."""

    async def rehearse(self, given: Envelope) -> Envelope:
        """As if `given` had come in: a reply to it with what its sender is told, and what the
        protocol says besides as params "reply" ({"status": 202}). It was started, and what it
        shares with others is not open. Raises ValueError for what cannot come in here."""
        ...


class Sink(Protocol):
    """Message endpoint, outbound, one-way: `send` in YAML."""

    async def send(self, envelope: Envelope) -> None:
        """Return once the far side has taken the message (a 2xx, a confirm, an fsync).

        Raises Transient or Permanent; Client-library errors never pass.
        """


class RequestReply(Protocol):
    """Message endpoint, outbound, with a reply (EIP: Request-Reply): `call` in YAML."""

    async def call(self, envelope: Envelope) -> Envelope:
        """Send and return the reply, made with `envelope.reply(...)`.

        Raises Transient or Permanent; a typed fault of the far side is `Fault`.
        """


@runtime_checkable
class Resource(Protocol):
    """Something that endpoints share: a server, a pool, a connection (see `Build.shared`).

    One that reaches nothing beyond the store may say so with an attribute `inside = True`: then it
    is opened in tests of routes as well. So may a Source, which then makes its messages there.
    """

    async def open(self) -> None:
        """Called once before any source starts. A far side that is away is no error."""

    async def close(self) -> None:
        """Called once after every source stopped."""

    def health(self) -> Health:
        """Whether it works now."""


Probe = Callable[[], tuple[bool, dict[str, Any]]]
"""Asks the bus how it is: whether well, and the details to show."""


@runtime_checkable
class Listener(Protocol):
    """A Resource that outsiders connect to. The bus fills in `probes` by name ("healthz",
    "readyz") before it opens anything, and says when its routes are there and when it stops.

    Before `serve` and after `drain` it answers probes only, and tells everybody else to come back
    later.
    """

    probes: dict[str, Probe]

    def serve(self) -> None:
        """From now on answer everybody: every route has started. Nothing new for one that does
        so already, or that drains."""

    def drain(self) -> None:
        """From now on answer probes only."""


@runtime_checkable
class Handed(Protocol):
    """A Listener that may be given its socket: where a bus has several processes, each listens at
    the same address with one that was bound before, and one may leave while another goes on."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to listen on."""

    socket: Any
    """One that is bound there, to listen on; filled in before it is opened, else None."""

    async def leave(self, grace: float) -> None:
        """Take no new connections, since others listen, answer whatever still comes over those that
        are open and then close them; return when none is left, or after `grace` seconds."""


@dataclass(frozen=True)
class Role(Generic[O, E_co]):
    """Something a YAML mapping names: the model of its options and what is made from them.

    A direction of an adapter makes an endpoint, a step kind makes a step.
    """

    options: type[O]
    make: Callable[[O, Build], E_co]


@dataclass(frozen=True)
class Adapter:
    """What an adapter package offers; a role that is None cannot be written in YAML.

    connection: options that a named entry under `connections:` may hold for this adapter. An
        endpoint with `connection: name` gets them merged below its own, so each must also be
        an option of the roles that accept it.
    """

    source: Role[Any, Source] | None = None
    sink: Role[Any, Sink] | None = None
    caller: Role[Any, RequestReply] | None = None
    connection: type[Options] | None = None


@dataclass(frozen=True)
class Section:
    """A top-level YAML section that an adapter contributes (entry-point group `esb.sections`).

    options: the model of the whole section.
    expand: turns it into ordinary routes, each `Expanded`; None for a section that is only
        settings, which its adapter reads with `Build.section(name)`.
    """

    options: type[Any]
    expand: Callable[[Any, Build], Sequence[Expanded]] | None = None


@dataclass(frozen=True)
class Expanded:
    """An ordinary route made by a section. `at` is the place in the section it comes from."""

    name: str
    route: Mapping[str, Any]
    at: tuple[str | int, ...] = ()


def keeps_order(build: Build, *path: str | int) -> None:
    """Record a mistake if the route of a source that keeps messages in order, as its option at
    `path` says, answers before its steps run: from the store they run side by side."""
    if build.durable:
        build.problem(
            "with `accept: durable` the order is lost, because what is stored runs side by side",
            *path,
            key=True,
            hint="leave out `accept`: this source keeps each message until its steps are through",
        )


# --- what an adapter is given --------------------------------------------------------------------

Expression = Callable[[Envelope], Any]
"""A compiled expression. Raises RouteFailure when it fails on a message."""

Text = Callable[[Envelope], str]
"""Compiled plain text with `{{ }}` in it. Raises RouteFailure when it fails on a message."""

Renderer = Callable[[Envelope], Body]
"""A compiled template. Raises RouteFailure when it fails on a message."""

Validator = Callable[[Envelope], None]
"""A compiled check of a body. Raises BadMessage with what is wrong and where."""


class BuildFailed(Exception):
    """A part cannot be built; the diagnostic is already recorded with `Build.problem`."""


class Build(Protocol):
    """What a step or an endpoint is given while it is compiled, once, at load.

    Paths are keys into the options being built ("schema",) and place a diagnostic at its line.
    Nothing here touches the network. What fails is recorded, so that one load finds every mistake;
    a method without a harmless stand-in to return then raises BuildFailed, which callers let pass.
    """

    route: str
    """The name of the route being built."""

    @property
    def where(self) -> str:
        """The place of what is being built, in its route: "steps[1].send.http"."""

    about: str
    """What the route is for, as its author says."""

    durable: bool
    """Whether it answers once the message is stored, before its steps run."""

    @property
    def asked(self) -> Collection[str]:
        """What the policies of the route ask of its source, if it can tell: to fill in the params
        "client" ({"address": ...}) or "http" ({"method": ...}) of its messages, or to know its
        callers ("principal"); to tell callers what the params "limits" ({"quotas": [...]}, see
        `esb.errors.Quota`) or "cached" ({"age": ..., "ttl": ..., "private": ...}) of an answer
        say."""

    @property
    def clock(self) -> Clock:
        """What to tell the time by, and to wait with; not the real one in tests of routes."""

    @property
    def rehearsal(self) -> bool:
        """Whether this is built for a test of routes, in which nothing may reach beyond the bus."""

    def stand_in(self) -> RequestReply | None:
        """In a test of routes, what plays the far side of the endpoint being built: it is called
        with what would go out, whose params "sent" hold what the protocol says besides ({"method":
        "PUT"}), and returns what comes back, or raises. None: there is a far side. An endpoint that
        does not ask is played as a whole."""

    def problem(
        self, message: str, *path: str | int, code: str = "value", hint: str = "", key: bool = False
    ) -> BuildFailed:
        """Record a mistake at `path` (at its key if `key`), and return what may be raised."""

    def expression(self, source: str, *path: str | int, names: Collection[str] = ()) -> Expression:
        """Compile an expression over body, headers, path, query, .... names: groups of params that
        it may name besides."""

    def text(self, source: str, *path: str | int) -> Text:
        """Compile plain text with `{{ }}`."""

    def file(self, name: str, *path: str | int, folder: str = "transforms") -> Path:
        """An existing file, relative to the YAML file, then to a folder of the project; inside the
        project."""

    def data_folder(self, name: str) -> Path:
        """A folder that is read or written while the bus runs, there or not: relative to where it
        runs, as the path of its store is."""

    def credential(self, name: str, *path: str | int) -> Path:
        """A certificate or key: an absolute path as it is (they live outside projects), else a file
        of the project. Its content is kept nowhere."""

    def root(self, file: Path) -> Path:
        """The folder that nothing which `file` (one that `file()` found) refers to may leave."""

    def include(self, name: str, model: type[T], *path: str | int) -> tuple[T, Build]:
        """A YAML file as a `model`, and the Build for places in it."""

    def json_schema(self, schema: str | Mapping[str, Any], *path: str | int) -> Validator:
        """Compile a JSON Schema: a file's name or the schema itself."""

    def xml_schema(self, name: str, *path: str | int) -> Validator:
        """Compile an XSD file."""

    def jinja(self, name: str, content_type: str, *path: str | int) -> Renderer:
        """Compile a Jinja2 template file, or its text if it has a line break."""

    def xslt(self, name: str, content_type: str, *path: str | int) -> Renderer:
        """Compile an XSLT file."""

    def aside(
        self,
        kind: Literal["xslt", "xsd"],
        name: str,
        content_type: str,
        limits: tuple[float, int],
        *path: str | int,
    ) -> Callable[[Envelope], Awaitable[Body]]:
        """Compile a file that nobody vouches for. It runs in a process of its own, with so many
        seconds a message and bytes of memory; what it made of the body comes back, or the body if
        it only checks. Raises as a `Renderer` or `Validator` does."""

    def steps(self, raw: Sequence[Any], *path: str | int) -> Step:
        """Compile inner steps."""

    def nth(self, what: str) -> int:
        """How many of this there are in the route so far, with the one that asks: 1 for the first.
        For names that must differ within a route."""

    def subroute(self, name: str, *path: str | int) -> Step:
        """The route without `from:` called `name`, with its own policies around it."""

    def continuation(self, name: str, source: Source, step: Step) -> None:
        """Make `source` and `step` a route of their own, "<route>/<name>", with the policies of
        this one: for what a step puts aside in the store, to go on with it later."""

    def channel(self, name: str, *, outside: bool = False) -> None:
        """Say which channel the endpoint being built reads or feeds: "queue orders". outside:
        others may read and feed it as well."""

    def promises(self, promise: Promise, *, provided: str = "", better: str = "") -> None:
        """Say what the endpoint being built promises (see esb.outline), where that is not what any
        does: a source "again", a sink or caller "repeats". provided: what the promise depends on,
        for people. better: what in its options would promise more."""

    def span(self, facts: SpanFacts) -> None:
        """Say what telemetry tells of the endpoint being built, beside its name."""

    def checked(self, check: Resource) -> None:
        """Say what asks the far side of the endpoint being built now and then how it is."""

    @property
    def checks(self) -> Sequence[Resource]:
        """What was said so of the endpoints built so far in the route."""

    def body(self, *fates: Fate) -> Passage:
        """Say what may become of a message's body in the step or endpoint being built (see
        esb.outline), which is otherwise taken to read it: as many as are possible. A source that
        says "made" gives messages as their bodies arrive, where the answer tells it that it may,
        and one that says "sent" takes answers so.

        The answer is open, once the load is through, if what comes out of this endpoint is read,
        kept or needed twice by nothing in the route: then a large body may be one that is still
        arriving (`Body.from_stream`). No step may hold on to one."""

    def gives(
        self,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, Collection[str]] | None = None,
        faults: Collection[str] | None = None,
        methods: Collection[str] = (),
        anonymous: bool = False,
    ) -> None:
        """Say what is known of the messages that come out of the endpoint being built: a JSON
        Schema of their body, all names in groups of params ({"path": ["id"]}), the names of the
        faults that it may raise; of a source (with these as keys of its option `faults`), of those
        that it has an answer for; the methods of HTTP that a source serves, and whether nobody is
        asked who he is. What is left out stays as it was said."""

    def answer(self) -> Build:
        """The Build for texts of a source that are filled in from the answer of its route."""

    def made(self) -> Build:
        """The Build for options that are made here, of those in the YAML: what is wrong with them
        is told at this place."""

    def source(self, raw: Any, *path: str | int) -> Source:
        """Build an inbound endpoint: {adapter: options}."""

    def sink(self, raw: Any, *path: str | int) -> Sink:
        """Build an outbound endpoint: {adapter: options}."""

    def caller(self, raw: Any, *path: str | int) -> RequestReply:
        """Build a request-reply endpoint: {adapter: options}."""

    def shared(self, key: object, make: Callable[[], T]) -> T:
        """The one object under `key` in this bus, made on first use; opened and closed by the bus
        if it is a Resource. It outlives a reload for as long as some route still asks for it."""

    def once_running(self, key: object, act: Callable[[], None]) -> None:
        """Do this when what is being loaded is what runs: to change what others still use before.
        A load that fails changes nothing. One for each key; it must not raise."""

    def section(self, name: str) -> Any:
        """The validated top-level section `name`; its defaults if the project does not have it."""

    @property
    def ways(self) -> Collection[str]:
        """The names of the section `auth`; empty if the project has none."""

    def auth(
        self, names: Sequence[str] | None, *path: str | int, section: str = ""
    ) -> Authenticator:
        """Who may call what is being built: whoever one of the ways of the section `auth` with
        these names knows. `esb.identity.PUBLIC` for everybody, where the names say "public".

        section: that in which it is said, if that is not here. names: None if nothing is said. Then
        it is everybody in a project that has no section `auth`; in any other it is a mistake, and
        `esb.identity.NOBODY` may call."""

    def claim(self, name: str, *path: str | int) -> None:
        """Take a name nobody else may take ("http GET /orders"); a second taker is a problem that
        tells both places."""

    @property
    def store(self) -> Store:
        """The durable store; opened before any source starts."""
