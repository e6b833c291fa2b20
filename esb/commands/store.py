"""The commands for those who run a bus: `esb dead`, `esb find`, `esb store`.

They ask the admin API (see `asking.py`).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from esb.commands.asking import AsJson, Files, Url, run, told
from esb.commands.terminal import fail, plain, route_files, table
from esb.errors import EsbError

LONGEST_SHOWN = 4000

dead = typer.Typer(no_args_is_help=True, help="Dead letters: list, show, replay, drop.")
store = typer.Typer(no_args_is_help=True, help="The store: info, check, backup, restore.")

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
    answer = run(lambda api: api.ask("GET", f"/dead?{query}"), url, project)
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
    answer = run(lambda api: api.ask("GET", path), url, project)
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
        answer = run(lambda api: api.ask("GET", f"/dead?{query}"), url, files)
        count = int(answer.headers["x-total-count"])
    if count and not typer.confirm(f"forget {_count(count)} for good?", err=True):
        fail("nothing was dropped")


def _change(
    verb: str, which: dict[str, Any], as_json: bool, url: str, files: list[Path] | None
) -> None:
    path = "/dead/replay" if verb == "replayed" else "/dead/drop"
    answer = run(lambda api: api.ask("POST", path, which), url, files).json
    if as_json:
        _print_json(answer)
    else:
        typer.echo(f"{verb} {_count(answer[verb])}")
        for one in answer["refused"]:
            keys = ", ".join(map(str, one["keys"]))
            more = ", ..." if one["count"] > len(one["keys"]) else ""
            typer.secho(f"not {_count(one['count'])} ({keys}{more}): {plain(one['why'])}",
                        fg="red", err=True)  # fmt: skip
    if answer["refused"]:
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
    found = run(lambda api: api.ask("GET", f"/messages?{_query(q=text)}"), url, project).json
    if as_json:
        _print_json(found)
    for one in () if as_json else found:
        typer.echo(plain(sentence(one)))
    if not found:
        fail(f"nothing is known of '{text}': it never was in the store, or that is long ago")


def sentence(one: Mapping[str, Any]) -> str:
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
    usage = run(lambda api: api.ask("GET", "/store"), url, project).json
    if as_json:
        _print_json(usage)
        return
    typer.echo(f"{usage['where']}: {_size(usage['used'])} of {_size(usage['max_size'])}")
    if usage["free"] is not None:
        typer.echo(f"{_size(usage['free'])} are left on its disk")
    rows = sorted(usage["channels"].items(), key=lambda item: (-item[1], item[0]))
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

    with told():
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

    with told():
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

    with told():
        path = _file(file, project)
        aside = files.restore(copy, path, force=force)
    typer.echo(f"{path} is as it was when {copy} was made")
    if aside is not None:
        typer.echo(f"what was there is now {aside}")


def _file(file: Path | None, project: list[Path] | None) -> Path:
    if file is not None:
        return file
    from esb.config import load
    from esb.secrets import References

    references = References(os.environ, asks=True)
    settings = load(route_files(project), environ=references).check().settings["store"]
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
