"""The commands for those who run a bus: `esb dead`, `esb find`, `esb store`.

They ask the admin API. Of a store that no bus is at work on they serve that API themselves, in this
process and to themselves alone, so that there is one way in which everything is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar
from urllib.parse import urlencode, urlsplit

import typer

from esb import logs
from esb.errors import ConfigError, EsbError
from esb.terminal import fail, fail_with, plain, route_files, table

T = TypeVar("T")
PATIENCE = 600.0
"""Seconds within which an answer comes; many messages may be moved before it does."""
LONGEST_SHOWN = 4000

dead = typer.Typer(no_args_is_help=True, help="Dead letters: list, show, replay, drop.")
store = typer.Typer(no_args_is_help=True, help="The store: info, check, backup, restore.")

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
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")]
InRoute = Annotated[
    str, typer.Option("--route", "-r", help="Those that failed in this route (or channel).")
]
Code = Annotated[str, typer.Option("--code", "-c", help="Those with this code of error.")]
Since = Annotated[
    str, typer.Option("--since", help="Failed then or later: 2026-11-25T14:00:00Z, or 2h for ago.")
]
Until = Annotated[str, typer.Option("--until", help="Failed then or before.")]
Text = Annotated[
    str, typer.Option("--text", "-t", help="Part of the id, business key or correlation id.")
]
Keys = Annotated[list[int] | None, typer.Argument(help="Their keys.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="All there are.")]


# --- asking ---------------------------------------------------------------------------------------


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


class _There:
    """That of a running bus."""

    def __init__(self, url: str) -> None:
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).hostname:
            raise EsbError(f"{url} is no address of an admin API, such as http://127.0.0.1:8081")

    async def ask(self, method: str, path: str, body: Any = None) -> Answer:
        return _well(await asyncio.to_thread(self._ask, method, path, body), self.url)

    def _ask(self, method: str, path: str, body: Any) -> Answer:
        import urllib.error
        import urllib.request
        from http.client import HTTPException

        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method)  # noqa: S310
        request.add_header("Content-Type", "application/json")
        # What is meant for the bus is nobody else's: no proxy gets it.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=PATIENCE) as answer:
                return Answer(answer.status, _lower(answer.headers), answer.read())
        except urllib.error.HTTPError as e:
            return Answer(e.code, _lower(e.headers), e.read())
        except (OSError, ValueError, HTTPException) as e:
            reason = getattr(e, "reason", e)
            why = getattr(reason, "strerror", None) or str(reason)
            raise EsbError(f"no bus answers at {self.url}: {why.lower()}") from e


class _Here:
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
async def _api(url: str, files: list[Path] | None) -> AsyncIterator[Api]:
    """The API to ask: of the bus at `url`, or of the one at work on the project's store, or of that
    store itself when no bus is. Says which."""
    from esb.config import load
    from esb.store import InUse, open_store

    if url:
        there = _There(url)
        await _where(there)  # is it one?
        yield there
        return
    project = load(route_files(files)).check()
    admin, settings = project.settings["admin"], project.settings["store"]
    file = None if settings.url else (Path.cwd() / settings.path)
    if file is not None and not file.exists():
        raise EsbError(f"there is no store at {file}: no bus of this project has kept a message")
    opened = open_store(settings, Path.cwd())
    running = _There(_address(admin.host, admin.port)) if admin.enabled and admin.port else None
    if file is None and running is not None and await _works_on(running, opened.where):
        _note(f"asking the bus at {running.url}")
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
        _note(f"asking the bus at {running.url}")
        yield running
        return
    try:
        _note(f"no bus is at work: opened the store {opened.where} itself")
        yield _Here(_app(project.routes, opened))
    finally:
        await opened.close()


def _busy(e: EsbError) -> str:
    return e.detail.partition(";")[0]


def _app(routes: Any, opened: Any) -> Any:
    from esb.admin import admin_api
    from esb.bus import Bus, Shared

    shared = Shared()
    shared.get("store", lambda: opened)

    async def reload() -> dict[str, Any]:
        raise EsbError("no bus is running")

    return admin_api(Bus(routes, shared), reload)


def _address(host: str, port: int) -> str:
    near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{near}]:{port}" if ":" in near else f"http://{near}:{port}"


async def _works_on(bus: _There, where: str) -> bool:
    """Whether it is a bus, and one that has its messages there: else another project's dead letters
    might be dropped."""
    with contextlib.suppress(EsbError):
        return await _where(bus) == where
    return False


async def _where(bus: _There) -> str:
    """Where a bus has its messages. Raises EsbError if it is none, or has none."""
    answer = await bus.ask("GET", "/store")
    try:
        return str(answer.json["where"])
    except (ValueError, KeyError, TypeError) as e:
        raise _strange(bus.url) from e


def _run(what: Callable[[Api], Coroutine[Any, Any, T]], url: str, files: list[Path] | None) -> T:
    async def asked() -> T:
        async with _api(url, files) as api:
            return await what(api)

    logs.configure(json=False, level="error")
    with _told():
        return asyncio.run(asked())


@contextlib.contextmanager
def _told() -> Any:
    try:
        yield
    except ConfigError as e:
        fail_with(e.diagnostics)
    except EsbError as e:
        fail(e.detail)


def _note(text: str) -> None:
    typer.secho(text, dim=True, err=True)


def _query(**fields: Any) -> str:
    return urlencode({name: value for name, value in fields.items() if value not in ("", None)})


# --- dead letters ---------------------------------------------------------------------------------


@dead.command("list")
def list_(
    route: InRoute = "",
    code: Code = "",
    since: Since = "",
    until: Until = "",
    text: Text = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="So many at most.")] = 100,
    after: Annotated[int, typer.Option(help="Those behind this key.", show_default=False)] = 0,
    as_json: AsJson = False,
    url: Url = "",
    project: Files = None,
) -> None:
    """List dead letters, the oldest first."""
    query = _query(
        route=route, code=code, since=since, until=until, text=text, limit=limit, after=after or ""
    )
    answer = _run(lambda api: api.ask("GET", f"/dead?{query}"), url, project)
    found = answer.json
    if as_json:
        _print_json(found)
        return
    total = int(answer.headers["x-total-count"])
    if not found:
        typer.echo("no dead letters" if not total else "no more of them")
        return
    titles = ("KEY", "TIME", "ROUTE", "CODE", "TRIES", "MESSAGE", "WHY")
    rows = [
        (
            one["key"], _time(one["time"]), one["route"], one["code"], one["attempts"],
            one["business_key"] or one["id"], one["detail"],
        )
        for one in found
    ]  # fmt: skip
    typer.echo(table([titles, *rows], _width()))
    more = f"{len(found)} of {total}"
    if len(found) == limit:
        more += f"; go on with --after {found[-1]['key']}"
    typer.echo(more, err=True)


@dead.command()
def show(
    key: Annotated[int, typer.Argument(help="Its key.")],
    body: Annotated[
        bool, typer.Option("--body", help="Only the body, byte for byte as it came.")
    ] = False,
    as_json: AsJson = False,
    url: Url = "",
    project: Files = None,
) -> None:
    """Show one dead letter: why it failed, where it came from, headers and body."""
    path = f"/dead/{key}/body" if body else f"/dead/{key}"
    answer = _run(lambda api: api.ask("GET", path), url, project)
    if body:
        sys.stdout.buffer.write(answer.body)
        return
    one = answer.json
    if as_json:
        _print_json(one)
        return
    for title, value in (
        ("key", one["key"]),
        ("id", one["id"]),
        ("business key", one["business_key"]),
        ("correlation", one["correlation_id"]),
        ("failed", _time(one["time"])),
        ("tries", one["attempts"]),
        ("code", one["code"]),
        ("why", one["detail"]),
        *(("note", note) for note in one["notes"]),
        ("route", one["route"]),
        ("step", one["step"]),
        ("came from", one["source"]),
        ("sent", _time(one["sent"])),
        ("stored", _time(one["stored"])),
        ("principal", one["principal"]),
        ("trace", one["traceparent"]),
        ("content type", one["content_type"]),
        ("size", _size(one["size"])),
        *(("header", f"{name}: {value}") for name, value in one["headers"]),
        *((group, f"{n} = {v}") for group, of in one["params"].items() for n, v in of.items()),
    ):
        if value not in ("", None):
            typer.echo(f"{title:>13}  {plain(value)}")
    lines = one["body"][:LONGEST_SHOWN].splitlines()
    typer.echo("\n" + "\n".join(map(plain, lines)))
    if len(one["body"]) > LONGEST_SHOWN:
        typer.echo(f"... ({_size(one['size'])}; --body writes all of it)", err=True)


@dead.command()
def replay(
    keys: Keys = None,
    route: InRoute = "",
    code: Code = "",
    since: Since = "",
    until: Until = "",
    text: Text = "",
    all_: All = False,
    to: Annotated[
        str, typer.Option("--to", help="Another route than the one each failed in.")
    ] = "",
    to_queue: Annotated[str, typer.Option("--to-queue", help="A queue of the bus.")] = "",
    as_json: AsJson = False,
    url: Url = "",
    project: Files = None,
) -> None:
    """Let dead letters run again: by their keys, by a filter, or all."""
    if to and to_queue:
        fail("--to or --to-queue, not both", 2)
    which = _selection(keys, all_, route=route, code=code, since=since, until=until, text=text)
    if to or to_queue:
        which["to"] = to or {"queue": to_queue}
    _change("replayed", which, as_json, url, project)


@dead.command()
def drop(
    keys: Keys = None,
    route: InRoute = "",
    code: Code = "",
    since: Since = "",
    until: Until = "",
    text: Text = "",
    all_: All = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether to.")] = False,
    as_json: AsJson = False,
    url: Url = "",
    project: Files = None,
) -> None:
    """Forget dead letters for good: by their keys, by a filter, or all."""
    which = _selection(keys, all_, route=route, code=code, since=since, until=until, text=text)
    if not yes and len(keys or ()) != 1:
        _confirm(which, url, project)
    _change("dropped", which, as_json, url, project)


def _selection(keys: list[int] | None, all_: bool, **filters: str) -> dict[str, Any]:
    chosen: dict[str, Any] = {name: value for name, value in filters.items() if value}
    if bool(keys) + bool(chosen) + all_ != 1:
        fail(
            "say which: keys, or a filter (--route, --code, --since, --until, --text), or --all", 2
        )
    if keys:
        chosen["keys"] = keys
    if all_:
        chosen["all"] = True
    return chosen


def _confirm(which: dict[str, Any], url: str, files: list[Path] | None) -> None:
    if not sys.stdin.isatty():
        fail("dropping many is not asked for twice here: say --yes", 2)
    if (count := len(which.get("keys", ()))) == 0:
        query = _query(**{name: value for name, value in which.items() if name != "all"}, limit=1)
        answer = _run(lambda api: api.ask("GET", f"/dead?{query}"), url, files)
        count = int(answer.headers["x-total-count"])
    if count and not typer.confirm(f"forget {_count(count)} for good?", err=True):
        fail("nothing was dropped")


def _change(
    verb: str, which: dict[str, Any], as_json: bool, url: str, files: list[Path] | None
) -> None:
    path = "/dead/replay" if verb == "replayed" else "/dead/drop"
    told = _run(lambda api: api.ask("POST", path, which), url, files).json
    if as_json:
        _print_json(told)
    else:
        typer.echo(f"{verb} {_count(told[verb])}")
        for one in told["refused"]:
            keys = ", ".join(map(str, one["keys"]))
            more = ", ..." if one["count"] > len(one["keys"]) else ""
            typer.secho(f"not {_count(one['count'])} ({keys}{more}): {plain(one['why'])}",
                        fg="red", err=True)  # fmt: skip
    if told["refused"]:
        raise typer.Exit(1)


def _count(number: int) -> str:
    return f"{number} dead letter{'s' * (number != 1)}"


# --- where a message is ---------------------------------------------------------------------------


def find(
    text: Annotated[str, typer.Argument(help="The id of a message, or its business key.")],
    as_json: AsJson = False,
    url: Url = "",
    project: Files = None,
) -> None:
    """Find a message by its id or business key: where it is now, and what became of it."""
    found = _run(lambda api: api.ask("GET", f"/messages?{_query(q=text)}"), url, project).json
    if as_json:
        _print_json(found)
    for one in () if as_json else found:
        typer.echo(plain(_sentence(one)))
    if not found:
        fail(f"nothing is known of '{text}': it never was in the store, or that is long ago")


def _sentence(one: Mapping[str, Any]) -> str:
    name = one["id"] + (f" ({one['business_key']})" if one["business_key"] else "")
    if "finished" in one:
        return f"{_time(one['finished'])}  {name} is through {one['route']}: {one['state']}"
    place = one["channel"].replace(":", " ", 1)
    where = {
        "dead": f"is a dead letter, key {one['key']}",
        "damaged": f"is damaged and was set aside, key {one['key']}",
        "working": f"is being worked on, from {place}",
    }.get(one["state"], f"waits in {place}")
    if one["due"]:
        where += f" until {_time(one['due'])}"
    failure = one["failure"]
    why = ""
    if failure:
        step = f" at {failure['step']}" if failure["step"] else ""
        tries = f"tries: {one['attempts']}; " if one["attempts"] else ""
        why = f"; {tries}last failure: {failure['code']} in {failure['route']}{step}: "
        why += failure["detail"]
    return f"{_time(one['stored'])}  {name} {where}{why}"


# --- the store ------------------------------------------------------------------------------------

StoreFile = Annotated[
    Path | None,
    typer.Option("--store", help="The store's file; as the project says if left out."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there already.")]


@store.command()
def info(as_json: AsJson = False, url: Url = "", project: Files = None) -> None:
    """Tell where the store is, how full, and how many messages lie in each channel."""
    told = _run(lambda api: api.ask("GET", "/store"), url, project).json
    if as_json:
        _print_json(told)
        return
    typer.echo(f"{told['where']}: {_size(told['used'])} of {_size(told['max_size'])}")
    if told["free"] is not None:
        typer.echo(f"{_size(told['free'])} are left on its disk")
    rows = sorted(told["channels"].items(), key=lambda item: (-item[1], item[0]))
    if rows:
        typer.echo(table([("CHANNEL", "MESSAGES"), *rows], _width()))
    else:
        typer.echo("no messages")


@store.command()
def check(
    file: Annotated[
        Path | None, typer.Argument(help="A copy; the project's store if left out.")
    ] = None,
    as_json: AsJson = False,
    project: Files = None,
) -> None:
    """Read the whole store and check its structure and every checksum. A bus may be running."""
    from esb.store import files

    with _told():
        path = _file(file, project)
        report = files.check(path)
    if as_json:
        _print_json({"file": str(path), **report.__dict__})
    else:
        for problem in report.problems:
            typer.secho(plain(problem), fg="red")
        typer.echo(f"{path}: {report.messages} messages, {len(report.problems)} problems")
        if report.aside:
            typer.echo(f"{report.aside} damaged messages were set aside before")
    raise typer.Exit(1 if report.problems else 0)


@store.command()
def backup(
    target: Annotated[Path, typer.Argument(help="The file to make.")],
    force: Force = False,
    file: StoreFile = None,
    project: Files = None,
) -> None:
    """Copy the store to a file, as it is at one moment. A bus may be running."""
    from esb.store import files

    with _told():
        size = files.backup(_file(file, project), target, force=force)
    typer.echo(f"{target}: {_size(size)}")


@store.command()
def restore(
    copy: Annotated[Path, typer.Argument(help="A file that 'backup' made.")],
    force: Annotated[
        bool, typer.Option("--force", help="Set the store aside that is there already.")
    ] = False,
    file: StoreFile = None,
    project: Files = None,
) -> None:
    """Put a copy in the place of the store. No bus may be running."""
    from esb.store import files

    with _told():
        path = _file(file, project)
        aside = files.restore(copy, path, force=force)
    typer.echo(f"{path} is as it was when {copy} was made")
    if aside is not None:
        typer.echo(f"what was there is now {aside}")


def _file(file: Path | None, project: list[Path] | None) -> Path:
    if file is not None:
        return file
    from esb.config import load

    settings = load(route_files(project)).check().settings["store"]
    if settings.url is not None:
        raise EsbError("the store is a PostgreSQL database: use pg_dump and pg_restore, schema esb")
    found: Path = Path.cwd() / settings.path
    return found


# --- writing --------------------------------------------------------------------------------------


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _time(text: str) -> str:
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%SZ") if text else ""


def _size(count: int) -> str:
    from esb.options import spelled_size

    return spelled_size(count)


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
