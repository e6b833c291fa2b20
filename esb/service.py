"""A bus as `esb run` runs it: with its admin listener and signals, and live: reloads, versions,
routes that are stopped and started."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import getpass
import hashlib
import os
import re
import signal
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from esb.api import AdminServer
from esb.audit import Audit
from esb.bus import Bus, Shared
from esb.config import Project, load, route_files_in
from esb.control import NotThere, Refused
from esb.errors import EsbError
from esb.identity import Operators, acting
from esb.inside import Inside, View
from esb.loading import Stores
from esb.logs import log
from esb.metrics import Counter, Gauge
from esb.mistakes import did_you_mean, shown_path
from esb.redaction import shown
from esb.route import Called
from esb.secrets import References
from esb.settings import LIVE, lasting
from esb.versions import Cause, Version, Versions, put
from esb.vitals import watch_loop

T = TypeVar("T")

_FAREWELL: Final = 0.2
"""Seconds in which whoever asks is still told that the bus stops."""

_LOOK_AGAIN: Final = 10.0
"""Seconds until the next look at whether secrets are to be looked at: a reload may say so."""

_COLLECT_AFTER: Final = 5000
"""Objects that may be new before the collector looks for cycles among them; Python's 700 cost a
third of all time at 1,000 messages in flight, more than this gains nothing."""

RELOADS = Counter(
    "esb_reloads_total", "Reloads of the project's files, by how they ended.", ("result",)
)
_CURRENT = Gauge("esb_configuration_current", "Whether what lies in the files is what runs.")
CURRENT: Final = _CURRENT.labels()
_VERSION: Final = Gauge(
    "esb_configuration_version", "The number of the version that runs; 0 if none are kept."
).labels()
_LOADED: Final = Gauge(
    "esb_configuration_loaded_timestamp_seconds", "When what runs was loaded, as a Unix time."
).labels()


class Service:
    """A bus from files, and from `extra`, plain data in the shape of a file.

    leads: whether it has an admin listener, keeps versions and looks at the files. Of several
    processes only one does.
    Raises ConfigError for what is wrong with the files. See `esb.cli.serve` for the arguments.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        extra: Mapping[str, Any] | None = None,
        *,
        watch: bool = False,
        grace: float = 25.0,
        root: Path | None = None,
        profile: str | None = None,
        stores: Stores | None = None,
    ) -> None:
        self.paths = paths
        self.extra = extra
        self.stores = stores
        self.leads = True
        self.alone = True  # of several processes the supervisor tells of starts and stops
        self.root = (root or Path.cwd()).resolve()
        self.profile = profile
        self.watch = watch
        self.shared = Shared()
        self.project = self._load().check()
        self.loaded = datetime.now(UTC)
        self.audit = Audit(self.project.settings["audit"], self.root)
        self.version: Version | None = None
        self._versions = self._kept()
        stopped = self._versions.stopped if self._versions else ()
        self._has(Bus(self.project.routes, self.shared, grace=grace, stopped=stopped))
        self._found: Project = self.project  # what was loaded last, whether it runs or not
        self._reloading = asyncio.Lock()
        self.up, self.stopping = asyncio.Event(), asyncio.Event()
        self._letting_go: asyncio.Task[None] | None = None
        self.watching: list[Path] = []

    def _has(self, bus: Bus, view: View | None = None) -> None:
        options = self.project.settings["admin"]
        self.bus = bus
        self.view = view or Inside(bus)
        self.admin = AdminServer(
            bus, self, options.host, options.port,
            view=self.view, operators=self._operators, audit=self.audit,
        )  # fmt: skip

    def _operators(self) -> Operators:
        """Who may use the admin API, as the last load that runs says."""
        options = self.project.settings["admin"]
        readers, operators = frozenset(options.readers), frozenset(options.operators)
        return Operators(self.project.operators, readers, operators)

    def leads_others(self, bus: Bus, view: View) -> None:
        """Before it runs: what it runs is `bus`, which `view` looks into."""
        self.stores, self.alone = None, False
        self._has(bus, view)

    def _load(self, shared: Shared | None = None) -> Project:
        return load(
            self.paths,
            shared=shared or self.shared,
            extra=self.extra,
            root=self.root,
            profile=self.profile,
            stores=self.stores,
            environ=References(os.environ, asks=True),
        )

    # --- its life

    async def run(
        self,
        stop: Collection[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
        reload: Collection[signal.Signals] = (signal.SIGHUP,),
        started: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Run until a signal of `stop`, or until `stopping` is set; a second one hurries. Raises
        EsbError if it cannot start. reload: signals that have it reload. started: is awaited once
        it has."""
        hurry = asyncio.Event()
        loop = asyncio.get_running_loop()
        by = ["the program"]

        def on_signal(name: str) -> None:
            if not self.stopping.is_set():
                by[0] = name
            (hurry if self.stopping.is_set() else self.stopping).set()

        for number in stop:
            loop.add_signal_handler(number, on_signal, number.name)
        for number in reload:
            loop.add_signal_handler(number, self.asked_to_reload, number.name)
        options = self.project.settings["admin"]
        threshold, *_ = gc.get_threshold()
        serves = options.enabled and self.leads
        if serves:
            await self.admin.open()
        try:
            async with self._reloading:  # nobody reloads what has not begun
                await self.bus.start()
                if self.leads:
                    await self._keep("start", _user())
                    self._told("start", _user())
                    CURRENT.value = 1
            # What was loaded stays, so the collector is not to walk it again and again; and a
            # thousand messages in flight are no reason to look at each of them a few times.
            gc.freeze()
            gc.set_threshold(_COLLECT_AFTER)
            if started is not None:
                await started()
            self.up.set()
            if self.leads:
                await self._tell(f"{options.host}:{self.admin.port}" if serves else "")
            watchers = [asyncio.create_task(watch_loop())]
            if self.leads:
                watchers.append(asyncio.create_task(self._look_at_secrets()))
                if self.watch:
                    watchers.append(asyncio.create_task(self._watch()))
            await self.stopping.wait()
            for watcher in watchers:
                watcher.cancel()
            log.info("stopping", grace=self.bus.grace, hint="a second signal hurries")
            self._ends(by[0], "begun")
            await self._drain(hurry)
            log.info("stopped")
            self._ends(by[0], "broken off" if hurry.is_set() else "done")
        except BaseException as e:
            why = e.detail if isinstance(e, EsbError) else type(e).__name__
            self._ends(by[0] if self.stopping.is_set() else "an error", "failed", why=shown(why))
            raise
        finally:
            if self._letting_go is not None:
                self._letting_go.cancel()
            gc.unfreeze()
            gc.set_threshold(threshold)
            if serves:
                await self.admin.close()
            self.audit.close()

    async def _drain(self, hurry: asyncio.Event) -> None:
        draining = asyncio.create_task(self._stop())
        hurried = asyncio.create_task(hurry.wait())
        await asyncio.wait({draining, hurried}, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not draining.done():
            log.warning("hurrying: what is in flight is given back")
            draining.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await draining
            await self.bus.stop(grace=0)
        else:
            await draining

    async def _stop(self) -> None:
        self.bus.drain()
        # Callers who keep their connections open shall hear that it is over, not find them closed.
        await asyncio.sleep(_FAREWELL)
        await self.bus.stop(max(0.0, self.bus.grace - _FAREWELL))

    async def _tell(self, admin: str) -> None:
        for route in await self.view.routes():
            name, state = route["name"], {}
            if route["state"] == "stopped":
                state = {"stopped": f"until 'esb routes start {name}'"}
            elif route["state"] == "waiting":
                state = {"waiting": route["detail"]}
            log.info("route", name=name, takes=route["takes"], **state)
        log.info("the bus is up", routes=len(self.bus.routes), admin=admin or "off")

    # --- reload

    async def configuration(self) -> dict[str, Any]:
        """What runs, and whether that is what lies in the files: which of them are not as they were
        loaded, and what is wrong with those that could not be."""
        changed = await asyncio.to_thread(self._changed)
        return {
            "project": str(self.root),
            "version": self.version.number if self.version else None,
            "loaded": self.loaded.isoformat(),
            "current": not (self.bus.faults or changed),
            "changed": changed,
            "problems": list(self.bus.faults),
            "diagnostics": [asdict(found) for found in self._found.diagnostics],
        }

    def _changed(self) -> list[str]:
        """The files that are not what they were when they were last read."""
        sources = self._found.sources
        here = {file.resolve() for path in self.paths for file in route_files_in(path)}
        changed = here - sources.keys()
        for path, content in sources.items():
            try:
                if content is not None and path.read_bytes() != content:
                    changed.add(path)
            except OSError:
                changed.add(path)
        return sorted(shown_path(path) for path in changed)

    def asked_to_reload(self, by: str) -> None:
        """Reload as soon as may be; how it went is in the log."""

        async def reload() -> None:
            try:
                await self.reload(by)
            except Exception:  # noqa: BLE001 - it runs on as it is
                log.exception("not reloaded")

        self._asked = asyncio.create_task(reload())

    async def reload(self, by: str = "", cause: Cause = "reload") -> dict[str, Any]:
        """Load the files again; messages in flight finish on the routes as they were. With mistakes
        the old routes run on."""
        async with self._reloading:
            return await self._reload(by, cause)

    async def _reload(self, by: str, cause: Cause) -> dict[str, Any]:
        self.shared.begin()
        stopped = set(self.bus.stopped)
        try:
            project = await asyncio.to_thread(self._load)
            self._found = project
            problems = [str(found) for found in project.diagnostics] or self._fixed(project)
            changes = {} if problems else await self.bus.replace(project.routes)
        except EsbError as e:
            problems = [e.detail]
        except BaseException:
            self.shared.roll_back()
            raise
        if problems:
            self._told(cause, by, result="refused", problems=len(problems))
            return self._not_loaded(problems)
        self.project, self.loaded = project, datetime.now(UTC)
        if stopped != self.bus.stopped:  # one of them is no more
            await self._remember_stopped()
        self.bus.faults = ()
        CURRENT.value = 1
        RELOADS.labels("done").value += 1
        await self._keep(cause, by, changes)
        version = self.version.number if self.version else None
        if any(changes.values()) or by in signal.Signals.__members__:
            self._told(cause, by, changes=changes)
        if any(changes.values()):
            log.info("reloaded", **changes, version=version, by=by)
            for found in project.warnings:
                log.warning("a slip, most likely", found=str(found))
        if self._letting_go is not None:
            self._letting_go.cancel()
        self._letting_go = asyncio.create_task(self._let_go(), name="esb: what was replaced")
        return {"reloaded": True, **changes, "version": version}

    async def _let_go(self) -> None:
        """Free what was loaded before, once no message is in it, and keep what is loaded now."""
        await self.bus.settled()
        gc.unfreeze()
        gc.collect()
        gc.freeze()

    def _told(self, cause: Cause, by: str, *, result: str = "done", **more: Any) -> None:
        """For the audit: what runs now, and who had it so. A changed file says nobody's name."""
        who = by or acting.get() or {"watch": "files", "secret": "secrets"}.get(cause, "loopback")
        version = self.version.number if self.version else None
        self.audit.tell("configuration", who, result, cause=cause, version=version, **more)

    def _ends(self, by: str, result: str, **more: Any) -> None:
        if self.leads and self.alone:
            self.audit.tell("stop", by, result, **more)

    def _not_loaded(self, problems: list[str]) -> dict[str, Any]:
        self.shared.roll_back()
        self.bus.faults = problems
        CURRENT.value = 0
        RELOADS.labels("refused").value += 1
        for problem in problems:
            log.error("not reloaded", problem=problem)
        return {
            "reloaded": False,
            "detail": "\n".join(("not reloaded, the routes run as they were:", *problems)),
            "problems": problems,
            "diagnostics": [asdict(found) for found in self._found.diagnostics],
        }

    def _fixed(self, project: Project) -> list[str]:
        """What a running bus cannot change: where it listens, and where its messages lie."""
        before = self.project.settings
        changed = [
            name for name, value in project.settings.items()
            if name not in LIVE and lasting(before.get(name, value)) != lasting(value)
        ]  # fmt: skip
        return [f"'{name}' changed: that takes a restart" for name in changed]

    # --- single routes

    async def stop_route(self, name: str) -> None:
        """Stop a route until it is started: over reloads and restarts. Raises NotThere, Refused."""
        self._route(name)
        log.info("a route is stopped", route=name)
        await self._switch(self.bus.stop_route(name))

    async def start_route(self, name: str) -> None:
        """Start a route that was stopped. Raises NotThere, Refused."""
        self._route(name)
        log.info("a route is started", route=name)
        await self._switch(self.bus.start_route(name))

    async def restart_route(self, name: str) -> None:
        """Stop and start a route, with new connections where it has its own. Raises NotThere,
        Refused."""
        await self.stop_route(name)
        await self.start_route(name)

    def _route(self, name: str) -> None:
        route = self.bus.routes.get(name)
        if route is None:
            hint = did_you_mean(name, list(self.bus.routes))
            raise NotThere(f"there is no route '{name}'" + (f"; {hint}" if hint else ""))
        if isinstance(route.source, Called):
            raise Refused(f"'{name}' has no messages of its own: the routes that run it have them")

    async def _switch(self, switching: Awaitable[None]) -> None:
        try:
            await switching
        finally:
            await self._remember_stopped()

    async def _remember_stopped(self) -> None:
        if self._versions is None:
            return
        try:
            await asyncio.to_thread(self._versions.keep_stopped, self.bus.stopped)
        except OSError as e:
            log.warning("which routes are stopped is forgotten at a restart", why=_why(e))

    # --- versions

    @property
    def versions(self) -> Versions:
        """Those that are kept. Raises Refused if none are."""
        if self._versions is None:
            raise Refused("no versions are kept: 'versions: {keep: ...}' says how many")
        return self._versions

    def _kept(self) -> Versions | None:
        options = self.project.settings["versions"]
        if not options.keep or not self.paths:
            return None
        folder = self.root / options.path / _label(self.root, self.paths)
        return Versions(folder, self.root, options.keep)

    async def _keep(
        self, cause: Cause, by: str, changes: Mapping[str, list[str]] | None = None
    ) -> None:
        _LOADED.value = self.loaded.timestamp()
        if self._versions is None:
            return
        try:
            self.version = await asyncio.to_thread(
                self._versions.add, self.project.kept, cause, by=by, changes=changes
            )
        except (OSError, NotThere) as e:
            log.warning("what runs is not kept as a version", why=_why(e))
        else:
            _VERSION.value = self.version.number

    async def roll_back(self, number: int, by: str = "") -> dict[str, Any]:
        """Make the project's files what they were in a version, and load them. What lies there now
        is kept as a version if it is none. Raises NotThere; Refused if the files cannot be written;
        with mistakes the files are what they were, and the old routes run on."""
        async with self._reloading:
            version = self.versions.get(number)
            then = self.versions.contents(version)
            found = await asyncio.to_thread(self._look)
            kept, routes = found.kept, [path.resolve() for path in found.files]
            try:
                # What no route names any more may still lie there, and be somebody's only copy.
                now = {**await asyncio.to_thread(_there, then.keys() - kept.keys()), **kept}
                known = {
                    path: now[path] for path in now if found.sources.get(path, b"") is not None
                }
                await asyncio.to_thread(self.versions.add, known, "found", by=by)
                await asyncio.to_thread(put, then, now, routes)
            except OSError as e:
                raise Refused(f"the files cannot be written: {_why(e)}") from e
            before = self.bus.faults, self._found
            result = await self._reload(by, "roll-back")
            if not result["reloaded"]:
                self.bus.faults, self._found = before
                CURRENT.value = not self.bus.faults
                back = [path for path in then if path not in now]
                await asyncio.to_thread(put, now, then, back)
            return {**result, "rolled_back": result["reloaded"], "to": number}

    def _look(self) -> Project:
        """What lies in the files now, in a load that nothing comes of."""
        return self._load(Shared())

    # --- watching

    async def _look_at_secrets(self) -> None:
        """Reload when a secret is another one than it was."""
        while True:
            every = self.project.settings["secrets"].refresh
            await asyncio.sleep(_LOOK_AGAIN if every == "never" else every)
            references = self._found.references
            if every == "never" or not references.changing:
                continue
            try:
                changed = await asyncio.to_thread(references.changed)
                if changed:
                    log.info("secrets are others", references=changed)
                    await self.reload(cause="secret")
            except ValueError as e:
                log.warning("secrets cannot be looked at: those that were read stay", why=str(e))
            except Exception:  # noqa: BLE001 - it runs on as it is
                log.exception("not reloaded")

    async def _watch(self) -> None:
        import watchfiles

        begun = False
        while True:
            folders = await asyncio.to_thread(self._folders)
            changes = watchfiles.awatch(*folders, watch_filter=self._matters, recursive=False)
            coming = asyncio.ensure_future(anext(changes))
            try:
                await asyncio.sleep(0)  # now they are watched, and what changes is not missed
                log.info("watching", folders=[str(folder) for folder in folders])
                self.watching = folders
                if begun:
                    await self._look_again()  # for what changed while nobody watched
                begun = True
                while True:
                    await coming
                    await self._look_again()
                    if await asyncio.to_thread(self._folders) != folders:
                        break
                    coming = asyncio.ensure_future(anext(changes))
            finally:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
                await changes.aclose()

    async def _look_again(self) -> None:
        try:
            await self.reload(cause="watch")
        except Exception:  # noqa: BLE001 - watched on: the next change may mend it
            log.exception("not reloaded")

    def _folders(self) -> list[Path]:
        """Where the files lie that routes are made from, and where others may come."""
        found = {path.parent for path in self._found.sources}
        # Kubernetes renews secrets by swapping a link beside them.
        found |= {file.absolute().parent for file in self._found.references.files}
        for path in (*self.paths, self.root / "transforms"):
            if path.is_dir():
                found.update(one.resolve() for one in (path, *path.rglob("*")) if one.is_dir())
            else:
                found.add(path.resolve().parent)
        return sorted(folder for folder in found if folder.is_dir())

    def _matters(self, change: Any, path: str) -> bool:
        """Whether a change may be one of the routes: the store may lie in the same folder."""
        import watchfiles

        file = Path(path)
        if change is watchfiles.Change.modified:
            return file.suffix in (".yaml", ".yml") or file.resolve() in self._found.sources
        return True


def run_loop(what: Coroutine[Any, Any, T]) -> T:
    """Run on the fastest event loop there is."""
    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.run(what)
    return asyncio.run(what)


def _why(e: Exception) -> str:
    if not isinstance(e, OSError):
        return str(e)
    return f"{e.filename}: {e.strerror}" if e.filename else str(e.strerror)


def _user() -> str:
    with contextlib.suppress(OSError, KeyError):
        return getpass.getuser()
    return ""


def _label(root: Path, paths: Sequence[Path]) -> str:
    """Names what a bus was started with: of two that run in one folder, each has its own past."""
    names = sorted({os.path.relpath(path.resolve(), root) for path in paths})
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:8]
    words = re.sub(r"[^A-Za-z0-9-]+", "-", names[0]).strip("-")[:40]
    return f"{words}-{digest}" if words else digest  # of "." nothing is left


def _there(paths: Collection[Path]) -> dict[Path, bytes]:
    """The content of those files that are there. Raises OSError."""
    return {path: path.read_bytes() for path in paths if path.is_file()}
