"""What one load shares between all files and places: adapters, connections, claims, diagnostics;
and what is put in the place of the outside where tests of routes load."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import TypeAdapter

from esb.adapter import Adapter, Section, Source
from esb.auth import Method
from esb.bus import Shared
from esb.clock import REAL, Clock
from esb.durable import Store
from esb.envelope import Envelope
from esb.errors import Diagnostic
from esb.middleware.endpoint import EndpointPolicies
from esb.route import RouteOptions
from esb.secrets import References
from esb.step import Step
from esb.store import StoreOptions, open_store
from esb.store.traces import open_traces
from esb.strict_yaml import READING, Document, Mark, YamlPath
from esb.traces import TraceStore

if TYPE_CHECKING:
    from esb.build import Builder


class StandIn(Protocol):
    """In the place of one endpoint, or of its far side."""

    async def call(self, envelope: Envelope) -> Envelope:
        """As that of a RequestReply."""
        ...

    def instead(self, made: Any, *, taken: bool) -> Any:
        """What stands where the endpoint was `made`. taken: that asked for this."""
        ...


class Stage(Protocol):
    """What tests of routes put in the place of all that is outside."""

    def stand_in(self, place: Builder, raw: Any) -> StandIn:
        """For the endpoint at this place, with these options."""
        ...

    def store(self) -> Store:
        """For the project's."""
        ...


class Stores(Protocol):
    """What opens the store of a project and that of its traces: see `open_store`, `open_traces`."""

    def store(self, settings: StoreOptions, folder: Path, clock: Clock) -> Store:
        """The store. It is a Resource."""
        ...

    def traces(self, settings: StoreOptions, folder: Path, clock: Clock) -> TraceStore:
        """Where traces are kept."""
        ...


class OwnStores:
    """Those of a process that has them for itself. See Stores."""

    def store(self, settings: StoreOptions, folder: Path, clock: Clock) -> Store:
        """See Stores."""
        return open_store(settings, folder, clock)

    def traces(self, settings: StoreOptions, folder: Path, clock: Clock) -> TraceStore:
        """See Stores."""
        return open_traces(settings, folder, clock)


class Way(Protocol):
    """An entry of the section `auth`."""

    mark: str

    def method(self) -> Method:
        """What knows callers by it. Raises BuildFailed."""
        ...


class Load:
    """What one load shares between all files: adapters, connections, claims, diagnostics."""

    def __init__(
        self,
        shared: Shared,
        references: References,
        root: Path | None,
        clock: Clock = REAL,
        stage: Stage | None = None,
        stores: Stores | None = None,
    ) -> None:
        self.shared = shared
        self.clock = clock
        self.stage = stage
        self.stores = stores or OwnStores()
        self.references = references
        self.root = (root or Path.cwd()).resolve()
        self.diagnostics: list[Diagnostic] = []
        self.settings: dict[str, Any] = {}
        self.connections: dict[str, tuple[str, dict[str, Any]]] = {}
        self.policies: dict[str, EndpointPolicies] = {}  # of connections, by their names
        self.claims: dict[str, str] = {}
        self.ways: dict[str, Way] = {}  # to prove who one is
        self.places: dict[str, Builder] = {}  # of sections that are settings
        self.secrets: set[str] = set()  # in options, as they are
        self.unread = False  # whether there is a file, or part of one, that could not be read
        self.store_uses = 0  # how often a part asked for the store
        self.routes: dict[str, Builder] = {}  # every route's place, also before it is built
        self.subroutes: dict[str, Subroute] = {}
        self.continuations: list[Continuation] = []
        self.sources: dict[Path, bytes | None] = {}
        self.digests: dict[Path, str] = {}
        self.adapter_points = entry_points_by_name("esb.adapters")
        self.section_points = entry_points_by_name("esb.sections")
        self._adapters: dict[str, Adapter] = {}

    def diagnose(
        self, file: str, mark: Mark | None, code: str, message: str, hint: str = ""
    ) -> None:
        """Record a mistake, once; not where the YAML itself is wrong, which is cause enough."""
        line, column = mark or (0, 0)
        message, hint = (self.references.named(text, secrets=True) for text in (message, hint))
        found = Diagnostic(file, line, column, code, message, hint)
        for known in self.diagnostics:
            there = (known.file, known.line, known.column) == (file, line, column)
            same = (known.code, known.message) == (code, message)
            if there and (same or (line and known.code in READING)):
                return
        self.diagnostics.append(found)

    def left_open(self, document: Document, path: YamlPath) -> bool:
        """Whether nobody can say what the value there will be: a reference, and `--no-env`."""
        if not document.is_open(path):
            return False
        self.unread = True
        return True

    def remember(self, file: Path, *, secret: bool = False) -> None:
        """A file is part of the project, as it is at this moment. secret: nothing keeps it."""
        file = file.resolve()
        if file not in self.digests:
            try:
                content = file.read_bytes()
            except OSError:
                return  # whoever reads it says so
            self.digests[file] = hashlib.sha256(content).hexdigest()
            self.sources[file] = content
        if secret:
            self.sources[file] = None

    def adapter(self, name: str) -> Adapter:
        """Load an adapter on its first use. Raises ImportError, or KeyError if there is none."""
        if name not in self._adapters:
            self._adapters[name] = self.adapter_points[name].load()
        return self._adapters[name]

    def section_value(self, name: str) -> Any:
        """A section's validated value; its defaults if no file has it."""
        if name not in self.settings:
            section: Section = self.section_points[name].load()
            self.settings[name] = TypeAdapter(section.options).validate_python({})
        return self.settings[name]


@dataclass
class Subroute:
    """A route without `from:` while it is built, and after. step: None as long as it is built, and
    if it cannot be. store_uses: whether it asked for the store."""

    options: RouteOptions | None = None
    step: Step | None = None
    store_uses: int = 0


@dataclass
class Continuation:
    """A route that a step of another goes on in: see `Build.continuation`."""

    place: Builder
    name: str
    source: Source
    step: Step


@lru_cache
def entry_points_by_name(group: str) -> dict[str, EntryPoint]:
    """What the installed packages offer in a group."""
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda p: p.name)}
