"""How commands ask a bus: by its admin API. Of a store that no bus is at work on, this process
serves that API to itself alone, so that there is one way in which everything is done."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Protocol, TypeVar
from urllib.parse import urlsplit

import typer

from esb import logs
from esb.commands.terminal import fail, fail_with, route_files
from esb.errors import ConfigError, EsbError

T = TypeVar("T")
NO_STORE: Final = "no route of this bus needs a store"
"""What a bus without one says when it is asked for it."""
PATIENCE: Final = 600.0
"""Seconds within which an answer comes; many messages may be moved before it does."""

Url = Annotated[
    str,
    typer.Option(
        "--url", help="The admin API of the bus; as the project says if left out.", metavar="URL"
    ),
]
Files = Annotated[
    list[Path] | None,
    typer.Option(
        "--project", "-p", help="The project's files or folders; routes/ if left out.",
        show_default=False,
    ),
]  # fmt: skip
TOKEN: Final = "ESB_ADMIN_TOKEN"  # noqa: S105 - the name of a variable
"""What commands show of who asks, where the admin API wants to know: a key or a token, or a name
and password as `name:password`. The environment holds it, since all can read command lines."""

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")]


@dataclass(frozen=True)
class Answer:
    """What the admin API answered; names of headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed. Raises ValueError."""
        return json.loads(self.body)


class Api(Protocol):
    """An admin API to ask."""

    async def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """What it answers if all is well. Raises EsbError else."""
        ...


class There:
    """That of a running bus."""

    def __init__(self, url: str) -> None:
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).hostname:
            raise EsbError(f"{url} is no address of an admin API, such as http://127.0.0.1:8081")

    async def ask(self, method: str, path: str, body: Any = None) -> Answer:
        return _well(await asyncio.to_thread(self._ask, method, path, body), self.url)

    def lines(self, path: str) -> Iterator[bytes]:
        """The lines of an answer that goes on and on, as they come. Raises EsbError."""
        from http.client import HTTPException

        answer = self._ask("GET", path, None, whole=False)
        if isinstance(answer, Answer):
            _well(answer, self.url)
            return
        with answer:
            try:
                yield from answer
            except (OSError, HTTPException) as e:
                raise EsbError(f"the bus at {self.url} went away: {e}") from e

    def _ask(self, method: str, path: str, body: Any, *, whole: bool = True) -> Any:
        import urllib.error
        import urllib.request
        from http.client import HTTPException

        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method)  # noqa: S310
        request.add_header("Content-Type", "application/json")
        if token := os.environ.get(TOKEN):
            named = base64.b64encode(token.encode()).decode() if ":" in token else ""
            request.add_header("Authorization", f"Basic {named}" if named else f"Bearer {token}")
        # What is meant for the bus is nobody else's: no proxy gets it.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            if not whole:
                return opener.open(request, timeout=PATIENCE)
            with opener.open(request, timeout=PATIENCE) as answer:
                return Answer(answer.status, _lower(answer.headers), answer.read())
        except urllib.error.HTTPError as e:
            return Answer(e.code, _lower(e.headers), e.read())
        except (OSError, ValueError, HTTPException) as e:
            reason = getattr(e, "reason", e)
            why = getattr(reason, "strerror", None) or str(reason)
            raise EsbError(f"no bus answers at {self.url}: {why.lower()}") from e


class Here:
    """That of a store which is open in this process."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def ask(self, method: str, path: str, body: Any = None) -> Answer:
        where, _, query = path.partition("?")
        data = b"" if body is None else json.dumps(body).encode()
        scope = {
            "type": "http", "http_version": "1.1", "method": method, "scheme": "http",
            "path": where, "raw_path": where.encode(), "query_string": query.encode(),
            "headers": [(b"content-type", b"application/json"), (b"host", b"localhost")],
            "server": ("localhost", 0), "client": ("localhost", 0), "root_path": "",
        }  # fmt: skip
        sent: list[dict[str, Any]] = []
        asked = [{"type": "http.request", "body": data, "more_body": False}]

        async def receive() -> dict[str, Any]:
            return asked.pop() if asked else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        headers = {n.decode().lower(): v.decode() for n, v in sent[0]["headers"]}
        return _well(
            Answer(sent[0]["status"], headers, b"".join(part["body"] for part in sent[1:])), ""
        )


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _well(answer: Answer, url: str) -> Answer:
    """The answer, if it is what was asked for. Raises EsbError with what it says instead."""
    if answer.status < 300:
        return answer
    with contextlib.suppress(ValueError, KeyError, TypeError):
        if answer.status == 401:
            raise EsbError(f"{url} wants to know who asks: {TOKEN} has a key, a token or "
                           "name:password")  # fmt: skip
        if answer.status == 403:
            raise EsbError(f"{url} refuses: {answer.json['title']}")
        told = answer.json["detail"]
        if isinstance(told, list):
            raise EsbError("; ".join(_complaint(one) for one in told))
        # Others know a "detail", too: a problem document (RFC 9457), or a path that is not there.
        if "status" not in answer.json and told != "Not Found":
            raise EsbError(str(told))
    raise _strange(url)


