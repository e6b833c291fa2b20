"""The commands that tell what became of messages: `esb trace` while they pass, `esb why` later."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode

import typer

from esb import logs
from esb.commands.asking import AsJson, Files, Url, note, run, running, told
from esb.commands.terminal import fail, plain
from esb.options import spelled_time

NARROW: Final = 60
WIDE: Final = 200


def trace(
    route: Annotated[str, typer.Argument(help="The route to look at.")],
    where: Annotated[
        str,
        typer.Option(
            "--where", "-w", help="An expression: 'body.amount > 100'; others are left out."
        ),
    ] = "",
    key: Annotated[
        str, typer.Option("--key", "-k", help="Only this id, business key or correlation id.")
    ] = "",
    errors: Annotated[bool, typer.Option("--errors", "-e", help="Only those that fail.")] = False,
    bodies: Annotated[
        bool | None,
        typer.Option(
            "--bodies/--no-bodies",
            "-b",
            help="Show all that is known of bodies, or nothing; the beginning if left out.",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=0, help="So many messages; 0: until Ctrl-C.")
    ] = 0,
    as_json: AsJson = False,
    url: Url = "",
    project: Files = None,
) -> None:
    """Show live what each step of a route receives and returns. Ctrl-C ends it."""
    logs.configure(json=False, level="error")
    query: dict[str, Any] = {"limit": limit, "bodies": bodies is not False}
    query |= {name: value for name, value in (("where", where), ("key", key)) if value}
    query |= {"errors": True} if errors else {}
    query |= {} if bodies or as_json else {"max_body": 400}
    path = f"/routes/{quote(route)}/trace?{urlencode(query)}"
    with told():
        bus = running(url, project)
        try:
            for number, line in enumerate(bus.lines(path)):
                if number == 0 and not as_json:
                    note(f"looking at {route} of the bus at {bus.url}; Ctrl-C ends it")
                if line.strip():
                    _show(json.loads(line), line, as_json, whole=bool(bodies))
        except KeyboardInterrupt:
            note("")


def _show(one: dict[str, Any], line: bytes, as_json: bool, *, whole: bool) -> None:
    if "dropped" in one:
        note(f"{one['dropped']} were left out: they came faster than they could be shown")
    elif as_json:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
    else:
        typer.echo("\n".join(traced(one, _width(), whole=whole)) + "\n")


def why(
    text: Annotated[
        str, typer.Argument(help="The id of a message, its business key or correlation id.")
    ],
    as_json: AsJson = False,
    url: Url = "",
    project: Files = None,
) -> None:
    """Tell the story of a message: where it came in, what each step did, where it is, and why."""
    path = f"/messages/{quote(text, safe='')}/story"
    story = run(lambda api: api.ask("GET", path), url, project).json
    if as_json:
        typer.echo(json.dumps(story, indent=2, ensure_ascii=False))
    else:
        typer.echo("\n".join(told_story(story, _width())))
    if not story["events"] and not story["now"]:
        fail("\n".join(story["hints"]))


# --- a trace --------------------------------------------------------------------------------------


def traced(one: Mapping[str, Any], width: int, *, whole: bool = False) -> list[str]:
    """A trace as lines for a terminal: a head, a line a visit, and bodies where they changed."""
    name = f"{one['id']}" + (f"  {one['business_key']}" if one.get("business_key") else "")
    head = typer.style(f"{_clock(one['begun'])}  {plain(name)}", bold=True)
    origin = f"  from {plain(one['where'])}" if one.get("where") else ""
    again = f"  try {one['attempt']}" if one.get("attempt", 1) > 1 else ""
    lines = [f"{head}{origin}{again}"]
    lines += _shown_body(one.get("given"), "  ", width, whole)
    visits = one["visits"]
    left = max((len(_label(visit)) for visit in visits), default=0)
    left = min(left, max(NARROW // 2, width // 2))
    for visit in visits:
        indent = "  " * visit["depth"]
        label = _label(visit).ljust(left)
        lines.append(f"  {label} {spelled_time(visit['seconds']):>9}  {_ending(visit)}".rstrip())
        for header, value in visit.get("headers", {}).items():
            change = f"- {header}" if value is None else f"+ {header}: {plain(value)}"
            lines.append(typer.style(_cut(f"    {indent}{change}", width), fg="cyan"))
        lines += _shown_body(visit.get("given"), f"    {indent}< ", width, whole)
        lines += _shown_body(visit.get("returned"), f"    {indent}> ", width, whole)
    if one.get("left_out"):
        lines.append(f"  ... and {one['left_out']} more steps, in the middle")
    end = spelled_time(one["seconds"])
    lines.append(f"  {_ending(one)} after {end}")
    return lines


def _label(visit: Mapping[str, Any]) -> str:
    route = f"{visit['route']}: " if visit.get("route") else ""
    part = f"  #{plain(visit['id'].rpartition('.')[2])}" if visit.get("id") else ""
    return f"{'  ' * visit['depth']}{route}{visit['place']}{part}"


def _ending(one: Mapping[str, Any]) -> str:
    if one.get("code"):
        notes = f" ({plain('; '.join(one['notes']))})" if one.get("notes") else ""
        why = f"{one['code']}: {plain(one.get('detail', ''))}"
        return f"{typer.style(why, fg='red')}{notes}"
    outcome = str(one.get("outcome", ""))
    color = {"dead": "red", "filtered": "yellow"}.get(outcome, "green")
    return typer.style(outcome, fg=color) if outcome else ""


def _shown_body(body: Mapping[str, Any] | None, lead: str, width: int, whole: bool) -> list[str]:
    if body is None:
        return []
    size = f", {body['size']} bytes" if body.get("size") is not None else ""
    about = f"{body.get('content_type') or 'no content type'}{size}"
    text = body.get("text", "")
    if not whole:
        line = plain(" ".join(text.split()))
        cut = _cut(f"{lead}{line}", width - len(about) - 4)
        more = "..." if body.get("cut") and not cut.endswith("...") else ""
        return [f"{cut}{more}  {typer.style(f'({about})', dim=True)}"]
    lines = [f"{' ' * len(lead)}{plain(line)}" for line in text.splitlines()] or [""]
    if body.get("cut"):
        lines[-1] += "..."
    return [f"{lead}{typer.style(f'({about})', dim=True)}", *lines]


# --- a story --------------------------------------------------------------------------------------


def told_story(story: Mapping[str, Any], width: int) -> list[str]:
    """A story as lines for a terminal."""
    return [*_events(story), *_now(story), *_rest(story)]


def _events(story: Mapping[str, Any]) -> Iterator[str]:
    for event in story["events"]:
        name = plain(event["id"])
        if event.get("business_key"):
            name += f" ({plain(event['business_key'])})"
        yield f"{typer.style(_moment(event['time']), bold=True)}  {name} {plain(event['text'])}"
        for step in event.get("steps", ()):
            at = f"+{spelled_time(step['at'])}"
            part = f" #{plain(step['id'].rpartition('.')[2])}" if step.get("id") else ""
            text = plain(step["text"])
            failed = text.startswith("failed")
            words = typer.style(text, fg="red") if failed else text
            indent = "  " * step["depth"]
            yield f"  {at:>10}  {indent}{step['place']}{part}" + (f": {words}" if text else "")
        if event.get("left_out"):
            yield f"              ... and {event['left_out']} more steps, in the middle"
        if "end" in event:
            yield f"{_moment(event['ended'])}  it {plain(event['end'])}"


def _now(story: Mapping[str, Any]) -> Iterator[str]:
    from esb.commands.store import sentence

    for one in story["now"]:
        yield typer.style("now", bold=True) + f"  {plain(sentence(one))}"
    if story["events"] and not story["now"]:
        yield "now  nothing of it lies in the store of this bus"


def _rest(story: Mapping[str, Any]) -> Iterator[str]:
    if story["related"]:
        yield f"belongs to it: {', '.join(map(plain, story['related']))}"
    if story["events"] or story["now"]:
        for hint in story["hints"]:
            yield typer.style(f"({plain(hint)})", dim=True)


# --- writing --------------------------------------------------------------------------------------


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S.%f")[:-3]


def _moment(text: str) -> str:
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _width() -> int:
    if not sys.stdout.isatty():
        return WIDE
    return max(NARROW, shutil.get_terminal_size().columns)


def _cut(line: str, width: int) -> str:
    width = max(width, NARROW // 2)
    return line if len(line) <= width else line[: width - 3] + "..."