def _strange(url: str) -> EsbError:
    return EsbError(f"what answers at {url} is not the admin API of a bus like this one")


def _complaint(one: Mapping[str, Any]) -> str:
    what = one["msg"].removeprefix("Value error, ")
    names = [str(part) for part in one["loc"] if part not in ("query", "body", "path")]
    return f"{'.'.join(names)}: {what}" if names else what


@contextlib.asynccontextmanager
async def api(url: str, files: list[Path] | None) -> AsyncIterator[Api]:
    """The API to ask: of the bus at `url`, or of the one at work on the project's store, or of that
    store itself when no bus is. Says which."""
    from esb.bus import Shared
    from esb.config import load
    from esb.secrets import References
    from esb.store import InUse, open_store
    from esb.store.traces import beside

    if url:
        there = There(url)
        await _where(there)  # is it one?
        yield there
        return
    shared = Shared()
    references = References(os.environ, asks=True)
    project = load(route_files(files), shared=shared, environ=references).check()
    traces = shared.objects.get("traces")
    admin, settings = project.settings["admin"], project.settings["store"]
    file = None if settings.url else (Path.cwd() / settings.path)
    running = There(_address(admin.host, admin.port)) if admin.enabled and admin.port else None
    if file is not None and not file.exists():
        if running is not None and await _works_on(running, ""):
            note(f"asking the bus at {running.url}")
            yield running
            return
        if traces is not None and beside(file).exists():
            note(f"no bus is at work: its traces are in {beside(file)}")
            try:
                yield Here(_app(project.routes, None, traces))
            finally:
                await traces.close()
            return
        raise EsbError(f"there is no store at {file}: no bus of this project has kept a message")
    opened = open_store(settings, Path.cwd())
    if file is None and running is not None and await _works_on(running, opened.where):
        note(f"asking the bus at {running.url}")
        yield running
        return
    try:
        await opened.open()
    except InUse as e:
        if running is None:
            raise EsbError(
                f"{_busy(e)}, whose admin API is off or on any free port: --url says where it is"
            ) from e
        if not await _works_on(running, opened.where):
            raise EsbError(
                f"{_busy(e)}, but no bus at {running.url} works on it; say where it is: --url"
            ) from e
        note(f"asking the bus at {running.url}")
        yield running
        return
    try:
        note(f"no bus is at work: opened the store {opened.where} itself")
        yield Here(_app(project.routes, opened, traces))
    finally:
        await opened.close()
        if traces is not None:
            await traces.close()


def running(url: str, files: list[Path] | None) -> There:
    """The bus at `url`, or where the project says. Raises EsbError."""
    from esb.config import load

    if url:
        return There(url)
    # Whatever is wrong with the files otherwise: the bus may run what they were before.
    otherwise = "--project says where the project is, or --url where the bus"
    admin = load(route_files(files, otherwise)).settings["admin"]
    if not admin.enabled or not admin.port:
        raise EsbError("the admin API is off, or on any free port: --url says where it is")
    return There(_address(admin.host, admin.port))


def _busy(e: EsbError) -> str:
    return e.detail.partition(";")[0]


def _app(routes: Any, opened: Any, traces: Any) -> Any:
    from esb.admin import admin_api
    from esb.bus import Bus, Shared

    shared = Shared()
    shared.objects = {"traces": traces} if opened is None else {"store": opened, "traces": traces}
    return admin_api(Bus(routes, shared), None)


def _address(host: str, port: int) -> str:
    near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{near}]:{port}" if ":" in near else f"http://{near}:{port}"


async def _works_on(bus: There, where: str) -> bool:
    """Whether it is a bus, and one that has its messages there: else another project's dead letters
    might be dropped."""
    with contextlib.suppress(EsbError):
        return await _where(bus) == where
    return False


async def _where(bus: There) -> str:
    """Where a bus has its messages; "" if it has no store. Raises EsbError if it is no bus."""
    try:
        answer = await bus.ask("GET", "/store")
    except EsbError as e:
        if e.detail == NO_STORE:
            return ""
        raise
    try:
        return str(answer.json["where"])
    except (ValueError, KeyError, TypeError) as e:
        raise _strange(bus.url) from e


def run(what: Callable[[Api], Coroutine[Any, Any, T]], url: str, files: list[Path] | None) -> T:
    async def asked() -> T:
        async with api(url, files) as asking:
            return await what(asking)

    logs.configure(json=False, level="error")
    with told():
        return asyncio.run(asked())


@contextlib.contextmanager
def told() -> Iterator[None]:
    try:
        yield
    except ConfigError as e:
        fail_with(e.diagnostics)
    except EsbError as e:
        fail(e.detail)


def note(text: str) -> None:
    typer.secho(text, dim=True, err=True)
